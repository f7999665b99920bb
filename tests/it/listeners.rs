//! Strangers at the worker's ports.

use std::time::Duration;

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Process, World};

#[tokio::test]
async fn idle_connections_take_a_bounded_number_of_descriptors_and_stop_no_work() {
    const IDLE: usize = 1100;
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let (port, before) = (worker.health_port().await, worker.descriptors());
    // Beyond its places and the system's queue, nobody answers.
    let connect = |_| timeout(Duration::from_secs(2), TcpStream::connect(("127.0.0.1", port)));
    let idle: Vec<TcpStream> = join_all((0..IDLE).map(connect)).await.into_iter().flatten().flatten().collect();
    assert!(!idle.is_empty());
    assert!(worker.descriptors() <= before + 300, "{} of {before} before", worker.descriptors());
    world.remind("dose").await;
    world.everyone_has_it_once("dose").await;
    assert!(worker.descriptors() <= before + 300, "{} of {before} before", worker.descriptors());
    // Each is closed after five seconds without a request.
    let answered = async || (worker.get("/livez").await.0 == 200).then_some(());
    world.eventually("the port answers", answered).await;
    drop(idle);
    assert_eq!(worker.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn whoever_is_refused_takes_a_place_only_once() {
    let world = World::new().await;
    let mut worker = Process::worker(&world, &[]);
    worker.ready().await;
    let mut connection = TcpStream::connect(("127.0.0.1", worker.health_port().await)).await.unwrap();
    let mut ask = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut said = vec![0; 4096];
        let read = timeout(Duration::from_secs(5), connection.read(&mut said)).await.unwrap().unwrap();
        String::from_utf8_lossy(&said[..read]).into_owned()
    };
    assert!(ask("/livez").await.starts_with("HTTP/1.1 200"), "a connection may ask again");
    let refused = ask("/nothing").await;
    assert!(refused.starts_with("HTTP/1.1 404") && refused.contains("connection: close"), "{refused}");
    let mut rest = Vec::new();
    timeout(Duration::from_secs(5), connection.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "it is closed");
    assert_eq!(worker.terminate().await.code(), Some(0));
}

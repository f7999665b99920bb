//! Strangers and slow clients at the gateway: each bound of `docs/GATEWAY.md`.

use std::time::Duration;

use carebell::gateway::{LARGEST_BATCH, LARGEST_BODY, MOST_LINES};
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::support::{Door, Worker, World};

fn line(id: &str) -> String {
    let job = json!({ "recipients": [{ "userId": "ana" }], "title": "x", "channels": ["CHANNEL_IN_APP"] });
    json!({ "kind": "notification", "jobId": id, "job": job }).to_string() + "\n"
}

async fn connect(door: &Door) -> TcpStream {
    TcpStream::connect(door.url.trim_start_matches("http://")).await.unwrap()
}

fn head(door: &Door, media: &str, length: usize) -> String {
    format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Type: {media}\r\nContent-Length: \
         {length}\r\n\r\n",
        door.token
    )
}

async fn said(connection: &mut TcpStream) -> String {
    let mut text = vec![0; 64 * 1024];
    let read = timeout(Duration::from_secs(40), connection.read(&mut text)).await.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&text[..read]).into_owned()
}

#[tokio::test]
async fn bodies_and_batches_have_their_largest_size() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    for (media, most) in [("application/json", LARGEST_BODY), ("application/x-ndjson", LARGEST_BATCH)] {
        let mut connection = connect(&door).await;
        connection.write_all(head(&door, media, most + 1).as_bytes()).await.unwrap();
        let text = said(&mut connection).await;
        assert!(text.starts_with("HTTP/1.1 413") && text.contains("urn:carebell:problem:too-large"), "{text}");
    }
    // Without a length, it is cut off as it comes.
    let mut endless = connect(&door).await;
    let head = head(&door, "application/x-ndjson", 0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    endless.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let mut sent = 0;
    while sent < 100 && endless.write_all(chunk.as_bytes()).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 100, "the connection is closed");
    let many: String = (0..=MOST_LINES).map(|_| "{}\n").collect();
    assert_eq!(door.lines(many).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(door.lines("\n\n").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    // The largest batch that there may be.
    let mut full: String = (0..MOST_LINES - 1).map(|number| line(&format!("job-{number}"))).collect();
    full.push_str(&" ".repeat(LARGEST_BATCH - full.len()));
    let (status, _, lines) = door.lines(full).await;
    assert_eq!((status, lines.len()), (StatusCode::OK, MOST_LINES - 1));
    assert!(lines.iter().all(|line| line["status"] == 202));
    assert!(door.process.peak_memory_kb() < 400_000, "{} KiB", door.process.peak_memory_kb());
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let since = Instant::now();
    let mut slow = connect(&door).await;
    slow.write_all(head(&door, "application/json", 1000).as_bytes()).await.unwrap();
    slow.write_all(b"{").await.unwrap();
    // Others do not wait.
    assert_eq!(door.lines(line("quick")).await.0, StatusCode::OK);
    let text = said(&mut slow).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("connection: close"), "{text}");
    assert!((25..40).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_thousand_idle_connections_and_guesses_stop_nobody() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let idle: Vec<TcpStream> = join_all((0..1000).map(|_| connect(&door))).await;
    assert_eq!(door.lines(line("a")).await.0, StatusCode::OK);
    let client = reqwest::Client::new();
    let guesses = join_all(
        (0..200)
            .map(|number| client.get(format!("{}/v1/jobs/a", door.url)).bearer_auth(format!("guess-{number}")).send()),
    );
    let (guesses, answered) = tokio::join!(guesses, door.lines(line("b")));
    assert!(guesses.into_iter().all(|guess| [401, 503].contains(&guess.unwrap().status().as_u16())));
    assert_eq!(answered.0, StatusCode::OK);
    drop(idle);
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_one_after_another() {
    let world = World::new().await;
    let door = Door::start(&world).await;
    let mut connection = connect(&door).await;
    let wrong = head(&door, "application/json", 2) + "{}";
    let right = line("a");
    let right = head(&door, "application/json", right.len()) + &right;
    connection.write_all(format!("{right}{wrong}{right}").as_bytes()).await.unwrap();
    let mut text = String::new();
    while text.matches("HTTP/1.1").count() < 3 {
        text += &said(&mut connection).await;
    }
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(statuses, ["202", "422", "202"], "{text}");
}

#[tokio::test]
async fn many_who_wait_ask_the_database_seldom() {
    let world = World::new().await;
    let mut door = Door::start(&world).await;
    let body: String = (0..300).map(|number| line(&format!("w-{number}"))).collect();
    door.lines(body).await;
    let statements =
        async || world.count("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").await;
    let waiting = join_all((0..300).map(|number| {
        let door = &door;
        async move { door.get(&format!("/v1/jobs/w-{number}?wait=30s")).await.body }
    }));
    let (states, worker) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let before = statements().await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let made = statements().await - before;
        assert!(made < 60, "four a second, however many wait: {made}");
        Worker::start(&world)
    });
    assert!(states.iter().all(|job| job["state"] == "done"), "{states:?}");
    // Nobody waits for more than the bound; a short wait ends with the state as it is.
    let since = Instant::now();
    let later = json!({ "kind": "notification", "jobId": "later", "delay": "1h", "job": { "recipients": [{ "userId": "ana" }], "title": "x" } });
    door.post(&later).await;
    let state = door.get("/v1/jobs/later?wait=1s").await.body;
    assert_eq!((&state["state"], &state["ended"]), (&json!("delayed"), &json!(false)));
    assert!((1..5).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    // A stop ends the waits, and not their connections.
    let url = format!("{}/v1/jobs/later?wait=60s", door.url);
    let token = door.token.clone();
    let waits = tokio::spawn(async move { reqwest::Client::new().get(url).bearer_auth(token).send().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let since = Instant::now();
    assert_eq!(door.process.terminate().await.code(), Some(0));
    assert_eq!(waits.await.unwrap().status(), StatusCode::OK);
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    worker.stop().await;
}

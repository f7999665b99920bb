//! An address that leads to another server later, as a service's name does after a failover.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// Read at once, at most.
const PIECE: usize = 64 * 1024;

/// Pieces under way in one direction, at most. Then the sender waits.
const UNDER_WAY: usize = 256;

/// Forwards connections from a loopback port of its own until dropped.
pub struct Forwarder {
    port: u16,
    route: Arc<Mutex<Route>>,
    task: JoinHandle<()>,
}

struct Route {
    target: u16,
    /// On the way of each piece, in both directions.
    delay: Duration,
    /// Of the connections that are made from now on.
    state: watch::Sender<State>,
    /// Of those made to earlier targets.
    earlier: Vec<watch::Sender<State>>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    /// Bytes are swallowed, and ends too.
    Silent,
    Cut,
}

impl Forwarder {
    /// To this loopback port. Bytes are on the way for `delay` in each direction.
    pub async fn start(target: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let route = Route { target, delay, state: watch::Sender::new(State::Open), earlier: Vec::new() };
        let route = Arc::new(Mutex::new(route));
        let task = tokio::spawn(accept(listener, Arc::clone(&route)));
        Self { port, route, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go there. Open ones stay as they are.
    pub fn point_at(&self, target: u16) {
        let mut route = self.route.lock().unwrap();
        route.target = target;
        let state = std::mem::replace(&mut route.state, watch::Sender::new(State::Open));
        route.earlier.push(state);
    }

    /// Ends all connections.
    pub fn cut(&self) {
        let mut route = self.route.lock().unwrap();
        route.state.send_replace(State::Cut);
        route.state = watch::Sender::new(State::Open);
        for state in route.earlier.drain(..) {
            state.send_replace(State::Cut);
        }
    }

    /// Swallows all that is said from now on, also on new connections to this target. Nobody is told of an end.
    pub fn hush(&self) {
        let route = self.route.lock().unwrap();
        for state in route.earlier.iter().chain([&route.state]) {
            state.send_replace(State::Silent);
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, route: Arc<Mutex<Route>>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, delay, state) = {
            let route = route.lock().unwrap();
            (route.target, route.delay, route.state.subscribe())
        };
        tokio::spawn(forward(client, target, delay, state));
    }
}

async fn forward(client: TcpStream, target: u16, delay: Duration, mut state: watch::Receiver<State>) {
    if *state.borrow() == State::Silent {
        let _ = state.wait_for(|state| *state == State::Cut).await;
        return;
    }
    // Refused: the client's connection ends.
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = one_way(from_client, to_server, delay, state.clone());
    let back = one_way(from_server, to_client, delay, state.clone());
    let both = async { tokio::join!(there, back) };
    tokio::select! {
        _ = both => {}
        _ = state.wait_for(|state| *state == State::Cut) => {}
    }
}

/// Until the sender ends. Each piece has its own time, so that many are under way at once.
async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration, state: watch::Receiver<State>) {
    let (pieces, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let read = async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if pieces.send((Instant::now() + delay, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let mut silence = state.clone();
    let write = async move {
        while let Some((at, piece)) = under_way.recv().await {
            sleep_until(at).await;
            let is_silent = *state.borrow() == State::Silent;
            if !is_silent && to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // A silent line keeps its ends open until it is cut.
        if *state.borrow() == State::Silent {
            let _ = silence.wait_for(|state| *state == State::Cut).await;
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

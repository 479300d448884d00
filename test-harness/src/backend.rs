//! Fake nodes. Each is a real server on 127.0.0.1 that reports its name and what it received. A test can make
//! it fail as nodes do: an error, silence, a reset, a closed port, a bad health check.
//!
//! They run inside the test, so that a test changes a node by calling it. HTTP/1 and HTTP/2 (prior knowledge),
//! WebSocket and gRPC are answered on the same port, unless a test has a node refuse HTTP/1 as gRPC servers do.

mod answer;
mod body;
mod minting;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::listening::{Listening, reserve};

/// What a node does with requests. Health checks (`/healthz`, or gRPC's) follow it only where that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers 200 and tells what it received.
    Serve,
    /// Answers this status. Health checks pass: only what the proxy sees of the traffic shows the fault.
    Fail(StatusCode),
    /// Accepts and never answers, health checks neither.
    Hang,
    /// Resets the connection (TCP RST) once it has read a request's head, health checks too.
    Reset,
    /// Answers after this time. Health checks are answered at once.
    Slow(Duration),
}

/// A fake node. Its port stays its own for as long as it lives, also while it refuses connections.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Mutex<Option<Listening>>,
    /// Bound but never listening: keeps others off the port between `refuse` and `restart`.
    _reservation: TcpSocket,
}

impl Backend {
    /// Starts on this port of 127.0.0.1; 0 is any that is free.
    pub(crate) fn start(port: u16) -> Self {
        let (address, reservation) = reserve(port);
        let shared = Arc::new(Shared {
            name: address.to_string(),
            mode: Mutex::new(Mode::Serve),
            healthy: AtomicBool::new(true),
            http2_only: AtomicBool::new(false),
            headers: Mutex::default(),
            requests: AtomicU64::new(0),
            health_checks: AtomicU64::new(0),
            websockets: Mutex::default(),
            minted: Mutex::default(),
        });
        let listening = Mutex::new(Some(listen(address, &shared)));
        Self { address, shared, listening, _reservation: reservation }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its node id, `ip:port`: what the response header `x-node` says.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Requests received so far, without health checks.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Health checks received so far.
    pub fn health_checks(&self) -> u64 {
        self.shared.health_checks.load(Ordering::Relaxed)
    }

    /// Answers requests from now on; health checks pass again too.
    pub fn serve(&self) {
        self.set_mode(Mode::Serve);
        self.shared.healthy.store(true, Ordering::Relaxed);
    }

    /// Answers requests with this status from now on.
    pub fn fail(&self, status: u16) {
        self.set_mode(Mode::Fail(StatusCode::from_u16(status).expect("an HTTP status")));
    }

    /// Takes requests from now on, and never answers them.
    pub fn hang(&self) {
        self.set_mode(Mode::Hang);
    }

    /// Resets the connection at each request from now on.
    pub fn reset(&self) {
        self.set_mode(Mode::Reset);
    }

    /// Answers late from now on.
    pub fn slow(&self, milliseconds: u64) {
        self.set_mode(Mode::Slow(Duration::from_millis(milliseconds)));
    }

    /// Answers health checks with 503 from now on; requests are served as before.
    pub fn fail_health(&self) {
        self.shared.healthy.store(false, Ordering::Relaxed);
    }

    /// Closes each connection that speaks HTTP/1 from now on, health checks included.
    pub fn refuse_http1(&self) {
        self.shared.http2_only.store(true, Ordering::Relaxed);
    }

    /// Any of the modes, by value.
    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Adds these headers, and no others, to every answer from now on, health checks included.
    pub fn set_headers(&self, headers: &[(&str, &str)]) {
        let owned = headers.iter().map(|&(name, value)| (name.into(), value.into())).collect();
        *self.shared.headers.lock().unwrap() = owned;
    }

    /// Closes the port and all connections: from now on connections are refused.
    pub async fn refuse(&self) {
        let listening = self.listening.lock().unwrap().take();
        if let Some(listening) = listening {
            listening.stop().await;
        }
        for websocket in self.shared.websockets.lock().unwrap().drain(..) {
            websocket.abort();
        }
    }

    /// Listens again on the same port after closing every connection, in whatever mode it had.
    pub async fn restart(&self) {
        self.refuse().await;
        *self.listening.lock().unwrap() = Some(listen(self.address, &self.shared));
    }
}

#[derive(Debug)]
struct Shared {
    name: String,
    mode: Mutex<Mode>,
    healthy: AtomicBool,
    http2_only: AtomicBool,
    headers: Mutex<Vec<(String, String)>>,
    requests: AtomicU64,
    health_checks: AtomicU64,
    websockets: Mutex<Vec<AbortHandle>>,
    /// The sessions that it began and has not ended.
    minted: Mutex<BTreeSet<String>>,
}

fn listen(address: SocketAddr, shared: &Arc<Shared>) -> Listening {
    let shared = Arc::clone(shared);
    Listening::start(address, move |stream| serve(stream, Arc::clone(&shared)))
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).unwrap();
    // A second handle on the socket, to change how it closes while hyper owns the first.
    let stream = stream.into_std().unwrap();
    let handle = TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
    let stream = TcpStream::from_std(stream).unwrap();

    let reset = Arc::new(Notify::new());
    let service = service_fn(|request| answer::answer(request, Arc::clone(&shared), Arc::clone(&reset)));
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        // A connection that breaks is the proxy's affair; tests look at what the client got.
        _ = connection => {}
        () = reset.notified() => handle.set_zero_linger().unwrap(),
    }
}

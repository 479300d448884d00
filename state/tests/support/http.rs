//! The service in-process, and an HTTP client of twenty lines.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use berth_core::time::Millis;
use berth_state::store::redis::{Options, Tls};
use berth_state::store::{Keeping, Memory, Redis, Store};
use berth_state::{Limits, router, server};
use serde_json::Value;
use tokio::sync::watch;

/// A state service on its own threads; stops when dropped.
pub struct Service {
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Service {
    pub fn in_memory() -> Self {
        Self::start(Limits::default(), || Arc::new(Memory::new(Keeping::default(), Arc::new(now))))
    }

    pub fn on_redis(options: Options) -> Self {
        Self::start(Limits::default(), move || Arc::new(Redis::open(&options).unwrap()))
    }

    /// Over these servers, once all shards take writes. A call may take a second.
    pub fn ready_on(urls: Vec<String>, cluster: bool) -> Self {
        let (timeout, keeping) = (Duration::from_secs(1), Keeping::default());
        let options = Options { urls, cluster, quorum: false, tls: Tls::default(), timeout, keeping };
        let service = Self::on_redis(options);
        let start = Instant::now();
        while service.ask("GET", "/readyz?require=all", "").status != 200 {
            assert!(start.elapsed() < Duration::from_secs(30), "the store is not ready");
            std::thread::sleep(Duration::from_millis(10));
        }
        service
    }

    pub fn start(limits: Limits, store: impl FnOnce() -> Arc<dyn Store> + Send + 'static) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (send_address, bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = server::listen("127.0.0.1:0").await.unwrap();
                send_address.send(listener.local_addr().unwrap()).unwrap();
                let limits = Limits { stopping: stopping.clone(), ..limits };
                let connections = Arc::clone(&limits.connections);
                server::serve(listener, router(store(), limits), None, connections, stopping).await;
            });
        });
        Self { address: bound.recv().unwrap(), stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn stop(&self) {
        self.stop.send(true).unwrap();
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.ask_with(method, path, body, &[])
    }

    pub fn ask_with(&self, method: &str, path: &str, body: &str, headers: &[&str]) -> Reply {
        ask(self.address, method, path, body, headers)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn now() -> Millis {
    Millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64)
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The paths of the faults, and that this is a 400.
    pub fn faults(&self) -> Vec<String> {
        assert_eq!(self.status, 400, "{self:?}");
        let faults = self.json()["error"]["faults"].as_array().cloned().unwrap_or_default();
        faults.iter().map(|fault| fault["path"].as_str().unwrap().to_owned()).collect()
    }
}

/// Asks a service wherever it runs.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str, headers: &[&str]) -> Reply {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: berth\r\nconnection: close\r\n");
    head += &format!("content-length: {}\r\n", body.len());
    for header in headers {
        head += &format!("{header}\r\n");
    }
    raw(address, format!("{head}\r\n{body}").as_bytes())
}

/// Sends bytes and reads until the other side is done.
pub fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    // A server that answers early may close before it has read everything.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}

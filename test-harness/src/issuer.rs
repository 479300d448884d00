//! An issuer of tokens, as far as a proxy sees it: a server that publishes a set of keys, goes away, and comes back.

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpSocket, TcpStream};

use crate::listening::{Listening, reserve};

/// Answers every request with the keys that it publishes now. Its port stays its own while it is away.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    published: Published,
    listening: Mutex<Option<Listening>>,
    _reservation: TcpSocket,
}

type Published = Arc<Mutex<Bytes>>;

impl Issuer {
    /// Publishes this set on a port that is free; see [`crate::tokens::key_set`].
    pub fn start(key_set: String) -> Self {
        let (address, reservation) = reserve(0);
        let published = Arc::new(Mutex::new(key_set.into()));
        let listening = Mutex::new(Some(listen(address, &published)));
        Self { address, published, listening, _reservation: reservation }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Publishes this set from now on.
    pub fn publish(&self, key_set: String) {
        *self.published.lock().unwrap() = key_set.into();
    }

    /// Closes the port and all connections: from now on connections are refused.
    pub async fn refuse(&self) {
        let listening = self.listening.lock().unwrap().take();
        if let Some(listening) = listening {
            listening.stop().await;
        }
    }

    /// Listens again on the same port.
    pub async fn restart(&self) {
        self.refuse().await;
        *self.listening.lock().unwrap() = Some(listen(self.address, &self.published));
    }
}

fn listen(address: SocketAddr, published: &Published) -> Listening {
    let published = Arc::clone(published);
    Listening::start(address, move |stream| serve(stream, Arc::clone(&published)))
}

async fn serve(stream: TcpStream, published: Published) {
    let service = service_fn(move |_| {
        let key_set = published.lock().unwrap().clone();
        ready(Ok::<_, Infallible>(Response::new(Full::new(key_set))))
    });
    // A connection that breaks is Envoy's affair.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

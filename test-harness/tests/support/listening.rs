//! A server in the test's own process: a port of its own, and a task for each connection.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Accepts connections until it is dropped.
#[derive(Debug)]
pub(crate) struct Listening {
    address: SocketAddr,
    task: AbortHandle,
}

impl Listening {
    /// Has each connection served.
    pub(crate) async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream));
            }
        });
        Self { address, task: task.abort_handle() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

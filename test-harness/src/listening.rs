//! An open port of 127.0.0.1: a task that accepts, with the connections it accepted. It can be closed and opened again,
//! and stays its owner's in between.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// Accepts connections until it is stopped.
#[derive(Debug)]
pub(crate) struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Has each connection served.
    pub(crate) fn start<F>(address: SocketAddr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = socket(address).listen(1024).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, serve, stopped));
        Self { stop, task }
    }

    /// Closes the port and all connections.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

/// Keeps others off a port; 0 is any that is free. The socket is bound and never listens.
pub(crate) fn reserve(port: u16) -> (SocketAddr, TcpSocket) {
    let reservation = socket(SocketAddr::from(([127, 0, 0, 1], port)));
    (reservation.local_addr().unwrap(), reservation)
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F, mut stopped: oneshot::Receiver<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                connections.spawn(serve(stream));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Shares its port only with other sockets of the same user.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
    socket
}

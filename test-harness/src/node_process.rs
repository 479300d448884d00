//! A fake node in a process of its own, for what cannot be done to a part of the test's own process: SIGKILL, SIGSTOP, and more
//! connections than one process may have open.
//!
//! The process is the caller's own program, which calls [`serve_node`] when it is started as [`NodeProcess::ARGUMENT`] says.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::backend::Backend;
use crate::eventually::poll;
use crate::listening::reserve;
use crate::process::{Server, last_words};

/// A process that does nothing else starts in milliseconds.
const START: Duration = Duration::from_secs(10);

/// A node that can be killed and paused. Its port stays its own for as long as it lives, also while it is killed.
#[derive(Debug)]
pub struct NodeProcess {
    address: SocketAddr,
    log: PathBuf,
    server: Server,
    /// Bound but never listening: keeps others off the port.
    _reservation: TcpSocket,
}

impl NodeProcess {
    /// The first argument of the process; the second is its port.
    pub const ARGUMENT: &'static str = "serve-node";

    /// Starts one, with its log in this folder, and returns when it accepts connections.
    ///
    /// # Errors
    /// If it does not start, with its last words.
    pub async fn start(folder: &Path) -> Result<Self, String> {
        let (address, reservation) = reserve(0);
        let log = folder.join(format!("node-{}.log", address.port()));
        let node = Self { address, log, server: Server::default(), _reservation: reservation };
        node.restart().await?;
        Ok(node)
    }

    /// Kills it if it runs, and starts it on its port.
    ///
    /// # Errors
    /// If it does not start, with its last words.
    pub async fn restart(&self) -> Result<(), String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let port = self.address.port().to_string();
        self.server.start(Command::new(own).args([Self::ARGUMENT, &port]), &self.log)?;
        let accepts = async || TcpStream::connect(self.address).await.map(drop);
        let accepts = poll(accepts, START).await;
        accepts.map_err(|failure| format!("node {}: {failure}: {}", self.address, last_words(&self.log)))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its node id, `ip:port`: what the response header `x-node` says.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Ends it at once (SIGKILL): its connections break, further ones are refused.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops it (SIGSTOP): connections are still accepted, by the kernel, and nothing is answered.
    pub fn pause(&self) {
        self.server.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.server.resume();
    }
}

/// Serves as a node on this port of 127.0.0.1, until the process is ended.
pub async fn serve_node(port: u16) {
    let node = Backend::start(port);
    assert_eq!(node.address(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    std::future::pending().await
}

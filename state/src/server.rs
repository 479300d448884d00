//! Takes connections, plain or TLS, and lets them finish when asked to stop.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Connections at once. Each proxy keeps a handful.
const MAX_CONNECTIONS: usize = 8192;
/// An idle connection is closed after this time; proxies keep theirs for less or send something.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Pings of HTTP/2, which answers them while requests wait.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests that are being answered have this long to finish at the end.
const GRACE: Duration = Duration::from_secs(5);
/// A handshake holds a connection's place and sends nothing useful.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error of the listener, such as too many open files: the next attempt would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stopping` holds true, then finishes what is being answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1024);
    // A peer that vanished without closing its connection would hold it indefinitely.
    builder.http2().keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
    let server = Arc::new(Server { builder, router, tls, connections: Semaphore::new(MAX_CONNECTIONS) });
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        match stream {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(Arc::clone(&server).connection(stream, graceful.watcher()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("the TLS handshake took too long")]
    SlowHandshake,
    #[error(transparent)]
    Requests(Box<dyn std::error::Error + Send + Sync>),
}

struct Server {
    builder: Builder<TokioExecutor>,
    router: Router,
    tls: Option<TlsAcceptor>,
    connections: Semaphore,
}

impl Server {
    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, watcher: Watcher) {
        // Closed without an answer: a client with this many connections open does not read answers.
        let Ok(_place) = self.connections.try_acquire() else { return };
        let result = match &self.tls {
            None => self.requests(stream, watcher).await,
            Some(tls) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.requests(stream, watcher).await,
                Ok(Err(error)) => Err(ConnectionError::Handshake(error)),
                Err(_) => Err(ConnectionError::SlowHandshake),
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn requests<S>(&self, stream: S, watcher: Watcher) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.builder.serve_connection(TokioIo::new(stream), service).into_owned();
        watcher.watch(connection).await.map_err(ConnectionError::Requests)
    }
}

/// Binds, saying which address was refused.
///
/// # Errors
/// The address is taken or not of this machine.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

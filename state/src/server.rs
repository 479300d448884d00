//! Takes connections, plain or TLS, closes those that make no request, and lets the others finish when asked to stop.

mod activity;

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use self::activity::{Activity, Noticed};
use crate::connections::{Closed, Connections, Place};
use crate::tls::Acceptor;

/// Pings of HTTP/2, which answers them while requests wait.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Requests that are being answered have this long to finish at the end.
const GRACE: Duration = Duration::from_secs(5);
/// A handshake takes some milliseconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After an error of the listener, such as too many open files: the next attempt would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stopping` holds true, then finishes what is being answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Acceptor>,
    connections: Arc<Connections>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1024);
    // A peer that vanished without closing its connection would hold it indefinitely.
    builder.http2().keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIMEOUT);
    let server = Arc::new(Server { builder, router, tls, connections, stopping: stopping.clone() });
    // Each connection has a sender: there is nothing to receive once the last one has ended.
    let (open, mut all_ended) = mpsc::channel::<()>(1);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stopping) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let (server, open) = (Arc::clone(&server), open.clone());
                tokio::spawn(async move {
                    server.connection(stream, peer.ip()).await;
                    drop(open);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                server.connections.make_room();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop((listener, open));
    if timeout(GRACE, all_ended.recv()).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("closed by the service: {}", .0.name())]
    Closed(Closed),
    #[error(transparent)]
    Requests(Box<dyn std::error::Error + Send + Sync>),
}

impl ConnectionError {
    /// How it is counted, if the client did not end it by itself.
    fn closed(&self) -> Option<Closed> {
        match self {
            Self::Handshake(_) => Some(Closed::Handshake),
            Self::Closed(closed) => Some(*closed),
            Self::Requests(_) => None,
        }
    }
}

struct Server {
    builder: Builder<TokioExecutor>,
    router: Router,
    tls: Option<Acceptor>,
    connections: Arc<Connections>,
    stopping: watch::Receiver<bool>,
}

impl Server {
    async fn connection(&self, stream: TcpStream, peer: IpAddr) {
        let (place, activity) = (self.connections.enter(peer), Activity::new(self.connections.bounds));
        let mut stopping = self.stopping.clone();
        // With the certificates that are there now.
        let tls = self.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let result = match tls {
            None => self.requests(stream, &place, activity).await,
            Some(tls) => tokio::select! {
                () = place.displaced() => Err(ConnectionError::Closed(Closed::Displaced)),
                // Nothing was asked yet.
                () = stopped(&mut stopping) => Ok(()),
                accepted = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)) => match accepted {
                    Ok(Ok(stream)) => self.requests(stream, &place, activity).await,
                    Ok(Err(error)) => Err(ConnectionError::Handshake(error)),
                    Err(_) => Err(ConnectionError::Closed(Closed::Handshake)),
                },
            },
        };
        if let Err(error) = result {
            tracing::debug!(%error, %peer, "connection ended");
            if let Some(closed) = error.closed() {
                self.connections.close(closed, peer);
            }
        }
    }

    async fn requests<S>(
        &self,
        stream: S,
        place: &Place,
        activity: Arc<Activity>,
    ) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let router = TowerToHyperService::new(self.router.clone());
        let (requests, standing) = (Arc::clone(&activity), Arc::clone(place.standing()));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let under_way = requests.begin(request.version() == Version::HTTP_2);
            standing.refresh();
            request.extensions_mut().insert(Arc::clone(&standing));
            let answer = router.call(request);
            async move {
                let answer = answer.await;
                drop(under_way);
                answer
            }
        });
        let stream = TokioIo::new(Noticed { stream, activity: Arc::clone(&activity) });
        let mut connection = pin!(self.builder.serve_connection(stream, service));
        let mut stopping = self.stopping.clone();
        let why = {
            let mut sleep = pin!(sleep_until(tokio::time::Instant::now()));
            // Bytes are read while the connection is polled: only afterwards it is known how long it may sleep.
            let work = poll_fn(|cx| {
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Err(result));
                }
                let Some((at, why)) = activity.deadline() else { return Poll::Pending };
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                sleep.as_mut().poll(cx).map(|()| Ok(Some(why)))
            });
            tokio::select! {
                biased;
                ended = work => match ended {
                    Ok(why) => why,
                    Err(result) => return result.map_err(ConnectionError::Requests),
                },
                () = place.displaced() => Some(Closed::Displaced),
                () = stopped(&mut stopping) => None,
            }
        };
        if let Some(why @ (Closed::Silent | Closed::SlowHeader | Closed::Displaced)) = why {
            return Err(ConnectionError::Closed(why));
        }
        // What is being answered is finished: a request may just have come.
        connection.as_mut().graceful_shutdown();
        match why {
            Some(why) => {
                let _ = timeout(GRACE, connection).await;
                Err(ConnectionError::Closed(why))
            }
            None => connection.await.map_err(ConnectionError::Requests),
        }
    }
}

/// Returns once the service is to stop, also if the sender is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
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

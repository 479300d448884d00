//! What a connection does, and until when it must do something else: bytes, headers, requests.
//!
//! Of hyper's own timeouts the one for headers also runs between two requests, and none runs before it knows the version of
//! HTTP, so a connection that sends nothing would stay.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::connections::{Bounds, Closed};
use crate::lock::lock;

/// Shared by a connection's stream, its requests, and what looks at the time.
pub(super) struct Activity {
    bounds: Bounds,
    state: Mutex<State>,
}

struct State {
    /// The connection began, or a request ended.
    since: Instant,
    /// The first byte after that.
    first_byte: Option<Instant>,
    under_way: usize,
    had_request: bool,
    is_http2: bool,
}

impl Activity {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        let state = State {
            since: Instant::now(),
            first_byte: None,
            under_way: 0,
            had_request: false,
            is_http2: false,
        };
        Arc::new(Self { bounds, state: Mutex::new(state) })
    }

    /// When the connection is closed if nothing happens, and why; `None` while a request is answered.
    pub(super) fn deadline(&self) -> Option<(Instant, Closed)> {
        let state = lock(&self.state);
        if state.under_way > 0 {
            return None;
        }
        // Pings of HTTP/2 are bytes too. After its first request one that sends half a header counts as idle.
        let first_byte = state.first_byte.filter(|_| !(state.is_http2 && state.had_request));
        Some(match first_byte {
            Some(at) => (at + self.bounds.header, Closed::SlowHeader),
            None if state.had_request => (state.since + self.bounds.idle, Closed::Idle),
            None => (state.since + self.bounds.first_byte, Closed::Silent),
        })
    }

    /// The header of a request is complete. It ends when what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>, is_http2: bool) -> UnderWay {
        let mut state = lock(&self.state);
        (state.is_http2, state.had_request, state.first_byte) = (is_http2, true, None);
        state.under_way += 1;
        UnderWay(Arc::clone(self))
    }

    fn read(&self) {
        let mut state = lock(&self.state);
        // Of a request that is under way it is the body.
        if state.under_way == 0 && state.first_byte.is_none() {
            state.first_byte = Some(Instant::now());
        }
    }
}

/// A request that is being answered.
pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.under_way -= 1;
        if state.under_way == 0 {
            state.since = Instant::now();
            mem::take(&mut state.first_byte);
        }
    }
}

/// A stream whose bytes are noticed.
pub(super) struct Noticed<S> {
    pub(super) stream: S,
    pub(super) activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noticed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.activity.read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noticed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(activity: &Activity) -> Option<(Duration, Closed)> {
        activity.deadline().map(|(at, why)| (at - Instant::now(), why))
    }

    #[tokio::test(start_paused = true)]
    async fn each_state_has_its_own_time() {
        let secs = Duration::from_secs;
        let bounds = Bounds { all: 1, first_byte: secs(10), header: secs(20), idle: secs(300) };
        let activity = Activity::new(bounds);
        assert_eq!(at(&activity), Some((secs(10), Closed::Silent)));

        // Each further byte gains nothing.
        tokio::time::advance(secs(5)).await;
        activity.read();
        tokio::time::advance(secs(5)).await;
        activity.read();
        assert_eq!(at(&activity), Some((secs(15), Closed::SlowHeader)));

        let (one, other) = (activity.begin(false), activity.begin(false));
        activity.read();
        drop(one);
        assert_eq!(at(&activity), None);
        drop(other);
        assert_eq!(at(&activity), Some((secs(300), Closed::Idle)));
        tokio::time::advance(secs(100)).await;
        assert_eq!(at(&activity), Some((secs(200), Closed::Idle)));
        activity.read();
        assert_eq!(at(&activity), Some((secs(20), Closed::SlowHeader)));

        // A ping is no request, and not the beginning of one.
        drop(activity.begin(true));
        activity.read();
        assert_eq!(at(&activity), Some((secs(300), Closed::Idle)));
    }
}

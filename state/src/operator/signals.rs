//! The signals that end a command which has something left to do.

use tokio::signal::unix::{SignalKind, signal};

/// The first signal that says to stop: its number and name.
pub(super) async fn stopped() -> (u8, &'static str) {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        // Then the signal ends the process as it does any other.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => (15, "SIGTERM"),
        () = wait(SignalKind::interrupt()) => (2, "SIGINT"),
    }
}

//! How long one call may take, however many times it asks the store.

use std::time::{Duration, Instant};

tokio::task_local! {
    static BEGAN: Instant;
}

/// All that this asks the store counts as one call. Within another one it is a part of that.
pub async fn as_one_call<T>(call: impl Future<Output = T>) -> T {
    match BEGAN.try_with(|began| *began) {
        Ok(_) => call.await,
        Err(_) => BEGAN.scope(Instant::now(), call).await,
    }
}

/// How long the call has taken that this is part of.
pub(super) fn so_far() -> Duration {
    BEGAN.try_with(Instant::elapsed).unwrap_or_default()
}

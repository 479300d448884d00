//! Waiting for something that another process does. Tests never sleep for a fixed time: they poll, and on a slow
//! machine `HARNESS_PATIENCE=4` gives everything four times as long.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Short enough not to slow tests down, long enough to leave Envoy's main thread its time.
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// Polls until `attempt` succeeds, and returns what it found.
///
/// An attempt says yes by `true`, `Some` or `Ok`, whichever reads best.
///
/// # Panics
/// If nothing succeeded `within` this time (multiplied by `HARNESS_PATIENCE`); the message tells the last failure.
///
/// ```no_run
/// # use berth_harness::{World, eventually};
/// # use std::time::Duration;
/// # async fn test(world: World) {
/// eventually(async || world.envoy(0).stat("cluster.nodes.membership_healthy").await == 2, Duration::from_secs(5)).await;
/// # }
/// ```
#[track_caller]
pub fn eventually<A: Attempt>(
    attempt: impl AsyncFnMut() -> A,
    within: Duration,
) -> impl Future<Output = A::Found> {
    let caller = Location::caller();
    async move {
        match poll(attempt, within).await {
            Ok(found) => found,
            Err(failure) => panic!("{caller}: not within {within:?}, {failure}"),
        }
    }
}

/// As [`eventually`], for callers that have more to say about a failure.
pub(crate) async fn poll<A: Attempt>(
    mut attempt: impl AsyncFnMut() -> A,
    within: Duration,
) -> Result<A::Found, String> {
    let deadline = Instant::now() + patience(within);
    loop {
        match attempt().await.outcome() {
            Ok(found) => return Ok(found),
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => sleep(BETWEEN_TRIES).await,
        }
    }
}

/// A time limit as this machine needs it.
pub(crate) fn patience(limit: Duration) -> Duration {
    let factor = std::env::var("HARNESS_PATIENCE").map_or(1.0, |text| {
        text.parse().unwrap_or_else(|_| panic!("HARNESS_PATIENCE={text}: must be a number, such as 4"))
    });
    limit.mul_f64(factor)
}

/// What one try of [`eventually`] may return.
pub trait Attempt {
    /// What a successful try yields.
    type Found;

    /// The value found, or why there is no value yet.
    fn outcome(self) -> Result<Self::Found, String>;
}

impl Attempt for bool {
    type Found = ();

    fn outcome(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "still false".into())
    }
}

impl<T> Attempt for Option<T> {
    type Found = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "still none".into())
    }
}

impl<T, E: Debug> Attempt for Result<T, E> {
    type Found = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| format!("last: {error:?}"))
    }
}

//! What several test files need: waiting, private Redis servers, and tokens.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses its part")]

// The harness's own, by path: neither crate may depend on the other.
#[path = "../../../test-harness/src/leftovers.rs"]
pub(crate) mod leftovers;
#[path = "../../../test-harness/src/process.rs"]
pub(crate) mod process;
#[path = "../../../test-harness/src/redis.rs"]
pub(crate) mod redis;
#[path = "../../../test-harness/src/tokens.rs"]
pub(crate) mod tokens;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;

pub(crate) use redis::{RedisCluster, RedisServer, free_ports};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is yes.
pub fn eventually(what: &str, mut ask: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ask() {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same for what is asked asynchronously.
pub async fn eventually_async<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let start = Instant::now();
    while !ask().await {
        assert!(start.elapsed() < PATIENCE, "gave up waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A session of this shard of the pool `nodes` that no other call has.
pub(crate) fn session_in(shard: usize) -> SessionKey {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    loop {
        let key = SessionKey::new("nodes", &NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        if usize::from(key.as_bytes()[0] >> 4) == shard {
            return key;
        }
    }
}

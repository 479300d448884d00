//! How many pools this instance keeps anything of. Their names are the proxies', and a configuration that makes them up would fill the
//! store: each pool has logs and records of its own there, beside its sessions.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use berth_core::wire::PoolName;

use super::failure::Failure;
use crate::lock::lock;

/// A pool that nothing was written to for so long makes room for another. Its sessions may live on, and it is taken in again.
const IDLE: Duration = Duration::from_secs(3600);
/// A refusal is logged this often at most.
const LOG_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Pools {
    most: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    /// When each was written to last.
    at: BTreeMap<PoolName, Instant>,
    logged: Option<Instant>,
}

impl Pools {
    pub(super) fn new(most: usize) -> Self {
        Self { most, used: Mutex::default() }
    }

    /// Takes note of a write to a pool.
    ///
    /// # Errors
    /// It would be one pool too many.
    pub(super) fn take_in(&self, pool: &PoolName, now: Instant) -> Result<(), Failure> {
        let mut used = lock(&self.used);
        if let Some(at) = used.at.get_mut(pool) {
            *at = now;
            return Ok(());
        }
        if used.at.len() >= self.most {
            used.at.retain(|_, at| now.saturating_duration_since(*at) < IDLE);
        }
        if used.at.len() < self.most {
            used.at.insert(pool.clone(), now);
            return Ok(());
        }
        if used.logged.is_none_or(|at| now.saturating_duration_since(at) >= LOG_EVERY) {
            used.logged = Some(now);
            tracing::warn!(
                pool = pool.as_str(),
                "refused: {} pools are in use, as many as may be (--pools)",
                self.most
            );
        }
        Err(Failure::TooManyPools(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_idle_for_an_hour_makes_room_and_no_other_does() {
        let pools = Pools::new(2);
        let name = |name: &str| name.parse::<PoolName>().unwrap();
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        for pool in ["a", "b", "a"] {
            assert!(pools.take_in(&name(pool), at(0)).is_ok());
        }
        assert!(pools.take_in(&name("c"), at(59)).is_err());
        assert!(pools.take_in(&name("a"), at(59)).is_ok());

        assert!(pools.take_in(&name("c"), at(60)).is_ok());
        assert!(pools.take_in(&name("b"), at(61)).is_err());
        assert!(pools.take_in(&name("a"), at(61)).is_ok());
    }
}

//! Lets change polls wait without asking the store once for each of them.
//!
//! While anyone waits for a pool, one task looks at the newest position of its log many times a second and wakes the
//! waiting polls when it moved. It also keeps a recent position at hand, which each resolve answers with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_core::wire::{ChangesReply, Cursor, PoolName};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::lock::lock;
use crate::store::{Store, StoreError};

/// How often the log is looked at while somebody waits. A tenth of the time in which a stale pin has to be gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pools that are looked at this often; with more of them each is looked at less often, so that made-up names in polls
/// cost the store no more than 32 × 20 looks a second.
const OFTEN: u32 = 32;
/// A position for resolves is renewed after this time. An older one only means that a poll gets some changes twice.
const RECENT: Duration = Duration::from_secs(1);
/// A poll that is not where the log is asks again after this time. Ten looks: a shard that is away keeps all polls there.
const AGAIN: Duration = Duration::from_millis(500);
/// Events of one reply: some 250 KB.
const AT_ONCE: usize = 1024;
/// Pools whose position is kept. More than the plugin has; a stranger's made-up names cost a look each.
const MAX_POOLS: usize = 1024;

/// The waiting polls of all pools.
pub struct Changes {
    store: Arc<dyn Store>,
    stopping: watch::Receiver<bool>,
    pools: Mutex<BTreeMap<PoolName, Arc<Watched>>>,
    /// Tasks that look at a log.
    looking: AtomicU32,
}

struct Watched {
    /// Counts up when the log moved, or when the store stopped answering: then the polls find out themselves.
    moved: watch::Sender<u64>,
    recent: Mutex<Option<(Cursor, Instant)>>,
    /// A task looks at the log; changed under the lock of `pools` only.
    looking: AtomicBool,
}

impl Changes {
    /// Polls return early once `stopping` holds true.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, stopping: watch::Receiver<bool>) -> Self {
        Self { store, stopping, pools: Mutex::default(), looking: AtomicU32::new(0) }
    }

    /// The changes after a position (by default the newest). Waits until there is a change.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn wait(
        self: &Arc<Self>,
        pool: &PoolName,
        after: Option<Cursor>,
        wait: Duration,
    ) -> Result<ChangesReply, StoreError> {
        let deadline = Instant::now() + wait;
        let mut moved = (!wait.is_zero()).then(|| self.subscribe(pool));
        let mut stopping = self.stopping.clone();
        let after = match after {
            Some(after) => after,
            None => self.store.head(pool).await?,
        };
        loop {
            let reply = self.store.changes(pool, &after, AT_ONCE).await?;
            let Some((watched, moved)) = moved.as_mut() else { return Ok(reply) };
            // Also when only the position moved: a reader that has none in a log would not learn that it was lost.
            if reply.resync || !reply.events.is_empty() || reply.cursor != after || *stopping.borrow() {
                return Ok(reply);
            }
            let woken = async {
                tokio::select! {
                    woken = moved.changed() => woken.is_ok(),
                    _ = stopping.changed() => false,
                }
            };
            // The log is further, but its shard did not answer this poll: the position that it has now wakes it no further.
            let is_behind = lock(&watched.recent).as_ref().is_some_and(|(head, _)| *head != reply.cursor);
            let end = if is_behind { deadline.min(Instant::now() + AGAIN) } else { deadline };
            match timeout_at(end, woken).await {
                Ok(true) => {}
                Err(_) if end < deadline => {}
                Ok(false) | Err(_) => return Ok(reply),
            }
        }
    }

    /// A position that is not newer than now: resolves answer with it, and it must be taken before they ask the store.
    ///
    /// It takes all shards to know where the log is, and one of them may be away while those of the sessions answer. Until
    /// it is known, it is the origin: a poll from there gets old news or a resync, and no session loses its pin.
    pub async fn recent(self: &Arc<Self>, pool: &PoolName) -> Cursor {
        let watched = self.watched(pool);
        let recent = lock(&watched.recent).clone();
        match recent {
            Some((cursor, at)) if at.elapsed() < RECENT => cursor,
            Some((cursor, _)) => {
                // Postponed first, so that only one renews it.
                *lock(&watched.recent) = Some((cursor.clone(), Instant::now()));
                let (changes, pool) = (Arc::clone(self), pool.clone());
                tokio::spawn(async move {
                    if let Ok(head) = changes.store.head(&pool).await {
                        *lock(&watched.recent) = Some((head, Instant::now()));
                    }
                });
                cursor
            }
            None => {
                // A failure is remembered as well: who comes next shall not wait for the next one.
                let head = self.store.head(pool).await.unwrap_or_else(|_| self.store.origin());
                *lock(&watched.recent) = Some((head.clone(), Instant::now()));
                head
            }
        }
    }

    fn watched(&self, pool: &PoolName) -> Arc<Watched> {
        let mut pools = lock(&self.pools);
        if let Some(watched) = pools.get(pool) {
            return Arc::clone(watched);
        }
        if pools.len() >= MAX_POOLS {
            pools.retain(|_, watched| watched.moved.receiver_count() > 0);
        }
        let watched = Arc::new(Watched {
            moved: watch::Sender::new(0),
            recent: Mutex::default(),
            looking: AtomicBool::new(false),
        });
        if pools.len() < MAX_POOLS {
            pools.insert(pool.clone(), Arc::clone(&watched));
        }
        watched
    }

    /// The first to wait starts the task, which ends when no poll waits any longer.
    fn subscribe(self: &Arc<Self>, pool: &PoolName) -> (Arc<Watched>, watch::Receiver<u64>) {
        let watched = self.watched(pool);
        // Under the lock that the task ends under: a receiver is seen by it, or the next task is started.
        let pools = lock(&self.pools);
        let receiver = watched.moved.subscribe();
        if !watched.looking.swap(true, Ordering::Relaxed) {
            self.looking.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(Arc::clone(self).look(pool.clone(), Arc::clone(&watched)));
        }
        drop(pools);
        (watched, receiver)
    }

    async fn look(self: Arc<Self>, pool: PoolName, watched: Arc<Watched>) {
        let mut last = None;
        let mut answering = true;
        loop {
            let head = self.store.head(&pool).await;
            let moved = match &head {
                Ok(head) => last.as_ref() != Some(head),
                Err(_) => answering,
            };
            answering = head.is_ok();
            if let Ok(head) = head {
                *lock(&watched.recent) = Some((head.clone(), Instant::now()));
                last = Some(head);
            }
            if moved {
                watched.moved.send_modify(|count| *count = count.wrapping_add(1));
            }
            sleep(LOOK_EVERY * self.looking.load(Ordering::Relaxed).div_ceil(OFTEN)).await;
            let _pools = lock(&self.pools);
            // A poll that just returned comes back in a moment; starting again would cost more than one more look.
            if watched.moved.receiver_count() == 0 {
                watched.looking.store(false, Ordering::Relaxed);
                self.looking.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

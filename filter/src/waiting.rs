//! The waiting room: requests that are paused until this VM has learnt something that they cannot be decided without.
//!
//! The root looks in on each tick, and whenever it has learnt something. Whoever is let in is decided again from the
//! start, on the root's account: then it goes on, is answered, waits for the state cluster, or comes back here for
//! another need. A need that was not met in its time is no reason to wait until it has been met: so what stays away
//! costs those a delay who came first, and nobody after them.

use std::rc::Rc;

use berth_core::time::Millis;

use crate::host;
use crate::pinned::Home;
use crate::plugin::{LivePool, Plugin};
use crate::request::{Request, Ticket};

/// In one VM. Beyond, requests go on at once, as after waiting in vain: each keeps a connection and its headers.
const CAPACITY: usize = 1_024;

/// What a request cannot be decided without. Adding one takes its patience here, and in `Request::place` what becomes
/// of a request that does not get it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The pool's first members: without them no pin can be followed.
    Snapshot,
}

impl Need {
    /// How long it is waited for, from the first request that does.
    fn patience(self) -> Millis {
        match self {
            // Ten times what the first look at the members takes on a busy machine, and still no client's timeout.
            Self::Snapshot => Millis(500),
        }
    }

    fn is_met(self, pool: &LivePool) -> bool {
        match self {
            Self::Snapshot => pool.snapshot().is_some(),
        }
    }
}

/// Everybody who waits, by what for.
#[derive(Default)]
pub(crate) struct WaitingRoom {
    queues: Vec<Queue>,
}

/// Those of one pool who wait for the same.
struct Queue {
    pool: usize,
    need: Need,
    since: Millis,
    in_vain: bool,
    waiters: Vec<Waiter>,
}

struct Waiter {
    stream: u32,
    ticket: Ticket,
}

impl WaitingRoom {
    /// Takes in a request that is about to be paused, or stays so. `None` if it has to do without what it needs.
    pub(crate) fn enter(&mut self, stream: u32, pool: usize, need: Need, now: Millis) -> Option<Ticket> {
        if self.queues.iter().map(|queue| queue.waiters.len()).sum::<usize>() >= CAPACITY {
            return None;
        }
        let ticket = Ticket::default();
        let waiter = Waiter { stream, ticket: Rc::clone(&ticket) };
        match self.queues.iter_mut().find(|queue| (queue.pool, queue.need) == (pool, need)) {
            Some(queue) if queue.in_vain => return None,
            Some(queue) => queue.waiters.push(waiter),
            None => {
                self.queues.push(Queue { pool, need, since: now, in_vain: false, waiters: vec![waiter] });
            }
        }
        Some(ticket)
    }

    /// A request ended while it was here.
    pub(crate) fn leave(&mut self, stream: u32) {
        for queue in &mut self.queues {
            queue.waiters.retain(|waiter| waiter.stream != stream);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.waiters.is_empty())
    }

    /// Everybody whose need is met, or was not in its time; with the pool's place in the configuration.
    fn leaving(&mut self, pools: &[LivePool], now: Millis) -> Vec<(usize, Waiter)> {
        let mut leaving = Vec::new();
        self.queues.retain_mut(|queue| {
            let is_met = pools.get(queue.pool).is_some_and(|pool| queue.need.is_met(pool));
            // A clock that was set back must not prolong it.
            queue.in_vain |= now < queue.since || now.since(queue.since) >= queue.need.patience();
            if is_met || queue.in_vain {
                leaving.extend(queue.waiters.drain(..).map(|waiter| (queue.pool, waiter)));
            }
            !is_met
        });
        leaving
    }
}

/// Decides everybody again who need not, or may not, wait any longer; to be called in a callback of the root's.
pub(crate) fn let_in(plugin: &Plugin, root: u32, now: Millis) {
    // Those who come back for another need find the room free.
    let leaving = plugin.waiting.borrow_mut().leaving(&plugin.pools, now);
    if leaving.is_empty() {
        return;
    }
    for (pool, Waiter { stream, ticket }) in leaving {
        if !host::act_as(stream) {
            continue;
        }
        // The SDK answers a call to the context whose callback this is.
        let home = Home { context: stream, stream: None, deciding: true };
        let request = Request::decide(plugin, pool, home);
        if request.verdict.lets_go_on() {
            host::resume_request();
        }
        ticket.replace(request);
    }
    host::act_as(root);
}

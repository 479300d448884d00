//! The waiting room: requests that are paused until this VM has learnt something that they cannot be decided without.
//!
//! The root looks in on each tick, and whenever it has learnt something. Whoever is let in is decided again from the
//! start, on the root's account: then it goes on, is answered, waits for the state cluster, or comes back here for
//! another need. A need that was not met in its time is no reason to wait until it has been met: so what stays away
//! costs those a delay who came first, and nobody after them.

use std::rc::Rc;

use berth_core::time::Millis;

use crate::host;
use crate::pinned::{Home, START};
use crate::plugin::Plugin;
use crate::request::{Request, Ticket};

/// In one VM. Beyond, requests go on at once, as after waiting in vain: each keeps a connection and its headers.
const CAPACITY: usize = 1_024;

/// What a request cannot be decided without. Adding one takes its patience here, and in `Request::place` what becomes
/// of a request that does not get it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The first members of the pool at this place in the configuration: without them no pin can be followed.
    Snapshot(usize),
    /// Newer keys of the token provider at this place.
    Keys(usize),
}

impl Need {
    /// How long it is waited for, from the first request that does.
    fn patience(self, plugin: &Plugin) -> Millis {
        match self {
            Self::Snapshot(_) => START,
            Self::Keys(provider) => plugin.tokens.patience(provider),
        }
    }

    /// Its place in [`Home::waited`]; none for what is waited for until it is there, or does not come in time.
    fn bit(self) -> u16 {
        match self {
            Self::Snapshot(_) => 0,
            Self::Keys(provider) => {
                u32::try_from(provider).ok().and_then(|place| 1u16.checked_shl(place)).unwrap_or(0)
            }
        }
    }

    fn is_met(self, plugin: &Plugin) -> bool {
        match self {
            Self::Snapshot(pool) => plugin.pools.get(pool).is_some_and(|pool| pool.snapshot().is_some()),
            Self::Keys(provider) => plugin.tokens.has_settled(provider),
        }
    }
}

/// Everybody who waits, by what for.
#[derive(Default)]
pub(crate) struct WaitingRoom {
    queues: Vec<Queue>,
}

/// Those who wait for the same.
struct Queue {
    need: Need,
    since: Millis,
    in_vain: bool,
    waiters: Vec<Waiter>,
}

struct Waiter {
    stream: u32,
    ticket: Ticket,
    waited: u16,
}

impl WaitingRoom {
    /// Takes in a request that is about to be paused, or stays so. `None` if it has to do without what it needs.
    pub(crate) fn enter(&mut self, home: Home, need: Need, now: Millis) -> Option<Ticket> {
        let waited = home.waited | need.bit();
        if waited == home.waited && need.bit() != 0 {
            return None;
        }
        if self.queues.iter().map(|queue| queue.waiters.len()).sum::<usize>() >= CAPACITY {
            return None;
        }
        let ticket = Ticket::default();
        let waiter = Waiter { stream: home.context, ticket: Rc::clone(&ticket), waited };
        match self.queues.iter_mut().find(|queue| queue.need == need) {
            Some(queue) if queue.in_vain => return None,
            Some(queue) => queue.waiters.push(waiter),
            None => {
                self.queues.push(Queue { need, since: now, in_vain: false, waiters: vec![waiter] });
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

    /// Everybody whose need is met, or was not in its time.
    fn leaving(&mut self, plugin: &Plugin, now: Millis) -> Vec<Waiter> {
        let mut leaving = Vec::new();
        self.queues.retain_mut(|queue| {
            let is_met = queue.need.is_met(plugin);
            // A clock that was set back must not prolong it.
            queue.in_vain |= now < queue.since || now.since(queue.since) >= queue.need.patience(plugin);
            if is_met || queue.in_vain {
                leaving.append(&mut queue.waiters);
            }
            !is_met
        });
        leaving
    }
}

/// Decides everybody again who need not, or may not, wait any longer; to be called in a callback of the root's.
pub(crate) fn let_in(plugin: &Plugin, root: u32, now: Millis) {
    // Those who come back for another need find the room free.
    let leaving = plugin.waiting.borrow_mut().leaving(plugin, now);
    if leaving.is_empty() {
        return;
    }
    for Waiter { stream, ticket, waited } in leaving {
        if !host::act_as(stream) {
            continue;
        }
        // The SDK answers a call to the context whose callback this is.
        let home = Home { context: stream, stream: None, deciding: true, waited };
        let request = Request::decide(plugin, home);
        if request.verdict.lets_go_on() {
            host::resume_request();
        }
        ticket.replace(request);
    }
    host::act_as(root);
}

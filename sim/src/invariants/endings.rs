//! How sessions end, and how a run does: sessions that are over have no pin, and each proxy sees the nodes as they are.

use std::collections::{BTreeMap, BTreeSet};

use berth_core::health::State;
use berth_core::wire::SessionKey;

use super::{Checks, Kind, Where};
use crate::nodes::Nodes;
use crate::store::Store;

/// An end that its configuration learned has been said after so long: one tick, and the call.
const SAID: u64 = 1_200;

#[derive(Debug)]
pub(super) struct Over {
    pub(super) proxy: usize,
    pub(super) life: u32,
    pub(super) worker: u32,
    pub(super) at: u64,
    /// A request of it was decided or placed later, and may have begun it again.
    pub(super) is_used: bool,
    /// The store knows that it ended.
    pub(super) is_said: bool,
}

impl Checks {
    /// A node says that a session is over, and a proxy learns it.
    pub fn says_ended(&mut self, key: SessionKey, at: Where, life: u32) {
        let Where { proxy, worker, now, .. } = at;
        let over = Over { proxy, life, worker, at: now, is_used: false, is_said: false };
        self.over.insert(key, over);
    }

    /// The end of a run: sessions that are over have no pin. A proxy that was restarted has forgotten to say so, and one that
    /// could not say it for long has given up.
    pub fn ends_at_end(&mut self, store: &Store, life: u32, at: Where) {
        let is_left = |(key, over): &(&SessionKey, &Over)| {
            let could_say = at.calm_since.is_some_and(|calm| calm < over.at);
            let could_say =
                could_say && self.done.get(&over.worker).is_none_or(|done| over.at + SAID < *done);
            let is_its = over.proxy == at.proxy && over.life == life && could_say && !over.is_used;
            is_its && !store.lost.contains(*key) && store.session(**key, at.time).is_some()
        };
        let left = self.over.iter().filter(is_left).map(|(key, _)| *key);
        for key in left.collect::<Vec<_>>() {
            let what = format!("proxy {} learned that a session is over, and it still has a pin", at.proxy);
            self.note(Kind::Ended, at.now, Some(key), what);
        }
    }

    /// The end of a run: how each proxy sees the nodes.
    pub fn at_end(
        &mut self,
        states: &BTreeMap<String, State>,
        drained: &BTreeSet<usize>,
        lost_nodes: &BTreeSet<String>,
        at: Where,
    ) {
        for number in 0..crate::schedule::NODES {
            let name = Nodes::name(number);
            let state = states.get(&name);
            let is_drained = state == Some(&State::Draining);
            // An operator's change that the store lost is lost without quorum.
            if lost_nodes.contains(&name) {
                continue;
            }
            if is_drained != drained.contains(&number) {
                let what = format!("proxy {} has {name} as {state:?}", at.proxy);
                self.note(Kind::Drain, at.now, None, what);
            } else if !is_drained && !matches!(state, Some(State::Active | State::Warming(_))) {
                let what = format!("proxy {} does not use {name} again: {state:?}", at.proxy);
                self.note(Kind::Cooldown, at.now, None, what);
            }
        }
    }
}

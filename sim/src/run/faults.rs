//! Faults begin and end.

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeState};

use super::{EPOCH, Next, Run};
use crate::fleet::Host;
use crate::invariants::{HEALED_BY, Lost, SEEN_BY};
use crate::nodes::Nodes;
use crate::schedule::{NODES, PROXIES, What};
use crate::store::Write;

/// An operator whose command failed repeats it.
const REPEAT: u64 = 500;
/// A proxy learns of a gap, and then touches all that it knows.
const REPORTED_BY: u64 = SEEN_BY + 15_000 + 1_000;

impl Run {
    pub(super) fn begin_fault(&mut self, index: usize) {
        let fault = self.faults[index];
        let now = self.now;
        self.tell(None, || format!("{fault}"));
        match fault.what {
            What::NodeDown(node) | What::NodeRestarts(node) => self.nodes.set_down(node, true, now),
            What::NodesDown(first, count) => each(first, count, |node| self.nodes.set_down(node, true, now)),
            What::NodeVanishes(node) => self.nodes.set_unlisted(node, true, now),
            What::NodesVanish(first, count) => {
                each(first, count, |node| self.nodes.set_unlisted(node, true, now));
            }
            What::NodeMoves(node) => self.nodes.change_address(node, now),
            What::Drain(node) => {
                if self.record(node, NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() })
                {
                    self.drained.insert(node);
                } else {
                    self.plan(now + REPEAT, Next::Begins(index));
                }
            }
            What::Cut(proxy) => {
                self.network.cut(proxy, true);
                self.trouble(proxy, true);
            }
            What::Slow(proxy, by) => {
                self.network.slow(proxy, by, true);
                self.trouble(proxy, true);
            }
            What::Late(proxy, by) => {
                self.network.answer_late(proxy, by, true);
                self.trouble(proxy, true);
            }
            What::Loss(proxy, percent) => {
                self.network.lose(proxy, percent, true);
                self.trouble(proxy, true);
            }
            What::Twice(proxy) => self.network.twice(proxy, true),
            What::ServiceDown(service) => {
                self.network.service_down(service, true);
                self.trouble_all(true);
            }
            What::StoreRefuses => {
                self.store_refuses += 1;
                self.trouble_all(true);
            }
            What::StoreLoses(by) => {
                self.note_known();
                self.store.fail_over(EPOCH + now.saturating_sub(by));
                self.checks.failed_over();
                self.wake_polls();
                self.trouble_all(true);
            }
            What::Blind(proxy) => {
                self.proxies[proxy].blind += 1;
                self.trouble(proxy, true);
            }
            What::ClockOff(proxy, by) => self.turn_clock(proxy, by, true),
            What::ProxyRestarts(proxy) => self.restart(proxy),
            What::Reload(proxy) => self.reload(proxy),
        }
    }

    pub(super) fn end_fault(&mut self, index: usize) {
        let fault = self.faults[index];
        let now = self.now;
        match fault.what {
            What::NodeDown(node) => self.nodes.set_down(node, false, now),
            What::NodeRestarts(node) => {
                self.nodes.set_down(node, false, now);
                self.start_node(node);
            }
            What::NodesDown(first, count) => each(first, count, |node| self.nodes.set_down(node, false, now)),
            What::NodeVanishes(node) => self.nodes.set_unlisted(node, false, now),
            What::NodesVanish(first, count) => {
                each(first, count, |node| self.nodes.set_unlisted(node, false, now));
            }
            What::Drain(node) => {
                // Some drains hold to the end.
                let is_taken_back = fault.until.is_multiple_of(2);
                let change = NodeChange { state: Some(NodeState::Active), ..NodeChange::default() };
                if is_taken_back && self.drained.contains(&node) {
                    if self.record(node, change) {
                        self.drained.remove(&node);
                    } else {
                        self.plan(now + REPEAT, Next::Ends(index));
                    }
                }
            }
            What::Cut(proxy) => {
                self.network.cut(proxy, false);
                self.trouble(proxy, false);
            }
            What::Slow(proxy, by) => {
                self.network.slow(proxy, by, false);
                self.trouble(proxy, false);
            }
            What::Late(proxy, by) => {
                self.network.answer_late(proxy, by, false);
                self.trouble(proxy, false);
            }
            What::Loss(proxy, percent) => {
                self.network.lose(proxy, percent, false);
                self.trouble(proxy, false);
            }
            What::Twice(proxy) => self.network.twice(proxy, false),
            What::ServiceDown(service) => {
                self.network.service_down(service, false);
                self.trouble_all(false);
            }
            What::StoreRefuses => {
                self.store_refuses -= 1;
                self.trouble_all(false);
            }
            What::StoreLoses(_) => self.trouble_all(false),
            What::Blind(proxy) => {
                self.proxies[proxy].blind -= 1;
                self.proxies[proxy].blind_until = now;
                self.trouble(proxy, false);
            }
            What::ClockOff(proxy, by) => self.turn_clock(proxy, -by, false),
            What::Reload(proxy) => self.proxies[proxy].host.close_oldest(),
            What::NodeMoves(_) | What::ProxyRestarts(_) => {}
        }
    }

    /// The store is about to lose what it wrote: which sessions proxies surely know, and will until they have reported them.
    fn note_known(&mut self) {
        let (now, time) = (self.now, self.time());
        let mut known = Vec::new();
        for session in &self.sessions {
            let Some(owner) = self.store.session(session.key, time).map(|reply| reply.node.to_string())
            else {
                continue;
            };
            for proxy in 0..PROXIES {
                let reported_by = self.local(proxy) + Millis(REPORTED_BY);
                let envoy = &mut self.proxies[proxy];
                if envoy.troubles == 0 && envoy.host.knows(session.id.as_bytes(), &owner, reported_by) {
                    let lost = Lost { at: now, node: owner.clone(), proxy, life: envoy.life };
                    known.push((session.key, lost));
                }
            }
        }
        if !self.forgets_pins {
            self.checks.lost(known);
        }
        self.plan(now + HEALED_BY, Next::Kept(now));
    }

    /// What was lost at that time is to be back.
    pub(super) fn kept(&mut self, lost_at: u64) {
        let proxies = &self.proxies;
        let had_no_trouble = |lost: &Lost| {
            let envoy = &proxies[lost.proxy];
            envoy.life == lost.life
                && envoy.troubles == 0
                && envoy.calm_since == lost.at
                && !envoy.had_clock_off
        };
        let now = (self.now, Millis(EPOCH + self.now));
        self.checks.kept(lost_at, had_no_trouble, (&self.store, &self.nodes), now);
    }

    /// A node says that it has started.
    pub(super) fn start_node(&mut self, node: usize) {
        let boot_id = Some(self.nodes.started(node));
        let change = NodeChange { boot_id, self_state: Some(NodeState::Active), ..NodeChange::default() };
        if !self.record(node, change) {
            return;
        }
        let (now, time, name) = (self.now, self.time(), Nodes::name(node));
        for session in &self.sessions {
            let owner = self.store.session(session.key, time).map(|reply| reply.node);
            if owner.is_some_and(|owner| owner.as_str() == name) {
                self.checks.node_restarted(session.key, &name, now);
            }
        }
    }

    /// Has something recorded of a node. False if the store refuses.
    fn record(&mut self, node: usize, change: NodeChange) -> bool {
        let Ok(name) = Nodes::name(node).parse() else { return false };
        if self.store_refuses > 0 {
            return false;
        }
        let time = self.time();
        self.store.write(Write::Node(name, change), time);
        self.wake_polls();
        true
    }

    fn turn_clock(&mut self, proxy: usize, by: i64, begins: bool) {
        let envoy = &mut self.proxies[proxy];
        envoy.clock_off += by;
        envoy.had_clock_off = true;
        envoy.clock_changed = self.now;
        self.trouble(proxy, begins);
    }

    fn restart(&mut self, proxy: usize) {
        let local = self.local(proxy);
        let host = self.start_envoy(local);
        let now = self.now;
        let envoy = &mut self.proxies[proxy];
        for worker in envoy.host.workers() {
            self.checks.worker_ended(worker.number, now);
        }
        envoy.host = host;
        envoy.life += 1;
        envoy.first_wait.clear();
        envoy.calm_since = envoy.calm_since.max(now);
        envoy.flying.clear();
        envoy.ticks += 1;
        let next = Next::Tick(proxy, envoy.ticks);
        self.plan(now, next);
    }

    pub(super) fn start_envoy(&mut self, local: Millis) -> Host {
        self.workers += 1;
        Host::new(&self.configuration, self.workers, &mut self.random, self.mutant, local)
    }

    /// A proxy gets a new configuration, beside the former one.
    fn reload(&mut self, proxy: usize) {
        let (now, local) = (self.now, self.local(proxy));
        self.workers += 1;
        let envoy = &mut self.proxies[proxy];
        let numbers = envoy.host.reload(&self.configuration, self.workers, &mut self.random, local);
        let (former, worker) = numbers;
        if let Some(first) = envoy.first_wait.get(&former).copied() {
            envoy.first_wait.insert(worker, first);
        }
        let sessions = self.sessions.iter();
        let known = sessions.filter_map(|session| {
            let (before, after) = envoy.host.known(session.id.as_bytes(), local)?;
            Some((session.key, before, after))
        });
        let known: Vec<_> = known.collect();
        envoy.ticks += 1;
        let next = Next::Tick(proxy, envoy.ticks);
        let at = self.place(proxy);
        self.checks.reloaded(former, &known, at);
        self.plan(now, next);
    }

    fn trouble_all(&mut self, begins: bool) {
        (0..PROXIES).for_each(|proxy| self.trouble(proxy, begins));
    }

    fn trouble(&mut self, proxy: usize, begins: bool) {
        let envoy = &mut self.proxies[proxy];
        envoy.troubles = if begins { envoy.troubles + 1 } else { envoy.troubles - 1 };
        envoy.calm_since = self.now;
    }
}

fn each(first: usize, count: usize, act: impl FnMut(usize)) {
    (first..first + count).map(|node| node % NODES).for_each(act);
}

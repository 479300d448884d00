//! Faults begin and end.

use berth_core::time::Millis;
use berth_core::wire::{NodeChange, NodeState};

use super::{EPOCH, Next, Run};
use crate::fleet::Host;
use crate::nodes::Nodes;
use crate::schedule::{NODES, PROXIES, What};
use crate::store::Write;

/// An operator whose command failed repeats it.
const REPEAT: u64 = 500;

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

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
                self.trouble(proxy, false);
            }
            What::ClockOff(proxy, by) => self.turn_clock(proxy, -by, false),
            What::NodeMoves(_) | What::ProxyRestarts(_) => {}
        }
    }

    /// A node says that it has started.
    pub(super) fn start_node(&mut self, node: usize) {
        let boot_id = Some(self.nodes.started(node));
        let change = NodeChange { boot_id, self_state: Some(NodeState::Active), ..NodeChange::default() };
        self.record(node, change);
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
        let host = Host::new(&self.configuration, &mut self.random, self.mutant, Millis(local.0));
        let now = self.now;
        let envoy = &mut self.proxies[proxy];
        envoy.host = host;
        envoy.life += 1;
        envoy.first_wait = None;
        envoy.calm_since = envoy.calm_since.max(now);
        envoy.flying.clear();
        envoy.ticks += 1;
        let next = Next::Tick(proxy, envoy.ticks);
        self.checks.restarted(proxy);
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

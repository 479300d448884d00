//! Calls on their way: to a service, into the store, and back.

use std::collections::BTreeMap;

use berth_core::wire::{ChangeKind, ChangesReply, Cursor, NodesReply, Reason, ResolveReply, StoreId};

use super::{Next, Run};
use crate::fleet::{Out, failure};
use crate::invariants::{Kind, Where};
use crate::mutants::Mutant;
use crate::network::Passage;
use crate::service::{Asked, ended, json, read};
use crate::store::{Write, Written};

/// How soon a service sees that the log moved while a poll waits.
const LOOK_EVERY: u64 = 50;
/// The time of a pin that has no other.
const TTL: u64 = 60_000;

/// One call of one life of one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) proxy: usize,
    pub(crate) life: u32,
    pub(crate) token: u32,
}

/// All calls that are under way.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: BTreeMap<Token, Call>,
    polls: BTreeMap<u64, (Token, Cursor)>,
    next_poll: u64,
}

#[derive(Debug)]
struct Call {
    asked: Asked,
    in_panic: bool,
    passage: Passage,
}

impl Run {
    /// A proxy makes a call.
    pub(super) fn send(&mut self, proxy: usize, out: &Out) {
        self.report.calls += 1;
        let token = Token { proxy, life: self.proxies[proxy].life, token: out.token };
        let Some(asked) = read(&out.request) else {
            let what = format!("proxy {proxy} sends what no service understands: {:?}", out.request);
            self.checks.note(Kind::Owner, self.now, None, what);
            return;
        };
        let passage = self.network.passage(proxy, matches!(asked, Asked::Write(_)));
        for delay in passage.arrives.into_iter().flatten() {
            self.plan(self.now + delay, Next::Arrives(token));
        }
        self.plan(self.now + out.timeout, Next::TimesOut(token));
        self.calls.open.insert(token, Call { asked, in_panic: out.in_panic, passage });
    }

    /// A call reaches a service.
    pub(super) fn arrive(&mut self, token: Token) {
        let Some(call) = self.calls.open.get(&token) else { return };
        let Call { asked, in_panic, passage } = call;
        let (asked, in_panic, service) = (asked.clone(), *in_panic, passage.service);
        if !self.network.is_up(service) {
            return;
        }
        if self.store_refuses > 0 {
            return self.send_back(token, Err(503));
        }
        match asked {
            Asked::Write(write) => {
                let body = self.write(&write, in_panic, token);
                self.send_back(token, body);
            }
            Asked::Nodes => {
                let reply = NodesReply { nodes: self.store.nodes(self.time()), now_ms: Some(self.time().0) };
                self.send_back(token, Ok(json(&reply)));
            }
            Asked::Changes(None, _) => {
                let reply = ChangesReply {
                    cursor: self.store.head(),
                    resync: false,
                    events: Vec::new(),
                    now_ms: None,
                };
                self.send_back(token, Ok(json(&reply)));
            }
            Asked::Changes(Some(after), wait) => {
                let poll = self.calls.next_poll;
                self.calls.next_poll += 1;
                self.calls.polls.insert(poll, (token, after));
                self.plan(self.now + wait, Next::PollEnds(poll));
                self.look_for_poll(poll, false);
            }
        }
    }

    /// A service looks whether the log moved for a poll that waits.
    pub(super) fn look_for_poll(&mut self, poll: u64, is_over: bool) {
        let Some((token, after)) = self.calls.polls.get(&poll).cloned() else { return };
        let mut reply = ChangesReply { now_ms: Some(self.time().0), ..self.store.changes(&after) };
        if !is_over && !reply.resync && reply.events.is_empty() && reply.cursor == after {
            return;
        }
        if self.mutant == Some(Mutant::SilentRehome) {
            reply.events.retain(|event| event.kind != ChangeKind::Rehomed);
        }
        self.calls.polls.remove(&poll);
        self.send_back(token, Ok(json(&reply)));
    }

    pub(super) fn wake_polls(&mut self) {
        let polls: Vec<u64> = self.calls.polls.keys().copied().collect();
        for poll in polls {
            let after = self.random.between(0, LOOK_EVERY);
            self.plan(self.now + after, Next::PollLooks(poll));
        }
    }

    /// Writes for a proxy, and judges what came of it.
    fn write(&mut self, write: &Write, in_panic: bool, token: Token) -> Result<Vec<u8>, u16> {
        let proxy = token.proxy;
        let at = self.place(proxy);
        let mut before = match write {
            Write::Resolve(request) => self.checks.before(request, &self.store, at),
            _ => Vec::new(),
        };
        if let Write::Node(node, change) = write {
            let bad =
                self.proxies[proxy].host.shared.bad_looks.get(node.as_str()).copied().unwrap_or_default();
            // After a restart it is not known what the proxy had seen.
            let is_its = self.proxies[proxy].life == token.life;
            if let Some(left) = change.cooldown_ms.filter(|_| is_its) {
                self.checks.cooldown_told(node.as_str(), left, bad, at);
            }
        }
        let (written, events) = self.store.write(write.clone(), self.time());
        if !events.is_empty() {
            self.wake_polls();
        }
        for event in &events {
            let line = || {
                let (kind, reason) = (event.kind.name(), event.reason);
                let from = event.from.as_ref().map(|from| format!(" from {from}")).unwrap_or_default();
                let node = event.node.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("the store, asked by proxy {proxy}: {kind} {node}{from}, {reason:?}")
            };
            self.tell(event.key, line);
            if event.reason == Reason::Recovered {
                self.checks.recovered(event, &self.store, at);
                let known = match write {
                    Write::Resolve(request) => {
                        request.sessions.iter().position(|ask| Some(ask.key) == event.key)
                    }
                    _ => None,
                };
                if let Some(owner) = known.and_then(|place| before.get_mut(place)) {
                    *owner = event.node.as_ref().map(ToString::to_string);
                }
            }
        }
        match (write, written) {
            (Write::Resolve(request), Written::Pins(pins)) => {
                for pin in &pins {
                    self.tell(Some(pin.key), || {
                        let (outcome, node, version) = (pin.outcome.name(), &pin.node, pin.version);
                        format!("the store, asked by proxy {proxy}: {outcome} at {node}, version {version}")
                    });
                }
                let world = (&self.store, &self.nodes);
                self.checks.resolved(request, &before, &pins, &events, in_panic, world, at);
                let store = Some(StoreId::new("one"));
                Ok(json(&ResolveReply { pins, cursor: self.store.head(), ttl_ms: TTL, store }))
            }
            (_, Written::Touched(reply)) => Ok(json(&reply)),
            (Write::End(key, _), Written::Ended(was_there)) => {
                // A pin that is newer than the end is still there.
                if self.store.session(*key, self.time()).is_none() {
                    self.checks.ended(*key, self.now);
                }
                if was_there { Ok(ended()) } else { Err(404) }
            }
            (_, Written::Record(record)) => Ok(json(&record)),
            _ => Err(500),
        }
    }

    fn send_back(&mut self, token: Token, body: Result<Vec<u8>, u16>) {
        let Some(returns) = self.calls.open.get(&token).and_then(|call| call.passage.returns) else { return };
        self.plan(self.now + returns, Next::Answers(token, body));
    }

    /// An answer reaches its proxy, unless that gave up or is another by now.
    pub(super) fn answer(&mut self, token: Token, body: Result<Vec<u8>, u16>) {
        if self.network.is_cut(token.proxy) {
            return;
        }
        self.conclude(token, &body.map_err(Some));
    }

    /// No answer came in time.
    pub(super) fn time_out(&mut self, token: Token) {
        self.conclude(token, &Err(None));
    }

    fn conclude(&mut self, token: Token, body: &Result<Vec<u8>, Option<u16>>) {
        let Token { proxy, life, token: number } = token;
        if self.calls.open.remove(&token).is_none() || self.proxies[proxy].life != life {
            return;
        }
        self.calls.polls.retain(|_, (poll, _)| *poll != token);
        let failed = body.as_ref().err().map(|status| failure(*status));
        let at = self.place(proxy);
        let local = self.local(proxy);
        let reached = self.proxies[proxy].host.expects(number);
        let envoy = &mut self.proxies[proxy];
        let body = match (body, &failed) {
            (Ok(body), _) => Ok(body.as_slice()),
            (Err(_), Some(failed)) => Err(failed),
            (Err(_), None) => unreachable!("what failed has a failure"),
        };
        if let Some(worker) = reached {
            self.checks.learn(body, &envoy.host.states(), Where { worker, ..at });
        }
        let clock_jumped = envoy.clock_changed > 0 && self.now < envoy.clock_changed + 1_000;
        envoy.host.reply(number, body, clock_jumped, local);
        self.settle(proxy);
    }
}

//! What is learned from how a response begins: which node answered, what that says of the nodes that were asked, and which
//! session the node began.

use std::rc::Rc;

use super::{Proxy, Request, terms};
use crate::affinity::Minted;
use crate::attributes::{Attributes, ResponseHeaders};
use crate::config::{Membership, Missing};
use crate::decision::Decision;
use crate::event::{Counter, Outcome, Reason, RuleResult};
use crate::passive::{Evidence, Failure, Kind, evidence, hidden_failure};
use crate::placement::Placement;
use crate::rollout::Mode;
use crate::session::{self, History};

use super::rules::route_cluster;

/// What the beginning of a response led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The node that answered, if that was of interest.
    pub node: Option<Vec<u8>>,
    /// The client may try again soon: only one node may serve it, and Envoy could not reach that node.
    pub retry_after: bool,
    /// What is to be put into the record of failures that all workers share.
    pub verdicts: Vec<Verdict>,
    /// It began a session, whose id its node minted, and waits for a release of its pool's engine, which may be there already.
    pub waits: bool,
}

/// What a response says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This node, which has failures on record, answered.
    Answered(u64),
    /// A request failed by the node's fault.
    Failed(Failure),
}

impl Proxy {
    /// The response of a request begins; its attributes are at hand. `shows_node` says that the debug header is on.
    pub fn handle_response(
        &mut self,
        stream: u32,
        request: &mut Request,
        shows_node: bool,
        attributes: &(impl Attributes + ResponseHeaders),
    ) -> Response {
        let mut response = self.judge_response(request, shows_node, attributes);
        self.learn(stream, request, &mut response, attributes);
        self.leave_cookie(request, attributes);
        self.note_cookie(request);
        response
    }

    /// Does not renew a cookie that the node itself sets or takes away with this response, as at login and logout: a browser
    /// believes the last of two.
    fn leave_cookie(&self, request: &mut Request, response: &impl ResponseHeaders) {
        if !request.has_issued_cookie || request.cookie.is_none() {
            return;
        }
        let rule = request.rule.and_then(|rule| self.rules.get(rule));
        let Some(Missing::IssueCookie(template)) = rule.map(|rule| &rule.config.session.missing) else {
            return;
        };
        if response.set_cookies().iter().any(|line| template.may_be_set_by(line)) {
            request.cookie = None;
        }
    }

    fn judge_response(
        &mut self,
        request: &mut Request,
        shows_node: bool,
        attributes: &dyn Attributes,
    ) -> Response {
        let mut response = Response::default();
        let Some((rule, pool)) = self.rule_and_pool(request.rule) else { return response };
        let (checks_passively, is_pool_cluster) =
            (pool.config.health.passive_failures > 0, || is_routed_to(&pool.config.membership, attributes));
        match &mut request.decision {
            Some(Decision::Pass { would: Some(would), .. }) => {
                response.node = upstream_address(attributes);
                if let Some(address) = &response.node {
                    let is_same = would.as_bytes() == address;
                    rule.count(if is_same { RuleResult::ObservedSame } else { RuleResult::ObservedMoved });
                }
                return response;
            }
            Some(Decision::Route { placement, notice }) => {
                // Flags are of no use without passive checks.
                let judges = checks_passively || placement.is_strict;
                let reads_flags = judges || notice.is_some();
                let flags = if reads_flags { response_flags(attributes) } else { None };
                response.node = upstream_address(attributes);
                if let Some(address) = &response.node
                    && let Some(snapshot) = &request.snapshot
                {
                    let mut nodes = placement.nodes(snapshot);
                    request.answered = nodes.position(|node| node.address.as_bytes() == address);
                    drop(nodes);
                    if request.answered != Some(0) {
                        pool.count(note_other_node(placement, is_pool_cluster()));
                    }
                }
                // Envoy's own answer: the node could not be reached, and no other was to be tried.
                response.retry_after = placement.is_strict && flags.is_some_and(|flags| flags != 0);
                if let Some(flags) = flags.filter(|_| judges) {
                    self.judge(request, flags, attributes, &mut response.verdicts);
                }
                self.note_notice(request, flags);
            }
            _ if shows_node => response.node = upstream_address(attributes),
            _ => {}
        }
        self.count_outcome(request);
        response
    }

    /// Says whether the notice that the request carried has reached its node: that is the first one of its placement.
    pub(super) fn note_notice(&mut self, request: &Request, flags: Option<u64>) {
        let Some(Decision::Route { placement, notice: Some(notice) }) = &request.decision else { return };
        // The address is also that of a node which Envoy could not reach.
        let has_reached_it = request.answered == Some(0)
            && !matches!(flags.map(evidence), Some(Evidence::None | Evidence::Failed(Kind::Connect)));
        // A route that leads elsewhere will do so again.
        let is_over = has_reached_it || placement.reason == Reason::OtherCluster;
        if let Some(id) = &request.session
            && let Some(pool) = self.pool_of(request).and_then(|pool| self.pools.get_mut(pool))
            && let Some(engine) = &mut pool.engine
        {
            engine.handle_notice(id, notice, is_over);
        }
    }

    /// Has the session stay with its node whose id the response mints. Pools whose nodes mint none ask for nothing.
    fn learn(
        &mut self,
        stream: u32,
        request: &mut Request,
        response: &mut Response,
        attributes: &(impl Attributes + ResponseHeaders),
    ) {
        let Some(rule) = request.rule.and_then(|rule| self.rules.get(rule)) else { return };
        let config = Rc::clone(&rule.config);
        if config.session.learned.is_empty() || !is_placed(request) {
            return;
        }
        let Some(id) = session::learn(&config.session.learned, attributes, &|| attributes.now()) else {
            return;
        };
        // Nodes may say it each time.
        if request.session.as_ref() == Some(&id) || config.rollout.mode_for(&id) != Mode::Enforce {
            return;
        }
        let node = response.node.take().or_else(|| upstream_address(attributes));
        if let Some(node) = &node
            && let Some(pool) = self.pools.get_mut(config.pool)
            && let Some(engine) = &mut pool.engine
        {
            let is_pools = is_routed_to(&pool.config.membership, attributes);
            let terms = terms(&config, History::default());
            let minted = Minted { stream, id: &id, terms: &terms, node, is_pools };
            if let Some((waits, handle)) = engine.handle_minted(&minted, attributes.now()) {
                response.waits = waits;
                request.minted = Some(handle);
            }
        }
        response.node = node;
    }

    /// Takes the beginning of the response for evidence about the nodes that had the request.
    fn judge(
        &mut self,
        request: &Request,
        flags: u64,
        attributes: &dyn Attributes,
        verdicts: &mut Vec<Verdict>,
    ) {
        let Some(Decision::Route { placement, .. }) = &request.decision else { return };
        let (Some(snapshot), Some(answered)) = (&request.snapshot, request.answered) else { return };
        let session = request.session.as_ref().map_or(0, session::SessionId::hash);
        let (tick, pool) = (self.tick, self.pool_of(request));
        let Some(pool) = pool.and_then(|pool| self.pools.get_mut(pool)) else { return };
        // Those before it failed, and a retry hid it. Unless Envoy passed over one that it does not know (any longer, or
        // yet): then there were fewer attempts, and nothing is said of any of them.
        if answered > 0
            && let Some(kind) = hidden_failure(flags)
            && upstream_attempts(attributes).is_some_and(|attempts| attempts > answered as u64)
            && is_routed_to(&pool.config.membership, attributes)
        {
            let failed = placement.nodes(snapshot).take(answered);
            verdicts
                .extend(failed.map(|node| Verdict::Failed(Failure { node: node.key_hash, kind, session })));
        }
        let Some(index) = placement.indexes().nth(answered) else { return };
        let Some(node) = snapshot.nodes.get(index).map(|node| node.key_hash) else { return };
        match evidence(flags) {
            Evidence::Answered => {
                if pool.failures.answered(index, node, session, tick) {
                    verdicts.push(Verdict::Answered(node));
                }
            }
            Evidence::Failed(kind) => verdicts.push(Verdict::Failed(Failure { node, kind, session })),
            Evidence::None => {}
        }
    }
}

/// True if Berth decides where this request's session is, or would if it had one.
fn is_placed(request: &Request) -> bool {
    match &request.decision {
        Some(Decision::Route { .. } | Decision::Fallback { .. }) => true,
        Some(Decision::Pass { reason, .. }) => {
            // Whether the new id is among those that Berth is switched on for is asked by itself.
            matches!(reason, Reason::NoSession | Reason::TokenRefused | Reason::NotRolledOut)
        }
        Some(Decision::Reply(_) | Decision::Bypass) | None => false,
    }
}

/// Another node answered than the placement's first.
fn note_other_node(placement: &mut Placement, is_pool_cluster: bool) -> Counter {
    // Its pin names another node.
    if matches!(placement.outcome, Outcome::Hit | Outcome::Found) {
        placement.outcome = Outcome::Ring;
    }
    if is_pool_cluster {
        placement.reason = Reason::Retried;
        Counter::Retried
    } else {
        placement.reason = Reason::OtherCluster;
        Counter::OtherCluster
    }
}

/// False if a route took the request to another cluster than the pool's, where our header means nothing.
fn is_routed_to(membership: &Membership, attributes: &dyn Attributes) -> bool {
    match membership {
        Membership::Cluster(name) => {
            route_cluster(attributes).is_none_or(|cluster| cluster == name.as_bytes())
        }
        Membership::Static(_) => true,
    }
}

/// The host that answered, as textual `ip:port`, once there is one.
fn upstream_address(attributes: &dyn Attributes) -> Option<Vec<u8>> {
    attributes.property(&["upstream", "address"])
}

/// How many hosts the request has been sent to, one after the other.
fn upstream_attempts(attributes: &dyn Attributes) -> Option<u64> {
    number(&attributes.property(&["upstream", "request_attempt_count"])?)
}

/// Envoy's response flags as bits; zero while all is well.
fn response_flags(attributes: &dyn Attributes) -> Option<u64> {
    number(&attributes.property(&["response", "flags"])?)
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.first_chunk()?))
}

//! What may be counted or shown, and what it is called. The names of metrics, labels and headers live only here.
//!
//! A stat's labels are dotted segments, `berth_requests_total.pool.nodes.outcome.ring`, which the `stats_tags` of
//! `envoy/envoy.yaml` turn into Prometheus labels. There is never a session id among them.

/// The request header that the `override_host` policy reads.
pub const DESTINATION_HEADER: &str = "x-berth-destination";
/// The request header with the session id that Envoy's own ring hashes when Berth could not place the session.
pub const HASH_KEY_HEADER: &str = "x-berth-hash-key";
/// The value of [`DESTINATION_HEADER`] for such a session: names no host, so the fallback policy picks.
pub const UNPLACED_DESTINATION: &str = "unplaced";
/// The request header that tells a node of a session it does not hold yet: `rehomed; from=…; version=…` if another node
/// had it, `restore; version=…` if the node was restarted since.
pub const SESSION_HEADER: &str = "x-berth-session";
/// Envoy's request header for how often it may try again; 0 where only one node may serve.
pub const RETRIES_HEADER: &str = "x-envoy-max-retries";
/// The response header by which a node ends its session: `1`.
pub const END_HEADER: &str = "x-berth-end";
/// The opt-in response header that says what Berth did.
pub const DEBUG_HEADER: &str = "x-berth";

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The ring placed it.
    Ring,
    /// The ring placed it, and health was ignored.
    Panic,
    /// It names no session; any node will do.
    Sessionless,
    /// Berth answered it.
    Rejected,
    /// The pin cache knew its node.
    Hit,
    /// The state cluster knew its node.
    Found,
    /// No node had the session; the state cluster gave it to this one.
    Claimed,
    /// Its node may not serve it any more; the state cluster gave it to this one.
    Rehomed,
}

impl Outcome {
    /// Every outcome, in the order of its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Ring,
        Self::Panic,
        Self::Sessionless,
        Self::Rejected,
        Self::Hit,
        Self::Found,
        Self::Claimed,
        Self::Rehomed,
    ];

    /// Its name in metrics and headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Panic => "panic",
            Self::Sessionless => "sessionless",
            Self::Rejected => "rejected",
            Self::Hit => "hit",
            Self::Found => "found",
            Self::Claimed => "claimed",
            Self::Rehomed => "rehomed",
        }
    }
}

/// Why it became so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The ring's first choice.
    Owner,
    /// The first choice is in cooldown.
    Cooldown,
    /// The first choice is new and does not take this session yet.
    Warming,
    /// Another node answered than was asked first.
    Retried,
    /// The route led to another cluster than the pool's.
    OtherCluster,
    /// The session began with this request: a cookie was issued.
    Issued,
    /// The response names a session that its node began: it stays with that node.
    Learned,
    /// No session id in any of the sources.
    NoSession,
    /// The membership is not known yet: Envoy's own ring picks.
    NoSnapshot,
    /// Envoy has no cluster of the pool's name, or one that is still warming.
    UnknownCluster,
    /// The pool has no members.
    NoMembers,
    /// Envoy's cluster is of a kind that cannot be steered, so it is left to Envoy.
    UnsupportedCluster,
    /// No member may serve.
    NoUsableNode,
    /// A pin names the node.
    Pin,
    /// The state cluster gave no answer, so the ring decided; where affinity is strict, no node serves the session.
    StateAway,
    /// The session's node vanished together with many others and may be back soon: the node that would be next serves it.
    Vanished,
    /// Affinity is strict, and the session's node may not serve it now.
    PinUnavailable,
    /// The rule leaves its sessions to Envoy.
    AffinityOff,
    /// The session is not among those that Berth is switched on for.
    NotRolledOut,
    /// Berth only looks on.
    Observed,
    /// Its token is not to be believed.
    TokenRefused,
    /// Its session is older than it may become.
    SessionOver,
    /// Its token was replaced by one with a higher version.
    Superseded,
    /// No key is known yet that could tell whether its token is to be believed.
    KeysAway,
    /// Its token could not be checked: too many wait for that.
    TokenUnchecked,
}

impl Reason {
    /// Its name in metrics and headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Cooldown => "cooldown",
            Self::Warming => "warming",
            Self::Retried => "retried",
            Self::OtherCluster => "other_cluster",
            Self::Issued => "issued",
            Self::Learned => "learned",
            Self::NoSession => "no_session",
            Self::NoSnapshot => "no_snapshot",
            Self::UnknownCluster => "unknown_cluster",
            Self::NoMembers => "no_members",
            Self::UnsupportedCluster => "unsupported_cluster",
            Self::NoUsableNode => "no_usable_node",
            Self::Pin => "pin",
            Self::StateAway => "state_away",
            Self::Vanished => "vanished",
            Self::PinUnavailable => "pin_unavailable",
            Self::AffinityOff => "affinity_off",
            Self::NotRolledOut => "not_rolled_out",
            Self::Observed => "observed",
            Self::TokenRefused => "token_refused",
            Self::SessionOver => "session_over",
            Self::Superseded => "superseded",
            Self::KeysAway => "keys_away",
            Self::TokenUnchecked => "token_unchecked",
        }
    }
}

/// A counter of a pool. All are counted in the VM and flushed once a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// `berth_requests_total{outcome}`.
    Requests(Outcome),
    /// `berth_unplaced_total{reason}`: sessions that Envoy's own ring placed.
    Unplaced(Unplaced),
    /// `berth_reassignments_total{reason="retried"}`: another node answered than the owner.
    Retried,
    /// `berth_passive_ejections_total`: nodes put into cooldown by a worker's own count.
    PassiveEjections,
    /// `berth_polls_total{result}`: looks at the membership.
    Polls(PollResult),
    /// `berth_leader_changes_total`: a VM took over the polling.
    LeaderChanges,
    /// `berth_reassignments_total{reason="rehomed"}`: the state cluster moved a session for this VM.
    Rehomed,
    /// `berth_state_calls_total{result}`: questions to the state cluster.
    StateCalls(CallResult),
    /// `berth_restored_total`: sessions whose node was notified to load their state.
    Restored,
    /// `berth_resyncs_total`: all pins are hints from then on, because changes were missed.
    Resyncs,
    /// `berth_ended_total`: sessions that their node ended with [`END_HEADER`].
    Ended,
    /// `berth_returned_total`: sessions that are served again by their node, which had vanished and is back.
    Returned,
    /// `berth_reassignments_total{reason="other_cluster"}`: the route led to another cluster than the pool's, and so to
    /// another node than the owner.
    OtherCluster,
    /// `berth_dropped_total{reason}`: what a bound of this VM's memory did not let it keep.
    Dropped(Dropped),
    /// `berth_learned_total{result}`: sessions whose ids nodes minted.
    Learned(Learned),
    /// `berth_forged_total`: headers of Berth's own that a client or a backend sent through a listener which was to remove them.
    Forged,
}

/// What came of a session whose id a node minted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Its pin names that node.
    Pinned,
    /// Its pin names another node, and stays: the first claim counts.
    Elsewhere,
    /// The state cluster gave no answer: this worker remembers the node, and claims the session for it later.
    StateAway,
}

/// What did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// A pin that had not expired was pushed out by another, or could not be kept: its session is asked about again.
    Pin,
    /// The end of a session was not reported to the state cluster: its pin lives on for its time to live.
    End,
}

/// What a rule did with a request: `berth_rule_requests_total{rule,result}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleResult {
    /// Berth took it.
    Enforced,
    /// It is Envoy's, because the rollout does not include its session.
    NotRolledOut,
    /// It is Envoy's, because the rule's affinity is off.
    AffinityOff,
    /// Berth looked on; Envoy chose the node that Berth would have.
    ObservedSame,
    /// Berth looked on; it would have chosen another node than Envoy did.
    ObservedMoved,
    /// It was answered with 503 rather than sent to another node than its session's.
    Withheld,
    /// It names no session; any node will do.
    Sessionless,
    /// Berth answered it for another reason.
    Rejected,
}

impl RuleResult {
    /// Every result, in the order of its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Enforced,
        Self::NotRolledOut,
        Self::AffinityOff,
        Self::ObservedSame,
        Self::ObservedMoved,
        Self::Withheld,
        Self::Sessionless,
        Self::Rejected,
    ];

    /// The stat's name for this rule.
    #[must_use]
    pub fn stat(self, rule: &str) -> String {
        let result = match self {
            Self::Enforced => "enforced",
            Self::NotRolledOut => "not_rolled_out",
            Self::AffinityOff => "affinity_off",
            Self::ObservedSame => "observed_same",
            Self::ObservedMoved => "observed_moved",
            Self::Withheld => "withheld",
            Self::Sessionless => "sessionless",
            Self::Rejected => "rejected",
        };
        format!("berth_rule_requests_total.rule.{rule}.result.{result}")
    }
}

/// The counter of what came of tokens: `berth_tokens_total{provider,result}`, with the names of refusals as results.
#[must_use]
pub fn tokens_stat(provider: &str, result: &str) -> String {
    format!("berth_tokens_total.provider.{provider}.result.{result}")
}

/// The counter of looks at a published key set: `berth_jwks_fetches_total{provider,result}`.
#[must_use]
pub fn jwks_stat(provider: &str, is_good: bool) -> String {
    format!("berth_jwks_fetches_total.provider.{provider}.result.{}", if is_good { "ok" } else { "failed" })
}

/// Why Envoy's own ring had to place a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplaced {
    /// The membership is not known yet.
    NoSnapshot,
    /// The pool has no members.
    NoMembers,
    /// Its cluster cannot be steered.
    UnsupportedCluster,
    /// Envoy does not know its cluster.
    UnknownCluster,
}

/// How a poll of the admin interface ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// It named the pool's cluster.
    Ok,
    /// No answer, or not 200.
    Failed,
    /// An answer that does not name the pool's cluster.
    UnknownCluster,
}

/// How a question to the state cluster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// With an answer.
    Ok,
    /// With an error, or with an answer that cannot be read.
    Failed,
    /// Not in time.
    TimedOut,
    /// Before it began: the breaker was open, or too many were under way.
    Skipped,
}

impl CallResult {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Skipped => "skipped",
        }
    }
}

impl Counter {
    /// Every counter; its place here is its place in an array of values.
    pub const ALL: [Self; 34] = [
        Self::Requests(Outcome::Ring),
        Self::Requests(Outcome::Panic),
        Self::Requests(Outcome::Sessionless),
        Self::Requests(Outcome::Rejected),
        Self::Requests(Outcome::Hit),
        Self::Requests(Outcome::Found),
        Self::Requests(Outcome::Claimed),
        Self::Requests(Outcome::Rehomed),
        Self::Unplaced(Unplaced::NoSnapshot),
        Self::Unplaced(Unplaced::NoMembers),
        Self::Unplaced(Unplaced::UnsupportedCluster),
        Self::Retried,
        Self::PassiveEjections,
        Self::Polls(PollResult::Ok),
        Self::Polls(PollResult::Failed),
        Self::Polls(PollResult::UnknownCluster),
        Self::LeaderChanges,
        Self::Rehomed,
        Self::StateCalls(CallResult::Ok),
        Self::StateCalls(CallResult::Failed),
        Self::StateCalls(CallResult::TimedOut),
        Self::StateCalls(CallResult::Skipped),
        Self::Restored,
        Self::Resyncs,
        Self::Ended,
        Self::Returned,
        Self::OtherCluster,
        Self::Dropped(Dropped::Pin),
        Self::Dropped(Dropped::End),
        Self::Learned(Learned::Pinned),
        Self::Learned(Learned::Elsewhere),
        Self::Learned(Learned::StateAway),
        Self::Unplaced(Unplaced::UnknownCluster),
        Self::Forged,
    ];

    /// Its place in [`Counter::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Requests(outcome) => outcome as usize,
            Self::Unplaced(Unplaced::UnknownCluster) => 32,
            Self::Unplaced(reason) => 8 + reason as usize,
            Self::Retried => 11,
            Self::PassiveEjections => 12,
            Self::Polls(result) => 13 + result as usize,
            Self::LeaderChanges => 16,
            Self::Rehomed => 17,
            Self::StateCalls(result) => 18 + result as usize,
            Self::Restored => 22,
            Self::Resyncs => 23,
            Self::Ended => 24,
            Self::Returned => 25,
            Self::OtherCluster => 26,
            Self::Dropped(what) => 27 + what as usize,
            Self::Learned(result) => 29 + result as usize,
            Self::Forged => 33,
        }
    }

    /// The stat's name for this pool.
    #[must_use]
    pub fn stat(self, pool: &str) -> String {
        let (name, label) = match self {
            Self::Requests(outcome) => ("requests", format!(".outcome.{}", outcome.name())),
            Self::Unplaced(Unplaced::NoSnapshot) => ("unplaced", ".reason.no_snapshot".to_owned()),
            Self::Unplaced(Unplaced::NoMembers) => ("unplaced", ".reason.no_members".to_owned()),
            Self::Unplaced(Unplaced::UnsupportedCluster) => {
                ("unplaced", ".reason.unsupported_cluster".to_owned())
            }
            Self::Unplaced(Unplaced::UnknownCluster) => ("unplaced", ".reason.unknown_cluster".to_owned()),
            Self::Retried => ("reassignments", ".reason.retried".to_owned()),
            Self::PassiveEjections => ("passive_ejections", String::new()),
            Self::Polls(PollResult::Ok) => ("polls", ".result.ok".to_owned()),
            Self::Polls(PollResult::Failed) => ("polls", ".result.failed".to_owned()),
            Self::Polls(PollResult::UnknownCluster) => ("polls", ".result.unknown_cluster".to_owned()),
            Self::LeaderChanges => ("leader_changes", String::new()),
            Self::Rehomed => ("reassignments", ".reason.rehomed".to_owned()),
            Self::StateCalls(result) => ("state_calls", format!(".result.{}", result.name())),
            Self::Restored => ("restored", String::new()),
            Self::Resyncs => ("resyncs", String::new()),
            Self::Ended => ("ended", String::new()),
            Self::Returned => ("returned", String::new()),
            Self::Dropped(Dropped::Pin) => ("dropped", ".reason.pin".to_owned()),
            Self::Dropped(Dropped::End) => ("dropped", ".reason.end".to_owned()),
            Self::Forged => ("forged", String::new()),
            Self::OtherCluster => ("reassignments", ".reason.other_cluster".to_owned()),
            Self::Learned(Learned::Pinned) => ("learned", ".result.pinned".to_owned()),
            Self::Learned(Learned::Elsewhere) => ("learned", ".result.elsewhere".to_owned()),
            Self::Learned(Learned::StateAway) => ("learned", ".result.state_away".to_owned()),
        };
        format!("berth_{name}_total.pool.{pool}{label}")
    }
}

/// The gauge of how many nodes of a pool are in a state: `berth_nodes{pool,state}`.
#[must_use]
pub fn nodes_gauge(pool: &str, state: &str) -> String {
    format!("berth_nodes.pool.{pool}.state.{state}")
}

/// The gauge of whether a pool is in panic: `berth_panic{pool}`, 0 or 1.
#[must_use]
pub fn panic_gauge(pool: &str) -> String {
    format!("berth_panic.pool.{pool}")
}

/// The gauge of how long ago Envoy was last seen to name a pool's members: `berth_membership_age_seconds{pool}`.
#[must_use]
pub fn membership_age_gauge(pool: &str) -> String {
    format!("berth_membership_age_seconds.pool.{pool}")
}

/// The gauge of how many pins are remembered: `berth_pins{pool}`.
#[must_use]
pub fn pins_gauge(pool: &str) -> String {
    format!("berth_pins.pool.{pool}")
}

/// The gauge of whether the state cluster is not asked because it failed: `berth_state_breaker_open{pool}`.
#[must_use]
pub fn breaker_gauge(pool: &str) -> String {
    format!("berth_state_breaker_open.pool.{pool}")
}

/// The counter of requests that matched no pool: `berth_bypassed_total`.
pub const BYPASSED_STAT: &str = "berth_bypassed_total";
/// The counter of forged headers among those: `berth_bypassed_forged_total`.
pub const BYPASSED_FORGED_STAT: &str = "berth_bypassed_forged_total";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_stands_at_its_index() {
        for (index, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(counter.index(), index, "{counter:?}");
        }
        assert!(RuleResult::ALL.iter().enumerate().all(|(index, result)| *result as usize == index));
        assert!(Outcome::ALL.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
    }

    #[test]
    fn no_two_counters_share_a_stat() {
        let stats: std::collections::BTreeSet<String> =
            Counter::ALL.iter().map(|counter| counter.stat("nodes")).collect();

        assert_eq!(stats.len(), Counter::ALL.len());
    }

    #[test]
    fn stat_names_follow_the_shipped_tag_rules() {
        assert_eq!(
            Counter::Requests(Outcome::Ring).stat("nodes"),
            "berth_requests_total.pool.nodes.outcome.ring"
        );
        assert_eq!(Counter::LeaderChanges.stat("nodes"), "berth_leader_changes_total.pool.nodes");
        assert_eq!(
            RuleResult::ObservedMoved.stat("premium"),
            "berth_rule_requests_total.rule.premium.result.observed_moved"
        );
        assert_eq!(Counter::Rehomed.stat("nodes"), "berth_reassignments_total.pool.nodes.reason.rehomed");
        assert_eq!(
            Counter::StateCalls(CallResult::TimedOut).stat("nodes"),
            "berth_state_calls_total.pool.nodes.result.timed_out"
        );
    }
}

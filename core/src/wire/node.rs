//! What is recorded of a node: the operator's word and its own, its boot id, and the cooldown that proxies share.
//!
//! Two may say what a node is fit for, and neither may undo what the other said: a node that repeats itself with each health
//! check would end every drain. So both words are kept, and the worse one counts. It is `state`, which is all that proxies
//! read; the other fields are for people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::change::Cursor;
use super::name::NodeId;

/// What the operator, or the node itself, wants of a node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Old and new sessions.
    #[default]
    Active,
    /// Old sessions only: something is wrong with it.
    Degraded,
    /// Old sessions only: it will leave.
    Draining,
    /// Old sessions only: it is held in reserve.
    Standby,
}

impl NodeState {
    /// All of them with their names.
    pub const ALL: [(&'static str, Self); 4] = [
        ("active", Self::Active),
        ("degraded", Self::Degraded),
        ("draining", Self::Draining),
        ("standby", Self::Standby),
    ];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Standby => "standby",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, state)| *state)
    }

    /// The one of two that counts if both were said: in the order in which [`crate::health::Health::state`] asks for them.
    #[must_use]
    pub fn or_worse(self, other: Self) -> Self {
        let badness = |state| match state {
            Self::Active => 0,
            Self::Standby => 1,
            Self::Degraded => 2,
            Self::Draining => 3,
        };
        if badness(other) > badness(self) { other } else { self }
    }
}

/// A node as the state cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Which node.
    pub node: NodeId,
    /// What counts: the worse of the operator's word and its own.
    #[serde(default)]
    pub state: NodeState,
    /// The operator's word, where its own is worse; else that is `state`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_state: Option<NodeState>,
    /// Its own word, since it was last started; absent if it said none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_state: Option<NodeState>,
    /// Berth's factor on Envoy's weight; absent is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Different after each start of the node, if it says it at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Why, in the operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Out of service until then, by the clock of the store; absent or past is in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_until_ms: Option<u64>,
    /// Grows with each change; 0 if nothing was ever said of the node.
    pub version: u64,
    /// When it last changed.
    #[serde(default)]
    pub updated_ms: u64,
    /// The record was forgotten on request. What is left is there so that proxies which missed that learn of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// A record that says nothing any more is kept so long, in milliseconds: a day. A proxy that received
/// nothing for longer is not running.
pub const SPENT_KEPT: u64 = 24 * 3_600_000;

impl NodeRecord {
    /// A node of which nothing is recorded: active.
    #[must_use]
    pub fn unknown(node: NodeId) -> Self {
        Self {
            node,
            state: NodeState::Active,
            operator_state: None,
            self_state: None,
            weight: None,
            boot_id: None,
            note: None,
            cooldown_until_ms: None,
            version: 0,
            updated_ms: 0,
            forgotten: false,
        }
    }

    /// The operator's word.
    #[must_use]
    pub fn operator_state(&self) -> NodeState {
        self.operator_state.unwrap_or(self.state)
    }

    /// True if shared cooldown keeps it out of service at `now_ms`.
    #[must_use]
    pub fn is_in_cooldown(&self, now_ms: u64) -> bool {
        self.cooldown_until_ms.is_some_and(|until| until > now_ms)
    }

    /// True if a session without an owner may come here.
    #[must_use]
    pub fn takes_new_sessions(&self, now_ms: u64) -> bool {
        self.state == NodeState::Active && !self.is_in_cooldown(now_ms)
    }

    /// The record for a reader whose clock shows `here` while the store's shows `there`: its cooldown ends by the reader's
    /// clock. The other times stay, as they are only compared with each other.
    #[must_use]
    pub fn by_clock(self, there: u64, here: u64) -> Self {
        let ahead = here.wrapping_sub(there).cast_signed();
        let cooldown_until_ms = self.cooldown_until_ms.map(|until| until.saturating_add_signed(ahead));
        Self { cooldown_until_ms, ..self }
    }

    /// True if it says nothing any more, and has not for long: who still has it loses nothing with it. A cooldown that is
    /// over is nothing; a boot id is something, as the node may have said it once and live for years.
    #[must_use]
    pub fn is_spent(&self, now_ms: u64) -> bool {
        let said = (self.state, self.self_state, self.weight, &self.boot_id, &self.note);
        let last = self.updated_ms.max(self.cooldown_until_ms.unwrap_or(0));
        said == (NodeState::Active, None, None, &None, &None) && last.saturating_add(SPENT_KEPT) <= now_ms
    }

    /// The record with `change` made: what it leaves out stays, and cooldown never gets shorter. `None` if that changes
    /// nothing, so that a node may repeat itself.
    ///
    /// With another boot id the node's word is over that it gave before it was started.
    #[must_use]
    pub fn with(&self, change: &NodeChange, now_ms: u64) -> Option<Self> {
        let mut next = self.clone();
        let was_started = change.boot_id.is_some() && change.boot_id != self.boot_id;
        next.self_state = change.self_state.or(self.self_state.filter(|_| !was_started));
        let operator_state = change.state.unwrap_or(self.operator_state());
        next.state = operator_state.or_worse(next.self_state.unwrap_or_default());
        next.operator_state = Some(operator_state).filter(|state| *state != next.state);
        next.weight = change.weight.or(next.weight);
        next.boot_id = change.boot_id.clone().or(next.boot_id);
        next.note = match change.note.as_deref() {
            Some("") => None,
            Some(note) => Some(note.to_owned()),
            None => next.note,
        };
        let by_length = change.cooldown_ms.map(|left| now_ms.saturating_add(left));
        next.cooldown_until_ms = next.cooldown_until_ms.max(change.cooldown_until_ms).max(by_length);
        next.forgotten = false;
        if next == *self && self.version > 0 {
            return None;
        }
        next.version += 1;
        next.updated_ms = now_ms;
        Some(next)
    }

    /// What is left when all of it is forgotten; `None` if there is nothing to forget. For proxies it is a record like any
    /// other, of a node that is active.
    #[must_use]
    pub fn without_all(&self, now_ms: u64) -> Option<Self> {
        let left = Self {
            version: self.version + 1,
            updated_ms: now_ms,
            forgotten: true,
            ..Self::unknown(self.node.clone())
        };
        (self.version > 0 && !self.forgotten).then_some(left)
    }
}

/// `PUT /v1/nodes/{node}`: what is to change; what is absent stays.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct NodeChange {
    /// The operator's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<NodeState>,
    /// The node's own: not standby, which is the operator's to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub self_state: Option<NodeState>,
    /// The new weight, 1 to [`super::MAX_WEIGHT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The boot id that the node has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The new note; empty removes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Out of service at least until then, by the clock of the store. Only ever extends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_until_ms: Option<u64>,
    /// Out of service at least for this long from now on, 0 to [`super::MAX_COOLDOWN`]. Only ever extends. Of a caller whose
    /// clock may differ from the store's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<u64>,
    /// The change event repeats it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesReply {
    /// All that anything is recorded of, and for a day those that were forgotten, in order of their names.
    pub nodes: Vec<NodeRecord>,
    /// The time on the store's clock; absent if no node here has had a cooldown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now_ms: Option<u64>,
}

/// The answer to `GET /v1/counts`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountReply {
    /// How many pins of the pool were looked at.
    pub pins: u64,
    /// The keys were looked at to the last one: these are all pins that it has, or all after the position that was asked for.
    /// Else they are a sample.
    pub complete: bool,
    /// How many of them each node has.
    pub nodes: BTreeMap<NodeId, u64>,
    /// Where the next call goes on; absent at the end, and from services of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

/// The answer to `DELETE /v1/nodes/{node}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetReply {
    /// True: something was recorded, and was deleted.
    pub forgotten: bool,
    /// Whether replicas have confirmed it; absent unless the service runs with quorum durability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
}

/// The answer to `PUT /v1/nodes/{node}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReply {
    /// The record as it is now.
    #[serde(flatten)]
    pub record: NodeRecord,
    /// Whether replicas have confirmed it in each shard; absent unless the service runs with quorum durability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NodeRecord {
        NodeRecord::unknown("10.0.0.1:80".parse().unwrap())
    }

    fn operator(state: NodeState) -> NodeChange {
        NodeChange { state: Some(state), ..NodeChange::default() }
    }

    fn itself(state: NodeState, boot_id: &str) -> NodeChange {
        NodeChange { self_state: Some(state), boot_id: Some(boot_id.to_owned()), ..NodeChange::default() }
    }

    #[test]
    fn the_worse_word_counts_and_neither_undoes_the_other() {
        use NodeState::{Active, Degraded, Draining, Standby};
        for (operators, own, state) in [
            (Active, Active, Active),
            (Active, Degraded, Degraded),
            (Degraded, Active, Degraded),
            (Degraded, Draining, Draining),
            (Draining, Degraded, Draining),
            (Standby, Active, Standby),
            (Standby, Draining, Draining),
            (Draining, Draining, Draining),
        ] {
            let said = [operator(operators), itself(own, "b")];
            for order in [[0, 1], [1, 0]] {
                let mut now = record();
                for place in order {
                    now = now.with(&said[place], 1).unwrap_or(now);
                }
                assert_eq!((now.state, now.operator_state(), now.self_state), (state, operators, Some(own)));
                assert_eq!(now.operator_state.is_some(), operators != state);
                // Who repeats itself changes nothing.
                assert_eq!((now.with(&said[0], 2), now.with(&said[1], 2)), (None, None));
            }
        }
    }

    #[test]
    fn a_cooldown_that_is_said_by_its_length_ends_by_the_stores_clock_and_only_extends() {
        let cooling = |left| NodeChange { cooldown_ms: Some(left), ..NodeChange::default() };
        let until = |record: &NodeRecord| record.cooldown_until_ms;

        let first = record().with(&cooling(8_000), 1_000).unwrap();

        assert_eq!(until(&first), Some(9_000));
        assert_eq!(first.with(&cooling(500), 2_000), None);
        assert_eq!(until(&first.with(&cooling(16_000), 2_000).unwrap()), Some(18_000));
        let both = NodeChange { cooldown_until_ms: Some(20_000), ..cooling(8_000) };
        assert_eq!(until(&first.with(&both, 2_000).unwrap()), Some(20_000));
    }

    #[test]
    fn a_start_ends_the_nodes_own_word() {
        let leaving = record().with(&itself(NodeState::Draining, "one"), 1).unwrap();
        let started = NodeChange { boot_id: Some("two".to_owned()), ..NodeChange::default() };

        let back = leaving.with(&started, 2).unwrap();

        assert_eq!((back.state, back.operator_state, back.self_state), (NodeState::Active, None, None));
        let drained = leaving.with(&operator(NodeState::Draining), 2).unwrap();
        assert_eq!(drained.with(&started, 3).unwrap().state, NodeState::Draining);
    }

    #[test]
    fn what_is_forgotten_leaves_a_higher_version_and_is_forgotten_once() {
        let drained = record().with(&operator(NodeState::Draining), 1).unwrap();
        let left = drained.without_all(2).unwrap();
        assert_eq!((left.state, left.version, left.updated_ms), (NodeState::Active, 2, 2));
        assert_eq!((left.without_all(3), record().without_all(3)), (None, None));

        // Whatever is said next, it is on record again.
        let again = left.with(&NodeChange::default(), 3).unwrap();
        assert_eq!((again.version, again.forgotten), (3, false));
    }

    #[test]
    fn a_record_is_spent_a_day_after_it_last_said_something() {
        let cooling = NodeChange { cooldown_until_ms: Some(5_000), ..NodeChange::default() };
        let cooled = record().with(&cooling, 1_000).unwrap();
        assert!(!cooled.is_spent(5_000 + SPENT_KEPT - 1) && cooled.is_spent(5_000 + SPENT_KEPT));
        let left = cooled.without_all(7_000).unwrap();
        assert!(!left.is_spent(7_000 + SPENT_KEPT - 1) && left.is_spent(7_000 + SPENT_KEPT));

        for change in [
            operator(NodeState::Draining),
            itself(NodeState::Active, "b"),
            NodeChange { weight: Some(1), ..NodeChange::default() },
            NodeChange { note: Some("n".to_owned()), ..NodeChange::default() },
            NodeChange { boot_id: Some("b".to_owned()), ..NodeChange::default() },
        ] {
            assert!(!record().with(&change, 0).unwrap().is_spent(u64::MAX), "{change:?}");
        }
    }
}

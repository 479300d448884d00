//! Whether the owner that the state cluster names can be used here, and which nodes this proxy tells it cannot be.
//!
//! Two proxies do not see members come and go at the same moment. An owner that is not a member here may be a node that
//! another proxy has just given the session to. So it counts as gone only if this VM saw it leave, or if the session has
//! been there for longer than two views can be apart, which the state cluster says with each pin. Nothing is remembered
//! for each owner, so any number of nodes may come and go. Nothing here looks at sessions.

use std::collections::{BTreeMap, VecDeque};

use crate::health::State;
use crate::membership::is_plain_address;
use crate::snapshot::Snapshot;
use crate::time::Millis;
use crate::wire::{MAX_UNUSABLE, NodeId};

/// How far two proxies' views of a membership may be apart: a poll of each, and the first health check. Short for a
/// session whose owner no longer exists.
const GRACE: Millis = Millis(5_000);
/// Nodes that left and are named without being asked for, which saves their sessions a second question. One that is
/// forgotten costs that question and nothing else.
const MAX_GONE: usize = 32;
/// The names of unusable nodes in one question, in bytes: as many as [`MAX_UNUSABLE`] addresses of IPv6 take, so that a
/// batch stays below the longest body whatever nodes are called.
const MAX_NAMED_BYTES: usize = MAX_UNUSABLE * 51;

/// How long a session stays where the ring put it before the state cluster is asked again.
pub const PROVISIONAL: Millis = Millis(2_000);
/// The same, if another proxy has just given it to an owner that is not known here: that is about to change.
const DISPUTED: Millis = Millis(250);

/// What can be done with an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Send the session there: its place in the snapshot.
    Usable(usize),
    /// It vanished together with many others and may be back soon: nothing it owns is given away until then.
    Held,
    /// Not here and now. Another proxy may know better: ask again soon.
    Unknown,
    /// It is out, or gone: ask again and say so.
    Unusable,
}

/// What one VM knows of the nodes that may be named as owners.
#[derive(Debug, Default, Clone)]
pub struct Owners {
    /// By place in the snapshot; `None` for a name that no pin can have.
    ids: Vec<Option<NodeId>>,
    places: BTreeMap<NodeId, usize>,
    /// What else pins call members: see [`crate::roster::Node::alias`].
    aliases: BTreeMap<NodeId, usize>,
    /// The last that left, the latest at the end.
    gone: VecDeque<NodeId>,
    /// Members whose first check has not answered: since when this VM knows them so.
    pending: BTreeMap<NodeId, Millis>,
    has_newcomers: bool,
    /// When this VM first knew any members.
    since: Option<Millis>,
    /// Of members, and of those in `gone`.
    boots: BTreeMap<NodeId, u64>,
}

/// What a node says of its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first that is known here.
    First,
    /// Another one than before.
    Next,
}

impl Owners {
    /// Takes over the members of a new snapshot. Returns the places of those that were restarted, also if they say for the first time
    /// with which start they run: the state cluster does not know yet with which one their sessions began.
    pub fn adopt(&mut self, snapshot: &Snapshot, now: Millis) -> Vec<(usize, Start)> {
        // A clock that was set back must not prolong anything.
        let earlier = |since: Option<&Millis>| since.map_or(now, |since| now.min(*since));
        // A proxy may start before there is any member.
        if !snapshot.nodes.is_empty() {
            self.since = Some(earlier(self.since.as_ref()));
        }
        self.ids = snapshot.nodes.iter().map(|node| node.name.parse().ok()).collect();
        let before = std::mem::take(&mut self.places);
        for (place, id) in self.ids.iter_mut().enumerate() {
            // A question that names a node twice is refused, so a name belongs to the first that has it.
            *id = id.take().filter(|id| !self.places.contains_key(id));
            self.places.extend(id.clone().map(|id| (id, place)));
        }
        self.has_newcomers = self.places.keys().any(|id| !before.contains_key(id));
        self.aliases.clear();
        // Of two the last counts: a node that has moved is older than one that has come to its address.
        for has_moved in [false, true] {
            for (place, node) in snapshot.nodes.iter().enumerate() {
                if let Some(alias) =
                    node.alias.as_ref().filter(|alias| (**alias != node.address) == has_moved)
                    && let Ok(id) = alias.parse()
                {
                    self.aliases.insert(id, place);
                }
            }
        }
        let is_pending =
            |place: usize| snapshot.nodes.get(place).is_some_and(|node| node.state == State::Pending);
        let pending = self.places.iter().filter(|(_, place)| is_pending(**place));
        self.pending = pending.map(|(id, _)| (id.clone(), earlier(self.pending.get(id)))).collect();
        let (places, gone) = (&self.places, &mut self.gone);
        gone.retain(|id| !places.contains_key(id));
        gone.extend(before.into_keys().filter(|id| !places.contains_key(id)));
        let surplus = gone.len().saturating_sub(MAX_GONE);
        gone.drain(..surplus);
        self.boots.retain(|id, _| places.contains_key(id) || gone.contains(id));
        self.started(snapshot)
    }

    fn started(&mut self, snapshot: &Snapshot) -> Vec<(usize, Start)> {
        let boots = &mut self.boots;
        let nodes = snapshot.nodes.iter().zip(&self.ids).enumerate();
        // One that has just come back is not on record yet, and is no other than before until it is.
        let said = nodes.filter_map(|(place, (node, id))| Some((place, id.as_ref()?, node.boot?)));
        said.filter_map(|(place, id, boot)| match boots.insert(NodeId::clone(id), boot) {
            Some(before) => (before != boot).then_some((place, Start::Next)),
            None => Some((place, Start::First)),
        })
        .collect()
    }

    /// True if the latest snapshot has members that pins can name and that the one before it had not.
    #[must_use]
    pub fn has_newcomers(&self) -> bool {
        self.has_newcomers
    }

    /// The names of candidates on the wire, with their places.
    #[must_use]
    pub fn names(&self, places: &[usize]) -> Vec<NodeId> {
        places.iter().filter_map(|place| self.ids.get(*place).cloned().flatten()).collect()
    }

    /// A member that no pin can name, if there is one: only the ring sends sessions there.
    #[must_use]
    pub fn unnamed(&self) -> Option<usize> {
        self.ids.iter().position(Option::is_none)
    }

    /// What can be done with `owner`, which has had the session for `owned`. A state cluster that does not say for how long
    /// counts as saying "for long".
    #[must_use]
    pub fn judge(&self, owner: &NodeId, owned: Option<Millis>, snapshot: &Snapshot, now: Millis) -> Standing {
        let is_recent = |time: Millis| time < GRACE;
        // A node that has come to the address of a held one is not the one that the pin means.
        let alias = || self.aliases.get(owner).filter(|_| !snapshot.is_held(owner.as_str()));
        let Some(place) = self.places.get(owner).or_else(alias).copied() else {
            if may_be_unseen_name(owner, snapshot) {
                return Standing::Unknown;
            }
            if snapshot.is_held(owner.as_str()) {
                return Standing::Held;
            }
            // What left before this VM looked may be held by proxies that saw it leave.
            let may_be_held = |since| now.since(since) < GRACE.max(snapshot.vanish_grace);
            let is_news = owned.is_some_and(is_recent) || self.since.is_none_or(may_be_held);
            // In panic no pin is rewritten, so there is nothing to say of it.
            return if snapshot.has_panic() || is_news && !self.gone.contains(owner) {
                Standing::Unknown
            } else {
                Standing::Unusable
            };
        };
        // The first check of a pending member has not answered here, but the other proxy has seen it well, or it would own
        // nothing.
        let id = self.ids.get(place).and_then(Option::as_ref);
        let since = id.and_then(|id| self.pending.get(id));
        let is_new = since.is_some_and(|since| is_recent(now.since(*since)));
        if is_new || snapshot.may_serve(place) { Standing::Usable(place) } else { Standing::Unusable }
    }

    /// The nodes that may not serve a session now, each once, as many as fit into a question. Those of `last` come first:
    /// where the session was, as far as this VM knows. If its owner is missing here, the answer names it, and it can be
    /// named in a second question. None in panic, when health is not believed.
    #[must_use]
    pub fn unusable(&self, last: &[NodeId], snapshot: &Snapshot, now: Millis) -> Vec<NodeId> {
        if snapshot.has_panic() {
            return Vec::new();
        }
        let is_out = |id: &&NodeId| self.judge(id, None, snapshot, now) == Standing::Unusable;
        let in_cooldown = |(place, _): &(usize, &Option<NodeId>)| {
            snapshot.nodes.get(*place).is_some_and(|node| node.state == State::Cooldown)
        };
        let cooling = self.ids.iter().enumerate().filter(in_cooldown).filter_map(|(_, id)| id.as_ref());
        let others = cooling.chain(self.pending.keys()).chain(self.gone.iter().rev());
        let mut named: Vec<NodeId> = Vec::new();
        let mut bytes = 0;
        for id in last.iter().chain(others).filter(is_out) {
            bytes += id.as_str().len();
            if named.len() == MAX_UNUSABLE || bytes > MAX_NAMED_BYTES {
                break;
            }
            // Only those of `last` can be among the others again.
            if !named.iter().take(last.len()).any(|other| other == id) {
                named.push(id.clone());
            }
        }
        named
    }
}

/// How long a session stays where the ring put it because its owner, which has had it for `owned`, cannot be used here. Only an
/// owner that is news may appear at any moment. In a panic, after a start, or with a name that this proxy cannot see, it may
/// take long, and no answer of the state cluster ends that.
#[must_use]
pub fn provisional_time(owner: &NodeId, owned: Option<Millis>, snapshot: &Snapshot) -> Millis {
    let is_news = owned.is_some_and(|owned| owned < GRACE);
    if is_news && !snapshot.has_panic() && !may_be_unseen_name(owner, snapshot) {
        DISPUTED
    } else {
        PROVISIONAL
    }
}

/// True if it may be one of the members, under a name that this proxy cannot see.
fn may_be_unseen_name(owner: &NodeId, snapshot: &Snapshot) -> bool {
    snapshot.nameless && !is_plain_address(owner.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::HealthPolicy;
    use crate::membership::{HostFlags, Observation};
    use crate::ring::{Algorithm, RingSize};
    use crate::roster::Roster;
    use crate::wire::NodeRecord;

    fn at(seconds: u64) -> Millis {
        Millis(1_000_000 + seconds * 1000)
    }

    fn node(number: usize) -> NodeId {
        format!("10.0.{}.{}:80", number / 256, number % 256).parse().unwrap()
    }

    /// The nodes with these numbers, the second value of each saying what Envoy says of it.
    fn look(roster: &mut Roster, members: &[(usize, HostFlags)], now: Millis) -> Snapshot {
        let host = |&(number, flags): &(usize, HostFlags)| Observation {
            address: node(number).to_string(),
            weight: 1,
            flags,
            ..Observation::default()
        };
        let policy = HealthPolicy { warm_up: Millis(0), vanish_grace: Millis(0), ..HealthPolicy::default() };
        roster.observe(members.iter().map(host).collect(), &policy, now);
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(3));
        Snapshot::build(roster, algorithm, &policy, now, None).unwrap()
    }

    /// How long a session has been with its owner.
    const LONG: Option<Millis> = Some(Millis(3_600_000));
    const SHORT: Option<Millis> = Some(Millis(100));

    const GOOD: HostFlags =
        HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };
    const BAD: HostFlags = HostFlags { unhealthy: true, ..GOOD };
    const PENDING: HostFlags = HostFlags { pending: true, ..GOOD };

    #[test]
    fn a_member_that_serves_is_usable_and_one_in_cooldown_is_named() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (2, GOOD), (3, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (3, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));

        assert_eq!(owners.judge(&node(1), LONG, &snapshot, at(1)), Standing::Usable(0));
        assert_eq!(owners.judge(&node(2), LONG, &snapshot, at(1)), Standing::Unusable);
        assert_eq!(owners.unusable(&[], &snapshot, at(1)), [node(2)]);
        assert_eq!(owners.names(&[2, 0]), [node(3), node(1)]);
    }

    #[test]
    fn in_panic_every_member_is_usable_and_no_node_is_named() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (2, GOOD), (3, GOOD), (4, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD), (3, GOOD), (4, GOOD)], at(0));
        owners.adopt(&snapshot, at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (3, BAD)], at(20));
        owners.adopt(&snapshot, at(20));
        assert!(snapshot.has_panic());

        assert_eq!(owners.judge(&node(2), LONG, &snapshot, at(20)), Standing::Usable(1));
        assert_eq!(owners.judge(&node(4), LONG, &snapshot, at(20)), Standing::Unknown);
        assert!(owners.unusable(&[node(2), node(4)], &snapshot, at(20)).is_empty());
    }

    #[test]
    fn a_member_that_left_is_gone_until_it_is_back() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(0));
        owners.adopt(&snapshot, at(0));
        let snapshot = look(&mut roster, &[(1, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));
        assert_eq!(owners.judge(&node(2), SHORT, &snapshot, at(1)), Standing::Unusable);
        assert_eq!(owners.unusable(&[], &snapshot, at(1)), [node(2)]);

        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(2));
        owners.adopt(&snapshot, at(2));

        assert_eq!(owners.judge(&node(2), LONG, &snapshot, at(2)), Standing::Usable(1));
        assert!(owners.unusable(&[node(2)], &snapshot, at(2)).is_empty());
    }

    #[test]
    fn a_stranger_that_got_the_session_just_now_gets_time_to_appear_and_no_other_does() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let snapshot = look(&mut roster, &[(1, GOOD)], at(0));
        owners.adopt(&snapshot, at(0));

        for (owned, standing) in [
            (Some(Millis(0)), Standing::Unknown),
            (Some(Millis(4_999)), Standing::Unknown),
            (Some(Millis(5_000)), Standing::Unusable),
            (Some(Millis(u64::MAX)), Standing::Unusable),
            // A service that does not say.
            (None, Standing::Unusable),
        ] {
            assert_eq!(owners.judge(&node(2), owned, &snapshot, at(10)), standing, "{owned:?}");
        }
        assert!(owners.unusable(&[], &snapshot, at(10)).is_empty());
        assert_eq!(owners.unusable(&[node(2)], &snapshot, at(10)), [node(2)]);

        let snapshot = look(&mut roster, &[(1, GOOD), (2, GOOD)], at(11));
        owners.adopt(&snapshot, at(11));
        assert_eq!(owners.judge(&node(2), SHORT, &snapshot, at(11)), Standing::Usable(1));
    }

    #[test]
    fn a_vm_that_has_just_started_calls_no_owner_gone() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let snapshot = look(&mut roster, &[(1, GOOD)], at(10));
        owners.adopt(&snapshot, at(10));

        for (now, standing) in
            [(at(10), Standing::Unknown), (at(14), Standing::Unknown), (at(15), Standing::Unusable)]
        {
            assert_eq!(owners.judge(&node(2), LONG, &snapshot, now), standing);
            let named = owners.unusable(&[node(2)], &snapshot, now);
            assert_eq!(named.is_empty(), standing == Standing::Unknown);
        }
        // The clock was set back by an hour, and the members are looked at again.
        let mut set_back = Owners::default();
        set_back.adopt(&snapshot, at(3_600));
        set_back.adopt(&snapshot, at(10));
        assert_eq!(set_back.judge(&node(2), LONG, &snapshot, at(15)), Standing::Unusable);
    }

    #[test]
    fn an_owner_whose_first_check_has_not_answered_here_is_believed_for_a_while() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD)], at(0));
        let snapshot = look(&mut roster, &[(1, GOOD), (2, PENDING)], at(1));
        owners.adopt(&snapshot, at(1));

        assert_eq!(owners.judge(&node(2), SHORT, &snapshot, at(1)), Standing::Usable(1));
        // Looking again does not begin the time again.
        let snapshot = look(&mut roster, &[(1, GOOD), (2, PENDING), (3, GOOD)], at(4));
        owners.adopt(&snapshot, at(4));
        assert_eq!(owners.judge(&node(2), SHORT, &snapshot, at(5)), Standing::Usable(1));
        assert!(owners.unusable(&[], &snapshot, at(5)).is_empty());
        assert_eq!(owners.judge(&node(2), SHORT, &snapshot, at(6)), Standing::Unusable);
        assert_eq!(owners.unusable(&[], &snapshot, at(6)), [node(2)]);
    }

    /// The service refuses a question that names a node twice, and so every question of a worker.
    #[test]
    fn no_node_is_named_twice() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        look(&mut roster, &[(1, GOOD), (4, GOOD), (5, GOOD)], at(0));
        let snapshot =
            look(&mut roster, &[(1, GOOD), (2, PENDING), (3, PENDING), (4, GOOD), (5, GOOD)], at(1));
        owners.adopt(&snapshot, at(1));
        look(&mut roster, &[(1, GOOD), (2, GOOD), (4, GOOD), (5, GOOD)], at(2));

        let snapshot = look(&mut roster, &[(1, GOOD), (2, BAD), (4, GOOD), (5, GOOD)], at(3));
        owners.adopt(&snapshot, at(3));

        assert_eq!(owners.unusable(&[], &snapshot, at(60)), [node(2), node(3)]);
        let last = [node(3), node(2), node(1), node(3)];
        assert_eq!(owners.unusable(&last, &snapshot, at(60)), [node(3), node(2)]);
    }

    #[test]
    fn two_spellings_of_one_name_are_one_candidate() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let policy = HealthPolicy::default();
        let host =
            |address: &str| Observation { address: address.to_owned(), weight: 1, ..Observation::default() };
        roster.observe(["[::1]:80", "[0::1]:80", "a|b"].map(host).into(), &policy, at(0));
        let algorithm = Algorithm::RingHash(RingSize::VirtualNodes(3));
        let snapshot = Snapshot::build(&roster, algorithm, &policy, at(0), None).unwrap();
        owners.adopt(&snapshot, at(0));

        assert_eq!(owners.names(&[0, 1, 2]), ["[::1]:80".parse().unwrap()]);
        assert_eq!(owners.unnamed(), Some(1));
        assert_eq!(owners.judge(&"[::1]:80".parse().unwrap(), LONG, &snapshot, at(0)), Standing::Usable(0));
    }

    #[test]
    fn a_node_that_was_started_anew_is_told_of_once_also_after_it_was_away() {
        let (mut roster, mut owners) = (Roster::default(), Owners::default());
        let policy = HealthPolicy::default();
        let says = |version, boot_id: &str| NodeRecord {
            version,
            boot_id: Some(boot_id.into()),
            ..NodeRecord::unknown(node(2))
        };
        let none: [(usize, Start); 0] = [];
        look(&mut roster, &[(1, GOOD), (2, GOOD)], at(0));
        let mut started = |roster: &mut Roster, records: &[NodeRecord], members: &[(usize, HostFlags)]| {
            roster.record(records, &policy, at(1));
            owners.adopt(&look(roster, members, at(1)), at(1))
        };

        assert_eq!(started(&mut roster, &[], &[(1, GOOD), (2, GOOD)]), none);
        let first = [(1, Start::First)];
        assert_eq!(started(&mut roster, &[says(1, "a")], &[(1, GOOD), (2, GOOD)]), first);
        assert_eq!(started(&mut roster, &[says(2, "a")], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[], &[(1, GOOD)]), none);
        assert_eq!(started(&mut roster, &[], &[(1, GOOD), (2, GOOD)]), none);
        assert_eq!(started(&mut roster, &[says(2, "a")], &[(1, GOOD), (2, GOOD)]), none);
        let next = [(1, Start::Next)];
        assert_eq!(started(&mut roster, &[says(3, "b")], &[(1, GOOD), (2, GOOD)]), next);
    }

    /// What a VM does with a session: it asks, believes the answer, asks a second time if that names a node that is out,
    /// and remembers where the session is then. `pins` is the state cluster.
    fn request(
        owners: &Owners,
        snapshot: &Snapshot,
        known: &mut Option<NodeId>,
        (pin, since): &mut (NodeId, Millis),
        now: Millis,
    ) -> (Option<usize>, usize) {
        let usable = |id: &NodeId| match owners.judge(id, None, snapshot, now) {
            Standing::Usable(place) => Some(place),
            _ => None,
        };
        if let Some(place) = known.as_ref().and_then(usable) {
            return (Some(place), 0);
        }
        let last: Vec<NodeId> = known.iter().cloned().collect();
        let mut named = owners.unusable(&last, snapshot, now);
        for calls in 1.. {
            if named.contains(pin) {
                (*pin, *since) = (owners.names(&[calls])[0].clone(), now);
            }
            match owners.judge(pin, Some(now.since(*since)), snapshot, now) {
                Standing::Usable(place) => {
                    *known = Some(pin.clone());
                    return (Some(place), calls);
                }
                Standing::Unusable if !named.contains(pin) => named.insert(0, pin.clone()),
                _ => return (None, calls),
            }
        }
        unreachable!()
    }

    /// 300 nodes, ten replaced each second for 30 s; then ten times as many, and half of them at once.
    #[test]
    fn any_number_of_nodes_may_leave_and_each_session_finds_a_living_one() {
        for (nodes, replaced, turns) in [(300, 10, 30), (3_000, 100, 30), (400, 200, 1), (700, 640, 1)] {
            let (mut roster, mut owners) = (Roster::default(), Owners::default());
            let members = |from: usize| -> Vec<_> { (from..from + nodes).map(|n| (n, GOOD)).collect() };
            let mut snapshot = look(&mut roster, &members(0), at(0));
            owners.adopt(&snapshot, at(0));
            let mut pins: Vec<_> = (0..nodes).map(|n| (node(n), at(0))).collect();
            // Half of the sessions were asked for through this worker, half through another.
            let mut known: Vec<_> = (0..nodes).map(|n| (n % 2 == 0).then(|| node(n))).collect();
            for turn in 1..=turns {
                snapshot = look(&mut roster, &members(turn * replaced), at(10 + turn as u64));
                owners.adopt(&snapshot, at(10 + turn as u64));
            }
            assert!(!snapshot.has_panic() && owners.gone.len() <= MAX_GONE && owners.pending.is_empty());

            let now = at(10 + turns as u64);
            for (session, (pin, known)) in pins.iter_mut().zip(&mut known).enumerate() {
                let at_first = known.is_some();
                let (place, calls) = request(&owners, &snapshot, known, pin, now);
                assert!(place.is_some(), "{session} of {nodes} stays with {pin:?}");
                assert!(calls <= if at_first { 1 } else { 2 }, "{calls} calls for {session} of {nodes}");
                assert_eq!(request(&owners, &snapshot, known, pin, now), (place, 0));
            }
        }
    }

    #[test]
    fn a_question_names_no_more_nodes_than_fit_into_it() {
        for length in [20, 51, 255] {
            let name = |number: usize| format!("envoy://{number:0>width$}", width = length - 8);
            let (mut roster, mut owners) = (Roster::default(), Owners::default());
            let policy = HealthPolicy::default();
            let mut see = |unhealthy: usize, now: Millis| {
                let host = |number: usize| Observation {
                    address: name(number),
                    weight: 1,
                    flags: if number < unhealthy { BAD } else { GOOD },
                    ..Observation::default()
                };
                roster.observe((0..2_000).map(host).collect(), &policy, now);
                let algorithm = Algorithm::Rendezvous;
                Snapshot::build(&roster, algorithm, &policy, now, None).unwrap()
            };
            see(0, at(0));
            let snapshot = see(640, at(1));
            owners.adopt(&snapshot, at(1));
            let last: NodeId = name(639).parse().unwrap();

            let named = owners.unusable(std::slice::from_ref(&last), &snapshot, at(1));

            let bytes: usize = named.iter().map(|id| id.as_str().len()).sum();
            assert_eq!(named.len(), (MAX_NAMED_BYTES / length).min(MAX_UNUSABLE));
            assert!(bytes <= MAX_NAMED_BYTES && named[0] == last);
        }
    }
}

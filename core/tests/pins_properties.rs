//! The pin cache against a plain model of it: a list in the order of use, and which of them were asked for again.
use berth_core::changelog::digest;
use berth_core::pins::{Kind, Limits, Lookup, Pin, PinKey, Pins, WireKey};
use berth_core::time::Millis;
use proptest::prelude::*;

const NODES: [&str; 6] = ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "a.example:443", "", "b"];
const CAPACITY: usize = 8;

#[derive(Debug, Clone)]
enum Step {
    Get(u8),
    /// Session, node, version, seconds to live, kind.
    Insert(u8, usize, u64, u64, Kind),
    Remove(u8),
    RemoveByWire(u8),
    Outdate(u8, u64, usize),
    Prolong(u8, u64),
    ReturnHome(u8),
    RefuteNode(usize),
    DoubtAll,
    Adopt(Vec<usize>),
    Pass(u64),
    Touch(usize),
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Settled, Kind::Provisional, Kind::Away])
}

fn any_step() -> impl Strategy<Value = Step> {
    let session = 0..20_u8;
    let (node, version, seconds) = (0..NODES.len(), 0..4_u64, 0..300_u64);
    prop_oneof![
        6 => session.clone().prop_map(Step::Get),
        6 => (session.clone(), node.clone(), version.clone(), seconds.clone(), any_kind())
            .prop_map(|(session, node, version, life, kind)| Step::Insert(session, node, version, life, kind)),
        1 => session.clone().prop_map(Step::Remove),
        1 => session.clone().prop_map(Step::RemoveByWire),
        1 => (session.clone(), version, node.clone())
            .prop_map(|(session, version, node)| Step::Outdate(session, version, node)),
        1 => (session.clone(), seconds).prop_map(|(session, life)| Step::Prolong(session, life)),
        1 => session.prop_map(Step::ReturnHome),
        1 => node.clone().prop_map(Step::RefuteNode),
        1 => Just(Step::DoubtAll),
        1 => prop::collection::vec(node, 0..6).prop_map(Step::Adopt),
        3 => (0..40_u64).prop_map(Step::Pass),
        2 => (1..9_usize).prop_map(Step::Touch),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    session: u8,
    node: usize,
    version: u64,
    expires: Millis,
    doubted: bool,
    kind: Kind,
    used: bool,
    kept: bool,
}

/// What the cache should know, the latest used last.
#[derive(Default)]
struct Model {
    known: Vec<Known>,
    members: Vec<usize>,
}

impl Model {
    fn position(&self, session: u8) -> Option<usize> {
        self.known.iter().position(|known| known.session == session)
    }

    fn evict(&mut self) {
        self.known.remove(self.known.iter().position(|known| !known.kept).unwrap_or(0));
    }

    /// An eighth is for those that were not asked for again.
    fn demote(&mut self) {
        if self.known.iter().filter(|known| known.kept).count() > CAPACITY - CAPACITY / 8 {
            let oldest = self.known.iter().position(|known| known.kept).unwrap();
            let known = self.known.remove(oldest);
            self.known.push(Known { kept: false, ..known });
        }
    }

    fn take(&mut self, session: u8) -> Option<Known> {
        self.position(session).map(|place| self.known.remove(place))
    }
}

fn key(pins: &Pins, session: u8) -> PinKey {
    pins.key(&[session; 40])
}

fn wire(session: u8) -> WireKey {
    let mut bytes = [0; 16];
    bytes[0] = session;
    WireKey(bytes)
}

fn check(seed: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let limits = Limits { entries: CAPACITY, bytes: 100_000, touch_interval: Millis(60_000) };
    let mut pins = Pins::new(limits, seed);
    let (mut model, mut now) = (Model::default(), Millis(1_000_000));
    for step in steps {
        match step {
            Step::Pass(seconds) => now = now + Millis(seconds * 1_000),
            Step::Get(session) => {
                let got = pins.get(key(&pins, *session), now);
                let Some(mut known) = model.take(*session) else {
                    prop_assert_eq!(got, Lookup::Absent);
                    continue;
                };
                (known.used, known.kept) = (true, true);
                let (pin, fresh) = match got {
                    Lookup::Fresh(pin) => (pin, true),
                    Lookup::Stale(pin) => (pin, false),
                    Lookup::Absent => return Err(TestCaseError::fail("lost")),
                };
                prop_assert_eq!(fresh, now < known.expires && !known.doubted);
                prop_assert_eq!(pins.name(pin.node), Some(NODES[known.node]));
                let place = model.members.iter().position(|member| *member == known.node);
                prop_assert_eq!(pins.member(pin.node), place);
                let expected = (known.version, known.expires, known.doubted, known.kind);
                prop_assert_eq!((pin.version, pin.expires, pin.is_doubted, pin.kind), expected);
                model.known.push(known);
                model.demote();
            }
            Step::Insert(session, node, version, life, kind) => {
                let expires = now + Millis(life * 1_000);
                let pin = Pin {
                    node: NODES[*node],
                    version: *version,
                    expires,
                    is_doubted: false,
                    kind: *kind,
                    session_version: 0,
                };
                let kept = pins.insert(key(&pins, *session), wire(*session), pin);
                prop_assert_eq!(kept.is_some(), !NODES[*node].is_empty());
                let before = model.take(*session);
                if kept.is_some() {
                    if model.known.len() == CAPACITY {
                        model.evict();
                    }
                    let (session, node, version, kind) = (*session, *node, *version, *kind);
                    model.known.push(Known {
                        session,
                        node,
                        version,
                        expires,
                        doubted: false,
                        kind,
                        used: false,
                        kept: before.is_some_and(|before| before.kept),
                    });
                }
            }
            Step::Remove(session) => {
                let removed = pins.remove(key(&pins, *session));
                prop_assert_eq!(removed.is_some(), model.take(*session).is_some());
            }
            Step::RemoveByWire(session) => {
                let removed = pins.remove_by_wire(wire(*session));
                prop_assert_eq!(removed.is_some(), model.take(*session).is_some());
            }
            Step::Outdate(session, version, node) => {
                let older = model.position(*session).is_some_and(|place| {
                    let known = &model.known[place];
                    known.version < *version || known.version == *version && known.node != *node
                });
                prop_assert_eq!(pins.outdate(wire(*session), *version, digest(NODES[*node])), older);
                if older {
                    model.take(*session);
                }
            }
            Step::Prolong(session, life) => {
                let expires = now + Millis(life * 1_000);
                let known = model
                    .known
                    .iter_mut()
                    .find(|known| known.session == *session && known.kind != Kind::Provisional);
                let is_certain = known.as_ref().is_some_and(|known| !known.doubted);
                prop_assert_eq!(pins.prolong(wire(*session), expires), is_certain);
                if let Some(known) = known {
                    let expires = if known.doubted { expires.min(known.expires) } else { expires };
                    (known.expires, known.used) = (expires, false);
                }
            }
            Step::ReturnHome(session) => {
                let known = model
                    .known
                    .iter_mut()
                    .find(|known| known.session == *session && known.kind == Kind::Away);
                prop_assert_eq!(pins.return_home(key(&pins, *session)), known.is_some());
                if let Some(known) = known {
                    (known.kind, known.used) = (Kind::Settled, false);
                }
            }
            Step::RefuteNode(node) => {
                pins.refute_node(NODES[*node]);
                for known in model.known.iter_mut().filter(|known| known.node == *node) {
                    (known.doubted, known.expires) = (true, Millis(0));
                }
            }
            Step::DoubtAll => {
                pins.doubt_all(now);
                for known in &mut model.known {
                    known.doubted = true;
                    known.used |= known.kind != Kind::Provisional && now < known.expires;
                }
            }
            Step::Adopt(members) => {
                model.members = members.iter().copied().filter(|member| !NODES[*member].is_empty()).collect();
                model.members.sort_unstable();
                model.members.dedup();
                pins.adopt(model.members.iter().map(|member| NODES[*member]));
            }
            Step::Touch(limit) => {
                let due = pins.due_for_touch(now, *limit);
                prop_assert!(due.len() <= *limit);
                for touched in due {
                    let known = model.known.iter_mut().find(|known| wire(known.session) == touched.wire);
                    let Some(known) = known else { return Err(TestCaseError::fail("touched a stranger")) };
                    prop_assert!(known.used && known.kind != Kind::Provisional);
                    known.used = false;
                    if now >= known.expires {
                        known.doubted = true;
                    }
                }
            }
        }
        prop_assert_eq!(pins.len(), model.known.len());
        prop_assert!(pins.memory_bytes() <= 100_000);
    }
    // A pin that was used and not touched is due within an interval.
    pins.due_for_touch(now, 0);
    let due = pins.due_for_touch(now + Millis(60_000), 1_000);
    let mut due: Vec<WireKey> = due.iter().map(|due| due.wire).collect();
    let mut expected: Vec<WireKey> = model
        .known
        .iter()
        .filter(|known| known.used && known.kind != Kind::Provisional)
        .map(|known| wire(known.session))
        .collect();
    due.sort_unstable();
    expected.sort_unstable();
    due.retain(|due| expected.contains(due));
    prop_assert_eq!(due, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn knows_what_a_list_in_the_order_of_use_would(
        seed in any::<u64>(),
        steps in prop::collection::vec(any_step(), 1..200),
    ) {
        check(seed, &steps)?;
    }

    /// Names may be of any length too; `pins::nodes` has a test of that.
    #[test]
    fn takes_whatever_it_is_given_and_stays_within_its_bytes(
        entries in 0..200_usize,
        bytes in 0..20_000_usize,
        inserts in prop::collection::vec((any::<u128>(), any::<[u8; 16]>(), ".{0,30}", any::<u64>(), any::<u64>()), 0..100),
        nows in prop::collection::vec(any::<u64>(), 1..5),
    ) {
        let mut pins = Pins::new(Limits { entries, bytes, touch_interval: Millis(inserts.len() as u64) }, 3);
        let fixed = size_of::<Pins>();
        for (key, wire, node, version, expires) in &inserts {
            let pin = Pin { node: node.as_str(), version: *version, expires: Millis(*expires), is_doubted: false, kind: Kind::Settled, session_version: 0 };
            pins.insert(PinKey(*key), WireKey(*wire), pin);
            for now in &nows {
                pins.get(PinKey(*key), Millis(*now));
                pins.due_for_touch(Millis(*now), entries);
            }
            prop_assert!(pins.len() <= entries && pins.memory_bytes() <= bytes.max(fixed));
        }
    }

    /// Two ids never have one key on the wire; if a caller mixes them up, the latest word stands alone.
    #[test]
    fn each_key_names_at_most_one_session(
        inserts in prop::collection::vec((0..5_u128, 0..5_u8), 0..40),
    ) {
        let limits = Limits { entries: 4, bytes: 100_000, touch_interval: Millis(60_000) };
        let mut pins = Pins::new(limits, 3);
        for (version, (key, wire)) in (0..).zip(&inserts) {
            let pin = Pin { node: "a", version, expires: Millis(9), is_doubted: false, kind: Kind::Settled, session_version: 0 };
            pins.insert(PinKey(*key), WireKey([*wire; 16]), pin);
        }
        let mut left = Vec::new();
        let newest: Vec<_> = (0..inserts.len()).rev().filter(|place| {
            let (key, wire) = inserts[*place];
            inserts[place + 1..].iter().all(|(later_key, later_wire)| key != *later_key && wire != *later_wire)
        }).map(|place| place as u64).collect();
        for wire in 0..5 {
            left.extend(pins.remove_by_wire(WireKey([wire; 16])).map(|pin| pin.version));
        }
        left.sort_unstable_by(|a, b| b.cmp(a));
        prop_assert!(pins.is_empty());
        prop_assert_eq!(&left[..], &newest[..left.len()]);
    }
}

/// Ids are free for clients to invent; each costs a place, and none of a session in use.
#[test]
fn a_flood_of_new_ids_pushes_out_no_session_in_use() {
    let mut pins = Pins::new(Limits { entries: 1_000, ..Limits::default() }, 7);
    let put = |pins: &mut Pins, id: u32| {
        let (key, mut wire) = (pins.key(&id.to_le_bytes()), [0; 16]);
        wire[..4].copy_from_slice(&id.to_le_bytes());
        let expires = Millis(1_800_000);
        let pin = Pin {
            node: NODES[0],
            version: 1,
            expires,
            is_doubted: false,
            kind: Kind::Settled,
            session_version: 0,
        };
        pins.insert(key, WireKey(wire), pin);
    };
    let known = |pins: &mut Pins, id: u32| pins.get(pins.key(&id.to_le_bytes()), Millis(1)) != Lookup::Absent;
    for id in 0..800 {
        put(&mut pins, id);
        assert!(known(&mut pins, id));
    }

    for id in 10_000..30_000 {
        put(&mut pins, id);
        // One that has just begun is found at its second request.
        if id % 1_000 == 0 {
            put(&mut pins, id / 1_000 + 790);
        }
        if id % 1_000 == 100 {
            assert!(known(&mut pins, id / 1_000 + 790));
        }
    }

    assert_eq!((0..830).filter(|id| known(&mut pins, *id)).count(), 800 + 20);
}

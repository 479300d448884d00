use super::*;

const NODE: &str = "10.0.0.1:80";

fn at(second: u64) -> Millis {
    Millis(1_700_000_000_000 + second * 1_000)
}

fn small(entries: usize) -> Pins {
    Pins::new(Limits { entries, bytes: 1 << 20, touch_interval: Millis(60_000) }, 42)
}

fn wire(number: u8) -> WireKey {
    WireKey([number; 16])
}

fn pin(node: &str, version: u64) -> Pin<&str> {
    Pin { node, version, expires: at(1_000), is_doubted: false, kind: Kind::Settled, session_version: 0 }
}

/// Pins session `number` to `node`.
fn put(pins: &mut Pins, number: u8, node: &str) {
    assert!(pins.insert(pins.key(&[number]), wire(number), pin(node, 1)).is_some());
}

fn known(pins: &mut Pins, number: u8) -> bool {
    pins.get(pins.key(&[number]), at(0)) != Lookup::Absent
}

/// At the bound nothing is lost, one more costs one pin, and ten times as many sessions cost one pin for each that comes.
#[test]
fn what_a_full_cache_gives_up_is_counted_unless_it_had_expired() {
    let mut pins = small(100);
    let put = |pins: &mut Pins, number: u64, expires: Millis| {
        let (key, mut id) = (pins.key(&number.to_le_bytes()), [0; 16]);
        id[..8].copy_from_slice(&number.to_le_bytes());
        pins.insert(key, WireKey(id), Pin { expires, ..pin(NODE, 1) })
    };
    for number in 0..100 {
        put(&mut pins, number, at(1_000));
    }
    assert_eq!((pins.take_dropped(at(1)), pins.len()), (0, 100));
    put(&mut pins, 0, at(1_000));
    assert_eq!(pins.take_dropped(at(1)), 0, "a pin that is reported again takes no room");
    put(&mut pins, 100, at(1_000));
    assert_eq!((pins.take_dropped(at(2)), pins.take_dropped(at(2)), pins.len()), (1, 0, 100));

    // Ten times as many, each in use again and again: every one of them pushes out another.
    for round in 0..3 {
        for number in 1_000..2_000 {
            put(&mut pins, number, at(1_000));
        }
        assert_eq!((round, pins.take_dropped(at(3)), pins.len()), (round, 1_000, 100));
    }
    // What expired meanwhile is no loss.
    assert_eq!(pins.take_dropped(at(1_000)), 0);
    for number in 5_000..5_100 {
        put(&mut pins, number, at(2_000));
    }
    assert_eq!((pins.take_dropped(at(1_000)), pins.len()), (0, 100));

    // A session that cannot be kept at all, for want of room for its node's name.
    let mut none = small(0);
    put(&mut none, 1, at(1_000));
    let mut nameless = Pins::new(Limits { bytes: 2_000, ..Limits::default() }, 42);
    nameless.insert(nameless.key(&[1]), wire(1), pin(&"x".repeat(200), 1));
    assert_eq!((none.take_dropped(at(0)), nameless.take_dropped(at(0))), (1, 1));
}

#[test]
fn a_full_cache_gives_up_the_session_longest_unused() {
    let mut pins = small(3);
    for number in 1..=3 {
        put(&mut pins, number, NODE);
    }
    assert!(known(&mut pins, 1));

    put(&mut pins, 4, NODE);

    let left: Vec<bool> = (1..=4).map(|number| known(&mut pins, number)).collect();
    assert_eq!(left, [true, false, true, true]);
    assert_eq!(pins.len(), 3);
}

#[test]
fn an_expired_pin_is_still_a_hint() {
    let mut pins = small(3);
    put(&mut pins, 1, NODE);
    let key = pins.key(&[1]);

    assert!(matches!(pins.get(key, at(999)), Lookup::Fresh(_)));

    let Lookup::Stale(pin) = pins.get(key, at(1_000)) else { panic!() };
    assert_eq!(pins.name(pin.node), Some(NODE));
}

#[test]
fn the_changes_feed_ends_what_is_older_and_nothing_newer() {
    let mut pins = small(3);
    pins.insert(pins.key(&[1]), wire(1), pin(NODE, 5));

    let (same, other) = (digest(NODE), digest("10.0.0.2:80"));
    assert!(!pins.outdate(wire(1), 5, same) && !pins.outdate(wire(1), 4, other));
    assert!(!pins.outdate(wire(2), 9, other));
    assert!(pins.outdate(wire(1), 6, same));

    assert!(!known(&mut pins, 1) && pins.is_empty());
    assert_eq!(pins.remove_by_wire(wire(1)), None);
    // After a write that was lost another node may have the same version.
    pins.insert(pins.key(&[1]), wire(1), pin(NODE, 5));
    assert!(pins.outdate(wire(1), 5, other));
}

#[test]
fn what_was_touched_is_doubted_unless_it_is_another_by_now() {
    let mut pins = small(3);
    (1..=2).for_each(|number| put(&mut pins, number, NODE));
    pins.due_for_touch(at(0), 10);
    assert!((1..=2).all(|id| known(&mut pins, id)));
    let due = pins.due_for_touch(at(60), 10);
    pins.insert(pins.key(&[2]), wire(2), pin("10.0.0.2:80", 9));

    let doubted: Vec<bool> = due.iter().map(|touched| pins.doubt(*touched)).collect();

    assert_eq!(doubted, [true, false]);
    assert!(matches!(pins.get(pins.key(&[1]), at(0)), Lookup::Stale(_)));
    assert!(matches!(pins.get(pins.key(&[2]), at(0)), Lookup::Fresh(_)));
}

#[test]
fn a_member_that_left_and_came_back_is_the_same_node() {
    let mut pins = small(3);
    pins.adopt(["a", NODE].into_iter());
    put(&mut pins, 1, NODE);
    let Lookup::Fresh(pin) = pins.get(pins.key(&[1]), at(0)) else { panic!() };
    assert_eq!(pins.member(pin.node), Some(1));

    pins.adopt(["a"].into_iter());
    assert_eq!(pins.member(pin.node), None);
    pins.adopt(["b", "a", NODE].into_iter());

    assert_eq!((pins.member(pin.node), pins.name(pin.node)), (Some(2), Some(NODE)));
}

#[test]
fn what_is_used_is_touched_once_an_interval_and_what_is_idle_is_not() {
    let mut pins = small(100);
    for number in 0..100 {
        put(&mut pins, number, NODE);
    }
    pins.due_for_touch(at(0), 1_000);
    let mut touched = [0; 100];
    for second in 1..=180 {
        for number in 0..50 {
            assert!(known(&mut pins, number));
        }
        for due in pins.due_for_touch(at(second), 1_000) {
            touched[usize::from(due.wire.0[0])] += 1;
        }
    }

    assert!(touched[..50].iter().all(|touches| *touches == 3), "{touched:?}");
    assert!(touched[50..].iter().all(|touches| *touches == 0), "{touched:?}");
}

#[test]
fn touches_come_in_batches_and_none_is_lost() {
    let mut pins = small(100);
    for number in 0..100 {
        put(&mut pins, number, NODE);
        assert!(known(&mut pins, number));
    }
    pins.due_for_touch(at(0), 7);

    let mut sizes = Vec::new();
    while let batch = pins.due_for_touch(at(60), 7)
        && !batch.is_empty()
    {
        sizes.push(batch.len());
    }

    assert_eq!((sizes.len(), sizes.iter().sum::<usize>(), sizes[0]), (15, 100, 7));
}

#[test]
fn what_only_the_ring_said_is_not_touched_and_what_is_in_doubt_is_but_stays_so() {
    let mut pins = small(3);
    let provisional = Pin { kind: Kind::Provisional, ..pin(NODE, 0) };
    pins.insert(pins.key(&[1]), wire(1), provisional);
    pins.insert(pins.key(&[2]), wire(2), Pin { expires: at(30), ..pin(NODE, 1) });
    put(&mut pins, 3, NODE);
    assert!(pins.supersede(wire(3), 1) && !pins.supersede(wire(3), 0) && !pins.supersede(wire(4), 1));
    pins.due_for_touch(at(0), 10);
    assert!((1..=3).all(|id| known(&mut pins, id)));

    let mut due: Vec<WireKey> = pins.due_for_touch(at(60), 10).iter().map(|due| due.wire).collect();
    due.sort_unstable();

    assert_eq!(due, [wire(2), wire(3)]);
    assert!(!pins.prolong(wire(2), at(2_000)) && !pins.prolong(wire(3), at(2_000)));
}

#[test]
fn a_session_is_found_by_either_of_its_keys_with_the_version_of_its_token() {
    let mut pins = small(3);
    pins.insert(pins.key(&[1]), wire(1), Pin { session_version: 7, ..pin(NODE, 5) });

    assert_eq!(pins.wire(pins.key(&[1])), Some(wire(1)));
    assert_eq!(pins.wire(pins.key(&[2])), None);
    assert!(!pins.supersede(wire(1), 7), "that is known");
    assert!(matches!(pins.get(pins.key(&[1]), at(0)), Lookup::Fresh(Pin { session_version: 7, .. })));
}

#[test]
fn a_touch_prolongs_what_the_state_cluster_knows() {
    let mut pins = small(3);
    pins.insert(pins.key(&[1]), wire(1), pin(NODE, 5));
    pins.insert(pins.key(&[2]), wire(2), Pin { kind: Kind::Provisional, ..pin(NODE, 0) });

    assert!(!pins.prolong(wire(2), at(2_000)) && !pins.prolong(wire(3), at(2_000)));
    assert!(pins.prolong(wire(1), at(2_000)));

    assert!(matches!(pins.get(pins.key(&[1]), at(1_999)), Lookup::Fresh(_)));
}

#[test]
fn what_may_have_changed_unseen_is_a_hint_and_no_more() {
    let mut pins = small(3);
    (1..=3).for_each(|id| {
        pins.insert(pins.key(&[id]), wire(id), pin(NODE, 5));
    });
    pins.remove(pins.key(&[2]));

    pins.doubt_all(at(0));

    let found = [1, 2, 3].map(|id| pins.get(pins.key(&[id]), at(0)));
    assert!(matches!(found, [Lookup::Stale(_), Lookup::Absent, Lookup::Stale(_)]), "{found:?}");
}

#[test]
fn what_a_node_had_before_it_was_started_anew_is_a_hint_and_no_more() {
    let mut pins = small(3);
    put(&mut pins, 1, NODE);
    put(&mut pins, 2, "10.0.0.2:80");

    pins.refute_node(NODE);
    pins.refute_node("10.0.0.3:80");

    let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
    assert!(matches!(found, [Lookup::Stale(_), Lookup::Fresh(_)]), "{found:?}");
}

#[test]
fn what_the_ring_said_can_be_doubted_apart_from_the_rest() {
    let mut pins = small(3);
    put(&mut pins, 1, NODE);
    pins.insert(pins.key(&[2]), wire(2), Pin { kind: Kind::Provisional, ..pin(NODE, 0) });

    pins.doubt_provisional();

    let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
    assert!(matches!(found, [Lookup::Fresh(_), Lookup::Stale(_)]), "{found:?}");
}

#[test]
fn a_touch_under_way_does_not_make_certain_what_became_uncertain_meanwhile() {
    let mut pins = small(3);
    put(&mut pins, 1, NODE);
    put(&mut pins, 2, "10.0.0.2:80");

    pins.refute_node(NODE);
    assert!(!pins.prolong(wire(1), at(2_000)) && pins.prolong(wire(2), at(2_000)));
    pins.doubt_all(at(0));
    assert!(!pins.prolong(wire(2), at(2_000)));

    let found = [1, 2].map(|id| pins.get(pins.key(&[id]), at(0)));
    assert!(matches!(found, [Lookup::Stale(_), Lookup::Stale(_)]), "{found:?}");
}

#[test]
fn a_cache_without_room_forgets_and_goes_on() {
    for limits in [
        Limits { entries: 0, ..Limits::default() },
        Limits { bytes: 0, ..Limits::default() },
        Limits { bytes: 1_000, ..Limits::default() },
    ] {
        let mut pins = Pins::new(limits, 1);
        pins.adopt([NODE].into_iter());
        assert_eq!(pins.insert(pins.key(b"a"), wire(1), pin(NODE, 1)), None);
        assert_eq!(pins.get(pins.key(b"a"), at(0)), Lookup::Absent);
        assert!(pins.due_for_touch(at(60), 10).is_empty());
    }
    let mut pins = small(3);
    put(&mut pins, 1, NODE);
    assert_eq!(pins.insert(pins.key(&[1]), wire(1), pin("", 2)), None);
    assert!(!known(&mut pins, 1), "rather nothing than what is known to be old");
}

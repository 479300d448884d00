//! What the pin cache says of its memory, against what the allocator says.
use allocation_counter::{AllocationInfo, measure};
use berth_core::pins::{Kind, Limits, Lookup, Pin, PinKey, Pins, WireKey};
use berth_core::time::Millis;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|node| format!("10.{}.{}.{}:8080", node >> 16, node >> 8 & 255, node & 255)).collect()
}

fn key(session: u32) -> PinKey {
    PinKey::of(7, &session.to_le_bytes())
}

fn wire(session: u32) -> WireKey {
    WireKey(PinKey::of(8, &session.to_le_bytes()).0.to_le_bytes())
}

fn fill(pins: &mut Pins, names: &[String], sessions: u32) {
    for session in 0..sessions {
        let node = names[session as usize % names.len()].as_str();
        let pin = Pin {
            node,
            version: 1,
            expires: Millis(9_000),
            is_doubted: false,
            kind: Kind::Settled,
            session_version: 0,
        };
        assert!(pins.insert(key(session), wire(session), pin).is_some());
    }
}

/// What `work` left allocated, with the cache itself, which is on the stack.
fn held(work: impl FnOnce()) -> usize {
    let AllocationInfo { bytes_current, .. } = measure(work);
    size_of::<Pins>().saturating_add_signed(bytes_current as isize)
}

#[test]
fn a_hundred_thousand_sessions_of_a_thousand_nodes_take_less_than_eight_megabytes() {
    let names = names(1_000);
    let mut pins = Pins::new(Limits::default(), 7);

    let held_full = held(|| {
        pins.adopt(names.iter().map(String::as_str));
        fill(&mut pins, &names, 100_000);
    });

    assert_eq!(pins.len(), 100_000);
    assert_eq!(pins.memory_bytes(), held_full, "it counts every byte");
    let each = held_full as f64 / 100_000.0;
    assert!(each < 70.0 && held_full < 8_000_000, "{each} bytes a session");

    // Nor does it grow when all of them are replaced.
    let more = measure(|| fill(&mut pins, &names, 200_000));
    assert_eq!((more.count_total, pins.len(), pins.memory_bytes()), (0, 100_000, held_full));
}

#[test]
fn the_limit_in_bytes_holds_whatever_the_one_in_entries() {
    let names = names(20);
    for bytes in [50_000, 200_000, 1_000_000, 3_000_000] {
        let mut pins = Pins::new(Limits { entries: usize::MAX, bytes, ..Limits::default() }, 7);

        let held = held(|| fill(&mut pins, &names, 60_000));

        assert_eq!(pins.memory_bytes(), held);
        assert!(held <= bytes && held > bytes * 4 / 5, "{held} of {bytes}");
    }
}

#[test]
fn neither_a_hit_nor_a_full_caches_insert_allocates() {
    let names = names(10);
    let mut pins = Pins::new(Limits { entries: 1_000, ..Limits::default() }, 7);
    pins.adopt(names.iter().map(String::as_str));
    fill(&mut pins, &names, 1_000);

    let work = measure(|| {
        for session in 0..1_000_u32 {
            assert!(matches!(pins.get(pins.key(&session.to_le_bytes()), Millis(1)), Lookup::Fresh(_)));
            assert_eq!(pins.get(key(session + 5_000), Millis(1)), Lookup::Absent);
        }
        fill(&mut pins, &names, 5_000);
        pins.refute_node(&names[3]);
    });

    assert_eq!(work.count_total, 0);
}

//! The simulation finds what is put in, and nothing new in the code as it is.

use berth_sim::invariants::Violation;
use berth_sim::mutants::Mutant;
use berth_sim::run::run;
use berth_sim::schedule::{CALM, CHAOS_END, Fault, PROXIES, What, of_seed};

const SEEDS: u64 = 1_000;

fn found(seed: u64, mutant: Option<Mutant>) -> Vec<Violation> {
    run(seed, &of_seed(seed), mutant, false).found
}

/// Runs all seeds, half of them beside the other half.
fn all() -> Vec<(u64, Violation)> {
    let half = |first: u64| move || (first..=SEEDS).step_by(2).map(|seed| (seed, found(seed, None)));
    let threads = [1, 2].map(|first| std::thread::spawn(move || half(first)().collect::<Vec<_>>()));
    let runs = threads.into_iter().flat_map(|thread| thread.join().unwrap());
    runs.flat_map(|(seed, found)| found.into_iter().map(move |violation| (seed, violation))).collect()
}

#[test]
fn a_thousand_seeds_find_nothing() {
    let all = all();

    assert!(all.is_empty(), "{all:#?}");
}

#[test]
fn a_seed_says_the_same_each_time() {
    for seed in 1..=20 {
        let [first, second] = [0, 1].map(|_| run(seed, &of_seed(seed), None, true).story);
        assert_eq!(first, second, "{seed}");
    }
}

/// A proxy whose clock is off shares a cooldown. With a clock that is ahead, strict sessions got 503 long after all was well.
#[test]
fn a_clock_that_is_off_prolongs_no_cooldown_of_others() {
    for off in [19_471, -19_471] {
        let fault = |at, length, what| Fault { at, until: at + length, what };
        let faults = [
            fault(11_226, 1_805, What::ServiceDown(0)),
            fault(18_701, 175, What::NodeDown(0)),
            fault(30_070, 795, What::NodeRestarts(0)),
            fault(34_443, 8_557, What::ClockOff(2, off)),
            fault(36_274, 4_347, What::NodeDown(0)),
        ];
        let found = run(53_012, &faults, None, false).found;
        assert!(found.is_empty(), "{off}: {found:#?}");
    }
}

/// The faults of a seed, while answers come so late that news overtakes them, which is rare otherwise.
fn late(seed: u64) -> Vec<Fault> {
    let late = (0..PROXIES).map(|proxy| Fault { at: CALM, until: CHAOS_END, what: What::Late(proxy, 200) });
    let others = of_seed(seed).into_iter().filter(|fault| !matches!(fault.what, What::Late(..)));
    late.chain(others).collect()
}

#[test]
fn late_answers_alone_find_nothing() {
    for seed in 1..=100 {
        let found = run(seed, &late(seed), None, false).found;
        assert!(found.is_empty(), "{seed}: {found:#?}");
    }
}

#[test]
fn each_mutant_is_found() {
    for (name, mutant) in Mutant::ALL {
        let faults = if mutant == Mutant::StaleAnswer { late } else { of_seed };
        let is_found = |seed: &u64| !run(*seed, &faults(*seed), Some(mutant), false).found.is_empty();
        let seed = (1..=SEEDS).find(is_found);
        assert!(seed.is_some(), "{name}");
        println!("{name}: seed {}", seed.unwrap_or(0));
    }
}

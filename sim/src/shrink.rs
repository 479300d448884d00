//! The shortest schedule that still fails in the same way: faults are left out one by one, then made shorter.

use crate::invariants::Kind;
use crate::mutants::Mutant;
use crate::run::run;
use crate::schedule::Fault;

/// Shrinks the faults of a seed that violate `kind`.
#[must_use]
pub fn shrink(seed: u64, faults: &[Fault], mutant: Option<Mutant>, kind: Kind) -> Vec<Fault> {
    let fails = |faults: &[Fault]| {
        let found = run(seed, faults, mutant, false).found;
        found.iter().any(|violation| violation.kind == kind)
    };
    let mut shortest = faults.to_vec();
    let mut place = 0;
    while place < shortest.len() {
        let mut fewer = shortest.clone();
        fewer.remove(place);
        if fails(&fewer) {
            shortest = fewer;
            place = 0;
        } else {
            place += 1;
        }
    }
    for place in 0..shortest.len() {
        loop {
            let mut shorter = shortest.clone();
            let length = shorter[place].until - shorter[place].at;
            shorter[place].until -= length / 2;
            if length < 200 || !fails(&shorter) {
                break;
            }
            shortest = shorter;
        }
    }
    shortest
}

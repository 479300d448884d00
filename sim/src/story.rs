//! A violation in words: the faults, and what happened to its session.

use crate::invariants::Kind;
use crate::mutants::Mutant;
use crate::run::run;
use crate::schedule::Fault;

/// Lines before the violation; what came earlier seldom matters.
const LINES: usize = 40;

/// Tells the first violation of that kind.
#[must_use]
pub fn tell(seed: u64, faults: &[Fault], mutant: Option<Mutant>, kind: Kind) -> String {
    let outcomes = run(seed, faults, mutant, true);
    let violation = outcomes.found.iter().find(|found| found.kind == kind);
    let Some(violation) = violation.or(outcomes.found.first()) else {
        return "nothing is wrong\n".to_owned();
    };
    let mut text = String::from("faults:\n");
    for fault in faults {
        text.push_str(&format!("  {fault}\n"));
    }
    let concerns = |key: Option<_>| key.is_none() || key == violation.key;
    let story: Vec<_> =
        outcomes.story.iter().filter(|(at, key, _)| *at <= violation.at && concerns(*key)).collect();
    text.push_str("what happened:\n");
    for (at, _, line) in &story[story.len().saturating_sub(LINES)..] {
        text.push_str(&format!("  {at:>6} ms: {line}\n"));
    }
    text.push_str(&format!("  {:>6} ms: {:?}: {}\n", violation.at, violation.kind, violation.what));
    text
}

//! `simulate`: runs seeds, and tells the first that finds a fault.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use berth_sim::mutants::Mutant;
use berth_sim::run::{Report, run};
use berth_sim::schedule::of_seed;
use berth_sim::{shrink, story};

const USAGE: &str = "usage: simulate [--first N] [--seeds N] [--mutant NAME] [--all]";

struct Arguments {
    first: u64,
    seeds: u64,
    mutant: Option<Mutant>,
    /// Does not stop at the first fault.
    all: bool,
}

fn main() -> ExitCode {
    let arguments = match read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(fault) => {
            eprintln!("{fault}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let start = Instant::now();
    let mut violated = BTreeMap::<_, Vec<u64>>::new();
    let mut totals = Report::default();
    let (mut done, mut slowest) = (0u64, 0);
    for seed in arguments.first..arguments.first + arguments.seeds {
        let faults = of_seed(seed);
        let outcomes = run(seed, &faults, arguments.mutant, false);
        done += 1;
        totals.requests += outcomes.report.requests;
        totals.hits += outcomes.report.hits;
        totals.calls += outcomes.report.calls;
        totals.moved += outcomes.report.moved;
        totals.agreed_after += outcomes.report.agreed_after;
        slowest = slowest.max(outcomes.report.agreed_after);
        for violation in &outcomes.found {
            note(violated.entry(violation.kind).or_default(), seed);
        }
        let first = outcomes.found.first().map(|violation| violation.kind);
        if let Some(kind) = first.filter(|_| !arguments.all) {
            println!("seed {seed} violates {kind:?}");
            let shortest = shrink::shrink(seed, &faults, arguments.mutant, kind);
            println!("{}", story::tell(seed, &shortest, arguments.mutant, kind));
            break;
        }
    }
    for (kind, seeds) in &violated {
        println!("{kind:?}: {} seeds, {}", seeds.len(), show(seeds));
    }
    let runs = done.max(1);
    println!(
        "{done} seeds in {:.1} s. Of each, on average: {} requests, {} % hits, {} calls, {} moves; all agree {} ms after the \
         last fault, at most {slowest} ms",
        start.elapsed().as_secs_f64(),
        totals.requests / runs,
        totals.hits * 100 / totals.requests.max(1),
        totals.calls / runs,
        totals.moved / runs,
        totals.agreed_after / runs,
    );
    if violated.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn note(seeds: &mut Vec<u64>, seed: u64) {
    if seeds.last() != Some(&seed) {
        seeds.push(seed);
    }
}

fn show(seeds: &[u64]) -> String {
    let shown: Vec<String> = seeds.iter().take(12).map(u64::to_string).collect();
    shown.join(", ") + if seeds.len() > 12 { ", …" } else { "" }
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments { first: 1, seeds: 1_000, mutant: None, all: false };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match word.as_str() {
            "--first" => arguments.first = number(value()?)?,
            "--seeds" => arguments.seeds = number(value()?)?,
            "--mutant" => {
                let name = value()?;
                let names: Vec<&str> = Mutant::ALL.iter().map(|(name, _)| *name).collect();
                let unknown = || format!("unknown mutant {name}; expected one of {}", names.join(", "));
                arguments.mutant = Some(Mutant::named(&name).ok_or_else(unknown)?);
            }
            "--all" => arguments.all = true,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(arguments)
}

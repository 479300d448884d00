//! Plays the transcripts of `testdata/affinity`: what happens to a pool's sessions in one worker, and what the engine makes
//! of it. The README there says how to read and write one.

mod shown;
#[path = "../support/mod.rs"]
mod support;
mod words;
mod worker;

use std::fmt::Write as _;

use berth_core::time::Millis;

use support::transcripts::play_all;
use worker::Worker;

/// Transcripts count time from here: far from zero, as real clocks are.
const START: Millis = Millis(1_000_000_000);
const POOL: &str = "nodes";

#[test]
fn every_transcript_tells_what_happens() {
    play_all("affinity", play);
}

/// The transcript with what happens after each `->`.
fn play(transcript: &str, name: &str) -> String {
    let mut worker: Option<Worker> = None;
    let mut happened = String::new();
    for (index, line) in transcript.lines().enumerate() {
        let (statement, is_question) =
            line.split_once("->").map_or((line, false), |(question, _)| (question.trim_end(), true));
        happened.push_str(statement);
        if !statement.trim().is_empty() && !statement.starts_with('#') {
            let results = perform(&mut worker, statement)
                .unwrap_or_else(|problem| panic!("{name}:{}: {problem}", index + 1));
            match results.as_slice() {
                [] if is_question => happened.push_str(" -> nothing"),
                [] => {}
                results => write!(happened, " -> {}", results.join("; ")).unwrap(),
            }
        }
        happened.push('\n');
    }
    happened
}

fn perform(worker: &mut Option<Worker>, statement: &str) -> Result<Vec<String>, String> {
    let (verb, rest) = statement.trim().split_once(' ').unwrap_or((statement.trim(), ""));
    if verb == "pool" {
        *worker = Some(Worker::new(rest)?);
        return Ok(Vec::new());
    }
    worker.as_mut().ok_or("begin with a pool")?.perform(verb, rest)
}

//! `make bench`: what the filter costs Envoy – a request, a token, a worker – beside what Envoy has of its own for the
//! same task, in the same run.
//!
//! Arms take turns, because machines drift; the figure is Envoy's own CPU time (user and system, from /proc) over the
//! requests it served, which repeats within a few percent where throughput does not. Always as a process: a
//! container's first process is not Envoy's.

mod arm;
mod report;
mod request_cost;
mod token_cost;
mod worker_cost;

use std::process::ExitCode;

use crate::report::Report;

const USAGE: &str = "\
usage: bench [requests] [tokens] [workers]

Measures the named parts, by default all of them, and writes target/bench/report.md and report.json. BERTH_WASM=file
measures another build of the filter; one that knows no tokens only by `requests` and `workers`. With
BERTH_BENCH_OTHER=/path/to/file:/another `requests` measures those builds beside it, in turn, and with BERTH_BENCH_ARMS=hit only
ring_hash and what has that word in its name.";

const PARTS: [&str; 3] = ["requests", "tokens", "workers"];

#[tokio::main]
async fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    if named.iter().any(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let wants = |part| named.is_empty() || named.iter().any(|named| named == part);
    let mut report = Report::default();
    if wants("requests") {
        request_cost::measure(&mut report).await;
    }
    if wants("tokens") {
        token_cost::measure(&mut report).await;
    }
    if wants("workers") {
        worker_cost::measure(&mut report).await;
    }
    match report.write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

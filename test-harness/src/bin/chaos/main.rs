//! `make chaos`: each fault of one table done to real parts under load, and what users see of it: two Envoys with the built filter,
//! two `berth serve`, Redis, five nodes in processes of their own.
//!
//! Sessions that are there and sessions that begin ask through both Envoys all the time. What counts is what they were answered:
//! requests failed, sessions moved, and when both Envoys and the store said the same again.

mod load;
mod row;
mod stage;
mod table;
mod tools;

use std::fmt::Write as _;
use std::process::ExitCode;

use berth_harness::{NodeProcess, serve_node};

use crate::row::Seen;
use crate::table::{ROWS, Row};

const USAGE: &str = "\
usage: chaos [WORD…]

Plays the rows of the table whose text has one of these words, by default all of them, in some ten minutes, and writes
target/chaos/report.md.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, port] = &arguments[..]
        && first == NodeProcess::ARGUMENT
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(serve_node(port.parse().expect("a port")));
        return ExitCode::SUCCESS;
    }
    let text = |row: &Row| format!("{}: {}", row.part.text(), row.fault.text());
    let wanted = |row: &&Row| arguments.is_empty() || arguments.iter().any(|word| text(row).contains(word));
    let rows: Vec<&Row> = ROWS.iter().filter(wanted).collect();
    if rows.is_empty() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(play(&rows))
}

async fn play(rows: &[&Row]) -> ExitCode {
    let mut report = String::from(
        "# Chaos\n\n| part | fault | requests | failed | slowest | moved, of the node | moved, of others | elsewhere meanwhile | \
         agreed after | at two nodes then |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    print!("{report}");
    let mut broken = Vec::new();
    for row in rows {
        let (part, fault) = (row.part.text(), row.fault.text());
        let line = match row::play(row).await {
            Ok(seen) => {
                if let Some(example) = &seen.example {
                    eprintln!("chaos: {part}: {fault}: elsewhere: {example}");
                }
                broken.extend(seen.broken.iter().map(|what| format!("{part}: {fault}: {what}")));
                line(part, &fault, &seen)
            }
            Err(reason) => {
                broken.push(format!("{part}: {fault}: was not run: {reason}"));
                format!("| {part} | {fault} | NOT RUN: {reason} | | | | | | | |\n")
            }
        };
        print!("{line}");
        report += &line;
    }
    if !broken.is_empty() {
        report += "\nWhat did not hold:\n\n";
        for what in &broken {
            let _ = writeln!(report, "- {what}");
            eprintln!("chaos: FAILED: {what}");
        }
    }
    let written = berth_harness::root().join("target/chaos");
    let done =
        std::fs::create_dir_all(&written).and_then(|()| std::fs::write(written.join("report.md"), &report));
    if let Err(failure) = done {
        eprintln!("chaos: {}: {failure}", written.display());
        return ExitCode::FAILURE;
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn line(part: &str, fault: &str, seen: &Seen) -> String {
    let Seen { requests, failed, moved, moved_needlessly, elsewhere, two_nodes, .. } = seen;
    format!(
        "| {part} | {fault} | {requests} | {failed} | {:.2} s | {moved} | {moved_needlessly} | {elsewhere} | {:.1} s | {two_nodes} |\n",
        seen.slowest.as_secs_f64(),
        seen.agreed_after.as_secs_f64(),
    )
}

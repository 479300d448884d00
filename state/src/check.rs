//! `berth check`: a plugin configuration, judged as the filter judges it, without Envoy.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use berth_core::config::Config;

/// It has faults.
const FAULTS: u8 = 1;
/// It cannot be read.
const UNREADABLE: u8 = 2;

/// Check configurations of the filter, as it would when Envoy loads them: all faults at once
///
/// Rings, clusters and routes of Envoy's own configuration are not looked at: `envoy --mode validate` does.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Arguments {
    /// The JSON that stands in the filter's `configuration`; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

const HELP: &str = "\
Examples:
  berth check plugin.json
  berth check - < plugin.json

Exit code: 0 all are right; 1 there are faults; 2 a file cannot be read, or the command line is wrong";

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let worst = arguments.files.iter().map(|file| check(file)).max();
    worst.unwrap_or(0).into()
}

/// Says what is wrong with one file, and how bad that is.
fn check(file: &Path) -> u8 {
    let shown = file.display();
    let json = match read(file) {
        Ok(json) => json,
        Err(failure) => {
            eprintln!("{shown}: cannot be read: {failure}");
            return UNREADABLE;
        }
    };
    match Config::parse(&json) {
        Ok(config) => {
            let (pools, rules) = (config.pools.len(), config.rules.len());
            println!("{shown}: no faults; {}, {}", count(pools, "pool"), count(rules, "rule"));
            0
        }
        Err(faults) => {
            for fault in &faults {
                println!("{shown}: {fault}");
            }
            println!("{shown}: {}", count(faults.len(), "fault"));
            if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                eprintln!(
                    "{shown}: give the JSON that stands in the filter's configuration, not Envoy's own file"
                );
            }
            FAULTS
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return fs::read(file);
    }
    let mut json = Vec::new();
    io::stdin().read_to_end(&mut json)?;
    Ok(json)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

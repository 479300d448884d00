//! The `berth` command. Each subcommand is a module; this file only picks one.
mod ring;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Session affinity for Envoy: what operators ask.
#[derive(Parser)]
#[command(name = "berth", version)]
struct Berth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Ring(ring::Arguments),
}

fn main() -> ExitCode {
    match Berth::parse().command {
        Command::Ring(arguments) => ring::run(&arguments),
    }
}

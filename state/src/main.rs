//! The `berth` command. Each subcommand is a module; this file only picks one.
mod check;
mod format;
mod install;
mod operator;
mod ring;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Session affinity for Envoy: the state service, and what operators ask of it.
#[derive(Parser)]
#[command(name = "berth", version)]
struct Berth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(berth_state::settings::CommandLine),
    Ring(Box<ring::Arguments>),
    Check(check::Arguments),
    Install(install::Arguments),
    #[command(flatten)]
    Operator(Box<operator::Command>),
}

fn main() -> ExitCode {
    match Berth::parse().command {
        Command::Serve(command_line) => serve::run(&command_line),
        Command::Ring(arguments) => ring::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Install(arguments) => install::run(&arguments),
        Command::Operator(command) => operator::run(&command),
    }
}

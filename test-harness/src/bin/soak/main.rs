//! `make soak`: an hour of live WebSockets, and of everything that goes wrong in one, on real parts: two Envoys with the built
//! filter, two `berth serve`, a Redis Cluster, twenty nodes in processes of their own.
//!
//! It counts what Berth is to blame for – a session away from a node that lived, a session on two nodes, a request or a socket lost
//! while its node and its Envoy lived – and follows the memory of Envoy and of the service. Any of it fails the run.

mod ledger;
mod memory;
mod report;
mod schedule;
mod seat;

use std::process::ExitCode;
use std::time::Duration;

use berth_harness::{Envoy, NodeProcess, State, World, serve_node};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::ledger::Event;
use crate::report::Report;
use crate::schedule::Schedule;
use crate::seat::{Load, Seat};

const USAGE: &str = "\
usage: soak [--minutes N] [--sessions N]

Runs for so long (default: 60) with so many live WebSockets (default: 20000, or what the limits of this machine allow), and writes
target/soak/report.md. Ctrl-C ends it earlier, with the report of what was measured.";

const ENVOYS: usize = 2;
const NODES: usize = 20;
/// Files that are open beside one for each socket: of the runtime, of requests beside the sockets, of those that are just closing. One
/// Envoy has a few more than half of the sockets, each twice, and aborts when it has no file left.
const SPARE_FILES: u64 = 4000;
/// Of one live socket at all its ends: Envoy's buffers, the client's and the node's.
const MEMORY: u64 = 250_000;

struct Options {
    minutes: f64,
    sessions: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, port] = &arguments[..]
        && first == NodeProcess::ARGUMENT
    {
        let port = port.parse().expect("a port");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(serve_node(port));
        return ExitCode::SUCCESS;
    }
    let Some(options) = Options::read(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(soak(&options))
}

async fn soak(options: &Options) -> ExitCode {
    let (sessions, limits) = carried(options.sessions);
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    eprintln!("soak: {sessions} WebSockets for {} minutes{limits}", options.minutes);
    let folder = tempfile::Builder::new().prefix("berth-soak-").tempdir().expect("a temporary folder");
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(NodeProcess::start(folder.path()).await.unwrap_or_else(|failure| panic!("{failure}")));
    }
    // Pins end within the warm-up, so that as many are forgotten as begin. A busy machine's delays are not what is measured.
    let state = State::redis_cluster().services(2).flag("--ttl", "5m").flag("--store-timeout", "1s");
    let world = World::builder()
        .nodes(0)
        .nodes_at(nodes.iter().map(NodeProcess::address))
        .envoys(ENVOYS)
        .concurrency(1)
        .state(state)
        .configuration(|json| json["state"]["timeout"] = "1s".into())
        .bootstrap(|json| {
            for cluster in json["static_resources"]["clusters"].as_array_mut().into_iter().flatten() {
                cluster["connect_timeout"] = "5s".into();
            }
        })
        .start()
        .await;

    let clients = world.envoys().iter().map(Envoy::client).collect();
    let names = nodes.iter().map(NodeProcess::name).collect();
    // An hour has long pauses; a minute has to see as much of each socket.
    let interval = (length / 60).clamp(Duration::from_secs(3), Duration::from_secs(40));
    let load = Load::new(clients, names, interval);
    let ramp = (length / 10).min(Duration::from_secs(sessions as u64 / 150));
    let mut seats = JoinSet::new();
    for number in 0..sessions {
        let delay = ramp.mul_f64(number as f64 / sessions as f64);
        seats.spawn(Seat::new(&load, number).occupy(delay));
    }
    // Six rounds; one in a run of a minute, as Redis needs most of that for a failover.
    let cycle = (length / 6).max(Duration::from_secs(55));
    let mut schedule = Schedule::new(&world, &load, &nodes, length, cycle);
    let stopped = tokio::select! {
        () = schedule.run() => false,
        _ = tokio::signal::ctrl_c() => true,
        ended = seats.join_next() => panic!("a seat was left: {ended:?}"),
    };
    seats.shutdown().await;
    for (index, envoy) in world.envoys().iter().enumerate() {
        // One that was being restarted when the run was stopped.
        if stopped {
            break;
        }
        let failures = envoy.wasm_failures().await;
        if failures > 0 {
            load.ledger.violation(Event::Refused, format!("{failures} failures of the VM in Envoy {index}"));
        }
    }

    let report = Report { wanted: options.sessions, sessions, limits, stopped, schedule: &schedule };
    let text = report.text();
    println!("{text}");
    let written = berth_harness::root().join("target/soak");
    if let Err(failure) =
        std::fs::create_dir_all(&written).and_then(|()| std::fs::write(written.join("report.md"), &text))
    {
        eprintln!("soak: {}: {failure}", written.display());
        return ExitCode::FAILURE;
    }
    let faults = report.faults();
    for fault in &faults {
        eprintln!("soak: FAILED: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Options {
    fn read(arguments: &[String]) -> Option<Self> {
        let mut options = Self { minutes: 60.0, sessions: 20_000 };
        for pair in arguments.chunks(2) {
            match pair {
                [name, value] if name == "--minutes" => options.minutes = value.parse().ok()?,
                [name, value] if name == "--sessions" => options.sessions = value.parse().ok()?,
                _ => return None,
            }
        }
        (options.minutes >= 1.0 && options.minutes.is_finite() && options.sessions > 0).then_some(options)
    }
}

/// As many of the sockets as this machine carries, and why not more. Raises the limit of open files as far as it may be: a process
/// that it starts has the same one.
fn carried(wanted: usize) -> (usize, String) {
    let hard = getrlimit(Resource::Nofile).maximum;
    let files = hard.unwrap_or(u64::MAX);
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).expect("the hard limit is allowed");
    // The client has one for each socket, and so has an Envoy for each of its half of them, twice.
    let by_files = usize::try_from(files.saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let free = free.and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap_or(u64::MAX / 1024) * 1024;
    let by_memory = usize::try_from(free / 2 / MEMORY).unwrap_or(usize::MAX);
    let carried = wanted.min(by_files).min(by_memory);
    let limits = match carried {
        _ if carried == wanted => String::new(),
        _ if carried == by_files => format!(", not {wanted}: a process may open {files} files here"),
        _ => format!(", not {wanted}: {} MB of memory are free", free / 1_000_000),
    };
    (carried, limits)
}

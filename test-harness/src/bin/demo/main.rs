//! `make demo`: real Envoy with the filter, a few nodes, a crowd of sessions, and what happens to them.
//!
//! Plays one story and checks each promise as it goes; with `--once` it ends there and its exit code is the verdict.
//! Otherwise everything stays up, on fixed ports, and nodes can be killed and revived by typing.

mod console;
mod crowd;
mod screen;
mod story;

use std::net::TcpListener;
use std::process::ExitCode;

use berth_harness::{Ports, World};

use crate::story::Story;

const USAGE: &str = "\
usage: demo [--once]

  --once   play the story, check every promise, and end: exit code 0 or 1

Ports, all on 127.0.0.1: BERTH_DEMO_PORT (proxy, 10000), BERTH_DEMO_ADMIN_PORT (9901),
BERTH_DEMO_NODE_PORT (the first node's, 9001; the others follow).";

/// The nodes at first, and at most.
const NODES: u16 = 6;
const MOST_NODES: u16 = 8;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--once"] => true,
        ["--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => return fail(&format!("unknown arguments {arguments:?}\n{USAGE}"), 2),
    };
    let ports = match choose_ports() {
        Ok(ports) => ports,
        Err(faults) => return fail(&faults.join("\n"), 2),
    };
    println!("Starting Envoy with the filter and {NODES} nodes …");
    let world = World::builder()
        .nodes(NODES.into())
        .ports(ports)
        .configuration(|json| {
            // Short enough to watch; the defaults are 30 s each.
            json["poll_interval"] = "500ms".into();
            json["pools"][0]["health"]["cooldown"] = format!("{}s", story::COOLDOWN.as_secs()).into();
            json["pools"][0]["health"]["warm_up"] = format!("{}s", story::WARM_UP.as_secs()).into();
            json["pools"][0]["panic_hold"] = "1s".into();
        })
        .try_start()
        .await;
    let world = match world {
        Ok(world) => world,
        Err(failure) => return fail(&failure, 1),
    };

    tokio::select! {
        verdict = play(&world, ports, once) => verdict,
        // Dropping the world ends Envoy and takes its files away.
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
    }
}

async fn play(world: &World, ports: Ports, once: bool) -> ExitCode {
    let mut story = Story::new(world);
    let broken = story.play().await;
    println!();
    if broken.is_empty() {
        println!("All {} promises held.", story.checked());
    } else {
        println!("{} of {} promises broken:", broken.len(), story.checked());
        broken.iter().for_each(|promise| println!("  {promise}"));
    }
    if once {
        return if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    console::run(world, ports, story.into_crowd()).await;
    ExitCode::SUCCESS
}

/// The ports, each of which must be free.
fn choose_ports() -> Result<Ports, Vec<String>> {
    let mut faults = Vec::new();
    let mut port = |variable: &str, default: u16, count: u16, what: &str| {
        let port = match std::env::var(variable) {
            Err(_) => default,
            Ok(text) => {
                text.parse().ok().filter(|&port| port > 0 && port < u16::MAX - count).unwrap_or_else(|| {
                    faults.push(format!("{variable}={text}: must be a port number"));
                    default
                })
            }
        };
        for port in port..port + count {
            if let Err(error) = TcpListener::bind(("127.0.0.1", port)) {
                faults.push(format!(
                    "port {port} ({what}) cannot be used: {error}; stop what listens there or set {variable}"
                ));
            }
        }
        port
    };
    let ports = Ports {
        proxy: port("BERTH_DEMO_PORT", 10000, 1, "the proxy"),
        admin: port("BERTH_DEMO_ADMIN_PORT", 9901, 1, "Envoy's admin interface"),
        first_node: port("BERTH_DEMO_NODE_PORT", 9001, MOST_NODES, "a node"),
        state: None,
    };
    if faults.is_empty() { Ok(ports) } else { Err(faults) }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("demo: {message}");
    ExitCode::from(code)
}

//! `make demo`: real Envoy with the filter, its state cluster, a few nodes, a crowd of sessions, and what happens to
//! them – beside what Envoy's own ring_hash makes of the same.
//!
//! Plays one story and checks each promise as it goes; with `--once` it ends there and its exit code is the verdict.
//! Otherwise everything stays up, on fixed ports, and nodes can be killed and revived by typing.

mod console;
mod crowd;
mod ending;
mod identity;
mod issuer;
mod native;
mod screen;
mod session;
mod stage;
mod story;
mod tokens;
mod verbs;

use std::net::TcpListener;
use std::process::ExitCode;

use berth_harness::{Ports, State, World};

use crate::ending::Ending;
use crate::identity::Identity;
use crate::issuer::TokenIssuer;
use crate::story::Story;

const USAGE: &str = "\
usage: demo [--once] [--jwt] [--store memory|redis] [--with-make]

  --once    play the story, check every promise, and end: exit code 0 or 1
  --jwt     sessions are known by tokens of an issuer, not by a header that anybody can write: the story has chapters
            on forged tokens, renewed ids, keys that rotate, and an issuer that is away
  --store   where the state service keeps its pins: its own memory, or a private Redis that is started for it;
            without it Redis if redis-server and redis-cli are on the path
  --with-make
            end with the parent process, or when a signal ends that: `make demo` starts it so

Ports, all on 127.0.0.1: BERTH_DEMO_PORT (proxy, 10000), BERTH_DEMO_ADMIN_PORT (9901), BERTH_DEMO_STATE_PORT (state
service, 8650), BERTH_DEMO_NODE_PORT (the first node's, 9001; the others follow).";

/// The nodes at first, and after the scale-out.
const NODES: u16 = 6;
const MOST_NODES: u16 = 8;
/// Nodes that have ports: somebody may add two more by typing.
const NODE_PORTS: u16 = 10;

/// Where the state service keeps its pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Memory,
    Redis,
}

#[derive(Clone, Copy)]
struct Arguments {
    once: bool,
    jwt: bool,
    store: Option<Store>,
    /// End with the parent process, which is make.
    with_make: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h")) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some(arguments) = Arguments::read(&arguments) else {
        return fail(&format!("wrong arguments {arguments:?}\n{USAGE}"), 2);
    };
    let mut ending = match Ending::new(arguments.with_make) {
        Ok(ending) => ending,
        Err(failure) => return fail(&failure.to_string(), 1),
    };
    tokio::select! {
        verdict = run(arguments) => verdict,
        // Dropping the world ends Envoy, Redis and the service, and takes their files away.
        code = ending.comes() => ExitCode::from(code),
    }
}

async fn run(Arguments { once, jwt, store, .. }: Arguments) -> ExitCode {
    if let Err(failure) = berth_harness::sweep() {
        return fail(&failure, 1);
    }
    let ports = match choose_ports() {
        Ok(ports) => ports,
        Err(faults) => return fail(&faults.join("\n"), 2),
    };
    let (store, why) = match (store, missing_redis()) {
        (Some(Store::Redis), Some(program)) => {
            return fail(&format!("--store redis: {program} is not on the path; try --store memory"), 2);
        }
        (Some(store), _) => (store, "as asked for".to_owned()),
        (None, Some(program)) => (Store::Memory, format!("{program} is not on the path")),
        (None, None) => (Store::Redis, "redis-server is on the path; --store memory does without".to_owned()),
    };
    let identity = if jwt { Identity::Token(TokenIssuer::start()) } else { Identity::Header };
    println!("Starting Envoy with the filter, {NODES} nodes and a state service …");
    let world = match identity.configure(builder(ports, store)).try_start().await {
        Ok(world) => world,
        Err(failure) => return fail(&failure, 1),
    };
    match store {
        Store::Memory => println!("Pins are in the state service's memory: {why}."),
        Store::Redis => println!("Pins are in a private Redis, port {}: {why}.", world.redis().port),
    }
    if let Some(issuer) = identity.issuer() {
        println!(
            "Sessions are known by tokens of an issuer that publishes its keys on {}.",
            issuer.address()
        );
        println!("Beside it Envoy's jwt_authn verifies the same, and ring_hash places by the claim.");
    }
    play(&world, &identity, ports, store, once).await
}

/// The shipped configuration, but for times short enough to watch, and native ring_hash beside it.
fn builder(ports: Ports, store: Store) -> berth_harness::Builder {
    let state = match store {
        Store::Memory => State::memory(),
        Store::Redis => State::redis(),
    };
    World::builder()
        .nodes(NODES.into())
        .ports(ports)
        .state(state)
        .health_interval(std::time::Duration::from_millis(500))
        .configuration(|json| {
            // The defaults are 1 s, 30 s each, and 5 s.
            json["poll_interval"] = "250ms".into();
            json["pools"][0]["health"]["cooldown"] = format!("{}s", story::COOLDOWN.as_secs()).into();
            json["pools"][0]["health"]["warm_up"] = format!("{}s", story::WARM_UP.as_secs()).into();
            json["pools"][0]["panic_hold"] = "2s".into();
            // 600 sessions at once on a machine that also runs all the nodes and clients: 50 ms are for real ones.
            json["state"]["timeout"] = "500ms".into();
        })
        .bootstrap(|json| {
            // Envoy's own ejection would keep a failed node out for 30 s, from Berth and native ring_hash alike.
            for cluster in json["static_resources"]["clusters"].as_array_mut().into_iter().flatten() {
                if let Some(outliers) = cluster.get_mut("outlier_detection") {
                    outliers["base_ejection_time"] = "0.5s".into();
                }
            }
            native::add(json);
        })
}

async fn play(world: &World, identity: &Identity, ports: Ports, store: Store, once: bool) -> ExitCode {
    let held = Story::new(world, identity, store).await.play().await;
    if once {
        println!("`make demo` without --once stays up, to be tried by curl and by typing.");
        return if held { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    console::run(world, identity, ports).await;
    ExitCode::SUCCESS
}

impl Arguments {
    fn read(given: &[String]) -> Option<Self> {
        let mut read = Self { once: false, jwt: false, store: None, with_make: false };
        let mut given = given.iter().map(String::as_str);
        while let Some(argument) = given.next() {
            match argument {
                "--once" => read.once = true,
                "--jwt" => read.jwt = true,
                "--with-make" => read.with_make = true,
                "--store" => {
                    read.store = match given.next() {
                        Some("memory") => Some(Store::Memory),
                        Some("redis") => Some(Store::Redis),
                        _ => return None,
                    };
                }
                _ => return None,
            }
        }
        Some(read)
    }
}

/// The program of Redis that is not on the path, if one is not.
fn missing_redis() -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    ["redis-server", "redis-cli"].into_iter().find(|program| !is_there(program))
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
        first_node: port("BERTH_DEMO_NODE_PORT", 9001, NODE_PORTS, "a node"),
        state: Some(port("BERTH_DEMO_STATE_PORT", 8650, 1, "the state service")),
    };
    if faults.is_empty() { Ok(ports) } else { Err(faults) }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("demo: {message}");
    ExitCode::from(code)
}

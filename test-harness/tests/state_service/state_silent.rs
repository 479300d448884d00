//! Connections that make no request, beside those of a proxy: its calls are answered as ever.

use std::net::SocketAddr;

use berth_harness::{State, World, eventually};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::state_away::{calls, state};
use crate::support::{SOON, placing, sessions};

/// As many as a service takes at once; a quarter of them may be new.
const SILENT: usize = 8192;

/// Silent connections, from two hundred addresses of this machine.
async fn silent(service: SocketAddr) -> Vec<TcpStream> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("as many open files as the machine allows");
    assert!(files.current.is_none_or(|files| files >= 10_000), "this opens 10,000 files: raise ulimit -Hn");
    let mut all = Vec::new();
    for number in 0..SILENT {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = [127, 0, 1, (number % 200 + 1) as u8];
        socket.bind(SocketAddr::from((from, 0))).expect("an address of this machine");
        all.push(socket.connect(service).await.expect("a connection"));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_resolves_beside_thousands_of_silent_connections() {
    let store = State::redis().token("t0p").flag("--store-timeout", "1s");
    let patient = |json: &mut serde_json::Value| {
        state(json)["token"] = "t0p".into();
        state(json)["timeout"] = "2s".into();
    };
    let world = placing(World::builder().nodes(3).state(store).configuration(patient)).await;
    let service = world.state(0);

    let held = silent(service.address()).await;
    let displaced = async || {
        let closed = service.metric("berth_state_connections_closed_total", &[("reason", "displaced")]);
        closed.await >= (SILENT - SILENT / 4) as f64
    };
    eventually(displaced, SOON * 3).await;

    // New connections to Envoy's worker threads, and from them to the service.
    for key in sessions(100) {
        let answer = world.client().get("/").header("x-session-id", &key).send().await;
        assert_eq!(answer.status, 200, "{key}");
        let pin = service.pin_of("nodes", &key).await;
        assert_eq!(pin.map(|pin| pin.node.to_string()).as_deref(), Some(answer.node()), "{key}");
    }
    for failed in ["failed", "timed_out", "skipped"] {
        assert_eq!(calls(world.envoy(0), failed).await, 0.0, "{failed}");
    }
    drop(held);
}

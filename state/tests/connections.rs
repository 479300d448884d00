//! Connections that make no request: they are closed, and take no place from a proxy. Raw clients, since no HTTP client does
//! what is tried here.
#[path = "support/http.rs"]
mod http;
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use berth_core::wire::SessionKey;
use berth_state::connections::{Bounds, Connections};
use berth_state::store::{Keeping, Memory};
use berth_state::{Access, Limits};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpSocket;

use http::{Service, now};
use support::eventually;

/// The preface of HTTP/2 and an empty SETTINGS frame.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// HEADERS of stream 1 that do not end.
const HALF_HEADERS: &[u8] = b"\0\0\x04\x01\0\0\0\0\x01\x82";

fn start(bounds: Bounds, token: Option<&str>) -> Service {
    let access = Access { token: token.map(str::to_owned), ..Access::default() };
    let limits = Limits { access, connections: Connections::new(bounds), ..Limits::default() };
    Service::start(limits, || Arc::new(Memory::new(Keeping::default(), Arc::new(now))))
}

fn connect(service: &Service, first: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(first).unwrap();
    stream
}

/// Sends a byte ten times a second until the service closes the connection.
fn trickle(mut stream: TcpStream, bytes: impl Iterator<Item = u8>) {
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the service takes bytes without end");
}

fn ends(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    // Reset or closed.
    let ended = stream.read_to_end(&mut bytes);
    assert!(!ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "still open");
}

/// Asks on a connection that stays open, and reads the answer.
fn ask_on(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let (mut text, mut part) = (String::new(), [0; 4096]);
    loop {
        let length = stream.read(&mut part).unwrap();
        assert_ne!(length, 0, "closed after {text:?}");
        text += &String::from_utf8_lossy(&part[..length]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").and_then(|length| length.parse::<usize>().ok())
        });
        if length.is_none_or(|length| body.len() >= length) {
            return text;
        }
    }
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: berth\r\n\r\n";

fn counted(service: &Service, name: &str) -> u64 {
    let page = service.ask("GET", "/metrics", "").body;
    let line =
        page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {page}"));
    line.trim().parse().unwrap()
}

fn closed(service: &Service, reason: &str) -> u64 {
    counted(service, &format!("berth_state_connections_closed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn what_makes_no_request_is_closed_and_what_made_one_stays() {
    let short = Duration::from_secs(1);
    let service = start(Bounds { first_byte: short, header: short, ..Bounds::default() }, None);
    let mut kept = connect(&service, b"");
    assert!(ask_on(&mut kept, HEALTH).starts_with("HTTP/1.1 200"));

    let silent = ["" as &str; 3].map(|nothing| connect(&service, nothing.as_bytes()));
    let begun: Vec<TcpStream> = [
        b"P".as_slice(),
        b"PRI * HT",
        b"GET /healthz HTTP/1.1\r\nhost: be",
        HTTP2,
        &[HTTP2, HALF_HEADERS].concat(),
    ]
    .map(|bytes| connect(&service, bytes))
    .into();
    let mut after_one = connect(&service, b"");
    assert!(ask_on(&mut after_one, HEALTH).starts_with("HTTP/1.1 200"));
    after_one.write_all(b"GET /hea").unwrap();

    let header = "GET /healthz HTTP/1.1\r\nx-long: ".bytes().chain(std::iter::repeat_n(b'a', 2000));
    trickle(connect(&service, b""), header);
    // Pings keep no connection open.
    let pings = HTTP2
        .iter()
        .copied()
        .chain(std::iter::repeat_n(b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0", 100).flatten().copied());
    trickle(connect(&service, b""), pings);
    silent.into_iter().chain(begun).chain([after_one]).for_each(ends);

    eventually("silent ones", || closed(&service, "silent") == 3);
    eventually("half headers", || closed(&service, "slow_header") == 8);
    // Idle for longer than all of these.
    assert!(ask_on(&mut kept, HEALTH).starts_with("HTTP/1.1 200"));
    assert_eq!(closed(&service, "idle"), 0);
}

#[test]
fn an_idle_connection_is_closed_after_its_own_time_also_over_http2() {
    let idle = Duration::from_millis(500);
    let service = start(Bounds { idle, ..Bounds::default() }, None);
    let mut over_http1 = connect(&service, b"");
    assert!(ask_on(&mut over_http1, HEALTH).starts_with("HTTP/1.1 200"));
    // GET, http, / and the authority "b", from the static table of HPACK.
    let request = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01b";
    let over_http2 = connect(&service, &[HTTP2, request].concat());

    ends(over_http1);
    ends(over_http2);

    eventually("both", || closed(&service, "idle") == 2);
}

fn resolve(id: usize) -> String {
    let session =
        json!({"key": SessionKey::new("nodes", id.to_string().as_bytes()), "candidates": ["10.0.0.1:80"]});
    json!({"pool": "nodes", "sessions": [session]}).to_string()
}

fn as_proxy(id: usize) -> String {
    let (token, body) = ("authorization: Bearer t0p", resolve(id));
    let length = body.len();
    format!("POST /v1/resolve HTTP/1.1\r\nhost: berth\r\n{token}\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Silent connections, from so many addresses of this machine.
async fn silent(service: SocketAddr, count: usize, addresses: usize) -> Vec<tokio::net::TcpStream> {
    let mut all = Vec::new();
    for number in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        let from = [127, 0, 1, (number % addresses + 1) as u8];
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        all.push(socket.connect(service).await.unwrap());
    }
    all
}

/// With the bounds that are shipped.
#[test]
fn thousands_of_silent_connections_lock_no_proxy_out() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    assert!(
        files.current.is_none_or(|files| files >= 12_000),
        "this test opens 12,000 files: raise ulimit -Hn"
    );
    let all = Bounds::default().all;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (addresses, new) in [(1, all / 16), (200, all / 4)] {
        let service = start(Bounds::default(), Some("t0p"));
        let mut before = connect(&service, b"");
        assert!(ask_on(&mut before, &as_proxy(0)).starts_with("HTTP/1.1 200"));

        let silent = runtime.block_on(silent(service.address, all, addresses));

        let gone = (all - new) as u64;
        eventually("room", || closed(&service, "displaced") >= gone);
        for id in 1..100 {
            let reply = service.ask_with("POST", "/v1/resolve", &resolve(id), &["authorization: Bearer t0p"]);
            assert_eq!(reply.status, 200, "{id} of {addresses}: {reply:?}");
            assert!(ask_on(&mut before, &as_proxy(id)).starts_with("HTTP/1.1 200"));
        }
        assert_eq!(counted(&service, r#"berth_state_connections{standing="admitted"}"#), 1);
        // And the one that asks.
        eventually("none beside", || {
            counted(&service, r#"berth_state_connections{standing="new"}"#) <= new as u64 + 1
        });
        drop(silent);
    }
}

/// A client without the token stays new, whatever it asks.
#[test]
fn only_what_may_ask_is_admitted() {
    let admitted = |service: &Service| counted(service, r#"berth_state_connections{standing="admitted"}"#);
    let fenced = start(Bounds::default(), Some("t0p"));
    let mut others = connect(&fenced, b"");
    for request in [HEALTH, &as_proxy(1).replace("t0p", "t0q"), &as_proxy(1).replace("authorization", "x")] {
        ask_on(&mut others, request);
    }
    assert_eq!(admitted(&fenced), 0);
    let mut proxy = connect(&fenced, b"");
    ask_on(&mut proxy, &as_proxy(1));
    assert_eq!(admitted(&fenced), 1);

    let open = start(Bounds::default(), None);
    let mut incomplete =
        connect(&open, b"POST /v1/resolve HTTP/1.1\r\nhost: berth\r\ncontent-length: 100\r\n\r\n{");
    ask_on(&mut connect(&open, b""), HEALTH);
    assert_eq!(admitted(&open), 0);
    assert!(ask_on(&mut incomplete, "").contains("408"));
    let mut complete = connect(&open, b"");
    ask_on(&mut complete, &as_proxy(1));
    assert_eq!(admitted(&open), 1);
}

/// The idle timeouts in a file of Envoy or Istio, in seconds; those of requests and streams are others.
fn idle_timeouts(text: &str) -> Vec<u64> {
    let named = |name: &str| {
        let places = text.match_indices(name).map(|(at, _)| (at, at + name.len()));
        let own = places.filter(|(at, _)| !text[..*at].ends_with('_'));
        own.map(|(_, end)| text[end..].split('s').next().unwrap().trim().parse().unwrap())
            .collect::<Vec<u64>>()
    };
    [named("idle_timeout:"), named("idleTimeout:")].concat()
}

#[test]
fn shipped_clusters_leave_idle_connections_long_before_the_service_closes_them() {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let idle = Bounds::default().idle.as_secs();
    for file in [
        "envoy/envoy-state.yaml",
        "envoy/envoy-weighted.yaml",
        "envoy/compose/envoy.yaml",
        "envoy/gateway/gateway.yaml",
        "envoy/istio/base/state.yaml",
    ] {
        let timeouts = idle_timeouts(&std::fs::read_to_string(top.join(file)).unwrap());
        assert!(!timeouts.is_empty(), "{file} has none: Envoy's own is an hour");
        assert!(
            timeouts.iter().all(|timeout| timeout * 2 <= idle),
            "{file}: {timeouts:?}, the service {idle}"
        );
    }
}

//! Whatever a client sends gets the answer that Envoy alone would have sent, and the filter lives on.
//!
//! Each request goes to two Envoys, one of them without the filter: what differs is the filter's doing.

use std::fmt::Write as _;

use crate::support::{Numbers, manager, places, placing, raw_header};
use berth_harness::hyper::Method;
use berth_harness::{Builder, RawResponse, World};
use futures_util::{StreamExt, stream};
use serde_json::json;

/// Requests of the random test; each is two connections.
const RANDOM: usize = 3000;
/// Connections at once.
const CONCURRENCY: usize = 16;
/// The headers that the shipped configuration reads, with what stands before the id there.
const READ: [(&str, &str); 4] =
    [("x-session-id", ""), ("cookie", "sid="), ("sec-websocket-protocol", "session."), ("host", "")];

/// The same world twice, once without the filter.
struct Pair {
    berth: World,
    plain: World,
}

impl Pair {
    async fn start() -> Self {
        // So that large headers come as far as the filter, and no refusal waits a second for the client to close.
        let generous = |builder: Builder| {
            builder.bootstrap(|json| {
                let manager = manager(json);
                manager["max_request_headers_kb"] = 256.into();
                manager["delayed_close_timeout"] = "0.02s".into();
                manager["common_http_protocol_options"] = json!({"max_headers_count": 2000});
            })
        };
        let berth = placing(generous(World::builder())).await;
        Self { berth, plain: generous(World::builder().filter(false)).start().await }
    }

    /// Sends a request to both, and returns the answer of the one with the filter.
    async fn alike(&self, request: &[u8]) -> RawResponse {
        let (berth, plain) = tokio::join!(self.berth.raw(request), self.plain.raw(request));
        let start = request.get(..300).unwrap_or(request).escape_ascii();
        let [with, without] = [&berth, &plain].map(|answer| String::from_utf8_lossy(&answer.bytes));
        assert_eq!(berth.status(), plain.status(), "{start}\n--- with Berth\n{with}\n--- without\n{without}");
        berth
    }

    async fn all_alike(&self, requests: &[Vec<u8>]) -> Vec<RawResponse> {
        stream::iter(requests).map(|request| self.alike(request)).buffered(CONCURRENCY).collect().await
    }

    /// No VM failed, and every worker places sessions as before.
    async fn is_well(&self) {
        assert_eq!(self.berth.envoy(0).wasm_failures().await, 0);
        places(self.berth.envoy(0)).await;
    }
}

fn get(target: &str, headers: &[(&str, &[u8])]) -> Vec<u8> {
    let mut request = format!("GET {target} HTTP/1.1\r\n").into_bytes();
    if headers.iter().all(|(name, _)| *name != "host") {
        request.extend_from_slice(b"host: berth\r\n");
    }
    for (name, value) in headers {
        request.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    [&request, &b"\r\n"[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_byte_in_any_header_gets_a_normal_answer() {
    let pair = Pair::start().await;
    let bytes = || (0..=u8::MAX).filter(|byte| *byte != b'\r' && *byte != b'\n');

    for (name, before) in READ {
        let value = |bytes: &[u8]| get("/", &[(name, &[before.as_bytes(), b"a", bytes, b"b"].concat())]);
        pair.all_alike(&bytes().map(|byte| value(&[byte])).collect::<Vec<_>>()).await;

        // Bytes that are no UTF-8 name a session as any others do.
        let answer = pair.alike(&value(&(0x80..=u8::MAX).collect::<Vec<_>>())).await;
        if name != "host" {
            assert!(raw_header(&answer, "x-berth").unwrap().contains("outcome=ring"), "{name}");
        }
    }
    let target = |byte: u8| {
        [&b"GET /ws/a"[..], &[byte], b"b?sid=a", &[byte], b" HTTP/1.1\r\nhost: berth\r\n\r\n"].concat()
    };
    let encoded = |byte: u8| get(&format!("/ws/%{byte:02x}?sid=%{byte:02X}"), &[]);
    pair.all_alike(&bytes().flat_map(|byte| [target(byte), encoded(byte)]).collect::<Vec<_>>()).await;

    pair.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_headers_reach_the_filter_and_get_a_normal_answer() {
    let pair = Pair::start().await;
    let large = "x".repeat(64 * 1024);
    let cookies = (0..1000).fold(String::new(), |mut cookies, number| {
        write!(cookies, "cookie{number}=value; ").unwrap();
        cookies
    });

    for (name, before) in READ {
        let answer = pair.alike(&get("/", &[(name, format!("{before}{large}").as_bytes())])).await;
        assert_eq!(answer.status(), Some(200), "{name}");
        assert!(raw_header(&answer, "x-berth").unwrap().contains("reason=no_session"), "{name}");
    }
    for target in
        [format!("/ws/{large}"), format!("/?sid={large}"), format!("/?{}sid=", "a=b&".repeat(16_000))]
    {
        let answer = pair.alike(&get(&target, &[])).await;
        assert!(raw_header(&answer, "x-berth").unwrap().contains("reason=no_session"));
    }
    let home = pair.berth.nodes_of(&["ada"]).await.remove(0);
    let last_of_many = pair.alike(&get("/", &[("cookie", format!("{cookies}sid=ada").as_bytes())])).await;
    assert_eq!(raw_header(&last_of_many, "x-node"), Some(home.clone()));
    let far_behind = pair.alike(&get(&format!("/?{}sid=ada", "a=b&".repeat(16_000)), &[])).await;
    assert_eq!(raw_header(&far_behind, "x-node"), Some(home));
    // A node refuses more than 100 headers: the answer is its own, but comes by way of the filter.
    for (count, name, value) in [
        (80, "cookie", "sid=ada"),
        (80, "x-session-id", "ada"),
        (80, "sec-websocket-protocol", "session.ada"),
        (1500, "cookie", "sid=ada"),
    ] {
        let answer = pair.alike(&get("/", &vec![(name, value.as_bytes()); count])).await;
        assert!(raw_header(&answer, "x-berth").unwrap().contains("outcome=ring"), "{count} {name}");
    }

    pair.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_requests_get_the_answer_that_envoy_alone_gives() {
    let pair = Pair::start().await;
    let home = pair.berth.nodes_of(&["ada"]).await.remove(0);

    let absolute = pair.alike(b"GET http://game.example/ws/ada HTTP/1.1\r\nhost: other\r\n\r\n").await;
    assert_eq!(raw_header(&absolute, "x-node"), Some(home.clone()));
    let old = pair.alike(b"GET /ws/ada HTTP/1.0\r\nhost: berth\r\n\r\n").await;
    assert_eq!(raw_header(&old, "x-node"), Some(home));
    for request in [
        &b"OPTIONS * HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\n\r\n"[..],
        b"OPTIONS * HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET  HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET ? HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET ?sid=ada HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET //ws//ada HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: berth\r\n\r\n",
        b"GET http://game.example?sid=ada HTTP/1.1\r\nhost: other\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost:\r\nx-session-id: ada\r\n\r\n",
        b"CONNECT game.example:443 HTTP/1.1\r\nhost: game.example:443\r\nx-session-id: ada\r\n\r\n",
        b"CONNECT game.example:443 HTTP/1.1\r\nhost: game.example:443\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nconnection: upgrade\r\nupgrade: garbage\r\nx-session-id: ada\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nconnection: upgrade\r\nupgrade: garbage\r\n\r\n",
        b"GET /ws/ada HTTP/1.1\r\nhost: berth\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nupgrade: websocket\r\nsec-websocket-protocol: session.\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nsec-websocket-protocol: ,,, ,\tsession.,session. ,\"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nsec-websocket-protocol:\r\ncookie:\r\nx-session-id:\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\ncookie: =; ;;; sid; sid=; sid=\"; =sid\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\n folded: line\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nx-session-id : ada\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\n: ada\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nx-berth: outcome=ring\r\nx-node: me\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: berth\r\nx-berth-destination:\r\nx-berth-hash-key:\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\ncontent-length: 3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nhost: berth\r\nx-session-id: ada\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    ] {
        pair.alike(request).await;
    }

    pair.is_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_requests_get_the_answer_that_envoy_alone_gives() {
    let pair = Pair::start().await;
    let mut numbers = Numbers(20_251_121);
    let requests: Vec<Vec<u8>> = (0..RANDOM).map(|_| random_request(&mut numbers)).collect();

    let answers = pair.all_alike(&requests).await;
    let served = answers.iter().filter(|answer| answer.status() == Some(200)).count();
    assert!(served > RANDOM / 2, "only {served} of {RANDOM} came as far as a node");
    let placed =
        |answer: &&RawResponse| raw_header(answer, "x-berth").is_some_and(|header| header.contains("ring"));
    assert!(answers.iter().filter(placed).count() > RANDOM / 8);

    // HTTP/2 has its own way of reading headers. What a library lets through is less strange.
    for _ in 0..RANDOM / 10 {
        let (path, value) = (random_path(&mut numbers), random_value(&mut numbers));
        let name = random_name(&mut numbers);
        let value: Vec<u8> = value.into_iter().filter(|byte| *byte >= b' ' && *byte != 0x7f).collect();
        let send = |world: &World| {
            let request = world.request(Method::GET, &path.replace('#', "_")).header(name, &value);
            request.http2().send()
        };
        let (berth, plain) = tokio::join!(send(&pair.berth), send(&pair.plain));
        assert_eq!(berth.status, plain.status, "{path} {name}: {}", value.escape_ascii());
    }

    pair.is_well().await;
}

fn random_request(numbers: &mut Numbers) -> Vec<u8> {
    let method = numbers.one_of(&["GET", "GET", "GET", "DELETE", "OPTIONS"]);
    let mut request = format!("{method} {} HTTP/1.1\r\nhost: berth\r\n", random_path(numbers)).into_bytes();
    for _ in 0..numbers.below(6) {
        request.extend_from_slice(random_name(numbers).as_bytes());
        request.extend_from_slice(b": ");
        request.extend(random_value(numbers));
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

fn random_name(numbers: &mut Numbers) -> &'static str {
    numbers.one_of(&[
        "x-session-id",
        "X-Session-Id",
        "cookie",
        "sec-websocket-protocol",
        "x-berth-destination",
        "x-berth-hash-key",
        "x-berth",
        "upgrade",
        "te",
        "x-forwarded-for",
        "x-request-id",
    ])
}

fn random_value(numbers: &mut Numbers) -> Vec<u8> {
    let start =
        numbers.one_of(&["", "", "sid=", "session.", "a=b; sid=", "chat, session.", "127.0.0.1:", "\""]);
    let length = numbers.one_of(&[&0, &1, &8, &40, &600]);
    let mut value = start.as_bytes().to_vec();
    let kind = numbers.below(40);
    value.extend((0..*length).map(|_| {
        let byte = u8::try_from(numbers.below(256)).unwrap();
        match kind {
            0 if byte != b'\r' && byte != b'\n' => byte,
            1..20 => b"abc019-_.,;= \"%"[usize::from(byte) % 15],
            _ => byte.max(b' ') ^ if byte == 0x7f { 0x20 } else { 0 },
        }
    }));
    value
}

fn random_path(numbers: &mut Numbers) -> String {
    let mut path = numbers.one_of(&["/", "/ws/", "/ws", "/?sid=", "/ws/a?", "/a/b?x=1&sid="]).to_owned();
    for _ in 0..numbers.below(30) {
        match numbers.below(4) {
            0 => write!(path, "%{:02x}", numbers.below(256)).unwrap(),
            // Envoy refuses it.
            1 if numbers.below(100) == 0 => path.push('#'),
            _ => path
                .push_str(numbers.one_of(&["a", "7", "/", "?", "&", "=", "%", "sid=", "+", ";", ".", "~"])),
        }
    }
    path
}

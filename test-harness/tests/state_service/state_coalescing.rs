//! Requests that wait for the state cluster: how many calls they make, how long they wait, who else may come and go
//! meanwhile, and that what they carry arrives as it was sent.

use std::time::{Duration, Instant};

use berth_harness::{Client, Envoy, Response, World, eventually};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::patience::remembers;
use crate::support::state_away::{calls, open_breakers, over, patient_redis, state, verdict};
use crate::support::{SHIPPED_RING, SOON, owners, placing, sessions, shown};

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_first_requests_of_one_session_make_one_call() {
    let fake = FakeState::start().await;
    let world =
        placing(over(&fake).concurrency(1).configuration(|json| state(json)["timeout"] = "5s".into())).await;
    late(&fake, 1_000);

    let answers = join_all((0..200).map(|_| first(world.envoy(0), "ada"))).await;

    assert_eq!(fake.count(Call::Resolve), 1);
    let node = answers[0].node();
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.node() == node));
    let claimed = answers.iter().filter(|answer| shown(answer, "outcome") == "claimed").count();
    let found = answers.iter().filter(|answer| shown(answer, "outcome") == "found").count();
    let hit = answers.iter().filter(|answer| shown(answer, "outcome") == "hit").count();
    assert_eq!((claimed, found + hit), (1, 199), "{found} found, {hit} hit");
    // Fewer would mean that the requests did not wait together, and the test would prove nothing.
    assert!(found >= 100, "{found} found, {hit} hit");
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_while_they_wait_take_nobody_with_them() {
    let fake = FakeState::start().await;
    let world =
        placing(over(&fake).concurrency(1).configuration(|json| state(json)["timeout"] = "5s".into())).await;
    late(&fake, 500);
    let address = world.envoy(0).address();

    // The first is the one that calls.
    let mut leaving = Vec::new();
    for number in 0..20 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-session-id: ada\r\n\r\n").await.unwrap();
        if number == 0 {
            eventually(async || fake.count(Call::Resolve) == 1, SOON).await;
        }
        leaving.push(stream);
    }
    let staying: Vec<_> = (0..20).map(|_| tokio::spawn(first(world.envoy(0), "ada"))).collect();
    let waiting = async || active(&world).await >= 40;
    eventually(waiting, SOON).await;
    drop(leaving);

    let answers: Vec<Response> = join_all(staying).await.into_iter().map(|answer| answer.unwrap()).collect();
    let node = answers[0].node();
    assert!(answers.iter().all(|answer| verdict(answer).1 == "pin" && answer.node() == node), "{answers:#?}");
    // Its call did not go with the first.
    assert_eq!(fake.count(Call::Resolve), 1);
    eventually(async || active(&world).await == 0, SOON).await;
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_clients_leave_nothing_is_left_behind() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).concurrency(1).configuration(|json| {
        (state(json)["timeout"], state(json)["max_calls"]) = ("2s".into(), 2.into());
    }))
    .await;
    fake.set(Reply::Silence);
    for round in 0..3 {
        let mut leaving = Vec::new();
        for number in 0..20 {
            let mut stream = TcpStream::connect(world.envoy(0).address()).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nhost: x\r\nx-session-id: {round}-{number}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            leaving.push(stream);
        }
        eventually(async || active(&world).await == 20, SOON).await;
        drop(leaving);
        eventually(async || active(&world).await == 0, SOON).await;
    }

    fake.set(Reply::Proper);
    for key in sessions(20) {
        assert_eq!(verdict(&first(world.envoy(0), &key).await), ("claimed", "pin"), "{key}");
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_share_the_calls_that_there_may_be() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).concurrency(1).configuration(|json| {
        (state(json)["timeout"], state(json)["max_calls"]) = ("5s".into(), 2.into());
    }))
    .await;
    late(&fake, 300);
    let keys = sessions(100);

    let answers = join_all(keys.iter().map(|key| first(world.envoy(0), key))).await;

    assert!(answers.iter().all(|answer| verdict(answer) == ("claimed", "pin")));
    let resolves = fake.resolves();
    let sizes: Vec<usize> = resolves.iter().map(|body| body["sessions"].as_array().unwrap().len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 100, "each is asked about once: {sizes:?}");
    // Two go out at once; all that came meanwhile goes with the next ones.
    assert!(sizes.len() <= 8 && sizes.iter().any(|size| *size > 10), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 64), "{sizes:?}");
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_longer_than_the_timeout_for_a_call_to_become_free() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).concurrency(1).configuration(|json| {
        (state(json)["timeout"], state(json)["max_calls"]) = ("2s".into(), 2.into());
    }))
    .await;
    fake.set(Reply::Silence);
    let keys = sessions(100);
    let ring = owners(&world, SHIPPED_RING, &keys);

    let start = Instant::now();
    let answers = join_all(keys.iter().map(|key| first(world.envoy(0), key))).await;

    // A second wave of calls would end after four seconds.
    assert!(start.elapsed() < Duration::from_millis(3_500), "{:?}", start.elapsed());
    for (answer, owner) in answers.iter().zip(&ring) {
        assert_eq!((verdict(answer), answer.node()), (("ring", "state_away"), owner.as_str()));
    }
    let counted = async || calls(world.envoy(0), "timed_out").await >= 90.0;
    eventually(counted, SOON).await;
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_time_goes_by_the_ring_and_who_has_waits_for_the_pin() {
    let fake = FakeState::start().await;
    late(&fake, 300);
    let world = placing(over(&fake).nodes(5).concurrency(1)).await;
    let keys = sessions(3);
    let ring = owners(&world, SHIPPED_RING, &keys);
    let mut times = Vec::new();
    for (key, owner) in keys.iter().zip(&ring) {
        let start = Instant::now();
        let answer = first(world.envoy(0), key).await;
        times.push(start.elapsed());
        assert_eq!((verdict(&answer), answer.node()), (("ring", "state_away"), owner.as_str()));
    }
    assert!(times.iter().all(|time| *time >= Duration::from_millis(40)), "{times:?}");
    assert!(times.iter().any(|time| *time < Duration::from_millis(200)), "{times:?}");
    eventually(async || calls(world.envoy(0), "timed_out").await >= 3.0, SOON).await;

    world.envoy(0).reload(|json| state(json)["timeout"] = "5s".into()).await.unwrap();
    for key in &keys {
        let start = Instant::now();
        let answer = first(world.envoy(0), key).await;
        assert_eq!(verdict(&answer), ("claimed", "pin"));
        assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn body_of_a_request_that_waits_arrives_whole() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).configuration(|json| state(json)["timeout"] = "5s".into())).await;
    late(&fake, 300);
    let body: Vec<u8> =
        (0..1 << 20).map(|place: u32| place.to_le_bytes()[0] ^ place.to_le_bytes()[1]).collect();

    let uploads = sessions(4).into_iter().map(|key| {
        let client = Client::new(world.envoy(0).address());
        client.post("/", body.clone()).header("x-session-id", key).send()
    });
    for answer in join_all(uploads).await {
        assert_eq!(verdict(&answer), ("claimed", "pin"));
        assert_eq!(answer.received().body_length, body.len() as u64);
    }
    let twice = Client::new(world.envoy(0).address());
    let twice = (0..2).map(|number| {
        twice.post("/", body.clone()).http2().header("x-session-id", format!("h2-{number}")).send()
    });
    for answer in join_all(twice).await {
        assert_eq!(
            (verdict(&answer), answer.received().body_length),
            (("claimed", "pin"), body.len() as u64)
        );
    }

    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "c".repeat(64 * 1024));
    let head = "POST / HTTP/1.1\r\nhost: x\r\nx-session-id: chunks\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = world.raw(format!("{head}{}0\r\n\r\n", chunk.repeat(16))).await;
    let text = String::from_utf8_lossy(&answer.bytes).into_owned();
    assert!(text.contains("\"body_length\":1048576") || text.contains("\"body_length\": 1048576"), "{text}");
    assert!(text.contains("outcome=claimed"), "{text}");
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_follow_on_the_same_connection_wait_their_turn() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).configuration(|json| state(json)["timeout"] = "5s".into())).await;
    remembers(world.envoy(0)).await;
    late(&fake, 200);

    let mut stream = TcpStream::connect(world.envoy(0).address()).await.unwrap();
    let mut pipeline = String::new();
    for (number, session) in ["ada", "ada", "grace", "ada", "joan"].iter().enumerate() {
        pipeline += &format!("GET /{number} HTTP/1.1\r\nhost: x\r\nx-session-id: {session}\r\n\r\n");
    }
    stream.write_all(pipeline.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let text = async || {
        stream.read_buf(&mut bytes).await.unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (text.matches("HTTP/1.1 200").count() == 5 && text.contains("\"/4\"")).then_some(text)
    };
    let text = eventually(text, SOON).await;

    let places: Vec<Option<usize>> = (0..5).map(|number| text.find(&format!("\"/{number}\""))).collect();
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
    let outcomes: Vec<&str> =
        text.split("outcome=").skip(1).filter_map(|rest| rest.split(';').next()).collect();
    assert_eq!(outcomes, ["claimed", "hit", "claimed", "hit", "claimed"], "{text}");
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_that_begins_a_session_opens_at_its_owner() {
    let fake = FakeState::start().await;
    let world =
        placing(over(&fake).nodes(5).configuration(|json| state(json)["timeout"] = "5s".into())).await;
    late(&fake, 200);

    for key in sessions(4) {
        let mut socket = world.get(&format!("/ws/{key}")).websocket().await;
        let debug = format!("outcome=claimed; node={}; reason=pin", socket.node());
        assert_eq!(socket.headers()["x-berth"], debug.as_str());
        assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));
        let next = first(world.envoy(0), &key).await;
        assert_eq!(next.node(), socket.node());
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_opens_by_the_ring_while_the_state_cluster_is_silent() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).nodes(5)).await;
    fake.set(Reply::Silence);
    let keys = sessions(10);

    for (key, owner) in keys.iter().zip(owners(&world, SHIPPED_RING, &keys)) {
        let mut socket = world.get(&format!("/ws/{key}")).websocket().await;
        let debug = format!("outcome=ring; node={owner}; reason=state_away");
        assert_eq!(socket.headers()["x-berth"], debug.as_str());
        assert_eq!(socket.echo("hello").await.as_deref(), Some("hello"));
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_call_that_begins_a_session_is_answered_by_its_owner() {
    let fake = FakeState::start().await;
    let world = placing(
        over(&fake).nodes(5).http2_nodes().configuration(|json| state(json)["timeout"] = "5s".into()),
    )
    .await;
    late(&fake, 200);
    let client = world.client();

    // Streams of one connection, so that they wait side by side.
    let keys = sessions(10);
    let calls = keys
        .iter()
        .map(|key| client.grpc("/berth.Test/Echo", key.as_bytes()).header("x-session-id", key).send());
    for (key, answer) in keys.iter().zip(join_all(calls).await) {
        assert_eq!(verdict(&answer), ("claimed", "pin"));
        assert_eq!(&answer.body[5..], key.as_bytes());
        assert_eq!(answer.trailers["grpc-status"], "0");
    }
    is_well(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_both_envoys_begin_at_once_are_at_one_node() {
    let world = placing(
        World::builder()
            .nodes(5)
            .envoys(2)
            .state(patient_redis())
            .configuration(|json| state(json)["timeout"] = "5s".into()),
    )
    .await;
    let keys = sessions(50);

    let requests = keys.iter().flat_map(|key| world.envoys().iter().map(move |envoy| first(envoy, key)));
    let answers = join_all(requests).await;

    for (key, both) in keys.iter().zip(answers.chunks(2)) {
        assert_eq!(both[0].node(), both[1].node(), "{key}");
        let pin = world.pin_of("nodes", key).await.expect("a pin");
        assert!(pin.node.to_string() == both[0].node() && pin.events.is_empty(), "{key}: {pin:?}");
    }
}

/// A request of its own connection.
fn first(envoy: &Envoy, session: &str) -> impl Future<Output = Response> + use<> {
    Client::new(envoy.address()).get("/").header("x-session-id", session).send()
}

/// Resolves are answered so much later from now on.
fn late(fake: &FakeState, milliseconds: u64) {
    fake.forget();
    fake.set(Reply::Late(Duration::from_millis(milliseconds)));
}

/// Requests that are under way at the proxy.
async fn active(world: &World) -> u64 {
    world.envoy(0).stat("http.ingress.downstream_rq_active").await
}

/// Nothing stayed behind: no request waits, the breaker is closed, a new session is pinned at once.
async fn is_well(world: &World) {
    let stranger = first(world.envoy(0), "stranger").await;
    assert_eq!(verdict(&stranger), ("claimed", "pin"));
    assert_eq!(open_breakers(world.envoy(0)).await, 0.0);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
    eventually(async || active(world).await == 0, SOON).await;
}

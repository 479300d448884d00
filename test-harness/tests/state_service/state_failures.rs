//! The proxy does not depend on the state cluster: however that fails, each request is answered, by the ring and within
//! the state timeout; sessions that are known stay where they are; and afterwards all agree again.

use std::slice::from_ref;
use std::time::{Duration, Instant};

use berth_core::wire::SessionKey;
use berth_harness::{Builder, State, World, eventually};
use futures_util::future::join_all;
use serde_json::json;

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::patience::{caught_up, cluster, impatient, nodes_become};
use crate::support::state_away::{
    FAILURES, all_agree, breakers_close, calls, connections, five, grow, moved_by_ring, nodes_by, only,
    open_breakers, over, patient_redis, pinned_by, start_is_over, state, verdict,
};
use crate::support::{SHIPPED_RING, SOON, owners, placing, pool, sessions, shown};

/// Twenty times the state timeout: what a busy machine adds is not the filter's doing.
const BRIEFLY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_is_silent() {
    ring_decides_while_each_call_gets(Reply::Silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_garbage() {
    ring_decides_while_each_call_gets(Reply::Garbage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_500() {
    ring_decides_while_each_call_gets(Reply::Status(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_half_a_body() {
    ring_decides_while_each_call_gets(Reply::HalfABody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_more_than_envoy_takes() {
    ring_decides_while_each_call_gets(Reply::HugeBody).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_nothing_with_200() {
    ring_decides_while_each_call_gets(Reply::Empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_resets_connections() {
    ring_decides_while_each_call_gets(Reply::Reset).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_answers_json_of_another_shape() {
    ring_decides_while_each_call_gets(Reply::Body(r#"{"pins": {"ada": 7}, "cursor": []}"#.into())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_while_the_state_cluster_names_only_sessions_that_nobody_asked_for() {
    let key = SessionKey::new("nodes", b"somebody else");
    let pin = json!({"key": key, "node": "127.0.0.1:9", "version": 1, "outcome": "found"});
    let body = json!({"pins": [pin], "cursor": "fake-0", "ttl_ms": 60_000});
    ring_decides_while_each_call_gets(Reply::Body(body.to_string().into())).await;
}

/// From a state cluster that is well, to one where each call fails so, and back.
async fn ring_decides_while_each_call_gets(reply: Reply) {
    let is_silent = matches!(reply, Reply::Silence);
    let fake = FakeState::start().await;
    let world = placing(over(&fake).nodes(5).concurrency(1)).await;
    start_is_over().await;
    let envoy = world.envoy(0);
    let keys = sessions(60);
    let ring = owners(&world, SHIPPED_RING, &keys);
    for call in [Call::Resolve, Call::Touch, Call::Changes, Call::Nodes] {
        fake.set_call(call, reply.clone());
    }
    fake.forget();

    // One after the other, so that the first ones fail in a row.
    let start = Instant::now();
    for (key, owner) in keys[..30].iter().zip(&ring) {
        let answer = world.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
        assert_eq!((verdict(&answer), answer.node()), (("ring", "state_away"), owner.as_str()), "{key}");
    }
    // And all at once.
    let rest = keys[30..].iter().map(|key| world.get("/").header("x-session-id", key).within(BRIEFLY).send());
    for (answer, owner) in join_all(rest).await.iter().zip(&ring[30..]) {
        assert_eq!((verdict(answer), answer.node()), (("ring", "state_away"), owner.as_str()));
    }
    let asked = fake.count(Call::Resolve);
    let most = FAILURES + probes_in(start.elapsed());
    assert!((FAILURES..=most).contains(&asked), "{asked} calls in {:?}", start.elapsed());
    eventually(async || open_breakers(envoy).await == 1.0, SOON).await;
    let counted = async || {
        let late = calls(envoy, "timed_out").await;
        // On a busy machine what fails may be late as well.
        let failed = if is_silent { late } else { late + calls(envoy, "failed").await };
        failed >= FAILURES as f64 && calls(envoy, "skipped").await >= (keys.len() - most) as f64
    };
    eventually(counted, SOON).await;

    for call in [Call::Resolve, Call::Touch, Call::Changes, Call::Nodes] {
        fake.set_call(call, Reply::Proper);
    }
    assert_eq!(pinned_by(&[world.client()], &keys).await, ring);
    eventually(async || open_breakers(envoy).await == 0.0, SOON).await;
    assert_eq!(envoy.wasm_failures().await, 0);
}

/// How many probes an open breaker makes in this time at most: after 100 ms, after twice that, and so on.
fn probes_in(time: Duration) -> usize {
    (1..).take_while(|probe| Duration::from_millis(100) * ((1 << probe) - 1) <= time).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn ring_decides_for_sessions_whose_owner_is_no_member() {
    let fake = FakeState::start().await;
    // Or a proxy that has just started would wait for as long: others may hold the owner.
    let builder = over(&fake).nodes(5).configuration(|json| pool(json)["vanish_grace"] = "0s".into());
    let world = placing(builder).await;
    let keys = sessions(30);
    let ring = owners(&world, SHIPPED_RING, &keys);
    let pin = |key: &String| {
        let key = SessionKey::new("nodes", key.as_bytes());
        json!({"key": key, "node": "127.0.0.1:9", "version": 3, "outcome": "found"})
    };
    let pins: Vec<_> = keys.iter().map(pin).collect();
    let body = json!({"pins": pins, "cursor": "fake-0", "ttl_ms": 60_000}).to_string();
    fake.set_call(Call::Resolve, Reply::Body(body.into()));

    // Longer than an unknown owner is given to appear.
    let named = async || {
        let asked = keys.iter().map(|key| world.get("/").header("x-session-id", key).within(BRIEFLY).send());
        for (answer, owner) in join_all(asked).await.iter().zip(&ring) {
            assert_eq!((verdict(answer), answer.node()), (("ring", "state_away"), owner.as_str()));
        }
        let last = fake.resolves().pop().expect("a resolve");
        last["sessions"][0]["unusable"] == json!(["127.0.0.1:9"])
    };
    eventually(named, SOON).await;
    assert_eq!(open_breakers(world.envoy(0)).await, 0.0, "it answers");

    fake.set_call(Call::Resolve, Reply::Proper);
    pinned_by(&[world.client()], &keys).await;
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_numbers_from_the_state_cluster_harm_nobody() {
    let fake = FakeState::start().await;
    let world =
        placing(over(&fake).nodes(2).configuration(|json| state(json)["timeout"] = "1s".into())).await;
    let keys = sessions(10);
    for (ttl, version) in [(0, 0), (1, 1), (u64::MAX, u64::MAX), (60_000, 1)] {
        let pin = |key: &String| {
            let key = SessionKey::new("nodes", key.as_bytes());
            let node = world.node(0).name().to_owned();
            json!({"key": key, "node": node, "version": version, "outcome": "rehomed", "from": node, "restore": true})
        };
        let twice: Vec<_> = keys.iter().chain(&keys).map(pin).collect();
        let body = json!({"pins": twice, "cursor": "x\r\ny: z", "ttl_ms": ttl}).to_string();
        fake.set_call(Call::Resolve, Reply::Body(body.into()));
        let change = |key: &String| {
            let key = SessionKey::new("nodes", key.as_bytes());
            json!({"cursor": "", "kind": "rehomed", "key": key, "version": version, "reason": "?", "time_ms": ttl})
        };
        let events: Vec<_> = keys.iter().map(change).collect();
        let body = json!({"cursor": "fake-1", "resync": true, "events": events}).to_string();
        fake.set_call(Call::Changes, Reply::Body(body.into()));
        for key in keys.iter().chain(&keys) {
            let answer = world.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
            assert_eq!(verdict(&answer).1, "pin", "{answer:?}");
        }
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_the_service_is_killed_and_all_agree_once_it_is_back() {
    agree_after(|world| world.state(0).kill(), async |world| world.state(0).restart().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_on_while_the_service_hangs_and_all_agree_once_it_goes_on() {
    agree_after(|world| world.state(0).pause(), async |world| world.state(0).resume()).await;
}

/// Two Envoys. Each knows sessions that the other does not know, and the ring would no longer choose their owners.
async fn agree_after(fail: impl Fn(&World), recover: impl AsyncFn(&World)) {
    let world = placing(five().envoys(2).state(State::redis())).await;
    let keys = sessions(60);
    let [first, second] = [0, 1].map(|envoy| world.envoy(envoy).client());
    let mut owners = pinned_by(from_ref(&first), &keys[..20]).await;
    owners.extend(pinned_by(from_ref(&second), &keys[20..40]).await);
    grow(&world, 2).await;

    fail(&world);
    for client in [&first, &second] {
        for key in &keys {
            let answer = client.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
            assert_eq!(answer.status, 200, "{key}: {answer:?}");
        }
    }
    for envoy in world.envoys() {
        eventually(async || open_breakers(envoy).await >= 1.0, SOON).await;
    }
    recover(&world).await;

    all_agree(&world, &keys).await;
    assert_eq!(first.nodes_of(&keys[..40]).await, owners, "pins are what they were");
    breakers_close(&world).await;
    for envoy in world.envoys() {
        assert_eq!(envoy.wasm_failures().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn known_sessions_stay_with_their_owners_while_the_service_is_killed() {
    let world = placing(five().state(State::redis())).await;
    // The first look at the changes puts the pins that there are in doubt once.
    caught_up(world.envoy(0)).await;
    let keys = sessions(60);
    let clients = connections(world.envoy(0));
    let owners = pinned_by(&clients, &keys).await;
    grow(&world, 2).await;
    assert!(moved_by_ring(&world, &keys, &owners) > 5);

    world.state(0).kill();

    eventually(async || opens(&world).await, SOON).await;
    // Longer than a session stays where the ring put it.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(nodes_by(&clients, &keys).await, only(&owners));
    }
    let hit = world.get("/").header("x-session-id", &keys[0]).send().await;
    assert_eq!(verdict(&hit), ("hit", "pin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn known_sessions_stay_with_their_owners_when_memory_forgets_them() {
    let world = placing(five().state(State::memory())).await;
    let keys = sessions(60);
    let clients = connections(world.envoy(0));
    let owners = pinned_by(&clients, &keys).await;
    grow(&world, 2).await;
    assert!(moved_by_ring(&world, &keys, &owners) > 5);
    let resyncs = async || world.envoy(0).metric("berth_resyncs_total", &[("pool", "nodes")]).await;
    let before = resyncs().await;

    world.state(0).restart().await;

    // Every worker, or the one that never asks would not be seen to.
    eventually(async || resyncs().await >= before + 2.0, SOON).await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&owners));
    all_agree(&world, &keys).await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&owners));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_token_leaves_sessions_to_the_ring_and_the_right_one_pins_them() {
    let service = State::memory().token("open-sesame");
    let world = placing(five().concurrency(1).state(service)).await;
    let envoy = world.envoy(0);
    let keys = sessions(20);
    let ring = owners(&world, SHIPPED_RING, &keys);

    for token in [None, Some("open-barley")] {
        envoy
            .reload(|json| match token {
                Some(token) => state(json)["token"] = token.into(),
                None => state(json)["timeout"] = "60ms".into(),
            })
            .await
            .unwrap();
        let failed = calls(envoy, "failed").await;
        for (key, owner) in keys.iter().zip(&ring) {
            let answer = world.get("/").header("x-session-id", key).within(BRIEFLY).send().await;
            assert_eq!((verdict(&answer), answer.node()), (("ring", "state_away"), owner.as_str()));
        }
        eventually(async || open_breakers(envoy).await >= 1.0, SOON).await;
        eventually(async || calls(envoy, "failed").await >= failed + FAILURES as f64, SOON).await;
        assert_eq!(calls(envoy, "ok").await, 0.0);
    }

    envoy.reload(|json| state(json)["token"] = "open-sesame".into()).await.unwrap();
    pinned_by(&[world.client()], &keys).await;
    all_agree(&world, &keys).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_that_envoy_does_not_know_leaves_sessions_to_the_ring_and_is_named_in_the_log_now_and_then() {
    let world =
        placing(five().file("envoy-state.yaml").configuration(|json| state(json)["cluster"] = "nope".into()))
            .await;
    let keys = sessions(100);
    let ring = owners(&world, SHIPPED_RING, &keys);

    for _ in 0..3 {
        assert_eq!(world.nodes_of(&keys).await, ring);
    }

    let answer = world.get("/").header("x-session-id", "grace").within(BRIEFLY).send().await;
    assert_eq!(verdict(&answer), ("ring", "state_away"));
    let log = world.envoy(0).log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("state cluster")).collect();
    assert!(lines.iter().any(|line| line.contains("nope")), "{lines:#?}");
    assert!(lines.len() < 10, "{lines:#?}");
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_pinned_while_the_feed_of_changes_hangs_or_fails() {
    let fake = FakeState::start().await;
    for call in [Call::Changes, Call::Nodes] {
        fake.set_call(call, Reply::Silence);
    }
    let world = placing(over(&fake).nodes(5)).await;

    for (number, reply) in [Reply::Silence, Reply::Status(500), Reply::Garbage, Reply::HugeBody, Reply::Reset]
        .into_iter()
        .enumerate()
    {
        for call in [Call::Changes, Call::Nodes] {
            fake.set_call(call, reply.clone());
        }
        let keys: Vec<String> = sessions(20).iter().map(|key| format!("{key}-{number}")).collect();
        pinned_by(&[world.client()], &keys).await;
    }

    assert_eq!(open_breakers(world.envoy(0)).await, 0.0);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn feed_that_always_says_resync_does_not_have_every_request_asked_about() {
    let fake = FakeState::start().await;
    let body = json!({"cursor": "fake-0", "resync": true, "events": []}).to_string();
    fake.set_call(Call::Changes, Reply::Body(body.into()));
    let world = placing(over(&fake).nodes(5).concurrency(1)).await;
    let keys = sessions(20);
    let owners = pinned_by(&[world.client()], &keys).await;

    fake.forget();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        assert_eq!(world.nodes_of(&keys).await, owners);
    }

    let seconds = start.elapsed().as_secs_f64();
    let polls = fake.count(Call::Changes) as f64 / seconds;
    assert!((0.1..3.0).contains(&polls), "{polls} polls a second");
    let resolves = fake.resolves();
    let resolves = resolves.iter().map(|resolve| resolve["sessions"].as_array().unwrap().len());
    let resolves = resolves.sum::<usize>() as f64 / seconds;
    assert!(resolves < 3.0 * keys.len() as f64, "{resolves} sessions a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_while_requests_wait_for_a_late_state_cluster_fails_none_of_them() {
    let fake = FakeState::start().await;
    let builder = over(&fake).nodes(5).configuration(|json| {
        (state(json)["timeout"], state(json)["max_calls"]) = ("5s".into(), 128.into());
    });
    let world = placing(builder).await;
    fake.forget();
    fake.set(Reply::Late(Duration::from_millis(700)));

    let waiting: Vec<_> = sessions(100)
        .into_iter()
        .map(|key| {
            tokio::spawn(
                berth_harness::Client::new(world.envoy(0).address())
                    .get("/")
                    .header("x-session-id", key)
                    .send(),
            )
        })
        .collect();
    eventually(async || fake.count(Call::Resolve) > 10, SOON).await;
    world.envoy(0).reload(|json| json["poll_interval"] = "300ms".into()).await.unwrap();
    assert!(waiting.iter().any(|request| !request.is_finished()), "the reload met no waiting request");
    let after: Vec<_> = (0..20)
        .map(|number| world.get("/").header("x-session-id", format!("after-{number}")).send())
        .collect();
    let after = join_all(after).await;

    let answers = join_all(waiting).await.into_iter().map(|answer| answer.unwrap());
    for answer in answers.chain(after) {
        assert_eq!(verdict(&answer), ("claimed", "pin"), "{answer:?}");
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_changes_no_pin_and_gives_new_sessions_theirs() {
    let panicky = panicky().configuration(|json| state(json)["timeout"] = "5s".into());
    let world = placing(panicky.state(patient_redis())).await;
    let keys = sessions(60);
    let nodes = pinned_by(&[world.client()], &keys).await;
    let clients = connections(world.envoy(0));
    let pins = async || {
        let mut pins = Vec::new();
        for key in &keys {
            let pin = world.pin_of("nodes", key).await.expect("a pin");
            pins.push((pin.node.to_string(), pin.version));
        }
        pins
    };
    let before = pins().await;

    for node in 0..4 {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 4)]).await;

    // Known to some workers, and new to others.
    assert_eq!(nodes_by(&clients, &keys).await, only(&nodes));
    let ring = owners(&world, SHIPPED_RING, &sessions(80));
    for (key, owner) in sessions(80).iter().zip(&ring).skip(60) {
        let answer = world.get("/").header("x-session-id", key).send().await;
        assert_eq!((verdict(&answer), answer.node()), (("panic", "pin"), owner.as_str()));
        let pin = world.pin_of("nodes", key).await.expect("claimed");
        assert_eq!(&pin.node.to_string(), owner);
    }
    assert_eq!(pins().await, before);

    for node in 0..4 {
        world.node(node).serve();
    }
    nodes_become(world.envoy(0), &[("active", 5)]).await;
    assert_eq!(nodes_by(&clients, &keys).await, only(&nodes));
    assert_eq!(pins().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_that_rejects_does_so_for_pinned_and_new_sessions_and_claims_none() {
    let rejects = panicky().configuration(|json| pool(json)["on_panic"] = "reject".into());
    let world = placing(rejects.state(State::memory())).await;
    let keys = sessions(20);
    let nodes = pinned_by(&[world.client()], &keys[..10]).await;
    for node in 0..4 {
        world.node(node).fail_health();
    }
    nodes_become(world.envoy(0), &[("cooldown", 4)]).await;

    for key in &keys {
        let answer = world.get("/").header("x-session-id", key).send().await;
        assert_eq!((answer.status.as_u16(), shown(&answer, "outcome")), (503, "rejected"), "{key}");
    }
    for key in &keys[10..] {
        assert!(world.pin_of("nodes", key).await.is_none(), "{key}");
    }

    for node in 0..4 {
        world.node(node).serve();
    }
    nodes_become(world.envoy(0), &[("active", 5)]).await;
    let clients = connections(world.envoy(0));
    let served = async || {
        let answers = clients.iter().map(|client| client.get("/").header("x-session-id", "ada").send());
        join_all(answers).await.iter().all(|answer| answer.status == 200)
    };
    eventually(served, SOON).await;
    assert_eq!(nodes_by(&clients, &keys[..10]).await, only(&nodes));
}

/// Five nodes with a short panic, and only active checks to judge them.
fn panicky() -> Builder {
    impatient().nodes(5).configuration(|json| pool(json)["panic_hold"] = "1s".into()).bootstrap(|json| {
        assert!(cluster(json, "nodes").as_object_mut().unwrap().remove("outlier_detection").is_some());
    })
}

/// Has every worker miss until its breaker opens.
async fn opens(world: &World) -> bool {
    let clients = connections(world.envoy(0));
    let strangers: Vec<String> =
        sessions(FAILURES).iter().map(|key| format!("{key}-{:?}", Instant::now())).collect();
    nodes_by(&clients, &strangers).await;
    open_breakers(world.envoy(0)).await >= 2.0
}

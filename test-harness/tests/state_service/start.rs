//! A worker that has just started knows nothing: it waits for its first answers, within one bound, and does not guess.

use std::collections::BTreeSet;

use crate::support::fake_state::{Call, FakeState, Reply};
use crate::support::state_away::{
    FAILURES, calls, moved_by_ring, open_breakers, over, patient_redis, state, verdict,
};
use crate::support::{SOON, placing, pool, sessions, shown};
use berth_harness::{Builder, Client, Response, State, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// Sessions that are pinned while there are two nodes. All of them must be served within the time of a start, which no test
/// can prolong, also on a busy machine.
const SESSIONS: usize = 80;

/// All sessions at once, each on a connection of its own.
async fn at_once(world: &World, keys: &[String]) -> Vec<Response> {
    let address = world.envoy(0).address();
    let ask = |key: &String| Client::new(address).get("/").header("x-session-id", key).send();
    join_all(keys.iter().map(ask)).await
}

/// Pins sessions while there are two nodes, and adds two: by the ring about half of them would move.
async fn grown(builder: Builder) -> (World, Vec<String>, Vec<String>) {
    let world = placing(builder.nodes(2)).await;
    let keys = sessions(SESSIONS);
    let claimed = world.nodes_of(&keys).await;
    world.add_node().await;
    world.add_node().await;
    assert!(moved_by_ring(&world, &keys, &claimed) > SESSIONS / 5, "pins that the ring would not choose");
    (world, keys, claimed)
}

/// A request of a session that was never seen.
async fn stranger(world: &World) -> Response {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let session = format!("stranger-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    world.get("/").header("x-session-id", session).send().await
}

/// Once the start is over, requests have the ordinary timeout.
async fn goes_by_the_ring(world: &World) {
    eventually(async || verdict(&stranger(world).await) == ("ring", "state_away"), SOON).await;
}

/// No session is anywhere but where its pin says.
#[track_caller]
fn all_at(answers: &[Response], nodes: &[String]) {
    let wrong: Vec<_> = answers
        .iter()
        .zip(nodes)
        .filter(|(answer, node)| verdict(answer).1 != "pin" || answer.node() != *node)
        .collect();
    assert!(wrong.is_empty(), "{} of {} went elsewhere: {:#?}", wrong.len(), nodes.len(), wrong.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_envoy_sends_every_session_to_its_pin_under_load() {
    let (world, keys, claimed) = grown(World::builder().state(State::memory())).await;
    for _ in 0..2 {
        world.envoy(0).restart().await;
        all_at(&at_once(&world, &keys).await, &claimed);
    }
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn state_service_that_starts_together_with_envoy_is_waited_for() {
    let (world, keys, claimed) = grown(World::builder().state(patient_redis())).await;
    world.state(0).kill();
    world.envoy(0).kill();

    tokio::join!(world.envoy(0).restart(), world.state(0).restart());

    all_at(&at_once(&world, &keys).await, &claimed);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

/// The service comes only after Envoy serves, within the time that requests wait.
#[tokio::test(flavor = "multi_thread")]
async fn state_service_that_becomes_ready_after_envoy_is_waited_for() {
    let fake = FakeState::start().await;
    fake.set_call(Call::Ready, Reply::Status(503));
    let world = over(&fake).concurrency(1).start().await;
    let keys = sessions(50);

    let ask = async {
        let answers = at_once(&world, &keys).await;
        answers
            .iter()
            .map(|answer| verdict(answer))
            .map(|(outcome, reason)| (outcome.to_owned(), reason.to_owned()))
            .collect::<BTreeSet<_>>()
    };
    let recover = async {
        // Once requests wait.
        eventually(async || world.envoy(0).stat("http.ingress.downstream_rq_active").await >= 10, SOON).await;
        fake.set_call(Call::Ready, Reply::Proper);
    };
    let (seen, ()) = tokio::join!(ask, recover);

    assert_eq!(seen, BTreeSet::from([("claimed".to_owned(), "pin".to_owned())]));
    assert_eq!(calls(world.envoy(0), "skipped").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_answers_may_be_slow() {
    for late in [200, 250] {
        let fake = FakeState::start().await;
        fake.set(Reply::Late(std::time::Duration::from_millis(late)));
        let world = over(&fake).start().await;

        // A few: the time counts from the first of them.
        let answers = at_once(&world, &sessions(20)).await;

        assert!(answers.iter().all(|answer| verdict(answer) == ("claimed", "pin")), "{late} ms");
        goes_by_the_ring(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_calls_may_fail() {
    for reply in [Reply::Reset, Reply::Status(500), Reply::Garbage, Reply::HalfABody, Reply::Empty] {
        let fake = FakeState::start().await;
        fake.set(reply.clone());
        let world = over(&fake).concurrency(1).start().await;
        let keys = sessions(20);

        let recover = async {
            eventually(async || fake.count(Call::Resolve) > 2, SOON).await;
            fake.set(Reply::Proper);
        };
        let (answers, ()) = tokio::join!(at_once(&world, &keys), recover);

        assert!(answers.iter().all(|answer| verdict(answer).1 == "pin"), "{reply:?}: {answers:#?}");
        assert_eq!(open_breakers(world.envoy(0)).await, 0.0, "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_session_is_turned_away_only_after_the_start() {
    let fake = FakeState::start().await;
    fake.set(Reply::Late(std::time::Duration::from_millis(250)));
    let strict = |json: &mut Value| {
        json["rules"] = json!([{"name": "all", "pool": "nodes", "affinity": "strict"}]);
    };
    let world = over(&fake).concurrency(1).configuration(strict).start().await;

    let answers = at_once(&world, &sessions(20)).await;

    assert!(answers.iter().all(|answer| verdict(answer) == ("claimed", "pin")), "{answers:#?}");
    let turned_away = async || {
        let stranger = stranger(&world).await;
        (stranger.status.as_u16(), shown(&stranger, "reason")) == (503, "state_away")
    };
    eventually(turned_away, SOON).await;
}

/// A listener that brings a VM of its own: no pin is taken over.
#[tokio::test(flavor = "multi_thread")]
async fn new_vm_of_a_running_envoy_sends_every_session_to_its_pin() {
    let (world, keys, claimed) = grown(World::builder().state(State::memory())).await;
    let own_vm =
        |listener: &mut Value| crate::support::plugin(listener)["vm_config"]["vm_id"] = "another".into();

    world.envoy(0).reload_listener(own_vm).await.unwrap();

    all_at(&at_once(&world, &keys).await, &claimed);
    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pool_of_a_running_worker_waits_for_its_own_first_answer() {
    let fake = FakeState::start().await;
    let world = placing(over(&fake).concurrency(1)).await;
    fake.set(Reply::Late(std::time::Duration::from_millis(250)));
    let another = |json: &mut Value| {
        let mut another = pool(json).clone();
        another["name"] = "another".into();
        another["match"] = json!({"path_prefixes": ["/another"]});
        json["pools"].as_array_mut().unwrap().insert(0, another);
    };
    world.envoy(0).reload(another).await.unwrap();

    let answer = world.get("/another").header("x-session-id", "ada").send().await;
    assert_eq!(verdict(&answer), ("claimed", "pin"));

    // For the pool that was there the start is over.
    goes_by_the_ring(&world).await;
}

/// However the state cluster is away: requests wait once, and none after them.
#[tokio::test(flavor = "multi_thread")]
async fn state_cluster_that_is_away_delays_only_the_first_requests() {
    let nothing = berth_harness::free_address();
    let unchecked = |json: &mut Value| {
        let clusters = json["static_resources"]["clusters"].as_array_mut().unwrap();
        let state = clusters.iter_mut().find(|cluster| cluster["name"] == "berth_state").unwrap();
        state.as_object_mut().unwrap().remove("health_checks");
    };
    let unknown = |json: &mut Value| state(json)["cluster"] = "no_such".into();
    let refused = || World::builder().file("envoy-state.yaml").cluster_address("berth_state", nothing);
    for (name, builder) in [
        ("unhealthy", refused()),
        ("refused", refused().bootstrap(unchecked)),
        ("unknown", refused().configuration(unknown)),
    ] {
        let world = builder.concurrency(1).start().await;
        let answers = at_once(&world, &sessions(50)).await;
        assert!(
            answers.iter().all(|answer| verdict(answer) == ("ring", "state_away")),
            "{name}: {answers:#?}"
        );
        eventually(async || open_breakers(world.envoy(0)).await == 1.0, SOON).await;

        let before = calls(world.envoy(0), "failed").await;
        let later: Vec<String> = (0..50).map(|number| format!("later-{number}")).collect();
        let answers = at_once(&world, &later).await;

        assert!(answers.iter().all(|answer| verdict(answer) == ("ring", "state_away")), "{name}");
        eventually(async || calls(world.envoy(0), "skipped").await > 0.0, SOON).await;
        let failed = calls(world.envoy(0), "failed").await - before;
        assert!(failed <= FAILURES as f64, "{name}: {failed} of 50 were asked about");
        assert_eq!(world.envoy(0).wasm_failures().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_cluster_that_hangs_delays_only_the_first_requests() {
    let fake = FakeState::start().await;
    fake.set(Reply::Silence);
    let world = over(&fake).concurrency(1).start().await;
    let answers = at_once(&world, &sessions(50)).await;
    assert!(answers.iter().all(|answer| verdict(answer) == ("ring", "state_away")), "{answers:#?}");
    eventually(async || open_breakers(world.envoy(0)).await == 1.0, SOON).await;

    let before = fake.count(Call::Resolve);
    let later: Vec<String> = (0..50).map(|number| format!("later-{number}")).collect();
    let answers = at_once(&world, &later).await;

    assert!(answers.iter().all(|answer| verdict(answer) == ("ring", "state_away")));
    let asked = fake.count(Call::Resolve) - before;
    assert!(asked <= FAILURES, "{asked} of 50 were asked about");
    fake.set(Reply::Proper);
    let pinned = async || {
        let answer = world.get("/").header("x-session-id", "later").send().await;
        verdict(&answer).1 == "pin"
    };
    eventually(pinned, SOON).await;
}

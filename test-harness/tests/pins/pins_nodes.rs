//! Sessions that are pinned, and what becomes of their nodes: an operator takes one out of use, one is started again, one
//! fails; and what becomes of the sessions themselves: they end, or last as long as a WebSocket.

use std::collections::BTreeSet;
use std::time::Duration;

use berth_core::wire::NodeChange;
use berth_harness::{Builder, Client, Endpoint, Response, WebSocket, World, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::patience::{caught_up, cluster, impatient, nodes_become};
use crate::support::pinning::{
    agreed_nodes_of, all_see, from_each, moved, notices, of, patiently_pinned, shares, workers,
};
use crate::support::{SOON, pool, sessions, shown};

/// For tests in which only traffic may tell of a failure.
const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_the_operator_takes_out_of_use_keep_their_sessions_and_get_no_new_ones() {
    let world = pinned().nodes(5).start().await;
    all_see(&world, &[("active", 5)]).await;
    let keys = sessions(300);
    let before = agreed_nodes_of(&world, &keys).await;
    let out: Vec<String> = (0..3).map(|node| world.node(node).name().to_owned()).collect();

    for (node, state) in out.iter().zip(["draining", "degraded", "standby"]) {
        world.set_node_state(node, state).await;
    }
    all_see(&world, &[("draining", 1), ("degraded", 1), ("standby", 1), ("active", 2)]).await;

    assert_eq!(moved(&keys, &before, &agreed_nodes_of(&world, &keys).await), Vec::<&String>::new());
    for envoy in world.envoys() {
        let clients = workers(envoy);
        for node in &out {
            let at_home = before.iter().position(|home| home == node).unwrap();
            for answer in from_each(&clients, &keys[at_home]).await {
                assert_eq!((answer.node(), shown(&answer, "reason")), (node.as_str(), "pin"));
            }
        }
    }
    let newcomers = new_sessions("newcomer", 200);
    let placed = agreed_nodes_of(&world, &newcomers).await;
    assert!(placed.iter().all(|node| !out.contains(node)), "{:?}", shares(&placed));

    for node in &out {
        world.set_node_state(node, "active").await;
    }
    all_see(&world, &[("active", 5)]).await;
    let latest = new_sessions("latest", 200);
    let placed = agreed_nodes_of(&world, &latest).await;
    assert!(out.iter().all(|node| placed.contains(node)), "{:?}", shares(&placed));
    assert_eq!(moved(&keys, &before, &agreed_nodes_of(&world, &keys).await), Vec::<&String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_was_started_again_keeps_its_sessions_and_is_told_to_restore_each_of_them_once() {
    let world = pinned().nodes(3).start().await;
    all_see(&world, &[("active", 3)]).await;
    let restarted = world.node(0).name().to_owned();
    says_boot_id(&world, &restarted, "first").await;
    let keys = sessions(60);
    let before = agreed_nodes_of(&world, &keys).await;
    let clients = all_workers(&world);
    for key in &keys {
        assert!(notices(&from_each(&clients, key).await).is_empty(), "it has all of them");
    }

    says_boot_id(&world, &restarted, "second").await;

    for (key, home) in keys.iter().zip(&before) {
        let mut answers = Vec::new();
        let is_notified = async || {
            answers.extend(from_each(&clients, key).await);
            home != &restarted || !notices(&answers).is_empty()
        };
        eventually(is_notified, SOON).await;
        answers.extend(from_each(&clients, key).await);
        assert!(answers.iter().all(|answer| answer.node() == home), "{key} moved");
        let notices: Vec<(String, usize)> = notices(&answers).into_iter().collect();
        let expected = (home == &restarted).then(|| ("restore; version=N".to_owned(), 1));
        assert_eq!(notices, Vec::from_iter(expected), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_from_before_a_nodes_first_word_are_restored_after_its_second() {
    let world = pinned().nodes(1).start().await;
    all_see(&world, &[("active", 1)]).await;
    let node = world.node(0).name().to_owned();
    let clients = all_workers(&world);
    from_each(&clients, "ada").await;

    // In use all the time: each worker knows its pin, and has no reason of its own to ask.
    says_boot_id(&world, &node, "first").await;
    let labels = [("call", "resolve")];
    let resolves = world.state_metric("berth_state_requests_total", &labels).await;
    let asked = async || {
        let answers = from_each(&clients, "ada").await;
        assert!(notices(&answers).is_empty(), "nothing was lost yet");
        world.state_metric("berth_state_requests_total", &labels).await > resolves
    };
    eventually(asked, SOON).await;
    says_boot_id(&world, &node, "second").await;

    let mut answers = Vec::new();
    let is_notified = async || {
        answers.extend(from_each(&clients, "ada").await);
        !notices(&answers).is_empty()
    };
    eventually(is_notified, SOON).await;
    answers.extend(from_each(&clients, "ada").await);
    assert_eq!(notices(&answers).into_iter().collect::<Vec<_>>(), [("restore; version=N".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn first_request_of_a_rehomed_session_says_so_and_no_other_does() {
    let world = pinned().nodes(4).start().await;
    all_see(&world, &[("active", 4)]).await;
    let keys = sessions(80);
    let before = agreed_nodes_of(&world, &keys).await;
    let clients = all_workers(&world);
    for key in &keys {
        from_each(&clients, key).await;
    }
    let dead = world.node(0);

    dead.refuse().await;
    all_see(&world, &[("cooldown", 1), ("active", 3)]).await;

    for (key, home) in keys.iter().zip(&before) {
        let answers = from_each(&clients, key).await;
        assert!(answers.iter().all(|answer| answer.node() == answers[0].node()), "{key} is split");
        let notices: Vec<(String, usize)> = notices(&answers).into_iter().collect();
        let expected = (home == dead.name()).then(|| (format!("rehomed; from={home}; version=N"), 1));
        assert_eq!(notices, Vec::from_iter(expected), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_say_in_the_header_for_nodes_never_reaches_one() {
    let world = pinned().start().await;
    all_see(&world, &[("active", 3)]).await;
    let clients = all_workers(&world);
    let forged = |session: &str, client: &Client| {
        of(client, session).header("x-berth-session", "restore; version=1").send()
    };

    for session in ["ada", "grace"] {
        let mut answers = join_all(clients.iter().map(|client| forged(session, client))).await;
        answers.extend(join_all(clients.iter().map(|client| forged(session, client))).await);
        for outcome in ["claimed", "found", "hit"] {
            assert!(answers.iter().any(|answer| shown(answer, "outcome") == outcome), "{outcome}");
        }
        assert!(notices(&answers).is_empty(), "{:?}", notices(&answers));
    }
    let sessionless = clients[0].get("/").header("x-berth-session", "restore; version=1").send().await;
    assert!(notices([&sessionless]).is_empty(), "{:?}", sessionless.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_is_ended_at_the_service_begins_anew() {
    let world = pinned().start().await;
    all_see(&world, &[("active", 3)]).await;
    let clients = all_workers(&world);
    from_each(&clients, "ada").await;

    assert!(world.end_session("nodes", "ada").await);

    assert!(world.pin_of("nodes", "ada").await.is_none());
    begins_anew(&world, &clients, "ada").await;
    assert!(world.end_session("nodes", "ada").await);
    assert!(!world_has(&world, "ada").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_its_node_ends_begins_anew_and_the_client_sees_nothing_of_it() {
    let world = pinned().start().await;
    all_see(&world, &[("active", 3)]).await;
    let clients = all_workers(&world);
    let home = world.node_named(from_each(&clients, "ada").await[0].node());
    let claimed = world.pin_of("nodes", "ada").await.unwrap();

    home.set_headers(&[("x-berth-end", "1")]);
    let last = of(&clients[0], "ada").send().await;
    home.set_headers(&[]);

    assert_eq!(last.header("x-berth-end"), None, "{last:?}");
    let is_over = async || {
        let pin = world.pin_of("nodes", "ada").await;
        pin.is_none_or(|pin| pin.version > claimed.version)
    };
    eventually(is_over, SOON).await;
    begins_anew(&world, &clients, "ada").await;
    let ended = async || world.envoy(0).metric("berth_ended_total", &[("pool", "nodes")]).await == 1.0;
    eventually(ended, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_many_answers_repeat_hold_up_nothing() {
    let world = pinned().envoys(1).concurrency(1).nodes(1).start().await;
    all_see(&world, &[("active", 1)]).await;
    let node = world.node(0);
    node.set_headers(&[("x-berth-end", "1")]);
    // Each of them ends a session that another one, an instant ago, has ended already.
    for _ in 0..5 {
        let clients = workers(world.envoy(0));
        from_each(&clients, "ada").await;
    }
    node.set_headers(&[]);
    of(&world.client(), "grace").send().await;

    node.set_headers(&[("x-berth-end", "1")]);
    of(&world.client(), "grace").send().await;
    node.set_headers(&[]);

    eventually(async || world.pin_of("nodes", "grace").await.is_none(), Duration::from_secs(2)).await;
    let failed = [("pool", "nodes"), ("result", "failed")];
    assert_eq!(world.envoy(0).metric("berth_state_calls_total", &failed).await, 0.0);
    assert_eq!(shown(&of(&world.client(), "alan").send().await, "outcome"), "claimed");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_websocket_keeps_its_sessions_pin_alive_and_nothing_does_after_it() {
    keeps_alive(patiently_pinned(impatient(), &[("--ttl", "4s")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_websocket_does_so_too_where_only_the_pools_sessions_live_so_shortly() {
    let builder = patiently_pinned(impatient(), &[]);
    keeps_alive(builder.configuration(|json| pool(json)["session"]["ttl"] = "4s".into())).await;
}

async fn keeps_alive(builder: Builder) {
    let world = builder.start().await;
    all_see(&world, &[("active", 3)]).await;
    let mut socket = world.get("/ws/ada").websocket().await;
    let pin = world.pin_of("nodes", "ada").await.unwrap();
    assert_eq!(pin.node.to_string(), socket.node());

    let is_old = async || {
        let now = world.pin_of("nodes", "ada").await.expect("its pin is there all the time");
        assert_eq!((&now.node, now.version), (&pin.node, pin.version));
        assert!(now.age_ms >= pin.age_ms, "it is another pin");
        now.age_ms > 3 * 4_000
    };
    eventually(is_old, SOON * 2).await;
    assert_eq!(socket.echo("still there").await.as_deref(), Some("still there"));

    drop(socket);
    eventually(async || world.pin_of("nodes", "ada").await.is_none(), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_websocket_has_a_pin_again_after_the_state_cluster_was_away_or_lost_it() {
    let world = patiently_pinned(impatient(), &[("--ttl", "4s")])
        .configuration(|json| json["state"]["timeout"] = "100ms".into())
        .start()
        .await;
    all_see(&world, &[("active", 3)]).await;
    let pinned = async |socket: &WebSocket| {
        let pin = world.pin_of("nodes", "ada").await;
        pin.is_some_and(|pin| pin.node.to_string() == socket.node())
    };
    // From an answer the worker learns how long pins live.
    for client in workers(world.envoy(0)) {
        of(&client, "eve").send().await;
    }
    world.state(0).kill();
    let mut socket = world.get("/ws/ada").websocket().await;
    world.state(0).restart().await;

    eventually(async || pinned(&socket).await, SOON).await;
    world.redis().cli(&["flushall"]);
    eventually(async || pinned(&socket).await, SOON).await;

    assert_eq!(socket.echo("still there").await.as_deref(), Some("still there"));
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_one_proxy_checks_and_finds_down_gets_no_new_sessions_from_another() {
    let cooldown = |json: &mut Value| pool(json)["health"]["cooldown"] = "60s".into();
    let world = pinned().nodes(4).configuration(cooldown).start().await;
    all_see(&world, &[("active", 4)]).await;
    // The second proxy goes by a list, so it has the health of its members from nowhere else.
    let members: Vec<String> = world.nodes().iter().map(|node| node.name().to_owned()).collect();
    let by_list = |json: &mut Value| {
        pool(json).as_object_mut().unwrap().remove("cluster");
        pool(json)["members"] = json!(members);
    };
    world.envoy(1).reload(by_list).await.unwrap();
    let down = world.node(0);

    down.refuse().await;
    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 3)]).await;
    // It would serve, so nothing that the second proxy does tells it.
    down.restart().await;
    let cooldown = "wasmcustom.berth_nodes.pool.nodes.state.cooldown";
    eventually(async || world.envoy(1).stat(cooldown).await == 1, SOON).await;

    let newcomers = new_sessions("newcomer", 200);
    let placed = world.envoy(1).client().nodes_of(&newcomers).await;
    assert!(!placed.iter().any(|node| node == down.name()), "{:?}", shares(&placed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_requests_say_of_a_node_is_not_told_to_other_proxies() {
    // No check: only the first proxy's own traffic shows that the node is down.
    let world = pinned()
        .nodes(4)
        .health_interval(NEVER)
        .configuration(|json| pool(json)["health"]["cooldown"] = "60s".into())
        .start()
        .await;
    all_see(&world, &[("active", 4)]).await;
    let keys = sessions(60);
    let before = agreed_nodes_of(&world, &keys).await;
    let down = world.node(0);

    down.refuse().await;
    let ask = async || {
        for (key, _) in keys.iter().zip(&before).filter(|(_, home)| *home == down.name()) {
            of(&world.envoy(0).client(), key).send().await;
        }
    };
    ask().await;
    nodes_become(world.envoy(0), &[("cooldown", 1), ("active", 3)]).await;
    // Those of the first requests, which a retry served, are rehomed too.
    ask().await;
    down.restart().await;
    caught_up(world.envoy(0)).await;
    caught_up(world.envoy(1)).await;

    nodes_become(world.envoy(1), &[("cooldown", 0), ("active", 4)]).await;
    let newcomers = new_sessions("newcomer", 200);
    let placed = world.envoy(1).client().nodes_of(&newcomers).await;
    assert!(placed.iter().any(|node| node == down.name()), "{:?}", shares(&placed));
    // Those that it had are somewhere else, in the same place for both.
    let after = agreed_nodes_of(&world, &keys).await;
    for ((key, before), after) in keys.iter().zip(&before).zip(&after) {
        assert_eq!(before != after, before == down.name(), "{key}: {before} → {after}");
    }
}

/// As many nodes are replaced as ten of the lists that once held those that left, and then 40 % of the rest are removed at
/// once: a session whose node is gone moves with its first request, also at a proxy that never had it.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_of_any_number_of_nodes_that_left_are_rehomed_with_their_next_request() {
    const WINDOW: usize = 100;
    const TURNS: usize = 16;
    let step = WINDOW / 5;
    let builder = pinned().nodes(WINDOW + TURNS * step).concurrency(1).configuration(|json| {
        pool(json)["ring"] = json!({"virtual_nodes": 32});
        // The nodes of later turns are there at first, and vanish together.
        pool(json)["vanish_grace"] = "0s".into();
    });
    // Without checks a node that leaves EDS is gone at once.
    let world = builder.bootstrap(|json| drop(cluster(json, "nodes")["health_checks"].take())).start().await;
    let all: Vec<Endpoint> = world.nodes().iter().map(|node| Endpoint::new(node.address())).collect();
    let now_has = async |from: usize, to: usize| {
        world.edit_endpoints(|set| *set = all[from..to].to_vec()).await;
        all_see(&world, &[("active", (to - from) as u64)]).await;
        let names = all[from..to].iter().map(|endpoint| endpoint.address.to_string());
        names.collect::<BTreeSet<String>>()
    };
    now_has(0, WINDOW).await;
    let keys = sessions(1500);
    // Every third session is used through one proxy only, and then comes to the other.
    let clients = [world.envoy(0).client(), world.envoy(1).client()];
    for (number, key) in keys.iter().enumerate() {
        join_all(clients.iter().skip(usize::from(number % 3 == 0)).map(|client| of(client, key).send()))
            .await;
    }

    for turn in 1..TURNS {
        world.edit_endpoints(|set| *set = all[turn * step..turn * step + WINDOW].to_vec()).await;
    }
    let first = TURNS * step;
    let living = now_has(first, first + WINDOW).await;
    assert_all_placed(&world, &keys, &living).await;

    let living = now_has(first, first + WINDOW * 3 / 5).await;
    assert_all_placed(&world, &keys, &living).await;
}

/// Within two requests, every session is at the node of its pin, and that node exists. After that, proxies ask the
/// state service no further questions.
async fn assert_all_placed(world: &World, keys: &[String], living: &BTreeSet<String>) {
    // All have been with their nodes for longer than a proxy may be behind.
    let pin = async || world.pin_of("nodes", &keys[keys.len() - 1]).await.unwrap().owned_ms;
    eventually(async || pin().await > 5_000, SOON * 2).await;
    let client = world.envoy(0).client();
    for round in 0..3 {
        let asked = questions(world).await;
        for key in keys {
            let answer = of(&client, key).send().await;
            let outcome = shown(&answer, "outcome");
            // An answer that the news of its own move overtook is asked for a second time.
            assert!(round < 2 || outcome == "hit", "{key} is {outcome} in round {round}");
            let is_placed = outcome != "ring" && living.contains(answer.node());
            assert!(is_placed, "{key} in round {round}: {:?}", answer.header("x-berth"));
        }
        if round == 2 {
            let more = questions(world).await - asked;
            assert!(more < 50.0, "{more} questions about {} sessions that are known", keys.len());
        }
    }
}

/// How many resolve calls the services have received. Touches do not count.
async fn questions(world: &World) -> f64 {
    world.state_metric("berth_state_requests_total", &[("call", "resolve")]).await
}

/// Two Envoys over a Redis, which look at their nodes five times a second.
fn pinned() -> Builder {
    patiently_pinned(impatient().envoys(2), &[])
}

fn new_sessions(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// Connections to every worker of every Envoy.
fn all_workers(world: &World) -> Vec<Client> {
    world.envoys().iter().flat_map(workers).collect()
}

/// A node says that it has started, as nodes do before they serve.
async fn says_boot_id(world: &World, node: &str, boot_id: &str) {
    let change = NodeChange { boot_id: Some(boot_id.into()), ..NodeChange::default() };
    world.state(0).change_node("nodes", node, &change).await;
}

/// Workers forget the pin; then one of them claims the session and all others find it.
async fn begins_anew(world: &World, clients: &[Client], session: &str) {
    let mut answers: Vec<Response> = Vec::new();
    let outcome = |answers: &[Response], outcome: &str| {
        answers.iter().filter(|answer| shown(answer, "outcome") == outcome).count()
    };
    let claimed = async || {
        answers.extend(from_each(clients, session).await);
        outcome(&answers, "claimed") > 0
    };
    eventually(claimed, SOON).await;
    assert_eq!(outcome(&answers, "claimed"), 1);
    assert!(world_has(world, session).await);
}

async fn world_has(world: &World, session: &str) -> bool {
    world.pin_of("nodes", session).await.is_some()
}

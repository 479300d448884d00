//! Sessions in a mesh through all that happens to pods, once for each flavour of Istio.

use berth_core::wire::NodeChange;
use berth_harness::istio::{Flavour, Istio, Pods};
use berth_harness::{World, eventually};

use crate::support::patience::nodes_become;
use crate::support::pinning::{moved, notices, of};
use crate::support::{SHIPPED_RING, SOON, owners, sessions, shown};
use crate::worlds::{PODS, started};

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_their_pods_at_a_gateway_of_1_28() {
    live(Flavour::GATEWAY_1_28).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_their_pods_at_a_gateway_of_1_31() {
    live(Flavour::GATEWAY_1_31).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_their_pods_at_a_sidecar() {
    live(Flavour::SIDECAR).await;
}

/// One world for all of it: each part begins where the one before it ended.
async fn live(flavour: Flavour) {
    let istio = Istio::new(flavour);
    let world = started(&istio).await;
    let mut life = Life {
        pods: istio.pods(&world),
        world: &world,
        keys: sessions(120),
        at: Vec::new(),
        active: PODS as u64,
    };

    for pod in world.nodes() {
        life.says_boot_id(pod.name(), "first").await;
    }

    life.sessions_have_the_rings_node().await;
    life.client_cannot_choose_a_pod().await;
    life.websockets_go_to_the_sessions_pod().await;
    life.more_pods_move_no_session().await;
    life.pod_that_is_not_ready_loses_its_sessions_once().await;
    life.pod_that_terminates_keeps_its_sessions_until_it_ends().await;
    life.rolling_deploy_moves_each_session_with_its_pod_only().await;
    life.pod_that_dies_unnoticed_loses_its_sessions_alone().await;
    life.sessions_go_on_where_they_are_when_an_address_comes_back_late().await;
    life.address_of_another_pod_gets_a_notice().await;

    assert_eq!(world.envoy(0).wasm_failures().await, 0);
}

struct Life<'w> {
    world: &'w World,
    pods: Pods<'w>,
    keys: Vec<String>,
    /// Where each session is.
    at: Vec<String>,
    active: u64,
}

impl Life<'_> {
    async fn sessions_have_the_rings_node(&mut self) {
        self.at = self.world.nodes_of(&self.keys).await;
        assert_eq!(self.at, owners(self.world, SHIPPED_RING, &self.keys));
        self.nothing_moved().await;
    }

    async fn client_cannot_choose_a_pod(&self) {
        let other = self.another_than(&self.at[0]);
        let request = of(&self.world.client(), &self.keys[0]).header("x-berth-destination", &other);
        assert_eq!(request.send().await.node(), self.at[0]);

        // Without a session neither: then no destination is left at all.
        let answer = self.world.get("/").header("x-berth-destination", &other).send().await;
        assert_eq!(shown(&answer, "outcome"), "sessionless");
        assert_eq!(answer.received().header("x-berth-destination"), None);
    }

    async fn websockets_go_to_the_sessions_pod(&self) {
        let socket = self.world.get(&format!("/ws/{}", self.keys[3])).websocket().await;
        assert_eq!(socket.node(), self.at[3]);
    }

    async fn more_pods_move_no_session(&mut self) {
        let added = self.add_pod().await;
        self.nothing_moved().await;
        assert!(self.new_sessions("added").await.contains(&added), "new sessions go to the new pod too");
    }

    async fn pod_that_is_not_ready_loses_its_sessions_once(&mut self) {
        self.pods.unready(0).await;
        self.become_active(-1).await;
        self.only_these_moved(0).await;

        self.pods.ready(0).await;
        self.become_active(1).await;
        self.nothing_moved().await;
    }

    async fn pod_that_terminates_keeps_its_sessions_until_it_ends(&mut self) {
        self.pods.terminating(1).await;
        self.one_is_draining().await;
        self.nothing_moved().await;
        let terminating = self.world.node(1).name().to_owned();
        assert!(
            !self.new_sessions("draining").await.contains(&terminating),
            "a pod that ends gets no new ones"
        );

        self.pods.gone(1).await;
        self.become_active(0).await;
        self.only_these_moved(1).await;
    }

    async fn rolling_deploy_moves_each_session_with_its_pod_only(&mut self) {
        for old in [2, 3] {
            self.add_pod().await;
            self.pods.terminating(old).await;
            self.one_is_draining().await;
            self.nothing_moved().await;
            self.pods.gone(old).await;
            self.become_active(0).await;
            self.only_these_moved(old).await;
        }
    }

    async fn pod_that_dies_unnoticed_loses_its_sessions_alone(&mut self) {
        // The endpoints still name it: only requests show that it is gone.
        self.world.node(4).refuse().await;
        self.only_these_moved(4).await;

        // Kubernetes notices in the end.
        self.world.remove_node(4).await;
        self.become_active(-1).await;
        self.nothing_moved().await;
    }

    async fn sessions_go_on_where_they_are_when_an_address_comes_back_late(&mut self) {
        // A StatefulSet replaces a pod; its sessions are served meanwhile. The one that then gets the address is a stranger.
        let address = self.world.node(6).name().to_owned();
        self.pods.terminating(6).await;
        self.one_is_draining().await;
        self.pods.gone(6).await;
        self.become_active(0).await;
        self.only_these_moved(6).await;

        self.pods.reused(6).await;
        self.says_boot_id(&address, "second").await;
        self.become_active(1).await;
        self.nothing_moved().await;
        assert!(self.new_sessions("reused").await.contains(&address), "it gets new ones");
    }

    async fn address_of_another_pod_gets_a_notice(&mut self) {
        let address = self.world.node(5).name().to_owned();
        let place = self.at.iter().position(|node| *node == address).expect("it has sessions");
        let key = self.keys[place].clone();

        // As a StatefulSet replaces a pod: first it is gone, then another one comes, here at the same address.
        self.pods.terminating(5).await;
        self.pods.gone(5).await;
        self.pods.reused(5).await;
        self.says_boot_id(&address, "second").await;
        self.become_active(0).await;

        // As soon as a worker knows of the start.
        let is_notified = async || {
            let answer = of(&self.world.client(), &key).send().await;
            let notices = notices([&answer]);
            if notices.is_empty() { Err(format!("{:?}", answer.header("x-berth"))) } else { Ok(()) }
        };
        eventually(is_notified, SOON).await;
    }

    async fn says_boot_id(&self, node: &str, boot_id: &str) {
        let change = NodeChange { boot_id: Some(boot_id.into()), ..NodeChange::default() };
        self.world.state(0).change_node("nodes", node, &change).await;
    }

    async fn add_pod(&mut self) -> String {
        let added = self.world.add_node().await;
        self.says_boot_id(added.name(), "first").await;
        self.become_active(1).await;
        added.name().to_owned()
    }

    async fn one_is_draining(&mut self) {
        nodes_become(self.world.envoy(0), &[("active", self.active - 1), ("draining", 1)]).await;
        self.active -= 1;
    }

    /// Waits until so many more pods are active, and none drains.
    async fn become_active(&mut self, more: i64) {
        self.active = self.active.checked_add_signed(more).expect("some are left");
        nodes_become(self.world.envoy(0), &[("active", self.active), ("draining", 0)]).await;
    }

    async fn nothing_moved(&self) {
        let now = self.world.nodes_of(&self.keys).await;
        let moved = moved(&self.keys, &self.at, &now);
        assert!(moved.is_empty(), "{moved:?}");
    }

    /// The sessions of this pod have other pods now, and keep them; all others are where they were.
    async fn only_these_moved(&mut self, pod: usize) {
        let gone = self.world.node(pod).name().to_owned();
        let now = self.world.nodes_of(&self.keys).await;
        for (key, (before, now)) in self.keys.iter().zip(self.at.iter().zip(&now)) {
            assert_eq!(before != now, *before == gone, "{key}: {before} → {now}, without {gone}");
        }
        self.at = now;
        self.nothing_moved().await;
    }

    async fn new_sessions(&self, name: &str) -> Vec<String> {
        let keys: Vec<String> = (0..100).map(|number| format!("{name}-{number}")).collect();
        self.world.nodes_of(&keys).await
    }

    fn another_than(&self, node: &str) -> String {
        self.at.iter().find(|at| *at != node).expect("several pods").clone()
    }
}

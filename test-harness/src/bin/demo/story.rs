//! The story: scale out, death, cooldown, relapse, panic. Each chapter says what is promised and whether it held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_harness::{World, eventually};

use crate::crowd::{Crowd, Look, names};
use crate::screen::Screen;
use crate::{MOST_NODES, NODES};

/// Instead of 30 s.
pub(crate) const COOLDOWN: Duration = Duration::from_secs(5);
/// Instead of 30 s.
pub(crate) const WARM_UP: Duration = Duration::from_secs(4);
/// Polls, ticks and checks on a busy machine, on top of what a chapter waits for.
const SLACK: Duration = Duration::from_secs(20);

pub(crate) struct Story<'w> {
    world: &'w World,
    crowd: Crowd,
    screen: Screen,
    down: BTreeSet<String>,
    checked: usize,
    broken: Vec<String>,
}

impl<'w> Story<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self {
            world,
            crowd: Crowd::new(),
            screen: Screen::default(),
            down: BTreeSet::new(),
            checked: 0,
            broken: Vec::new(),
        }
    }

    pub(crate) fn checked(&self) -> usize {
        self.checked
    }

    pub(crate) fn into_crowd(self) -> Crowd {
        self.crowd
    }

    /// Plays it; returns the promises that did not hold.
    pub(crate) async fn play(&mut self) -> Vec<String> {
        self.stay().await;
        self.scale_out().await;
        let victim = self.world.node(2).name().to_owned();
        self.die(&victim).await;
        self.come_back(&victim, COOLDOWN, "cooldown").await;
        self.relapse(&victim).await;
        self.panic().await;
        std::mem::take(&mut self.broken)
    }

    async fn stay(&mut self) {
        self.screen.chapter(&format!("{} sessions on {NODES} nodes", self.crowd.len()));
        let expected = self.crowd.on_ring(&names(self.world));
        let settled = self.watch_until(|look| look.nodes == expected).await;
        let again = self.look(true).await;
        self.promise(
            settled.nodes == expected && again.moves(&settled).count() == 0,
            "every session is where `berth ring` says, request after request",
        );
        let most = again.counts().values().copied().max().unwrap_or(0) as f64;
        let mean = self.crowd.len() as f64 / f64::from(NODES);
        self.screen.line(&format!("   fullest node over mean: {:.2}", most / mean));

        // A client that would like to choose its node.
        let home = again.nodes[0].clone().unwrap_or_default();
        let other = names(self.world).into_iter().find(|node| *node != home).unwrap_or_default();
        let spoofed =
            self.world.get("/").header("x-session-id", "player-1").header("x-berth-destination", other);
        let answer = spoofed.send().await;
        self.promise(answer.node() == home, "a client that names a node itself is not obeyed");
    }

    async fn scale_out(&mut self) {
        self.screen.chapter(&format!(
            "scale out: {NODES} → {MOST_NODES} nodes, the new ones warm up over {WARM_UP:?}"
        ));
        let before = self.look(false).await;
        let old = names(self.world);
        for _ in NODES..MOST_NODES {
            self.world.add_node().await;
        }
        let all = names(self.world);
        let expected = self.crowd.on_ring(&all);
        let mut failed = 0;
        let after = self
            .watch_until(|look| {
                failed += look.failed();
                look.nodes == expected
            })
            .await;
        let moved: Vec<_> = before.moves(&after).collect();
        let among_old = moved.iter().filter(|(_, to)| old.iter().any(|node| node == to)).count();
        let share = f64::from(MOST_NODES - NODES) / f64::from(MOST_NODES);
        let expected_moves = share * self.crowd.len() as f64;
        // The points of a node make its share vary too: a standard deviation of 1/√512, beside the draw's own.
        let sigma = (expected_moves * (1.0 - share)).sqrt() + expected_moves / 512f64.sqrt();
        self.screen.line(&format!(
            "   {} of {} sessions moved ({:.1} %); without pins that is what a new node costs",
            moved.len(),
            self.crowd.len(),
            100.0 * moved.len() as f64 / self.crowd.len() as f64
        ));
        self.promise(failed == 0, "no request failed meanwhile");
        self.promise(
            after.nodes == expected && (moved.len() as f64) <= expected_moves + 3.0 * sigma,
            "only the new nodes' share moved",
        );
        self.promise(among_old == 0, "no session moved between old nodes");
    }

    async fn die(&mut self, victim: &str) {
        self.screen.chapter(&format!("{victim} dies"));
        let before = self.look(false).await;
        self.kill(victim).await;
        let first = self.look(false).await;
        let mut failed = first.failed();
        let after = self
            .watch_until(|look| {
                failed += look.failed();
                look.count_on(victim) == 0 && look.failed() == 0
            })
            .await;
        let moved: Vec<_> = before.moves(&after).collect();
        self.screen.line(&format!("   {} sessions moved, each to its successor on the ring", moved.len()));
        self.promise(failed == 0, "no request failed: each was retried on the successor");
        self.promise(
            moved.len() == before.count_on(victim) && moved.iter().all(|(from, _)| *from == victim),
            "exactly the dead node's sessions moved",
        );
    }

    async fn come_back(&mut self, victim: &str, cooldown: Duration, what: &str) {
        self.screen.chapter(&format!("{victim} is back; {what}: it must stay out for {cooldown:?}"));
        let revived = Instant::now();
        self.world.node_named(victim).restart().await;
        self.down.remove(victim);
        self.watch_until(|look| look.count_on(victim) > 0).await;
        let out = revived.elapsed();
        let expected = self.crowd.on_ring(&names(self.world));
        let after = self.watch_until(|look| look.nodes == expected).await;
        self.screen.line(&format!("   its first session came back after {:.1} s", out.as_secs_f64()));
        self.promise(out >= cooldown, "it stayed out for its cooldown after it was last seen unhealthy");
        self.promise(after.nodes == expected, "after the warm-up every session is home again");
    }

    async fn relapse(&mut self, victim: &str) {
        self.screen.chapter(&format!("{victim} dies again"));
        self.kill(victim).await;
        let gone = self.watch_until(|look| look.count_on(victim) == 0 && look.failed() == 0).await;
        // Envoy's own check must have seen it: a node that is back before that was never unhealthy.
        let envoy = self.world.envoy(0);
        eventually(async || envoy.metric("berth_nodes", &[("state", "cooldown")]).await == 1.0, SLACK).await;
        self.promise(gone.failed() == 0, "again nobody was refused");
        self.come_back(victim, 2 * COOLDOWN, "a relapse doubles the cooldown").await;
    }

    async fn panic(&mut self) {
        let victims: Vec<String> = names(self.world).into_iter().skip(3).collect();
        self.screen.chapter(&format!("{} of {MOST_NODES} nodes die at once", victims.len()));
        for victim in &victims {
            self.kill(victim).await;
        }
        let envoy = self.world.envoy(0);
        let mut failed = 0;
        let deadline = Instant::now() + SLACK;
        while Instant::now() < deadline && envoy.metric("berth_panic", &[]).await < 1.0 {
            failed += self.look(false).await.failed();
        }
        let panicking = envoy.metric("berth_panic", &[]).await >= 1.0;
        let look = self.watch_until(|look| look.failed() == 0).await;
        self.screen.line(&format!(
            "   {failed} requests failed before it was noticed: all three of their candidates had died"
        ));
        self.promise(
            panicking,
            "that is panic: so much bad news is not believed, nobody is reshuffled for it",
        );
        self.promise(look.failed() == 0, "yet who finds the owner dead is served by a node that looks well");
        for victim in &victims {
            self.world.node_named(victim).restart().await;
            self.down.remove(victim);
        }
        let expected = self.crowd.on_ring(&names(self.world));
        let home = self.watch_until(|look| look.nodes == expected).await;
        self.promise(home.nodes == expected, "all come back, and every session is home");
    }

    async fn kill(&mut self, node: &str) {
        self.world.node_named(node).refuse().await;
        self.down.insert(node.to_owned());
    }

    async fn look(&mut self, last: bool) -> Look {
        let look = self.crowd.look(&self.world.client()).await;
        self.screen.draw(self.world, &self.down, &look, last);
        look
    }

    /// Looks again and again until it is as wished, or too late; either way the table of the end stays.
    async fn watch_until(&mut self, mut wished: impl FnMut(&Look) -> bool) -> Look {
        let deadline = Instant::now() + 2 * COOLDOWN + WARM_UP + SLACK;
        loop {
            let look = self.look(false).await;
            if wished(&look) || Instant::now() > deadline {
                self.screen.draw(self.world, &self.down, &look, true);
                return look;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn promise(&mut self, held: bool, text: &str) {
        self.checked += 1;
        self.screen.line(&format!(" {} {text}", if held { "✓" } else { "✗" }));
        if !held {
            self.broken.push(text.to_owned());
        }
    }
}

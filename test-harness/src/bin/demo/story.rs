//! The story: scale out, a death, its flaps, a drain, the state cluster away and back, panic; where tokens name sessions,
//! their chapters in between. Each says what is promised and whether it held, and measures the same of native ring_hash.

use std::time::{Duration, Instant};

use berth_harness::World;

use crate::crowd::{By, Look};
use crate::identity::Identity;
use crate::screen::{Row, summary};
use crate::stage::{Goal, Stage, names, until};
use crate::{MOST_NODES, NODES, Store, native, tokens};

/// Instead of 30 s.
pub(crate) const COOLDOWN: Duration = Duration::from_secs(3);
/// Instead of 30 s.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
/// The breaker tries again within seconds; the rest is for busy machines.
const CONVERGED: Duration = Duration::from_secs(30);
/// How many die at once.
const PANIC: usize = 5;

pub(crate) struct Story<'w> {
    stage: Stage<'w>,
    store: Store,
}

impl<'w> Story<'w> {
    pub(crate) async fn new(world: &'w World, identity: &'w Identity, store: Store) -> Self {
        Self { stage: Stage::set(world, identity).await, store }
    }

    /// Plays it, and prints what came of it. True if every promise held.
    pub(crate) async fn play(mut self) -> bool {
        let began = Instant::now();
        let issuer = self.stage.identity.issuer();
        self.stay().await;
        if let Some(issuer) = issuer {
            tokens::forge(&mut self.stage, issuer).await;
        }
        self.scale_out().await;
        if issuer.is_some() {
            tokens::renew(&mut self.stage).await;
        }
        let victim = self.stage.world.node(2).name().to_owned();
        self.die(&victim).await;
        self.flap(&victim).await;
        let leaving = self.stage.world.node(0).name().to_owned();
        self.drain(&leaving).await;
        if let Some(issuer) = issuer {
            tokens::rotate(&mut self.stage, issuer).await;
            tokens::lose_issuer(&mut self.stage, issuer).await;
        }
        self.lose_state_cluster().await;
        self.panic().await;

        let Stage { rows, crowd, identity, .. } = &self.stage;
        let (checked, broken) = self.stage.verdict();
        println!(
            "\n── {} sessions, each step measured in this run, by the same Envoy on the same nodes",
            crowd.len()
        );
        summary(identity.native(), rows);
        println!(
            "   a+b moved: a as consistent hashing has to, b beside them, because Envoy resizes its ring"
        );
        if broken.is_empty() {
            println!("\nAll {checked} promises held, in {:.0} s.", began.elapsed().as_secs_f64());
        } else {
            println!("\n{} of {checked} promises broken:", broken.len());
            broken.iter().for_each(|promise| println!("  ✗ {promise}"));
        }
        broken.is_empty() && rows.iter().all(|row: &Row| row.held)
    }

    async fn stay(&mut self) {
        let stage = &mut self.stage;
        stage.chapter(&format!("{} sessions come to {NODES} nodes", stage.crowd.len()));
        let members = names(stage.world);
        stage.watch(&Goal { states: &[("active", members.len())], native: members.clone() }).await;
        stage.show();
        let [berth, native] = [&stage.berth, &stage.native].map(|track| track.now().balance(members.len()));
        let (_, pinned) = stage.crowd.pins(stage.world, stage.berth.now()).await;
        let ring = stage.crowd.on_ring(&members, native::algorithm());

        stage.promise(
            stage.berth.failed() + stage.berth.moves() == 0 && *stage.berth.now() == ring,
            "every session is served by one node, which `berth ring` names too, request after request",
        );
        stage.promise(
            pinned == stage.crowd.len(),
            &format!(
                "the state cluster has {pinned} of {} pinned to the node that serves them",
                stage.crowd.len()
            ),
        );
        stage.promise(berth <= 1.35, &format!("the fullest node has {berth:.2} times the mean"));
        // A client that would like to choose its node.
        let home = ring.nodes[0].clone().unwrap_or_default();
        let other = members.iter().find(|node| **node != home).cloned().unwrap_or_default();
        let spoofed = stage.world.get("/").header("x-berth-destination", other);
        let spoofed = stage.identity.name(spoofed, &stage.crowd.sessions[0]);
        let served = spoofed.try_send().await;
        stage.promise(
            served.is_ok_and(|answer| answer.status == 200 && answer.node() == home),
            "a client that names a node itself is not obeyed",
        );
        stage.row(
            "600 sessions come",
            format!("fullest {berth:.2} × mean"),
            format!("fullest {native:.2} × mean"),
            "one node, evenly",
        );
    }

    async fn scale_out(&mut self) {
        let stage = &mut self.stage;
        stage.chapter(&format!(
            "scale out: {NODES} → {MOST_NODES} nodes, the new ones warm up over {WARM_UP:?}"
        ));
        for _ in NODES..MOST_NODES {
            stage.world.add_node().await;
        }
        let members = names(stage.world);
        let before = stage.native.now().clone();
        stage.watch(&Goal { states: &[("active", members.len())], native: members.clone() }).await;
        stage.show();
        let (guests, berth, _) = stage.guests("scale").await;
        let new: usize = members[usize::from(NODES)..].iter().map(|node| berth.count_on(node)).sum();
        stage.line(&format!("of {} sessions that come now {new} begin on the two new nodes", guests.len()));

        stage.promise(stage.berth.moves() == 0, &format!("no session moved: {} did", stage.berth.moved()));
        stage.promise(stage.berth.failed() == 0, "no request failed");
        stage.promise(berth.failed() == 0 && new > 0, "new sessions use the new nodes");
        let after = stage.native.now();
        let share = 100.0 * before.moves(after).count() as f64 / stage.crowd.len() as f64;
        let is_new = |_: &str, to: &str| members[usize::from(NODES)..].iter().any(|node| node == to);
        let native = format!("{} moved ({share:.0} %)", divided(&before, after, is_new));
        stage.row("6 → 8 nodes", format!("{} moved", stage.berth.moved()), native, "no session moves");
    }

    async fn die(&mut self, victim: &str) {
        let stage = &mut self.stage;
        stage.chapter(&format!("{victim} dies"));
        let (here, before) = (stage.berth.now().count_on(victim), stage.native.now().clone());
        stage.kill(victim).await;
        let left = without(stage.world, victim);
        stage.watch(&Goal { states: &[("active", left.len()), ("cooldown", 1)], native: left }).await;
        stage.show();

        stage.promise(
            stage.berth.only_left_once(victim),
            &format!("exactly its {here} sessions moved, once each: {} moved", stage.berth.moved()),
        );
        stage.promise(
            stage.berth.failed() == 0,
            "no request failed: each was retried on the session's next node",
        );
        let berth = format!("{} moved, {} failed", stage.berth.moved(), stage.berth.failed());
        let native = divided(&before, stage.native.now(), |from, _| from == victim);
        let native = format!("{native} moved, {} failed", stage.native.failed());
        stage.row("a node dies", berth, native, "only its own, once");
    }

    async fn flap(&mut self, victim: &str) {
        let stage = &mut self.stage;
        let (all, left) = (names(stage.world), without(stage.world, victim));
        stage.chapter(&format!("{victim} flaps: it is back, dies again, and is back again"));
        let back = Goal { states: &[("active", all.len())], native: all.clone() };
        let gone = Goal { states: &[("active", left.len()), ("cooldown", 1)], native: left };
        let mut native = Vec::new();
        let mut out = Vec::new();
        for lives in [true, false, true] {
            let (before, began) = (stage.native.now().clone(), Instant::now());
            if lives {
                stage.revive(victim).await;
                stage.watch(&back).await;
                out.push(began.elapsed());
            } else {
                stage.kill(victim).await;
                stage.watch(&gone).await;
            }
            native.push(before.moves(stage.native.now()).count().to_string());
        }
        stage.show();
        let (guests, berth, _) = stage.guests("flap").await;
        let new = berth.count_on(victim);
        stage.line(&format!(
            "it was in full service {:.1} s after it was back, then {:.1} s; of {} new sessions {new} begin there",
            out[0].as_secs_f64(),
            out[1].as_secs_f64(),
            guests.len()
        ));
        stage.promise(
            stage.berth.moves() == 0,
            &format!("no session moved back, or away again: {} moves", stage.berth.moves()),
        );
        stage.promise(stage.berth.failed() == 0, "no request failed");
        stage.promise(
            out[0] >= COOLDOWN && out[1] >= 2 * COOLDOWN && new > 0,
            &format!("it gets new sessions, after a cooldown of {COOLDOWN:?}, doubled by its relapse"),
        );
        let native = format!("{} moves, {} failed", native.join("+"), stage.native.failed());
        stage.row("it flaps", format!("{} moves", stage.berth.moves()), native, "none moves back");
    }

    async fn drain(&mut self, leaving: &str) {
        let stage = &mut self.stage;
        stage.chapter(&format!(
            "{leaving} shall leave: the operator drains it, then the platform says so too (EDS)"
        ));
        let (all, left) = (names(stage.world), without(stage.world, leaving));
        let (here, before) = (stage.berth.now().count_on(leaving), stage.native.now().clone());
        stage.operate(&["drain", leaving]).await;
        let states = [("active", left.len()), ("draining", 1)];
        stage.watch(&Goal { states: &states, native: all.clone() }).await;
        let (guests, berth, _) = stage.guests("drain").await;
        stage.world.set_eds_health(0, "DRAINING").await;
        stage.watch(&Goal { states: &states, native: left }).await;
        stage.show();
        let native = divided(&before, stage.native.now(), |from, _| from == leaving);

        stage.promise(
            stage.berth.moves() == 0,
            &format!("all its {here} sessions stay: {} moved", stage.berth.moved()),
        );
        stage.promise(
            berth.failed() == 0 && berth.count_on(leaving) == 0,
            &format!("none of {} new sessions begins there: {}", guests.len(), berth.count_on(leaving)),
        );
        stage.operate(&["set-state", leaving, "active"]).await;
        stage.world.set_eds_health(0, "UNKNOWN").await;
        stage.watch(&Goal { states: &[("active", all.len())], native: all.clone() }).await;
        stage.promise(
            stage.berth.moves() + stage.berth.failed() == 0,
            "nor when it is kept after all; no request failed",
        );
        let native = format!("{native} moved, {} failed", stage.native.failed());
        let berth = format!("{} moved, {} new there", stage.berth.moved(), berth.count_on(leaving));
        stage.row("drain", berth, native, "its sessions stay");
    }

    async fn lose_state_cluster(&mut self) {
        let Self { stage, store } = self;
        stage.chapter("the state cluster is killed");
        let all = names(stage.world);
        let goal = Goal { states: &[("active", all.len())], native: all.clone() };
        stage.world.state(0).kill();
        let (guests, first, _) = stage.guests("away").await;
        stage.watch(&goal).await;
        stage.promise(stage.berth.moves() == 0, &format!("no session moved: {} did", stage.berth.moved()));
        stage
            .promise(stage.berth.failed() + first.failed() == 0, "no request failed, of old or new sessions");
        stage.promise(
            first == guests.on_ring(&all, native::algorithm()),
            &format!("{} new sessions go where the ring says", guests.len()),
        );
        let berth =
            format!("{} moved, {} failed", stage.berth.moved(), stage.berth.failed() + first.failed());
        stage.row("state cluster down", berth, "has none".into(), "no session notices");

        stage.chapter("the state cluster is back");
        stage.world.state(0).restart().await;
        let known = stage.crowd.pins(stage.world, stage.berth.now()).await.0
            + guests.pins(stage.world, &first).await.0;
        let total = stage.crowd.len() + guests.len();
        let remembered = match store {
            Store::Memory => "its memory is gone, but proxies remember",
            Store::Redis => "Redis kept them",
        };
        stage.line(&format!("it knows {known} of {total} sessions; {remembered}"));
        let back = Instant::now();
        let mut right;
        let mut strays = 0;
        loop {
            stage.look().await;
            let client = stage.world.client();
            let now = guests.look(&client, By::Berth).await;
            strays += now.nodes.iter().zip(&first.nodes).filter(|(now, first)| now != first).count();
            right = stage.crowd.pins(stage.world, stage.berth.now()).await.1
                + guests.pins(stage.world, &now).await.1;
            if right == total || back.elapsed() > CONVERGED {
                break;
            }
        }
        let took = back.elapsed();
        stage.watch(&goal).await;
        stage.promise(
            right == total,
            &format!("after {:.1} s {right} of {total} pins name the node that serves", took.as_secs_f64()),
        );
        stage.promise(
            stage.berth.moves() + strays + stage.berth.failed() == 0,
            &format!("no session moved for it: {} did", stage.berth.moved() + strays),
        );
        let berth = format!("{} moved, {right}/{total} agree", stage.berth.moved() + strays);
        stage.row("… and back", berth, "has none".into(), "pins = proxies");
    }

    async fn panic(&mut self) {
        let stage = &mut self.stage;
        let all = names(stage.world);
        let dead: Vec<String> = all.iter().skip(usize::from(MOST_NODES) - PANIC).cloned().collect();
        stage.chapter(&format!("{PANIC} of {MOST_NODES} nodes die at once; no requests until it is noticed"));
        let before = stage.berth.now().clone();
        for node in &dead {
            stage.kill(node).await;
        }
        stage.wait(&[("panic", 1)]).await;
        stage.show();
        let (_, kept) = stage.crowd.pins(stage.world, &before).await;
        stage.promise(
            kept == stage.crowd.len(),
            &format!("so much bad news is not believed: {kept} of {} pins are as before", stage.crowd.len()),
        );
        let failed = (stage.berth.failed(), stage.native.failed());
        stage.promise(failed.0 == 0, "yet who finds its node dead is served by one that looks well");
        for node in &dead {
            stage.revive(node).await;
        }
        let healthy = async || {
            let page = stage.world.envoy(0).admin("/clusters").await;
            !page.contains("/failed_")
        };
        until(healthy).await;
        stage.wait(&[("panic", 0), ("active", all.len())]).await;
        stage.watch(&Goal { states: &[("active", all.len())], native: all }).await;
        stage.promise(*stage.berth.now() == before, "they come back, and every session is where it was");
        let berth = format!("{} pins moved, {} failed", stage.crowd.len() - kept, failed.0);
        let native = format!("{} failed", failed.1);
        stage.row("5 of 8 die: panic", berth, native, "none reshuffled");
    }
}

fn without(world: &World, gone: &str) -> Vec<String> {
    names(world).into_iter().filter(|name| name != gone).collect()
}

/// How many moved because they had to, by consistent hashing, and how many beside them, as points per node follow their
/// number. Settled placements are compared:
/// while Envoy's workers do not agree yet, native sessions go to and fro, and that is not held against it.
fn divided(before: &Look, after: &Look, had_to: impl Fn(&str, &str) -> bool) -> String {
    let (due, others): (Vec<_>, Vec<_>) = before.moves(after).partition(|(from, to)| had_to(from, to));
    format!("{}+{}", due.len(), others.len())
}

//! What each chapter needs: look at both placements until something is known, and say whether a promise held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_harness::World;

use crate::crowd::{By, Crowd, Look, Track};
use crate::identity::Identity;
use crate::native;
use crate::screen::{Row, Screen};

pub(crate) const SESSIONS: usize = 600;
/// New sessions of one chapter.
const GUESTS: usize = 200;
/// More than any chapter takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

pub(crate) struct Stage<'w> {
    pub(crate) world: &'w World,
    pub(crate) identity: &'w Identity,
    pub(crate) crowd: Crowd<'w>,
    pub(crate) berth: Track,
    pub(crate) native: Track,
    pub(crate) down: BTreeSet<String>,
    pub(crate) rows: Vec<Row>,
    screen: Screen,
    checked: usize,
    broken: Vec<String>,
    /// The row's promises so far.
    held: bool,
}

/// What a chapter waits for.
pub(crate) struct Goal<'a> {
    /// How many nodes Berth has in which state.
    pub(crate) states: &'a [(&'a str, usize)],
    /// The nodes that native ring_hash uses.
    pub(crate) native: Vec<String>,
}

impl<'w> Stage<'w> {
    /// Looks for the first time, once both placements know all nodes.
    pub(crate) async fn set(world: &'w World, identity: &'w Identity) -> Self {
        let nodes = names(world).len();
        knows(world, &[("active", nodes)]).await;
        let crowd = Crowd::named(identity, "player", SESSIONS);
        let client = world.client();
        let berth = Track::new(crowd.look(&client, By::Berth).await);
        let native = Track::new(crowd.look(&client, By::Native).await);
        Self {
            world,
            identity,
            crowd,
            berth,
            native,
            down: BTreeSet::new(),
            rows: Vec::new(),
            screen: Screen::new(identity.native()),
            checked: 0,
            broken: Vec::new(),
            held: true,
        }
    }

    pub(crate) fn verdict(&self) -> (usize, &[String]) {
        (self.checked, &self.broken)
    }

    /// Begins a chapter: what the sessions go through is counted from here.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.screen.chapter(title);
        self.berth.begin();
        self.native.begin();
    }

    pub(crate) fn line(&mut self, text: &str) {
        self.screen.line(&format!("   {text}"));
    }

    /// Every session asks once by either way.
    pub(crate) async fn look(&mut self) {
        let client = self.world.client();
        self.berth.note(self.crowd.look(&client, By::Berth).await);
        self.native.note(self.crowd.look(&client, By::Native).await);
        self.draw(false);
    }

    /// Sessions ask all the time until both ways have settled, and once more after that.
    pub(crate) async fn watch(&mut self, goal: &Goal<'_>) {
        let deadline = Instant::now() + LIMIT;
        // Workers learn health up to `update_merge_window`, a second, after the admin interface shows it.
        let expected = self.crowd.on_ring(&goal.native, native::algorithm());
        loop {
            self.look().await;
            if *self.native.now() == expected && shows(self.world, goal.states).await {
                break;
            }
            if Instant::now() > deadline {
                return self.promise(false, &format!("settled within {LIMIT:?}: nodes {:?}", goal.states));
            }
        }
        self.wait(goal.states).await;
    }

    /// Waits without requests; then each session sends one.
    pub(crate) async fn wait(&mut self, states: &[(&str, usize)]) {
        if !knows(self.world, states).await {
            self.promise(false, &format!("settled within {LIMIT:?}: nodes {states:?}"));
        }
        self.look().await;
    }

    /// The table as it is now stays.
    pub(crate) fn show(&mut self) {
        self.draw(true);
    }

    /// New sessions: where each goes by either way.
    pub(crate) async fn guests(&self, name: &str) -> (Crowd<'w>, Look, Look) {
        let guests = Crowd::named(self.identity, name, GUESTS);
        let client = self.world.client();
        let berth = guests.look(&client, By::Berth).await;
        let native = guests.look(&client, By::Native).await;
        (guests, berth, native)
    }

    /// Closes a node's port and its connections.
    pub(crate) async fn kill(&mut self, name: &str) {
        self.world.node_named(name).refuse().await;
        self.down.insert(name.to_owned());
        // A request that Envoy has just put on one of those connections cannot be retried by any
        // proxy: it may have been served. The demo shows only requests that can be retried.
        closed(self.world, name).await;
    }

    pub(crate) async fn revive(&mut self, name: &str) {
        self.world.node_named(name).restart().await;
        self.down.remove(name);
    }

    /// Runs an operator's command against the state service, and shows it.
    pub(crate) async fn operate(&mut self, arguments: &[&str]) {
        self.line(&format!("$ berth {}", arguments.join(" ")));
        let outcome = self.world.state(0).operate(arguments).await;
        match outcome {
            Ok(said) => said.lines().for_each(|line| self.line(&format!("  {line}"))),
            Err(complaint) => self.promise(false, &format!("berth {}: {complaint}", arguments.join(" "))),
        }
    }

    pub(crate) fn promise(&mut self, held: bool, text: &str) {
        self.checked += 1;
        self.held &= held;
        self.screen.line(&format!(" {} {text}", if held { "✓" } else { "✗" }));
        if !held {
            self.broken.push(text.to_owned());
        }
    }

    /// Ends a chapter with its row of the table: what was promised since the last one.
    pub(crate) fn row(&mut self, step: &'static str, berth: String, native: String, promise: &'static str) {
        let held = std::mem::replace(&mut self.held, true);
        self.rows.push(Row { step, berth, native, promise, held });
    }

    fn draw(&mut self, last: bool) {
        self.screen.draw(self.world, &self.down, self.berth.seen(), self.native.seen(), last);
    }
}

/// The names of all nodes.
pub(crate) fn names(world: &World) -> Vec<String> {
    world.nodes().iter().map(|node| node.name().to_owned()).collect()
}

/// Whether Berth's leader shows so many nodes in each of these states; `panic` is 0 or 1.
async fn shows(world: &World, states: &[(&str, usize)]) -> bool {
    let envoy = world.envoy(0);
    for &(state, count) in states {
        let shown = match state {
            "panic" => envoy.metric("berth_panic", &[]).await,
            state => envoy.metric("berth_nodes", &[("state", state)]).await,
        };
        if shown != count as f64 {
            return false;
        }
    }
    true
}

/// Waits until Berth's leader shows these states and every worker has had enough ticks to learn them.
async fn knows(world: &World, states: &[(&str, usize)]) -> bool {
    if !until(async || shows(world, states).await).await {
        return false;
    }
    polled(world).await
}

/// Waits until Berth has looked at the members twice: every worker then knows what happened before.
pub(crate) async fn polled(world: &World) -> bool {
    let polls = async || world.envoy(0).metric("berth_polls_total", &[("result", "ok")]).await;
    let enough = polls().await + 2.0;
    until(async || polls().await >= enough).await
}

/// How many nodes Berth's leader shows in each state.
pub(crate) async fn states(world: &World) -> String {
    let page = world.envoy(0).prometheus().await;
    let is_state = |line: &&str| line.starts_with("berth_nodes{") || line.starts_with("berth_panic{");
    let mut lines: Vec<&str> = page.lines().filter(is_state).collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// Waits until Envoy has no connection to a node.
pub(crate) async fn closed(world: &World, name: &str) {
    let closed = async || {
        let page = world.envoy(0).admin("/clusters").await;
        ["nodes", "native"].iter().all(|cluster| page.contains(&format!("{cluster}::{name}::cx_active::0\n")))
    };
    until(closed).await;
}

/// Polls until it is so; false if that takes too long.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if is_so().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

//! What can be typed, what each verb does, and what that did to the sessions: every verb that changes something has each of
//! them ask before and after it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_harness::World;

use crate::NODE_PORTS;
use crate::crowd::{By, Crowd, Look, Track};
use crate::identity::Identity;
use crate::screen::Screen;
use crate::stage::{SESSIONS, closed, names, polled, states};

/// New sessions that begin after a verb, to see where they go.
const GUESTS: usize = 100;

/// Until a change of a node shows in Berth's count of states. Some change nothing there.
const NOTICED: Duration = Duration::from_secs(3);

/// A verb of the console.
pub(crate) struct Verb {
    name: &'static str,
    /// As it is typed.
    pub(crate) usage: &'static str,
    /// What it does.
    about: &'static str,
    /// Only with `--jwt`.
    pub(crate) of_issuer: bool,
}

const fn verb(name: &'static str, usage: &'static str, about: &'static str) -> Verb {
    Verb { name, usage, about, of_issuer: false }
}

const fn of_issuer(name: &'static str, usage: &'static str, about: &'static str) -> Verb {
    Verb { name, usage, about, of_issuer: true }
}

/// All of them.
pub(crate) const VERBS: [Verb; 13] = [
    verb("table", "table", "how many sessions each node has"),
    verb("kill", "kill N", "closes a node's port: its sessions move, once"),
    verb("revive", "revive N", "opens it again: none of them moves back"),
    verb("drain", "drain N", "berth drain: the node keeps its sessions, and gets no new ones"),
    verb("degrade", "degrade N", "berth set-state degraded: the same, by another name for the reason"),
    verb("undrain", "undrain N", "berth set-state active: it gets new sessions again"),
    verb("add", "add", "one more node, which warms up: no session moves to it"),
    verb("remove", "remove N", "takes a node from the endpoints, while it still serves"),
    verb("state", "state off|on", "kills the state service, or starts it"),
    of_issuer("issuer", "issuer off|on", "closes the issuer's port, or opens it"),
    of_issuer("rotate", "rotate", "the issuer signs with a new key"),
    verb("help", "help", "this list"),
    verb("quit", "quit", "ends the demo and all that it started"),
];

/// What came of a line.
pub(crate) enum Ran {
    /// What to print.
    Done(String),
    /// There is no such verb.
    Unknown(String),
    Quit,
}

/// All that verbs act on.
pub(crate) struct Scene<'w> {
    pub(crate) world: &'w World,
    pub(crate) identity: &'w Identity,
    pub(crate) crowd: Crowd<'w>,
    down: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// How many crowds of new sessions there were.
    guests: usize,
}

impl<'w> Scene<'w> {
    pub(crate) fn new(world: &'w World, identity: &'w Identity) -> Self {
        let crowd = Crowd::named(identity, "player", SESSIONS);
        Self { world, identity, crowd, down: BTreeSet::new(), removed: BTreeSet::new(), guests: 0 }
    }

    /// Does what a line says; `Err` says why not.
    pub(crate) async fn obey(&mut self, line: &str) -> Result<Ran, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let said = match words[..] {
            [] | ["table"] => self.table().await,
            ["quit" | "exit"] => return Ok(Ran::Quit),
            ["help"] => self.help(),
            ["state", which @ ("off" | "on")] => self.state(which == "on").await,
            ["rotate"] | ["issuer", "off" | "on"] => self.issuer(words[words.len() - 1]).await?,
            ["add"] => self.add().await?,
            ["kill", number] => self.kill(&self.node(number)?).await?,
            ["revive", number] => self.revive(&self.node(number)?).await?,
            ["drain", number] => self.set_state(&self.node(number)?, "draining").await?,
            ["degrade", number] => self.set_state(&self.node(number)?, "degraded").await?,
            ["undrain", number] => self.set_state(&self.node(number)?, "active").await?,
            ["remove", number] => self.remove(&self.node(number)?).await?,
            [name, ..] => {
                let known = VERBS.iter().find(|verb| verb.name == name);
                let known = known.ok_or_else(|| name.to_owned());
                return known.map_or_else(|name| Ok(Ran::Unknown(name)), |verb| Err(self.usage(verb)));
            }
        };
        Ok(Ran::Done(said))
    }

    fn help(&self) -> String {
        let has_issuer = self.identity.issuer().is_some();
        let verbs = VERBS.iter().filter(|verb| has_issuer || !verb.of_issuer);
        let lines = verbs.map(|verb| format!("  {:<14} {}", verb.usage, verb.about));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn usage(&self, verb: &Verb) -> String {
        let number = if verb.usage.ends_with(" N") {
            format!("; N is the number of a node, 1 to {}", self.world.nodes().len())
        } else {
            String::new()
        };
        format!("{}: must be `{}`{number}", verb.name, verb.usage)
    }

    /// The name of a node, by its number in the table.
    fn node(&self, number: &str) -> Result<String, String> {
        let names = names(self.world);
        let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        let name = index.and_then(|index| names.get(index)).cloned();
        name.ok_or_else(|| format!("{number}: must be the number of a node, 1 to {}", names.len()))
    }

    async fn table(&self) -> String {
        let (berth, native) = (self.look().await, self.crowd.look(&self.world.client(), By::Native).await);
        Screen::new(self.identity.native()).draw(self.world, &self.down, &berth, &native, true);
        String::new()
    }

    async fn kill(&mut self, name: &str) -> Result<String, String> {
        if !self.down.insert(name.to_owned()) {
            return Err(format!("{name} is down already: `revive` starts it"));
        }
        let before = self.before().await;
        self.world.node_named(name).refuse().await;
        closed(self.world, name).await;
        Ok(format!("{name} refuses connections: {}", self.effect(before).await.of_node(name)))
    }

    async fn revive(&mut self, name: &str) -> Result<String, String> {
        if !self.down.remove(name) {
            return Err(format!("{name} is up"));
        }
        let before = self.before().await;
        self.world.node_named(name).restart().await;
        let effect = self.effect(before).await;
        Ok(format!(
            "{name} listens again: {}; new sessions come to it after its cooldown",
            effect.of_node(name)
        ))
    }

    /// Runs the operator's command that sets a node's state.
    async fn set_state(&mut self, name: &str, state: &str) -> Result<String, String> {
        let arguments = match state {
            // Also one that has no session yet.
            "draining" => vec!["drain", name, "--force"],
            _ => vec!["set-state", name, state, "--force"],
        };
        let before = self.before().await;
        let said = self.world.state(0).operate(&arguments).await?;
        let effect = self.effect(before).await;
        Ok(format!(
            "$ berth {}\n{said}\n{name} is {state}: {}; {}",
            arguments.join(" "),
            effect.of_node(name),
            self.newcomers(name).await
        ))
    }

    async fn add(&mut self) -> Result<String, String> {
        if self.world.nodes().len() >= NODE_PORTS.into() {
            return Err(format!("there are {NODE_PORTS} nodes; more have no ports"));
        }
        let before = self.before().await;
        let name = self.world.add_node().await.name().to_owned();
        let effect = self.effect(before).await;
        Ok(format!("{name} added: {}; {}", effect.of_all(), self.newcomers(&name).await))
    }

    async fn remove(&mut self, name: &str) -> Result<String, String> {
        if !self.removed.insert(name.to_owned()) {
            return Err(format!("{name} is removed already"));
        }
        let before = self.before().await;
        let index = names(self.world).iter().position(|other| other == name).expect("a node");
        self.world.remove_node(index).await;
        let effect = self.effect(before).await;
        Ok(format!("{name} left the endpoints: {}; {}", effect.of_node(name), self.newcomers(name).await))
    }

    async fn state(&mut self, on: bool) -> String {
        let (service, before) = (self.world.state(0), self.before().await);
        let what = match (service.runs(), on) {
            (true, true) => "the state service runs already",
            (false, false) => "the state service is down already",
            (true, false) => {
                service.kill();
                "the state service is killed"
            }
            (false, true) => {
                service.restart().await;
                "the state service runs again"
            }
        };
        let effect = self.later(self.effect_at_once(before.look).await).await;
        format!("{what}: {}", effect.of_all())
    }

    async fn issuer(&self, verb: &str) -> Result<String, String> {
        let issuer = self.identity.issuer().ok_or("there is no issuer: start the demo with --jwt")?;
        let before = self.before().await;
        let what = match verb {
            "off" => {
                issuer.leave().await;
                "the issuer is away".to_owned()
            }
            "on" => {
                issuer.come_back().await;
                "the issuer is back".to_owned()
            }
            _ => {
                issuer.publish_next();
                issuer.sign_with_next();
                format!(
                    "a new key signs; tokens by the former one are good until the next rotation, which should wait 5 s

{}
",
                    issuer.for_shell()
                )
            }
        };
        let effect = self.later(self.effect_at_once(before.look).await).await;
        Ok(format!("{what}: {}", effect.of_all()))
    }

    /// One request of every session.
    async fn look(&self) -> Look {
        self.crowd.look(&self.world.client(), By::Berth).await
    }

    async fn before(&self) -> Before {
        Before { look: self.look().await, states: states(self.world).await }
    }

    /// What has become of the sessions since `before`: at once, and when every worker knows what happened to a node.
    async fn effect(&self, before: Before) -> Effect {
        let effect = self.effect_at_once(before.look).await;
        let deadline = Instant::now() + NOTICED;
        while Instant::now() < deadline && states(self.world).await == before.states {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.later(effect).await
    }

    /// The same, of what changes no node's state.
    async fn effect_at_once(&self, before: Look) -> Effect {
        let mut track = Track::new(before);
        track.begin();
        track.note(self.look().await);
        Effect(track)
    }

    async fn later(&self, Effect(mut track): Effect) -> Effect {
        polled(self.world).await;
        track.note(self.look().await);
        Effect(track)
    }

    /// How many of some new sessions begin on a node.
    async fn newcomers(&mut self, name: &str) -> String {
        self.guests += 1;
        let guests = Crowd::named(self.identity, &format!("guest{}", self.guests), GUESTS);
        let look = guests.look(&self.world.client(), By::Berth).await;
        format!("of {GUESTS} new sessions {} began on it", look.count_on(name))
    }
}

/// What there was before a verb.
struct Before {
    look: Look,
    /// How many nodes were in which state.
    states: String,
}

/// What a verb did to the sessions.
struct Effect(Track);

impl Effect {
    /// To those of one node, and to all others.
    fn of_node(&self, name: &str) -> String {
        let Self(track) = self;
        let (here, moved) = (track.started_on(name), track.moved_from(name));
        let others = track.now().nodes.len() - here;
        let its = match here {
            0 => "it had no sessions".to_owned(),
            _ => format!("of its {here} sessions {moved} moved"),
        };
        format!("{its}, of the {others} others {}; {}", track.moved() - moved, self.failed())
    }

    fn of_all(&self) -> String {
        let Self(track) = self;
        format!("of {} sessions {} moved; {}", track.now().nodes.len(), track.moved(), self.failed())
    }

    fn failed(&self) -> String {
        match self.0.failed() {
            0 => "no request failed".to_owned(),
            1 => "1 request failed".to_owned(),
            failed => format!("{failed} requests failed"),
        }
    }
}

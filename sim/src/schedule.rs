//! The faults of one run: what fails, when, and for how long. A run is its seed and this list, so a shorter list that still
//! fails is a better story.

use std::fmt;

use crate::random::Random;

/// Nodes of each run.
pub const NODES: usize = 6;
/// Proxies of each run.
pub const PROXIES: usize = 3;
/// Instances of the state service; all have one store.
pub const SERVICES: usize = 2;
/// Faults begin after this time, when the first sessions are placed.
pub const CALM: u64 = 3_000;
/// All faults are over by then.
pub const CHAOS_END: u64 = 43_000;
/// Most faults are short, so that some sessions live through several.
const SHORT: u64 = 4_000;
const LONG: u64 = 15_000;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The node does not answer.
    NodeDown(usize),
    /// The node was restarted: it is away for a moment and has lost its memory.
    NodeRestarts(usize),
    /// So many nodes from this one on do not answer.
    NodesDown(usize, usize),
    /// The node is not in the list of members.
    NodeVanishes(usize),
    /// So many nodes from this one on are not in the list of members.
    NodesVanish(usize, usize),
    /// The node goes on at another address, at once.
    NodeMoves(usize),
    /// An operator drains the node.
    Drain(usize),
    /// A proxy reaches no service.
    Cut(usize),
    /// Calls of a proxy take so much longer.
    Slow(usize, u64),
    /// What a proxy asks of sessions is answered so much later: news overtakes the answers.
    Late(usize, u64),
    /// So many percent of a proxy's calls or answers are lost.
    Loss(usize, u64),
    /// A proxy's calls arrive twice.
    Twice(usize),
    /// A service does not answer.
    ServiceDown(usize),
    /// The store refuses.
    StoreRefuses,
    /// The store loses what was written in so many last milliseconds.
    StoreLoses(u64),
    /// A proxy does not see its members.
    Blind(usize),
    /// A proxy's clock is off by so much.
    ClockOff(usize, i64),
    /// A proxy is restarted.
    ProxyRestarts(usize),
    /// A proxy gets a new configuration. So long the former one gets new requests too, from connections that it has.
    Reload(usize),
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, in milliseconds from the start of the run.
    pub at: u64,
    /// When it is over.
    pub until: u64,
    /// What it is.
    pub what: What,
}

/// The faults of a seed.
#[must_use]
pub fn of_seed(seed: u64) -> Vec<Fault> {
    let mut random = Random::new(seed, 1);
    let count = random.between(2, 11);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = random.between(CALM, CHAOS_END - SHORT);
            let what = draw(&mut random);
            let longest = if random.percent(50) { SHORT } else { LONG };
            let length = match what {
                What::Blind(_) => random.between(2_000, 26_000),
                What::StoreLoses(_) | What::NodeMoves(_) | What::ProxyRestarts(_) => 0,
                What::NodeRestarts(_) => random.between(50, 1_500),
                _ => random.between(200, longest),
            };
            Fault { at, until: (at + length).min(CHAOS_END), what }
        })
        .collect();
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn draw(random: &mut Random) -> What {
    let (node, proxy) = (random.index(NODES), random.index(PROXIES));
    match random.between(0, 26) {
        0 | 1 => What::NodeDown(node),
        2 | 22 | 23 => What::NodeRestarts(node),
        3 | 4 => What::NodesDown(node, NODES / 2 + 1),
        5 => What::NodeVanishes(node),
        6 => What::NodesVanish(node, NODES / 2 + 1),
        7 => What::NodeMoves(node),
        8 => What::Drain(node),
        9 | 10 => What::Cut(proxy),
        11 => What::Slow(proxy, random.between(20, 300)),
        26 => What::Late(proxy, random.between(100, 400)),
        12 => What::Loss(proxy, random.between(5, 60)),
        13 => What::Twice(proxy),
        14 => What::ServiceDown(random.index(SERVICES)),
        15 => What::StoreRefuses,
        16 | 20 => What::StoreLoses(random.between(50, 6_000)),
        // All of it.
        21 => What::StoreLoses(random.between(50, 6_000) * 1_000),
        17 => What::Blind(proxy),
        18 => {
            let off = i64::try_from(random.between(500, 20_000)).unwrap_or(0);
            What::ClockOff(proxy, if random.percent(50) { off } else { -off })
        }
        24 | 25 => What::Reload(proxy),
        _ => What::ProxyRestarts(proxy),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = |node: usize| format!("db-{}", node % NODES);
        let nodes =
            |first: usize, count: usize| (first..first + count).map(node).collect::<Vec<_>>().join(", ");
        let what = match self.what {
            What::NodeDown(n) => format!("{} does not answer", node(n)),
            What::NodeRestarts(n) => format!("{} is restarted", node(n)),
            What::NodesDown(n, count) => format!("{} do not answer", nodes(n, count)),
            What::NodeVanishes(n) => format!("{} vanishes from the members", node(n)),
            What::NodesVanish(n, count) => format!("{} vanish from the members", nodes(n, count)),
            What::NodeMoves(n) => format!("{} goes on at another address", node(n)),
            What::Drain(n) => format!("an operator drains {}", node(n)),
            What::Cut(p) => format!("proxy {p} reaches no state service"),
            What::Slow(p, by) => format!("calls of proxy {p} take {by} ms longer"),
            What::Late(p, by) => format!("answers about sessions reach proxy {p} {by} ms later"),
            What::Loss(p, percent) => format!("{percent} % of the calls of proxy {p} are lost"),
            What::Twice(p) => format!("calls of proxy {p} arrive twice"),
            What::ServiceDown(s) => format!("state service {s} does not answer"),
            What::StoreRefuses => "the store refuses".to_owned(),
            What::StoreLoses(by) => format!("the store loses the writes of the last {by} ms"),
            What::Blind(p) => format!("proxy {p} does not see its members"),
            What::ClockOff(p, by) => format!("the clock of proxy {p} is off by {by} ms"),
            What::ProxyRestarts(p) => format!("proxy {p} is restarted"),
            What::Reload(p) => format!("proxy {p} gets a new configuration beside the former one"),
        };
        match self.until - self.at {
            0 => write!(f, "{:>6} ms: {what}", self.at),
            length => write!(f, "{:>6} ms: {what}, for {length} ms", self.at),
        }
    }
}

//! The table: what is done to which part, and what must hold. It is the only place that says so; [`crate::stage`] knows how each is
//! done, [`crate::row`] what is looked at.

use std::time::Duration;

use berth_harness::Cut;

/// What is broken. Envoy 0, service 0 and node 0 stand for the others of their kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Node,
    Service,
    BothServices,
    Redis,
    /// Redis with an append-only file.
    PersistentRedis,
    Envoy,
    /// Of Envoy 0 to both services.
    EnvoyToServices,
    /// Of Envoy 0 to node 0, which Envoy 1 reaches.
    EnvoyToNode,
    /// Of both Envoys to node 0.
    EnvoysToNode,
    /// Of service 0 to Redis.
    ServiceToRedis,
    /// Of both services to Redis.
    ServicesToRedis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// SIGKILL, and started again when the fault is over.
    Kill,
    Network(Cut),
    /// Each fsync takes so much longer.
    SlowDisk(Duration),
    FullDisk,
    /// The wall clock jumps by so many seconds, and back when the fault is over.
    Clock(i32),
}

pub(crate) struct Row {
    pub(crate) part: Part,
    pub(crate) fault: Fault,
    /// Requests that may fail, of those to Envoys that run.
    pub(crate) failed: u64,
    /// Whether the sessions of node 0 may move; those of others never may.
    pub(crate) moves: bool,
    /// Whether the store forgets pins: then all agree only after a touch interval. No session may move for that.
    pub(crate) forgets: bool,
}

const fn row(part: Part, fault: Fault) -> Row {
    Row { part, fault, failed: 0, moves: false, forgets: false }
}

impl Row {
    /// Requests that are under way on a connection that breaks: no proxy may send them again, as the node may have served them.
    const fn fails(self, most: u64) -> Self {
        Self { failed: most, ..self }
    }

    const fn moves(self) -> Self {
        Self { moves: true, ..self }
    }

    const fn forgets(self) -> Self {
        Self { forgets: true, ..self }
    }
}

const HOUR: i32 = 3600;
const LATE: Cut = Cut::Late(Duration::from_millis(200));

pub(crate) const ROWS: &[Row] = &[
    row(Part::Node, Fault::Pause).moves(),
    row(Part::Node, Fault::Kill).moves().fails(20),
    row(Part::Service, Fault::Pause),
    row(Part::Service, Fault::Kill),
    row(Part::BothServices, Fault::Pause),
    row(Part::BothServices, Fault::Kill),
    row(Part::Redis, Fault::Pause),
    row(Part::Redis, Fault::Kill).forgets(),
    // What it had not written yet.
    row(Part::PersistentRedis, Fault::Kill).forgets(),
    row(Part::Envoy, Fault::Pause),
    row(Part::Envoy, Fault::Kill),
    row(Part::EnvoyToServices, Fault::Network(Cut::Silent)),
    row(Part::EnvoyToServices, Fault::Network(Cut::Reset)),
    row(Part::EnvoyToServices, Fault::Network(LATE)),
    row(Part::ServiceToRedis, Fault::Network(Cut::Silent)),
    row(Part::ServicesToRedis, Fault::Network(Cut::Silent)),
    row(Part::ServicesToRedis, Fault::Network(Cut::Reset)),
    row(Part::ServicesToRedis, Fault::Network(LATE)),
    row(Part::EnvoyToNode, Fault::Network(Cut::Silent)).moves(),
    // The requests were sent, so they are not sent again; the check decides a second or two later.
    row(Part::EnvoyToNode, Fault::Network(Cut::Reset)).moves().fails(150),
    row(Part::EnvoyToNode, Fault::Network(LATE)),
    row(Part::EnvoysToNode, Fault::Network(Cut::Silent)).moves(),
    row(Part::PersistentRedis, Fault::SlowDisk(Duration::from_millis(150))),
    row(Part::PersistentRedis, Fault::FullDisk),
    row(Part::Service, Fault::Clock(HOUR)),
    row(Part::Service, Fault::Clock(-HOUR)),
    // All pins end; and afterwards those that began under the clock that was behind.
    row(Part::Redis, Fault::Clock(HOUR)).forgets(),
    row(Part::Redis, Fault::Clock(-HOUR)).forgets(),
    row(Part::Envoy, Fault::Clock(HOUR)),
    row(Part::Envoy, Fault::Clock(-HOUR)),
];

impl Part {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Node => "a node",
            Self::Service => "a state service of two",
            Self::BothServices => "both state services",
            Self::Redis => "Redis, in memory only",
            Self::PersistentRedis => "Redis, append-only file",
            Self::Envoy => "an Envoy of two",
            Self::EnvoyToServices => "one Envoy ↔ the services",
            Self::EnvoyToNode => "one Envoy ↔ a node",
            Self::EnvoysToNode => "both Envoys ↔ a node",
            Self::ServiceToRedis => "one service ↔ Redis",
            Self::ServicesToRedis => "both services ↔ Redis",
        }
    }
}

impl Fault {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Pause => "paused".into(),
            Self::Kill => "killed, started again".into(),
            Self::Network(Cut::Silent) => "no byte passes".into(),
            Self::Network(Cut::Reset) => "connections are reset".into(),
            Self::Network(Cut::Late(time)) => format!("{} ms late each way", time.as_millis()),
            Self::SlowDisk(time) => format!("each fsync {} ms slower", time.as_millis()),
            Self::FullDisk => "its disk is full".into(),
            Self::Clock(seconds) => format!("its clock jumps by {:+} h, and back", seconds / 3600),
        }
    }
}

//! What is done to the world while it is under load, over and over: drains, deaths of a node, an Envoy, a service and a primary of
//! Redis. Memory is sampled in between, never while a part is away.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use berth_harness::{NodeProcess, World};
use tokio::time::sleep;

use crate::ledger::{Event, Part};
use crate::memory::Life;
use crate::seat::Load;

const SAMPLES: Duration = Duration::from_secs(10);
/// Longer than it takes to put a node out, and to move its sessions.
const NODE_AWAY: Duration = Duration::from_secs(15);
const SERVICE_AWAY: Duration = Duration::from_secs(5);
/// A replica takes over after two to four seconds; a primary that is back before that would be empty and still a primary.
const FAILOVER: Duration = Duration::from_secs(60);
/// The part that is restarted; the others live from the beginning to the end, and their memory is judged.
const RESTARTED: usize = 1;

#[derive(Clone, Copy)]
enum Step {
    Drain,
    Undrain,
    KillNode,
    RestartEnvoy,
    RestartService,
    KillPrimary,
}

/// At which part of a cycle what is done.
const STEPS: [(f64, Step); 8] = [
    (0.05, Step::Drain),
    (0.12, Step::KillNode),
    (0.30, Step::Undrain),
    (0.35, Step::RestartEnvoy),
    (0.52, Step::Drain),
    (0.57, Step::RestartService),
    (0.66, Step::Undrain),
    (0.70, Step::KillPrimary),
];

pub(crate) struct Schedule<'w> {
    pub(crate) world: &'w World,
    pub(crate) load: Arc<Load>,
    pub(crate) nodes: &'w [NodeProcess],
    pub(crate) began: Instant,
    pub(crate) length: Duration,
    pub(crate) cycle: Duration,
    pub(crate) lives: Vec<Life>,
    pub(crate) sockets: Vec<(Duration, i64)>,
    sampled: Instant,
    /// Whether a part has ended by itself: what comes after that is not worth counting.
    broken: bool,
}

impl<'w> Schedule<'w> {
    pub(crate) fn new(
        world: &'w World,
        load: &Arc<Load>,
        nodes: &'w [NodeProcess],
        length: Duration,
        cycle: Duration,
    ) -> Self {
        let lives = ["Envoy 0", "Envoy 1", "berth 0", "berth 1"].map(|name| Life::new(name.into()));
        Self {
            world,
            load: Arc::clone(load),
            nodes,
            began: Instant::now(),
            length,
            cycle,
            lives: lives.into(),
            sockets: Vec::new(),
            sampled: Instant::now(),
            broken: false,
        }
    }

    /// Goes through the cycles, and returns when the time is over.
    pub(crate) async fn run(&mut self) {
        let mut drained = None;
        let (length, cycle) = (self.length, self.cycle);
        let rounds = (0..).map(|round| (round, cycle * round));
        for (round, start) in rounds.take_while(|(_, start)| *start < length) {
            for (place, (share, step)) in STEPS.iter().enumerate() {
                let at = start + self.cycle.mul_f64(*share);
                // What would not be over by the end is not begun.
                if at + self.cycle.mul_f64(0.2) > self.length {
                    break;
                }
                self.until(at).await;
                if self.broken {
                    return;
                }
                let node = (round as usize * 7 + place * 3) % self.nodes.len();
                match step {
                    Step::Drain => {
                        drained = Some(node);
                        self.operate(&["drain", &self.nodes[node].name()]).await;
                    }
                    Step::Undrain => {
                        if let Some(node) = drained.take() {
                            self.operate(&["set-state", &self.nodes[node].name(), "active"]).await;
                        }
                    }
                    Step::KillNode => self.kill_node(node).await,
                    Step::RestartEnvoy => {
                        crate::seat::restart_envoy(&self.load, self.world, RESTARTED).await;
                        self.lives[1] = Life::new("Envoy 1, since its last start".into());
                    }
                    Step::RestartService => self.restart_service().await,
                    Step::KillPrimary => self.kill_primary(round as usize).await,
                }
            }
        }
        self.until(self.length).await;
    }

    /// Waits until this time since the beginning, and samples meanwhile. Returns early once a part has ended by itself.
    async fn until(&mut self, at: Duration) {
        while self.began.elapsed() < at && !self.broken {
            if self.sampled.elapsed() >= SAMPLES.min(self.length / 60) {
                self.sample();
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn sample(&mut self) {
        self.sampled = Instant::now();
        let envoys = self.world.envoys().iter().enumerate();
        let envoys = envoys.filter_map(|(index, envoy)| Some(format!("Envoy {index}: {}", envoy.ended()?)));
        let services = self.world.states().iter().enumerate();
        let services =
            services.filter_map(|(index, service)| Some(format!("berth {index}: {}", service.ended()?)));
        if let Some(ended) = envoys.chain(services).next() {
            self.broken = true;
            self.load.ledger.violation(Event::Ended, ended);
            return;
        }
        let at = self.began.elapsed();
        let envoys = self.world.envoys().iter().map(berth_harness::Envoy::resident_memory);
        let sizes: Vec<u64> =
            envoys.chain(self.world.states().iter().map(|service| service.resident_memory())).collect();
        for (life, size) in self.lives.iter_mut().zip(sizes) {
            life.note(at, size);
        }
        self.sockets.push((at, self.load.live.load(Ordering::Relaxed)));
    }

    async fn operate(&self, arguments: &[&str]) {
        if let Err(complaint) = self.world.state(0).operate(arguments).await {
            self.load.ledger.violation(Event::Refused, format!("berth {}: {complaint}", arguments.join(" ")));
        }
    }

    async fn kill_node(&mut self, node: usize) {
        self.load.ledger.breaks(Part::Node(node));
        self.nodes[node].kill();
        sleep(NODE_AWAY.min(self.cycle / 10)).await;
        if let Err(failure) = self.nodes[node].restart().await {
            self.load.ledger.violation(Event::Refused, failure);
        }
        self.load.ledger.mended(Part::Node(node));
    }

    async fn restart_service(&mut self) {
        self.load.ledger.breaks(Part::Service);
        self.world.state(RESTARTED).kill();
        sleep(SERVICE_AWAY).await;
        self.world.state(RESTARTED).restart().await;
        self.load.ledger.mended(Part::Service);
        self.lives[3] = Life::new("berth 1, since its last start".into());
    }

    /// Kills a primary, and starts it again as a replica once its own has taken over.
    async fn kill_primary(&mut self, round: usize) {
        let cluster = self.world.redis_cluster();
        self.load.ledger.breaks(Part::Redis);
        let since = Instant::now();
        // These ask redis-cli, and block.
        let killed = tokio::task::block_in_place(|| cluster.kill_primary(round % 3));
        let replaced = || {
            tokio::task::block_in_place(|| {
                let primaries = cluster.primaries();
                primaries.len() == 3 && !primaries.contains(&killed)
            })
        };
        while !replaced() && since.elapsed() < FAILOVER {
            sleep(Duration::from_millis(200)).await;
        }
        tokio::task::block_in_place(|| cluster.servers[killed].restart());
        while !tokio::task::block_in_place(|| cluster.is_whole()) {
            if since.elapsed() > FAILOVER {
                let what = format!("Redis Cluster is not whole {FAILOVER:?} after a primary's death");
                self.load.ledger.violation(Event::Refused, what);
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        self.load.ledger.mended(Part::Redis);
    }
}

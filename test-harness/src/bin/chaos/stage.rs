//! The world of one row, and how its fault is done and undone in it. Ways that are cut go through relays; all others are direct, as a
//! relay would hide how a dead part refuses connections.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use berth_core::wire::{SessionKey, SessionReply};
use berth_harness::hyper::Method;
use berth_harness::{
    Builder, Cut, Endpoint, NodeProcess, RedisServer, Relay, State, StateService, World, eventually,
};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::load::Load;
use crate::table::{Fault, Part, Row};
use crate::tools::{Clock, SlowDisk, SmallDisk};

pub(crate) const ENVOYS: usize = 2;
const SERVICES: usize = 2;
/// Those that come after the sessions were placed: a third of the sessions then is where the ring would not have it.
const LATER_NODES: usize = 2;
const NODES: usize = 3 + LATER_NODES;
const DAY: i64 = 86_400;
/// The pool of envoy/envoy-state.yaml.
const POOL: &str = "nodes";
/// What lives answers in this time, also on a busy machine.
const BRIEFLY: Duration = Duration::from_secs(1);
/// Of questions after a row.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pins are touched each quarter of it.
pub(crate) const TTL: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    // Dropped in this order: what writes into a folder first.
    pub(crate) world: World,
    pub(crate) nodes: Vec<NodeProcess>,
    redis: RedisServer,
    ways: Ways,
    clock: Option<Clock>,
    slow_disk: Option<SlowDisk>,
    small_disk: Option<SmallDisk>,
    _folder: TempDir,
}

/// Relays, where a row needs them.
#[derive(Default)]
struct Ways {
    to_nodes: Vec<Relay>,
    to_redis: Vec<Relay>,
}

impl Stage {
    /// Starts a world for this row; an error if the machine lacks what it takes.
    pub(crate) async fn set(row: &Row) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix("berth-chaos-").tempdir().expect("a temporary folder");
        let clock = matches!(row.fault, Fault::Clock(_)).then(|| Clock::new(folder.path())).transpose()?;
        let slow_disk =
            matches!(row.fault, Fault::SlowDisk(_)).then(|| SlowDisk::new(folder.path())).transpose()?;
        let small_disk = (row.fault == Fault::FullDisk).then(|| SmallDisk::new(folder.path())).transpose()?;
        let clock_of = |part: Part| match &clock {
            Some(clock) if row.part == part => clock.environment(),
            _ => Vec::new(),
        };

        let mut environment = clock_of(Part::Redis);
        environment.extend(slow_disk.iter().flat_map(SlowDisk::environment));
        let mut options = Vec::new();
        if row.part == Part::PersistentRedis {
            let sync = if slow_disk.is_some() { "always" } else { "everysec" };
            options.extend(["--appendonly", "yes", "--appendfsync", sync]);
        }
        if let Some(disk) = &small_disk {
            options.extend(["--dir", disk.folder.to_str().expect("a path of valid UTF-8")]);
        }
        let redis = RedisServer::start_in(&options, &environment);

        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(NodeProcess::start(folder.path()).await?);
        }
        let mut ways = Ways::default();
        if matches!(row.part, Part::EnvoyToNode | Part::EnvoysToNode) {
            for node in &nodes {
                ways.to_nodes.push(Relay::start(node.address()).await);
            }
        }
        let mut state = State::elsewhere().services(SERVICES).flag("--ttl", &format!("{}s", TTL.as_secs()));
        let redis_address = SocketAddr::from(([127, 0, 0, 1], redis.port));
        for service in 0..SERVICES {
            let mut address = redis_address;
            if matches!(row.part, Part::ServiceToRedis | Part::ServicesToRedis) {
                ways.to_redis.push(Relay::start(redis_address).await);
                address = ways.to_redis[service].address();
            }
            state = state.flag_of(service, "--redis", &format!("redis://{address}"));
        }
        state = state.environment_of(0, &clock_of(Part::Service));
        let first = (0..NODES - LATER_NODES).map(|node| ways.to(&nodes, node));
        let mut builder = World::builder()
            .nodes(0)
            .nodes_at(first)
            .envoys(ENVOYS)
            .own_addresses()
            .environment_of(0, &clock_of(Part::Envoy))
            .state(state);
        if row.part == Part::EnvoyToServices {
            builder = builder.relayed_services();
        }
        let world = builder.start().await;
        Ok(Self { world, nodes, redis, ways, clock, slow_disk, small_disk, _folder: folder })
    }

    /// Adds the nodes that were left out.
    pub(crate) async fn grow(&self) {
        let later = (NODES - LATER_NODES..NODES).map(|node| Endpoint::new(self.ways.to(&self.nodes, node)));
        self.world.edit_endpoints(|set| set.extend(later)).await;
    }

    /// What Berth calls a node, from what the node calls itself.
    pub(crate) fn name_of(&self, node: usize) -> String {
        self.ways.to(&self.nodes, node).to_string()
    }

    /// Where the store has a session. On a busy machine it is asked again.
    pub(crate) async fn pin_of(&self, session: &str) -> Option<String> {
        let path = format!("/v1/sessions/{}?pool={POOL}", SessionKey::new(POOL, session.as_bytes()));
        let ask = async || {
            let answer = self.world.state(0).request(Method::GET, &path).try_send().await?;
            match answer.status.as_u16() {
                200 => serde_json::from_slice::<SessionReply>(&answer.body)
                    .map(|pin| Some(pin.node.to_string()))
                    .map_err(|error| error.to_string()),
                404 => Ok(None),
                status => Err(format!("{status}: {:?}", answer.body)),
            }
        };
        eventually(ask, PATIENCE).await
    }

    pub(crate) async fn begin(&self, row: &Row, load: &Arc<Load>) {
        match (row.fault, row.part) {
            (Fault::Pause, Part::Node) => self.nodes[0].pause(),
            (Fault::Pause, Part::Envoy) => self.world.envoy(0).pause(),
            (Fault::Pause, Part::Redis) => self.redis.pause(),
            (Fault::Pause, _) => self.services(row).iter().for_each(StateService::pause),
            (Fault::Kill, Part::Node) => self.nodes[0].kill(),
            (Fault::Kill, Part::Envoy) => {
                load.reach(0, None);
                self.world.envoy(0).kill();
            }
            (Fault::Kill, Part::Redis | Part::PersistentRedis) => self.redis.kill(),
            (Fault::Kill, _) => self.services(row).iter().for_each(StateService::kill),
            (Fault::Network(cut), part) => self.cut(part, cut),
            (Fault::SlowDisk(time), _) => self.slow_disk.as_ref().expect("one").slow(time.as_millis()),
            (Fault::FullDisk, _) => self.small_disk.as_ref().expect("one").fill(),
            (Fault::Clock(seconds), _) => self.clock.as_ref().expect("one").set(seconds),
        }
    }

    /// Whether a fault that has begun is there, by the part's own word or silence: one that is not shows nothing.
    pub(crate) async fn is_there(&self, row: &Row) -> bool {
        match (row.fault, row.part) {
            (Fault::Pause | Fault::Kill, part) => {
                let parts: Vec<SocketAddr> = match part {
                    Part::Node => vec![self.nodes[0].address()],
                    Part::Envoy => vec![self.world.envoy(0).address()],
                    Part::Redis | Part::PersistentRedis => vec![self.redis_address()],
                    _ => self.services(row).iter().map(StateService::address).collect(),
                };
                !join_all(parts.into_iter().map(answers)).await.contains(&true)
            }
            (Fault::Network(_), _) => {
                let cut = self.ways.all().chain(self.world.service_relays());
                cut.map(Relay::hindered).sum::<usize>() > 0
            }
            (Fault::SlowDisk(time), _) => {
                let start = Instant::now();
                self.redis.cli(&["SET", "chaos", "slow", "PX", "1000"]);
                start.elapsed() >= time
            }
            (Fault::FullDisk, _) => {
                self.redis.cli(&["INFO", "persistence"]).contains("aof_last_write_status:err")
            }
            (Fault::Clock(seconds), part) => self.sees_its_clock(part, seconds).await,
        }
    }

    fn redis_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.redis.port))
    }

    /// Whether the part sees that its clock has jumped.
    async fn sees_its_clock(&self, part: Part, seconds: i32) -> bool {
        let Ok(now) = UNIX_EPOCH.elapsed() else { return true };
        let seen = match part {
            Part::Redis => self.redis.cli(&["TIME"]).lines().next().and_then(|line| line.parse().ok()),
            // It keeps the text of a date until that is over.
            Part::Service if seconds < 0 => return true,
            Part::Service => {
                let answer = self.world.state(0).request(Method::GET, "/healthz").try_send().await;
                answer.ok().and_then(|answer| Some(seconds_of(answer.header("date")?)))
            }
            // It counts its uptime by the wall clock.
            _ => {
                let info = self.world.envoy(0).admin("/server_info").await;
                let info: serde_json::Value = serde_json::from_str(&info).unwrap_or_default();
                let uptime = info["uptime_current_epoch"]
                    .as_str()
                    .and_then(|text| text.trim_end_matches('s').parse::<i64>().ok());
                uptime.map(|uptime| now.as_secs().cast_signed() + uptime)
            }
        };
        // A minute is more than a row takes, and less than a jump.
        let off = seen.map(|seen: i64| seen - now.as_secs().cast_signed());
        off.is_some_and(|off| (off - i64::from(seconds)).abs() < 60)
    }

    pub(crate) async fn end(&self, row: &Row, load: &Arc<Load>) {
        match (row.fault, row.part) {
            (Fault::Pause, Part::Node) => self.nodes[0].resume(),
            (Fault::Pause, Part::Envoy) => self.world.envoy(0).resume(),
            (Fault::Pause, Part::Redis) => self.redis.resume(),
            (Fault::Pause, _) => self.services(row).iter().for_each(StateService::resume),
            (Fault::Kill, Part::Node) => {
                self.nodes[0].restart().await.unwrap_or_else(|failure| panic!("{failure}"));
            }
            (Fault::Kill, Part::Envoy) => {
                self.world.envoy(0).restart().await;
                load.reach(0, Some(self.world.envoy(0).client()));
            }
            (Fault::Kill, Part::Redis | Part::PersistentRedis) => {
                tokio::task::block_in_place(|| self.redis.restart());
            }
            (Fault::Kill, _) => {
                for service in self.services(row) {
                    service.restart().await;
                }
            }
            (Fault::Network(_), _) => {
                self.ways.all().chain(self.world.service_relays()).for_each(Relay::mend)
            }
            (Fault::SlowDisk(_), _) => self.slow_disk.as_ref().expect("one").well(),
            (Fault::FullDisk, _) => self.small_disk.as_ref().expect("one").clear(),
            (Fault::Clock(_), _) => self.clock.as_ref().expect("one").set(0),
        }
    }

    fn services(&self, row: &Row) -> &[StateService] {
        let count = if row.part == Part::BothServices { SERVICES } else { 1 };
        &self.world.states()[..count]
    }

    fn cut(&self, part: Part, cut: Cut) {
        let one: Option<IpAddr> = Some(Builder::source(0));
        match part {
            Part::EnvoyToServices => self.world.service_relays().iter().for_each(|way| way.cut(one, cut)),
            Part::EnvoyToNode => self.ways.to_nodes[0].cut(one, cut),
            Part::EnvoysToNode => self.ways.to_nodes[0].cut(None, cut),
            Part::ServiceToRedis => self.ways.to_redis[0].cut(None, cut),
            Part::ServicesToRedis => self.ways.to_redis.iter().for_each(|way| way.cut(None, cut)),
            other => panic!("{}: no way", other.text()),
        }
    }
}

/// Whether a server sends anything back. What it is asked no protocol here understands, and each answers that.
async fn answers(address: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(b"?\r\n\r\n").await.ok()?;
        stream.read_u8().await.ok()
    };
    timeout(BRIEFLY, ask).await.ok().flatten().is_some()
}

/// Of the time of day in a header `date`: enough to see a jump of an hour, in seconds of this day.
fn seconds_of(date: &str) -> i64 {
    let time = date.split(' ').nth(4).unwrap_or_default();
    let now = UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs().cast_signed());
    let of_day = time.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap_or_default());
    // The nearest moment with this time of day.
    let today = now - now % DAY + of_day;
    [today - DAY, today, today + DAY].into_iter().min_by_key(|moment| (moment - now).abs()).unwrap_or(today)
}

impl Ways {
    /// Where Envoys reach a node.
    fn to(&self, nodes: &[NodeProcess], node: usize) -> SocketAddr {
        self.to_nodes.get(node).map_or_else(|| nodes[node].address(), Relay::address)
    }

    fn all(&self) -> impl Iterator<Item = &Relay> {
        self.to_nodes.iter().chain(&self.to_redis)
    }
}

//! The connections to a Redis Cluster: each server has its own, so one that hangs holds up only the calls to its shards.
//!
//! The library's own cluster connection is one task with one map: while it learns the map again, because a server is away,
//! or connects to that server, the calls to all others wait. Here only the calls that need the server wait. The map is learned in the
//! background, from the servers that answer first: at the first call, after a redirection, and while a server does not answer
//! or turns calls away, since its replica may have taken over without a sign to us.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{ConnectionAddr, IntoConnectionInfo as _, RedisError};
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::access::{Access, Entry};
use super::call::{Answers, Call, Step, is_servers_state, server_error, slot_error};
use super::layout::{SLOTS, Shard, slot};
use super::options::{Options, Secrets};
use super::replicas::Replicated;
use super::single::Single;
use super::slots::{Address, View, redirection};
use crate::lock::lock;
use crate::store::StoreError;

/// A map that served well is looked at again after this time: new replicas are known before they are needed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Between two looks at the map, so that a cluster that is away is not flooded with them.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many servers are asked for the map at once, the next ones if none has answered after a while.
const ASKED_AT_ONCE: u32 = 4;
const NEXT_AFTER: Duration = Duration::from_millis(200);
/// A look at the map ends after this time: connecting to a server takes a second.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Others may answer so much later than the first, and know something newer.
const OTHERS_AFTER: Duration = Duration::from_millis(50);
/// A call follows so many redirections. Each is news: more of them are a cluster that is being changed right now.
const REDIRECTIONS: usize = 4;
/// A slot of which some keys have moved and others have not is asked again after this time.
const MOVING: Duration = Duration::from_millis(10);

pub(super) struct Clustered {
    seeds: Vec<Address>,
    /// How to connect to any server: now, and before that.
    entries: Mutex<(Entry, Option<Entry>)>,
    places: usize,
    timeout: Duration,
    map: Mutex<Map>,
    /// Counts the looks at the map.
    looks: watch::Sender<u64>,
    looking: AtomicBool,
}

struct Map {
    /// The primary of each slot, as far as it is known.
    slots: Vec<Option<Arc<Node>>>,
    nodes: BTreeMap<Address, Arc<Node>>,
    /// They know the map as well, and may have taken over when all primaries are gone.
    replicas: BTreeSet<Address>,
    /// Of the view that the map is from.
    epoch: u64,
    /// When the last look ended, and why it failed.
    looked: Instant,
    failure: Option<StoreError>,
}

/// One server.
struct Node {
    address: Address,
    access: Arc<Access>,
    /// One for each place.
    connections: Vec<Single>,
}

impl Clustered {
    /// So many connections to each server. They connect when they are first used.
    pub(super) fn new(
        options: &Options,
        secrets: &Secrets,
        former: Option<&Secrets>,
        places: usize,
    ) -> Result<Self, RedisError> {
        let mut seeds = Vec::new();
        for url in &options.urls {
            seeds.extend(address(url.as_str().into_connection_info()?.addr()));
        }
        let former = former.map(|former| Entry::new(options, former)).transpose()?;
        let map = Map {
            slots: vec![None; SLOTS],
            nodes: BTreeMap::new(),
            replicas: BTreeSet::new(),
            epoch: 0,
            looked: Instant::now(),
            failure: None,
        };
        let clustered = Self {
            seeds,
            entries: Mutex::new((Entry::new(options, secrets)?, former)),
            places,
            timeout: options.timeout,
            map: Mutex::new(map),
            looks: watch::Sender::new(0),
            looking: AtomicBool::new(false),
        };
        // Files that cannot be used are a fault of the settings.
        clustered.connect(("localhost".to_owned(), 0))?;
        Ok(clustered)
    }

    /// From now on servers are tried with these credentials, and those that are known are reached as before until they accept
    /// them.
    pub(super) fn renew(&self, options: &Options, secrets: &Secrets) -> Result<(), RedisError> {
        let nodes: Vec<Arc<Node>> = lock(&self.map).nodes.values().cloned().collect();
        let entry = Entry::new(options, secrets)?;
        let clients = nodes.iter().map(|node| entry.client_at(&node.address.0, node.address.1));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let was_accepted = nodes.iter().any(|node| !node.access.is_behind());
        {
            let mut entries = lock(&self.entries);
            let replaced = std::mem::replace(&mut entries.0, entry);
            if was_accepted || entries.1.is_none() {
                entries.1 = Some(replaced);
            }
        }
        for (node, client) in nodes.iter().zip(clients) {
            node.access.renew(client);
        }
        Ok(())
    }

    /// Each server that is known, by its name, with its connections.
    pub(super) fn servers(&self) -> Vec<(String, Arc<Access>)> {
        let map = lock(&self.map);
        map.nodes.values().map(|node| (node.name(), Arc::clone(&node.access))).collect()
    }

    /// Leaves connections of this place with credentials that are no longer used.
    pub(super) async fn refresh(&self, place: usize) {
        let nodes: Vec<Arc<Node>> = lock(&self.map).nodes.values().cloned().collect();
        join_all(nodes.iter().filter_map(|node| node.connections.get(place)).map(Single::refresh)).await;
    }

    /// The server that has this shard now, if it is known.
    pub(super) fn server_of(&self, shard: &Shard) -> Option<String> {
        let map = lock(&self.map);
        let node = map.slots.get(usize::from(slot(shard.slot_key())))?.as_ref()?;
        Some(node.name())
    }

    /// One pipeline for one shard. What the server refused is among the answers.
    pub(super) async fn send(
        self: &Arc<Self>,
        place: usize,
        shard: &Shard,
        call: &Call,
    ) -> Result<Answers, StoreError> {
        // Callers give up by dropping this future.
        let mut unanswered = Unanswered { clustered: Some(self), since: Instant::now() };
        let slot = usize::from(slot(shard.slot_key()));
        let node = self.node_of(slot).await?;
        let result = self.follow(place, slot, node, call).await;
        unanswered.clustered = None;
        let is_news = match &result {
            Ok(answers) => {
                answers.values.iter().any(|value| is_servers_state(value) || slot_error(value).is_some())
            }
            Err(_) => true,
        };
        if is_news || lock(&self.map).looked.elapsed() > LOOK_EVERY {
            self.look();
        }
        result
    }

    /// Sends the call, and what the server says is elsewhere to there.
    async fn follow(
        self: &Arc<Self>,
        place: usize,
        slot: usize,
        mut node: Arc<Node>,
        call: &Call,
    ) -> Result<Answers, StoreError> {
        let mut answers = node.connection(place)?.send(call).await?;
        for _ in 0..REDIRECTIONS {
            let elsewhere = (0..).zip(&answers.values).filter(|(_, value)| slot_error(value).is_some());
            let places: Vec<usize> = elsewhere.map(|(place, _)| place).collect();
            let Some(error) = answers.values.iter().find_map(slot_error) else { break };
            let to = error.details().and_then(|details| redirection(details, &node.address.0));
            let again = call.again(&places);
            let values = match (error.code(), to) {
                ("MOVED", Some(to)) => {
                    node = self.moved(slot, to)?;
                    self.look();
                    node.connection(place)?.send(&again).await?.values
                }
                ("ASK", Some(to)) => {
                    let target = self.node_at(to)?;
                    let asked = target.connection(place)?.send(&again.asking()).await?;
                    asked.values.into_iter().skip(1).step_by(2).collect()
                }
                ("TRYAGAIN", _) => {
                    tokio::time::sleep(MOVING).await;
                    node.connection(place)?.send(&again).await?.values
                }
                // No server serves the slot.
                _ => break,
            };
            // A replica may have been asked on the wrong connection, so its word does not count.
            let replicated = answers.replicated.clone().map(|_| Replicated::Silent);
            answers = answers.with(&places, Answers { values, replicated });
        }
        Ok(answers)
    }

    async fn node_of(self: &Arc<Self>, slot: usize) -> Result<Arc<Node>, StoreError> {
        let known = || {
            let map = lock(&self.map);
            (map.slots.get(slot).cloned().flatten(), map.failure.clone())
        };
        let mut looks = self.looks.subscribe();
        let first = *looks.borrow_and_update() == 0;
        if let (Some(node), _) = known() {
            return Ok(node);
        }
        self.look();
        if first {
            // Nothing is known yet. Later, a slot without a server has none.
            let _ = looks.changed().await;
        }
        let (node, failure) = known();
        let none = || StoreError::Unreachable("CLUSTERDOWN no server of the cluster has the slot".to_owned());
        node.ok_or_else(|| failure.unwrap_or_else(none))
    }

    fn moved(&self, slot: usize, to: Address) -> Result<Arc<Node>, StoreError> {
        let node = self.node_at(to)?;
        if let Some(place) = lock(&self.map).slots.get_mut(slot) {
            *place = Some(Arc::clone(&node));
        }
        Ok(node)
    }

    fn node_at(&self, address: Address) -> Result<Arc<Node>, StoreError> {
        let mut map = lock(&self.map);
        if let Some(node) = map.nodes.get(&address) {
            return Ok(Arc::clone(node));
        }
        let node =
            self.connect(address.clone()).map_err(|error| StoreError::Unreachable(error.to_string()))?;
        let node = Arc::new(node);
        map.nodes.insert(address, Arc::clone(&node));
        Ok(node)
    }

    fn connect(&self, address: Address) -> Result<Node, RedisError> {
        let entries = lock(&self.entries);
        let client = |entry: &Entry| entry.client_at(&address.0, address.1);
        let access = Access::new(client(&entries.0)?, entries.1.as_ref().map(client).transpose()?);
        let access = Arc::new(access);
        let connections = Single::several(&access, self.places)?;
        Ok(Node { address, access, connections })
    }

    /// Looks at the map in the background, unless that is under way.
    fn look(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.looking.swap(true, Ordering::Relaxed) {
            let clustered = Arc::clone(self);
            runtime.spawn(async move {
                let failure = clustered.learn().await.err();
                {
                    let mut map = lock(&clustered.map);
                    (map.looked, map.failure) = (Instant::now(), failure);
                }
                clustered.looks.send_modify(|count| *count += 1);
                tokio::time::sleep(LOOK_AGAIN).await;
                clustered.looking.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Asks the servers that are known, and takes the newest of the first answers. One that is older than the map counts only if
    /// no other comes: from an old primary that is cut off, or from a cluster that was built again.
    async fn learn(&self) -> Result<(), StoreError> {
        let (known, epoch) = self.known();
        let mut asks: FuturesUnordered<_> = (0..)
            .zip(known)
            .map(|(turn, address)| async move {
                tokio::time::sleep(NEXT_AFTER.saturating_mul(turn / ASKED_AT_ONCE)).await;
                self.view_of(address).await
            })
            .collect();
        let mut end = tokio::time::Instant::now() + LOOK_TIMEOUT;
        let (mut best, mut failure) = (None::<View>, None);
        let rank = |view: &View| (view.epoch >= epoch, view.is_ok, view.epoch);
        while let Ok(Some(answer)) = timeout_at(end, asks.next()).await {
            match answer {
                Ok(view) => {
                    if view.is_ok && view.epoch >= epoch {
                        end = end.min(tokio::time::Instant::now() + OTHERS_AFTER);
                    }
                    if best.as_ref().is_none_or(|best| rank(best) < rank(&view)) {
                        best = Some(view);
                    }
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let best = best.filter(|view| view.is_ok || view.epoch >= epoch);
        self.take(best.ok_or(failure.unwrap_or(StoreError::Timeout))?)
    }

    /// The servers to ask for the map, and the epoch of that which there is.
    fn known(&self) -> (Vec<Address>, u64) {
        let map = lock(&self.map);
        let all: BTreeSet<&Address> = map.nodes.keys().chain(&self.seeds).chain(&map.replicas).collect();
        let is_first = |address: &&Address| !map.replicas.contains(*address);
        let (mut known, replicas): (Vec<_>, Vec<_>) = all.into_iter().partition(is_first);
        // Not always the same ones first: they may be those that are away.
        let shift = usize::try_from(*self.looks.borrow()).unwrap_or(0) % known.len().max(1);
        known.rotate_left(shift);
        (known.into_iter().chain(replicas).cloned().collect(), map.epoch)
    }

    async fn view_of(&self, address: Address) -> Result<View, StoreError> {
        let node = self.node_at(address)?;
        let steps = ["SLOTS", "INFO"].map(|what| Step::command("CLUSTER").arg(what));
        let call = Call::new(steps, None, self.timeout).into_probe();
        let answers = node.connection(super::connection::FEED)?.send(&call).await?;
        let [slots, info] = &answers.values[..] else { return Err(StoreError::Timeout) };
        if let Some(error) = server_error(slots) {
            return Err(error);
        }
        let view = View::read(slots, info, &node.address.0);
        // A server that was reset, or lost its disk, knows no slots: it is not asked further.
        view.filter(|view| !view.ranges.is_empty())
            .ok_or_else(|| StoreError::Refused("the server knows no slots of the cluster".to_owned()))
    }

    fn take(&self, view: View) -> Result<(), StoreError> {
        let mut slots = vec![None; SLOTS];
        for (from, to, address) in view.ranges {
            let node = self.node_at(address)?;
            for place in slots.iter_mut().take(usize::from(to) + 1).skip(usize::from(from)) {
                *place = Some(Arc::clone(&node));
            }
        }
        let mut map = lock(&self.map);
        // A slot of which this server knows nothing stays where it was: the server there says if it is wrong.
        for (known, new) in map.slots.iter_mut().zip(slots) {
            if new.is_some() {
                *known = new;
            }
        }
        let mut used: BTreeSet<Address> =
            map.slots.iter().flatten().map(|node| node.address.clone()).collect();
        used.extend(self.seeds.iter().chain(&view.replicas).cloned());
        map.nodes.retain(|address, _| used.contains(address));
        map.replicas = view.replicas;
        // One that is cut off may count epochs alone, which those of the others would not reach for long.
        if view.is_ok {
            map.epoch = view.epoch;
        }
        Ok(())
    }
}

impl Node {
    fn name(&self) -> String {
        format!("{}:{}", self.address.0, self.address.1)
    }

    fn connection(&self, place: usize) -> Result<&Single, StoreError> {
        self.connections.get(place).ok_or_else(|| StoreError::Unreachable("no connection".to_owned()))
    }
}

/// A call that is under way. One that ends late and without an answer has the map looked at.
struct Unanswered<'c> {
    clustered: Option<&'c Arc<Clustered>>,
    since: Instant,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(clustered) = self.clustered
            // Sooner its caller went away.
            && self.since.elapsed() >= clustered.timeout / 2
        {
            clustered.look();
        }
    }
}

fn address(address: &ConnectionAddr) -> Option<Address> {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

//! The connections to a Redis Cluster: each server has its own, so one that hangs holds up only the calls to its shards.
//!
//! The library's own cluster connection is one task with one map: while it learns the map again, because a server is away,
//! or connects to that server, the calls to all others wait. Here only the calls that need the server wait. The map is learned in the
//! background, from whichever server answers first: at the first call, after a redirection, and while a server does not answer
//! or turns calls away, since its replica may have taken over without a sign to us.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::select_ok;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError, TlsCertificates, Value};
use tokio::sync::watch;

use super::call::{Answers, Call, Step, is_servers_state, server_error, slot_error};
use super::layout::{SLOTS, Shard, slot};
use super::options::Options;
use super::replicas::Replicated;
use super::single::{Single, client};
use crate::lock::lock;
use crate::store::StoreError;

/// Between two looks at the map, so that a cluster that is away is not flooded with them.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many servers are asked for the map at once, the next ones if none has answered after a while.
const ASKED_AT_ONCE: usize = 4;
const NEXT_AFTER: Duration = Duration::from_millis(200);
/// A look at the map ends after this time: connecting to a server takes a second.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// A call follows so many redirections. Each is news: more of them are a cluster that is being changed right now.
const REDIRECTIONS: usize = 4;
/// A slot of which some keys have moved and others have not is asked again after this time.
const MOVING: Duration = Duration::from_millis(10);

type Address = (String, u16);

pub(super) struct Clustered {
    seeds: Vec<Address>,
    /// How to connect to any server: the first one's user, password and TLS.
    template: ConnectionInfo,
    certificates: Option<TlsCertificates>,
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
    /// Why the last look failed.
    failure: Option<StoreError>,
}

/// One server.
struct Node {
    address: Address,
    /// One for each place.
    connections: Vec<Single>,
}

impl Clustered {
    /// So many connections to each server. They connect when they are first used.
    pub(super) fn new(
        options: &Options,
        certificates: Option<TlsCertificates>,
        places: usize,
    ) -> Result<Self, RedisError> {
        let infos = options.urls.iter().map(|url| url.as_str().into_connection_info());
        let infos: Vec<ConnectionInfo> = infos.collect::<Result<_, _>>()?;
        let seeds = infos.iter().filter_map(|info| address(info.addr())).collect();
        let Some(template) = infos.into_iter().next() else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no server is named").into());
        };
        let map = Map { slots: vec![None; SLOTS], nodes: BTreeMap::new(), failure: None };
        let clustered = Self {
            seeds,
            template,
            certificates,
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

    /// The server that has this shard now, if it is known.
    pub(super) fn server_of(&self, shard: &Shard) -> Option<String> {
        let map = lock(&self.map);
        let node = map.slots.get(usize::from(slot(shard.slot_key())))?.as_ref()?;
        Some(format!("{}:{}", node.address.0, node.address.1))
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
        if is_news {
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
        let (host, port) = address.clone();
        let to = match self.template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let client = client(self.template.clone().set_addr(to), self.certificates.as_ref())?;
        Ok(Node { address, connections: Single::several(&client, self.places)? })
    }

    /// Looks at the map in the background, unless that is under way.
    fn look(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.looking.swap(true, Ordering::Relaxed) {
            let clustered = Arc::clone(self);
            runtime.spawn(async move {
                let looked = tokio::time::timeout(LOOK_TIMEOUT, clustered.learn()).await;
                let failure = looked.unwrap_or(Err(StoreError::Timeout)).err();
                lock(&clustered.map).failure = failure;
                clustered.looks.send_modify(|count| *count += 1);
                tokio::time::sleep(LOOK_AGAIN).await;
                clustered.looking.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Asks the servers that are known, and takes the first answer.
    async fn learn(&self) -> Result<(), StoreError> {
        let mut known: Vec<Address> = lock(&self.map).nodes.keys().cloned().collect();
        known.extend(self.seeds.iter().filter(|seed| !known.contains(seed)).cloned().collect::<Vec<_>>());
        // Not always the same ones first: they may be those that are away.
        let count = known.len().max(1);
        let shift = usize::try_from(*self.looks.borrow()).unwrap_or(0) % count;
        known.rotate_left(shift);
        let asks = known.into_iter().enumerate().map(|(turn, address)| {
            Box::pin(async move {
                let wait = u32::try_from(turn / ASKED_AT_ONCE).unwrap_or(u32::MAX);
                tokio::time::sleep(NEXT_AFTER.saturating_mul(wait)).await;
                let node = self.node_at(address)?;
                let step = Step::command("CLUSTER").arg("SLOTS");
                let call = Call::new([step], None, self.timeout).into_probe();
                let answers = node.connection(super::connection::FEED)?.send(&call).await?;
                let answer = answers.values.first();
                if let Some(error) = answer.and_then(server_error) {
                    return Err(error);
                }
                let ranges = answer.and_then(|answer| ranges(answer, &node.address.0));
                // A server that was reset, or lost its disk, knows no slots: it is not asked further.
                ranges
                    .filter(|ranges| !ranges.is_empty())
                    .ok_or_else(|| StoreError::Refused("the server knows no slots of the cluster".to_owned()))
            })
        });
        let (ranges, _) = select_ok(asks).await?;
        let mut slots = vec![None; SLOTS];
        for (from, to, address) in ranges {
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
        let used: Vec<Address> = map.slots.iter().flatten().map(|node| node.address.clone()).collect();
        let used: std::collections::BTreeSet<Address> = used.into_iter().collect();
        map.nodes.retain(|address, _| used.contains(address) || self.seeds.contains(address));
        Ok(())
    }
}

impl Node {
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

/// Where `3999 127.0.0.1:6381` leads. A server that does not know its own host leaves that out.
fn redirection(details: &str, own_host: &str) -> Option<Address> {
    let (host, port) = details.split(' ').nth(1)?.rsplit_once(':')?;
    let host = if host.is_empty() { own_host } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

/// What `CLUSTER SLOTS` says: ranges of slots, each with its primary.
fn ranges(answer: &Value, own_host: &str) -> Option<Vec<(u16, u16, Address)>> {
    let Value::Array(ranges) = answer else { return None };
    let integer = |value: Option<&Value>| match value {
        Some(Value::Int(number)) => u16::try_from(*number).ok(),
        _ => None,
    };
    let mut found = Vec::new();
    for range in ranges {
        let Value::Array(parts) = range else { return None };
        let (from, to) = (integer(parts.first())?, integer(parts.get(1))?);
        let Some(Value::Array(primary)) = parts.get(2) else { continue };
        let host = match primary.first() {
            Some(Value::BulkString(host)) => String::from_utf8(host.clone()).ok()?,
            Some(Value::SimpleString(host)) => host.clone(),
            _ => String::new(),
        };
        // It does not know its own; "?" is a name that is missing.
        let host = if host.is_empty() { own_host.to_owned() } else { host };
        if host != "?" {
            found.push((from, to, (host, integer(primary.get(1))?)));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_read() {
        let to = |details| redirection(details, "own");
        assert_eq!(to("3999 127.0.0.1:6381"), Some(("127.0.0.1".to_owned(), 6381)));
        assert_eq!(to("3999 :6381"), Some(("own".to_owned(), 6381)));
        assert_eq!(to("3999 ::1:6381"), Some(("::1".to_owned(), 6381)));
        for text in ["", "3999", "3999 x", "3999 x:y", "3999 x:70000"] {
            assert_eq!(to(text), None, "{text}");
        }
    }

    #[test]
    fn slots_without_a_name_are_left_out() {
        let range = |from, host: Option<&str>| {
            let host = host.map_or(Value::Nil, |host| Value::BulkString(host.as_bytes().to_vec()));
            let primary = Value::Array(vec![host, Value::Int(7), Value::BulkString(b"id".to_vec())]);
            Value::Array(vec![Value::Int(from), Value::Int(from + 9), primary])
        };
        let answer = Value::Array(vec![
            range(0, Some("a")),
            range(10, Some("")),
            range(20, None),
            range(30, Some("?")),
        ]);

        let found = ranges(&answer, "own").unwrap();

        let at = |host: &str| (host.to_owned(), 7);
        assert_eq!(found, [(0, 9, at("a")), (10, 19, at("own")), (20, 29, at("own"))]);
        assert_eq!(ranges(&Value::Okay, "own"), None);
    }
}

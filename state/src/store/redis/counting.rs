//! How many pins each node has: found by walking through the keys, for lack of an index.
//!
//! Each server is walked through once for all shards that it has, with one pattern, part by part: a call looks at so many keys
//! or for so long, and says where the next one goes on. Keys of other pools and programs on that server are passed over, and
//! count as looked at. Keys are walked through in the order of a hash, so a part is a fair sample of the sessions.
//!
//! A `SCAN` goes on from a cursor that only its own server knows. In a Cluster the position therefore names the servers that the
//! shards were on: once these are others, it is of no use, and the answer says so by being neither complete nor going on. The
//! same goes for a walk at whose end the servers are others, or the slot of a shard is on its way: its keys are on two servers.
//! One server that is restarted, or replaced behind its address, is not noticed; nor is a slot that went and came back.
//! Servers that do not say who they are (`CLUSTER MYID` is not allowed) are walked through for each shard, and no move is seen.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use berth_core::wire::{CountReply, Cursor, PoolName, SessionKey};
use redis::Value;

use super::Redis;
use super::call::{Group, Step};
use super::layout::{self, Shard, slot};
use super::reading::{Stored, list, misread, text};
use crate::store::StoreError;

/// Keys that one command looks at: half a millisecond, in which the server does nothing else.
const STEP: usize = 1000;
/// A part takes no longer than this, on a slow network too: callers wait for it.
const PART: Duration = Duration::from_secs(2);

impl Redis {
    pub(super) async fn count_pins(
        &self,
        pool: &PoolName,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<CountReply, StoreError> {
        let servers = self.servers(pool).await?;
        let (first, mut cursor) = match after.map(|after| servers.position(after)) {
            Some(Place::Here(index, cursor)) => (index, cursor),
            Some(Place::Lost) => return Ok(CountReply::default()),
            Some(Place::Unknown) | None => (0, "0".to_owned()),
        };
        let (mut reply, mut looked_at, began) = (CountReply::default(), 0, Instant::now());
        for (index, server) in servers.shards.iter().enumerate().skip(first) {
            // While the server resizes its table it may name a key twice.
            let mut seen = HashSet::new();
            loop {
                let here = |reply| CountReply { next: servers.cursor(index, &cursor), ..reply };
                if looked_at >= limit || began.elapsed() >= PART {
                    return Ok(here(reply));
                }
                let next = match self.count_step(pool, &servers, server, &cursor, &mut seen, &mut reply).await
                {
                    // What was counted is worth an answer.
                    Err(StoreError::Timeout) if looked_at > 0 => return Ok(here(reply)),
                    next => next?,
                };
                looked_at += STEP;
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(CountReply { complete: self.have_stayed(pool, &servers).await?, ..reply })
    }

    /// Looks at the next keys of the server that has this shard. Returns its next cursor.
    async fn count_step(
        &self,
        pool: &PoolName,
        servers: &Servers,
        server: &Shard,
        cursor: &str,
        seen: &mut HashSet<SessionKey>,
        reply: &mut CountReply,
    ) -> Result<String, StoreError> {
        let scan = Step::command("SCAN").arg(cursor).arg("MATCH").arg(layout::pins(pool));
        let answer = self.link.one(server, scan.arg("COUNT").arg(STEP)).await?;
        let [next, keys] = list(&answer)? else { return Err(misread("a part of the keys")) };
        let keys = list(keys)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        // Keys of another form are another program's.
        let pins = keys.into_iter().filter_map(|pin| Some((Shard::of_pin(pool, pin)?.1, pin)));
        let pins = pins.filter(|(key, _)| !servers.are_unnamed() || server.holds(*key));
        let pins: Vec<_> = pins.filter(|(key, _)| !seen.contains(key)).collect();
        let known: Vec<SessionKey> = pins.iter().map(|(key, _)| *key).collect();
        let shards = super::by_shard(pool, pins.into_iter());
        let groups = shards.iter().map(|(shard, names)| {
            let step = Step::command("MGET").arg(names);
            Group { shard: shard.clone(), steps: vec![step] }
        });
        for (answers, (_, names)) in self.link.run(groups.collect()).await?.into_iter().zip(&shards) {
            let pins = answers.values.first().ok_or_else(|| misread("pins"))?;
            // One may have expired since.
            for (pin, name) in list(pins)?.iter().zip(names).filter(|(pin, _)| **pin != Value::Nil) {
                reply.pins += 1;
                *reply.nodes.entry(Stored::read(name, text(pin)?)?.node).or_default() += 1;
            }
        }
        seen.extend(known);
        Ok(text(next)?.to_owned())
    }

    /// The servers of a pool, each by the first of its shards.
    async fn servers(&self, pool: &PoolName) -> Result<Servers, StoreError> {
        if !self.link.is_cluster() {
            return Ok(Servers { shards: vec![Shard::home(pool)], names: 0 });
        }
        // A command without a key is not redirected. So one with a key comes first, from which the library learns of moves.
        let probe = |shard: Shard| {
            let step = Step::command("EXISTS").arg(shard.slot_key());
            Group { shard, steps: vec![step] }
        };
        self.link.run(Shard::all(pool).map(probe).collect()).await?;
        let name = |shard: Shard| Group { shard, steps: vec![Step::command("CLUSTER").arg("MYID")] };
        let answers = match self.link.run(Shard::all(pool).map(name).collect()).await {
            Err(StoreError::Refused(_)) => {
                return Ok(Servers { shards: Shard::all(pool).collect(), names: UNNAMED });
            }
            answers => answers?,
        };
        let mut servers = Servers { shards: Vec::new(), names: FNV_OFFSET };
        let mut known = HashSet::new();
        for (shard, answers) in Shard::all(pool).zip(&answers) {
            let name = text(answers.values.first().ok_or_else(|| misread("a server's name"))?)?;
            servers.names = fnv(servers.names, name.as_bytes());
            if known.insert(name) {
                servers.shards.push(shard);
            }
        }
        Ok(servers)
    }

    /// Whether the shards are still on these servers, and no slot of theirs is on its way to another.
    async fn have_stayed(&self, pool: &PoolName, servers: &Servers) -> Result<bool, StoreError> {
        if !self.link.is_cluster() {
            return Ok(true);
        }
        // Before the names: what begins to move after this had its keys where they were looked for, or the names are others.
        let nodes = |shard: &Shard| Group {
            shard: shard.clone(),
            steps: vec![Step::command("CLUSTER").arg("NODES")],
        };
        match self.link.run(servers.shards.iter().map(nodes).collect()).await {
            // It is not allowed.
            Err(StoreError::Refused(_)) => {}
            answers => {
                let slots: HashSet<u16> = Shard::all(pool).map(|shard| slot(shard.slot_key())).collect();
                for answers in answers? {
                    let nodes = text(answers.values.first().ok_or_else(|| misread("a server's slots"))?)?;
                    if moving(nodes).any(|slot| slots.contains(&slot)) {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(self.servers(pool).await?.names == servers.names)
    }
}

/// The slots that are on their way to or from the server that wrote this answer to `CLUSTER NODES`: `[93-<-id]`, `[77->-id]`.
pub(super) fn moving(nodes: &str) -> impl Iterator<Item = u16> {
    let own =
        nodes.lines().filter(|line| line.split(' ').nth(2).is_some_and(|flags| flags.contains("myself")));
    let slots = own.flat_map(|line| line.split_whitespace().filter_map(|word| word.strip_prefix('[')));
    slots.filter_map(|slot| slot.split('-').next()?.parse().ok())
}

/// The servers that have a pool's shards.
struct Servers {
    /// The first shard of each.
    shards: Vec<Shard>,
    /// A hash of which server has which shard; 0 if there is only one server.
    names: u64,
}

/// Instead of the hash, if the servers do not say who they are. Then each shard has an entry, and what is found of others beside
/// it is passed over.
const UNNAMED: u64 = 1;

/// Where a count goes on.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// At this server, from its `SCAN` cursor.
    Here(usize, String),
    /// At servers of which some are others by now.
    Lost,
    /// It is a position of something else.
    Unknown,
}

impl Servers {
    /// `s`, then the server's place, its `SCAN` cursor and the hash, with dots between them.
    fn cursor(&self, index: usize, cursor: &str) -> Option<Cursor> {
        // Nothing was looked at: the next call begins as this one did.
        if index == 0 && cursor == "0" {
            return None;
        }
        format!("s{index:x}.{cursor}.{:x}", self.names).parse().ok()
    }

    fn position(&self, cursor: &Cursor) -> Place {
        let read = || {
            let mut parts = cursor.as_str().strip_prefix('s')?.split('.');
            let (index, cursor, names) = (parts.next()?, parts.next()?, parts.next()?);
            let index = usize::from_str_radix(index, 16).ok()?;
            let names = u64::from_str_radix(names, 16).ok()?;
            (cursor.parse::<u64>().is_ok() && parts.next().is_none())
                .then(|| (index, cursor.to_owned(), names))
        };
        match read() {
            Some((index, cursor, names)) if index < self.shards.len() && names == self.names => {
                Place::Here(index, cursor)
            }
            Some(_) => Place::Lost,
            None => Place::Unknown,
        }
    }

    fn are_unnamed(&self) -> bool {
        self.names == UNNAMED
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits (Fowler, Noll, Vo; RFC 9923): the same in every service, whatever it was built with.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize, names: u64) -> Servers {
        let pool: PoolName = "nodes".parse().unwrap();
        Servers { shards: Shard::all(&pool).take(count).collect(), names }
    }

    #[test]
    fn a_position_survives_a_trip_and_is_of_the_same_servers_only() {
        let there = servers(3, u64::MAX);
        let cursor = there.cursor(2, "18446744073709551615").unwrap();

        assert_eq!(there.position(&cursor), Place::Here(2, u64::MAX.to_string()));
        for others in [servers(2, u64::MAX), servers(3, 7), servers(1, 0)] {
            assert_eq!(others.position(&cursor), Place::Lost);
        }
        for text in ["s", "s0", "s0.1", "s0.1.2.3", "sx.1.0", "s0.-.0", "r.0~1-1", "m1-2"] {
            assert_eq!(servers(1, 0).position(&text.parse().unwrap()), Place::Unknown, "{text}");
        }
    }

    #[test]
    fn a_slot_that_moves_is_seen_in_the_servers_own_line() {
        let nodes = "aa 127.0.0.1:1@2 master - 0 0 1 connected 0-99 [7->-bb]\n\
                     bb 127.0.0.1:3@4 myself,master - 0 0 2 connected 100-200 [93-<-aa] [150->-aa]\n";
        assert_eq!(moving(nodes).collect::<Vec<_>>(), [93, 150]);
        assert_eq!(moving("").count(), 0);
    }
}

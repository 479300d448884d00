//! Which members a session belongs to, in order of preference.
//!
//! A ring is built from members and their weights, and then only read. It is bit-compatible with Envoy's
//! RING_HASH and MAGLEV: the same members, weights and sizes give the same owner for every key, so Berth can be
//! switched on or off, or fall back to Envoy, without moving a session. That is why sums and comparisons are
//! doubles, evaluated in Envoy's order.
//!
//! The ring knows nothing of health, states or pins: it names candidates, and `placement` asks about each.
//! Hashing a session is [`session_hash`]; what a session id is, `session` decides.
mod candidates;
mod error;
mod maglev;
mod points;
mod rendezvous;

use xxhash_rust::xxh64::xxh64;

pub use candidates::Candidates;
pub use error::RingError;
use {maglev::Table, points::Points, rendezvous::Scores};

/// Virtual nodes per unit of the smallest weight, unless configured. With 10 nodes the busiest one gets at most
/// 12 % more than the mean. A power of two also keeps Envoy's doubles exact: see [`RingSize::VirtualNodes`].
pub const DEFAULT_VIRTUAL_NODES: u32 = 512;
/// Envoy's own default of `minimum_ring_size`.
pub const DEFAULT_MINIMUM_RING_SIZE: u64 = 1024;
/// Envoy's limit and default of `maximum_ring_size`; the most points that any ring of ours may have (160 MiB).
pub const MAXIMUM_POINTS: u64 = 8_388_608;
/// Envoy's own default of MAGLEV's `table_size`.
pub const DEFAULT_TABLE_SIZE: u32 = 65_537;
/// Envoy's limit of MAGLEV's `table_size`.
pub const MAXIMUM_TABLE_SIZE: u32 = 5_000_011;

/// The hash that places a session: XXH64 with seed 0, as Envoy hashes a header, cookie or query parameter.
pub fn session_hash(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// A node that the cluster has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The ring key: `ip:port` by default, as Envoy writes addresses (`[::1]:90`).
    pub key: String,
    /// The member's share relative to the others of its locality; at least 1.
    pub weight: u32,
    /// Where it stands, if localities have weights of their own. Members of one locality must be neighbours.
    pub locality: Option<Locality>,
}

impl Member {
    /// A member in a cluster that does not weigh its localities.
    #[must_use]
    pub fn new(key: impl Into<String>, weight: u32) -> Self {
        Self { key: key.into(), weight, locality: None }
    }
}

/// A locality with a weight of its own, as Envoy's `locality_weighted_lb_config` uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locality {
    /// Another one than that of the members before.
    pub number: u32,
    /// What its members share, relative to the other localities. Members of weight 0 are not on the ring.
    pub weight: u32,
}

/// How members share the hash space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Envoy's RING_HASH with XXH64 points.
    RingHash(RingSize),
    /// Envoy's MAGLEV: a table with one array read a lookup; a member's coming or going moves a few other keys too.
    Maglev {
        /// A prime, best far above the number of members: a member that finds no free slot is not on the ring.
        table_size: u32,
    },
    /// Weighted rendezvous hashing: perfect shares and moves, no table, but each lookup asks every member.
    Rendezvous,
}

/// How many points a RING_HASH ring has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingSize {
    /// Points per unit of the smallest weight, however many members there are. So a new member moves only the
    /// keys it takes, as long as the smallest weight stays and the others are its multiples.
    ///
    /// Equal to Envoy's ring of `minimum_ring_size` = this × sum of weights / smallest weight, rounding included:
    /// with mixed weights, or a number that is no power of two, a member's last point may go to its neighbour in
    /// the list. That is at most a few points of the whole ring.
    VirtualNodes(u32),
    /// Envoy's formula: whole multiples of the smallest weight up to `minimum`, unless that exceeds `maximum`.
    Envoy {
        /// `minimum_ring_size`; 1024 in Envoy.
        minimum: u64,
        /// `maximum_ring_size`; 8,388,608 in Envoy. Where it binds, light members may get no point at all.
        maximum: u64,
    },
}

impl RingSize {
    /// What Envoy does when nothing is configured.
    pub const ENVOY_DEFAULT: Self =
        Self::Envoy { minimum: DEFAULT_MINIMUM_RING_SIZE, maximum: MAXIMUM_POINTS };

    fn validate(self) -> Result<(), RingError> {
        match self {
            Self::VirtualNodes(0) => Err(RingError::Zero { setting: "virtual nodes" }),
            Self::VirtualNodes(count) => fits("virtual nodes", count.into(), MAXIMUM_POINTS),
            Self::Envoy { minimum: 0, .. } => Err(RingError::Zero { setting: "minimum ring size" }),
            Self::Envoy { maximum: 0, .. } => Err(RingError::Zero { setting: "maximum ring size" }),
            Self::Envoy { minimum, maximum } if minimum > maximum => {
                Err(RingError::MinimumAboveMaximum { minimum, maximum })
            }
            Self::Envoy { maximum, .. } => fits("maximum ring size", maximum, MAXIMUM_POINTS),
        }
    }
}

impl Default for Algorithm {
    fn default() -> Self {
        Self::RingHash(RingSize::VirtualNodes(DEFAULT_VIRTUAL_NODES))
    }
}

impl Algorithm {
    /// Says whether a ring of this algorithm can be built at all, for any members.
    ///
    /// # Errors
    /// The first fault found: a size of zero, above its limit, a minimum above the maximum, a table not prime.
    pub fn validate(&self) -> Result<(), RingError> {
        match *self {
            Self::RingHash(size) => size.validate(),
            Self::Maglev { table_size: 0 } => Err(RingError::Zero { setting: "maglev table size" }),
            Self::Maglev { table_size } => {
                fits("maglev table size", table_size.into(), MAXIMUM_TABLE_SIZE.into())?;
                match maglev::next_prime(table_size) {
                    prime if prime == table_size => Ok(()),
                    prime => Err(RingError::TableNotPrime { table_size, prime }),
                }
            }
            Self::Rendezvous => Ok(()),
        }
    }
}

/// Members placed by an algorithm; immutable, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Ring {
    member_count: usize,
    placed: usize,
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    Points(Points),
    Table(Table),
    Scores(Scores),
}

impl Ring {
    /// Places `members`. Their order matters only where Envoy's does: when weights give fractions of a point.
    /// No members make an empty ring.
    ///
    /// # Errors
    /// An algorithm that does not validate, a weight of zero, or more points than [`MAXIMUM_POINTS`].
    pub fn build(members: &[Member], algorithm: Algorithm) -> Result<Self, RingError> {
        algorithm.validate()?;
        if let Some(member) = members.iter().find(|member| member.weight == 0) {
            return Err(RingError::ZeroWeight { key: member.key.clone() });
        }
        // Below this, an index fits u32 with room to spare, and so does every count of points.
        fits("number of members", members.len() as u64, MAXIMUM_POINTS)?;

        let layout = match algorithm {
            Algorithm::RingHash(size) => Layout::Points(Points::build(members, size)?),
            Algorithm::Maglev { table_size } => Layout::Table(Table::build(members, table_size)),
            Algorithm::Rendezvous => Layout::Scores(Scores::build(members)),
        };
        let placed = match &layout {
            Layout::Points(points) => {
                distinct(points.as_slice().iter().map(|(_, owner)| *owner), members.len())
            }
            Layout::Table(table) => distinct(table.owners().iter().copied(), members.len()),
            Layout::Scores(scores) => scores.len(),
        };
        Ok(Self { member_count: members.len(), placed, layout })
    }

    /// The members for a session hash, best first, as indexes into the members the ring was built from. Each
    /// member that is on the ring comes exactly once. The first three cost no allocation.
    pub fn candidates(&self, hash: u64) -> Candidates<'_> {
        Candidates::new(self, hash)
    }

    /// How many members it looks at to name the first one.
    pub fn looks(&self) -> usize {
        match &self.layout {
            Layout::Points(_) | Layout::Table(_) => 1,
            Layout::Scores(scores) => scores.len(),
        }
    }

    /// How many members are on the ring. A sparse ring or a full table can leave some out.
    pub fn len(&self) -> usize {
        self.placed
    }

    /// Whether no member is on the ring.
    pub fn is_empty(&self) -> bool {
        self.placed == 0
    }

    /// Points of a ring, slots of a table; for rendezvous, which has neither, the members.
    pub fn point_count(&self) -> usize {
        match &self.layout {
            Layout::Points(points) => points.as_slice().len(),
            Layout::Table(table) => table.owners().len(),
            Layout::Scores(_) => self.member_count,
        }
    }
}

/// Each member's share of the whole, in Envoy's order of operations: (weight × share of its locality) / sum of the
/// weights there (`normalizeLocalityWeights` in thread_aware_lb_impl.cc of Envoy 1.40). Without weights of localities
/// all members are one locality that has it all.
///
/// If no locality has a weight the members share as if there were none; Envoy's ring would be empty.
fn normalised_weights(members: &[Member]) -> Vec<f64> {
    let weight_of = |member: &Member| member.locality.map_or(1, |locality| locality.weight);
    let localities = || members.chunk_by(|one, next| one.locality == next.locality);
    let total: u64 = localities().filter_map(<[_]>::first).map(|member| u64::from(weight_of(member))).sum();
    let mut weights = Vec::with_capacity(members.len());
    for locality in localities() {
        let share = match locality.first() {
            Some(member) if total > 0 => f64::from(weight_of(member)) / total as f64,
            _ => 1.0,
        };
        let peers = if total > 0 { locality } else { members };
        let sum = peers.iter().map(|member| u64::from(member.weight)).sum::<u64>() as f64;
        weights.extend(locality.iter().map(|member| f64::from(member.weight) * share / sum));
    }
    weights
}

fn fits(setting: &'static str, value: u64, limit: u64) -> Result<(), RingError> {
    if value > limit { Err(RingError::AboveLimit { setting, value, limit }) } else { Ok(()) }
}

fn distinct(owners: impl Iterator<Item = u32>, member_count: usize) -> usize {
    let mut seen = candidates::Seen::new(member_count);
    owners.filter(|owner| seen.insert(*owner)).count()
}

#[cfg(test)]
mod tests;

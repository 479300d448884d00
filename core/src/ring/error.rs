//! Why a ring cannot be built, in words that say what to do.
use std::fmt;

/// A ring that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// A size of zero.
    Zero {
        /// The setting, in words.
        setting: &'static str,
    },
    /// A size or count above its limit.
    AboveLimit {
        /// The setting, in words.
        setting: &'static str,
        /// What was asked.
        value: u64,
        /// The most there can be.
        limit: u64,
    },
    /// Envoy's minimum ring size is above its maximum.
    MinimumAboveMaximum {
        /// The minimum asked.
        minimum: u64,
        /// The maximum asked.
        maximum: u64,
    },
    /// A Maglev table whose size is no prime: its members' walks would not reach every slot.
    TableNotPrime {
        /// What was asked.
        table_size: u32,
        /// A prime near it, within the limit.
        prime: u32,
    },
    /// A member of weight zero: it has no place on a ring.
    ZeroWeight {
        /// The member's ring key.
        key: String,
    },
    /// Virtual nodes times weights come to more points than a ring may have.
    TooManyPoints {
        /// How many it would be.
        points: u64,
        /// The most there can be.
        limit: u64,
    },
}

impl fmt::Display for RingError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { setting } => write!(formatter, "{setting} is 0: make it at least 1"),
            Self::AboveLimit { setting, value, limit } => {
                write!(formatter, "{setting} is {value}: make it at most {limit}")
            }
            Self::MinimumAboveMaximum { minimum, maximum } => write!(
                formatter,
                "minimum ring size {minimum} is above the maximum ring size {maximum}: lower one or raise the other"
            ),
            Self::TableNotPrime { table_size, prime } => {
                write!(formatter, "maglev table size {table_size} is not a prime: take {prime}")
            }
            Self::ZeroWeight { key } => {
                write!(formatter, "member {key} has weight 0: make it at least 1, or leave the member out")
            }
            Self::TooManyPoints { points, limit } => write!(
                formatter,
                "the ring would have {points} points, the most is {limit}: take fewer virtual nodes, or weights \
                 closer to each other"
            ),
        }
    }
}

impl std::error::Error for RingError {}

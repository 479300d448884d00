//! Which shards of a store take writes, and why the others do not.

use std::fmt;
use std::time::{Duration, SystemTime};

use super::StoreError;

/// Why a shard takes no writes. Each has its row in docs/OPERATIONS.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Redis is at its `maxmemory` and evicts nothing.
    Full,
    /// The server is a replica.
    ReadOnly,
    /// A primary that too few replicas follow, so that it takes no writes (`min-replicas-to-write`).
    Fenced,
    /// It cannot save its data, and takes no writes until it can.
    NotPersisted,
    /// A script or function of another program occupies it.
    Busy,
    /// Its user or password is refused, or the user may not do what is needed.
    NoPermission,
    /// Its certificate, or the name in it, is not accepted, or it does not accept ours.
    Certificate,
    /// It is older than Redis 7.
    TooOld,
    /// It loads its data, or waits for its primary.
    Loading,
    /// The Cluster does not serve the slot now.
    ClusterDown,
    /// There is no connection.
    Unreachable,
    /// There was no answer in time.
    Timeout,
    /// It refused for another reason.
    Refused,
}

impl Cause {
    /// Every cause, for a metric per cause.
    pub const ALL: [Self; 13] = [
        Self::Full,
        Self::ReadOnly,
        Self::Fenced,
        Self::NotPersisted,
        Self::Busy,
        Self::NoPermission,
        Self::Certificate,
        Self::TooOld,
        Self::Loading,
        Self::ClusterDown,
        Self::Unreachable,
        Self::Timeout,
        Self::Refused,
    ];

    /// The name in metrics, logs and `/readyz`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Fenced => "fenced",
            Self::NotPersisted => "persistence_failed",
            Self::Busy => "busy_script",
            Self::NoPermission => "no_permission",
            Self::Certificate => "certificate",
            Self::TooOld => "too_old",
            Self::Loading => "loading",
            Self::ClusterDown => "cluster_down",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Refused => "refused",
        }
    }

    /// The cause of a failure, by the code that the server's message begins with.
    #[must_use]
    pub fn of(error: &StoreError) -> Self {
        let (text, otherwise) = match error {
            StoreError::Timeout => return Self::Timeout,
            StoreError::Suspended => return Self::Unreachable,
            StoreError::Unreachable(text) => (text, Self::Unreachable),
            StoreError::Refused(text) => (text, Self::Refused),
        };
        match text.split([' ', ':']).next().unwrap_or_default() {
            "OOM" => Self::Full,
            "READONLY" => Self::ReadOnly,
            "NOREPLICAS" => Self::Fenced,
            "MISCONF" => Self::NotPersisted,
            "BUSY" => Self::Busy,
            "NOPERM" | "NOAUTH" | "WRONGPASS" => Self::NoPermission,
            "TOOOLD" => Self::TooOld,
            "LOADING" | "MASTERDOWN" => Self::Loading,
            "CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN" => Self::ClusterDown,
            _ if text.contains("AuthenticationFailed") => Self::NoPermission,
            _ if text.to_ascii_lowercase().contains("certificate") => Self::Certificate,
            _ => otherwise,
        }
    }
}

/// A shard that takes no writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Its number, as in the keys of the store.
    pub shard: usize,
    /// The first time that this was seen.
    pub since: SystemTime,
    /// Why it takes none.
    pub cause: Cause,
    /// What the server said, or what failed.
    pub detail: String,
}

/// A shard whose writes no replica confirms, though the service waits for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Its number, as in the keys of the store.
    pub shard: usize,
    /// The first time that this was seen.
    pub since: SystemTime,
    /// What the server said, or that no replica answered.
    pub detail: String,
}

/// Which shards take writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// How many there are.
    pub shards: usize,
    /// Those that take none, in order: of one pool or of all.
    pub away: Vec<Away>,
    /// Whether at least one does. With several pools it may be one that is away of another pool.
    pub takes: bool,
    /// Those whose writes no replica confirms, in order; `None` unless the store waits for that.
    pub unconfirmed: Option<Vec<Unconfirmed>>,
}

impl Readiness {
    /// All of so many take writes.
    #[must_use]
    pub fn whole(shards: usize) -> Self {
        Self { shards, away: Vec::new(), takes: true, unconfirmed: None }
    }

    /// Whether all shards take writes, and under quorum have them confirmed.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.takes && self.away.is_empty() && self.unconfirmed.as_ref().is_none_or(Vec::is_empty)
    }
}

/// What `/readyz` says: one line for each cause and the shards that it concerns.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.shards.saturating_sub(self.away.len());
        write!(f, "{count} of {} shards take writes", self.shards)?;
        let away = self.away.iter().map(|away| (away.shard, away.cause.name(), &*away.detail, away.since));
        for (shards, cause, detail, since) in grouped(away) {
            write!(f, "\nnot {shards}: {cause} {}: {detail}", For(since))?;
        }
        let unconfirmed =
            self.unconfirmed.iter().flatten().map(|one| (one.shard, "", &*one.detail, one.since));
        for (shards, _, detail, since) in grouped(unconfirmed) {
            write!(f, "\nquorum is not held in {shards} {}: {detail}", For(since))?;
        }
        Ok(())
    }
}

/// Since when, and for how long.
struct For(SystemTime);

impl fmt::Display for For {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unix = self.0.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        write!(f, "since {unix} ({} s)", self.0.elapsed().unwrap_or_default().as_secs())
    }
}

/// Puts shards together that fail alike: number, cause, detail, since when.
fn grouped<'r>(
    shards: impl Iterator<Item = (usize, &'r str, &'r str, SystemTime)>,
) -> Vec<(String, &'r str, &'r str, SystemTime)> {
    let mut groups: Vec<(String, &str, &str, SystemTime)> = Vec::new();
    for (shard, cause, detail, since) in shards {
        let alike =
            groups.iter_mut().find(|group| (group.1, group.2) == (cause, detail) && near(group.3, since));
        match alike {
            Some((shards, ..)) => shards.push_str(&format!(" {shard:x}")),
            None => groups.push((format!("{shard:x}"), cause, detail, since)),
        }
    }
    groups
}

fn near(one: SystemTime, other: SystemTime) -> bool {
    let apart = one.duration_since(other).unwrap_or_else(|later| later.duration());
    apart < Duration::from_secs(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_cause() {
        let refused = |text: &str| Cause::of(&StoreError::Refused(text.to_owned()));
        let away = |text: &str| Cause::of(&StoreError::Unreachable(text.to_owned()));

        assert_eq!(refused("OOM command not allowed when used memory > 'maxmemory'."), Cause::Full);
        assert_eq!(away("READONLY You can't write against a read only replica."), Cause::ReadOnly);
        assert_eq!(away("NOREPLICAS Not enough good replicas to write."), Cause::Fenced);
        assert_eq!(away("MISCONF Redis is configured to save RDB snapshots"), Cause::NotPersisted);
        assert_eq!(away("BUSY Redis is busy running a script."), Cause::Busy);
        for text in ["NOPERM no", "NOAUTH Authentication required.", "WRONGPASS invalid"] {
            assert_eq!(refused(text), Cause::NoPermission, "{text}");
        }
        assert_eq!(away("invalid peer certificate: UnknownIssuer"), Cause::Certificate);
        assert_eq!(away("Connection refused (os error 111)"), Cause::Unreachable);
        assert_eq!(refused("ERR something else"), Cause::Refused);
        assert_eq!(Cause::of(&StoreError::Timeout), Cause::Timeout);
    }

    #[test]
    fn shards_that_fail_alike_share_a_line() {
        let since = SystemTime::now();
        let away = |shard, cause| Away { shard, since, cause, detail: "X y".to_owned() };
        let shards = vec![away(3, Cause::Full), away(10, Cause::Full), away(4, Cause::Busy)];
        let unconfirmed = [1, 2].map(|shard| Unconfirmed { shard, since, detail: "NOPERM no".to_owned() });
        let readiness =
            Readiness { shards: 16, away: shards, takes: true, unconfirmed: Some(unconfirmed.to_vec()) };

        let said = readiness.to_string();

        assert!(!readiness.is_whole());
        assert_eq!(said.lines().count(), 4, "{said}");
        assert!(said.contains("\nquorum is not held in 1 2 since "), "{said}");
        assert!(said.starts_with("13 of 16 shards take writes\nnot 3 a: full since "), "{said}");
    }
}

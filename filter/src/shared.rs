//! What the VMs of one Envoy share, through Envoy's shared data: each pool's roster and log of changes, and who polls.
//!
//! Shared data has neither delete nor expiry, so there is a fixed number of keys: six per pool, two per issuer of
//! tokens and one lease. All writes compare and swap, but for what only grows or has one writer. All keys carry the
//! roster's [`FORMAT`]: releases with another one in the same Envoy have a leader, rosters and logs of their own.

use berth_core::changelog::{ChangeLog, Head};
use berth_core::issuer::KeySetHead;
use berth_core::passive::Ledger;
use berth_core::roster::{FORMAT, Roster};
use berth_core::time::Millis;
use berth_core::wire::Cursor;

use crate::host;

/// On an absent key Envoy accepts any token, and afterwards none that was not handed out: so the first of two
/// writers wins. A real token never gets here, it counts writes from 1.
const ABSENT: u32 = u32::MAX;
/// Writers meet only when workers report the same outage; each lost round means that another one's write went in.
const ATTEMPTS: usize = 16;

fn key(parts: &[&str]) -> String {
    format!("berth/{FORMAT}/{}", parts.join("/"))
}

/// Where one pool's roster is published.
pub(crate) struct RosterKey {
    roster: String,
    /// Beside it, only its [`RosterHead`]: so that a tick without news copies a few bytes.
    head: String,
}

/// What every VM looks at with each tick.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RosterHead {
    /// Of the published roster; 0 before the first one.
    pub(crate) version: u64,
    /// When Envoy was last seen to name the members.
    pub(crate) seen: Millis,
    /// Its latest answer did not name their cluster.
    pub(crate) is_unknown: bool,
}

impl RosterKey {
    /// Pools of the same name and source share a roster, also across a configuration reload.
    pub(crate) fn new(pool: &str, source: &str) -> Self {
        let roster = key(&["roster", pool, source]);
        Self { head: format!("{roster}/head"), roster }
    }

    pub(crate) fn head(&self) -> RosterHead {
        host::shared(&self.head).0.map_or_else(Default::default, |bytes| RosterHead::decode(&bytes))
    }

    /// The published roster.
    pub(crate) fn read(&self) -> Option<Roster> {
        host::shared(&self.roster).0.and_then(|bytes| Roster::decode(&bytes))
    }

    /// Applies a change to the published roster; `change` says whether it changed anything, and may run again.
    /// Returns the roster as it then stands, or `None` if others kept getting in between.
    pub(crate) fn update(&self, mut change: impl FnMut(&mut Roster) -> bool) -> Option<Roster> {
        for _ in 0..ATTEMPTS {
            let (bytes, token) = host::shared(&self.roster);
            let mut roster = bytes.and_then(|bytes| Roster::decode(&bytes)).unwrap_or_default();
            if !change(&mut roster) {
                return Some(roster);
            }
            if host::set_shared(&self.roster, &roster.encode(), Some(token.unwrap_or(ABSENT))) {
                // Never lowers the version: the writer of a later roster may have come first, and a VM that saw the lower
                // number would take its own older roster for the published one.
                self.announce(|head| head.version = head.version.max(roster.version));
                return Some(roster);
            }
        }
        None
    }

    /// Envoy named the members at `now`.
    pub(crate) fn note_look(&self, now: Millis) {
        self.announce(|head| (head.seen, head.is_unknown) = (now, false));
    }

    /// Envoy does not know the members' cluster.
    pub(crate) fn note_unknown(&self) {
        self.announce(|head| head.is_unknown = true);
    }

    fn announce(&self, change: impl Fn(&mut RosterHead)) {
        for _ in 0..ATTEMPTS {
            let (bytes, token) = host::shared(&self.head);
            let known = bytes.as_deref().map_or_else(Default::default, RosterHead::decode);
            let mut next = known;
            change(&mut next);
            if next == known || host::set_shared(&self.head, &next.encode(), Some(token.unwrap_or(ABSENT))) {
                return;
            }
        }
    }
}

impl RosterHead {
    fn decode(bytes: &[u8]) -> Self {
        let mut numbers = bytes.split(|byte| *byte == b' ').map(|number| parse_number(number).unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self { version: next(), seen: Millis(next()), is_unknown: next() == 1 }
    }

    fn encode(self) -> Vec<u8> {
        format!("{} {} {}", self.version, self.seen.0, u8::from(self.is_unknown)).into_bytes()
    }
}

/// Where one pool's failures in a row are counted.
pub(crate) struct FailuresKey(String);

impl FailuresKey {
    /// Pools of the same name and source share them, also across a configuration reload.
    pub(crate) fn new(pool: &str, source: &str) -> Self {
        Self(key(&["failures", pool, source]))
    }

    pub(crate) fn read(&self) -> Ledger {
        Self::decode(host::shared(&self.0).0)
    }

    /// Applies a change to the record; `change` says whether it changed anything, and may run again. Returns the record as
    /// it then stands, or `None` if others kept getting in between.
    pub(crate) fn update(&self, mut change: impl FnMut(&mut Ledger) -> bool) -> Option<Ledger> {
        for _ in 0..ATTEMPTS {
            let (bytes, token) = host::shared(&self.0);
            let mut ledger = Self::decode(bytes);
            if !change(&mut ledger)
                || host::set_shared(&self.0, &ledger.encode(), Some(token.unwrap_or(ABSENT)))
            {
                return Some(ledger);
            }
        }
        None
    }

    fn decode(bytes: Option<Vec<u8>>) -> Ledger {
        bytes.and_then(|bytes| Ledger::decode(&bytes)).unwrap_or_default()
    }
}

/// Where one pool's log of changes is published.
pub(crate) struct ChangesKey {
    log: String,
    /// Beside it, only how far it goes.
    head: String,
    /// How far the state cluster's own log has been read for it.
    cursor: String,
}

impl ChangesKey {
    /// Pools of the same name and state cluster share a log, also across a configuration reload.
    pub(crate) fn new(pool: &str, state_cluster: &str) -> Self {
        let log = key(&["changes", pool, state_cluster]);
        Self { head: format!("{log}/head"), cursor: format!("{log}/cursor"), log }
    }

    /// Where a leader goes on that takes over from another.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        std::str::from_utf8(&host::shared(&self.cursor).0?).ok()?.parse().ok()
    }

    /// To be called once everything before it is in the log.
    pub(crate) fn set_cursor(&self, cursor: &Cursor) {
        host::set_shared(&self.cursor, cursor.as_str().as_bytes(), None);
    }

    pub(crate) fn head(&self) -> Head {
        host::shared(&self.head).0.and_then(|bytes| Head::decode(&bytes)).unwrap_or_default()
    }

    pub(crate) fn read(&self) -> ChangeLog {
        host::shared(&self.log).0.and_then(|bytes| ChangeLog::decode(&bytes)).unwrap_or_default()
    }

    /// Applies a change to the published log. False if others kept getting in between.
    pub(crate) fn update(&self, change: impl Fn(&mut ChangeLog)) -> bool {
        (0..ATTEMPTS).any(|_| {
            let (bytes, token) = host::shared(&self.log);
            let mut log = bytes.and_then(|bytes| ChangeLog::decode(&bytes)).unwrap_or_default();
            change(&mut log);
            let written = host::set_shared(&self.log, &log.encode(), Some(token.unwrap_or(ABSENT)));
            // Of two writers the slower may leave the older head: its readers look at the log once more often.
            written && host::set_shared(&self.head, &log.head().encode(), None)
        })
    }
}

/// Where the keys that an issuer publishes are.
pub(crate) struct KeySetKey {
    body: String,
    head: String,
}

impl KeySetKey {
    /// Providers that read the same keys share them, also across a configuration reload.
    pub(crate) fn new(cluster: &str, host: &str, path: &str) -> Self {
        let body = key(&["keys", cluster, host]) + path;
        Self { head: format!("{body}/head"), body }
    }

    pub(crate) fn head(&self) -> (KeySetHead, Option<u32>) {
        let (bytes, token) = host::shared(&self.head);
        (bytes.and_then(|bytes| KeySetHead::decode(&bytes)).unwrap_or_default(), token)
    }

    /// False if somebody else wrote first.
    pub(crate) fn set_head(&self, head: KeySetHead, token: Option<u32>) -> bool {
        host::set_shared(&self.head, &head.encode(), Some(token.unwrap_or(ABSENT)))
    }

    pub(crate) fn body(&self) -> Option<Vec<u8>> {
        host::shared(&self.body).0
    }

    pub(crate) fn set_body(&self, body: &[u8]) {
        host::set_shared(&self.body, body, None);
    }
}

/// Who polls: the holder of a lease that it renews while it lives.
pub(crate) struct Lease {
    key: String,
    /// This VM's name in it.
    holder: String,
}

/// What a look at the lease showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leadership {
    /// Another VM polls.
    Other,
    /// This one does.
    Held,
    /// This one does from now on.
    Taken,
}

impl Lease {
    pub(crate) fn new(source: &str, holder: String) -> Self {
        // Its text has changed since it was called `leader`: roots of both may share this Envoy during an upgrade.
        Self { key: key(&["lease", source]), holder }
    }

    /// Renews the lease, or takes it if it has run out. The length is the holder's own affair: only the leader knows how rare
    /// its looks are.
    pub(crate) fn claim(&self, now: Millis, length: Millis) -> Leadership {
        let (bytes, token) = host::shared(&self.key);
        let current = bytes.as_deref().and_then(parse_lease);
        let (held, taken) = match current {
            Some((holder, expires, _)) if holder == self.holder.as_bytes() => {
                // Half of it is left: no need to write.
                if expires.since(now).0 * 2 > length.0 {
                    return Leadership::Held;
                }
                (true, expires <= now)
            }
            // A lease that runs longer than any could was written before the clock was set back.
            Some((_, expires, its)) if now < expires && expires.since(now) <= its => {
                return Leadership::Other;
            }
            _ => (false, true),
        };
        let value = format!("{} {} {}", (now + length).0, length.0, self.holder);
        match host::set_shared(&self.key, value.as_bytes(), Some(token.unwrap_or(ABSENT))) {
            false => Leadership::Other,
            true if held && !taken => Leadership::Held,
            true => Leadership::Taken,
        }
    }
}

/// Who holds it, until when, and how long it was when it was taken.
fn parse_lease(bytes: &[u8]) -> Option<(&[u8], Millis, Millis)> {
    let mut parts = bytes.splitn(3, |&byte| byte == b' ');
    let expires = parse_number(parts.next()?)?;
    let length = parse_number(parts.next()?)?;
    Some((parts.next()?, Millis(expires), Millis(length)))
}

fn parse_number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

//! Session identity: which bytes of a request name its session.
//!
//! Decides where an id may come from, in which order, and what is fit to be one. Everything works on bytes and is total: a
//! client can send anything, and the worst answer is "no session". It decides neither what happens without a session nor
//! where a session lives.
//!
//! An id is the client's secret as well as its name, so it cannot be printed: `Debug` shows a short hash.
//!
//! Read next: [`Source`] for what may be configured, `extract` for how bytes are taken apart, [`CookieTemplate`] for
//! issuing an id to a client that has none, [`LearnSource`] for ids that nodes mint.

mod claims;
mod cookie;
mod error;
mod expiry;
mod extract;
mod learn;
mod signer;
mod source;
mod template;

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use xxhash_rust::xxh64::xxh64;

pub use claims::{Awaited, ClaimSource, History, Token};
pub use cookie::{CookieFault, CookieSettings, CookieTemplate, SameSite};
pub use error::SourceError;
pub use learn::{LearnSource, learn};
pub use signer::{LEAST_SIGNING_KEY, Signer};
pub use source::{Reading, Source};

pub(crate) use source::is_header_name;

use crate::token::Refusal;
use source::{Kind, Part};

/// The longest session id, in bytes. Room for a UUID, a hash or a small signed token; a larger value is a document, and
/// each proxy keeps thousands of ids in memory.
pub const MAX_SESSION_ID: usize = 512;

/// The bytes that name one session.
///
/// Always 1 to [`MAX_SESSION_ID`] bytes, without control bytes and without blanks at either end, so that it survives a
/// trip in a header unchanged. Bytes from 0x80 up are fine: an id need not be UTF-8.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId(Vec<u8>);

/// The length of an id that Berth makes.
pub(crate) const RANDOM_DIGITS: usize = 32;

impl SessionId {
    /// Takes over `bytes` as an id, without surrounding blanks; `None` if what is left is not fit to be one.
    pub fn new(mut bytes: Vec<u8>) -> Option<Self> {
        let trimmed = usable(&bytes)?.len();
        let leading = bytes.iter().take_while(|byte| extract::is_blank(byte)).count();
        bytes.drain(..leading);
        bytes.truncate(trimmed);
        Some(Self(bytes))
    }

    /// Makes an id for a client that has none: 32 hex digits of the caller's randomness.
    pub fn from_random(random: [u8; 16]) -> Self {
        Self(hex(&random).collect())
    }

    /// True if it looks like one of [`Self::from_random`].
    pub fn looks_random(&self) -> bool {
        self.0.len() == RANDOM_DIGITS && self.0.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// The id as it was on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The place on the ring: XXH64 with seed 0, which is what Envoy's own hash policies compute from the same bytes.
    pub fn hash(&self) -> u64 {
        xxh64(&self.0, 0)
    }

    /// Copies only what is fit to be an id.
    fn from_slice(bytes: &[u8]) -> Option<Self> {
        usable(bytes).map(|bytes| Self(bytes.to_vec()))
    }
}

fn hex(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    bytes.iter().flat_map(move |byte| [digit(byte >> 4), digit(byte & 0x0f)])
}

/// Half of the hash is enough to follow one session through a log, and does not give the id away.
impl fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SessionId(#{:08x})", self.hash() >> 32)
    }
}

/// What of `bytes` may be an id. A control byte cannot travel in a header, and text that has one is an attack or a
/// broken client; cutting it out would give two different values the same session.
fn usable(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = extract::trim(bytes);
    let fits = (1..=MAX_SESSION_ID).contains(&bytes.len());
    (fits && !bytes.iter().any(u8::is_ascii_control)).then_some(bytes)
}

/// Finds the session of a request: the first of `sources` that yields a usable id wins.
///
/// `header` answers a header's value by its lower-case name, of a repeated one the first; `:path` is the path with its
/// query. It is called at most once a name, and only when a source needs it, because each call leaves the VM. What a source
/// finds but cannot use counts as nothing found.
///
/// Neither tokens nor further lines of a header are looked at: [`find`] does.
pub fn identify(sources: &[Source], header: &mut dyn FnMut(&str) -> Option<Vec<u8>>) -> Option<SessionId> {
    match find(sources, header, &mut |_| None, &mut |_| Token::Absent) {
        Found::Session(id, ..) => Some(id),
        _ => None,
    }
}

/// What the sources say of a request's session.
#[derive(Debug)]
pub enum Found<'s> {
    /// This one, from this source; from a token with what else it says.
    Session(SessionId, &'s Source, Option<History>),
    /// None.
    Nothing,
    /// The token of this provider is not to be believed, so nothing weaker is.
    Refused(usize, Refusal),
    /// Whether a token is to be believed will be known soon.
    Pending,
    /// The token of this provider could not be checked.
    Unchecked(usize),
}

/// As [`identify`], with tokens: `token` says what came of the request's token at a provider, by its place.
///
/// Some headers are lists, which a client may send in several lines. `all` answers all lines of one as if they were one line,
/// or `None` if there is only one. It is called if the first line does not hold what is looked for.
///
/// After a token that is refused only other providers' tokens count, since it may be one of theirs: everything else is
/// weaker, and would be what an attacker sends beside it.
pub fn find<'s>(
    sources: &'s [Source],
    header: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
    all: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
    token: &mut dyn FnMut(usize) -> Token,
) -> Found<'s> {
    let mut headers = Headers { fetch: header, fetch_all: all, kept: Vec::new(), whole: Vec::new() };
    let mut rest = sources;
    let mut doubt = None;
    while let Some((source, later)) = rest.split_first() {
        let id = match source.kind() {
            Kind::Single(_) | Kind::Composite(_) if doubt.is_some() => None,
            Kind::Single(part) if source.is_signed() => headers.signed(source, part, later),
            Kind::Single(part) => headers.single(part, later),
            Kind::Composite(parts) => headers.composite(parts),
            Kind::Claims(claims) => match token(claims.provider.0) {
                Token::Absent => None,
                Token::Verified(facts) => {
                    if let Some((id, history)) = claims.find(&facts) {
                        return Found::Session(id, source, Some(history));
                    }
                    None
                }
                Token::Refused(refusal) => {
                    doubt.get_or_insert(Found::Refused(claims.provider.0, refusal));
                    None
                }
                // It may be the right one, whatever else was refused.
                Token::Unchecked => {
                    if !matches!(doubt, Some(Found::Pending)) {
                        doubt = Some(Found::Unchecked(claims.provider.0));
                    }
                    None
                }
                Token::Pending(_) => {
                    doubt = Some(Found::Pending);
                    None
                }
            },
        };
        if let Some(id) = id {
            return Found::Session(id, source, None);
        }
        rest = later;
    }
    doubt.unwrap_or(Found::Nothing)
}

/// Says in words where a session id is looked for, for the answer to a client that sent none.
///
/// Example: `header x-session-id, cookie sid or subprotocol session.<id>`.
pub fn describe(sources: &[Source]) -> String {
    let mut text = String::new();
    let mut rest = sources;
    while let Some((source, later)) = rest.split_first() {
        text.push_str(&source.to_string());
        text.push_str(match later.len() {
            0 => "",
            1 => " or ",
            _ => ", ",
        });
        rest = later;
    }
    text
}

/// The header values fetched for one request. `kept` stays empty, and so unallocated, until a value has a second reader.
struct Headers<'f, 's> {
    fetch: &'f mut dyn FnMut(&str) -> Option<Vec<u8>>,
    fetch_all: &'f mut dyn FnMut(&str) -> Option<Vec<u8>>,
    kept: Vec<(&'s str, Option<Vec<u8>>)>,
    /// The headers of which all lines were looked at.
    whole: Vec<&'s str>,
}

/// Digits of a signed id: as many of the signature as of randomness.
const SIGNED_DIGITS: usize = 2 * RANDOM_DIGITS;
/// Signatures that are looked at in one request.
const MAX_TRIED: usize = 16;

impl<'s> Headers<'_, 's> {
    fn single(&mut self, part: &'s Part, later: &[Source]) -> Option<SessionId> {
        let name = part.header();
        let value = self.take(name);
        let is_read_again = later.iter().any(|source| source.reads(name));
        if part.is_whole() && !is_read_again {
            // The fetched bytes become the id.
            return SessionId::new(value?);
        }
        let (id, left) = self.search(part, value);
        if id.is_none() && is_read_again {
            self.kept.push((name, left));
        }
        id
    }

    /// The first of all cookies of that name that is signed: one of another domain or path may stand before it, which Berth cannot
    /// take back.
    fn signed(&mut self, source: &Source, part: &'s Part, later: &[Source]) -> Option<SessionId> {
        let name = part.header();
        let mut value = self.take(name)?;
        let signed = |value: &[u8]| {
            let found = value.split(|byte| *byte == b';').filter_map(|pair| find_part(part, pair));
            found.filter(|id| id.0.len() == SIGNED_DIGITS).take(MAX_TRIED).find(|id| source.accepts(id))
        };
        let mut id = signed(&value);
        if id.is_none()
            && !self.whole.contains(&name)
            && let Some(all) = (self.fetch_all)(name)
        {
            self.whole.push(name);
            (id, value) = (signed(&all), all);
        }
        if id.is_none() && later.iter().any(|source| source.reads(name)) {
            self.kept.push((name, Some(value)));
        }
        id
    }

    /// Each part with its length before it, so that no two lists of parts read the same: ("a", "bc") is not ("ab", "c").
    fn composite(&mut self, parts: &'s [Part]) -> Option<SessionId> {
        let mut joined = Vec::new();
        for part in parts {
            let value = self.take(part.header());
            let (id, value) = self.search(part, value);
            self.kept.push((part.header(), value));
            let id = id?;
            write!(joined, "{}:", id.0.len()).ok()?;
            joined.extend_from_slice(&id.0);
        }
        SessionId::new(joined)
    }

    /// The id in the value of the part's header, and that value: all lines of it, if the first one was not enough.
    fn search(&mut self, part: &'s Part, value: Option<Vec<u8>>) -> (Option<SessionId>, Option<Vec<u8>>) {
        let Some(value) = value else { return (None, None) };
        let (id, name) = (find_part(part, &value), part.header());
        if id.is_some() || !part.is_in_a_list() || self.whole.contains(&name) {
            return (id, Some(value));
        }
        self.whole.push(name);
        match (self.fetch_all)(name) {
            Some(all) => (find_part(part, &all), Some(all)),
            None => (None, Some(value)),
        }
    }

    fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        match self.kept.iter().position(|(kept, _)| *kept == name) {
            Some(position) => self.kept.swap_remove(position).1,
            None => (self.fetch)(name),
        }
    }
}

/// The id that `part` names within the value of its header.
fn find_part(part: &Part, value: &[u8]) -> Option<SessionId> {
    match part.find(value)? {
        Cow::Borrowed(bytes) => SessionId::from_slice(bytes),
        Cow::Owned(bytes) => SessionId::new(bytes),
    }
}

#[cfg(test)]
mod tests;

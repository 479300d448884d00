//! Where a session id may come from.
//!
//! A [`Source`] that exists is right: it is made by a constructor that refuses what could never match, or would match by
//! accident. It knows which header it reads; how the id is found there is in `extract` and `template`.

use std::borrow::Cow;
use std::fmt;

use super::SessionId;
use super::claims::ClaimSource;
use super::error::{COMPOSITE_PARTS, SourceError};
use super::extract::{self, is_token_byte};
use super::signer::Signer;
use super::template::PathTemplate;

/// A place in a request that may name its session.
///
/// ```
/// use berth_core::session::{Source, describe, identify};
///
/// let sources = [Source::header("x-session-id")?, Source::query("sid")?];
/// let mut header = |name: &str| (name == ":path").then(|| b"/play?sid=abc".to_vec());
///
/// let id = identify(&sources, &mut header).ok_or("no session")?;
/// assert_eq!(id.as_bytes(), b"abc");
/// assert_eq!(describe(&sources), "header x-session-id or query parameter sid");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
    /// Only ids that it signed are ids.
    signer: Option<Signer>,
}

impl From<Kind> for Source {
    fn from(kind: Kind) -> Self {
        Self { kind, signer: None }
    }
}

/// Two levels, so that a composite within a composite cannot be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Single(Part),
    Composite(Vec<Part>),
    Claims(ClaimSource),
}

/// One place, valid, and what of the value there is the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    place: Place,
    reading: Reading,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Header(String),
    Cookie(String),
    Query(String),
    Path(PathTemplate),
    Matrix(String),
    Subprotocol(String),
}

/// What of the value at a place is the id: by default all of it, as it is written. Envoy's own hash policies read it so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Percent escapes are replaced by what they stand for.
    pub decode: bool,
    /// The id ends where this text begins, for the first time.
    pub until: Option<String>,
}

impl Source {
    /// The whole value of a header; the name may have any case.
    ///
    /// Of the pseudo headers only `:authority` can name a session (one host name per session). `cookie` and
    /// `sec-websocket-protocol` are refused too: they are lists, which change while the session in them does not.
    pub fn header(name: &str) -> Result<Self, SourceError> {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            ":authority" => {}
            ":path" => return Err(SourceError::SharedHeader { name, instead: "a path or a query source" }),
            "cookie" => return Err(SourceError::SharedHeader { name, instead: "a cookie source" }),
            "sec-websocket-protocol" => {
                return Err(SourceError::SharedHeader { name, instead: "a subprotocol source" });
            }
            _ if name.starts_with(':') => return Err(SourceError::PseudoHeader(name)),
            _ if !is_token(&name) => return Err(SourceError::HeaderName(name)),
            _ => {}
        }
        Ok(Self::at(Place::Header(name)))
    }

    /// The value of a cookie; its name is case-sensitive.
    pub fn cookie(name: &str) -> Result<Self, SourceError> {
        if !is_token(name) {
            return Err(SourceError::CookieName(name.to_owned()));
        }
        Ok(Self::at(Place::Cookie(name.to_owned())))
    }

    /// The value of a query parameter; the name is given as it is after percent-decoding.
    pub fn query(name: &str) -> Result<Self, SourceError> {
        if name.is_empty() || name.contains(char::is_control) {
            return Err(SourceError::QueryName(name.to_owned()));
        }
        Ok(Self::at(Place::Query(name.to_owned())))
    }

    /// A segment of the path, for example `/ws/{session}` or `/tenants/*/games/{session}`.
    ///
    /// The template matches the first segments of a path, `*` any one of them.
    pub fn path(template: &str) -> Result<Self, SourceError> {
        Ok(Self::at(Place::Path(PathTemplate::parse(template)?)))
    }

    /// The value of a matrix parameter, for example `/cart;jsessionid=abc`; its name is case-sensitive.
    pub fn matrix(name: &str) -> Result<Self, SourceError> {
        if !is_token(name) {
            return Err(SourceError::MatrixName(name.to_owned()));
        }
        Ok(Self::at(Place::Matrix(name.to_owned())))
    }

    /// What follows `prefix` in an entry of `Sec-WebSocket-Protocol`, the one header that a browser lets a WebSocket set.
    pub fn subprotocol(prefix: &str) -> Result<Self, SourceError> {
        if !is_token(prefix) {
            return Err(SourceError::SubprotocolPrefix(prefix.to_owned()));
        }
        Ok(Self::at(Place::Subprotocol(prefix.to_owned())))
    }

    /// Several places that name the session together, for example tenant and user. If one is missing there is no session.
    pub fn composite(sources: Vec<Self>) -> Result<Self, SourceError> {
        if !COMPOSITE_PARTS.contains(&sources.len()) {
            return Err(SourceError::CompositeSize(sources.len()));
        }
        let parts = sources.into_iter().map(|source| match source.kind {
            Kind::Single(part) => Ok(part),
            Kind::Composite(_) => Err(SourceError::CompositeInComposite),
            Kind::Claims(_) => Err(SourceError::ClaimsInComposite),
        });
        Ok(Kind::Composite(parts.collect::<Result<_, _>>()?).into())
    }

    /// The same place, of whose value the id is read like this. Composites and tokens stay as they are.
    #[must_use]
    pub fn read_as(self, reading: Reading) -> Self {
        match self.kind {
            Kind::Single(part) => Self { kind: Kind::Single(Part { reading, ..part }), ..self },
            kind => Self { kind, ..self },
        }
    }

    fn at(place: Place) -> Self {
        Kind::Single(Part { place, reading: Reading::default() }).into()
    }

    /// The claims of a verified token.
    #[must_use]
    pub fn claims(source: ClaimSource) -> Self {
        Kind::Claims(source).into()
    }

    /// The claims, if it is a token's.
    pub(crate) fn as_claims(&self) -> Option<&ClaimSource> {
        match &self.kind {
            Kind::Claims(source) => Some(source),
            _ => None,
        }
    }

    /// Whether it is a token's.
    #[must_use]
    pub fn is_token(&self) -> bool {
        matches!(self.kind, Kind::Claims(_))
    }

    /// The one place that it reads.
    pub(super) fn single(&self) -> Option<&Part> {
        match &self.kind {
            Kind::Single(part) => Some(part),
            Kind::Composite(_) | Kind::Claims(_) => None,
        }
    }

    /// The header that it reads, of a composite the first.
    pub(crate) fn header_name(&self) -> &str {
        self.first().map_or("", Part::header)
    }

    /// What it names within the value of that header, of a composite the first part. Unlike a session id it may be
    /// anything but empty.
    pub(crate) fn find<'h>(&self, value: &'h [u8]) -> Option<Cow<'h, [u8]>> {
        self.first()?.find(value)
    }

    /// Whether clients may send several lines of the header that it reads, of which any may hold it.
    pub(crate) fn is_in_a_list(&self) -> bool {
        self.first().is_some_and(Part::is_in_a_list)
    }

    /// True if it reads the whole value of this cookie, and nothing else.
    #[must_use]
    pub fn is_whole_cookie(&self, name: &str) -> bool {
        matches!(&self.kind, Kind::Single(Part { place: Place::Cookie(read), reading })
            if read == name && reading.until.is_none())
    }

    fn first(&self) -> Option<&Part> {
        match &self.kind {
            Kind::Single(part) => Some(part),
            Kind::Composite(parts) => parts.first(),
            Kind::Claims(_) => None,
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The same place; if it is this cookie, only ids count that were signed so.
    #[must_use]
    pub fn signed_by(self, cookie: &str, signer: &Signer) -> Self {
        let is_it =
            matches!(&self.kind, Kind::Single(Part { place: Place::Cookie(read), .. }) if read == cookie);
        if is_it { Self { signer: Some(signer.clone()), ..self } } else { self }
    }

    /// Whether only signed ids count there.
    pub(super) fn is_signed(&self) -> bool {
        self.signer.is_some()
    }

    /// Whether it takes ids from this cookie that this signer has not signed.
    pub(crate) fn takes_unsigned(&self, cookie: &str, signer: &Signer) -> bool {
        let is_it = |part: &Part| matches!(&part.place, Place::Cookie(read) if read == cookie);
        let reads = match &self.kind {
            Kind::Single(part) => is_it(part),
            Kind::Composite(parts) => parts.iter().any(is_it),
            Kind::Claims(_) => false,
        };
        reads && self.signer.as_ref() != Some(signer)
    }

    /// Whether what was found there may be an id.
    pub(super) fn accepts(&self, id: &SessionId) -> bool {
        self.signer.as_ref().is_none_or(|signer| signer.has_signed(id))
    }

    /// Whether it looks at this header.
    pub(super) fn reads(&self, header: &str) -> bool {
        match &self.kind {
            Kind::Single(part) => part.header() == header,
            Kind::Composite(parts) => parts.iter().any(|part| part.header() == header),
            // Tokens are somebody else's to fetch.
            Kind::Claims(_) => false,
        }
    }
}

impl Part {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The whole value of a header is the id.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.place, Place::Header(_)) && self.reading == Reading::default()
    }

    /// Whether its header is a list that clients may send in several lines.
    pub(super) fn is_in_a_list(&self) -> bool {
        matches!(self.place, Place::Cookie(_) | Place::Subprotocol(_))
    }

    /// The header it looks at.
    pub(super) fn header(&self) -> &str {
        match &self.place {
            Place::Header(name) => name,
            Place::Cookie(_) => "cookie",
            Place::Query(_) | Place::Path(_) | Place::Matrix(_) => ":path",
            Place::Subprotocol(_) => "sec-websocket-protocol",
        }
    }

    /// What it names within the value of its header.
    pub(super) fn find<'h>(&self, value: &'h [u8]) -> Option<Cow<'h, [u8]>> {
        let path_and_query = || extract::path_and_query(value);
        let found = match &self.place {
            Place::Header(_) => Some(value),
            Place::Cookie(name) => extract::cookie(value, name),
            Place::Query(name) => extract::query_parameter(path_and_query().1, name),
            Place::Path(template) => template.session(path_and_query().0),
            Place::Matrix(name) => extract::matrix_parameter(path_and_query().0, name),
            Place::Subprotocol(prefix) => extract::subprotocol(value, prefix),
        };
        Some(self.reading.of(found?))
    }

    /// The id within the value at its place.
    pub(super) fn read<'h>(&self, value: &'h [u8]) -> Cow<'h, [u8]> {
        self.reading.of(value)
    }
}

impl Reading {
    fn of<'h>(&self, value: &'h [u8]) -> Cow<'h, [u8]> {
        let mut value = match self.decode {
            true => Cow::Owned(extract::percent_decoded(value).collect()),
            false => Cow::Borrowed(value),
        };
        if let Some(until) = &self.until
            && let Some(end) = value.windows(until.len()).position(|bytes| bytes == until.as_bytes())
        {
            match &mut value {
                Cow::Owned(bytes) => bytes.truncate(end),
                Cow::Borrowed(bytes) => *bytes = bytes.get(..end).unwrap_or_default(),
            }
        }
        value
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Single(part) => part.fmt(formatter),
            Kind::Composite(parts) => {
                for (position, part) in parts.iter().enumerate() {
                    let plus = if position == 0 { "" } else { " + " };
                    write!(formatter, "{plus}{part}")?;
                }
                Ok(())
            }
            Kind::Claims(source) => write!(formatter, "token of {}", source.provider.1),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Header(name) => write!(formatter, "header {name}"),
            Place::Cookie(name) => write!(formatter, "cookie {name}"),
            Place::Query(name) => write!(formatter, "query parameter {name}"),
            Place::Path(template) => write!(formatter, "path {template}"),
            Place::Matrix(name) => write!(formatter, "path parameter ;{name}="),
            Place::Subprotocol(prefix) => write!(formatter, "subprotocol {prefix}<id>"),
        }
    }
}

/// Whether a request can have a header of this name that is known before it is routed.
pub(crate) fn is_header_name(name: &str) -> bool {
    is_token(name) || [":method", ":authority"].iter().any(|pseudo| name.eq_ignore_ascii_case(pseudo))
}

/// Whether HTTP would take it as a name.
pub(super) fn is_token(name: &str) -> bool {
    !name.is_empty() && name.as_bytes().iter().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(made: Result<Source, SourceError>) -> String {
        made.unwrap_err().to_string()
    }

    #[test]
    fn header_names_are_lower_cased() {
        assert_eq!(Source::header("X-Session-ID"), Source::header("x-session-id"));
    }

    #[test]
    fn a_header_name_must_be_a_token() {
        for name in ["", "x session", "x:y", "x\n", "é", "x,y", "\u{0}"] {
            let text = message(Source::header(name));
            assert!(text.contains("is no header name: use letters"), "{text}");
        }
    }

    #[test]
    fn of_the_pseudo_headers_only_authority_names_a_session() {
        assert!(Source::header(":authority").is_ok());
        assert!(Source::header(":Authority").is_ok());
        assert_eq!(
            message(Source::header(":method")),
            "pseudo header \":method\" cannot name a session: only :authority can"
        );
        assert!(message(Source::header(":")).contains("only :authority"));
    }

    #[test]
    fn headers_with_a_source_of_their_own_are_refused_as_plain_headers() {
        assert_eq!(
            message(Source::header("Cookie")),
            "header \"cookie\" holds more than the session: use a cookie source"
        );
        assert!(message(Source::header(":path")).contains("use a path or a query source"));
        assert!(message(Source::header("Sec-WebSocket-Protocol")).contains("use a subprotocol source"));
    }

    #[test]
    fn cookie_names_and_subprotocol_prefixes_must_be_tokens() {
        for name in ["", "s id", "s=id", "s;id", "s,id", "\"sid\"", "s\tid", "ü"] {
            assert!(message(Source::cookie(name)).contains("is no cookie name"), "{name:?}");
            assert!(message(Source::subprotocol(name)).contains("is no subprotocol prefix"), "{name:?}");
        }
    }

    #[test]
    fn a_query_name_is_any_text_without_control_characters() {
        for name in ["sid", "session id", "a&b", "größe", "%"] {
            assert!(Source::query(name).is_ok(), "{name:?}");
        }
        for name in ["", "a\nb", "\u{7f}"] {
            assert!(message(Source::query(name)).contains("is no query parameter name"), "{name:?}");
        }
    }

    #[test]
    fn a_template_error_shows_the_template() {
        assert_eq!(message(Source::path("/ws")), "path template \"/ws\": add the segment `{session}`");
    }

    #[test]
    fn a_composite_has_two_to_four_plain_parts() {
        let part = || Source::header("x-tenant").unwrap();
        let composite = |size| Source::composite((0..size).map(|_| part()).collect());

        for size in [0, 1, 5] {
            let text = message(composite(size));
            assert_eq!(text, format!("a composite of {size}: give it 2 to 4 parts"));
        }
        for size in [2, 3, 4] {
            assert!(composite(size).is_ok());
        }
        let nested = Source::composite(vec![part(), composite(2).unwrap()]);
        assert!(message(nested).contains("list the inner parts"));
    }
}

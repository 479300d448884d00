//! Where a token may be in a request.

use crate::session::{Reading, Source, SourceError};

/// A place that may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSource {
    place: Source,
    /// What stands before the token in a header.
    prefix: String,
    /// The `Set-Cookie` value that deletes the cookie that it reads, if that is to be done.
    deletion: Option<Box<str>>,
}

impl TokenSource {
    /// What follows `prefix`, whose case does not count, in the value of a header: `Bearer ` in `authorization`.
    ///
    /// # Errors
    /// If it is not a header's name, or if it is a list that has sources of its own.
    pub fn header(name: &str, prefix: &str) -> Result<Self, SourceError> {
        if name.starts_with(':') {
            return Err(SourceError::HeaderName(name.to_owned()));
        }
        Ok(Self { place: Source::header(name)?, prefix: prefix.to_owned(), deletion: None })
    }

    /// The value of a cookie.
    ///
    /// # Errors
    /// If it is not a cookie's name.
    pub fn cookie(name: &str) -> Result<Self, SourceError> {
        Source::cookie(name).map(Self::from)
    }

    /// The same, with what deletes its cookie when the token is refused.
    #[must_use]
    pub fn deleted_by(self, deletion: Box<str>) -> Self {
        Self { deletion: Some(deletion), ..self }
    }

    /// What deletes its cookie when the token is refused, if it is a cookie and that is to be done.
    #[must_use]
    pub fn deletion(&self) -> Option<&str> {
        self.deletion.as_deref()
    }

    /// The value of a query parameter, percent-decoded.
    ///
    /// # Errors
    /// If it is not a parameter's name.
    pub fn query(name: &str) -> Result<Self, SourceError> {
        let decoded = Reading { decode: true, until: None };
        Source::query(name).map(|source| source.read_as(decoded).into())
    }

    /// What follows `prefix` in an entry of `Sec-WebSocket-Protocol`, the one header that a browser lets a WebSocket set.
    ///
    /// # Errors
    /// If it is not the beginning of a subprotocol.
    pub fn subprotocol(prefix: &str) -> Result<Self, SourceError> {
        Source::subprotocol(prefix).map(Self::from)
    }

    /// The token in the value of the header that this source reads.
    fn find(&self, value: &[u8]) -> Option<Vec<u8>> {
        let found = self.place.find(value)?;
        let token = without_prefix(&found, self.prefix.as_bytes())?.trim_ascii();
        (!token.is_empty()).then(|| token.to_vec())
    }
}

impl From<Source> for TokenSource {
    fn from(place: Source) -> Self {
        Self { place, prefix: String::new(), deletion: None }
    }
}

/// Finds a request's token: that of the first of `sources` that has any. Whether it is one, [`verify`](super::verify)
/// tells; a token that is wrong does not make a later source count.
///
/// `header` answers a header's value by its lower-case name, of a repeated one the first; `:path` is the path with its query. `all`
/// answers all lines of a list as one, or `None` if there is only one line.
pub fn find(
    sources: &[TokenSource],
    header: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
    all: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    locate(sources, header, all).map(|(_, token)| token)
}

/// The same, with the source that it came from.
pub fn locate<'s>(
    sources: &'s [TokenSource],
    header: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
    all: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Option<(&'s TokenSource, Vec<u8>)> {
    sources.iter().find_map(|source| {
        let name = source.place.header_name();
        let first = header(name)?;
        let is_list = source.place.is_in_a_list();
        let token = source.find(&first).or_else(|| if is_list { source.find(&all(name)?) } else { None });
        Some((source, token?))
    })
}

fn without_prefix<'v>(value: &'v [u8], prefix: &[u8]) -> Option<&'v [u8]> {
    let (start, rest) = value.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sources: &[TokenSource], headers: &[(&str, &str)]) -> Option<String> {
        let mut header = |name: &str| {
            headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes().to_vec())
        };
        find(sources, &mut header, &mut |_| None).map(|token| String::from_utf8(token).unwrap())
    }

    fn bearer() -> TokenSource {
        TokenSource::header("Authorization", "Bearer ").unwrap()
    }

    #[test]
    fn a_header_has_its_prefix_in_any_case() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(found(&[bearer()], &[("authorization", value)]).as_deref(), Some("a.b.c"));
        }
        for value in ["", "Bearer", "Bearer ", "Bearer  ", "Basic a.b.c", "a.b.c", "Bearera.b.c"] {
            assert_eq!(found(&[bearer()], &[("authorization", value)]), None, "{value}");
        }
    }

    #[test]
    fn every_source_finds_its_own() {
        let sources = [
            bearer(),
            TokenSource::cookie("token").unwrap(),
            TokenSource::query("token").unwrap(),
            TokenSource::subprotocol("jwt.").unwrap(),
        ];

        assert_eq!(found(&sources, &[("cookie", "a=1; token=c.c.c")]).as_deref(), Some("c.c.c"));
        assert_eq!(found(&sources, &[(":path", "/ws?token=q.q.q")]).as_deref(), Some("q.q.q"));
        let subprotocols = ("sec-websocket-protocol", "chat, jwt.s.s.s");
        assert_eq!(found(&sources, &[subprotocols]).as_deref(), Some("s.s.s"));
        let both = [subprotocols, ("authorization", "Bearer b.b.b")];
        assert_eq!(found(&sources, &both).as_deref(), Some("b.b.b"));
        assert_eq!(found(&sources, &[]), None);
    }

    #[test]
    fn headers_that_hold_no_token_are_refused() {
        for name in [":authority", ":path", "cookie", "Sec-WebSocket-Protocol", "", "x y"] {
            assert!(TokenSource::header(name, "").is_err(), "{name}");
        }
    }
}

//! A request in, at most one session out.
//!
//! The input reads like a request: a header a line, `name: value`. A line without a colon is a header without a value. A
//! repeated header is joined as Envoy's wasm host does it.

use std::collections::BTreeSet;

use berth_core::session::{CookieSettings, CookieTemplate, MAX_SESSION_ID, SessionId, Source, identify};

/// Identifies the session of the request, by all sources together and by each alone.
pub fn check(input: &[u8]) {
    let request = Request::parse(input);
    let sources = sources();

    let together = request.session(&sources);
    let alone = sources.chunks(1).find_map(|source| request.session(source));

    assert_eq!(together, alone, "the first source that finds an id decides");
    for source in sources.chunks(1) {
        if let Some(id) = request.session(source) {
            check_id(&id);
        }
    }
}

/// Every kind of source. Several read the same header, and composites come before the parts that they share with others.
fn sources() -> Vec<Source> {
    let header = |name| Source::header(name).unwrap();
    let cookie = |name| Source::cookie(name).unwrap();
    let query = |name| Source::query(name).unwrap();
    let path = |template| Source::path(template).unwrap();
    let composite = |parts| Source::composite(parts).unwrap();
    vec![
        composite(vec![header("x-tenant"), cookie("user")]),
        composite(vec![query("a"), query("b"), path("/both/{session}"), header("x-tenant")]),
        header("x-session-id"),
        cookie("sid"),
        path("/ws/{session}"),
        path("/t/*/{session}/end"),
        query("sid"),
        query("session id"),
        Source::subprotocol("session.").unwrap(),
        cookie("user"),
        header("x-tenant"),
        header(":authority"),
    ]
}

/// What holds for every id, wherever it was found.
pub fn check_id(id: &SessionId) {
    let bytes = id.as_bytes();
    assert!((1..=MAX_SESSION_ID).contains(&bytes.len()), "an id has {} bytes", bytes.len());
    assert!(!bytes.iter().any(u8::is_ascii_control), "an id holds a control byte");
    assert_eq!(SessionId::new(bytes.to_vec()).as_ref(), Some(id), "an id survives a trip in a header");

    let cookie = CookieTemplate::new(&CookieSettings::named("sid")).unwrap().set_cookie(id);
    if let Some(cookie) = cookie {
        let pair = cookie.split(|byte| *byte == b';').next().unwrap().to_vec();
        let source = Source::cookie("sid").unwrap();
        let back = identify(&[source], &mut |_| Some(pair.clone()));
        assert_eq!(back.as_ref(), Some(id), "an id survives a trip in a cookie");
    }
}

/// Headers, as they are written a line each.
pub struct Request<'i> {
    /// Names and values.
    pub headers: Vec<(&'i [u8], &'i [u8])>,
}

impl<'i> Request<'i> {
    /// Any bytes are headers.
    pub fn parse(input: &'i [u8]) -> Self {
        Self { headers: input.split(|byte| *byte == b'\n').map(Self::header).collect() }
    }

    /// A pseudo header's name starts with a colon, so the colon that ends a name is the first one after that.
    fn header(line: &'i [u8]) -> (&'i [u8], &'i [u8]) {
        let colon = line.iter().skip(1).position(|byte| *byte == b':');
        let Some(end) = colon.map(|position| position + 1) else { return (line, b"") };
        let value = &line[end + 1..];
        (&line[..end], value.strip_prefix(b" ").unwrap_or(value))
    }

    /// Those of this name, in order.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'i [u8]> {
        self.headers.iter().filter(move |(known, _)| *known == name.as_bytes()).map(|(_, value)| *value)
    }

    fn session(&self, sources: &[Source]) -> Option<SessionId> {
        let mut fetched = BTreeSet::new();
        identify(sources, &mut |name| {
            assert!(fetched.insert(name.to_owned()), "header {name} was fetched twice");
            let values = self.values(name).collect::<Vec<_>>();
            (!values.is_empty()).then(|| values.join(b",".as_slice()))
        })
    }
}

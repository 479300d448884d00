//! What `identify` promises, source by source.

use std::cell::RefCell;

use super::signer::Signer;
use super::*;

/// A request as a list of headers, which counts how often each one is fetched.
struct Request {
    headers: Vec<(&'static str, Vec<u8>)>,
    fetched: RefCell<Vec<String>>,
}

impl Request {
    fn new<const N: usize>(headers: [(&'static str, &[u8]); N]) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name, value.to_vec())).collect();
        Self { headers, fetched: RefCell::default() }
    }

    fn session(&self, sources: &[Source]) -> Option<Vec<u8>> {
        self.fetched.take();
        let id = identify(sources, &mut |name| {
            self.fetched.borrow_mut().push(name.to_owned());
            self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
        });
        id.map(|id| id.as_bytes().to_vec())
    }

    fn fetched(&self) -> Vec<String> {
        self.fetched.borrow().clone()
    }
}

fn header(name: &str) -> Source {
    Source::header(name).unwrap()
}

fn cookie(name: &str) -> Source {
    Source::cookie(name).unwrap()
}

fn query(name: &str) -> Source {
    Source::query(name).unwrap()
}

fn path(template: &str) -> Source {
    Source::path(template).unwrap()
}

fn subprotocol(prefix: &str) -> Source {
    Source::subprotocol(prefix).unwrap()
}

fn matrix(name: &str) -> Source {
    Source::matrix(name).unwrap()
}

fn decoded(source: Source) -> Source {
    source.read_as(Reading { decode: true, until: None })
}

fn until(source: Source, text: &str) -> Source {
    source.read_as(Reading { decode: false, until: Some(text.to_owned()) })
}

fn composite<const N: usize>(parts: [Source; N]) -> Source {
    Source::composite(parts.into()).unwrap()
}

fn demo_sources() -> [Source; 5] {
    [header("x-session-id"), cookie("sid"), path("/ws/{session}"), query("sid"), subprotocol("session.")]
}

/// The session that `source` finds in the one header it reads.
fn found(source: &Source, value: &[u8]) -> Option<Vec<u8>> {
    identify(std::slice::from_ref(source), &mut |_| Some(value.to_vec())).map(|id| id.as_bytes().to_vec())
}

fn some(text: &str) -> Option<Vec<u8>> {
    Some(text.into())
}

// The id itself.

#[test]
fn an_id_has_1_to_512_bytes() {
    assert_eq!(SessionId::new(vec![]), None);
    assert!(SessionId::new(vec![b'a'; 1]).is_some());
    assert!(SessionId::new(vec![b'a'; MAX_SESSION_ID]).is_some());
    assert_eq!(SessionId::new(vec![b'a'; MAX_SESSION_ID + 1]), None);
}

#[test]
fn control_bytes_are_not_a_session() {
    for byte in (0x00..=0x1f).chain([0x7f]) {
        assert_eq!(SessionId::new(vec![b'a', byte, b'b']), None, "{byte:#x}");
    }
    assert_eq!(SessionId::new(b"abc\n".to_vec()), None);
}

#[test]
fn bytes_that_are_not_utf8_are_a_session() {
    for byte in 0x80..=0xff {
        assert!(SessionId::new(vec![byte]).is_some(), "{byte:#x}");
    }
}

#[test]
fn blanks_around_an_id_do_not_count() {
    let padded = [b" \t".repeat(300), b"a b".to_vec(), b" ".repeat(600)].concat();

    assert_eq!(SessionId::new(padded).unwrap().as_bytes(), b"a b");
    assert_eq!(SessionId::new(b" \t ".to_vec()), None);
}

#[test]
fn hash_is_that_of_envoy() {
    // XXH64 with seed 0; the two published test values that every implementation agrees on.
    assert_eq!(SessionId::new(b"a".to_vec()).unwrap().hash(), 0xd24e_c4f1_a98c_6e5b);
    assert_eq!(SessionId::new(b"abc".to_vec()).unwrap().hash(), 0x44bc_2cf5_ad77_0999);
}

#[test]
fn a_random_id_is_32_hex_digits() {
    let random = [0x00, 0x01, 0x0a, 0x10, 0x9f, 0xa0, 0xff, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0xde];

    assert_eq!(SessionId::from_random(random).as_bytes(), b"00010a109fa0ff7f00000000000000de");
}

#[test]
fn debug_does_not_give_the_id_away() {
    let id = SessionId::new(b"abc".to_vec()).unwrap();

    assert_eq!(format!("{id:?}"), "SessionId(#44bc2cf5)");
}

// The order of sources.

#[test]
fn first_non_empty_source_wins() {
    let request = Request::new([
        ("x-session-id", b"from-header"),
        ("cookie", b"sid=from-cookie"),
        (":path", b"/ws/from-path?sid=from-query"),
        ("sec-websocket-protocol", b"chat, session.from-subprotocol"),
    ]);
    let sources = demo_sources();
    let expected = ["from-header", "from-cookie", "from-path", "from-query", "from-subprotocol"];

    for (first, expected) in expected.into_iter().enumerate() {
        assert_eq!(request.session(&sources[first..]), some(expected));
    }
}

#[test]
fn a_source_without_a_usable_id_is_passed_over() {
    for unusable in [b"".as_slice(), b"  ", b"a\x00b", &[b'a'; MAX_SESSION_ID + 1]] {
        let request = Request::new([("x-session-id", unusable), ("cookie", b"sid=abc")]);
        assert_eq!(request.session(&demo_sources()), some("abc"));
    }
}

#[test]
fn no_source_and_no_header_mean_no_session() {
    let request = Request::new([]);

    assert_eq!(request.session(&[]), None);
    assert_eq!(request.session(&demo_sources()), None);
}

// How often a header is fetched.

#[test]
fn a_header_is_fetched_at_most_once() {
    let sources = [
        header("x-user"),
        composite([header("x-user"), cookie("tenant")]),
        composite([header("x-user"), header("x-tenant"), query("q")]),
        cookie("sid"),
        header("x-user"),
        header("x-tenant"),
        path("/ws/{session}"),
        cookie("other"),
        query("sid"),
        subprotocol("a."),
        subprotocol("b."),
    ];
    let all = ["x-user", "cookie", "x-tenant", ":path", "sec-websocket-protocol"];
    let requests = [
        Request::new([]),
        Request::new([("x-user", b""), ("x-tenant", b"\x01"), ("cookie", b"x=y"), (":path", b"/")]),
        Request::new([("x-user", b"\x01"), ("cookie", b"tenant=t"), (":path", b"/ws?q=1")]),
    ];

    for request in requests {
        assert_eq!(request.session(&sources), None);
        let mut fetched = request.fetched();
        fetched.sort();
        fetched.dedup();
        assert_eq!(fetched.len(), request.fetched().len(), "{:?}", request.fetched());
        assert!(fetched.iter().all(|name| all.contains(&name.as_str())));
    }
}

#[test]
fn a_header_kept_for_a_later_source_is_still_there() {
    let request = Request::new([("x-user", b"u"), ("cookie", b"sid=abc"), (":path", b"/?sid=q")]);

    let sources = [composite([header("x-user"), header("x-tenant")]), header("x-user")];
    assert_eq!(request.session(&sources), some("u"));
    assert_eq!(request.fetched(), ["x-user", "x-tenant"]);

    assert_eq!(request.session(&[cookie("none"), cookie("nor-this"), cookie("sid")]), some("abc"));
    assert_eq!(request.fetched(), ["cookie"]);

    assert_eq!(request.session(&[path("/ws/{session}"), query("sid")]), some("q"));
    assert_eq!(request.fetched(), [":path"]);
}

#[test]
fn nothing_is_fetched_after_the_first_usable_id() {
    let request = Request::new([("x-session-id", b"abc"), ("cookie", b"sid=x")]);

    request.session(&demo_sources());

    assert_eq!(request.fetched(), ["x-session-id"]);
}

#[test]
fn a_header_value_becomes_the_id_without_a_copy() {
    let value = b" abc ".to_vec();
    let address = value.as_ptr();
    let mut value = Some(value);

    let id = identify(&[header("x-session-id")], &mut |_| value.take()).unwrap();

    assert_eq!(id.as_bytes(), b"abc");
    assert_eq!(id.as_bytes().as_ptr(), address);
}

// Headers.

#[test]
fn a_header_gives_its_whole_value_without_surrounding_blanks() {
    assert_eq!(found(&header("x"), b" \tabc\t "), some("abc"));
    assert_eq!(found(&header("x"), b"a,b"), some("a,b"));
    assert_eq!(found(&header("x"), b"\"abc\""), some("\"abc\""));
    assert_eq!(found(&header("x"), b"%41"), some("%41"));
}

// Cookies.

#[test]
fn first_cookie_of_the_name_with_a_value_wins() {
    assert_eq!(found(&cookie("sid"), b"a=1; sid=; sid=\"\"; sid=x; sid=y"), some("x"));
    assert_eq!(found(&cookie("sid"), b"a=1; b=2"), None);
    assert_eq!(found(&cookie("sid"), b"sid=;sid= "), None);
}

#[test]
fn a_cookie_value_is_unquoted_and_trimmed_but_not_decoded() {
    assert_eq!(found(&cookie("sid"), b"sid=\"abc\""), some("abc"));
    assert_eq!(found(&cookie("sid"), b"  sid =  abc  "), some("abc"));
    assert_eq!(found(&cookie("sid"), b"sid=%41+b=="), some("%41+b=="));
    assert_eq!(found(&cookie("sid"), b"sid=\"abc"), some("\"abc"));
    assert_eq!(found(&cookie("sid"), b"sid=\""), some("\""));
}

#[test]
fn cookie_names_are_compared_exactly() {
    assert_eq!(found(&cookie("sid"), b"SID=a; xsid=b; sidx=c; sid.sig=d; s id=e"), None);
    assert_eq!(found(&cookie("sid"), b"x=sid=a; sid=b"), some("b"));
}

#[test]
fn a_cookie_ends_at_a_semicolon_and_nowhere_else() {
    assert_eq!(found(&cookie("sid"), b"sid=v=1,u=alice"), some("v=1,u=alice"));
    assert_eq!(found(&cookie("sid"), b"sid=\"v=1,u=alice\"; a=1"), some("v=1,u=alice"));
    assert_eq!(found(&cookie("sid"), b"prefs=a,sid=evil; sid=good"), some("good"));
    assert_eq!(found(&cookie("sid"), b"prefs={\"x\":1,\"sid\":2}; sid=good"), some("good"));
    assert_eq!(found(&cookie("sid"), b"a=1,sid=abc"), None);
}

#[test]
fn garbage_between_cookies_is_tolerated() {
    assert_eq!(found(&cookie("sid"), b";;; =; =x; \xff\xfe; a; ,,,=,; \"; sid=abc"), some("abc"));
    for garbage in [b"".as_slice(), b";", b"=", b",", b"sid", b"sid;", b"=sid", b"\x00", b"sid=\x00"] {
        assert_eq!(found(&cookie("sid"), garbage), None, "{}", garbage.escape_ascii());
    }
}

// Query parameters.

#[test]
fn first_query_parameter_of_the_name_with_a_value_wins() {
    assert_eq!(found(&query("sid"), b"/?a=1&sid=&sid&sid=x&sid=y"), some("x"));
    assert_eq!(found(&query("sid"), b"/?xsid=1&SID=2&sidx=3"), None);
    assert_eq!(found(&query("sid"), b"/?a?sid=1"), None);
    assert_eq!(found(&query("sid"), b"/sid=1"), None);
}

#[test]
fn every_source_takes_its_value_as_it_is_written() {
    let sources = [
        (header("x"), b"s%3Aab%2Fc".as_slice()),
        (cookie("sid"), b"sid=s%3Aab%2Fc"),
        (query("sid"), b"/?a=1&sid=s%3Aab%2Fc"),
        (path("/ws/{session}"), b"/ws/s%3Aab%2Fc"),
        (matrix("sid"), b"/ws;sid=s%3Aab%2Fc"),
        (subprotocol("sid."), b"sid.s%3Aab%2Fc"),
    ];
    for (source, value) in sources {
        assert_eq!(found(&source, value), some("s%3Aab%2Fc"), "{source}");
        assert_eq!(found(&decoded(source.clone()), value), some("s:ab/c"), "{source}");
    }
    assert_eq!(found(&query("sid"), b"/?sid=a+b"), some("a+b"));
    assert_eq!(found(&query("sid"), b"/?sid=a=b="), some("a=b="));
}

#[test]
fn names_and_values_are_percent_decoded_where_that_is_asked_for() {
    let sid = || decoded(query("sid"));
    assert_eq!(found(&sid(), b"/?s%69d=a%20b%26c"), some("a b&c"));
    assert_eq!(found(&decoded(query("a b")), b"/?a%20b=x"), some("x"));
    assert_eq!(found(&query("sid"), b"/?s%69d=x"), some("x"), "names in any case");
    assert_eq!(found(&sid(), b"/?sid=%ff"), Some(vec![0xff]));
    assert_eq!(found(&sid(), b"/?sid=a%zz%4"), some("a%zz%4"));
    assert_eq!(found(&sid(), b"/?sid=a+b"), some("a+b"));
}

#[test]
fn an_escaped_control_byte_is_not_a_session_once_it_is_decoded() {
    assert_eq!(found(&decoded(query("sid")), b"/?sid=a%00b"), None);
    assert_eq!(found(&decoded(query("sid")), b"/?sid=a%0d%0aset-cookie:x"), None);
    assert_eq!(found(&decoded(path("/{session}")), b"/a%7f"), None);
    assert_eq!(found(&query("sid"), b"/?sid=a%00b"), some("a%00b"));
}

#[test]
fn length_counts_after_decoding() {
    let value = |length| [b"/?sid=".to_vec(), b"%41".repeat(length)].concat();
    let sid = decoded(query("sid"));

    assert_eq!(found(&sid, &value(MAX_SESSION_ID)).unwrap().len(), MAX_SESSION_ID);
    assert_eq!(found(&sid, &value(MAX_SESSION_ID + 1)), None);
}

// The end of an id.

#[test]
fn an_id_may_end_before_a_suffix() {
    let sources = [
        (header("x"), b"ABC.node1".as_slice()),
        (cookie("JSESSIONID"), b"a=1; JSESSIONID=ABC.node2"),
        (matrix("jsessionid"), b"/shop/cart;jsessionid=ABC.node3?x=1"),
        (query("jsessionid"), b"/shop?jsessionid=ABC"),
    ];
    for (source, value) in sources {
        assert_eq!(found(&until(source.clone(), "."), value), some("ABC"), "{source}");
    }
    assert_eq!(found(&until(cookie("sid"), "--"), b"sid=a-b--c--d"), some("a-b"));
    assert_eq!(found(&until(cookie("sid"), "."), b"sid=.node1"), None);
    let both = cookie("sid").read_as(Reading { decode: true, until: Some(".".into()) });
    assert_eq!(found(&both, b"sid=a%41%2Enode1"), some("aA"));
}

#[test]
fn a_matrix_parameter_is_found_in_any_segment() {
    assert_eq!(found(&matrix("sid"), b"/a;x=1;sid=abc;y=2/b"), some("abc"));
    assert_eq!(found(&matrix("sid"), b"/a/b;sid=abc?sid=no"), some("abc"));
    assert_eq!(found(&matrix("sid"), b"/a;sid=/b;sid=abc"), some("abc"));
    assert_eq!(found(&matrix("sid"), b"http://host/a;sid=abc#x"), some("abc"));
    for none in [b"/a?b;sid=abc".as_slice(), b"/sid=abc", b"/a;SID=abc", b"/a;xsid=abc", b"/a;sid", b";", b""]
    {
        assert_eq!(found(&matrix("sid"), none), None, "{}", none.escape_ascii());
    }
}

// Headers in several lines.

#[test]
fn all_lines_of_a_list_are_looked_at_if_the_first_has_no_id() {
    let lines = |name: &str| match name {
        "cookie" => Some(b"a=1; sid=abc".to_vec()),
        "sec-websocket-protocol" => Some(b"chat, session.xyz".to_vec()),
        _ => panic!("{name} is no list"),
    };
    let first = |name: &str| match name {
        "cookie" => Some(b"a=1".to_vec()),
        "sec-websocket-protocol" => Some(b"chat".to_vec()),
        _ => None,
    };
    let found = |sources: &[Source]| {
        let asked = RefCell::new(Vec::new());
        let mut all = |name: &str| {
            asked.borrow_mut().push(name.to_owned());
            lines(name)
        };
        let id = match find(sources, &mut |name| first(name), &mut all, &mut |_| Token::Absent) {
            Found::Session(id, ..) => Some(id.as_bytes().to_vec()),
            _ => None,
        };
        (id, asked.take())
    };

    assert_eq!(found(&[cookie("sid")]), (some("abc"), vec!["cookie".to_owned()]));
    assert_eq!(found(&[cookie("none"), cookie("sid")]), (some("abc"), vec!["cookie".to_owned()]), "once");
    assert_eq!(found(&[subprotocol("session.")]).0, some("xyz"));
    assert_eq!(found(&[composite([cookie("a"), cookie("sid")])]).0, some("1:13:abc"));
    assert_eq!(found(&[cookie("a")]), (some("1"), vec![]), "the first is enough");
    assert_eq!(found(&[header("x"), query("sid")]), (None, vec![]), "no lists");
}

#[test]
fn a_query_ends_at_a_fragment() {
    assert_eq!(found(&query("sid"), b"/?sid=abc#sid"), some("abc"));
    assert_eq!(found(&query("sid"), b"/#?sid=abc"), None);
}

#[test]
fn an_absolute_target_is_read_like_its_path() {
    assert_eq!(found(&path("/ws/{session}"), b"http://host/ws/abc?x=1"), some("abc"));
    assert_eq!(found(&query("sid"), b"https://host:8443?sid=abc"), some("abc"));
    assert_eq!(found(&path("/ws/{session}"), b"http://ws/abc"), None);
}

// Paths; the matching itself is tested in `template`.

#[test]
fn a_path_segment_is_found() {
    assert_eq!(found(&path("/ws/{session}"), b"/ws/abc"), some("abc"));
    assert_eq!(found(&path("/ws/{session}"), b"/ws/a%20b/more?x=1"), some("a%20b"));
    assert_eq!(found(&path("/ws/{session}"), b"/ws/?x=abc"), None);
    assert_eq!(found(&path("/ws/{session}"), b"/wsx/abc"), None);
    assert_eq!(found(&path("/ws/{session}"), b"*"), None);
}

// Subprotocols.

#[test]
fn first_subprotocol_with_the_prefix_and_more_wins() {
    assert_eq!(found(&subprotocol("session."), b"chat, session.,session.abc , session.x"), some("abc"));
    assert_eq!(found(&subprotocol("session."), b"chat, SESSION.abc, xsession.abc"), None);
    assert_eq!(found(&subprotocol("session."), b",, ,\xff,session"), None);
}

// Composites.

#[test]
fn a_composite_needs_every_part() {
    let sources = [composite([header("x-tenant"), cookie("sid")])];

    let both = Request::new([("x-tenant", b"acme"), ("cookie", b"sid=abc")]);
    assert_eq!(both.session(&sources), some("4:acme3:abc"));

    assert_eq!(Request::new([("x-tenant", b"acme")]).session(&sources), None);
    assert_eq!(Request::new([("cookie", b"sid=abc")]).session(&sources), None);
    assert_eq!(Request::new([("x-tenant", b"acme"), ("cookie", b"sid=a\x01")]).session(&sources), None);
}

#[test]
fn a_composite_keeps_its_parts_apart() {
    let sources = [composite([query("a"), query("b")])];
    let session = |target: &[u8]| Request::new([(":path", target)]).session(&sources);

    assert_ne!(session(b"/?a=a&b=bc"), session(b"/?a=ab&b=c"));
    assert_ne!(session(b"/?a=1&b=2"), session(b"/?a=2&b=1"));
    assert_ne!(session(b"/?a=x1:y&b=z"), session(b"/?a=x&b=y1:z"));
}

#[test]
fn a_composite_longer_than_an_id_is_not_a_session() {
    let sources = [composite([header("x-a"), header("x-b")])];
    let session = |length: usize| {
        let part = vec![b'a'; length];
        Request::new([("x-a", &part), ("x-b", &part)]).session(&sources)
    };

    assert_eq!(session(252).unwrap().len(), MAX_SESSION_ID);
    assert_eq!(session(253), None);
}

// Words.

#[test]
fn sources_are_described_in_words() {
    assert_eq!(describe(&[]), "");
    assert_eq!(describe(&[cookie("sid")]), "cookie sid");
    assert_eq!(
        describe(&demo_sources()),
        "header x-session-id, cookie sid, path /ws/{session}, query parameter sid or subprotocol session.<id>"
    );
    assert_eq!(
        describe(&[composite([header("x-tenant"), cookie("sid")]), header(":authority")]),
        "header x-tenant + cookie sid or header :authority"
    );
}

/// A cookie of another domain or path may stand before ours, and no one but its own server can take it back.
#[test]
fn of_several_cookies_of_one_name_the_signed_one_counts() {
    let signer = Signer::new("sid", &[vec![7; 32]]).unwrap();
    let mine = String::from_utf8(signer.sign([1; 16]).as_bytes().to_vec()).unwrap();
    let sources = [Source::cookie("sid").unwrap().signed_by("sid", &signer), Source::cookie("room").unwrap()];
    let forged = "0".repeat(64);
    let found = |lines: &[&str]| {
        let one =
            |name: &str| (name == "cookie").then(|| lines.first().map(|line| line.as_bytes().to_vec()))?;
        let all = |name: &str| (name == "cookie" && lines.len() > 1).then(|| lines.join("; ").into_bytes());
        match find(&sources[..1], &mut { one }, &mut { all }, &mut |_| Token::Absent) {
            Found::Session(id, ..) => Some(String::from_utf8(id.as_bytes().to_vec()).unwrap()),
            _ => None,
        }
    };

    for lines in [
        &[&*format!("sid={mine}")][..],
        &[&format!("sid=junk; sid={mine}")],
        &[&format!("sid={forged}; a=b; sid=\"{mine}\"; sid={forged}")],
        &["sid=junk", &format!("sid={mine}")],
        &["a=b", &format!("sid={forged}; sid={mine}")],
    ] {
        assert_eq!(found(lines).as_ref(), Some(&mine), "{lines:?}");
    }
    assert_eq!(found(&[&format!("sid={forged}; sid=junk")]), None);
    // What is tried is bounded.
    let many = format!("{}sid={mine}", format!("sid={forged}; ").repeat(16));
    assert_eq!(found(&[&many]), None);
    // A later source gets the header all the same.
    let mut header = |name: &str| (name == "cookie").then(|| b"sid=junk; room=7".to_vec());
    assert_eq!(identify(&sources, &mut header).unwrap().as_bytes(), b"7");
}

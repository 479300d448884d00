//! What holds for session identity whatever a client sends.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use berth_core::session::{
    CookieSettings, CookieTemplate, MAX_SESSION_ID, Reading, SessionId, Source, identify,
};

/// Every kind of source, and composites of them.
fn every_kind() -> Vec<Source> {
    let composite = |parts: &[&Source]| Source::composite(parts.iter().copied().cloned().collect()).unwrap();
    let header = Source::header("x-session-id").unwrap();
    let authority = Source::header(":authority").unwrap();
    let cookie = Source::cookie("sid").unwrap();
    let path = Source::path("/ws/{session}").unwrap();
    let deep_path = Source::path("/t/*/{session}/end").unwrap();
    let query = query_of("sid");
    let subprotocol = Source::subprotocol("session.").unwrap();
    let matrix = Source::matrix("sid").unwrap();
    let shaped = [&header, &cookie, &path, &query, &matrix]
        .map(|source| source.clone().read_as(Reading { decode: true, until: Some(".".to_owned()) }));
    let composites = [
        composite(&[&header, &cookie]),
        composite(&[&path, &query]),
        composite(&[&authority, &deep_path, &query_of("b"), &subprotocol]),
    ];
    let plain = [header, authority, cookie, path, deep_path, query, matrix, subprotocol];
    plain.into_iter().chain(composites).chain(shaped).collect()
}

fn query_of(name: &str) -> Source {
    Source::query(name).unwrap()
}

fn found(sources: &[Source], value: &[u8]) -> Option<Vec<u8>> {
    identify(sources, &mut |_| Some(value.to_vec())).map(|id| id.as_bytes().to_vec())
}

fn assert_clean(id: &[u8]) {
    assert!((1..=MAX_SESSION_ID).contains(&id.len()), "{} bytes", id.len());
    assert!(!id.iter().any(u8::is_ascii_control), "{}", id.escape_ascii());
}

/// Bytes that are likely to get far into a parser: its own vocabulary, mixed with noise.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(
        [
            "sid", "sid=", "=", ";", "; ", ",", "\"", "/", "/ws/", "/t/", "?", "&", "#", "%", "%2", "%00",
            "%41", "%zz", "http://", "session.", " ", "\t", "a", "b=", "\u{e9}",
        ]
        .map(|word| word.as_bytes().to_vec())
        .to_vec(),
    );
    vec(prop_oneof![9 => words, 1 => vec(any::<u8>(), 0..4)], 0..40).prop_map(|words| words.concat())
}

/// Bytes that are an id as they stand.
fn id_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..MAX_SESSION_ID).prop_filter_map("not fit to be an id", |mut bytes| {
        bytes.retain(|byte| !byte.is_ascii_control());
        SessionId::new(bytes).map(|id| id.as_bytes().to_vec())
    })
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #[test]
    fn any_bytes_in_any_header_give_a_clean_id_or_none(
        value in prop_oneof![vec(any::<u8>(), 0..2000), likely_bytes()]
    ) {
        for source in every_kind() {
            if let Some(id) = found(&[source], &value) {
                assert_clean(&id);
            }
        }
    }

    #[test]
    fn any_text_makes_a_source_or_an_error(text in any::<String>()) {
        for made in [
            Source::header(&text),
            Source::cookie(&text),
            Source::query(&text),
            Source::path(&text),
            Source::path(&format!("/{text}/{{session}}")),
            Source::matrix(&text),
            Source::subprotocol(&text),
        ] {
            match made {
                Ok(source) => prop_assert!(!source.to_string().contains(char::is_control)),
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
        }
    }

    #[test]
    fn the_first_source_with_an_id_decides(
        values in vec(prop::option::of(likely_bytes()), 5),
        order in Just((0..every_kind().len()).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let names = ["x-session-id", ":authority", "cookie", ":path", "sec-websocket-protocol"];
        let headers = names.into_iter().zip(values).collect::<BTreeMap<_, _>>();
        let kinds = every_kind();
        let sources = order.iter().map(|index| kinds[*index].clone()).collect::<Vec<_>>();
        let fetched = RefCell::new(Vec::new());
        let mut header = |name: &str| {
            fetched.borrow_mut().push(name.to_owned());
            headers.get(name).cloned().flatten()
        };

        let together = identify(&sources, &mut header);
        let mut names = fetched.take();
        let fetches = names.len();
        names.sort();
        names.dedup();

        prop_assert_eq!(fetches, names.len(), "a header was fetched twice");
        let alone = sources.chunks(1).find_map(|source| identify(source, &mut header));
        prop_assert_eq!(together, alone);
    }

    #[test]
    fn an_encoded_id_is_found_again(id in id_bytes()) {
        let encoded = percent_encoded(&id);
        let query = format!("/?a=1&sid={encoded}&b=2");
        let path = format!("/ws/{encoded}/more");

        let decoded = |source: Source| [source.read_as(Reading { decode: true, until: None })];

        prop_assert_eq!(found(&decoded(query_of("sid")), query.as_bytes()), Some(id.clone()));
        let template = Source::path("/ws/{session}").unwrap();
        prop_assert_eq!(found(&decoded(template), path.as_bytes()), Some(id.clone()));
        prop_assert_eq!(found(&[Source::header("x-session-id").unwrap()], &id), Some(id.clone()));
    }

    #[test]
    fn one_text_cut_in_two_places_is_two_composites(text in "[0-9:a]{3,12}", cuts in vec(1..12_usize, 2)) {
        let composite = Source::composite(vec![query_of("a"), query_of("b")]).unwrap();
        let cuts = cuts.into_iter().map(|cut| cut.min(text.len() - 1)).collect::<Vec<_>>();
        let session = |cut| {
            let (one, other) = text.split_at(cut);
            found(std::slice::from_ref(&composite), format!("/?a={one}&b={other}").as_bytes())
        };

        prop_assert!(session(cuts[0]).is_some());
        prop_assert_eq!(session(cuts[0]) == session(cuts[1]), cuts[0] == cuts[1]);
    }

    #[test]
    fn a_cookie_that_is_set_comes_back_or_is_not_set(id in prop_oneof![id_bytes(), "[!-~]{1,40}".prop_map(Vec::from)]) {
        let template = CookieTemplate::new(&CookieSettings::named("sid")).unwrap();
        let id = SessionId::new(id).unwrap();

        if let Some(cookie) = template.set_cookie(&id) {
            let pair = cookie.split(|byte| *byte == b';').next().unwrap();
            let header = [b"theme=dark; ".as_slice(), pair, b"; lang=en"].concat();
            prop_assert_eq!(found(&[Source::cookie("sid").unwrap()], &header), Some(id.as_bytes().to_vec()));
        }
    }

    #[test]
    fn a_random_id_is_an_id(random in any::<[u8; 16]>()) {
        let id = SessionId::from_random(random);
        prop_assert_eq!(SessionId::new(id.as_bytes().to_vec()), Some(id));
    }
}

#[test]
fn values_of_64_kib_are_read_to_the_end() {
    let filler = [b"a".as_slice(), b"%41", b",", b";", b"/", b"&", b"=", b" ", b"\"", b"%", b"a=b,", b"\xff"];

    for filler in filler {
        let value = filler.repeat(65_536 / filler.len());
        for source in every_kind() {
            if let Some(id) = found(&[source], &value) {
                assert_clean(&id);
            }
        }
        let cookies = [value.as_slice(), b"; sid=abc"].concat();
        assert_eq!(found(&[Source::cookie("sid").unwrap()], &cookies), Some(b"abc".to_vec()));
        let target = [b"/?".as_slice(), &value, b"&sid=abc"].concat();
        assert_eq!(found(&[query_of("sid")], &target), Some(b"abc".to_vec()));
    }
}

#[test]
fn a_cookie_is_found_behind_a_thousand_others() {
    let others = (0..1000).map(|number| format!("sid{number}={number}")).collect::<Vec<_>>();

    let header = format!("{}; sid=abc", others.join("; "));
    assert_eq!(found(&[Source::cookie("sid").unwrap()], header.as_bytes()), Some(b"abc".to_vec()));
}

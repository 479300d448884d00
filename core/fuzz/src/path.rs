//! The sessions of request targets: in a segment, a parameter of the query, or a parameter of a segment.
//!
//! The first line is a template, the second the name of a parameter, the third where an id ends; the rest is the target.

use std::borrow::Cow;

use berth_core::session::{Reading, SessionId, Source, identify};

use super::session::check_id;

/// Finds the session at each place, read in each way; and finds it again where it would be put.
pub fn check(input: &[u8]) {
    let mut lines = input.splitn(4, |byte| *byte == b'\n');
    let mut text = || String::from_utf8_lossy(lines.next().unwrap_or_default());
    let (template, name, until) = (text(), text(), text());
    let target = lines.next().unwrap_or_default();

    let places = [Source::path(&template), Source::query(&name), Source::matrix(&name)];
    let until = Some(until.into_owned()).filter(|until| !until.is_empty());
    for (place, source) in places.into_iter().enumerate() {
        let Ok(source) = source else { continue };
        assert!(!source.to_string().is_empty());
        for (decode, until) in [(false, None), (true, None), (false, until.clone()), (true, until.clone())] {
            let source = [source.clone().read_as(Reading { decode, until: until.clone() })];
            let Some(id) = session(&source, target) else { continue };
            check_id(&id);
            check_target(&source, target, &id);
            let bytes = id.as_bytes();
            if !decode {
                assert!(target.windows(bytes.len()).any(|part| part == bytes), "an id is part of the target");
            }
            if let Some(until) = &until {
                let ends = bytes.windows(until.len()).any(|part| part == until.as_bytes());
                assert!(!ends, "an id ends before {until:?}");
            }
            if decode && until.is_none() {
                let put = put(place, &template, &name, bytes);
                assert_eq!(session(&source, &put).as_ref(), Some(&id), "an id survives a trip in a target");
            }
        }
    }
}

fn session(source: &[Source], target: &[u8]) -> Option<SessionId> {
    identify(source, &mut |header| {
        assert_eq!(header, ":path");
        Some(target.to_vec())
    })
}

/// What says nothing of the session changes nothing.
fn check_target(source: &[Source], target: &[u8], id: &SessionId) {
    let with_fragment = [target, b"#/x;sid=x?sid=x"].concat();
    assert_eq!(session(source, &with_fragment).as_ref(), Some(id), "a fragment is no part of a target");
    if target.starts_with(b"/") {
        let absolute = [b"http://example.com:80", target].concat();
        assert_eq!(session(source, &absolute).as_ref(), Some(id), "an absolute target has the same session");
    }
}

/// A target with this id at this place.
fn put(place: usize, template: &str, name: &str, id: &[u8]) -> Vec<u8> {
    let id = escaped(id);
    match place {
        0 => template.replace('*', "any").replace("{session}", &id).into_bytes(),
        1 => format!("/?{}={id}", escaped(name.as_bytes())).into_bytes(),
        _ => format!("/a;{name}={id}/b").into_bytes(),
    }
}

/// All of it, so that nothing of it means anything.
fn escaped(bytes: &[u8]) -> Cow<'static, str> {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect::<String>().into()
}

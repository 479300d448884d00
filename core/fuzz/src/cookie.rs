//! What a response may set as a cookie: the id that is learned is the one that its client sends from then on.
//!
//! The input reads like a response: a header a line, `name: value`. Lines that begin with `template-` are the settings of an
//! issued cookie: `template-name`, `template-path`, `template-domain`, `template-max-age`, `template-same-site`,
//! `template-flags`.

use berth_core::attributes::ResponseHeaders;
use berth_core::session::{
    CookieSettings, CookieTemplate, LearnSource, Reading, SameSite, SessionId, Source, identify, learn,
};
use berth_core::time::Millis;

use super::session::{Request, check_id};

/// The ends of time, and a moment between.
const TIMES: [Millis; 3] = [Millis(0), Millis(1_800_000_000_000), Millis(u64::MAX)];

/// Learns from the response, and issues the cookie that it describes.
pub fn check(input: &[u8]) {
    let response = Response(Request::parse(input));
    check_learned(&response);
    let settings = response.settings();
    let template = CookieTemplate::new(&settings);
    assert_eq!(template.is_ok(), settings.deletion().is_ok(), "what can be set can be deleted");
    match template {
        Ok(template) => check_issued(&template, &settings, &response),
        Err(faults) => assert!(!faults.is_empty(), "what is wrong has a reason"),
    }
}

fn check_learned(response: &Response<'_>) {
    let decoded = Reading { decode: true, until: Some(".".to_owned()) };
    let sources = [
        Source::cookie("sid").unwrap(),
        Source::cookie("sid").unwrap().read_as(decoded),
        Source::header("x-session").unwrap(),
    ];
    for source in &sources {
        let of = [LearnSource::of(source).unwrap()];
        let learned = TIMES.map(|now| learn(&of, response, &|| now));
        learned.iter().flatten().for_each(check_id);
        assert!(
            learned.windows(2).all(|pair| pair[0].is_some() || pair[1].is_none()),
            "a cookie that is kept later is kept now"
        );
        for id in learned.iter().flatten() {
            let cookies = response.set_cookies();
            let sent = cookies.iter().map(|line| line.split(|byte| *byte == b';').next().unwrap().to_vec());
            let sent = sent.chain(response.response_header("x-session"));
            let found = sent.map(|pair| identify(std::slice::from_ref(source), &mut |_| Some(pair.clone())));
            assert!(found.flatten().any(|found| found == *id), "what is learned is what the client sends");
        }
    }
}

fn check_issued(template: &CookieTemplate, settings: &CookieSettings, response: &Response<'_>) {
    let learned = [LearnSource::of(&Source::cookie(template.name()).unwrap()).unwrap()];
    let deletion = settings.deletion().unwrap().into_string().into_bytes();
    let deleted = Response(Request { headers: vec![(b"set-cookie", &deletion)] });
    assert!(template.may_be_set_by(&deletion), "a deletion is of the same cookie");
    assert_eq!(learn(&learned, &deleted, &|| Millis(0)), None, "a deletion begins nothing");

    let ids = [response.response_header("x-session").and_then(SessionId::new)].into_iter().flatten();
    for id in ids.chain([SessionId::from_random([0xa5; 16])]) {
        let Some(line) = template.set_cookie(&id) else {
            assert!(!id.looks_random(), "an id that Berth made fits any cookie");
            continue;
        };
        assert!(!line.iter().any(u8::is_ascii_control), "a header holds no control byte");
        let attributes = line.split(|byte| *byte == b';').count();
        let expected =
            deletion.split(|byte| *byte == b';').count() - usize::from(settings.max_age_seconds.is_none());
        assert_eq!(attributes, expected, "an id adds no attribute");
        assert!(template.may_be_set_by(&line));
        let set = Response(Request { headers: vec![(b"set-cookie", &line)] });
        for now in TIMES {
            assert_eq!(learn(&learned, &set, &|| now).as_ref(), Some(&id), "what is issued comes back");
        }
    }
    for line in response.set_cookies() {
        let name = line.split(|byte| *byte == b'=' || *byte == b';').next().unwrap().trim_ascii();
        assert!(
            !template.may_be_set_by(&line) || name == template.name().as_bytes(),
            "a cookie of another name"
        );
    }
    if let Some(domain) = &settings.domain {
        let host = domain.trim_start_matches('.').to_ascii_lowercase();
        assert_eq!(template.domain_without(&host), None, "a host may set cookies of its own name");
    }
}

struct Response<'i>(Request<'i>);

impl Response<'_> {
    fn settings(&self) -> CookieSettings {
        let text =
            |name: &str| self.response_header(name).map(|value| String::from_utf8_lossy(&value).into_owned());
        let flags = text("template-flags").unwrap_or_default();
        let default = CookieSettings::named(&text("template-name").unwrap_or_else(|| "sid".to_owned()));
        CookieSettings {
            path: text("template-path").unwrap_or_else(|| default.path.clone()),
            domain: text("template-domain"),
            max_age_seconds: text("template-max-age").and_then(|seconds| seconds.parse().ok()),
            secure: flags.contains("secure"),
            http_only: !flags.contains("scripts"),
            same_site: match text("template-same-site").as_deref() {
                Some("strict") => SameSite::Strict,
                Some("none") => SameSite::None,
                _ => SameSite::Lax,
            },
            partitioned: flags.contains("partitioned"),
            ..default
        }
    }
}

impl ResponseHeaders for Response<'_> {
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.values(name).next().map(<[u8]>::to_vec)
    }

    fn set_cookies(&self) -> Vec<Vec<u8>> {
        self.0.values("set-cookie").map(<[u8]>::to_vec).collect()
    }
}

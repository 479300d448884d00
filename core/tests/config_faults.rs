//! Configurations as people write them: the right ones are read as meant, the wrong ones get exactly the faults that
//! `testdata/config/bad` lists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use berth_core::config::{
    Affinity, Config, Guard, JwtProvider, Membership, Missing, OnInvalid, OnPanic, OnVanish, RemoteKeys,
    StateCluster, Superseded, Verification,
};
use berth_core::pins::Limits;
use berth_core::ring::{Algorithm, RingSize};
use berth_core::rollout::{Mode, Rollout};
use berth_core::session::{LearnSource, Reading, Source, describe};
use berth_core::time::Millis;
use berth_core::token::{self, Policy};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(name)
}

/// The names, without it, of the files that end like this.
fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn faults(json: &[u8]) -> Vec<String> {
    Config::parse(json).map_or_else(|faults| faults.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

fn good(name: &str) -> Config {
    let json = fs::read(folder("good").join(name).with_extension("json")).unwrap();
    Config::parse(&json).unwrap_or_else(|faults| panic!("{name}: {faults:#?}"))
}

#[test]
fn each_bad_configuration_gets_exactly_its_faults() {
    let folder = folder("bad");
    let update = std::env::var_os("UPDATE").is_some();
    let names = stems(&folder, "json");
    assert!(names.len() >= 20, "{} has only {} files", folder.display(), names.len());

    let mut wrong = Vec::new();
    for name in &names {
        let found = faults(&fs::read(folder.join(name).with_extension("json")).unwrap());
        assert!(!found.is_empty(), "{name}.json has no fault: it belongs to good/");
        let found = found.join("\n") + "\n";
        let expected = folder.join(name).with_extension("faults");
        if update {
            fs::write(expected, found).unwrap();
        } else if fs::read_to_string(expected).unwrap_or_default() != found {
            wrong.push(format!("{name}.json has these faults:\n{found}"));
        }
    }

    assert_eq!(stems(&folder, "faults"), names, "each .json has a .faults and the other way round");
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes them down: read the diff", wrong.join("\n"));
}

#[test]
fn no_fault_is_told_twice_and_each_is_one_line() {
    let folder = folder("bad");
    for name in stems(&folder, "json") {
        let found = faults(&fs::read(folder.join(&name).with_extension("json")).unwrap());

        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "{name}: {found:#?}");
        assert!(found.iter().all(|fault| !fault.contains(char::is_control)), "{name}: {found:#?}");
    }
}

#[test]
fn every_good_configuration_is_taken() {
    let names = stems(&folder("good"), "json");
    assert!(names.len() >= 8, "only {} files", names.len());

    names.iter().for_each(|name| drop(good(name)));
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = good("minimal");
    let pool = &config.pools[0];

    assert_eq!(config.admin_cluster, "berth_admin");
    assert_eq!(config.poll_interval, Millis(1000));
    assert!(!config.debug_header);
    assert_eq!(config.guard, Guard::Filter);
    assert_eq!(config.state, None);
    assert!(config.rules[0].matches.is_everything());
    assert!(matches!(&pool.membership, Membership::Cluster(cluster) if cluster == "nodes"));
    assert!(matches!(pool.session.missing, Missing::Pass));
    assert_eq!(pool.algorithm, Algorithm::RingHash(RingSize::VirtualNodes(512)));
    assert_eq!(pool.on_panic, OnPanic::IgnoreHealth);
    assert_eq!(pool.health.cooldown, Millis(30_000));
    assert_eq!(pool.health.max_cooldown, Millis(300_000));
    assert_eq!(pool.health.warm_up, Millis(30_000));
    assert_eq!(pool.health.warm_up_from_percent, 10);
    assert_eq!(pool.health.passive_failures, 3);
    assert_eq!(pool.health.panic_threshold, 50);
    assert_eq!(pool.health.panic_hold, Millis(5000));
    assert_eq!(pool.health.vanish_grace, Millis(10_000));
    assert_eq!(pool.on_vanish, OnVanish::Reroute);
    assert!(!pool.end_header);
}

#[test]
fn what_is_said_is_what_is_read() {
    let config = good("every-field");
    let pool = &config.pools[0];

    assert_eq!(config.admin_cluster, "envoy_admin");
    assert_eq!(config.poll_interval, Millis(2000));
    assert!(config.debug_header);
    assert_eq!(config.guard, Guard::Listener);
    assert!(pool.end_header);
    let state = StateCluster {
        cluster: "berth_state".to_owned(),
        host: "berth.example.com".to_owned(),
        timeout: Millis(80),
        max_calls: 16,
        token: Some("Zm9v.~!bar=".to_owned()),
        pins: Limits { entries: 50_000, bytes: 4_000_000, ..Limits::default() },
    };
    assert_eq!(config.state, Some(state));
    assert!(
        config.rules[0].matches.takes_host(b"EU.games.example.com:443")
            && config.rules[0].matches.takes_host(b"[::1]:80")
    );
    assert!(!config.rules[0].matches.takes_host(b"example.com"));
    assert!(config.rules[0].matches.takes_path(b"/ws/1") && !config.rules[0].matches.takes_path(b"/other"));
    assert!(
        config.rules[0].matches.takes_cluster(b"games") && !config.rules[0].matches.takes_cluster(b"game")
    );
    assert_eq!(
        describe(&pool.session.sources),
        "header x-session-id, cookie sid, path /tenants/*/games/{session}, query parameter sid, \
         subprotocol session.<id> or header x-tenant + query parameter user"
    );
    assert!(matches!(pool.session.missing, Missing::IssueCookie(_)));
    assert_eq!(pool.algorithm, Algorithm::RingHash(RingSize::Envoy { minimum: 2048, maximum: 4096 }));
    assert_eq!(pool.health.cooldown, Millis(45_000));
    assert_eq!(pool.health.max_cooldown, Millis(600_000));
    assert_eq!(pool.health.warm_up, Millis(60_000));
    assert_eq!(pool.health.warm_up_from_percent, 5);
    assert_eq!(pool.health.passive_failures, 4);
    assert_eq!(pool.health.panic_threshold, 40);
    assert_eq!(pool.health.panic_hold, Millis(2500));
    assert_eq!(pool.on_panic, OnPanic::Reject);
    assert_eq!(pool.health.vanish_grace, Millis(20_000));
    assert_eq!(pool.on_vanish, OnVanish::Reject);
}

#[test]
fn rules_say_who_is_served_how_firmly_and_how_far() {
    let config = good("rules");
    let [health, premium, tenant, canary, rest] = &config.rules[..] else { panic!("{:#?}", config.rules) };

    assert_eq!(
        (health.affinity, premium.affinity, rest.affinity),
        (Affinity::Off, Affinity::Strict, Affinity::Prefer)
    );
    assert_eq!((premium.pool, tenant.pool), (0, 1));
    let tier = &premium.matches.headers[0];
    assert_eq!(tier.name, "x-tier");
    assert!(tier.takes(Some(b"gold")) && !tier.takes(Some(b"golden")) && !tier.takes(None));
    let prefix = &tenant.matches.headers[0];
    assert!(prefix.takes(Some(b"a-1")) && !prefix.takes(Some(b"b-1")));
    assert!(canary.matches.headers[0].takes(Some(b"")) && !canary.matches.headers[0].takes(None));
    assert_eq!(describe(&premium.session.sources), "header x-session-id");
    assert!(matches!(premium.session.missing, Missing::Reject));
    assert_eq!(describe(&rest.session.sources), "cookie sid");
    assert_eq!(canary.rollout, Rollout { mode: Mode::Observe, percent: 100 });
    assert_eq!(rest.rollout, Rollout { mode: Mode::Enforce, percent: 10 });
    assert!(config.rules.iter().all(|rule| rule.is_named));
}

#[test]
fn a_session_says_how_long_it_lives_and_what_it_was() {
    let session = &good("jwt-sources").pools[0].session.clone();

    assert_eq!((session.ttl, session.max_age), (Some(Millis(900_000)), Some(Millis(43_200_000))));
    assert_eq!(session.superseded, Superseded::Reject);
    assert_eq!(session.previous_header.as_deref(), Some("x-previous-session"));
    assert_eq!(describe(&session.sources), "token of players, token of mesh or cookie sid");
    let session = &good("minimal").pools[0].session.clone();
    assert_eq!((session.ttl, session.max_age, session.superseded), (None, None, Superseded::Accept));
}

#[test]
fn the_sources_with_learn_are_also_places_in_responses() {
    let session = &good("learned-ids").pools[0].session.clone();

    let until = Reading { decode: false, until: Some(".".to_owned()) };
    let cookie = Source::cookie("JSESSIONID").unwrap().read_as(until.clone());
    let places = [Source::header("mcp-session-id").unwrap(), cookie];
    let places: Vec<LearnSource> = places.iter().map(|source| LearnSource::of(source).unwrap()).collect();
    assert_eq!((session.sources.len(), &session.learned), (5, &places));
    assert_eq!(session.sources[2], Source::matrix("jsessionid").unwrap().read_as(until));
    let decoded = Reading { decode: true, until: None };
    assert_eq!(session.sources[4], Source::query("sid").unwrap().read_as(decoded));
}

#[test]
fn without_rules_each_pool_is_one() {
    let config = good("several-pools");

    let rules = config.rules.iter().map(|rule| (rule.name.as_str(), rule.pool, rule.is_named));
    let pools = config.pools.iter().enumerate().map(|(index, pool)| (pool.name.as_str(), index, false));
    assert!(rules.eq(pools));
    assert!(
        config
            .rules
            .iter()
            .all(|rule| rule.rollout == Rollout::default() && rule.affinity == Affinity::Prefer)
    );
}

#[test]
fn a_state_cluster_needs_no_more_than_its_name() {
    let state = good("state-cluster").state.unwrap();

    assert_eq!((state.cluster.as_str(), state.timeout), ("berth_state", Millis(50)));
    assert_eq!(state.host, "berth_state");
    assert_eq!((state.max_calls, state.token, state.pins), (96, None, Limits::default()));
}

#[test]
fn a_token_is_neither_in_debug_output_nor_in_a_fault() {
    let shown = format!("{:?}", good("every-field"));
    assert!(shown.contains("berth_state") && !shown.contains("Zm9v"), "{shown}");

    for token in ["\"Zm9v \"", "\"Zm9v\u{e9}\"", "7365", "[\"Zm9v\"]", "\"\""] {
        let json = format!(r#"{{"v": 1, "state": {{"cluster": "s", "token": {token}}}, "pools": []}}"#);

        let found = faults(json.as_bytes());

        assert_eq!(
            found.first().map(String::as_str),
            Some("state.token: must be a string of visible ASCII characters without spaces"),
        );
    }
}

#[test]
fn each_provider_is_read_as_meant() {
    let providers = good("jwt-providers").jwt_providers;
    let [players, guests, set, published, upstream] = providers.as_slice() else { panic!("{providers:?}") };

    let token = |name: &str| {
        token::find(&players.from, &mut |asked| (asked == name).then(|| b"Bearer x".to_vec()), &mut |_| None)
    };
    assert_eq!(token("authorization").as_deref(), Some(b"x".as_slice()));
    assert_eq!(token("x-token").as_deref(), Some(b"Bearer x".as_slice()));
    assert_eq!(
        (players.from.len(), players.cached.entries, players.on_invalid),
        (6, 500, OnInvalid::Sessionless)
    );
    let deletions: Vec<&str> = players.from.iter().filter_map(token::TokenSource::deletion).collect();
    assert_eq!(
        deletions,
        [
            "__Secure-token=; Path=/app; Domain=example.com; Max-Age=0; SameSite=None; Secure; HttpOnly; Partitioned",
            "token=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly",
        ]
    );
    let Verification::Keys(policy, keys) = &players.verification else { panic!("{players:?}") };
    assert_eq!(keys.len(), 2);
    let expected = Policy {
        algorithms: vec![token::Algorithm::Hs256, token::Algorithm::Hs512],
        issuer: Some("https://id.example.com".to_owned()),
        audiences: vec!["games".to_owned(), "chat".to_owned()],
        leeway: Millis(30_000),
        require_expiry: false,
        try_keys: true,
        allow_padding: true,
    };
    assert_eq!(*policy, expected);

    let [bearer] = guests.from.as_slice() else { panic!("{guests:?}") };
    assert_eq!(*bearer, token::TokenSource::header("authorization", "Bearer ").unwrap());
    assert_eq!((guests.cached, guests.on_invalid), (token::Limits::default(), OnInvalid::Reject));
    let Verification::Keys(policy, _) = &guests.verification else { panic!("{guests:?}") };
    assert_eq!(*policy, Policy::new(vec![token::Algorithm::Es256]));

    assert!(
        matches!(&set.verification, Verification::Keys(_, keys) if keys.fit_any(&[token::Algorithm::EdDsa]))
    );
    let Verification::Remote(_, remote) = &published.verification else { panic!("{published:?}") };
    let expected = RemoteKeys {
        cluster: "idp".to_owned(),
        host: "id.example.com".to_owned(),
        path: "/.well-known/jwks.json?v=1".to_owned(),
        refresh: Millis(600_000),
        timeout: Millis(2000),
    };
    assert_eq!(*remote, expected);
    let expected = JwtProvider {
        name: "upstream".to_owned(),
        from: Vec::new(),
        verification: Verification::Upstream("players".to_owned()),
        on_invalid: OnInvalid::Reject,
        cached: token::Limits { entries: 0, ..token::Limits::default() },
    };
    assert_eq!(*upstream, expected);
}

#[test]
fn keys_are_neither_in_debug_output_nor_in_a_fault() {
    let shown = format!("{:?}", good("jwt-providers"));
    assert!(shown.contains("players"), "{shown}");
    for secret in ["0123456789abcdef", "AAECAwQF", "[0, 1, 2", "MFkwEw", "BGZHCT"] {
        assert!(!shown.contains(secret), "{shown}");
    }

    let json = fs::read_to_string(folder("bad").join("jwt-providers-with-every-fault.json")).unwrap();
    assert!(json.matches("my secret").count() > 8);
    let found = faults(json.as_bytes()).join("\n");
    for secret in ["my secret", "bXkgc2VjcmV0", "1234", "MCow"] {
        assert!(!found.contains(secret), "{found}");
    }
}

#[test]
fn listed_members_keep_their_order_and_weights() {
    let config = good("static-members");

    let Membership::Static(members) = &config.pools[0].membership else { panic!("{config:?}") };
    let seen: Vec<_> = members.iter().map(|member| (member.address.as_str(), member.weight)).collect();
    assert_eq!(seen, [("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("[2001:db8::1]:80", 128)]);
}

#[test]
fn each_algorithm_has_its_size() {
    let algorithm = |name| good(name).pools[0].algorithm;

    assert_eq!(algorithm("maglev"), Algorithm::Maglev { table_size: 251 });
    assert_eq!(algorithm("rendezvous"), Algorithm::Rendezvous);
    let envoy = RingSize::Envoy { minimum: 3072, maximum: 8_388_608 };
    assert_eq!(algorithm("envoy-ring-size"), Algorithm::RingHash(envoy));
    assert_eq!(
        algorithm("numbers-as-doubles-and-null-for-nothing"),
        Algorithm::RingHash(RingSize::VirtualNodes(256))
    );
}

#[test]
fn a_cooldown_above_the_default_maximum_raises_it() {
    let health = good("no-warm-up-no-panic").pools[0].health.clone();

    assert_eq!((health.cooldown, health.max_cooldown), (Millis(600_000), Millis(600_000)));
}

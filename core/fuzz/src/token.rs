//! Tokens, as clients send them: what is verified was signed so, and says so.
//!
//! The input has a line each: how it is signed (an algorithm, or `as-it-is` for a token that is signed already), the header,
//! the payload, and three bytes: where the token is changed, high byte first, and to what. Keys of several algorithms are
//! there at once. What is signed with secrets also goes through a proxy, which remembers its verdicts.

use std::cell::LazyCell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use berth_core::attributes::Attributes;
use berth_core::config::Config;
use berth_core::proxy::{Progress, Proxy};
use berth_core::time::Millis;
use berth_core::token::{
    self, Algorithm, ClaimPath, Claims, Form, Key, Keys, MAX_TOKEN, Policy, Refusal, Unverified, Wanted,
};
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

use super::testdata;

const NOW: Millis = Millis(1_800_000_000_000);
const SECRET: &[u8] = &[b's'; 64];
const OTHER_SECRET: &[u8] = &[b'o'; 64];

thread_local! {
    static WORLD: LazyCell<World> = const { LazyCell::new(World::new) };
}

/// Signs, verifies, changes a byte and verifies again.
pub fn check(input: &[u8]) {
    WORLD.with(|world| {
        let case = Case::read(input, world);
        world.check(&case);
        if case.is_by_secret {
            check_memory(&case);
        }
    });
}

struct World {
    keys: Keys,
    /// The same without those that tokens are signed with here.
    foreign: Keys,
    ed25519: EncodingKey,
    claims: [ClaimPath; 3],
}

struct Case {
    token: Vec<u8>,
    /// It was signed here, with a secret.
    is_by_secret: bool,
    /// It was signed here, so its payload is these bytes.
    payload: Option<Vec<u8>>,
    change: [u8; 3],
}

impl Case {
    fn read(input: &[u8], world: &World) -> Self {
        let mut lines = input.splitn(4, |byte| *byte == b'\n');
        let mut line = || lines.next().unwrap_or_default();
        let (how, header, payload, change) = (line(), line(), line(), line());
        let change = change.first_chunk().copied().unwrap_or_default();
        let algorithm = std::str::from_utf8(how).ok().and_then(|name| name.parse().ok());
        let (key, is_by_secret) = match algorithm {
            Some(jsonwebtoken::Algorithm::EdDSA) => (world.ed25519.clone(), false),
            Some(
                jsonwebtoken::Algorithm::HS256
                | jsonwebtoken::Algorithm::HS384
                | jsonwebtoken::Algorithm::HS512,
            ) => (EncodingKey::from_secret(SECRET), true),
            _ => return Self { token: header.to_vec(), is_by_secret: false, payload: None, change },
        };
        let signed = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, algorithm.unwrap()).unwrap();
        let token = format!("{signed}.{signature}").into_bytes();
        Self { token, is_by_secret, payload: Some(payload.to_vec()), change }
    }

    /// With another byte somewhere; none if it would be the same.
    fn changed(&self) -> Option<(usize, Vec<u8>)> {
        let [high, low, to] = self.change;
        let mut token = self.token.clone();
        let place = usize::from(u16::from_be_bytes([high, low])).checked_rem(token.len())?;
        let byte = token.get_mut(place)?;
        if std::mem::replace(byte, to) == to { None } else { Some((place, token)) }
    }
}

impl World {
    fn new() -> Self {
        let public = |id, pem: &str| Key::pem(Some(id), pem).unwrap();
        let foreign = vec![
            public("p256", testdata::P256),
            public("p384", testdata::P384),
            public("rsa", testdata::RSA),
            Key::pem(None, testdata::RSA).unwrap(),
            Key::secret(Some("other"), OTHER_SECRET).unwrap(),
        ];
        let own = [
            Key::secret(Some("secret"), SECRET).unwrap(),
            Key::secret(None, SECRET).unwrap(),
            public("ed25519", testdata::ED25519),
        ];
        let private = testdata::ED25519_PRIVATE.lines().filter(|line| !line.starts_with("-----"));
        let private = base64::engine::general_purpose::STANDARD.decode(private.collect::<String>()).unwrap();
        Self {
            keys: Keys::new(own.into_iter().chain(foreign.iter().cloned()).collect()),
            foreign: Keys::new(foreign),
            ed25519: EncodingKey::from_ed_der(&private),
            claims: ["sub", "exp", "player.id"].map(|path| ClaimPath::parse(path).unwrap()),
        }
    }

    /// From what asks for the least to what asks for the most: each refuses what the one before it refuses.
    fn policies() -> [Policy; 5] {
        let all = Algorithm::ALL.map(|(_, algorithm)| algorithm).to_vec();
        let lax = Policy {
            require_expiry: false,
            try_keys: true,
            allow_padding: true,
            leeway: Millis(120_000),
            ..Policy::new(all)
        };
        let plain = Policy { allow_padding: false, leeway: Millis(60_000), ..lax.clone() };
        let named = Policy { try_keys: false, require_expiry: true, ..plain.clone() };
        let ours = Policy {
            issuer: Some("https://id.example.com".to_owned()),
            audiences: vec!["games".to_owned(), "chat".to_owned()],
            ..named.clone()
        };
        let strict = Policy { algorithms: vec![Algorithm::Hs256, Algorithm::EdDsa], ..ours.clone() };
        [lax, plain, named, ours, strict]
    }

    fn check(&self, case: &Case) {
        let policies = Self::policies();
        let verdicts = policies.each_ref().map(|policy| token::verify(&case.token, &self.keys, policy, NOW));
        for pair in verdicts.windows(2) {
            assert!(pair[0].is_ok() || pair[1].is_err(), "what less refuses, more accepts: {pair:?}");
        }
        for (policy, verdict) in policies.iter().zip(&verdicts) {
            if let Ok(claims) = verdict {
                self.check_verified(case, policy, claims);
            }
        }
        let [lax, ..] = &policies;
        if case.payload.is_some() {
            let foreign = token::verify(&case.token, &self.foreign, lax, NOW);
            assert!(foreign.is_err(), "no key here signed it");
        }
        if let Some((place, changed)) = case.changed() {
            let verdict = token::verify(&changed, &self.keys, lax, NOW);
            let dots = case.token.iter().enumerate().filter(|(_, byte)| **byte == b'.');
            let signed = dots.map(|(place, _)| place).nth(1).unwrap_or(0);
            let is_signed = place < signed && (verdicts[0].is_ok() || case.payload.is_some());
            assert!(!is_signed || verdict.is_err(), "byte {place} of what is signed is another");
        }
    }

    /// Nothing of a token is believed that its key did not sign, and no key that it does not name or may not use.
    fn check_verified(&self, case: &Case, policy: &Policy, claims: &Claims) {
        assert!(case.token.len() <= MAX_TOKEN);
        let unverified = Unverified::read(&case.token, &self.keys, policy).expect("it was read before");
        let (again, signer) = unverified.verify(policy, NOW).expect("it was verified before");
        assert!(*claims == again && self.keys.have(signer), "the same token is as good again");
        if let Some(payload) = &case.payload {
            assert!(
                Claims::from_payload(payload).as_ref() == Ok(claims),
                "the claims are those of the payload"
            );
            assert!(!self.foreign.have(signer), "another key than that signed it");
        }
        let mut parts = case.token.split(|byte| *byte == b'.');
        let header = URL_SAFE_NO_PAD.decode(parts.next().unwrap());
        if let Ok(header) = header {
            let header: Value = serde_json::from_slice(&header).expect("a header is JSON");
            let named = Algorithm::named(header["alg"].as_str().unwrap()).unwrap();
            assert!(policy.algorithms.contains(&named) && header.get("crit").is_none());
        }
        let [_, exp, _] = &self.claims;
        let expires = claims.seconds(exp);
        assert!(expires.is_some() || !policy.require_expiry, "a token that never expires");
        assert!(expires.is_none_or(|expires| NOW < expires + policy.leeway), "its time is over");

        let mut wanted = Wanted::default();
        let slots = [Form::Text, Form::Time, Form::Version];
        let slots: Vec<_> =
            self.claims.iter().zip(slots).map(|(path, form)| wanted.slot(path.clone(), form)).collect();
        let ([sub, _, player], &[name, exp, version]) = (&self.claims, slots.as_slice()) else {
            unreachable!()
        };
        match wanted.read(claims) {
            Ok(facts) => {
                assert_eq!(facts.text(name), claims.text(sub).as_deref());
                assert_eq!(facts.time(exp), expires);
                let text = claims.text(player);
                assert_eq!(
                    facts.version(version).is_some(),
                    text.is_some(),
                    "a version that is there counts"
                );
            }
            Err(refusal) => assert_eq!(refusal, Refusal::ClaimType),
        }
    }
}

/// What a proxy remembers of a token is what it would find if it looked again.
fn check_memory(case: &Case) {
    let wait = u64::from(u16::from_be_bytes([case.change[0], case.change[1]]));
    let later = NOW + Millis(wait * 100);
    let changed = case.changed().map(|(_, token)| token);
    let mut remembers = proxy();
    for token in [Some(&case.token), changed.as_ref()].into_iter().flatten() {
        let first = verdict(&mut remembers, token, NOW);
        assert_eq!(verdict(&mut remembers, token, NOW), first, "a verdict is remembered as it was");
        let known = verdict(&mut remembers, token, later);
        assert_eq!(
            known,
            verdict(&mut proxy(), token, later),
            "a verdict that is remembered is the one of now"
        );
    }
}

fn verdict(proxy: &mut Proxy, token: &[u8], now: Millis) -> String {
    proxy.handle_tick(now);
    let header = [b"Bearer ", token].concat();
    let (request, progress) = proxy.handle_request(1, None, &Bearer { header, now });
    assert_eq!(progress, Progress::Decided, "there is nothing to wait for");
    format!("{:?} {:?}", request.session.map(|id| id.as_bytes().to_vec()), request.decision)
}

/// Sessions are named by tokens; there are no members, so a request that has one falls back.
fn proxy() -> Proxy {
    let key = |id: &str, secret: &[u8]| json!({"kid": id, "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)});
    let config = json!({
        "v": 1,
        "jwt_providers": [{
            "name": "players",
            "algorithms": ["HS256", "HS384", "HS512"],
            "jwks": {"keys": [key("secret", SECRET), key("other", OTHER_SECRET)]}
        }],
        "pools": [{
            "name": "nodes", "cluster": "nodes",
            "session": {"sources": [{"jwt": "players", "claim": "sub"}], "missing": "reject"}
        }]
    });
    let config = Config::parse(config.to_string().as_bytes()).expect("the configuration is right");
    Proxy::new(config, || 7, NOW)
}

struct Bearer {
    header: Vec<u8>,
    now: Millis,
}

impl Attributes for Bearer {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        (name == "authorization").then(|| self.header.clone())
    }

    fn header_lines(&self, name: &str) -> Vec<Vec<u8>> {
        self.header(name).into_iter().collect()
    }

    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> Millis {
        self.now
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _: usize, _: Millis) -> bool {
        false
    }
}

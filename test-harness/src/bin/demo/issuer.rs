//! The issuer of `--jwt`: it signs a token for each session and publishes its keys, of which there is a new one, of
//! another kind, each time that it rotates them. And what others make who would like to be it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use berth_harness::Issuer;
use berth_harness::tokens::{self, Algorithm, key_set, now, sign, sign_bytes};
use serde_json::{Value, json};

use crate::session::Session;

pub(crate) const ISSUER: &str = "https://id.example.com";
pub(crate) const AUDIENCE: &str = "games";

/// Longer than anybody tries things out.
const LIFETIME: u64 = 12 * 3600;
/// `{"alg":"none"}`
const NO_ALGORITHM: &str = "eyJhbGciOiJub25lIn0";

pub(crate) struct TokenIssuer {
    server: Issuer,
    keys: Mutex<Keys>,
}

struct Keys {
    /// Of the key that signs now, from 1.
    number: usize,
    /// Those that it has signed, by session.
    tokens: HashMap<String, String>,
}

impl TokenIssuer {
    pub(crate) fn start() -> Self {
        let server = Issuer::start(published(1..=1));
        Self { server, keys: Mutex::new(Keys { number: 1, tokens: HashMap::new() }) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The token of a session, signed once by each key.
    pub(crate) fn token(&self, session: &Session) -> String {
        let Keys { number, tokens } = &mut *self.keys.lock().expect("no panic while it is held");
        let number = *number;
        let sign = || {
            let mut claims = claims(&session.id, now() + LIFETIME);
            if let Some(previous) = &session.previous {
                claims["previous_sid"] = previous.as_str().into();
            }
            self::sign(algorithm(number), &kid(number), claims)
        };
        tokens.entry(session.id.clone()).or_insert_with(sign).clone()
    }

    /// One that was good until an hour ago.
    pub(crate) fn expired(&self, session: &str) -> String {
        let number = self.number();
        sign(algorithm(number), &kid(number), claims(session, now() - 3600))
    }

    /// The tokens of `player-1`, to be pasted into a shell.
    pub(crate) fn for_shell(&self) -> String {
        let player = Session::new("player-1");
        format!("  TOKEN={}\n\n  EXPIRED={}\n", self.token(&player), self.expired(&player.id))
    }

    /// Four ways to be somebody else: with a signature of one's own, an old token, no signature, and one by a secret that
    /// everybody knows, as it is the public key.
    pub(crate) fn forged(&self, victim: &Session) -> [String; 4] {
        let token = self.token(victim);
        let own = self.token(&Session::new("mallory"));
        let (signed, _) = token.rsplit_once('.').expect("a token has three parts");
        let (_, payload) = signed.split_once('.').expect("a token has three parts");
        let (_, signature) = own.rsplit_once('.').expect("a token has three parts");
        let header = json!({"alg": "HS256", "kid": kid(self.number())});
        let claims = claims(&victim.id, now() + LIFETIME).to_string();
        [
            format!("{signed}.{signature}"),
            self.expired(&victim.id),
            format!("{NO_ALGORITHM}.{payload}."),
            sign_bytes(Algorithm::HS256, tokens::P256, &header, claims.as_bytes()),
        ]
    }

    /// The next key is published beside the one that signs.
    pub(crate) fn publish_next(&self) {
        let number = self.number();
        self.server.publish(published(number..=number + 1));
    }

    /// From now on the next key signs, also for those who had a token.
    pub(crate) fn sign_with_next(&self) {
        let mut keys = self.keys.lock().expect("no panic while it is held");
        keys.number += 1;
        keys.tokens.clear();
    }

    /// Only the key that signs is published.
    pub(crate) fn withdraw_former(&self) {
        let number = self.number();
        self.server.publish(published(number..=number));
    }

    pub(crate) async fn leave(&self) {
        self.server.refuse().await;
    }

    pub(crate) async fn come_back(&self) {
        self.server.restart().await;
    }

    fn number(&self) -> usize {
        self.keys.lock().expect("no panic while it is held").number
    }
}

fn claims(session: &str, expires: u64) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sid": session, "exp": expires})
}

fn published(numbers: impl Iterator<Item = usize>) -> String {
    let keys: Vec<(String, Algorithm)> = numbers.map(|number| (kid(number), algorithm(number))).collect();
    let keys: Vec<(&str, Algorithm)> =
        keys.iter().map(|(kid, algorithm)| (kid.as_str(), *algorithm)).collect();
    key_set(&keys)
}

fn kid(number: usize) -> String {
    format!("key-{number}")
}

/// They take turns, and with them two pairs of keys.
fn algorithm(number: usize) -> Algorithm {
    if number % 2 == 1 { Algorithm::ES256 } else { Algorithm::EdDSA }
}

//! The tokens of requests: found, verified once, remembered.
//!
//! Which key verifies what is decided in core. Here a provider has its keys, those of the configuration or those that its
//! [`Issuer`] publishes, the claims of the tokens that it has verified, and its counters.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use berth_core::config::{JwtProvider, OnInvalid, Verification};
use berth_core::event;
use berth_core::session::Token;
use berth_core::time::Millis;
use berth_core::token::{self, Cache, Digest, Facts, Form, Keys, MAX_TOKEN, Policy, Refusal, Wanted};

use crate::host;
use crate::issuer::Issuer;
use crate::plugin::Plugin;

/// Where Envoy's `jwt_authn` leaves payloads.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// A token that never expires is looked at anew after this.
const NO_EXPIRY: Millis = Millis(3_600_000);
/// Of those verified: anew, or remembered.
const GOOD: [&str; 2] = ["verified", "cached"];

/// The configured providers.
pub(crate) struct Tokens(Vec<Provider>);

struct Provider {
    place: usize,
    config: JwtProvider,
    wanted: Wanted,
    issuer: Option<RefCell<Issuer>>,
    /// Those that the issuer publishes.
    keys: RefCell<Keys>,
    verified: RefCell<Cache<Rc<Facts>>>,
    counters: Vec<(Cell<u64>, Option<u32>)>,
}

/// What has been asked already for one request: several rules may look at a header, and its rule and its session may
/// both depend on a token.
#[derive(Default)]
pub(crate) struct Asked<'p> {
    headers: Vec<(&'p str, Option<Vec<u8>>)>,
    tokens: Vec<(usize, Token)>,
}

impl<'p> Asked<'p> {
    pub(crate) fn header(&mut self, name: &'p str) -> Option<&[u8]> {
        let place = self.headers.iter().position(|(asked, _)| *asked == name).unwrap_or_else(|| {
            self.headers.push((name, host::request_header(name)));
            self.headers.len() - 1
        });
        self.headers.get(place)?.1.as_deref()
    }

    pub(crate) fn token(&mut self, plugin: &Plugin, provider: usize) -> Token {
        if let Some((_, token)) = self.tokens.iter().find(|(asked, _)| *asked == provider) {
            return token.clone();
        }
        let asked = plugin.tokens.0.get(provider);
        let token = asked.map_or(Token::Absent, |asked| asked.token(plugin.now.get()));
        self.tokens.push((provider, token.clone()));
        token
    }

    /// The provider whose keys are on their way.
    pub(crate) fn pending(&self) -> Option<usize> {
        self.tokens.iter().find(|(_, token)| matches!(token, Token::Pending)).map(|(provider, _)| *provider)
    }

    /// Keys of this provider are not waited for: what is not known by now counts as unknown.
    pub(crate) fn give_up(&mut self, provider: usize) {
        for (_, token) in self.tokens.iter_mut().filter(|(asked, _)| *asked == provider) {
            *token = Token::Refused(Refusal::UnknownKey);
        }
    }
}

impl Tokens {
    pub(crate) fn new(providers: Vec<JwtProvider>, wanted: Vec<Wanted>) -> Self {
        let pairs = providers.into_iter().zip(wanted).enumerate();
        Self(pairs.map(|(place, (config, wanted))| Provider::new(place, config, wanted)).collect())
    }

    /// Fetches keys that are due, and takes over those that another VM has fetched. To be called on each tick.
    pub(crate) fn tick(&self, now: Millis) {
        self.0.iter().for_each(|provider| provider.tick(now));
    }

    /// A call came to its end. False if it was none for keys.
    pub(crate) fn answered(&self, call: u32, body: host::Answer<'_>, now: Millis) -> bool {
        self.0.iter().any(|provider| {
            let Some(issuer) = &provider.issuer else { return false };
            let is_its = issuer.borrow_mut().answered(call, body, now);
            if is_its {
                provider.tick(now);
            }
            is_its
        })
    }

    /// True once there is nothing to wait for: keys came, or do not.
    pub(crate) fn has_settled(&self, provider: usize) -> bool {
        let issuer = self.0.get(provider).and_then(|provider| provider.issuer.as_ref());
        issuer.is_none_or(|issuer| issuer.borrow().has_settled())
    }

    /// How long keys are waited for.
    pub(crate) fn patience(&self, provider: usize) -> Millis {
        let issuer = self.0.get(provider).and_then(|provider| provider.issuer.as_ref());
        issuer.map_or(Millis(0), |issuer| issuer.borrow().patience())
    }

    /// Whether there is any key to tell by.
    pub(crate) fn has_keys(&self, provider: usize) -> bool {
        self.0
            .get(provider)
            .is_some_and(|provider| provider.issuer.is_none() || !provider.keys.borrow().is_empty())
    }

    pub(crate) fn on_invalid(&self, provider: usize) -> OnInvalid {
        self.0.get(provider).map_or(OnInvalid::Reject, |provider| provider.config.on_invalid)
    }

    pub(crate) fn flush(&self) {
        for provider in &self.0 {
            for (value, metric) in &provider.counters {
                let by = value.take();
                if by > 0 {
                    host::increment(*metric, by);
                }
            }
            if let Some(issuer) = &provider.issuer {
                issuer.borrow_mut().flush();
            }
        }
    }
}

impl Provider {
    fn new(place: usize, config: JwtProvider, wanted: Wanted) -> Self {
        let issuer = match &config.verification {
            Verification::Remote(_, remote) => Some(RefCell::new(Issuer::new(&config.name, remote.clone()))),
            _ => None,
        };
        let results = GOOD.into_iter().chain(Refusal::ALL.map(Refusal::name));
        let define = |result| (Cell::new(0), host::define_counter(&event::tokens_stat(&config.name, result)));
        Self {
            counters: results.map(define).collect(),
            verified: RefCell::new(Cache::new(config.cached)),
            keys: RefCell::new(Keys::new(Vec::new())),
            issuer,
            place,
            config,
            wanted,
        }
    }

    fn tick(&self, now: Millis) {
        let Some(issuer) = &self.issuer else { return };
        if let Some(keys) = issuer.borrow_mut().tick(now) {
            *self.keys.borrow_mut() = keys;
            // A key that was withdrawn verifies no more.
            self.verified.borrow_mut().clear();
        }
    }

    fn count(&self, result: usize) {
        if let Some((value, _)) = self.counters.get(result) {
            value.set(value.get() + 1);
        }
    }

    /// `tick` is the time of the latest one: exact enough for what was verified before.
    fn token(&self, tick: Millis) -> Token {
        let token = match &self.config.verification {
            Verification::Upstream(payload) => self.left_by_envoy(payload),
            Verification::Keys(policy, keys) => self.verify(policy, keys, tick),
            Verification::Remote(policy, _) => self.verify(policy, &self.keys.borrow(), tick),
        };
        if let Token::Refused(refusal) = token {
            let place = Refusal::ALL.iter().position(|known| *known == refusal);
            self.count(GOOD.len() + place.unwrap_or(0));
        }
        token
    }

    fn verify(&self, policy: &Policy, keys: &Keys, tick: Millis) -> Token {
        let Some(token) = token::find(&self.config.from, &mut host::request_header) else {
            return Token::Absent;
        };
        if token.len() > MAX_TOKEN {
            return Token::Refused(Refusal::TooLarge);
        }
        let digest = Digest::of(self.place, &token);
        if let Some(facts) = self.verified.borrow_mut().get(&digest, tick) {
            self.count(1);
            return Token::Verified(Rc::clone(facts));
        }
        let now = host::now();
        let verified = token::verify(&token, keys, policy, now)
            .and_then(|claims| Ok((Rc::new(self.wanted.read(&claims)?), claims)));
        match verified {
            Ok((facts, claims)) => {
                self.count(0);
                let until = claims.expires().map_or(now + NO_EXPIRY, |expires| expires + policy.leeway);
                self.verified.borrow_mut().insert(digest, Rc::clone(&facts), facts.bytes(), until);
                Token::Verified(facts)
            }
            Err(Refusal::UnknownKey) if self.wants_keys(now) => Token::Pending,
            Err(refusal) => Token::Refused(refusal),
        }
    }

    fn wants_keys(&self, now: Millis) -> bool {
        self.issuer.as_ref().is_some_and(|issuer| issuer.borrow_mut().want(now))
    }

    /// What `jwt_authn` has verified. Nobody but Envoy writes its metadata.
    fn left_by_envoy(&self, payload: &str) -> Token {
        let place = ["metadata", "filter_metadata", JWT_AUTHN, payload];
        let mut values = Vec::new();
        for (path, form) in self.wanted.iter() {
            let names = path.segments().iter().map(String::as_str);
            let value = host::property(place.into_iter().chain(names).collect());
            let is_there = value.is_some();
            let text = value.and_then(|value| text_of(value, form)).filter(|text| form.admits(text));
            if is_there && text.is_none() && form != Form::Text {
                return Token::Refused(Refusal::ClaimType);
            }
            values.push(text.map(String::into_boxed_str));
        }
        // The whole payload is large; it is looked at only to tell a token without these claims from none.
        if values.iter().all(Option::is_none) && host::property(place.to_vec()).is_none() {
            return Token::Absent;
        }
        self.count(0);
        Token::Verified(Rc::new(Facts::new(values)))
    }
}

/// A property's value, which does not say its type: text, or a number as the eight bytes of a double. No double of a
/// whole number below 2^44 could be read as text, as it has a zero byte; greater ones should be strings in a token.
fn text_of(value: Vec<u8>, form: Form) -> Option<String> {
    let number = || {
        let number = f64::from_le_bytes(value.as_slice().try_into().ok()?);
        (number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number)).then_some(number)
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
    let whole = |number: f64| number as u64;
    match form {
        Form::Time => number().map(|seconds| whole(seconds).saturating_mul(1000).to_string()),
        Form::Text | Form::Version if value.iter().any(|byte| byte.is_ascii_control()) => {
            number().map(|number| whole(number).to_string())
        }
        Form::Text | Form::Version => String::from_utf8(value).ok(),
    }
}

//! The tokens of requests: found, verified once, remembered.
//!
//! Which key verifies a token is decided in [`crate::token`]. Here a provider has its keys, those of the configuration or
//! those that its issuer publishes, the claims of the tokens that it has verified, and its counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::attributes::{Attributes, all_lines};
use crate::config::{JwtProvider, OnInvalid, Verification};
use crate::counters::Counters;
use crate::pending::{Turn, Waited};
use crate::session::{Awaited, Token};
use crate::time::Millis;
use crate::token::{self, Digest, Facts, Form, Keys, MAX_TOKEN, Policy, Refusal, Unverified, Wanted};

use super::checks::Checks;
use super::known::Known;

/// Where Envoy's `jwt_authn` leaves payloads.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";
/// A token that never expires is verified again after this.
const NO_EXPIRY: Millis = Millis(3_600_000);
/// Each worker says so, and it lasts until somebody acts.
const SAID_EVERY: Millis = Millis(3_600_000);
/// The results that are no refusals: verified now, remembered, or not checked at all.
const NOT_REFUSED: [&str; 3] = ["verified", "cached", "unchecked"];

/// How many results a token may have.
pub const TOKEN_RESULTS: usize = NOT_REFUSED.len() + Refusal::ALL.len();

/// What may come of a token, in the order of a provider's counts.
pub fn token_results() -> impl Iterator<Item = &'static str> {
    NOT_REFUSED.into_iter().chain(Refusal::ALL.map(Refusal::name))
}

/// The configured providers.
#[derive(Debug)]
pub struct Tokens {
    providers: Vec<Provider>,
    pub(super) checks: RefCell<Checks>,
}

/// One of them.
#[derive(Debug)]
pub struct Provider {
    /// Its configuration.
    pub config: JwtProvider,
    index: usize,
    wanted: Wanted,
    known: Rc<RefCell<Known>>,
    counters: Counters<TOKEN_RESULTS>,
    /// How far ahead a token was that its issuer signed and whose time had not come, until it is said.
    ahead: Cell<Option<Millis>>,
    next_said: Cell<Millis>,
}

/// What was asked already for one request: several rules may look at a header, and its rule and its session may both
/// depend on a token.
#[derive(Debug, Default)]
pub(super) struct Memo {
    authority: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    headers: Vec<(Box<str>, Option<Vec<u8>>)>,
    tokens: Vec<(usize, Token)>,
    /// What came of the request's wait for the check of its token.
    turn: Turn,
}

impl Memo {
    pub(super) fn new(waited: Option<Waited>) -> Self {
        Self { turn: waited.unwrap_or_default().check, ..Self::default() }
    }

    pub(super) fn authority(&mut self, attributes: &dyn Attributes) -> &[u8] {
        self.authority.get_or_insert_with(|| attributes.header(":authority").unwrap_or_default())
    }

    pub(super) fn path(&mut self, attributes: &dyn Attributes) -> &[u8] {
        self.path.get_or_insert_with(|| attributes.header(":path").unwrap_or_default())
    }

    pub(super) fn header(&mut self, name: &str, attributes: &dyn Attributes) -> Option<&[u8]> {
        let index = self.headers.iter().position(|(asked, _)| **asked == *name).unwrap_or_else(|| {
            self.headers.push((name.into(), attributes.header(name)));
            self.headers.len() - 1
        });
        self.headers.get(index)?.1.as_deref()
    }

    /// A header that is not looked at again: it is read unless it was before, and not kept.
    pub(super) fn last_look(&self, name: &str, attributes: &dyn Attributes) -> Option<Vec<u8>> {
        let known = match name {
            ":authority" => self.authority.as_ref().map(Some),
            ":path" => self.path.as_ref().map(Some),
            _ => None,
        };
        let kept =
            || self.headers.iter().find(|(asked, _)| **asked == *name).map(|(_, value)| value.as_ref());
        known.or_else(kept).map_or_else(|| attributes.header(name), Option::<&Vec<u8>>::cloned)
    }

    pub(super) fn token(
        &mut self,
        tokens: &Tokens,
        provider: usize,
        attributes: &dyn Attributes,
        tick: Millis,
    ) -> Token {
        if let Some((_, token)) = self.tokens.iter().find(|(asked, _)| *asked == provider) {
            return token.clone();
        }
        let asked = tokens.providers.get(provider);
        let token = asked.map_or(Token::Absent, |asked| asked.token(self, &tokens.checks, attributes, tick));
        self.tokens.push((provider, token.clone()));
        token
    }

    /// The provider whose verdict has to be waited for, and what for.
    pub(super) fn pending(&self) -> Option<(usize, Awaited)> {
        self.tokens.iter().find_map(|(provider, token)| match token {
            Token::Pending(awaited) => Some((*provider, *awaited)),
            _ => None,
        })
    }

    /// The providers that cannot tell now.
    pub(super) fn unchecked(&self) -> impl Iterator<Item = usize> {
        self.tokens
            .iter()
            .filter(|(_, token)| matches!(token, Token::Unchecked))
            .map(|(provider, _)| *provider)
    }

    /// The providers that refused a token, with the reason.
    pub(super) fn refused(&self) -> impl Iterator<Item = (usize, Refusal)> {
        self.tokens.iter().filter_map(|(provider, token)| match token {
            Token::Refused(refusal) => Some((*provider, *refusal)),
            _ => None,
        })
    }
}

impl Tokens {
    pub(super) fn new(providers: Vec<JwtProvider>, wanted: Vec<Wanted>, checks: Checks) -> Self {
        let pairs = providers.into_iter().zip(wanted).enumerate();
        let providers = pairs.map(|(index, (config, wanted))| Provider::new(index, config, wanted));
        Self { providers: providers.collect(), checks: RefCell::new(checks) }
    }

    /// Takes over what a former configuration knew of the same providers' tokens.
    pub(super) fn succeed(&mut self, former: &Self) {
        self.checks.get_mut().succeed(&former.checks.borrow());
        for provider in &mut self.providers {
            let known = former.providers.iter().find_map(|former| {
                let before = (&former.config, &former.wanted);
                Known::of_former(&former.known, before, (&provider.config, &provider.wanted))
            });
            if let Some(known) = known {
                provider.known = known;
            }
        }
    }

    /// The token of this provider is waited for no longer: it comes to this.
    pub(super) fn give_up(&self, memo: &mut Memo, provider: usize, becomes: &Token) {
        for (_, token) in memo.tokens.iter_mut().filter(|(asked, _)| *asked == provider) {
            token.clone_from(becomes);
        }
        if let Some(provider) = self.providers.get(provider) {
            provider.count(becomes);
        }
    }

    /// All providers.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.providers.iter()
    }

    /// The issuer of this provider has published keys.
    pub fn set_keys(&self, provider: usize, keys: Keys) {
        if let Some(provider) = self.providers.get(provider) {
            provider.known.borrow_mut().set_keys(keys);
        }
    }

    /// True if there is any key to verify by.
    pub(super) fn has_keys(&self, provider: usize) -> bool {
        self.providers.get(provider).is_some_and(|provider| {
            !matches!(provider.config.verification, Verification::Remote(..))
                || !provider.known.borrow().keys().is_empty()
        })
    }

    pub(super) fn get(&self, provider: usize) -> Option<&Provider> {
        self.providers.get(provider)
    }

    pub(super) fn on_invalid(&self, provider: usize) -> OnInvalid {
        self.providers.get(provider).map_or(OnInvalid::Reject, |provider| provider.config.on_invalid)
    }
}

impl Provider {
    fn new(index: usize, config: JwtProvider, wanted: Wanted) -> Self {
        Self {
            known: Rc::new(RefCell::new(Known::new(config.cached))),
            counters: Counters::default(),
            ahead: Cell::new(None),
            next_said: Cell::new(Millis(0)),
            index,
            config,
            wanted,
        }
    }

    /// Everything that was counted since this was last asked, in the order of [`token_results`].
    pub fn take_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counters.take()
    }

    /// What is to be logged, once an hour: tokens are refused because the issuer's clock is ahead.
    pub fn take_complaint(&self, now: Millis) -> Option<String> {
        let ahead = self.ahead.take()?;
        let (Verification::Keys(policy, _) | Verification::Remote(policy, _)) = &self.config.verification
        else {
            return None;
        };
        let said = self.next_said.get();
        if now < said && said.since(now) <= SAID_EVERY {
            return None;
        }
        self.next_said.set(now + SAID_EVERY);
        let (ahead, leeway) = (ahead.0.div_ceil(1000), policy.leeway.0 / 1000);
        Some(format!(
            "tokens are refused because their time begins {ahead} s from now, by their nbf or iat, and the leeway is {leeway} s: \
             set the clocks of issuer and proxy right, or raise leeway"
        ))
    }

    /// `tick` is the time of the latest tick: exact enough for what was verified before.
    fn token(
        &self,
        memo: &mut Memo,
        checks: &RefCell<Checks>,
        attributes: &dyn Attributes,
        tick: Millis,
    ) -> Token {
        let token = match &self.config.verification {
            Verification::Upstream(payload) => self.left_by_envoy(payload, attributes),
            Verification::Keys(policy, keys) => {
                self.verify(policy, Some(keys), memo, checks, attributes, tick)
            }
            Verification::Remote(policy, _) => self.verify(policy, None, memo, checks, attributes, tick),
        };
        self.count(&token);
        token
    }

    /// What is good was counted where it was found to be.
    fn count(&self, token: &Token) {
        match token {
            Token::Refused(refusal) => {
                let index = Refusal::ALL.iter().position(|known| known == refusal);
                self.counters.add(NOT_REFUSED.len() + index.unwrap_or(0), 1);
            }
            Token::Unchecked => self.counters.add(2, 1),
            Token::Absent | Token::Verified(_) | Token::Pending(_) => {}
        }
    }

    /// `keys` are those of the configuration, if it has them.
    fn verify(
        &self,
        policy: &Policy,
        keys: Option<&Keys>,
        memo: &mut Memo,
        checks: &RefCell<Checks>,
        attributes: &dyn Attributes,
        tick: Millis,
    ) -> Token {
        let mut header = |name: &str| match name {
            ":path" => Some(memo.path(attributes).to_vec()),
            name => memo.header(name, attributes).map(<[u8]>::to_vec),
        };
        let Some(token) =
            token::find(&self.config.from, &mut header, &mut |name| all_lines(attributes, name))
        else {
            return Token::Absent;
        };
        if token.len() > MAX_TOKEN {
            return Token::Refused(Refusal::TooLarge);
        }
        let digest = Digest::of(&token);
        if let Some(facts) = self.known.borrow_mut().verified(&digest, tick) {
            self.counters.add(1, 1);
            return Token::Verified(facts);
        }
        let now = attributes.now();
        if let Some(refusal) = self.known.borrow().refused(&digest, now) {
            return Token::Refused(refusal);
        }
        let published = self.known.borrow().keys();
        let unverified = match Unverified::read(&token, keys.unwrap_or(&published), policy) {
            Ok(unverified) => unverified,
            Err(Refusal::UnknownKey) if attributes.wants_keys(self.index, now) => {
                return Token::Pending(Awaited::Keys);
            }
            Err(refusal) => return Token::Refused(refusal),
        };
        let least_cost = unverified.least_cost();
        if least_cost > 0 && memo.turn != Turn::Granted && !checks.borrow().may_run(now) {
            return if memo.turn == Turn::Denied { Token::Unchecked } else { Token::Pending(Awaited::Check) };
        }
        let verified = unverified.verify(policy, now);
        if least_cost > 0 {
            checks.borrow().spend(now, attributes.now(), least_cost);
        }
        let verified =
            verified.and_then(|(claims, signer)| Ok((Rc::new(self.wanted.read(&claims)?), claims, signer)));
        match verified {
            Ok((facts, claims, signer)) => {
                self.counters.add(0, 1);
                let until = claims.expires().map_or(now + NO_EXPIRY, |expires| expires + policy.leeway);
                self.known.borrow_mut().note_verified(digest, signer, &facts, until);
                Token::Verified(facts)
            }
            Err(refusal) => {
                if refusal == Refusal::NotYetValid {
                    // It will be good soon.
                    self.ahead.set(unverified.ahead(now));
                } else if least_cost > 0 {
                    self.known.borrow_mut().note_refused(digest, refusal, now);
                }
                Token::Refused(refusal)
            }
        }
    }

    /// What `jwt_authn` has verified. Only Envoy writes its metadata.
    fn left_by_envoy(&self, payload: &str, attributes: &dyn Attributes) -> Token {
        let place = ["metadata", "filter_metadata", JWT_AUTHN, payload];
        let mut values = Vec::new();
        for (path, form) in self.wanted.iter() {
            let names = path.segments().iter().map(String::as_str);
            let path: Vec<&str> = place.into_iter().chain(names).collect();
            let value = attributes.property(&path);
            let is_there = value.is_some();
            let text = value.and_then(|value| text_of(value, form)).filter(|text| form.admits(text));
            if is_there && text.is_none() && form != Form::Text {
                return Token::Refused(Refusal::ClaimType);
            }
            values.push(text.map(String::into_boxed_str));
        }
        // The whole payload is large; it is looked at only to tell a token without these claims from none.
        if values.iter().all(Option::is_none) && attributes.property(&place).is_none() {
            return Token::Absent;
        }
        self.counters.add(0, 1);
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

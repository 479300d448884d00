//! The keys that an issuer publishes, fetched by one worker of an Envoy for all of them.
//!
//! How things stand is in a small record that all workers share ([`KeySetHead`]): when the keys were asked for last, when
//! they are due again, and whether a worker asks right now. The worker that finds them due and writes first fetches. A
//! fetch that fails leaves the keys as they are: they are good until the issuer says otherwise. How the record is shared,
//! and how a fetch is made, is not decided here.

use crate::call::CallFailure;
use crate::config::{JwtProvider, RemoteKeys, Verification};
use crate::counters::Counters;
use crate::time::Millis;
use crate::token::Keys;

/// From the end of one fetch on, a token with an unknown key may ask for newer ones after this time, however many are sent.
const REFETCH: Millis = Millis(5_000);
/// After a fetch that failed; less if keys are refreshed more often.
const RETRY: Millis = Millis(5_000);
/// A fetch that has not ended so long after its timeout was made by a worker that is gone.
const LOST: Millis = Millis(1_000);

/// How things stand with an issuer's keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeySetHead {
    /// When they were asked for last.
    pub tried: Millis,
    /// When they are to be asked for next.
    pub due: Millis,
    /// A worker asks right now.
    pub is_under_way: bool,
    /// The hash of the keys in the answer, in whatever order and form it has them; 0 if there was none.
    pub hash: u64,
}

/// One issuer, as this worker knows it.
#[derive(Debug)]
pub struct Issuer {
    /// The provider's name.
    pub provider: String,
    /// Where the keys are.
    pub remote: RemoteKeys,
    call: Option<u32>,
    /// Of the key set in use.
    hash: u64,
    /// A request waits for newer keys.
    is_wanted: bool,
    /// What the latest fetch failed with; empty if it succeeded.
    said: String,
    /// Fetches that failed, and that succeeded.
    fetches: Counters<2>,
}

/// What the end of a fetch leads to.
#[derive(Debug, PartialEq, Eq)]
pub struct Fetched<'b> {
    /// The record to publish.
    pub head: KeySetHead,
    /// The key set to publish before it, if it is another than before.
    pub body: Option<&'b [u8]>,
    /// Why there are no keys, for the log; `None` if that was said before, and nothing has changed since.
    pub failure: Option<String>,
}

impl KeySetHead {
    /// The form that is shared.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Self { tried, due, is_under_way, hash } = self;
        format!("{} {} {} {hash}", tried.0, due.0, u64::from(is_under_way)).into_bytes()
    }

    /// Reads a shared one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut numbers = std::str::from_utf8(bytes).ok()?.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { tried: Millis(next()?), due: Millis(next()?), is_under_way: next()? == 1, hash: next()? })
    }

    fn may_try(self, now: Millis) -> bool {
        !self.is_under_way && REFETCH.is_over(self.tried, now)
    }
}

impl Issuer {
    /// The issuer of a provider, if it publishes its keys.
    #[must_use]
    pub fn of(provider: &JwtProvider) -> Option<Self> {
        let Verification::Remote(_, remote) = &provider.verification else { return None };
        Some(Self {
            provider: provider.name.clone(),
            remote: remote.clone(),
            call: None,
            hash: 0,
            is_wanted: false,
            said: String::new(),
            fetches: Counters::default(),
        })
    }

    /// The record to write if a fetch is due. Make the fetch if no other worker wrote first. To be asked on each tick.
    pub fn claim(&mut self, head: KeySetHead, now: Millis) -> Option<KeySetHead> {
        let lost = self.remote.timeout + LOST;
        let is_under_way = head.is_under_way && head.tried <= now && now.since(head.tried) < lost;
        // A clock that was set back must not stop it.
        let is_due = now >= head.due || head.due.since(now) > self.remote.refresh + lost;
        let is_wanted = std::mem::take(&mut self.is_wanted) && head.may_try(now);
        let due = now + self.retry();
        (!is_under_way && (is_due || is_wanted)).then_some(KeySetHead {
            tried: now,
            due,
            is_under_way: true,
            ..head
        })
    }

    /// The fetch was made; its answer will bear `token`.
    pub fn call_started(&mut self, token: u32) {
        self.call = Some(token);
    }

    /// True if this is the end of its fetch, which is then over.
    pub fn take_call(&mut self, token: u32) -> bool {
        self.call.take_if(|call| *call == token).is_some()
    }

    /// What the end of a fetch leads to.
    pub fn fetched<'b>(
        &mut self,
        body: Result<&'b [u8], &CallFailure>,
        head: KeySetHead,
        now: Millis,
    ) -> Fetched<'b> {
        let set = match body {
            Err(failure) => Err(failure.detail.clone()),
            Ok(body) => match Keys::from_jwks(body) {
                Ok(keys) => Ok((body, keys.hash())),
                Err(error) => Err(format!("the answer {error}")),
            },
        };
        self.fetches.add(usize::from(set.is_ok()), 1);
        match set {
            Ok((body, hash)) => {
                self.said.clear();
                let due = now + self.remote.refresh;
                let is_new = hash != head.hash;
                let head = KeySetHead { tried: now, due, is_under_way: false, hash };
                Fetched { head, body: Some(body).filter(|_| is_new), failure: None }
            }
            Err(failure) => {
                let due = now + self.retry();
                let head = KeySetHead { tried: now, due, is_under_way: false, ..head };
                let is_new = self.said != failure;
                self.said.clone_from(&failure);
                Fetched { head, body: None, failure: Some(failure).filter(|_| is_new) }
            }
        }
    }

    /// True if the published keys are not those in use.
    #[must_use]
    pub fn has_news(&self, head: KeySetHead) -> bool {
        head.hash != self.hash
    }

    /// Takes the published keys into use. `head` is the record that was read before `body`.
    pub fn take_keys(&mut self, head: KeySetHead, body: &[u8]) -> Option<Keys> {
        let keys = Keys::from_jwks(body).ok()?;
        // As it is published: another release in this Envoy may hash otherwise.
        self.hash = head.hash;
        Some(keys)
    }

    /// A token names a key that is not known. True if newer keys are on their way, or may be asked for.
    pub fn want(&mut self, head: KeySetHead, now: Millis) -> bool {
        self.is_wanted |= head.may_try(now);
        self.is_wanted || !self.is_current(head)
    }

    /// True if there are no keys to wait for.
    #[must_use]
    pub fn has_settled(&self, head: KeySetHead) -> bool {
        !self.is_wanted && self.is_current(head)
    }

    /// How long requests wait for keys.
    #[must_use]
    pub fn patience(&self) -> Millis {
        self.remote.timeout + LOST
    }

    /// Fetches that failed (0), and that succeeded (1), since this was last asked.
    pub fn take_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.fetches.take()
    }

    fn is_current(&self, head: KeySetHead) -> bool {
        !head.is_under_way && head.hash == self.hash
    }

    fn retry(&self) -> Millis {
        RETRY.min(self.remote.refresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a public key for Ed25519.
    const JWKS: &[u8] =
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"BGZHCTCMh5sPDhurIfSkdG5VJQwAzBSlFelRWCww3-g"}]}"#;

    fn issuer() -> Issuer {
        let remote = RemoteKeys {
            cluster: "issuer".to_owned(),
            host: "issuer".to_owned(),
            path: "/keys".to_owned(),
            refresh: Millis(60_000),
            timeout: Millis(1_000),
        };
        let fetches = Counters::default();
        let (provider, said) = ("p".to_owned(), String::new());
        Issuer { provider, remote, call: None, hash: 0, is_wanted: false, said, fetches }
    }

    fn failure() -> CallFailure {
        CallFailure::new("refused")
    }

    #[test]
    fn one_worker_fetches_and_the_others_wait_for_it() {
        let (mut first, mut second) = (issuer(), issuer());
        let head = first.claim(KeySetHead::default(), Millis(0)).unwrap();

        assert_eq!(second.claim(head, Millis(10)), None);
        assert!(second.want(head, Millis(10)), "keys are on their way");
        assert!(!second.has_settled(head));
        assert!(second.claim(head, Millis(5_000)).is_some(), "the first worker is gone");
    }

    #[test]
    fn a_fetch_that_fails_leaves_the_keys_and_is_made_again_soon() {
        let mut issuer = issuer();
        let head = issuer.claim(KeySetHead { hash: 7, ..KeySetHead::default() }, Millis(0)).unwrap();

        let fetched = issuer.fetched(Err(&failure()), head, Millis(500));

        assert_eq!((fetched.head.hash, fetched.body), (7, None));
        assert_eq!(fetched.failure.as_deref(), Some("refused"));
        assert_eq!(issuer.claim(fetched.head, Millis(5_499)), None);
        assert!(issuer.claim(fetched.head, Millis(5_500)).is_some());
        assert_eq!(issuer.take_counts().collect::<Vec<_>>(), [(0, 1)]);
    }

    #[test]
    fn unknown_keys_ask_for_newer_ones_no_more_often_than_allowed() {
        let mut issuer = issuer();
        let head = KeySetHead { tried: Millis(10_000), due: Millis(60_000), is_under_way: false, hash: 0 };

        assert!(!issuer.want(head, Millis(14_999)), "one was made just now");
        assert_eq!(issuer.claim(head, Millis(14_999)), None);
        assert!(issuer.want(head, Millis(15_000)));
        assert!(issuer.claim(head, Millis(15_000)).is_some());
    }

    #[test]
    fn only_another_key_set_is_published() {
        let mut issuer = issuer();
        let fetched = issuer.fetched(Ok(JWKS), KeySetHead::default(), Millis(0));
        assert_eq!(fetched.body, Some(JWKS), "{:?}", fetched.failure);
        assert!(issuer.has_news(fetched.head));
        assert!(issuer.take_keys(fetched.head, JWKS).is_some());
        assert!(issuer.has_settled(fetched.head));

        let head = fetched.head;
        let text = std::str::from_utf8(JWKS).unwrap();
        let reformatted = text.replace(',', " ,\n").replace(r#""kty":"OKP" ,"#, r#""x5t":"x","kty":"OKP","#);
        for same in [text, reformatted.as_str()] {
            assert_eq!(issuer.fetched(Ok(same.as_bytes()), head, Millis(60_000)).body, None, "{same}");
        }
        let renamed = text.replace(r#""a""#, r#""b""#);
        assert!(issuer.fetched(Ok(renamed.as_bytes()), head, Millis(60_000)).body.is_some());
        assert!(issuer.fetched(Ok(b"{}"), fetched.head, Millis(60_000)).failure.is_some());
    }

    #[test]
    fn an_answer_that_is_no_set_of_keys_leaves_those_in_use_and_says_what_to_do() {
        let key = std::str::from_utf8(JWKS).unwrap();
        let one = key.trim_start_matches(r#"{"keys":["#).trim_end_matches("]}");
        let many = |count: usize, one: &str| format!(r#"{{"keys":[{}]}}"#, vec![one; count].join(","));
        let long = one.replace(r#""kid":"a""#, &format!(r#""kid":"{}""#, "k".repeat(2_000)));
        let cases = [
            (many(10_000, one), "is larger than 65536 bytes: publish only keys"),
            (many(10_000, "{}"), "has more than 64 keys: publish only those"),
            ("x".repeat(50 << 20), "is larger than 65536 bytes: publish only keys"),
            (one.replace(r#""kid":"a""#, &format!(r#""kid":"{}""#, "k".repeat(100_000))), "is larger than"),
            (many(1, &long), "has no usable key"),
            ("<html>sign in</html>".to_owned(), "is not a JSON object with an array of keys"),
            (String::new(), "is not a JSON object"),
        ];
        let mut issuer = issuer();
        let head = issuer.fetched(Ok(JWKS), KeySetHead::default(), Millis(0)).head;
        issuer.take_keys(head, JWKS).unwrap();
        for (answer, says) in &cases {
            issuer.fetched(Ok(JWKS), head, Millis(60_000));
            let fetched = issuer.fetched(Ok(answer.as_bytes()), head, Millis(60_000));
            let said = fetched.failure.unwrap();
            assert!(said.starts_with("the answer ") && said.contains(says), "{said}");
            assert_eq!((fetched.head.hash, fetched.body), (head.hash, None));
            assert!(!issuer.has_news(fetched.head), "the keys in use stay");
        }
        let moved = CallFailure::redirected("302", "https://elsewhere.example.com/jwks");
        let said = issuer.fetched(Err(&moved), head, Millis(60_000)).failure.unwrap();
        assert!(said.contains("redirects to https://elsewhere.example.com/jwks, which is not followed"));
    }

    #[test]
    fn a_failure_is_said_once_until_something_changes() {
        let mut issuer = issuer();
        let mut said = |body: Result<&[u8], &CallFailure>| {
            issuer.fetched(body, KeySetHead::default(), Millis(0)).failure.is_some()
        };
        let (refused, late) = (failure(), CallFailure::new("504 late"));

        assert!(said(Err(&refused)) && !said(Err(&refused)));
        assert!(said(Err(&late)) && said(Err(&refused)) && !said(Err(&refused)));
        assert!(!said(Ok(JWKS)) && said(Err(&refused)));
    }

    #[test]
    fn what_is_shared_is_what_is_read() {
        let head = KeySetHead { tried: Millis(1), due: Millis(2), is_under_way: true, hash: u64::MAX };

        assert_eq!(KeySetHead::decode(&head.encode()), Some(head));
        assert_eq!(KeySetHead::decode(b"1 2"), None);
    }
}

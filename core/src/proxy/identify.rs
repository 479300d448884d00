//! Which session a request belongs to, and what becomes of one that names none.

use std::borrow::Cow;
use std::cell::RefCell;

use super::tokens::Memo;
use super::{Pool, Proxy, Request, Waiter};
use crate::attributes::{Attributes, all_lines};
use crate::config::{Missing, OnInvalid, Rule};
use crate::decision::{Decision, PoolPolicy, Reply};
use crate::event::Reason;
use crate::rollout::Mode;
use crate::session::{self, Found, History, SessionId, Source};
use crate::token::Refusal;

impl Proxy {
    /// The session of the request. Without one: what becomes of the request, or `None` if it waits in the pending queue.
    pub(super) fn identify(
        &mut self,
        request: &mut Request,
        rule: &Rule,
        memo: &mut Memo,
        waiter: &Waiter<'_>,
    ) -> Result<(SessionId, Option<History>), Option<Decision>> {
        let Rule { session, rollout, .. } = rule;
        let mut found = self.find(rule, memo, waiter);
        if matches!(found, Found::Pending) {
            if self.wait_for_token(request, memo, waiter, rollout.mode == Mode::Enforce) {
                return Err(None);
            }
            found = self.find(rule, memo, waiter);
        }
        Err(Some(match (found, &session.missing) {
            (Found::Session(id, source, history), missing) => {
                request.has_issued_cookie = matches!(missing, Missing::IssueCookie(template)
                    if source.is_whole_cookie(template.name()) && template.may_have_made(&id));
                return Ok((id, history));
            }
            // Observe mode begins no sessions and rejects nothing.
            _ if rollout.mode == Mode::Observe => Decision::pass(Reason::NoSession),
            // Browsers send it without cookies and tokens, and take nothing but 200 or 204 for an answer.
            (Found::Refused(..) | Found::Unchecked(_), _)
            | (_, Missing::Reject | Missing::IssueCookie(_))
                if is_preflight(waiter.attributes) =>
            {
                Decision::pass(Reason::NoSession)
            }
            // Below 100 % there is no way to know whether Berth is switched on for a request without a session.
            (Found::Refused(..) | Found::Unchecked(_), _) | (_, Missing::Reject) if rollout.is_partial() => {
                Decision::pass(Reason::NotRolledOut)
            }
            (Found::Unchecked(provider), _) => self.put_off(rule, provider),
            (Found::Refused(provider, refusal), _) => self.refuse(rule, provider, refusal, memo, waiter),
            (_, Missing::IssueCookie(template)) => {
                let issue = |pool: &mut Pool| {
                    let snapshot = pool.snapshot();
                    pool.connections.issue(template, snapshot.as_deref(), waiter.attributes)
                };
                if let Some(id) = self.pools.get_mut(rule.pool).and_then(issue) {
                    request.cookie = template.set_cookie(&id);
                    request.is_issued = true;
                    return Ok((id, None));
                }
                Decision::pass(Reason::NoSession)
            }
            (_, Missing::Pass) => Decision::pass(Reason::NoSession),
            (_, Missing::Reject) if session.sources.iter().all(Source::is_token) => {
                Decision::challenge(Reason::NoSession, "Bearer")
            }
            (_, Missing::Reject) => {
                let sources = session::describe(&session.sources);
                let body = format!("berth: this request names no session; send one as {sources}\n");
                Decision::Reply(Reply::new(400, Reason::NoSession, Cow::Owned(body)))
            }
        }))
    }

    fn find<'r>(&self, rule: &'r Rule, memo: &mut Memo, waiter: &Waiter<'_>) -> Found<'r> {
        let Waiter { attributes, .. } = *waiter;
        let memo = RefCell::new(memo);
        let mut header = |name: &str| memo.borrow().last_look(name, attributes);
        let mut token = |provider| memo.borrow_mut().token(&self.tokens, provider, attributes, self.tick);
        let mut all = |name: &str| all_lines(attributes, name);
        session::find(&rule.session.sources, &mut header, &mut all, &mut token)
    }

    /// A token that could not be checked. It may be a good one.
    pub(super) fn put_off(&self, rule: &Rule, provider: usize) -> Decision {
        match self.pools.get(rule.pool).filter(|_| self.tokens.on_invalid(provider) == OnInvalid::Reject) {
            Some(pool) => {
                let body = "berth: too many tokens wait to be checked; keep this one and try again\n";
                PoolPolicy::of(&pool.config).unavailable(Reason::TokenUnchecked, body)
            }
            None => Decision::pass(Reason::TokenUnchecked),
        }
    }

    /// A token that is not to be believed; or that cannot be verified yet, which is not its sender's fault.
    fn refuse(
        &self,
        rule: &Rule,
        provider: usize,
        refusal: Refusal,
        memo: &Memo,
        waiter: &Waiter<'_>,
    ) -> Decision {
        if self.tokens.on_invalid(provider) == OnInvalid::Sessionless {
            return Decision::pass(Reason::TokenRefused);
        }
        let pool = self.pools.get(rule.pool).filter(|_| !self.tokens.has_keys(provider));
        if let Some(pool) = pool {
            let body = "berth: the keys that would verify this token are not there yet; try again\n";
            return PoolPolicy::of(&pool.config).unavailable(Reason::KeysAway, body);
        }
        let deletion = self.tokens.deletion_of_refused(memo, waiter.attributes);
        unauthorized(Reason::TokenRefused, refusal, deletion)
    }

    /// 401 to a token of this provider that was verified, and whose session cannot be served.
    pub(super) fn refuse_verified(
        &self,
        provider: Option<usize>,
        reason: Reason,
        refusal: Refusal,
        memo: &Memo,
        waiter: &Waiter<'_>,
    ) -> Decision {
        let deletion =
            provider.and_then(|provider| self.tokens.deletion_of(provider, memo, waiter.attributes));
        unauthorized(reason, refusal, deletion)
    }
}

fn unauthorized(reason: Reason, refusal: Refusal, deletion: Option<&str>) -> Decision {
    match Decision::challenge(reason, refusal.challenge()) {
        Decision::Reply(reply) => Decision::Reply(Reply { set_cookie: deletion.map(Into::into), ..reply }),
        other => other,
    }
}

/// A browser asks whether a page of another origin may send the request that follows (CORS).
fn is_preflight(attributes: &dyn Attributes) -> bool {
    attributes.header(":method").is_some_and(|method| method == b"OPTIONS")
        && ["origin", "access-control-request-method"].iter().all(|name| attributes.header(name).is_some())
}

//! The rules: which requests a pool serves, how firmly their sessions stay, and for how many of them.
//!
//! Without `rules` each pool is a rule of its own, by its `match`. First match wins.

use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::Value;

use super::claims::ClaimBook;
use super::fields::{Faults, Fields, quoted};
use super::matching::Match;
use super::pool::{Pool, check_name};
use super::session::{Missing, Session, read_session};
use crate::rollout::{Mode, Rollout};

/// Each is compared with a request in turn.
pub(super) const MAX_RULES: usize = 64;

/// What is done with the requests that it takes.
#[derive(Debug)]
pub struct Rule {
    /// Its name in metrics; the pool's name if the rule is only the pool's `match`.
    pub name: String,
    /// Whether it stands in `rules`, and so has metrics of its own.
    pub is_named: bool,
    /// Which requests it takes.
    pub matches: Match,
    /// The pool's place in the configuration.
    pub pool: usize,
    /// What names a session.
    pub session: Rc<Session>,
    /// How firmly a session stays with its node.
    pub affinity: Affinity,
    /// How far all this is switched on.
    pub rollout: Rollout,
}

/// How firmly a session stays with its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Affinity {
    /// It moves when its node may not serve it any more.
    #[default]
    Prefer,
    /// Rather no answer than another node's: 503, until its node is back or its pin has expired.
    Strict,
    /// It goes wherever Envoy sends it.
    Off,
}

impl Rule {
    /// Reads all rules, or makes them of the pools.
    pub(super) fn read_all(
        fields: &mut Fields<'_>,
        pools: &[(String, &Value)],
        read: &[Option<Pool>],
        has_state: bool,
        book: &mut ClaimBook,
        faults: &mut Faults,
    ) -> Vec<Self> {
        if fields.value("rules").is_none() {
            return Self::of_pools(pools, read, book, faults);
        }
        for (path, value) in pools {
            if value.get("match").is_some_and(|value| !value.is_null()) {
                let message = "does not go with rules: say in a rule which requests the pool serves";
                faults.add(&format!("{path}.match"), message);
            }
        }
        let advice = "name at least one rule, or leave it out";
        let elements = fields.required_array("rules", MAX_RULES, advice, faults);
        let names: Vec<&str> = pools.iter().map(|(_, value)| name_of(value)).collect();
        let (mut taken, mut used) = (BTreeSet::new(), BTreeSet::new());
        let mut rules = Vec::new();
        let mut paths = Vec::new();
        for (index, (path, value)) in elements.iter().enumerate() {
            let name = name_of(value);
            if !name.is_empty() && !taken.insert(name) {
                let message = format!("{} is taken by another rule: give it its own", quoted(name));
                faults.add(&format!("{path}.name"), message);
            }
            if takes_everything(value) && index + 1 < elements.len() {
                faults.add(
                    &format!("{path}.match"),
                    "is missing: this rule takes every request, so those after it get none: say which it takes, \
                     or move it to the end",
                );
            }
            used.extend(value.get("pool").and_then(Value::as_str));
            if let Some(rule) = Self::read(value, path, &names, read, has_state, book, faults) {
                rules.push(rule);
                paths.push(path);
            }
        }
        for (rule, path) in rules.iter().zip(paths) {
            check_signed_cookies(rule, path, &rules, faults);
        }
        for ((path, _), name) in pools.iter().zip(&names).filter(|(_, name)| !used.contains(*name)) {
            if !name.is_empty() && !elements.is_empty() {
                faults
                    .add(path, format!("serves no rule: name pool {} in one, or take it out", quoted(name)));
            }
        }
        rules
    }

    fn of_pools(
        pools: &[(String, &Value)],
        read: &[Option<Pool>],
        book: &mut ClaimBook,
        faults: &mut Faults,
    ) -> Vec<Self> {
        let mut rules = Vec::new();
        for (index, ((path, value), pool)) in pools.iter().zip(read).enumerate() {
            if takes_everything(value) && index + 1 < pools.len() {
                faults.add(
                    &format!("{path}.match"),
                    "is missing: this pool takes every request, so those after it get none: say which it takes, \
                     or move it to the end",
                );
            }
            let mut fields = Fields::of(value, path, &mut Faults::default());
            let matches = Match::read(&mut fields, book, faults);
            let Some(pool) = pool else { continue };
            check_cookie_domain(&pool.session, &matches, path, faults);
            rules.push(Self {
                name: pool.name.clone(),
                is_named: false,
                matches,
                pool: index,
                session: Rc::clone(&pool.session),
                affinity: Affinity::default(),
                rollout: Rollout::default(),
            });
        }
        rules
    }

    fn read(
        value: &Value,
        path: &str,
        names: &[&str],
        pools: &[Option<Pool>],
        has_state: bool,
        book: &mut ClaimBook,
        faults: &mut Faults,
    ) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", "name the rule, as its metrics will", faults);
        if let Some(name) = name {
            check_name(name, &fields.path_of("name"), faults);
        }
        let matches = Match::read(&mut fields, book, faults);
        let pool = fields.required_string("pool", "name the pool that serves it", faults);
        let index = pool.and_then(|pool| names.iter().position(|name| *name == pool));
        if let Some(pool) = pool.filter(|_| index.is_none()) {
            let known: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            let message = format!("is no pool: pools are {}, is {}", known.join(", "), quoted(pool));
            faults.add(&fields.path_of("pool"), message);
        }
        let own = fields
            .value("session")
            .is_some()
            .then(|| Rc::new(read_session(&mut fields, has_state, book, faults)));
        let choices = [("prefer", Affinity::Prefer), ("strict", Affinity::Strict), ("off", Affinity::Off)];
        let affinity = fields.choice("affinity", &choices, faults).unwrap_or_default();
        if affinity == Affinity::Strict && !has_state {
            let message = "needs pins that outlive a node's failure: add state, or take \"prefer\"";
            faults.add(&fields.path_of("affinity"), message);
        }
        let rollout = read_rollout(&mut fields, faults);
        fields.finish(faults);
        let index = index?;
        let session = own.or_else(|| Some(Rc::clone(&pools.get(index)?.as_ref()?.session)))?;
        check_cookie_domain(&session, &matches, path, faults);
        let name = name?.to_owned();
        Some(Self { name, is_named: true, matches, pool: index, session, affinity, rollout })
    }
}

/// What one rule of a pool signs, no other one may take unsigned: invented ids would come in by that one.
fn check_signed_cookies(rule: &Rule, path: &str, rules: &[Rule], faults: &mut Faults) {
    for other in rules.iter().filter(|other| other.pool == rule.pool) {
        if let Missing::IssueCookie(template) = &other.session.missing
            && let Some(signer) = template.signer()
            && rule.session.sources.iter().any(|source| source.takes_unsigned(template.name(), signer))
        {
            let cookie = quoted(template.name());
            let message = format!(
                "takes any id from cookie {cookie}, whose ids rule {} of the same pool signs: give it the same \
                 missing.issue_cookie, or another cookie",
                quoted(&other.name)
            );
            faults.add(&format!("{path}.session"), message);
            return;
        }
    }
}

/// Each request to a host whose cookies browsers drop would begin a session.
fn check_cookie_domain(session: &Session, matches: &Match, path: &str, faults: &mut Faults) {
    let Missing::IssueCookie(template) = &session.missing else { return };
    for host in &matches.hosts {
        if let Some(domain) = template.domain_without(host) {
            let message = format!(
                "{} is outside {domain}, the domain of the cookie that is issued: browsers drop it there. Make it a rule of \
                 its own, or leave the cookie's domain out",
                quoted(host)
            );
            faults.add(&format!("{path}.match.hosts"), message);
        }
    }
}

fn read_rollout(fields: &mut Fields<'_>, faults: &mut Faults) -> Rollout {
    let Some(value) = fields.value("rollout") else { return Rollout::default() };
    let mut fields = Fields::of(value, &fields.path_of("rollout"), faults);
    let choices = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];
    let mode = fields.choice("mode", &choices, faults).unwrap_or_default();
    let percent = fields.number("percent", 0..=100, faults).unwrap_or(Rollout::default().percent);
    fields.finish(faults);
    Rollout { mode, percent }
}

fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn takes_everything(value: &Value) -> bool {
    value.is_object() && value.get("match").is_none_or(Value::is_null)
}

//! Any bytes in, a configuration that is right or what is wrong with it.

use berth_core::config::{Config, Fault, Membership, Pool, Rule};
use berth_core::session::identify;

/// Reads the configuration twice, and asks what came of it.
pub fn check(input: &[u8]) {
    let read = Config::parse(input);
    let again = Config::parse(input);
    assert_eq!(format!("{read:?}"), format!("{again:?}"), "the same bytes mean the same");

    match read {
        Ok(config) => {
            assert!(!config.pools.is_empty(), "a configuration has pools");
            config.pools.iter().for_each(|pool| check_pool(pool, input));
            assert!(config.rules.len() >= config.pools.len(), "each pool serves somebody");
            config.rules.iter().for_each(|rule| check_rule(rule, input));
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "what is wrong has a reason");
            faults.iter().for_each(check_fault);
        }
    }
}

fn check_fault(fault: &Fault) {
    assert!(!fault.message.is_empty(), "a fault says what it is");
    assert!(!fault.to_string().contains(char::is_control), "a fault is one line: {fault:?}");
}

/// A pool that was read can be used with anything.
fn check_pool(pool: &Pool, noise: &[u8]) {
    let health = &pool.health;
    assert!(health.cooldown <= health.max_cooldown, "{health:?}");
    assert!(health.panic_threshold <= 100 && health.warm_up_from_percent <= 100, "{health:?}");
    assert_eq!(pool.algorithm.validate(), Ok(()), "its ring can be built");
    assert!(!pool.session.sources.is_empty(), "a session can be somewhere");
    if let Membership::Static(members) = &pool.membership {
        assert!(members.iter().all(|member| member.weight > 0) && !members.is_empty(), "{members:?}");
    }
    identify(&pool.session.sources, &mut |_| Some(noise.to_vec()));
}

/// A rule that was read can be asked about anything.
fn check_rule(rule: &Rule, noise: &[u8]) {
    let matches = &rule.matches;
    let takes = matches.takes_host(noise) && matches.takes_path(noise) && matches.takes_cluster(noise);
    let takes = takes && matches.headers.iter().all(|header| header.takes(Some(noise)));
    assert!(takes || !matches.is_everything(), "without a condition every request fits");
    assert!(rule.rollout.percent <= 100, "{rule:?}");
    identify(&rule.session.sources, &mut |_| Some(noise.to_vec()));
}

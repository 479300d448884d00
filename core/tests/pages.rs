//! The pages against what they tell of: who copies a configuration from docs/identity.md, docs/minted-ids.md, docs/tokens.md and
//! docs/rollout.md and the pages of docs/recipes/ gets what they say, and whatever a proxy counts or shows is explained in docs/OPERATIONS.md or one of these.

use std::fs;
use std::path::Path;

use berth_core::config::Config;
use berth_core::event::{self, Counter};
use berth_core::token::Refusal;

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).unwrap()
}

/// The pages of docs/recipes/.
fn recipes() -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recipes");
    fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
}

/// What stands between ```` ```json ```` and its end, in order.
fn configurations(page: &str) -> Vec<&str> {
    page.split("```json\n").skip(1).map(|rest| rest.split_once("```").expect("a block that ends").0).collect()
}

#[test]
fn every_configuration_of_the_page_is_one() {
    let pages = [("identity.md", 5), ("minted-ids.md", 1), ("rollout.md", 3), ("tokens.md", 8)]
        .map(|(name, least)| (name, page(name), least));
    let mut configurations = Vec::new();
    let recipes: Vec<String> = recipes().collect();
    assert!(recipes.len() >= 12, "{} pages of recipes: they have another place", recipes.len());
    configurations.extend(recipes.iter().flat_map(|page| self::configurations(page)));
    for (name, page, least) in &pages {
        let found = self::configurations(page);
        assert!(found.len() >= *least, "{name} has {} blocks: it has changed its form", found.len());
        configurations.extend(found);
    }

    for json in configurations {
        if let Err(faults) = Config::parse(json.as_bytes()) {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            panic!("{json}\n{}", faults.join("\n"));
        }
    }
}

/// They are for envoy-state.yaml, whose route of sessions leaves `x-berth-end` to the filter: where that does not remove it, a client would
/// see a backend's.
#[test]
fn recipes_leave_no_header_of_a_backend_that_neither_filter_nor_route_removes() {
    let mut pools = 0;
    for page in recipes() {
        for json in configurations(&page) {
            let plugin: serde_json::Value = serde_json::from_str(json).unwrap();
            if plugin["guard"] == "listener" && !plugin["state"].is_null() {
                for pool in plugin["pools"].as_array().unwrap() {
                    assert_eq!(pool["end_header"], true, "{json}");
                    pools += 1;
                }
            }
        }
    }
    assert!(pools >= 11, "{pools}");
}

#[test]
fn every_refusal_has_a_row_that_says_what_to_do() {
    let page = page("tokens.md");

    for refusal in Refusal::ALL {
        let row = format!("| `{}` | 401", refusal.name());
        assert!(page.lines().any(|line| line.starts_with(&row)), "no row {row}");
    }
}

/// Texts in quotes.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

#[test]
fn every_outcome_reason_and_result_is_explained() {
    // What is shown is what a `name` or a `stat` makes of a variant: `Self::Pin => "pin",`.
    let source = include_str!("../src/event.rs").split("#[cfg(test)]").next().unwrap();
    let arms =
        source.lines().filter(|line| line.trim_start().starts_with("Self::") && line.contains("=> \""));
    let names: Vec<&str> = arms.flat_map(literals).collect();
    assert!(names.len() >= 37, "{names:?}: event.rs has changed its form");
    let pages = ["OPERATIONS.md", "rollout.md", "tokens.md"].map(page).concat();

    for name in names {
        assert!(pages.contains(&format!("`{name}`")), "nothing says what {name} means");
    }
}

#[test]
fn every_metric_is_explained() {
    let counters = Counter::ALL.map(|counter| counter.stat("p"));
    let gauges = [
        event::nodes_gauge("p", "active"),
        event::panic_gauge("p"),
        event::pins_gauge("p"),
        event::breaker_gauge("p"),
    ];
    // Those of rules and tokens have no list: what event.rs spells out.
    let source = include_str!("../src/event.rs").split("#[cfg(test)]").next().unwrap();
    let spelt = literals(source).filter(|text| text.starts_with("berth_") && !text.starts_with("berth_{"));
    let stats: Vec<String> = counters.iter().cloned().chain(gauges).chain(spelt.map(str::to_owned)).collect();
    assert!(stats.len() >= 36, "{stats:?}: event.rs has changed its form");
    let page = page("OPERATIONS.md");

    for stat in &stats {
        let name = stat.split('.').next().unwrap();
        assert!(page.contains(&format!("`{name}")), "nothing says what {name} means");
    }
    for stat in &counters {
        // After `name.pool.p` come labels and values in turn.
        for value in stat.split('.').skip(4).step_by(2) {
            assert!(page.contains(&format!("`{value}`")), "{stat}: nothing says what {value} means");
        }
    }
}

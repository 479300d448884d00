//! docs/identity.md and docs/rollout.md against what they tell of: who copies from them gets what they say.

use std::fs;
use std::path::Path;

use berth_core::config::Config;
use berth_core::token::Refusal;

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)).unwrap()
}

/// What stands between ```` ```json ```` and its end, in order.
fn configurations(page: &str) -> Vec<&str> {
    page.split("```json\n").skip(1).map(|rest| rest.split_once("```").expect("a block that ends").0).collect()
}

#[test]
fn every_configuration_of_the_page_is_one() {
    let pages = [("identity.md", 6), ("rollout.md", 3)].map(|(name, least)| (name, page(name), least));
    let mut configurations = Vec::new();
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

#[test]
fn every_refusal_has_a_row_that_says_what_to_do() {
    let page = page("identity.md");

    for refusal in Refusal::ALL {
        let row = format!("| `{}` | 401", refusal.name());
        assert!(page.lines().any(|line| line.starts_with(&row)), "no row {row}");
    }
}

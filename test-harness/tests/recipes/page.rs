//! The blocks of a recipe's page.

use std::fs;

use berth_harness::root;
use serde_json::Value;

/// A page of docs/recipes/.
pub(crate) struct Page {
    name: String,
    text: String,
}

impl Page {
    pub(crate) fn open(name: &str) -> Self {
        let name = format!("docs/recipes/{name}");
        let text = fs::read_to_string(root().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, text }
    }

    /// The plugin's configuration.
    #[track_caller]
    pub(crate) fn plugin(&self) -> Value {
        serde_json::from_str(self.only("json")).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// A piece of Envoy's configuration, counted from 0.
    #[track_caller]
    pub(crate) fn envoy(&self, index: usize) -> Value {
        let blocks = self.blocks("yaml");
        serde_yaml_ng::from_str(blocks[index]).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The commands to run.
    #[track_caller]
    pub(crate) fn commands(&self) -> &str {
        self.only("sh")
    }

    #[track_caller]
    fn only(&self, language: &str) -> &str {
        let blocks = self.blocks(language);
        assert_eq!(blocks.len(), 1, "{}: blocks of {language}", self.name);
        blocks[0]
    }

    fn blocks(&self, language: &str) -> Vec<&str> {
        let begin = format!("\n```{language}\n");
        self.text.split(&begin).skip(1).map(|rest| rest.split_once("\n```").expect("an end").0).collect()
    }
}

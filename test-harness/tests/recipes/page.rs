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

    /// All pages that have a configuration of the plugin.
    pub(crate) fn all() -> Vec<Self> {
        let files = fs::read_dir(root().join("docs/recipes")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut pages: Vec<Self> = names.map(|name| Self::open(&name)).collect();
        pages.retain(|page| !page.blocks("json").is_empty());
        pages.sort_by(|one, other| one.name.cmp(&other.name));
        pages
    }

    /// Where it is, from the top of the tree.
    pub(crate) fn name(&self) -> &str {
        &self.name
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

    /// Commands to run, counted from 0.
    #[track_caller]
    pub(crate) fn commands(&self, index: usize) -> &str {
        self.blocks("sh")[index]
    }

    /// Each use of the program `berth` with arguments, in the text and in blocks.
    pub(crate) fn uses_of_berth(&self) -> Vec<&str> {
        let ends = ['`', '|', '\n'];
        let uses = self.text.split(ends).map(str::trim);
        uses.filter(|piece| piece.starts_with("berth ") && piece.split(' ').count() > 2).collect()
    }

    /// The number that stands behind this text, wherever it occurs.
    pub(crate) fn numbers(&self, before: &str) -> Vec<usize> {
        let digits = |rest: &str| rest.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok();
        self.text.split(before).skip(1).filter_map(digits).collect()
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

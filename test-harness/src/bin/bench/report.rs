//! What was measured, for people and for programs: printed, and written to target/bench.

use serde_json::{Map, Value, json};

#[derive(Default)]
pub(crate) struct Report {
    text: String,
    json: Map<String, Value>,
}

impl Report {
    /// Begins a part.
    pub(crate) fn section(&mut self, title: &str, how: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        self.tell(&format!("{gap}# {title}\n\n{how}\n\n"));
    }

    /// Begins a table; its rows follow.
    pub(crate) fn table(&mut self, head: &[&str]) {
        self.row(head);
        self.tell(&format!("|{}\n", "---|".repeat(head.len())));
    }

    pub(crate) fn row(&mut self, cells: &[&str]) {
        self.tell(&format!("| {} |\n", cells.join(" | ")));
    }

    /// The same for programs.
    pub(crate) fn json(&mut self, part: &str, rows: Vec<Value>) {
        self.json.insert(part.to_owned(), Value::Array(rows));
    }

    /// Writes both files.
    pub(crate) fn write(&self) -> Result<(), String> {
        let directory = berth_harness::root().join("target/bench");
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("report.md"), &self.text))
            .and_then(|()| std::fs::write(directory.join("report.json"), format!("{:#}\n", json!(self.json))))
            .map_err(|error| format!("{}: {error}", directory.display()))
    }

    fn tell(&mut self, text: &str) {
        print!("{text}");
        self.text.push_str(text);
    }
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The ratio to the base of the same rounds. A round's arms are seconds apart, rounds are minutes: the ratio within a
/// round drifts least.
pub(crate) fn against(costs: &[f64], base: &[f64]) -> f64 {
    median(&costs.iter().zip(base).map(|(cost, base)| cost / base).collect::<Vec<_>>())
}

/// The median, from least to most.
pub(crate) fn spread(costs: &[f64]) -> String {
    let (least, most) =
        costs.iter().fold((f64::MAX, 0f64), |(least, most), &cost| (least.min(cost), most.max(cost)));
    format!("{:.1} ({least:.1}–{most:.1})", median(costs))
}

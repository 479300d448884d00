//! What is printed: chapters, the table of where sessions live – redrawn in place on a terminal, printed once per chapter
//! elsewhere – and the table of the end. At most 100 columns.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use berth_harness::World;

use crate::crowd::Look;

const BAR: usize = 24;

pub(crate) struct Screen {
    /// What the second column is of.
    native: &'static str,
    /// Lines of the table on the terminal that the next one replaces.
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(native: &'static str) -> Self {
        Self { native, drawn: 0 }
    }

    /// A title; the next table stands below it.
    pub(crate) fn chapter(&mut self, title: &str) {
        self.drawn = 0;
        println!("\n── {title}");
    }

    /// A line below the table.
    pub(crate) fn line(&mut self, text: &str) {
        self.drawn = 0;
        println!("{text}");
    }

    /// The table as it is now; only a terminal gets those in between.
    pub(crate) fn draw(
        &mut self,
        world: &World,
        down: &BTreeSet<String>,
        berth: &Look,
        native: &Look,
        last: bool,
    ) {
        let terminal = std::io::stdout().is_terminal();
        if !last && !terminal {
            return;
        }
        if self.drawn > 0 && terminal {
            // Up and clear to the end of the screen.
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        let (berth, native) = (berth.counts(), native.counts());
        let most = berth.values().chain(native.values()).copied().max().unwrap_or(1);
        let nodes = world.nodes();
        println!("   {:<23}{:<31}{}", "", "Berth", self.native);
        for node in &nodes {
            let [berth, native] =
                [&berth, &native].map(|counts| counts.get(node.name()).copied().unwrap_or(0));
            let [bar, native_bar] =
                [berth, native].map(|count| "█".repeat((count * BAR).div_ceil(most).min(BAR)));
            let state = if down.contains(node.name()) { "down" } else { "up" };
            println!("   {:<16} {state:<5} {berth:>4} {bar:<BAR$} {native:>4} {native_bar}", node.name());
        }
        self.drawn = nodes.len() + 1;
    }
}

/// One line of the table of the end.
pub(crate) struct Row {
    pub(crate) step: &'static str,
    pub(crate) berth: String,
    pub(crate) native: String,
    pub(crate) promise: &'static str,
    pub(crate) held: bool,
}

/// All that happened, measured.
pub(crate) fn summary(beside: &str, rows: &[Row]) {
    let width = |head: &str, cell: fn(&Row) -> &str| {
        rows.iter().map(cell).chain([head]).map(|text| text.chars().count()).max().unwrap_or(0)
    };
    let step = width("", |row| row.step);
    let berth = width("Berth", |row| &row.berth);
    let native = width(beside, |row| &row.native);
    println!("\n   {:<step$} │ {:<berth$} │ {beside:<native$} │ promise", "", "Berth");
    println!("   {}┼{}┼{}┼──────────", line(step + 1), line(berth + 2), line(native + 2));
    for row in rows {
        let mark = if row.held { "✓" } else { "✗" };
        println!(
            "   {:<step$} │ {:<berth$} │ {:<native$} │ {mark} {}",
            row.step, row.berth, row.native, row.promise
        );
    }
}

fn line(length: usize) -> String {
    "─".repeat(length)
}

//! The table of where sessions live: redrawn in place on a terminal, printed once per chapter elsewhere.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use berth_harness::World;

use crate::crowd::Look;

const BAR: usize = 40;

#[derive(Default)]
pub(crate) struct Screen {
    /// Lines of the table on the terminal that the next one replaces.
    drawn: usize,
}

impl Screen {
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
    pub(crate) fn draw(&mut self, world: &World, down: &BTreeSet<String>, look: &Look, last: bool) {
        let terminal = std::io::stdout().is_terminal();
        if !last && !terminal {
            return;
        }
        if self.drawn > 0 && terminal {
            // Up and clear to the end of the screen.
            print!("\x1b[{}A\x1b[J", self.drawn);
        }
        let counts = look.counts();
        let most = counts.values().copied().max().unwrap_or(1);
        let nodes = world.nodes();
        for node in &nodes {
            let count = counts.get(node.name()).copied().unwrap_or(0);
            let bar = "█".repeat((count * BAR).div_ceil(most).min(BAR));
            let state = if down.contains(node.name()) { "down" } else { "up" };
            println!("   {:<16} {state:<5} {count:>4} {bar}", node.name());
        }
        self.drawn = nodes.len();
    }
}

//! The format of what is stored: of pins, of records of nodes, and of their copies.
//!
//! A text begins with its format, as `f2|`, and a record in JSON has a field `format`. Without that it is format 1, which services
//! of before write and read. A reader knows the formats up to its own; a newer one it names and leaves as it is. So a new format is
//! read by all services before the first one writes it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::lock::lock;
use crate::store::StoreError;

/// What is written, and the newest that is read; `scripts/format.lua` has it too.
pub(super) const FORMAT: u32 = 1;

/// The code of a script's refusal; its details begin with the format and the key.
pub(super) const CODE: &str = "FORMAT";

/// Each session may meet it: the log has it once in this time.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// What a service says of a format that it does not know.
pub(super) fn newer(format: &str, key: &str) -> StoreError {
    static LOGGED: Mutex<Option<Instant>> = Mutex::new(None);
    let message = format!(
        "{key} has format {format}, which a newer service wrote, and this one reads formats up to {FORMAT}: upgrade this service"
    );
    let mut logged = lock(&LOGGED);
    if logged.is_none_or(|at| at.elapsed() >= LOGGED_EVERY) {
        *logged = Some(Instant::now());
        tracing::error!("{message}");
    }
    StoreError::Refused(message)
}

/// The same, of what a script says.
pub(super) fn newer_by_script(details: &str) -> StoreError {
    let mut words = details.split_whitespace();
    newer(words.next().unwrap_or("?"), words.next().unwrap_or("a key"))
}

/// A text without its mark.
///
/// # Errors
/// If its format is newer.
pub(super) fn plain<'t>(key: &str, text: &'t str) -> Result<&'t str, StoreError> {
    let marked = text.strip_prefix('f').and_then(|rest| rest.split_once('|'));
    let marked =
        marked.filter(|(format, _)| !format.is_empty() && format.bytes().all(|b| b.is_ascii_digit()));
    match marked {
        None => Ok(text),
        // One that is no number of ours is larger than that.
        Some((format, rest)) if format.parse().is_ok_and(|format: u32| format <= FORMAT) => Ok(rest),
        Some((format, _)) => Err(newer(format, key)),
    }
}

/// JSON with its format.
#[derive(Serialize, Deserialize)]
pub(super) struct Marked<T> {
    #[serde(default = "first")]
    pub(super) format: u32,
    #[serde(flatten)]
    pub(super) of: T,
}

/// That of JSON, whatever else it has.
#[derive(Deserialize)]
pub(super) struct Mark {
    #[serde(default = "first")]
    pub(super) format: u32,
}

fn first() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::scripts;

    #[test]
    fn a_text_without_a_mark_is_of_the_first_format() {
        assert_eq!(plain("k", "3|1|2||n"), Ok("3|1|2||n"));
        assert_eq!(plain("k", "f1|3|1|2||n"), Ok("3|1|2||n"));
        assert_eq!(plain("k", "f|3"), Ok("f|3"));
    }

    #[test]
    fn a_newer_format_is_named_with_its_key_and_what_to_do() {
        for format in ["2", "12", "99999999999"] {
            let said =
                plain("berth:{nodes/3}:pin:k", &format!("f{format}|3|1|2||n")).unwrap_err().to_string();
            for part in [&format!("format {format},"), "berth:{nodes/3}:pin:k", "upgrade this service"] {
                assert!(said.contains(part), "{said}");
            }
        }
    }

    #[test]
    fn scripts_have_the_same_format() {
        let line = format!("local FORMAT = {FORMAT}\n");
        for script in
            [&scripts::RESOLVE, &scripts::TOUCH, &scripts::END, &scripts::RAISE, &scripts::COPY_NODE]
        {
            assert!(script.text.contains(&line));
        }
    }
}

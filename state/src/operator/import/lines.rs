//! Reads lines of a session and its node, beside what is done with them, and says what is wrong with a line.

use std::io::{self, BufRead, BufReader, Read};

use berth_core::session::{MAX_SESSION_ID, SessionId};
use berth_core::wire::{MAX_SESSIONS, NodeId};
use tokio::sync::mpsc::{Receiver, channel};

use crate::operator::arguments;

/// Many times what a session and a node have. A longer line is only looked through for its end, so that a file without lines
/// is not held in memory.
const MAX_LINE: usize = 64 << 10;
/// Lines that were read and not looked at yet. At this many reading waits.
const AHEAD: usize = 4 * MAX_SESSIONS;

/// The lines of this input, without their ends. Of one that is too long it has the beginning, by which [`read`] knows it.
pub(super) fn lines(input: Box<dyn Read + Send>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel(AHEAD);
    // A thread of its own: reading a pipe cannot be given up.
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        while let Some(line) = line(&mut input).transpose() {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    // One byte more than a line has: its end, or what tells that it is too long.
    let most = MAX_LINE as u64 + 1;
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > MAX_LINE {
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) session: SessionId,
    pub(super) node: NodeId,
    /// The id has blanks inside: perhaps it is more than the id.
    pub(super) has_blanks: bool,
}

/// Session and node of a line: the node is what follows the last blank or tab. `None` if one of them is not known.
pub(super) fn read(line: &[u8]) -> Result<Option<Placed>, String> {
    if line.len() > MAX_LINE {
        return Err(format!("is too long: a line has {MAX_LINE} bytes at most"));
    }
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    let Some(blank) = line.iter().rposition(u8::is_ascii_whitespace) else {
        // Before the trimming there was a blank: the session is missing.
        return Err("must be SESSION NODE, with a blank or a tab between them".to_owned());
    };
    let (before, node) = line.split_at(blank + 1);
    let session = before.trim_ascii_end();
    if session == b"-" || node == b"-" {
        return Ok(None);
    }
    let has_blanks = session.iter().any(u8::is_ascii_whitespace);
    if has_blanks && is_syslog(session) {
        return Err(
            "begins with the prefix of syslog: cut it off, so that the line is SESSION NODE".to_owned()
        );
    }
    let has_tab = before.get(session.len()..).is_some_and(|between| between.contains(&b'\t'));
    if has_blanks && !has_tab {
        return Err(
            "is more than SESSION NODE: cut off the rest. If the id itself has blanks, put a tab between \
                    it and its node"
                .to_owned(),
        );
    }
    let length = session.len();
    if length > MAX_SESSION_ID {
        return Err(format!(
            "its id has {length} bytes: proxies take one of more than {MAX_SESSION_ID} for no session"
        ));
    }
    let id = SessionId::new(session.to_vec())
        .ok_or("its id has a control character: proxies take such a one for no session")?;
    let node = std::str::from_utf8(node).map_err(|_| "its node is not text".to_owned())?;
    Ok(Some(Placed { session: id, node: arguments::node(node)?, has_blanks }))
}

/// A priority in angle brackets, as in `<134>` (RFC 3164, section 4.1.1).
fn is_syslog(session: &[u8]) -> bool {
    let Some(rest) = session.strip_prefix(b"<") else { return false };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (1..=3).contains(&digits) && rest.get(digits) == Some(&b'>')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> Result<Option<String>, String> {
        let placed = read(line.as_bytes())?;
        Ok(placed
            .map(|placed| format!("{}|{}", String::from_utf8_lossy(placed.session.as_bytes()), placed.node)))
    }

    #[test]
    fn reads_what_logs_and_tables_have() {
        for (line, expected) in [
            ("ada 10.0.0.1:80", Some("ada|10.0.0.1:80")),
            ("with blank\t10.0.0.1:80\r", Some("with blank|10.0.0.1:80")),
            ("with blank \t 10.0.0.1:80", Some("with blank|10.0.0.1:80")),
            ("  ada   10.0.0.1:80  ", Some("ada|10.0.0.1:80")),
            ("<7>ada 10.0.0.1:80", Some("<7>ada|10.0.0.1:80")),
            ("ada [fd00::1]:8080", Some("ada|[fd00::1]:8080")),
            ("- 10.0.0.1:80", None),
            ("ada -", None),
            ("", None),
            (" \r", None),
        ] {
            assert_eq!(shown(line), Ok(expected.map(str::to_owned)), "{line:?}");
        }
        assert!(read(b"with blank\t10.0.0.1:80").unwrap().unwrap().has_blanks);
        assert!(!read(b" ada\t10.0.0.1:80").unwrap().unwrap().has_blanks);
    }

    #[test]
    fn a_line_has_a_bound_and_its_end_or_the_inputs() {
        let long = "x".repeat(MAX_LINE);
        for (text, lengths) in [
            (String::new(), &[][..]),
            ("a\n\nb".to_owned(), &[1, 0, 1]),
            (format!("{long}\na"), &[MAX_LINE, 1]),
            (format!("{long}x\na"), &[MAX_LINE + 1, 1]),
            (format!("{long}{long}\na\n"), &[MAX_LINE + 1, 1]),
            (format!("{long}{long}"), &[MAX_LINE + 1]),
        ] {
            let mut input = text.as_bytes();
            let all = std::iter::from_fn(|| line(&mut input).unwrap()).map(|line| line.len());
            assert_eq!(all.collect::<Vec<_>>(), lengths);
        }
        assert!(read(&vec![b'x'; MAX_LINE + 1]).unwrap_err().contains("too long"));
    }

    #[test]
    fn says_what_is_wrong_with_a_line() {
        let longest = "x".repeat(MAX_SESSION_ID);
        assert!(shown(&format!("{longest} 10.0.0.1:80")).unwrap().is_some());
        let too_long = format!("{longest}x 10.0.0.1:80");
        for (line, says) in [
            ("10.0.0.1:80", "must be SESSION NODE"),
            ("ada 10.0.0.1", "must be ip:port"),
            ("ada 10.0.0.1:80,10.0.0.2:80", "must be ip:port"),
            ("ada fd00::1:8080", "needs brackets, as in [fd00::1]:8080"),
            ("ada ::1:80", "needs brackets, as in [::1]:80"),
            ("<134>Nov 27 11:02:19 lb haproxy[1]: ada 10.0.0.1:80", "the prefix of syslog"),
            ("<134>Nov 27 11:02:19 lb haproxy[1]: ada\t10.0.0.1:80", "the prefix of syslog"),
            ("Nov 27 11:02:19 lb haproxy[1]: ada 10.0.0.1:80", "put a tab between"),
            ("with blank 10.0.0.1:80", "put a tab between"),
            ("a\tb\t10.0.0.1:80", "a control character"),
            ("a\u{1}b 10.0.0.1:80", "a control character"),
            (&too_long, "its id has 513 bytes"),
        ] {
            let fault = shown(line).unwrap_err();
            assert!(fault.contains(says), "{line:?}: {fault}");
        }
    }
}

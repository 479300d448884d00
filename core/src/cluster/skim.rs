//! A way through JSON that keeps nothing: every scalar with the keys that lead to it, in order.
//!
//! A dump of Envoy's configuration is half a megabyte for a thousand hosts, and a handful of its values matter. As a tree
//! it would take ten times its size, in a VM whose memory never shrinks. Numbers and literals are not checked: the text is
//! Envoy's own, and what is no number where one is needed is read as none.

/// Deeper than any configuration that Envoy takes; what is deeper is not its answer.
const DEEPEST: usize = 128;

/// What the way comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'j> {
    /// A string, as it stands between its quotes.
    Text(&'j str),
    /// A number, or `true`, `false`, `null`.
    Word(&'j str),
    /// The end of an object or array.
    End,
}

/// Goes through `json`. A path is `.key` for each object on the way and `[]` for each array; at the end of an object or
/// array it is the way to that. False if the text is not one whole JSON value as far as that shows.
pub(super) fn skim<'j>(json: &'j str, visit: &mut dyn FnMut(&str, Step<'j>)) -> bool {
    let mut path = String::new();
    // Of each open container, how long the path to it is, and whether it is an object.
    let mut open: Vec<(usize, bool)> = Vec::new();
    let mut rest = json;
    let mut is_key = false;
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.bytes().next() else { return false };
        let mut tail = rest.get(1..).unwrap_or_default();
        match first {
            b'{' | b'[' => {
                if open.len() == DEEPEST {
                    return false;
                }
                is_key = first == b'{';
                open.push((path.len(), is_key));
                if !is_key {
                    path.push_str("[]");
                }
            }
            b'}' | b']' => {
                let Some((length, is_object)) = open.pop() else { return false };
                if is_object != (first == b'}') {
                    return false;
                }
                path.truncate(length);
                visit(&path, Step::End);
            }
            b',' => is_key = open.last().is_some_and(|(_, is_object)| *is_object),
            b':' => is_key = false,
            b'"' => {
                let Some(length) = string_length(tail) else { return false };
                let text = tail.get(..length).unwrap_or_default();
                tail = tail.get(length + 1..).unwrap_or_default();
                match open.last() {
                    Some((length, _)) if is_key => {
                        path.truncate(*length);
                        path.push('.');
                        path.push_str(text);
                    }
                    _ => visit(&path, Step::Text(text)),
                }
            }
            _ => {
                let is_end = |byte: u8| matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace();
                let length = rest.bytes().position(is_end).unwrap_or(rest.len());
                let (word, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
                visit(&path, Step::Word(word));
                tail = after;
            }
        }
        rest = tail;
        if open.is_empty() {
            return rest.trim_ascii_start().is_empty();
        }
    }
}

/// How long the string is that `text` begins with, up to its closing quote.
fn string_length(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(json: &str) -> Option<Vec<String>> {
        let mut steps = Vec::new();
        let whole = skim(json, &mut |path, step| steps.push(format!("{path} {step:?}")));
        whole.then_some(steps)
    }

    #[test]
    fn every_scalar_comes_with_its_path() {
        let json = r#" {"a": [1, {"b": "x\"}", "c": {}}], "d" : true,"e":null,"":[[]]} "#;

        let expected = [
            ".a[] Word(\"1\")",
            ".a[].b Text(\"x\\\\\\\"}\")",
            ".a[].c End",
            ".a[] End",
            ".a End",
            ".d Word(\"true\")",
            ".e Word(\"null\")",
            ".[] End",
            ". End",
            " End",
        ];
        assert_eq!(steps(json).unwrap(), expected);
        assert_eq!(steps("{}").unwrap(), [" End"]);
    }

    #[test]
    fn what_is_cut_off_or_mixed_up_is_refused() {
        let deep = "[".repeat(DEEPEST + 1);
        for json in
            ["", " ", "{", "{\"a\"", "{\"a\": \"b", "[}", "{]", "}", "{} {}", "[1] x", "\"\\\"", &deep]
        {
            assert_eq!(steps(json), None, "{json}");
        }
        let whole = r#"{"a": [1, {"b": "x\"}"}], "é": "é"}"#;
        for (end, _) in whole.char_indices() {
            assert_eq!(steps(&whole[..end]), None, "{end}");
        }
        assert!(steps(whole).is_some());
    }
}

//! How a cookie, a parameter or a subprotocol is found within a header's bytes.
//!
//! Every function is linear in its input, allocates nothing, and skips what it does not understand:
//! one broken cookie of another application must not hide ours. Whether the result is fit to be an id is decided in the
//! parent module.

/// The value of the first cookie `name` that has one, without surrounding double quotes. It ends at a semicolon and nowhere
/// else (RFC 6265, section 5.4): browsers, backends and Envoy take commas and quotes as part of it.
pub(super) fn cookie<'h>(header: &'h [u8], name: &str) -> Option<&'h [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let (key, value) = split_once(pair, b'=')?;
        let value = unquoted(trim(value));
        (trim(key) == name.as_bytes() && !value.is_empty()).then_some(value)
    })
}

/// Without the double quotes around it.
pub(super) fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// The value of the first parameter `name` that has one, as it is written. Names are compared percent-decoded.
pub(super) fn query_parameter<'h>(query: &'h [u8], name: &str) -> Option<&'h [u8]> {
    query.split(|byte| *byte == b'&').find_map(|pair| {
        let (key, value) = split_once(pair, b'=')?;
        (!value.is_empty() && percent_decoded(key).eq(name.bytes())).then_some(value)
    })
}

/// The value of the first matrix parameter `name` that has one, as it is written: `;name=value` at the end of any segment of
/// the path (RFC 3986, section 3.3).
pub(super) fn matrix_parameter<'h>(path: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let segments = path.split(|byte| *byte == b'/');
    let mut parameters = segments.flat_map(|segment| segment.split(|byte| *byte == b';').skip(1));
    parameters.find_map(|pair| {
        let (key, value) = split_once(pair, b'=')?;
        (key == name.as_bytes() && !value.is_empty()).then_some(value)
    })
}

/// What follows `prefix` in the first entry of `Sec-WebSocket-Protocol` that has it and more.
pub(super) fn subprotocol<'h>(header: &'h [u8], prefix: &str) -> Option<&'h [u8]> {
    header
        .split(|byte| *byte == b',')
        .filter_map(|entry| trim(entry).strip_prefix(prefix.as_bytes()))
        .find(|rest| !rest.is_empty())
}

/// Splits a request target at its `?`. A fragment has no business in a request, so it is cut; of an absolute target
/// (`http://host/path`, which a client may send to a proxy) only the path counts.
pub(super) fn path_and_query(target: &[u8]) -> (&[u8], &[u8]) {
    let target = split_once(target, b'#').map_or(target, |(before, _)| before);
    let target = without_authority(target).unwrap_or(target);
    split_once(target, b'?').unwrap_or((target, b""))
}

fn without_authority(target: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = split_once(target, b':')?;
    let named =
        !scheme.is_empty() && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = rest.strip_prefix(b"//").filter(|_| named)?;
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    rest.get(end..)
}

/// The bytes with each `%xx` replaced by what it stands for. A `%` without two hex digits stands for itself: refusing it
/// would lose the session of a client that forgot to encode.
pub(super) fn percent_decoded(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex_digit(*high), hex_digit(*low))
        {
            rest = after;
            return Some(high << 4 | low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(*first)
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Without blanks at either end. Only blanks: a line break at the end is a control byte, not decoration.
pub(super) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Whether HTTP counts the byte as optional whitespace.
pub(super) fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Whether the byte may be part of a header's, a cookie's or a subprotocol's name (RFC 9110, section 5.6.2).
pub(super) fn is_token_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = bytes.splitn(2, |byte| *byte == at);
    Some((parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Vec<u8> {
        percent_decoded(text.as_bytes()).collect()
    }

    #[test]
    fn percent_escapes_are_decoded_once() {
        assert_eq!(decoded("a%20b%2Fc%2fd"), b"a b/c/d");
        assert_eq!(decoded("%2541"), b"%41");
        assert_eq!(decoded("%ff%00"), b"\xff\x00");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for text in ["%", "%4", "%zz", "%%", "100%", "%4g", "%-1"] {
            assert_eq!(decoded(text), text.as_bytes(), "{text}");
        }
        assert_eq!(decoded("%%41"), b"%A");
    }

    #[test]
    fn percent_decoding_undoes_encoding_of_every_byte() {
        for byte in 0..=u8::MAX {
            assert_eq!(decoded(&format!("%{byte:02x}")), [byte]);
            assert_eq!(decoded(&format!("%{byte:02X}")), [byte]);
        }
    }

    #[test]
    fn only_blanks_are_trimmed() {
        assert_eq!(trim(b" \t a b \t"), b"a b");
        assert_eq!(trim(b"\r\na\n"), b"\r\na\n");
        assert_eq!(trim(b" \t "), b"");
    }

    #[test]
    fn a_target_is_split_in_path_and_query() {
        let cases: [(&[u8], &[u8], &[u8]); 11] = [
            (b"/a/b?x=1", b"/a/b", b"x=1"),
            (b"/a?x=1?y=2", b"/a", b"x=1?y=2"),
            (b"/a#f?x=1", b"/a", b""),
            (b"/a?x=1#f", b"/a", b"x=1"),
            (b"http://host:80/a?x=1", b"/a", b"x=1"),
            (b"https://host?x=1", b"", b"x=1"),
            (b"http://host", b"", b""),
            (b"/go?to=http://host/a", b"/go", b"to=http://host/a"),
            (b"/go/http://host/a", b"/go/http://host/a", b""),
            (b"*", b"*", b""),
            (b"", b"", b""),
        ];
        for (target, path, query) in cases {
            assert_eq!(path_and_query(target), (path, query), "{}", target.escape_ascii());
        }
    }
}

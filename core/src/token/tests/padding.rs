//! Tokens whose issuer pads its base64, as AWS's load balancer does: it signs the text with the padding.

use super::*;

/// A token with these bytes, every part padded, signed as it stands.
fn padded(algorithm: Algorithm, header: &str, payload: &[u8]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
    let signed = format!("{}.{}", URL_SAFE.encode(header), URL_SAFE.encode(payload));
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &private_key(algorithm), algorithm.backend()).unwrap();
    format!("{signed}.{}", URL_SAFE.encode(URL_SAFE_NO_PAD.decode(signature).unwrap()))
}

fn verdict_with_padding(algorithm: Algorithm, token: &str) -> Result<Claims, Refusal> {
    let policy = Policy { allow_padding: true, ..Policy::new(vec![algorithm]) };
    verify(token.as_bytes(), &keys(algorithm), &policy, NOW)
}

/// Texts of three lengths, so that each part has no padding, one `=` and two.
fn of_each_length(text: impl Fn(&str) -> String) -> [String; 3] {
    ["", "x", "xx"].map(text)
}

#[test]
fn padding_is_accepted_where_it_is_allowed_and_nowhere_else() {
    let headers = of_each_length(|fill| json!({"alg": "ES256", "kid": "a", "client": fill}).to_string());
    let payloads = of_each_length(|fill| json!({"sub": fill, "exp": NOW.0 / 1000 + 60}).to_string());
    let mut forms = std::collections::BTreeSet::new();
    for (header, payload) in headers.iter().flat_map(|head| payloads.iter().map(move |body| (head, body))) {
        let token = padded(Algorithm::Es256, header, payload.as_bytes());
        forms.insert(token.split('.').map(|part| part.matches('=').count()).collect::<Vec<_>>());

        assert!(verdict_with_padding(Algorithm::Es256, &token).is_ok(), "{token}");
        assert_eq!(refusal(Algorithm::Es256, &token), Refusal::Malformed, "{token}");
    }
    assert_eq!(forms.len(), 9, "each length of the header with each of the payload: {forms:?}");
}

#[test]
fn tokens_without_padding_are_accepted_beside_those_with_it() {
    for (name, algorithm) in Algorithm::ALL {
        assert!(verdict_with_padding(algorithm, &token(algorithm)).is_ok(), "{name}");
    }
}

#[test]
fn only_the_padding_that_fills_four_characters_is_accepted() {
    // The signature is 64 bytes, which take two `=`.
    let good = padded(Algorithm::Es256, r#"{"alg":"ES256","kid":"a"}"#, &payload());
    assert!(good.ends_with("=="), "{good}");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let bare = signature.trim_end_matches('=');
    assert!(!header.is_empty() && verdict_with_padding(Algorithm::Es256, &good).is_ok());

    for token in [
        format!("{signed}.{bare}="),
        format!("{good}="),
        format!("{good}=="),
        format!("{good}===="),
        format!("{signed}.={bare}="),
        format!("{signed}.{}=={}", &bare[..40], &bare[40..]),
        format!("{signed}.===="),
        format!("{signed}.=="),
        format!("={header}.{payload}.{signature}"),
        format!("{}===.{payload}.{signature}", header.trim_end_matches('=')),
        format!("{header}.{}=.{signature}", &payload[..payload.len() - 3]),
    ] {
        let refused = verdict_with_padding(Algorithm::Es256, &token).unwrap_err();
        assert!(matches!(refused, Refusal::Malformed | Refusal::Signature), "{token}: {refused}");
        if token.starts_with(&format!("{signed}.")) {
            assert_eq!(refused, Refusal::Malformed, "{token}");
        }
    }
}

#[test]
fn padding_is_part_of_what_is_signed() {
    let good = padded(Algorithm::Es256, r#"{"alg":"ES256","kid":"ab"}"#, &payload());
    let head = good.split('.').next().unwrap();
    assert!(head.ends_with('='), "{head}");
    let other = good.replacen(head, head.trim_end_matches('='), 1);
    let known = Keys::new(vec![Key::pem(Some("ab"), P256).unwrap()]);
    let policy = Policy { allow_padding: true, ..Policy::new(vec![Algorithm::Es256]) };

    assert!(verify(good.as_bytes(), &known, &policy, NOW).is_ok());
    assert_eq!(verify(other.as_bytes(), &known, &policy, NOW), Err(Refusal::Signature));
}

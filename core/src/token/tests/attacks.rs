//! What people have got past verifiers, refused for the right reason.

use proptest::prelude::*;

use super::*;

const ASYMMETRIC: Algorithm = Algorithm::Rs256;

#[test]
fn a_public_key_is_no_secret() {
    let pem = Key::secret(Some("a"), RSA.as_bytes()).unwrap();
    let header = json!({"alg": "HS256", "kid": "a"}).to_string();
    let signed = format!("{}.{}", encode(&header), encode(payload()));
    let encoding = EncodingKey::from_secret(RSA.as_bytes());
    let signature =
        jsonwebtoken::crypto::sign(signed.as_bytes(), &encoding, jsonwebtoken::Algorithm::HS256).unwrap();
    let token = format!("{signed}.{signature}");
    // The token is sound: a verifier that takes the PEM for a secret accepts it.
    let fooled = verify(token.as_bytes(), &Keys::new(vec![pem]), &Policy::new(vec![Algorithm::Hs256]), NOW);
    assert!(fooled.is_ok());

    assert_eq!(refusal(ASYMMETRIC, &token), Refusal::Algorithm);
    // Not even a policy that allows both lets a key be what it is not.
    let both = Policy::new(vec![ASYMMETRIC, Algorithm::Hs256]);
    assert_eq!(verify(token.as_bytes(), &keys(ASYMMETRIC), &both, NOW), Err(Refusal::Algorithm));
}

#[test]
fn a_key_is_used_only_for_algorithms_of_its_kind() {
    let all = Policy::new(Algorithm::ALL.map(|(_, algorithm)| algorithm).to_vec());
    for (name, signed_by) in Algorithm::ALL {
        for (other, owner) in Algorithm::ALL {
            let key = key(owner);
            let verdict = verify(token(signed_by).as_bytes(), &Keys::new(vec![key.clone()]), &all, NOW);

            assert_eq!(verdict.is_ok(), key.fits(signed_by), "{name} with the key of {other}");
        }
    }
}

#[test]
fn no_spelling_of_none_is_an_algorithm() {
    for name in ["none", "None", "NONE", "nOnE", "none ", "", " ", "null", "hs256", "rs256", "RS256 ", "HS1"]
    {
        let header = encode(json!({"alg": name, "kid": "a"}).to_string());
        for signature in ["", "AA", "AAAA"] {
            let token = format!("{header}.{}.{signature}", encode(payload()));
            for (_, algorithm) in Algorithm::ALL {
                let refusal = refusal(algorithm, &token);
                assert!(matches!(refusal, Refusal::Algorithm | Refusal::Malformed), "{name:?}: {refusal}");
            }
        }
    }
}

#[test]
fn a_header_that_two_readers_read_differently_is_refused() {
    let cases = [
        (r#"{"alg":"none","alg":"RS256","kid":"a"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"b","kid":"a"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"b","k\u0069d":"a"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"a"} "{}""#, Refusal::Malformed),
        (r#"["RS256"]"#, Refusal::Malformed),
        (r#""RS256""#, Refusal::Malformed),
        (r#"{}"#, Refusal::Malformed),
        (r#"{"kid":"a"}"#, Refusal::Malformed),
        (r#"{"alg":null}"#, Refusal::Malformed),
        (r#"{"alg":["RS256"]}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":1}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":null}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"a","crit":["exp"],"exp":1}"#, Refusal::Critical),
        (r#"{"alg":"RS256","kid":"a","crit":[]}"#, Refusal::Critical),
        (r#"{"alg":"RS256","kid":"a","crit":null}"#, Refusal::Critical),
        (r#"{"alg":"RS256","kid":"a","cty":"JWT"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"a","cty":"jwt"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"a","cty":"application/JWT"}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"a","cty":7}"#, Refusal::Malformed),
        (r#"{"alg":"RS256","kid":"../../dev/null"}"#, Refusal::UnknownKey),
        (r#"{"alg":"RS256","kid":"a' OR 1=1"}"#, Refusal::UnknownKey),
        (r#"{"alg":"RS256","kid":""}"#, Refusal::UnknownKey),
    ];
    for (header, expected) in cases {
        assert_eq!(refusal(ASYMMETRIC, sign(ASYMMETRIC, header, &payload())), expected, "{header}");
    }
    let not_utf8 = format!("{}.{}.AA", encode(b"{\"alg\":\"RS256\",\"x\":\"\xff\"}"), encode(payload()));
    assert_eq!(refusal(ASYMMETRIC, not_utf8), Refusal::Malformed);
}

#[test]
fn types_and_unknown_members_of_a_header_do_not_matter() {
    for header in [
        r#"{"alg":"RS256","kid":"a"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"RS256","typ":"at+jwt"}"#,
        r#"{"alg":"RS256","typ":"whatever"}"#,
        r#"{"alg":"RS256","cty":"json","x":{"y":[1]}}"#,
    ] {
        assert!(verdict(ASYMMETRIC, sign(ASYMMETRIC, header, &payload())).is_ok(), "{header}");
    }
}

#[test]
fn keys_that_the_token_brings_are_not_looked_at() {
    let jwk = json!({"kty": "oct", "k": encode(SECRET), "kid": "a"});
    for extra in [
        json!({"jwk": jwk}),
        json!({"jku": "https://evil.example/jwks.json"}),
        json!({"x5u": "https://evil.example/cert.pem"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = json!({"alg": "RS256", "kid": "a"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let sound = sign(ASYMMETRIC, &header.to_string(), &payload());
        assert!(verdict(ASYMMETRIC, &sound).is_ok());

        header["alg"] = "HS256".into();
        let forged = sign(Algorithm::Hs256, &header.to_string(), &payload());
        assert_eq!(refusal(ASYMMETRIC, forged), Refusal::Algorithm);
    }
}

#[test]
fn only_three_parts_are_a_token() {
    let good = token(Algorithm::Hs256);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for token in [
        "".to_owned(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        signed.to_owned(),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good}.{signature}.{signature}"),
        format!(".{good}"),
        format!("{signed}..{signature}"),
        good.replace('.', ","),
        json!({"payload": signed, "signature": signature}).to_string(),
    ] {
        assert_eq!(refusal(Algorithm::Hs256, &token), Refusal::Malformed, "{token}");
    }
    assert_eq!(refusal(Algorithm::Hs256, format!("{signed}.")), Refusal::Signature);
}

#[test]
fn base64_is_strict() {
    let good = token(Algorithm::Hs256);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    // 32 bytes end in a character with two unused bits, which another spelling sets.
    let (last, rest) =
        signature.chars().next_back().map(|last| (last, &signature[..signature.len() - 1])).unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let other = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
    for token in [
        format!("{signed}.{rest}{other}"),
        format!("{signed}.{signature}="),
        format!("{signed}.{signature}=="),
        format!("{signed}.{signature}\n"),
        format!("{signed}. {signature}"),
        format!("{signed}.{rest}"),
        format!(" {good}"),
        format!("{good} "),
        good.replacen('e', "+", 1),
        good.replacen('e', "/", 1),
        good.replacen('e', "\u{e9}", 1),
        good.replacen('e', "\0", 1),
    ] {
        assert_eq!(refusal(Algorithm::Hs256, &token), Refusal::Malformed, "{token:?}");
    }
    assert_eq!(refusal(Algorithm::Hs256, [b"\xff".as_slice(), good.as_bytes()].concat()), Refusal::Malformed);
}

#[test]
fn long_tokens_are_not_looked_at() {
    let with = |length: usize| {
        let payload = json!({"exp": NOW.0 / 1000 + 60, "x": "x".repeat(length)}).to_string();
        sign(Algorithm::Hs256, &header(Algorithm::Hs256), payload.as_bytes())
    };

    let large = with(12_000);
    assert!(large.len() <= MAX_TOKEN && verdict(Algorithm::Hs256, large).is_ok());
    for length in [12_300, 64 * 1024] {
        assert_eq!(refusal(Algorithm::Hs256, with(length)), Refusal::TooLarge);
    }
    assert_eq!(refusal(Algorithm::Hs256, ".".repeat(64 * 1024)), Refusal::TooLarge);
    assert_eq!(refusal(Algorithm::Hs256, ".".repeat(MAX_TOKEN)), Refusal::Malformed);
}

#[test]
fn payloads_that_are_no_claims_are_refused_even_if_signed() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let payloads: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"text",
        b"{\"exp\":1} {}",
        b"{\"sub\":\"ada\",\"sub\":\"eve\",\"exp\":9999999999}",
        b"{\"exp\":9999999999,\"x\":\"\xff\"}",
        b"{\"exp\":1e999}",
        deep.as_bytes(),
    ];
    for payload in payloads {
        let token = sign(Algorithm::EdDsa, &header(Algorithm::EdDsa), payload);

        assert_eq!(refusal(Algorithm::EdDsa, token), Refusal::Malformed, "{}", payload.escape_ascii());
    }
}

/// CVE-2022-21449 and its kin: r = s = 0 is on every message, for a verifier that does not check.
#[test]
fn signatures_of_nothing_are_refused() {
    for (algorithm, length) in
        [(Algorithm::Es256, 64), (Algorithm::Es384, 96), (Algorithm::EdDsa, 64), (ASYMMETRIC, 256)]
    {
        let token = token(algorithm);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let half = &signature[..signature.len() / 2];
        let mut one = vec![0; length];
        one[length - 1] = 1;
        let all_of =
            [vec![0; length], vec![255; length], one, vec![0; length - 1], vec![0; 2 * length], Vec::new()];
        for bytes in all_of {
            let forged = format!("{signed}.{}", encode(&bytes));
            assert_eq!(refusal(algorithm, forged), Refusal::Signature, "{algorithm}");
        }
        assert!(verdict(algorithm, format!("{signed}.{half}")).is_err());
    }
}

#[test]
fn one_token_costs_a_bounded_number_of_signature_checks() {
    let mut many: Vec<Key> = (0..MAX_TRIES).map(|_| Key::pem(Some("a"), RSA).unwrap()).collect();
    many.push(Key::pem(Some("a"), P256).unwrap());
    let policy = Policy::new(vec![Algorithm::Es256, ASYMMETRIC]);
    let token = token(Algorithm::Es256);

    // Keys of another kind are not tried, so they do not count.
    assert!(verify(token.as_bytes(), &Keys::new(many), &policy, NOW).is_ok());

    let other = Key::secret(Some("a"), &[7; 32]).unwrap();
    let mut many = vec![other; MAX_TRIES];
    many.push(key(Algorithm::Hs256));
    let policy = Policy::new(vec![Algorithm::Hs256]);
    let token = self::token(Algorithm::Hs256);
    assert_eq!(verify(token.as_bytes(), &Keys::new(many.clone()), &policy, NOW), Err(Refusal::Signature));
    assert!(verify(token.as_bytes(), &Keys::new(many.split_off(1)), &policy, NOW).is_ok());
}

fn all_keys() -> Keys {
    Keys::new(Algorithm::ALL.iter().map(|(_, algorithm)| key(*algorithm)).collect())
}

fn all_algorithms() -> Policy {
    Policy::new(Algorithm::ALL.map(|(_, algorithm)| algorithm).to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_survived(token in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(verify(&token, &all_keys(), &all_algorithms(), NOW).is_err());
    }

    #[test]
    fn any_header_and_signature_are_survived(
        algorithm in 0..Algorithm::ALL.len(),
        members in prop::collection::vec(("alg|kid|crit|cty|b64|jwk|typ", "[a-zA-Z0-9]{0,5}|JWT|a"), 0..4),
        payload in ".{0,40}",
        signature in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut header = json!({"alg": Algorithm::ALL[algorithm].0});
        for (name, value) in members {
            header[name] = value.into();
        }
        let token = format!("{}.{}.{}", encode(header.to_string()), encode(payload), encode(signature));
        prop_assert!(verify(token.as_bytes(), &all_keys(), &all_algorithms(), NOW).is_err());
    }
}

proptest! {
    // Each case is a signature check in a debug build.
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_flipped_bit_is_refused(at in any::<prop::sample::Index>(), bit in 0..8) {
        for (_, algorithm) in Algorithm::ALL.iter().filter(|(name, _)| name.ends_with("256") || *name == "EdDSA") {
            let mut token = token(*algorithm).into_bytes();
            let at = at.index(token.len());
            token[at] ^= 1u8 << bit;

            prop_assert!(verdict(*algorithm, &token).is_err(), "{} at {}", algorithm, at);
        }
    }
}

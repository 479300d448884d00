//! Which keys are taken, from PEM and from sets, and which of them a token is tried with.

use serde_json::Value;

use super::*;

const N: &str = "2PcX1-gP0kqY4D5tlxCov6X6NMIbBQTzT-BFv55xpJ8teSyGykWBCzRusKljO2PDGxVBFMiyHZ88JkIFOgpiK4nmUcCJJGQ8myCCrIbUQ3JVGI0K6UWf_twUtxqtkwmK782NcOhMkhlYT5Fxt7O4J1zxJH-RUbZu_omCExV49oAB4gckQ2ROqxa-fxHJahAjgf2u_y3yynQbymcF6fUGePKo-vOH6sqKtJ8rVZPg9DYhkEnMEpno22bzKeg_CWWT_a4OixFQJkZK2NZgz6xLXnynJRp6ptuMIlkymllp7Zqz0SAVb8aifwEtkc8McEiFMAWPMUXjthP_Vg0hwTGtww";
const X: &str = "BGZHCTCMh5sPDhurIfSkdG5VJQwAzBSlFelRWCww3-g";

fn rsa() -> Value {
    json!({"kty": "RSA", "n": N, "e": "AQAB", "kid": "a", "use": "sig", "alg": "RS256"})
}

fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "a"})
}

fn ec() -> Value {
    json!({"kty": "EC", "crv": "P-256", "x": "zcdm2B9hKs4xLShbbeplrABRxD4hZ36K6h4q_dYF4JI", "y": "K6I0nXICkzbgVwx57vM-moKCNlvHDQcJ4xwf__sz6-4"})
}

fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
    key[name] = value.into();
    key
}

fn set(keys: &[Value]) -> Result<Keys, JwksError> {
    Keys::from_jwks(json!({ "keys": keys }).to_string().as_bytes())
}

#[test]
fn keys_in_pem_are_those_of_a_set() {
    for (jwk, pem, algorithm) in [
        (rsa(), RSA, Algorithm::Rs256),
        (ed25519(), ED25519, Algorithm::EdDsa),
        (with(ec(), "kid", "a"), P256, Algorithm::Es256),
    ] {
        let token = token(algorithm);
        for keys in [set(&[jwk]).unwrap(), Keys::new(vec![Key::pem(Some("a"), pem).unwrap()])] {
            assert!(
                verify(token.as_bytes(), &keys, &Policy::new(vec![algorithm]), NOW).is_ok(),
                "{algorithm}"
            );
        }
    }
}

#[test]
fn pem_is_read_as_people_paste_it() {
    let pkcs1 = include_str!("../../../testdata/token/rsa-2048.pkcs1.pem");
    for pem in [RSA.to_owned(), pkcs1.to_owned(), RSA.replace('\n', "\r\n"), format!("\n  {RSA}\n\n")] {
        assert_eq!(Key::pem(Some("a"), &pem), Ok(key(Algorithm::Rs256)), "{pem:?}");
    }
}

#[test]
fn what_is_no_usable_public_key_is_refused_by_its_reason() {
    let small = include_str!("../../../testdata/token/rsa-1024.pem");
    let large = include_str!("../../../testdata/token/rsa-5120.pem");
    let private = include_str!("../../../testdata/token/p256.private.pem");
    let rsa_private = include_str!("../../../testdata/token/rsa-2048.private.pem");
    let certificate = include_str!("../../../testdata/token/certificate.pem");
    let p521 = include_str!("../../../testdata/token/p521.pem");
    for (pem, expected) in [
        ("", KeyError::NotPem),
        ("ssh-ed25519 AAAA", KeyError::NotPem),
        (X, KeyError::NotPem),
        (private, KeyError::PrivateKey),
        (rsa_private, KeyError::PrivateKey),
        (&rsa_private.replace('\n', " "), KeyError::PrivateKey),
        (certificate, KeyError::NotPublicKey),
        (p521, KeyError::Unsupported),
        (small, KeyError::RsaSize),
        (large, KeyError::RsaSize),
        (&RSA.replacen("MII", "AAI", 1), KeyError::Invalid),
        // Another curve's name on the same point.
        (&p256_named_p384(), KeyError::Invalid),
    ] {
        assert_eq!(Key::pem(None, pem), Err(expected), "{pem}");
        assert!(!expected.to_string().contains("BEGIN PRIVATE"));
    }
}

/// The point of `p256.pem` under the name of P-384, whose identifier is 5 bytes instead of 8.
fn p256_named_p384() -> String {
    let (_, der) = spki::der::pem::decode_vec(P256.as_bytes()).unwrap();
    let point = &der[der.len() - 66..];
    let algorithm =
        [&[0x30, 0x10, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 34][..]].concat();
    let body = [&algorithm[..], &[3, 66], point].concat();
    let der = [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat();
    spki::der::pem::encode_string("PUBLIC KEY", spki::der::pem::LineEnding::LF, &der).unwrap()
}

#[test]
fn short_secrets_are_refused() {
    assert_eq!(Key::secret(None, &[1; 31]), Err(KeyError::ShortSecret));
    let key = Key::secret(None, &[1; 48]).unwrap();

    assert!(key.fits(Algorithm::Hs256) && key.fits(Algorithm::Hs384) && !key.fits(Algorithm::Hs512));
}

#[test]
fn keys_for_others_are_skipped() {
    let point_off_curve = with(ec(), "y", "K6I0nXICkzbgVwx57vM-moKCNlvHDQcJ4xwf__sz6-8");
    let unusable = [
        json!({}),
        json!([]),
        json!("key"),
        json!({"kty": "RSA"}),
        json!({"kty": "LATTICE", "n": N}),
        json!({"kty": "oct", "k": encode(SECRET), "alg": "HS256"}),
        with(rsa(), "use", "enc"),
        with(rsa(), "use", Value::Null),
        with(rsa(), "key_ops", json!(["encrypt"])),
        with(rsa(), "key_ops", json!([])),
        with(rsa(), "key_ops", "verify"),
        with(rsa(), "alg", "RSA-OAEP"),
        with(rsa(), "alg", "ES256"),
        with(rsa(), "alg", "HS256"),
        with(rsa(), "alg", Value::Null),
        with(rsa(), "kid", 7),
        with(rsa(), "n", &N[..N.len() / 2]),
        with(rsa(), "n", format!("{N}=")),
        with(rsa(), "n", N.repeat(3)),
        with(rsa(), "e", "AQ"),
        with(rsa(), "e", "Ag"),
        with(rsa(), "e", ""),
        with(rsa(), "e", "AQAAAAAAAAAB"),
        with(ed25519(), "crv", "Ed448"),
        with(ed25519(), "crv", "X25519"),
        with(ed25519(), "x", &X[..40]),
        with(ed25519(), "x", ""),
        with(ec(), "crv", "secp256k1"),
        with(ec(), "crv", "P-521"),
        with(ec(), "crv", "P-384"),
        with(ec(), "x", "AA"),
        point_off_curve,
    ];
    for key in unusable {
        assert_eq!(set(std::slice::from_ref(&key)), Err(JwksError::NoUsableKey), "{key}");
        assert_eq!(set(&[key, ed25519()]).unwrap().len(), 1);
    }
    for key in [
        rsa(),
        ed25519(),
        ec(),
        with(rsa(), "key_ops", json!(["verify"])),
        with(rsa(), "x5c", json!(["MII"])),
    ] {
        assert_eq!(set(std::slice::from_ref(&key)).unwrap().len(), 1, "{key}");
    }
}

#[test]
fn what_is_no_set_is_refused() {
    let twice =
        format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "x": "{X}", "kid": "a", "kid": "b"}}]}}"#);
    for json in ["", "[]", "{}", r#"{"keys": {}}"#, "<html>", r#"{"keys": []} x"#, &twice] {
        assert_eq!(Keys::from_jwks(json.as_bytes()), Err(JwksError::Malformed), "{json}");
        assert_eq!(Keys::from_configured_jwks(json.as_bytes()), Err(JwksError::Malformed), "{json}");
    }
    assert_eq!(set(&[]), Err(JwksError::NoUsableKey));
    assert_eq!(set(&vec![json!({}); 65]), Err(JwksError::TooManyKeys));
    assert_eq!(Keys::from_jwks(&vec![b' '; MAX_JWKS + 1]), Err(JwksError::TooLarge));
    assert_eq!(Keys::from_configured_jwks(&vec![b' '; MAX_JWKS + 1]), Err(JwksError::TooLarge));
    assert_eq!(set(&vec![ed25519(); 64]).unwrap().len(), 64);
}

#[test]
fn a_set_that_is_kept_may_hold_secrets_and_one_that_is_published_may_not() {
    let secret = json!({"kty": "oct", "kid": "s", "k": encode(SECRET)});
    let set = json!({"keys": [secret]}).to_string();

    assert!(Keys::from_configured_jwks(set.as_bytes()).unwrap().fit_any(&[Algorithm::Hs256]));
    assert_eq!(Keys::from_jwks(set.as_bytes()), Err(JwksError::NoUsableKey));
}

#[test]
fn a_key_is_only_for_the_algorithm_that_its_publisher_names() {
    let keys = set(&[with(rsa(), "alg", "PS256")]).unwrap();
    let policy = Policy::new(vec![Algorithm::Rs256, Algorithm::Ps256]);
    let verdict = |algorithm| verify(token(algorithm).as_bytes(), &keys, &policy, NOW).map(drop);

    assert_eq!(verdict(Algorithm::Ps256), Ok(()));
    assert_eq!(verdict(Algorithm::Rs256), Err(Refusal::Algorithm));
}

#[test]
fn a_token_is_tried_with_the_keys_it_names() {
    let other = || Key::secret(Some("b"), &[1; 32]).unwrap();
    let named = || key(Algorithm::Hs256);
    let anonymous = || Key::secret(None, SECRET).unwrap();
    let header = |id: Option<&str>| match id {
        Some(id) => json!({"alg": "HS256", "kid": id}).to_string(),
        None => json!({"alg": "HS256"}).to_string(),
    };
    let verdict = |keys: Vec<Key>, id: Option<&str>| {
        let token = sign(Algorithm::Hs256, &header(id), &payload());
        verify(token.as_bytes(), &Keys::new(keys), &Policy::new(vec![Algorithm::Hs256]), NOW).map(drop)
    };

    assert_eq!(verdict(vec![other(), named()], Some("a")), Ok(()));
    assert_eq!(verdict(vec![named()], None), Ok(()));
    assert_eq!(verdict(vec![other(), named()], None), Err(Refusal::AmbiguousKey));
    assert_eq!(verdict(vec![other(), named()], Some("b")), Err(Refusal::Signature));
    assert_eq!(verdict(vec![other(), named()], Some("c")), Err(Refusal::UnknownKey));
    assert_eq!(verdict(vec![other(), anonymous()], Some("c")), Ok(()));
    assert_eq!(verdict(vec![other(), anonymous()], Some("b")), Err(Refusal::Signature));
    // A made-up id names none of those without an id either.
    assert_eq!(verdict(vec![anonymous(), anonymous()], Some("c")), Err(Refusal::AmbiguousKey));
    assert_eq!(verdict(vec![], Some("a")), Err(Refusal::UnknownKey));
    assert_eq!(verdict(vec![], None), Err(Refusal::UnknownKey));
    // While keys of one id are exchanged both are tried.
    let old = Key::secret(Some("a"), &[2; 32]).unwrap();
    assert_eq!(verdict(vec![old, named()], Some("a")), Ok(()));
}

#[test]
fn a_token_without_kid_is_tried_with_several_keys_only_where_that_is_wanted() {
    let ours = |id| Key::pem(Some(id), P384).unwrap();
    let published = |count: usize| {
        let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut keys: Vec<Key> = ids.into_iter().take(count).map(ours).collect();
        // Those that do not fit do not count.
        keys.push(key(Algorithm::EdDsa));
        keys.push(key(Algorithm::Rs256));
        Keys::new(keys)
    };
    let token = sign(Algorithm::Es384, r#"{"alg":"ES384"}"#, &payload());
    let strict = Policy::new(vec![Algorithm::Es384]);
    let lenient = Policy { try_keys: true, ..strict.clone() };
    let cost = |keys: &Keys, policy: &Policy| {
        Unverified::read(token.as_bytes(), keys, policy).map(|token| token.least_cost())
    };
    let one = cost(&published(1), &strict).unwrap();

    assert_eq!(verify(token.as_bytes(), &published(1), &strict, NOW).map(drop), Ok(()));
    for count in [2, 8] {
        assert_eq!(cost(&published(count), &strict), Err(Refusal::AmbiguousKey), "nothing is checked");
        assert_eq!(verify(token.as_bytes(), &published(count), &lenient, NOW).map(drop), Ok(()));
    }
    assert_eq!(cost(&published(8), &lenient), Ok(4 * one), "no more than four are tried");
}

#[test]
fn keys_are_equal_if_nothing_about_them_changed() {
    let keys = set(&[rsa(), ed25519()]).unwrap();
    let spaced = serde_json::to_string_pretty(&json!({"keys": [ed25519(), rsa()]})).unwrap();
    for same in [
        set(&[with(rsa(), "x5t", "x"), ed25519()]).unwrap(),
        set(&[ed25519(), rsa()]).unwrap(),
        set(&[ed25519(), rsa(), json!({"kty": "LATTICE"}), ed25519()]).unwrap(),
        Keys::from_jwks(spaced.as_bytes()).unwrap(),
    ] {
        assert_eq!((&keys, keys.hash()), (&same, same.hash()));
    }
    for other in [
        [with(rsa(), "kid", "b"), ed25519()],
        [with(rsa(), "alg", "PS256"), ed25519()],
        [with(rsa(), "e", "Aw"), ed25519()],
    ] {
        let other = set(&other).unwrap();
        assert_ne!((&keys, keys.hash()), (&other, other.hash()));
        assert_ne!(keys, other);
    }
}

#[test]
fn keys_are_not_in_debug_output() {
    let shown = format!("{:?}", [key(Algorithm::Hs256), key(Algorithm::Rs256)]);

    assert_eq!(shown, r#"[Key(secret, Some("a")), Key(RSA, Some("a"))]"#);
}

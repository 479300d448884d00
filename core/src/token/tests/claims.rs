//! What claims must say, and how they are read.

use serde_json::Value;

use super::*;

/// The verdict on these claims, with nothing wrong about the signature.
fn check(policy: &Policy, claims: &Value) -> Result<(), Refusal> {
    let token = sign(Algorithm::Hs256, &header(Algorithm::Hs256), claims.to_string().as_bytes());
    verify(token.as_bytes(), &keys(Algorithm::Hs256), policy, NOW).map(drop)
}

fn policy() -> Policy {
    Policy::new(vec![Algorithm::Hs256])
}

const SECONDS: u64 = NOW.0 / 1000;

#[test]
fn a_token_ends_with_its_expiry_and_leeway() {
    let verdict = |exp: Value| check(&policy(), &json!({"exp": exp}));

    for exp in [json!(SECONDS + 1), json!(SECONDS), json!(SECONDS - 59), json!(SECONDS as f64 - 59.5)] {
        assert_eq!(verdict(exp.clone()), Ok(()), "{exp}");
    }
    for exp in [json!(SECONDS - 60), json!(SECONDS - 61), json!(SECONDS as f64 - 60.5), json!(0), json!(-1)] {
        assert_eq!(verdict(exp.clone()), Err(Refusal::Expired), "{exp}");
    }
    let strict = Policy { leeway: Millis(0), ..policy() };
    assert_eq!(check(&strict, &json!({"exp": SECONDS})), Err(Refusal::Expired));
    assert_eq!(check(&strict, &json!({"exp": SECONDS as f64 + 0.5})), Ok(()));
}

#[test]
fn numbers_beyond_reach_are_dates_too() {
    for exp in [json!(u64::MAX), json!(1e300), json!(9.3e18), json!(SECONDS as f64 * 1000.0)] {
        assert_eq!(check(&policy(), &json!({"exp": exp})), Ok(()), "{exp}");
        assert_eq!(check(&policy(), &json!({"exp": exp, "nbf": exp})), Err(Refusal::NotYetValid), "{exp}");
    }
    for exp in [json!(-1e300), json!(i64::MIN), json!(-0.0), json!(1e-300)] {
        assert_eq!(check(&policy(), &json!({"exp": exp})), Err(Refusal::Expired), "{exp}");
        assert_eq!(check(&policy(), &json!({"exp": SECONDS, "nbf": exp, "iat": exp})), Ok(()), "{exp}");
    }
}

#[test]
fn dates_are_numbers() {
    for wrong in [json!("1900000000"), json!(null), json!(true), json!([1]), json!({})] {
        for name in ["exp", "nbf", "iat"] {
            let mut claims = json!({"exp": SECONDS});
            claims[name] = wrong.clone();

            assert_eq!(check(&policy(), &claims), Err(Refusal::ClaimType), "{claims}");
        }
    }
}

#[test]
fn without_expiry_only_where_that_is_allowed() {
    assert_eq!(check(&policy(), &json!({})), Err(Refusal::ClaimMissing));

    let lasting = Policy { require_expiry: false, ..policy() };
    assert_eq!(check(&lasting, &json!({})), Ok(()));
    assert_eq!(check(&lasting, &json!({"exp": 1})), Err(Refusal::Expired));
}

#[test]
fn a_token_from_the_future_is_refused_beyond_the_leeway() {
    for name in ["nbf", "iat"] {
        let verdict = |at: u64| {
            let mut claims = json!({"exp": SECONDS + 1000});
            claims[name] = at.into();
            check(&policy(), &claims)
        };

        assert_eq!(verdict(SECONDS + 60), Ok(()));
        assert_eq!(verdict(SECONDS + 61), Err(Refusal::NotYetValid), "{name}");
    }
}

#[test]
fn the_issuer_is_the_one_that_is_named() {
    let policy = Policy { issuer: Some("https://id.example.com".to_owned()), ..policy() };
    let verdict = |claims: Value| check(&policy, &claims);

    assert_eq!(verdict(json!({"exp": SECONDS, "iss": "https://id.example.com"})), Ok(()));
    for other in ["https://id.example.com/", "https://ID.example.com", "https://id.example.com.evil", ""] {
        assert_eq!(verdict(json!({"exp": SECONDS, "iss": other})), Err(Refusal::Issuer), "{other}");
    }
    assert_eq!(verdict(json!({"exp": SECONDS})), Err(Refusal::ClaimMissing));
    let several = json!({"exp": SECONDS, "iss": ["https://id.example.com"]});
    assert_eq!(verdict(several), Err(Refusal::ClaimType));
}

#[test]
fn one_audience_of_ours_is_enough() {
    let policy = Policy { audiences: vec!["games".to_owned(), "chat".to_owned()], ..policy() };
    let verdict = |aud: Value| check(&policy, &json!({"exp": SECONDS, "aud": aud}));

    for aud in [json!("games"), json!(["chat"]), json!(["mail", "games"])] {
        assert_eq!(verdict(aud.clone()), Ok(()), "{aud}");
    }
    for aud in [json!("game"), json!(""), json!([]), json!(["mail", "Games"])] {
        assert_eq!(verdict(aud.clone()), Err(Refusal::Audience), "{aud}");
    }
    for aud in [json!(1), json!(null), json!({"games": true}), json!(["games", 1])] {
        assert_eq!(verdict(aud.clone()), Err(Refusal::ClaimType), "{aud}");
    }
    assert_eq!(check(&policy, &json!({"exp": SECONDS})), Err(Refusal::ClaimMissing));
    assert_eq!(check(&self::policy(), &json!({"exp": SECONDS, "aud": "others"})), Ok(()));
}

#[test]
fn a_claim_is_found_by_its_path() {
    let claims = Claims::from_payload(
        br#"{"sub": "ada", "player": {"id": 42, "a.b": {"": 1}}, "https://example.com/sid": "s", "list": [{"id": 1}]}"#,
    )
    .unwrap();
    let text = |path: &str| claims.text(&ClaimPath::parse(path).unwrap());

    assert_eq!(text("sub").as_deref(), Some("ada"));
    assert_eq!(text("player.id").as_deref(), Some("42"));
    for missing in ["player", "player.id.x", "Player.id", "list.id", "list.0.id", "x", "sub.x"] {
        assert_eq!(text(missing), None, "{missing}");
    }
    let url = ClaimPath::from_segments(vec!["https://example.com/sid".to_owned()]).unwrap();
    assert_eq!(claims.text(&url).as_deref(), Some("s"));
    assert_eq!(url.to_string(), "https://example.com/sid");
}

#[test]
fn only_strings_and_whole_numbers_are_text() {
    let text = |value: &str| {
        let json = format!("{{\"x\": {value}}}");
        Claims::from_payload(json.as_bytes()).unwrap().text(&ClaimPath::parse("x").unwrap())
    };

    for (value, expected) in [
        (r#""a b""#, "a b"),
        (r#""""#, ""),
        ("7", "7"),
        ("-7", "-7"),
        ("18446744073709551615", "18446744073709551615"),
        ("7.0", "7"),
        ("-0.0", "0"),
        ("1e3", "1000"),
        ("9007199254740991.0", "9007199254740991"),
    ] {
        assert_eq!(text(value).as_deref(), Some(expected), "{value}");
    }
    for value in
        ["7.5", "1e300", "18446744073709551616", "9007199254740992.0", "true", "null", "[]", "{}", "[7]"]
    {
        assert_eq!(text(value), None, "{value}");
    }
}

#[test]
fn seconds_are_points_in_time() {
    let claims = Claims::from_payload(br#"{"exp": 1.5, "left": {"at": 1800000000}, "no": "1"}"#).unwrap();
    let seconds = |path: &str| claims.seconds(&ClaimPath::parse(path).unwrap());

    assert_eq!(claims.expires(), Some(Millis(1500)));
    assert_eq!(seconds("left.at"), Some(NOW));
    assert_eq!((seconds("no"), seconds("left"), seconds("x")), (None, None, None));
}

#[test]
fn a_path_names_members() {
    for text in ["", ".", "a.", ".a", "a..b", "https://example.com/sid", "a.b.c.d.e.f.g.h.i"] {
        assert!(ClaimPath::parse(text).is_err(), "{text}");
    }
    assert_eq!(ClaimPath::parse("a.b").unwrap().segments(), ["a", "b"]);
    for segments in [vec![], vec![String::new()], vec!["a".to_owned(); 9]] {
        assert!(ClaimPath::from_segments(segments).is_err());
    }
}

#[test]
fn claims_are_not_in_debug_output() {
    assert_eq!(format!("{:?}", Claims::from_payload(br#"{"sub": "ada"}"#).unwrap()), "Claims(1 members)");
}

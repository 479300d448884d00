//! Keys as issuers publish them and operators write them: a set in JSON, or one key in PEM.

use berth_core::time::Millis;
use berth_core::token;
use berth_core::token::{Algorithm, Key, KeyError, Keys, MAX_JWKS, Policy};

/// An unsigned token for each kind of key, `{"alg":…}` and `{}` with signatures of zeros.
const UNSIGNED: [&[u8]; 4] = [
    b"eyJhbGciOiJIUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"eyJhbGciOiJFZERTQSJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"eyJhbGciOiJFUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"eyJhbGciOiJSUzI1NiJ9.e30.AAAA",
];

/// Reads keys, and verifies with them.
pub fn check(input: &[u8]) {
    let published = Keys::from_jwks(input);
    let configured = Keys::from_configured_jwks(input);
    assert_eq!(published, Keys::from_jwks(input), "the same bytes are the same keys");
    if let (Ok(published), Ok(configured)) = (&published, &configured) {
        assert!(published.len() <= configured.len(), "an operator may keep more than an issuer may publish");
    }
    assert!(published.is_err() || configured.is_ok(), "what an issuer may publish an operator may keep");
    for keys in [published, configured].into_iter().flatten() {
        assert!(!keys.is_empty() && input.len() <= MAX_JWKS);
        check_keys(&keys);
    }
    match std::str::from_utf8(input).map(|text| Key::pem(Some("id"), text)) {
        Ok(Ok(key)) => {
            assert!(key.id() == Some("id") && !key.is_secret());
            check_keys(&Keys::new(vec![key]));
        }
        Ok(Err(error)) => assert!(error != KeyError::ShortSecret && !error.to_string().is_empty()),
        Err(_) => {}
    }
}

fn check_keys(keys: &Keys) {
    let all = Algorithm::ALL.map(|(_, algorithm)| algorithm);
    assert!(keys.fit_any(&all), "a key that is there can verify");
    assert_ne!(keys.hash(), 0);
    let policy = Policy { require_expiry: false, try_keys: true, ..Policy::new(all.to_vec()) };
    for unsigned in UNSIGNED {
        assert!(token::verify(unsigned, keys, &policy, Millis(0)).is_err(), "it is not signed");
    }
}

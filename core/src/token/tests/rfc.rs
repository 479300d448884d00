//! The examples of the standards.

use super::*;

/// RFC 7515, appendix A: the payload of the first three examples, which expires in 2011.
const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const BEFORE: Millis = Millis(1_300_819_379_000);

fn set(key: &str) -> Keys {
    let json: serde_json::Value = serde_json::from_str(&format!("{{\"keys\": [{key}]}}")).unwrap();
    Keys::from_inline_jwks(json.as_object().unwrap()).unwrap()
}

fn check(header: &str, signature: &str, key: &str, algorithm: Algorithm) {
    let keys = set(key);
    let token = format!("{header}.{PAYLOAD}.{signature}");
    let policy = Policy { issuer: Some("joe".to_owned()), leeway: Millis(0), ..Policy::new(vec![algorithm]) };

    let claims = verify(token.as_bytes(), &keys, &policy, BEFORE).unwrap();

    let path = ClaimPath::from_segments(vec!["http://example.com/is_root".to_owned()]).unwrap();
    assert_eq!(claims.get(&path), Some(&true.into()));
    let after = BEFORE + Millis(1000);
    assert_eq!(verify(token.as_bytes(), &keys, &policy, after), Err(Refusal::Expired));
}

#[test]
fn rfc_7515_a1_hs256() {
    check(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#,
        Algorithm::Hs256,
    );
}

#[test]
fn rfc_7515_a2_rs256() {
    check(
        "eyJhbGciOiJSUzI1NiJ9",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        r#"{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}"#,
        Algorithm::Rs256,
    );
}

#[test]
fn rfc_7515_a3_es256() {
    check(
        "eyJhbGciOiJFUzI1NiJ9",
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#,
        Algorithm::Es256,
    );
}

#[test]
fn rfc_7515_a4_es512_is_not_offered() {
    let token = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";

    for (_, algorithm) in Algorithm::ALL {
        assert_eq!(refusal(algorithm, token), Refusal::Algorithm);
    }
}

#[test]
fn rfc_7515_a5_unsecured_is_refused() {
    for (_, algorithm) in Algorithm::ALL {
        assert_eq!(refusal(algorithm, format!("eyJhbGciOiJub25lIn0.{PAYLOAD}.")), Refusal::Algorithm);
    }
}

/// Its payload is text, so only the signature can be right.
#[test]
fn rfc_8037_a4_ed25519() {
    let token = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let keys = set(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#);
    let jws = Jws::read(token, false).unwrap();

    let key = keys.candidates(None, Algorithm::EdDsa).unwrap().keys[0];

    assert!(key.verifies(Algorithm::EdDsa, jws.signed, &jws.signature));
    assert_eq!(jws.payload().unwrap(), b"Example of Ed25519 signing");
    let policy = Policy::new(vec![Algorithm::EdDsa]);
    assert_eq!(verify(token, &keys, &policy, NOW), Err(Refusal::Malformed));
}

/// RFC 7797, section 4.2: the payload is not encoded. Without its extension it would be another token.
#[test]
fn rfc_7797_unencoded_payloads_are_refused() {
    let payload = "$.02";
    let headers = [r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, r#"{"alg":"HS256","b64":false}"#];
    for header in headers {
        let token = format!("{}..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY", encode(header));

        assert_eq!(refusal(Algorithm::Hs256, &token), Refusal::Critical);
        assert_ne!(verdict(Algorithm::Hs256, token.replacen("..", &format!(".{payload}."), 1)), Ok(claims()));
    }
}

fn claims() -> Claims {
    Claims::from_payload(&super::payload()).unwrap()
}

/// RFC 8725, section 3.1: the algorithm is the verifier's choice. RFC 9864 gives EdDSA on this curve a name of its own.
#[test]
fn rfc_9864_ed25519_is_eddsa() {
    let token = sign(Algorithm::EdDsa, r#"{"alg":"Ed25519"}"#, &payload());

    assert_eq!(verdict(Algorithm::EdDsa, token), Ok(claims()));
}

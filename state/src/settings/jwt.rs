//! Whose JSON Web Tokens the service believes. The file with the keys is read by `issuer`, at the start and later.

use std::path::PathBuf;

use berth_core::token::{Algorithm, Policy};

use super::{Arguments, Sources};

/// Where the keys are, and what else a token must satisfy.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The file with the set of keys.
    pub jwks: PathBuf,
    /// What each token must satisfy.
    pub policy: Policy,
}

impl Sources<'_> {
    /// `is_fenced`: proxies show something too, without which their calls would be open to all.
    pub(super) fn jwt(&mut self, a: &Arguments, is_fenced: bool) -> Option<Jwt> {
        let jwks = self.text("jwks", &a.jwks);
        let algorithms = self.list("jwt-algorithms", &a.jwt_algorithms);
        let issuer = self.text("jwt-issuer", &a.jwt_issuer);
        let audiences = self.list("jwt-audience", &a.jwt_audience);
        let given = [
            ("jwt-algorithms", algorithms.is_some()),
            ("jwt-issuer", issuer.is_some()),
            ("jwt-audience", audiences.is_some()),
        ];
        let Some(jwks) = jwks else {
            for (name, _) in given.iter().filter(|(_, given)| *given) {
                self.faults.push(format!("{name}: only goes with jwks, which is missing"));
            }
            return None;
        };
        if !is_fenced {
            let message = "jwks: resolve would be open to everybody, as it takes no JWT: give the proxies a token, or \
                           have them show a certificate by tls-client-ca";
            self.faults.push(message.to_owned());
        }
        let algorithms = self.algorithms(algorithms);
        let (_, audiences) = audiences.unwrap_or_default();
        let policy = Policy { issuer, audiences, ..Policy::new(algorithms) };
        Some(Jwt { jwks: jwks.into(), policy })
    }

    fn algorithms(&mut self, given: Option<(String, Vec<String>)>) -> Vec<Algorithm> {
        let Some((place, names)) = given else {
            let message =
                "jwt-algorithms: is missing: name those that the issuer signs with, for example RS256";
            self.faults.push(message.to_owned());
            return Vec::new();
        };
        let mut algorithms = Vec::new();
        for name in names {
            match Algorithm::named(&name) {
                Some(algorithm) => algorithms.push(algorithm),
                None => {
                    let known: Vec<&str> = Algorithm::ALL.iter().map(|(name, _)| *name).collect();
                    self.faults.push(format!("{place}: must be of {}, is {name:?}", known.join(", ")));
                }
            }
        }
        if Algorithm::are_mixed(&algorithms) {
            self.faults.push(format!(
                "{place}: mixes secrets (HS256, HS384, HS512) with public keys, one of which could be taken for the \
                 other: keep to one kind"
            ));
        }
        algorithms
    }

    /// What stands between commas, none of it empty, and the place it comes from.
    fn list(&mut self, name: &str, flag: &Option<String>) -> Option<(String, Vec<String>)> {
        let (place, text) = self.find(name, flag)?;
        let entries: Vec<String> = text.split(',').map(|entry| entry.trim().to_owned()).collect();
        if entries.iter().any(String::is_empty) {
            self.faults.push(format!("{place}: must be names with commas between them, is {text:?}"));
        }
        Some((place, entries.into_iter().filter(|entry| !entry.is_empty()).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    fn settings(arguments: &Arguments) -> Result<Settings, Vec<String>> {
        Settings::new(arguments, &|_| None)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_policy_is_what_was_said_and_by_default_needs_an_expiry() {
        let arguments = Arguments {
            token: some("t"),
            jwks: some("keys.json"),
            jwt_algorithms: some("RS256, Ed25519"),
            jwt_audience: some("berth,games"),
            ..Arguments::default()
        };

        let jwt = settings(&arguments).unwrap().jwt.unwrap();

        assert_eq!(jwt.jwks, PathBuf::from("keys.json"));
        let audiences = vec!["berth".to_owned(), "games".to_owned()];
        let algorithms = vec![Algorithm::Rs256, Algorithm::EdDsa];
        assert_eq!(jwt.policy, Policy { audiences, ..Policy::new(algorithms) });
        assert!(jwt.policy.require_expiry);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        let jwks = || Arguments { token: some("t"), jwks: some("k"), ..Arguments::default() };
        for (arguments, faults) in [
            (jwks(), &["jwt-algorithms: is missing"][..]),
            (
                Arguments { token: None, jwt_algorithms: some("none,hs256,"), ..jwks() },
                &[
                    "--jwt-algorithms: must be names with commas",
                    "jwks: resolve would be open to everybody",
                    "is \"none\"",
                    "is \"hs256\"",
                ],
            ),
            (
                Arguments { jwt_algorithms: some("HS256,RS256"), jwt_audience: some(""), ..jwks() },
                &["--jwt-audience: must be", "--jwt-algorithms: mixes secrets"],
            ),
            (
                Arguments {
                    jwt_algorithms: some("ES256"),
                    jwt_issuer: some("i"),
                    jwt_audience: some("a"),
                    ..Arguments::default()
                },
                &["jwt-algorithms: only goes with jwks", "jwt-issuer: only", "jwt-audience: only"],
            ),
            (
                Arguments { jwks: some(""), jwt_issuer: some(""), ..jwks() },
                &["--jwks: is empty", "--jwt-issuer: is empty"],
            ),
        ] {
            let told = settings(&arguments).unwrap_err();
            assert_eq!(told.len(), faults.len(), "{told:#?}");
            for (fault, says) in told.iter().zip(faults) {
                assert!(fault.contains(says), "{says} is not in {fault}");
            }
        }
    }

    #[test]
    fn a_client_certificate_is_as_good_for_the_proxies_as_a_token() {
        let arguments = Arguments {
            jwks: some("k"),
            jwt_algorithms: some("ES256"),
            tls_cert: some("c"),
            tls_key: some("k"),
            tls_client_ca: some("a"),
            ..Arguments::default()
        };

        assert!(settings(&arguments).is_ok());
        assert!(settings(&Arguments { tls_client_ca: None, ..arguments }).is_err());
    }
}

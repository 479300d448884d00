//! Whose JSON Web Tokens the service believes. The file with the keys is read by `issuer`, at the start and later.

use std::path::PathBuf;

use berth_core::token::{Algorithm, Policy};
use clap::Args;

use super::checks::Checks;
use crate::given::{Given, Parser, file, filled, list};

/// Where the keys are, and what else a token must satisfy.
#[derive(Debug, Clone)]
pub struct Jwt {
    /// The file with the set of keys.
    pub jwks: PathBuf,
    /// What each token must satisfy.
    pub policy: Policy,
}

#[derive(Args)]
pub(super) struct JwtFlags {
    /// File with a JSON Web Key Set, read again when it changes: operators then need a JWT by one of its keys, with the scope
    /// berth.read or berth.operate
    #[arg(long, value_name = "FILE", value_parser = file())]
    jwks: Option<Given<PathBuf>>,
    /// What JWTs may be signed by, with commas; needed with --jwks
    #[arg(long, value_name = "NAMES", value_parser = algorithms())]
    jwt_algorithms: Option<Given<Vec<Algorithm>>>,
    /// What a JWT's iss must be [default: anything]
    #[arg(long, value_name = "NAME", value_parser = filled())]
    jwt_issuer: Option<Given<String>>,
    /// What a JWT's aud must have one of, with commas [default: anything]
    #[arg(long, value_name = "NAMES", value_parser = list(|name| Ok(name.to_owned())))]
    jwt_audience: Option<Given<Vec<String>>>,
}

impl JwtFlags {
    /// `is_fenced`: proxies show something too, without which their calls would be open to all.
    pub(super) fn check(self, is_fenced: bool, checks: &mut Checks) -> Option<Jwt> {
        let given = [
            ("jwt-algorithms", self.jwt_algorithms.is_some()),
            ("jwt-issuer", self.jwt_issuer.is_some()),
            ("jwt-audience", self.jwt_audience.is_some()),
        ];
        let has_jwks = self.jwks.is_some();
        let jwks = checks.take(self.jwks);
        let algorithms = checks.take(self.jwt_algorithms);
        let issuer = checks.take(self.jwt_issuer);
        let audiences = checks.take(self.jwt_audience).unwrap_or_default();
        let Some(jwks) = jwks else {
            for (name, _) in given.iter().filter(|(_, given)| *given && !has_jwks) {
                checks.fault(name, "only goes with jwks, which is missing");
            }
            return None;
        };
        if !is_fenced {
            let message = "resolve would be open to everybody, as it takes no JWT: give the proxies a token, or \
                           have them show a certificate by tls-client-ca";
            checks.fault("jwks", message);
        }
        let [(_, has_algorithms), ..] = given;
        if !has_algorithms {
            let message = "is missing: name those that the issuer signs with, for example RS256";
            checks.fault("jwt-algorithms", message);
        }
        let policy = Policy { issuer, audiences, ..Policy::new(algorithms.unwrap_or_default()) };
        Some(Jwt { jwks, policy })
    }
}

/// The names of algorithms, of one kind.
fn algorithms() -> Parser<Vec<Algorithm>> {
    let names = list(|name| {
        Algorithm::named(name).ok_or_else(|| {
            let known: Vec<&str> = Algorithm::ALL.iter().map(|(name, _)| *name).collect();
            format!("must be of {}, is {name:?}", known.join(", "))
        })
    });
    names.and(|algorithms| match Algorithm::are_mixed(algorithms) {
        true => {
            Err("mixes secrets (HS256, HS384, HS512) with public keys, one of which could be taken for the \
                     other: keep to one kind"
                .to_owned())
        }
        false => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{CommandLine, Settings};
    use super::*;
    use crate::given::Fault;

    fn settings(flags: &[&str]) -> Result<Settings, Vec<Fault>> {
        Settings::read(&CommandLine::typed(flags))
    }

    #[test]
    fn a_policy_is_what_was_said_and_by_default_needs_an_expiry() {
        let flags = [
            "--token=t",
            "--jwks=keys.json",
            "--jwt-algorithms=RS256, Ed25519",
            "--jwt-audience=berth,games",
        ];

        let jwt = settings(&flags).unwrap().jwt.unwrap();

        assert_eq!(jwt.jwks, PathBuf::from("keys.json"));
        let audiences = vec!["berth".to_owned(), "games".to_owned()];
        let algorithms = vec![Algorithm::Rs256, Algorithm::EdDsa];
        assert_eq!(jwt.policy, Policy { audiences, ..Policy::new(algorithms) });
        assert!(jwt.policy.require_expiry);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        for (flags, faults) in [
            (&["--token=t", "--jwks=k"][..], &["jwt-algorithms: is missing"][..]),
            (
                &["--jwks=k", "--jwt-algorithms=none,hs256,"],
                &[
                    "--jwt-algorithms: must be names with commas",
                    "is \"none\"",
                    "is \"hs256\"",
                    "jwks: resolve would be open to everybody",
                ],
            ),
            (
                &["--token=t", "--jwks=k", "--jwt-algorithms=HS256,RS256", "--jwt-audience="],
                &["--jwt-algorithms: mixes secrets", "--jwt-audience: must be"],
            ),
            (
                &["--jwt-algorithms=ES256", "--jwt-issuer=i", "--jwt-audience=a"],
                &["jwt-algorithms: only goes with jwks", "jwt-issuer: only", "jwt-audience: only"],
            ),
            (&["--token=t", "--jwks=", "--jwt-issuer="], &["--jwks: is empty", "--jwt-issuer: is empty"]),
        ] {
            let reported = settings(flags).unwrap_err();
            assert_eq!(reported.len(), faults.len(), "{reported:#?}");
            for (fault, says) in reported.iter().zip(faults) {
                assert!(fault.to_string().contains(says), "{says} is not in {fault}");
            }
        }
    }

    #[test]
    fn a_client_certificate_is_as_good_for_the_proxies_as_a_token() {
        let flags =
            ["--jwks=k", "--jwt-algorithms=ES256", "--tls-cert=c", "--tls-key=k", "--tls-client-ca=a"];

        assert!(settings(&flags).is_ok());
        assert!(settings(&flags[..4]).is_err());
    }
}

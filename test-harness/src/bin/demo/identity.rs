//! How sessions say who they are: in a header, which anybody can write, or by tokens that an issuer signs.
//!
//! With tokens native ring_hash gets the best that Envoy has of its own: `jwt_authn` verifies the same tokens with the
//! same keys, fetched as often, and hands the claim on in a header, by which ring_hash places.

use berth_harness::{Builder, Request};
use serde_json::json;

use crate::issuer::{AUDIENCE, ISSUER, TokenIssuer};
use crate::native;
use crate::session::Session;

/// The least that Berth allows; the default is 5 minutes. So it is with `jwt_authn` here.
pub(crate) const REFRESH: &str = "10s";
/// Where native ring_hash finds the session.
const HEADER: &str = "x-session-id";

pub(crate) enum Identity {
    Header,
    Token(TokenIssuer),
}

impl Identity {
    /// Says in a request whose it is.
    pub(crate) fn name(&self, request: Request, session: &Session) -> Request {
        match self {
            Self::Header => request.header(HEADER, &session.id),
            Self::Token(issuer) => {
                request.header("authorization", format!("Bearer {}", issuer.token(session)))
            }
        }
    }

    /// The issuer, if there is one.
    pub(crate) fn issuer(&self) -> Option<&TokenIssuer> {
        match self {
            Self::Header => None,
            Self::Token(issuer) => Some(issuer),
        }
    }

    /// What Envoy has of its own for the same task.
    pub(crate) fn native(&self) -> &'static str {
        match self {
            Self::Header => "native ring_hash",
            Self::Token(_) => "jwt_authn + ring_hash",
        }
    }

    /// Has Berth and Envoy know sessions by it.
    pub(crate) fn configure(&self, builder: Builder) -> Builder {
        let Self::Token(issuer) = self else { return builder };
        let path = "/.well-known/jwks.json";
        builder
            .add_cluster("idp", issuer.address())
            .configuration(move |json| {
                json["jwt_providers"] = json!([{
                    "name": "players",
                    "algorithms": ["ES256", "EdDSA"],
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "remote_jwks": {"cluster": "idp", "host": "id.example.com", "path": path, "refresh": REFRESH},
                }]);
                // The header alone no longer names a session.
                json["pools"][0]["session"]["sources"] =
                    json!([{"jwt": "players", "claim": "sid", "previous": "previous_sid"}]);
            })
            .jwt_authn(
                json!({
                    "issuer": ISSUER,
                    "audiences": [AUDIENCE],
                    "remote_jwks": {
                        "http_uri": {"uri": format!("{ISSUER}{path}"), "cluster": "idp", "timeout": "1s"},
                        "cache_duration": REFRESH,
                    },
                    "jwt_cache_config": {"jwt_cache_size": 10_000},
                    "claim_to_headers": [{"header_name": HEADER, "claim_name": "sid"}],
                }),
                json!({"prefix": "/", "headers": [{"name": native::HEADER, "present_match": true}]}),
            )
    }
}

//! Sessions that are named by the claim `sid` of a provider's tokens.

use berth_harness::Builder;
use berth_harness::tokens::{Algorithm, sign};
use serde_json::{Value, json};

/// A token by the RSA key, known as `a`.
pub(crate) fn token(claims: Value) -> String {
    sign(Algorithm::RS256, "a", claims)
}

/// Sessions are named by the claim `sid` of this provider's tokens.
pub(crate) fn by_token(builder: Builder, provider: Value) -> Builder {
    builder.configuration(move |json| {
        let mut provider = provider.clone();
        provider["name"] = "players".into();
        json["jwt_providers"] = json!([provider]);
        json["pools"][0]["session"] = json!({"sources": [{"jwt": "players", "claim": "sid"}]});
    })
}

/// How many tokens came to this.
pub(crate) fn counted(result: &str) -> String {
    format!("wasmcustom.berth_tokens_total.provider.players.result.{result}")
}

//! Sessions that are named by tokens of a test's own issuer.

use berth_harness::Builder;
use serde_json::{Value, json};

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

//! The compact form of a signed token (RFC 7515, section 7.1): three parts, read strictly.
//!
//! Decides what may be a token at all, before any key is touched. A form that two readers could take for different tokens
//! is refused: base64url with stray bits or wrong padding, members given twice, extensions that are not understood. Padding is
//! none by RFC 7515; a policy may allow it where an issuer adds it, and signs what it has added.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{Algorithm, MAX_KEY_ID, MAX_TOKEN, Refusal, json};

/// A token taken apart. Nothing of it is true yet.
pub(super) struct Jws<'t> {
    /// What the header says signed it.
    pub(super) algorithm: Algorithm,
    /// Which key the header says signed it.
    pub(super) key_id: Option<String>,
    /// Header and payload as they were sent, which is what is signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
    payload: &'t [u8],
    allows_padding: bool,
}

impl<'t> Jws<'t> {
    /// Takes a token apart; the payload's content stays untouched until the signature is known to be right.
    pub(super) fn read(token: &'t [u8], allows_padding: bool) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::TooLarge);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        // Five parts are an encrypted token.
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::Malformed);
        };
        let signed = token.get(..header.len() + 1 + payload.len()).ok_or(Refusal::Malformed)?;
        let header = json::object(&decode(header, allows_padding)?).ok_or(Refusal::Malformed)?;
        let (algorithm, key_id) = read_header(&header)?;
        let signature = decode(signature, allows_padding)?;
        Ok(Self { algorithm, key_id, signed, signature, payload, allows_padding })
    }

    /// The bytes of the payload.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Refusal> {
        decode(self.payload, self.allows_padding)
    }
}

/// The bytes of the payload of what looks like a signed token, whatever its header says.
pub(super) fn payload_of(token: &[u8], allows_padding: bool) -> Option<Vec<u8>> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    decode(payload, allows_padding).ok()
}

/// The algorithm and the key's id. `typ` is the application's to judge and is not looked at, as Envoy does not; whatever
/// the header says about keys is the sender's word and is not looked at either.
fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Refusal> {
    let name = header.get("alg").and_then(Value::as_str).ok_or(Refusal::Malformed)?;
    let algorithm = Algorithm::named(name).ok_or(Refusal::Algorithm)?;
    // No extension is understood, so one that must be is a reason to refuse (RFC 7515, section 4.1.11). `b64` changes
    // what is signed and must come with `crit` (RFC 7797); without it, readers would differ.
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Refusal::Critical);
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) if id.len() > MAX_KEY_ID => return Err(Refusal::TooLarge),
        Some(Value::String(id)) => Some(id.clone()),
        Some(_) => return Err(Refusal::Malformed),
    };
    // A token within a token: its claims would be those of the inner one.
    let is_nested = match header.get("cty") {
        None => false,
        Some(Value::String(kind)) => {
            kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("application/jwt")
        }
        Some(_) => true,
    };
    if is_nested { Err(Refusal::Malformed) } else { Ok((algorithm, key_id)) }
}

/// Base64url whose unused bits are zero, without padding or, if that is allowed, with all of it.
fn decode(part: &[u8], allows_padding: bool) -> Result<Vec<u8>, Refusal> {
    let bare = if allows_padding { without_padding(part) } else { part };
    URL_SAFE_NO_PAD.decode(bare).map_err(|_| Refusal::Malformed)
}

/// What stands before the padding that fills four characters. Any other `=` stays, and is no base64.
fn without_padding(part: &[u8]) -> &[u8] {
    if !part.len().is_multiple_of(4) {
        return part;
    }
    part.strip_suffix(b"==").or_else(|| part.strip_suffix(b"=")).unwrap_or(part)
}

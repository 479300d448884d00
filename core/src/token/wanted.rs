//! The claims that a configuration looks at: all that is kept of a verified token.
//!
//! Each is numbered when the configuration is read, so that a request finds it by its place. Claims of one token take
//! some hundred bytes so, and not the kilobytes that issuers like to put in.

use super::{ClaimPath, Claims, Refusal};
use crate::time::Millis;

/// The claims of one provider's tokens that anybody looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted(Vec<(ClaimPath, Form)>);

/// As what a claim is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Text or a whole number.
    Text,
    /// A point in time.
    Time,
    /// A whole number of 32 bits.
    Version,
}

/// Beyond it, doubles are not exact.
const MAX_TIME: u64 = 1 << 53;

/// The place of a wanted claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// What a verified token says of the wanted claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Facts(Vec<Option<Box<str>>>);

impl Wanted {
    /// The place of a claim, from now on a wanted one.
    pub fn slot(&mut self, path: ClaimPath, form: Form) -> Slot {
        let wanted = (path, form);
        let place = self.0.iter().position(|known| *known == wanted);
        Slot(place.unwrap_or_else(|| {
            self.0.push(wanted);
            self.0.len() - 1
        }))
    }

    /// Every wanted claim, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (&ClaimPath, Form)> {
        self.0.iter().map(|(path, form)| (path, *form))
    }

    /// Reads them from a verified token.
    ///
    /// # Errors
    /// [`Refusal::ClaimType`] if a time or a version is there and cannot be read: treated as missing, it would void the very
    /// limit that it is wanted for.
    pub fn read(&self, claims: &Claims) -> Result<Facts, Refusal> {
        let read = |(path, form): (&ClaimPath, Form)| {
            let text = match form {
                Form::Text | Form::Version => claims.text(path),
                Form::Time => claims.seconds(path).map(|time| time.0.to_string()),
            };
            let is_missing = claims.get(path).is_none_or(serde_json::Value::is_null);
            if is_missing || text.as_deref().is_some_and(|text| form.admits(text)) || form == Form::Text {
                Ok(text.map(String::into_boxed_str))
            } else {
                Err(Refusal::ClaimType)
            }
        };
        Ok(Facts(self.iter().map(read).collect::<Result<_, _>>()?))
    }
}

impl Form {
    /// Whether a value, times in milliseconds, can be read so.
    #[must_use]
    pub fn admits(self, text: &str) -> bool {
        match self {
            Self::Text => true,
            // What JSON carries without loss, which is 285,000 years.
            Self::Time => text.parse().is_ok_and(|time: u64| time < MAX_TIME),
            Self::Version => text.parse::<u32>().is_ok(),
        }
    }
}

impl Facts {
    /// As somebody else has read them, in the order of places; times in milliseconds.
    #[must_use]
    pub fn new(values: Vec<Option<Box<str>>>) -> Self {
        Self(values)
    }

    /// The claim as text, unless it is missing or cannot be read so.
    #[must_use]
    pub fn text(&self, slot: Slot) -> Option<&str> {
        self.0.get(slot.0)?.as_deref()
    }

    /// The claim as a point in time.
    #[must_use]
    pub fn time(&self, slot: Slot) -> Option<Millis> {
        self.text(slot)?.parse().ok().map(Millis)
    }

    /// The claim as a version.
    #[must_use]
    pub fn version(&self, slot: Slot) -> Option<u32> {
        self.text(slot)?.parse().ok()
    }

    /// The memory they take, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let each = |value: &Option<Box<str>>| {
            size_of::<Option<Box<str>>>() + value.as_ref().map_or(0, |text| text.len())
        };
        self.0.iter().map(each).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ClaimPath {
        ClaimPath::parse(text).unwrap()
    }

    #[test]
    fn a_claim_is_read_as_what_it_is_wanted_for() {
        let mut wanted = Wanted::default();
        let id = wanted.slot(path("player.id"), Form::Text);
        let number = wanted.slot(path("iat"), Form::Text);
        let time = wanted.slot(path("iat"), Form::Time);
        let missing = wanted.slot(path("sid"), Form::Text);

        assert_eq!(wanted.slot(path("iat"), Form::Time), time, "asked for twice, it is kept once");
        let claims = Claims::from_payload(br#"{"player": {"id": "ada"}, "iat": 1700000000}"#).unwrap();
        let facts = wanted.read(&claims).unwrap();

        assert_eq!((facts.text(id), facts.text(number)), (Some("ada"), Some("1700000000")));
        assert_eq!(facts.time(time), Some(Millis(1_700_000_000_000)));
        assert_eq!(facts.text(missing), None);
        assert_eq!(facts.time(id), None);
    }

    #[test]
    fn a_time_or_a_version_that_cannot_be_read_is_no_missing_one() {
        let mut wanted = Wanted::default();
        let version = wanted.slot(path("sv"), Form::Version);
        wanted.slot(path("iat"), Form::Time);
        let read = |json: &str| wanted.read(&Claims::from_payload(json.as_bytes()).unwrap());

        for bad in [
            r#"{"sv": 1700000000000}"#,
            r#"{"sv": "v2"}"#,
            r#"{"sv": -1}"#,
            r#"{"sv": [1]}"#,
            r#"{"iat": 1e300}"#,
            r#"{"iat": 1700000000000000000}"#,
            r#"{"iat": "today"}"#,
        ] {
            assert_eq!(read(bad), Err(Refusal::ClaimType), "{bad}");
        }
        for (good, is) in [("{}", None), (r#"{"sv": null}"#, None), (r#"{"sv": "7", "iat": 1.5}"#, Some(7))] {
            assert_eq!(read(good).map(|facts| facts.version(version)), Ok(is), "{good}");
        }
    }
}

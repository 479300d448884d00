//! The token that a command shows to the service: given as text, or in a file. A file is read again for each call, since a
//! token that is mounted into a pod is renewed while a command waits.

use std::path::{Path, PathBuf};

use berth_state::given::{Fault, Given, Place};
use hyper::header::HeaderValue;

use super::arguments::bearer;

#[derive(Debug)]
pub(super) enum Token {
    /// The value of `Authorization`.
    Text(HeaderValue),
    /// The flag or variable that names a file, and the file.
    File(String, PathBuf),
}

impl Token {
    /// The token, if one is given in one way. A flag wins over the variable of the other way. `None` at a fault.
    pub(super) fn of(
        text: Option<Given<HeaderValue>>,
        file: Option<Given<PathBuf>>,
        faults: &mut Vec<Fault>,
    ) -> Option<Option<Self>> {
        let is_flag = |place: &Place| matches!(place, Place::Flag(_));
        let (text, file) = match (text, file) {
            (Some(text), Some(file)) if is_flag(&text.place) == is_flag(&file.place) => {
                let places = format!("{}, {}", text.place, file.place);
                faults.push(Fault::new(places, "are both given: leave one out"));
                return None;
            }
            (Some(text), Some(_)) if is_flag(&text.place) => (Some(text), None),
            (Some(_), Some(file)) => (None, Some(file)),
            one => one,
        };
        let Some(file) = file else {
            return text.map_or(Some(None), |text| text.take(faults).map(|text| Some(Self::Text(text))));
        };
        let place = file.place.to_string();
        let token = Self::File(place, file.take(faults)?);
        token.header().map_err(|fault| faults.push(fault)).ok().map(|_| Some(token))
    }

    /// The value of `Authorization`.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn header(&self) -> Result<HeaderValue, Fault> {
        match self {
            Self::Text(value) => Ok(value.clone()),
            Self::File(place, file) => read(file).map_err(|reason| Fault::new(place, reason)),
        }
    }
}

fn read(file: &Path) -> Result<HeaderValue, String> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    match text.trim_end() {
        "" => Err(format!("{name} is empty: it must hold a token")),
        token => bearer(token).map_err(|reason| format!("{name} {reason}")),
    }
}

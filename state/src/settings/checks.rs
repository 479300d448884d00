//! Takes values out of what was given, and collects what is wrong with them.

use super::file::File;
use crate::given::{Fault, Given};

pub(super) struct Checks {
    file: File,
    faults: Vec<Fault>,
}

impl Checks {
    /// With what is wrong already.
    pub(super) fn new(file: File, faults: Vec<Fault>) -> Self {
        Self { file, faults }
    }

    /// The value; `None` if it was not given, or is wrong.
    pub(super) fn take<T>(&mut self, given: Option<Given<T>>) -> Option<T> {
        let given = given?;
        let place = self.file.place(&given.place);
        given.take_from(&place, &mut self.faults)
    }

    /// Settings that do not go together.
    pub(super) fn fault(&mut self, settings: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(settings, message));
    }

    /// The value if nothing was wrong anywhere.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<Fault>> {
        if self.faults.is_empty() { Ok(value) } else { Err(self.faults) }
    }
}

//! Which claims of which provider's tokens the configuration looks at, collected while it is read.

use serde_json::Value;

use super::fields::{Faults, Fields, quoted};
use crate::token::{ClaimPath, Form, Slot, Wanted};

/// The providers by name, and what is wanted of each.
#[derive(Debug)]
pub(super) struct ClaimBook {
    names: Vec<String>,
    wanted: Vec<Wanted>,
}

impl ClaimBook {
    /// By the document: a provider with a fault has its name all the same.
    pub(super) fn new(providers: Option<&Value>) -> Self {
        let elements = providers.and_then(Value::as_array).into_iter().flatten();
        let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let names: Vec<String> = elements.map(name).collect();
        Self { wanted: vec![Wanted::default(); names.len()], names }
    }

    /// The provider that the field `jwt` names, by place and name.
    pub(super) fn provider(&self, fields: &mut Fields<'_>, faults: &mut Faults) -> Option<(usize, String)> {
        let name = fields.required_string("jwt", "name a provider in jwt_providers", faults)?;
        let place = self.names.iter().position(|known| known == name);
        if place.is_none() {
            let known: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
            let are = if known.is_empty() {
                "the list is empty".to_owned()
            } else {
                format!("they are {}", known.join(", "))
            };
            let message = format!("is no provider in jwt_providers: {are}, is {}", quoted(name));
            faults.add(&fields.path_of("jwt"), message);
        }
        Some((place?, name.to_owned()))
    }

    pub(super) fn slot(&mut self, provider: usize, path: ClaimPath, form: Form) -> Slot {
        match self.wanted.get_mut(provider) {
            Some(wanted) => wanted.slot(path, form),
            None => Wanted::default().slot(path, form),
        }
    }

    /// What is wanted, by the providers' places.
    pub(super) fn close(self) -> Vec<Wanted> {
        self.wanted
    }
}

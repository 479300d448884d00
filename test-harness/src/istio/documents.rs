//! The documents of an overlay, as `kubectl apply -k` would send them, each with exactly the fields that this translator knows.
//! Lists of `resources` are all of Kustomize that the shipped overlays use.

use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use serde_json::Value;

use super::kinds::Kind;
use crate::envoy::root;

/// Kubernetes documents, in the order of their files.
#[derive(Clone, Debug)]
pub struct Documents(Vec<Value>);

impl Documents {
    /// The documents of a directory below envoy/istio that has a kustomization.yaml, such as `gateway`.
    ///
    /// # Panics
    /// If a file is missing, or a document has an unknown kind or field.
    pub fn of(overlay: &str) -> Self {
        let mut list = Vec::new();
        collect(&root().join("envoy/istio").join(overlay), &mut list);
        for (file, document) in &list {
            Kind::parse(document).unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
        }
        Self(list.into_iter().map(|(_, document)| document).collect())
    }

    /// All of one kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |document| document["kind"] == kind)
    }

    /// Each document as what it is.
    pub(super) fn kinds(&self) -> Result<Vec<Kind>, String> {
        self.0.iter().map(Kind::parse).collect()
    }

    /// Edits the document of this kind and name.
    ///
    /// # Panics
    /// If there is not exactly one.
    #[must_use]
    pub fn with(mut self, kind: &str, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let is_it = |document: &&mut Value| document["kind"] == kind && document["metadata"]["name"] == name;
        let mut found: Vec<&mut Value> = self.0.iter_mut().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{kind} {name}");
        edit(found[0]);
        self
    }

    /// Adds a document.
    #[must_use]
    pub fn and(mut self, document: Value) -> Self {
        self.0.push(document);
        self
    }

    /// Leaves out the document of this kind and name.
    ///
    /// # Panics
    /// If there is not exactly one.
    #[must_use]
    pub fn without(mut self, kind: &str, name: &str) -> Self {
        let before = self.0.len();
        self.0.retain(|document| document["kind"] != kind || document["metadata"]["name"] != name);
        assert_eq!(self.0.len() + 1, before, "{kind} {name}");
        self
    }
}

/// The documents that a kustomization names, each with its file.
fn collect(directory: &Path, list: &mut Vec<(PathBuf, Value)>) {
    let file = directory.join("kustomization.yaml");
    let kustomization = read(&file).pop().unwrap_or_default();
    for field in kustomization.as_object().into_iter().flat_map(|fields| fields.keys()) {
        let known = ["apiVersion", "kind", "resources"].contains(&field.as_str());
        assert!(known, "{}: the harness does not know {field}", file.display());
    }
    for resource in kustomization["resources"].as_array().expect("a list of resources") {
        let path = directory.join(resource.as_str().expect("a path"));
        if path.is_dir() {
            collect(&path, list);
        } else {
            list.extend(read(&path).into_iter().map(|document| (path.clone(), document)));
        }
    }
}

fn read(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    documents.map(|document| document.unwrap_or_else(|error| panic!("{}: {error}", file.display()))).collect()
}

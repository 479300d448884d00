//! The published JSON Schema against the parser: it accepts what the parser accepts, and refuses what a schema can.

use std::fs;
use std::path::{Path, PathBuf};

use berth_core::config::Config;
use jsonschema::Validator;
use serde_json::Value;

/// Bad configurations that the schema lets pass, and why it must.
const ONLY_THE_PARSER: &[(&str, &str)] = &[
    ("cookie-that-no-source-reads", "compares a name with those of the sources"),
    ("cookie-that-nodes-set-and-berth-too", "compares a name with those of the sources"),
    ("cookies-for-other-hosts", "compares two places"),
    ("cooldown-above-its-maximum", "compares two durations"),
    (
        "jwt-keys-that-only-look-right",
        "compares keys with algorithms and with each other, and reads what is in them",
    ),
    ("keys-given-twice", "a schema sees the value, where the first of the two is lost already"),
    ("maglev-table-not-prime", "primes are beyond a schema"),
    ("maximum-below-the-default-cooldown", "compares two durations"),
    ("maximum-below-the-default-minimum", "compares a number with another's default"),
    ("minimum-above-maximum", "compares two numbers"),
    ("more-points-than-a-ring-may-have", "multiplies weights and virtual_nodes"),
    ("rules-of-unknown-pools", "compares names of rules with those of pools"),
    ("sessions-that-need-a-state-cluster", "compares a session's fields with another part of the document"),
    ("signed-cookies-taken-unsigned", "compares the sessions of all rules of a pool"),
    ("two-pools-of-one-name-only", "compares elements of an array by one field"),
    ("until-that-cuts-issued-ids", "compares a source with the cookie that is issued"),
];

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/berth.schema.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

/// The names, without extension, and contents of a folder's configurations.
fn configurations(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let read =
        |path: PathBuf| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
    let mut all: Vec<_> = paths.filter(is_json).map(read).collect();
    all.sort();
    all
}

#[test]
fn is_a_schema() {
    jsonschema::meta::validate(&schema()).unwrap();
}

#[test]
fn takes_every_good_configuration() {
    let validator = validator();
    for (name, json) in configurations("good") {
        let document = serde_json::from_slice(&json).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&document)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();

        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
}

#[test]
fn refuses_every_bad_configuration_but_those_that_only_the_parser_can() {
    let validator = validator();
    let all = configurations("bad");
    let passing = all
        .iter()
        .filter(|(_, json)| serde_json::from_slice(json).is_ok_and(|document| validator.is_valid(&document)));

    let passing: Vec<&str> = passing.map(|(name, _)| name.as_str()).collect();

    let expected: Vec<&str> = ONLY_THE_PARSER.iter().map(|(name, _)| *name).collect();
    assert_eq!(passing, expected, "each file that passes needs a reason");
}

/// Every place of every good configuration, changed in ways that nothing allows: the two must agree.
#[test]
fn refuses_what_the_parser_refuses_where_a_field_is_spoilt() {
    let validator = validator();
    let spoilt =
        [Value::from(true), (-7.5).into(), "".into(), "no such word ".into(), Value::Array(Vec::new())];
    for (name, json) in configurations("good") {
        let document: Value = serde_json::from_slice(&json).unwrap();
        for pointer in pointers(&document, "") {
            for value in &spoilt {
                let mut document = document.clone();
                *document.pointer_mut(&pointer).unwrap() = value.clone();

                let takes = Config::parse(&serde_json::to_vec(&document).unwrap()).is_ok();

                assert_eq!(validator.is_valid(&document), takes, "{name} with {value} at {pointer}");
            }
        }
    }
}

#[test]
fn every_field_says_what_it_is_for() {
    let schema = schema();
    for pointer in pointers(&schema, "") {
        let Some((object, name)) = pointer.rsplit_once("/properties/") else { continue };
        let field = schema.pointer(&pointer).unwrap();
        // A branch of a oneOf or an if narrows fields that are described where they are declared.
        let declares = schema.pointer(object).and_then(|object| object.get("additionalProperties")).is_some();
        if declares && !name.contains('/') {
            let described = field.get("$ref").and_then(Value::as_str).map(|target| target.replace('#', ""));
            let target = described.and_then(|target| schema.pointer(&target).cloned());
            let has = |value: &Value| value.get("description").is_some();
            assert!(has(field) || target.is_some_and(|target| has(&target)), "{pointer}");
        }
    }
}

/// The JSON pointers of all values within this one.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect(),
        Value::Array(array) => {
            array.iter().enumerate().map(|(i, value)| (format!("{at}/{i}"), value)).collect()
        }
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(pointer, child)| {
            let within = pointers(child, &pointer);
            std::iter::once(pointer).chain(within)
        })
        .collect()
}

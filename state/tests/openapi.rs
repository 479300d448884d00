//! `openapi.yaml` is what the service does: same paths and methods, its examples are sent and read with the wire types.
#[path = "support/http.rs"]
mod http;

use std::collections::BTreeSet;

use berth_core::wire::{
    ChangesReply, CountReply, EndReply, ErrorReply, ForgetReply, NodeChange, NodeRecord, NodesReply,
    ResolveReply, ResolveRequest, SessionReply, TouchReply, TouchRequest,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use http::Service;

const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

fn document() -> Value {
    serde_yaml_ng::from_str(include_str!("../openapi.yaml")).unwrap()
}

/// Follows a `$ref`.
fn resolved<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(pointer) => {
            document.pointer(pointer.trim_start_matches('#')).unwrap_or_else(|| panic!("{pointer}"))
        }
        None => value,
    }
}

/// Every operation: path, method, itself.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.push((path.clone(), method.to_uppercase(), operation));
            }
        }
    }
    all
}

/// The path with its parameters' examples.
fn target(document: &Value, path: &str) -> String {
    let mut target = path.to_owned();
    let mut query = String::new();
    let parameters = document["paths"][path].get("parameters");
    let own = document["paths"][path]["get"].get("parameters");
    for parameter in parameters.into_iter().chain(own).flat_map(|list| list.as_array().unwrap()) {
        let parameter = resolved(document, parameter);
        let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str());
        match (parameter["in"].as_str().unwrap(), example) {
            ("path", Some(example)) => target = target.replace(&format!("{{{name}}}"), example),
            ("query", Some(example)) => query = format!("?{name}={example}"),
            _ => {}
        }
    }
    target + &query
}

#[test]
fn every_operation_answers_its_example_and_nothing_else_is_there() {
    let document = document();
    let service = Service::in_memory();
    let mut operations = operations(&document);
    // In an order in which each finds what it needs: made, then read, then ended.
    operations
        .sort_by_key(|(_, method, _)| ["POST", "PUT", "GET", "DELETE"].iter().position(|m| m == method));
    // Touch needs what resolve makes.
    operations.sort_by_key(|(path, ..)| path != "/v1/resolve");

    for (path, method, operation) in &operations {
        let example = &operation["requestBody"]["content"]["application/json"]["example"];
        let body = if example.is_null() { String::new() } else { example.to_string() };
        let reply = service.ask(method, &target(&document, path), &body);
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");

        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        if let Some(schema) = schema["$ref"].as_str() {
            let answer = reply.json();
            read_as(schema, &answer);
            fields_are_documented(&document, schema, &answer);
        }
    }

    for (path, ..) in &operations {
        for method in METHODS.map(str::to_uppercase) {
            let known = operations.iter().any(|(other, known, _)| (other, known) == (path, &method));
            let status = service.ask(&method, &target(&document, path), "").status;
            assert_eq!(status == 405, !known, "{method} {path} is answered {status}");
        }
    }
}

#[test]
fn every_route_of_the_service_is_described() {
    let source = include_str!("../src/api.rs");
    let routes: BTreeSet<&str> =
        source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    let document = document();
    let described: BTreeSet<&str> =
        document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(routes, described);
}

#[test]
fn every_example_is_of_its_type() {
    let document = document();
    let mut seen = 0;
    for (path, method, operation) in operations(&document) {
        for side in
            [&operation["requestBody"], &operation["responses"]["200"], &operation["responses"]["default"]]
        {
            let content = &resolved(&document, side)["content"]["application/json"];
            if let Some(schema) = content["schema"]["$ref"].as_str() {
                println!("{method} {path}: {schema}");
                read_as(schema, &content["example"]);
                fields_are_documented(&document, schema, &content["example"]);
                seen += 1;
            }
        }
    }
    assert!(seen >= 18, "{seen}");
}

#[test]
fn problem_details_are_described() {
    let document = document();
    let described = &document["components"]["responses"]["Error"]["content"]["application/problem+json"];
    let body = r#"{"pool": "nodes", "sessions": [{"candidates": ["10.0.0.1:80"]}]}"#;
    let accept = ["accept: application/problem+json"];

    let answer = Service::in_memory().ask_with("POST", "/v1/resolve", body, &accept).json();

    fields_are_documented(&document, described["schema"]["$ref"].as_str().unwrap(), &answer);
    assert_eq!(answer, described["example"]);
}

/// Reads with the wire type of a schema; writing it again must give the same.
fn read_as(schema: &str, value: &Value) {
    fn both<T: Serialize + DeserializeOwned>(value: &Value) -> Value {
        serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
    }
    let bytes = value.to_string();
    let again = match schema.rsplit('/').next().unwrap() {
        "ResolveRequest" => serde_json::to_value(ResolveRequest::parse(bytes.as_bytes()).unwrap()).unwrap(),
        "TouchRequest" => serde_json::to_value(TouchRequest::parse(bytes.as_bytes()).unwrap()).unwrap(),
        "NodeChange" => serde_json::to_value(NodeChange::parse(bytes.as_bytes()).unwrap()).unwrap(),
        "ResolveReply" => both::<ResolveReply>(value),
        "TouchReply" => both::<TouchReply>(value),
        "ChangesReply" => both::<ChangesReply>(value),
        "NodeRecord" => both::<NodeRecord>(value),
        "NodesReply" => both::<NodesReply>(value),
        "CountReply" => both::<CountReply>(value),
        "SessionReply" => both::<SessionReply>(value),
        "ForgetReply" => both::<ForgetReply>(value),
        "EndReply" => both::<EndReply>(value),
        "Error" => both::<ErrorReply>(value),
        other => panic!("no wire type is known for {other}"),
    };
    assert_eq!(&again, value, "{schema}");
}

/// No field that the description does not have, and all that it requires.
fn fields_are_documented(document: &Value, schema: &str, value: &Value) {
    fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
        let schema = resolved(document, schema);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let property = schema["properties"].get(name).or(schema.get("additionalProperties"));
                    check(
                        document,
                        property.unwrap_or_else(|| panic!("{at}.{name} is not described")),
                        value,
                        name,
                    );
                }
                for name in schema["required"].as_array().into_iter().flatten() {
                    assert!(fields.contains_key(name.as_str().unwrap()), "{at} lacks {name}");
                }
            }
            Value::Array(values) => {
                values.iter().for_each(|value| check(document, &schema["items"], value, at))
            }
            _ => {}
        }
    }
    check(document, &serde_json::json!({"$ref": schema}), value, schema);
}

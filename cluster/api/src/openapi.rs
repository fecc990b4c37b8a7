//! The schemas of kinds, published as OpenAPI v2 and v3.
//!
//! Start at [`v3`], one document a group and version, and [`v3_index`], the list of them; [`v2`] is the one big
//! document that older clients read. All take kinds from anywhere, so custom resources are published the same way.
//!
//! Invariants:
//! * the same kinds give the same bytes;
//! * every reference in a document resolves inside it.
//!
//! Not here: caching and compression (the `apiserver` crate keeps the bytes). Descriptions of built-in fields are
//! upstream's; the build takes them from a dependency (`prose.rs`), and without it documents have none.

mod binary;
mod paths;
mod prose;
mod schemas;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::VERSION;
use crate::kinds::Kind;

/// Which of the two languages a document is written in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// `/openapi/v2`: everything in one document.
pub fn v2(kinds: &[&Kind]) -> Vec<u8> {
    v2_document(kinds).to_string().into_bytes()
}

/// The content type of [`v2_binary`]; clients in Go accept nothing else.
pub const V2_BINARY_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What clients send to ask for [`v2_binary`]: an older spelling of the same type.
pub const V2_BINARY_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// `/openapi/v2` in the binary form.
pub fn v2_binary(kinds: &[&Kind]) -> Vec<u8> {
    binary::document(&v2_document(kinds))
}

/// `/openapi/v2` as a value.
pub fn v2_document(kinds: &[&Kind]) -> Value {
    let paths = paths::all(kinds, Dialect::V2);
    let definitions = schemas::all(kinds, Dialect::V2, &references(&paths));
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"in": "header", "name": "authorization", "type": "apiKey"}},
        "security": [{"BearerToken": []}],
    })
}

/// `/openapi/v3`: paths of the documents, such as `apis/apps/v1`, each with a text that changes when the document does.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let entry = |(path, hash): (&str, &str)| {
        (path.to_owned(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
    };
    let paths: Map<String, Value> = documents.into_iter().map(entry).collect();
    json!({"paths": paths}).to_string().into_bytes()
}

/// The path of a group and version's document: `api/v1`, `apis/apps/v1`.
pub fn v3_path(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`: one group and version, if any kind is in it.
pub fn v3(group: &str, version: &str, kinds: &[&Kind]) -> Option<Vec<u8>> {
    let kinds: Vec<&Kind> =
        kinds.iter().copied().filter(|kind| kind.group == group && kind.version == version).collect();
    (!kinds.is_empty()).then(|| v3_document(&kinds).to_string().into_bytes())
}

fn v3_document(kinds: &[&Kind]) -> Value {
    let paths = paths::all(kinds, Dialect::V3);
    let schemas = schemas::all(kinds, Dialect::V3, &references(&paths));
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"in": "header", "name": "authorization", "type": "apiKey"}},
        },
    })
}

/// The names of every schema that a value refers to.
fn references(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect_references(value, &mut found);
    found
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                found.extend(name.rsplit('/').next().map(str::to_owned));
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;

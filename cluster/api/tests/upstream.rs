//! Upstream's own test data, against our schemas and encodings.
//!
//! The data is upstream's and not part of the project. Name its folder in `SKERRY_FIXTURES` and these tests run over it;
//! otherwise they say so and pass. It holds `kubernetes-api-v1.36/GROUP.VERSION.KIND.{json,pb}`, one object of every
//! kind with every field set, and `kubernetes-swagger-v1.35.json`, the OpenAPI v2 document of an API server.

use std::path::PathBuf;
use std::{env, fs};

use api::check::{Mode, parse_json, structure};
use api::kinds::{KINDS, Kind};
use serde_json::Value;

fn folder() -> Option<PathBuf> {
    let folder = env::var_os("SKERRY_FIXTURES").map(PathBuf::from);
    if folder.is_none() {
        println!("not compared: SKERRY_FIXTURES is not set");
    }
    folder
}

/// The object of that kind in one encoding, where the data has it.
fn object(folder: &std::path::Path, kind: &Kind, encoding: &str) -> Option<Vec<u8>> {
    let group = if kind.group.is_empty() { "core" } else { &kind.group };
    fs::read(folder.join(format!("kubernetes-api-v1.36/{group}.{}.{}.{encoding}", kind.version, kind.kind))).ok()
}

#[test]
fn upstreams_objects_are_canonical() {
    let Some(folder) = folder() else { return };
    let mut count = 0;
    for kind in KINDS.iter() {
        let Some(text) = object(&folder, kind, "json") else {
            println!("no data for {} {}", kind.api_version(), kind.kind);
            continue;
        };
        let (original, duplicates) = parse_json(&text).expect("the data is JSON");
        let mut value = original.clone();
        let report = structure(kind, &mut value, Mode::Whole);
        assert_eq!((duplicates.len(), &report), (0, &Default::default()), "{} {}", kind.api_version(), kind.kind);
        assert_same("", &value, &original, kind);
        count += 1;
    }
    println!("{count} objects are canonical");
}

fn assert_same(path: &str, ours: &Value, theirs: &Value, kind: &Kind) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()) {
                let path = format!("{path}.{key}");
                assert_same(&path, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), kind);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(at, (a, b))| assert_same(&format!("{path}[{at}]"), a, b, kind));
        }
        _ => assert_eq!(ours, theirs, "{} {} at {path}", kind.api_version(), kind.kind),
    }
}

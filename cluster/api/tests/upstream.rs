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

fn swagger(folder: &std::path::Path) -> Value {
    let text = fs::read(folder.join("kubernetes-swagger-v1.35.json")).expect("the swagger document is there");
    serde_json::from_slice(&text).expect("the swagger document is JSON")
}

/// Upstream says these without an effect: granular and replace are what saying nothing means, and bytes are no list.
const IDLE_WORDS: [&str; 3] = [
    "io.k8s.api.core.v1.PersistentVolumeClaimStatus.allocatedResourceStatuses ",
    "io.k8s.api.policy.v1.PodDisruptionBudgetSpec.selector ",
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIServiceSpec.caBundle ",
];

#[test]
fn definitions_are_upstreams_without_the_prose() {
    let Some(folder) = folder() else { return };
    let kinds: Vec<&Kind> = KINDS.iter().collect();
    let ours: Value = serde_json::from_slice(&api::openapi::v2(&kinds)).expect("our document is JSON");
    let theirs = swagger(&folder);
    let (mut types, mut fields, mut differences) = (0, 0, Vec::new());
    for (name, definition) in ours["definitions"].as_object().expect("definitions") {
        let theirs = &theirs["definitions"][name];
        if theirs.is_null() {
            differences.push(format!("{name} is ours alone"));
            continue;
        }
        types += 1;
        let properties = |one: &Value| one["properties"].as_object().cloned().unwrap_or_default();
        let (our_fields, their_fields) = (properties(definition), properties(theirs));
        for field in our_fields.keys().chain(their_fields.keys()) {
            let (Some(our), Some(their)) = (our_fields.get(field), their_fields.get(field)) else {
                differences.push(format!("{name}.{field} is on one side only"));
                continue;
            };
            fields += 1;
            for key in [
                "type",
                "format",
                "$ref",
                "x-kubernetes-list-map-keys",
                "x-kubernetes-patch-strategy",
                "x-kubernetes-patch-merge-key",
                "x-kubernetes-map-type",
            ] {
                if our[key] != their[key] {
                    differences.push(format!("{name}.{field} {key}: {} instead of {}", our[key], their[key]));
                }
            }
            // Saying nothing means atomic.
            if our["x-kubernetes-list-type"] != their["x-kubernetes-list-type"]
                && !their["x-kubernetes-list-type"].is_null()
            {
                differences.push(format!("{name}.{field} has another list type"));
            }
        }
        let sorted = |one: &Value| {
            let mut names: Vec<String> =
                one["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
            names.sort();
            names
        };
        if sorted(definition) != sorted(theirs)
            || definition["x-kubernetes-map-type"] != theirs["x-kubernetes-map-type"]
        {
            differences.push(format!("{name} requires other fields or merges in another way"));
        }
    }
    println!("{types} definitions with {} fields compared, {} differences", fields / 2, differences.len());
    differences.retain(|line| !IDLE_WORDS.iter().any(|idle| line.starts_with(idle)));
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn verbs_are_those_of_upstreams_paths() {
    let Some(folder) = folder() else { return };
    let theirs = swagger(&folder);
    let operation = |path: &str, method: &str| theirs["paths"][path][method].is_object();
    let mut wrong = Vec::new();
    for kind in KINDS.iter() {
        let root = match kind.group.as_ref() {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        let base = format!("{root}/{}{}", if kind.namespaced { "namespaces/{namespace}/" } else { "" }, kind.plural);
        if theirs["paths"][&base].is_null() {
            wrong.push(format!("{base} is ours alone"));
            continue;
        }
        let one = format!("{base}/{{name}}");
        let pairs = [
            ("create", &base, "post"),
            ("list", &base, "get"),
            ("deletecollection", &base, "delete"),
            ("get", &one, "get"),
        ];
        let more = [("update", &one, "put"), ("patch", &one, "patch"), ("delete", &one, "delete")];
        for (verb, path, method) in pairs.into_iter().chain(more) {
            if kind.verbs.allows(verb) != operation(path, method) {
                wrong.push(format!("{verb} of {base}"));
            }
        }
        for path in theirs["paths"].as_object().into_iter().flatten().map(|(path, _)| path) {
            let below =
                path.strip_prefix(&one).and_then(|rest| rest.strip_prefix('/')).filter(|sub| !sub.contains('/'));
            if let Some(name) = below.filter(|name| kind.subresource(name).is_none()) {
                wrong.push(format!("{base} lacks {name}"));
            }
        }
        for sub in &kind.subresources {
            let path = format!("{one}/{}", sub.name);
            for (verb, method) in
                [("create", "post"), ("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")]
            {
                if sub.verbs.allows(verb) != operation(&path, method) {
                    wrong.push(format!("{verb} of {path}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn upstreams_bytes_are_read_and_written() {
    let Some(folder) = folder() else { return };
    let (mut count, mut differ) = (0, Vec::new());
    for kind in KINDS.iter() {
        let (Some(text), Some(bytes)) = (object(&folder, kind, "json"), object(&folder, kind, "pb")) else { continue };
        let (mut value, _) = parse_json(&text).expect("the data is JSON");
        structure(kind, &mut value, Mode::Whole);
        let decoded = api::proto::decode(kind, &bytes).expect("the bytes are an object");
        assert_same("", &decoded, &value, kind);
        let encoded = api::proto::encode(kind, &decoded).expect("the object can be encoded");
        if encoded != bytes {
            let at = encoded.iter().zip(&bytes).position(|(ours, theirs)| ours != theirs);
            let near = at.map(|at| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(30)..bytes.len().min(at + 30)]).into_owned()
            });
            differ.push(format!(
                "{} {}: {} and {} bytes, from {at:?}: {near:?}",
                kind.api_version(),
                kind.kind,
                encoded.len(),
                bytes.len()
            ));
        }
        count += 1;
    }
    println!("{count} objects decoded to the same value, {} encoded to other bytes", differ.len());
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

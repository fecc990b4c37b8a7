//! Writes the facts of Kubernetes' built-in types: names, fields, types, numbers, keys, defaults; no prose.
//!
//! Start at [`facts`]. Two sources are joined: the OpenAPI definitions say which types and fields there are, what is
//! required and how lists merge; the Go structs add what OpenAPI leaves out: protobuf numbers, and whether absence and
//! the zero value differ. Both must name the same fields, or nothing is written.
//!
//! Invariants:
//! * the same inputs give the same bytes;
//! * only types that a stable kind needs are written.
//!
//! Not here: the table of kinds, which is written by hand (`api::kinds`), and reading the facts (`api`'s `facts.rs`).
#![forbid(unsafe_code)]

mod go;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use go::{Go, Shape};
use serde_json::Value;

/// Groups and versions that are served, as prefixes of definition names.
const SERVED: &[&str] = &[
    "io.k8s.api.admissionregistration.v1.",
    "io.k8s.api.apps.v1.",
    "io.k8s.api.authentication.v1.",
    "io.k8s.api.authorization.v1.",
    "io.k8s.api.autoscaling.v1.",
    "io.k8s.api.autoscaling.v2.",
    "io.k8s.api.batch.v1.",
    "io.k8s.api.certificates.v1.",
    "io.k8s.api.coordination.v1.",
    "io.k8s.api.core.v1.",
    "io.k8s.api.discovery.v1.",
    "io.k8s.api.events.v1.",
    "io.k8s.api.flowcontrol.v1.",
    "io.k8s.api.networking.v1.",
    "io.k8s.api.node.v1.",
    "io.k8s.api.policy.v1.",
    "io.k8s.api.rbac.v1.",
    "io.k8s.api.resource.v1.",
    "io.k8s.api.scheduling.v1.",
    "io.k8s.api.storage.v1.",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.",
    "io.k8s.apimachinery.pkg.apis.meta.v1.",
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.",
];

/// Definitions that are one value rather than a struct, and the word for each.
const SPECIAL: &[(&str, &str)] = &[
    ("io.k8s.api.core.v1.ResourceList", "{quantity}"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schema-or-array"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schema-or-bool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "schema-or-strings"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Duration", "duration"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "any"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "extension"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "int-or-string"),
];

/// Prefixes that are written short.
const SHORT: &[(&str, &str)] = &[("io.k8s.api.", ""), ("io.k8s.apimachinery.pkg.apis.meta.v1.", "meta.v1.")];

/// The facts, as the text that the `api` crate carries.
pub fn facts(definitions: &str, go: &Path) -> Result<String, String> {
    let document: Value =
        serde_json::from_str(definitions).map_err(|error| format!("the definitions are no JSON: {error}"))?;
    let definitions = document["$defs"].as_object().ok_or("the definitions have no $defs")?;
    let go = Go::read(go)?;
    let mut written = BTreeMap::new();
    let mut waiting: BTreeSet<&str> = definitions
        .keys()
        .map(String::as_str)
        .filter(|name| SERVED.iter().any(|served| name.starts_with(served)) && special(name).is_none())
        .collect();
    while let Some(name) = waiting.pop_first() {
        let definition = definitions.get(name).ok_or_else(|| format!("nothing defines {name}"))?;
        let (text, references) = one_type(name, definition, &go).map_err(|error| format!("{name}: {error}"))?;
        written.insert(name, text);
        waiting.extend(references.into_iter().filter(|other| special(other).is_none() && !written.contains_key(other)));
    }
    let mut text = String::from(HEADER);
    written.values().for_each(|one| text.push_str(one));
    Ok(text)
}

/// What the file says about itself.
const HEADER: &str = "\
# Facts of Kubernetes v1.36's built-in types. Written by `gen`: change that, not this.
# = TYPE [atomic]
# FIELD NUMBER TYPE [presence] [req] [list=KEYS|set] [map=atomic] [struct=HOW] [merge[=KEY]] [retain] [default=JSON]
# NUMBER: the field's protobuf number, behind those of the messages around it that JSON does not show.
# presence: z zero is absent, ! always written, n null if absent, e empty is absent; nothing: absence is a state of its own.
";

fn special(name: &str) -> Option<&'static str> {
    SPECIAL.iter().find(|(special, _)| *special == name).map(|(_, word)| *word)
}

fn short(name: &str) -> String {
    // `meta` first: the shorter prefix does not cover it.
    for (long, short) in SHORT {
        if let Some(rest) = name.strip_prefix(long) {
            return format!("{short}{rest}");
        }
    }
    name.to_owned()
}

/// One type's lines, and the definitions it refers to.
fn one_type<'a>(name: &str, definition: &'a Value, go: &Go) -> Result<(String, Vec<&'a str>), String> {
    let shape = go.of_definition(name)?;
    let mut text = format!("= {}", short(name));
    if definition["x-kubernetes-map-type"] == "atomic" {
        text.push_str(" atomic");
    }
    text.push('\n');
    let mut references = Vec::new();
    // Sorted here: `serde_json` may keep the document's order, if another crate asks it to.
    let properties: BTreeMap<&String, &Value> = definition["properties"].as_object().into_iter().flatten().collect();
    if let Some(missing) = shape.keys().find(|field| !properties.contains_key(field)) {
        return Err(format!("the Go struct has the field {missing}, the definition has not"));
    }
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (field, property) in properties {
        let shape =
            shape.get(field).ok_or_else(|| format!("the definition has the field {field}, the Go struct has not"))?;
        let ty = word(property, shape.boxed, &mut references).map_err(|error| format!("{field}: {error}"))?;
        let _ = write!(text, "{field} {} {ty}{}", shape.number, shape.presence);
        flags(&mut text, property, shape, required.contains(&field.as_str()));
        text.push('\n');
    }
    Ok((text, references))
}

fn flags(text: &mut String, property: &Value, shape: &Shape, required: bool) {
    let mut put = |flag: String| {
        text.push(' ');
        text.push_str(&flag);
    };
    if required {
        put("req".to_owned());
    }
    match property["x-kubernetes-list-type"].as_str() {
        Some("set") => put("list=set".to_owned()),
        Some("map") => {
            let keys: Vec<&str> = property["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            put(format!("list={}", keys.join(",")));
        }
        _ => {}
    }
    match (property["x-kubernetes-map-type"].as_str(), property["$ref"].is_string()) {
        (Some(how), true) => put(format!("struct={how}")),
        (Some("atomic"), false) => put("map=atomic".to_owned()),
        _ => {}
    }
    let strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
    if strategy.split(',').any(|word| word == "merge") {
        match property["x-kubernetes-patch-merge-key"].as_str() {
            Some(key) => put(format!("merge={key}")),
            None => put("merge".to_owned()),
        }
    }
    if strategy.split(',').any(|word| word == "retainKeys") {
        put("retain".to_owned());
    }
    if let Some(default) = &shape.default {
        put(format!("default={default}"));
    }
}

/// The word for a property's type.
fn word<'a>(property: &'a Value, boxed: bool, references: &mut Vec<&'a str>) -> Result<String, String> {
    if let Some(reference) = property["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").ok_or_else(|| format!("a reference to {reference}"))?;
        references.push(name);
        return Ok(special(name).map_or_else(|| short(name), str::to_owned));
    }
    let ty = match &property["type"] {
        // Nullability was added by the package: upstream's definitions have one type each.
        Value::Array(types) => types.iter().filter_map(Value::as_str).find(|ty| *ty != "null"),
        ty => ty.as_str(),
    };
    let list = |item: String| if boxed { format!("<{item}>") } else { format!("[{item}]") };
    Ok(match (ty, property["format"].as_str()) {
        (Some("boolean"), _) => "bool".to_owned(),
        (Some("integer"), Some("int32")) => "int32".to_owned(),
        (Some("integer"), _) => "int64".to_owned(),
        (Some("number"), _) => "double".to_owned(),
        (Some("string"), Some("byte")) => "bytes".to_owned(),
        (Some("string"), _) => "string".to_owned(),
        (Some("array"), _) => list(word(&property["items"], false, references)?),
        (Some("object"), _) if property["additionalProperties"].is_object() => {
            format!("{{{}}}", word(&property["additionalProperties"], boxed, references)?)
        }
        (Some("object"), _) => "any".to_owned(),
        other => return Err(format!("a type of {other:?}")),
    })
}

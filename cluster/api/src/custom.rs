//! Custom resource definitions: the rows and schemas that they make at run time.
//!
//! Start at [`kinds`]: from a definition to one [`Kind`] for each version, which everything else treats like the built-in
//! ones; [`Own`] is what such a kind has beyond them. [`check`] holds an object to its definition's schema, [`names`]
//! decides which names a definition gets.
//!
//! Invariants:
//! * only a definition that passed its own validation is read here, yet no definition can bring this code down;
//! * what the schema says beyond structure is kept as it was written, for publishing and for [`check`].
//!
//! Not here: which definitions are established and under which names (the `apiserver` crate), conversion, rules in CEL.

mod cells;
mod names;
mod path;
mod rules;
mod structural;

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use crate::dig;
use crate::kinds::{Kind, Subresource, Verbs};
use crate::schema::{Field, ListTy, MapTy, Raw, Text, Topology, Ty, Type, TypeRef, find_ref};

pub use cells::{Printed, cells};
pub use names::{names, set_condition};
pub use path::Path;
pub use rules::check;
pub(crate) use structural::wrong as structural_errors;

/// Schemas nest no deeper than this; what lies deeper is free JSON.
const DEPTH_MAX: usize = 64;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Keywords that the structure carries itself: everything else is kept beside it.
const STRUCTURAL: [&str; 9] = [
    "properties",
    "required",
    "type",
    "items",
    "additionalProperties",
    "description",
    "default",
    "nullable",
    "x-kubernetes-preserve-unknown-fields",
];

/// What a custom resource's kind has beyond a built-in one.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// The schema as it was written.
    pub schema: Value,
    /// The columns that the definition asks `kubectl get` to print.
    pub columns: Vec<Printed>,
    /// Where the scale subresource finds its numbers.
    pub scale: Option<Scale>,
    /// Fields that can be selected by, such as `spec.host`.
    pub selectable: Vec<String>,
    /// What clients of a deprecated version are warned of; empty for others.
    pub warning: String,
    /// The definition is being deleted: nothing new is made of it.
    pub ending: bool,
    /// Objects of this revision and older were written under an earlier schema.
    pub since: u64,
    /// Changes when what is published changes.
    pub mark: u64,
}

/// Where the scale subresource finds its numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scale {
    /// The wanted number, such as `spec.replicas`.
    pub spec_replicas: String,
    /// The number there is.
    pub status_replicas: String,
    /// The selector of what is counted, as text; empty where there is none.
    pub selector: String,
}

/// One kind for each version and whether that is served, in the order in which discovery prefers them. Objects newer
/// than the revision `since` were written under these schemas.
pub fn kinds(definition: &Value, since: u64) -> Vec<(Kind, bool)> {
    let versions = dig::list(dig::get(definition, "spec"), "versions");
    let mut ranked: Vec<&Value> = versions.iter().collect();
    ranked.sort_by_key(|version| std::cmp::Reverse(priority(dig::text(version, "name"))));
    ranked.into_iter().map(|version| (kind(definition, version, since), dig::flag(version, "served"))).collect()
}

/// The definition's names were accepted once, so its objects are served.
pub fn is_established(definition: &Value) -> bool {
    has_condition(definition, "Established")
}

fn has_condition(definition: &Value, ty: &str) -> bool {
    let conditions = dig::list(definition, "status.conditions");
    conditions.iter().any(|one| dig::text(one, "type") == ty && dig::text(one, "status") == "True")
}

/// The definition's schema of one version, as [`check`] takes it.
pub fn schema<'a>(definition: &'a Value, version: &str) -> &'a Value {
    let versions = dig::list(dig::get(definition, "spec"), "versions");
    let found = versions.iter().find(|one| dig::text(one, "name") == version);
    found.map_or(&Value::Null, |version| dig::get(version, "schema.openAPIV3Schema"))
}

/// How discovery ranks a version's name: stable before beta before alpha, newer first, other names last and in order.
pub fn priority(name: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let plain = || (0, 0, 0, std::cmp::Reverse(name.to_owned()));
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let Some(rest) = name.strip_prefix('v') else { return plain() };
    let (major, stage) = rest.split_at(digits(rest));
    let Ok(major) = major.parse() else { return plain() };
    let (rank, minor) = match stage {
        "" => (3, ""),
        stage if stage.starts_with("beta") => (2, &stage[4..]),
        stage if stage.starts_with("alpha") => (1, &stage[5..]),
        _ => return plain(),
    };
    let minor = match minor {
        "" if rank == 3 => Ok(0),
        minor => minor.parse(),
    };
    minor.map_or_else(|_| plain(), |minor| (rank, major, minor, std::cmp::Reverse(String::new())))
}

fn kind(definition: &Value, version: &Value, since: u64) -> Kind {
    let spec = dig::get(definition, "spec");
    // What a definition wants to be called counts when it was accepted.
    let accepted = dig::get(definition, "status.acceptedNames");
    let names = if dig::text(accepted, "plural").is_empty() { dig::get(spec, "names") } else { accepted };
    let stored = dig::list(spec, "versions").iter().find(|version| dig::flag(version, "storage"));
    let text = |value: &Value, path: &str| Text::Owned(dig::text(value, path).to_owned());
    let texts = |path: &str| dig::texts(names, path).into_iter().map(|one| Text::Owned(one.to_owned())).collect();
    let or = |given: Text, other: String| if given.is_empty() { Text::Owned(other) } else { given };
    let name = text(names, "kind");
    let group = text(spec, "group");
    Kind {
        version: text(version, "name"),
        plural: text(names, "plural"),
        singular: or(text(names, "singular"), name.to_lowercase()),
        list_kind: or(text(names, "listKind"), format!("{name}List")),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: dig::text(spec, "scope") == "Namespaced",
        verbs: Verbs::ALL,
        subresources: subresources(&group, &name, version),
        storage_group: group.clone(),
        storage_version: Text::Owned(stored.map_or("", |one| dig::text(one, "name")).to_owned()),
        ty: root(dig::get(version, "schema.openAPIV3Schema")),
        own: Some(std::sync::Arc::new(own(definition, version, since))),
        kind: name,
        group,
    }
}

fn own(definition: &Value, version: &Value, since: u64) -> Own {
    let field = |path: &str| dig::text(version, path).trim_start_matches('.').to_owned();
    let scale = dig::get(version, "subresources.scale").is_object().then(|| Scale {
        spec_replicas: field("subresources.scale.specReplicasPath"),
        status_replicas: field("subresources.scale.statusReplicasPath"),
        selector: field("subresources.scale.labelSelectorPath"),
    });
    let selectable = dig::list(version, "selectableFields").iter();
    let mut mark = DefaultHasher::new();
    (crate::meta::uid(definition), crate::meta::generation(definition)).hash(&mut mark);
    dig::get(definition, "status.acceptedNames").to_string().hash(&mut mark);
    Own {
        schema: dig::get(version, "schema.openAPIV3Schema").clone(),
        columns: cells::columns(version),
        scale,
        selectable: selectable.map(|one| dig::text(one, "jsonPath").trim_start_matches('.').to_owned()).collect(),
        warning: warning(dig::get(definition, "spec"), version),
        ending: crate::meta::is_terminating(definition) || has_condition(definition, "Terminating"),
        since,
        mark: mark.finish(),
    }
}

/// What clients of a deprecated version are warned of.
fn warning(spec: &Value, version: &Value) -> String {
    match (dig::flag(version, "deprecated"), dig::text(version, "deprecationWarning")) {
        (false, _) => String::new(),
        (true, "") => {
            let (group, kind) = (dig::text(spec, "group"), dig::text(spec, "names.kind"));
            format!("{group}/{} {kind} is deprecated", dig::text(version, "name"))
        }
        (true, given) => given.to_owned(),
    }
}

fn subresources(group: &Text, kind: &Text, version: &Value) -> Vec<Subresource> {
    let verbs = Verbs::GET.and(Verbs::PATCH).and(Verbs::UPDATE);
    let mut found = Vec::new();
    if dig::get(version, "subresources.scale").is_object() {
        let (group, version, kind) = ("autoscaling".into(), "v1".into(), "Scale".into());
        found.push(Subresource { name: "scale".into(), group, version, kind, verbs });
    }
    if dig::get(version, "subresources.status").is_object() {
        let version = Text::Owned(dig::text(version, "name").to_owned());
        found.push(Subresource { name: "status".into(), group: group.clone(), version, kind: kind.clone(), verbs });
    }
    found
}

/// The type of whole objects: what the schema says, and what every object has.
fn root(schema: &Value) -> TypeRef {
    let mut ty = object(schema, 0);
    put_meta(&mut ty);
    TypeRef::from(ty)
}

/// Every object has these three, whatever its schema says of them.
fn put_meta(ty: &mut Type) {
    ty.fields.retain(|field| !["apiVersion", "kind", "metadata"].contains(&field.name.as_ref()));
    ty.fields.push(Field::new("apiVersion", Ty::String));
    ty.fields.push(Field::new("kind", Ty::String));
    let meta = find_ref(OBJECT_META).map_or(Ty::Raw(Raw::Any), Ty::Object);
    ty.fields.push(Field::new("metadata", meta));
    ty.fields.sort_by(|a, b| a.name.cmp(&b.name));
}

fn object(schema: &Value, depth: usize) -> Type {
    let required = dig::texts(schema, "required");
    let mut fields: Vec<Field> = dig::map(schema, "properties")
        .iter()
        .map(|(name, property)| field(name, property, required.contains(&name.as_str()), depth + 1))
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ty = Type {
        name: Text::Borrowed(""),
        fields,
        atomic: schema["x-kubernetes-map-type"] == "atomic",
        preserve_unknown: preserves(schema),
        description: Text::Owned(dig::text(schema, "description").to_owned()),
        keywords: keywords(schema),
    };
    if schema["x-kubernetes-embedded-resource"] == true {
        put_meta(&mut ty);
    }
    ty
}

fn field(name: &str, schema: &Value, required: bool, depth: usize) -> Field {
    let ty = ty(schema, depth);
    let own_type = matches!(ty, Ty::Object(_));
    Field {
        required,
        nullable: schema["nullable"] == true,
        default: schema.get("default").map(|default| Text::Owned(default.to_string())),
        // A struct's words stand on its type.
        description: if own_type {
            Text::Borrowed("")
        } else {
            Text::Owned(dig::text(schema, "description").to_owned())
        },
        keywords: if own_type { None } else { published(schema, &ty) },
        ..Field::new(Text::Owned(name.to_owned()), ty)
    }
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn ty(schema: &Value, depth: usize) -> Ty {
    let item = |schema: &Value| ty(schema, depth + 1);
    if depth > DEPTH_MAX {
        return Ty::Raw(Raw::Any);
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return Ty::IntOrString;
    }
    match (dig::text(schema, "type"), dig::text(schema, "format")) {
        ("boolean", _) => Ty::Bool,
        ("integer", "int32") => Ty::Int32,
        ("integer", _) => Ty::Int64,
        ("number", _) => Ty::Double,
        ("string", _) => Ty::String,
        ("array", _) => {
            let topology = match dig::text(schema, "x-kubernetes-list-type") {
                "set" => Topology::Set,
                "map" => {
                    let keys = dig::texts(schema, "x-kubernetes-list-map-keys");
                    Topology::Map(keys.into_iter().map(|key| Text::Owned(key.to_owned())).collect())
                }
                _ => Topology::Atomic,
            };
            Ty::List(Box::new(ListTy { item: item(dig::get(schema, "items")), topology }))
        }
        ("object", _) => match schema.get("additionalProperties") {
            Some(value @ Value::Object(_)) => {
                let atomic = schema["x-kubernetes-map-type"] == "atomic";
                Ty::Map(Box::new(MapTy { value: item(value), atomic }))
            }
            Some(Value::Bool(true)) => Ty::Raw(Raw::Any),
            _ => Ty::Object(TypeRef::from(object(schema, depth))),
        },
        _ => Ty::Raw(Raw::Any),
    }
}

fn keywords(schema: &Value) -> Option<std::sync::Arc<Map<String, Value>>> {
    let kept: Map<String, Value> = schema
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| !STRUCTURAL.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (!kept.is_empty()).then(|| kept.into())
}

/// What is published of a field that is no struct: all that the schema says, items and values included.
fn published(schema: &Value, ty: &Ty) -> Option<std::sync::Arc<Map<String, Value>>> {
    match ty {
        Ty::List(_) | Ty::Map(_) | Ty::Raw(_) => {
            schema.as_object().filter(|map| !map.is_empty()).cloned().map(Into::into)
        }
        _ => keywords(schema),
    }
}

#[cfg(test)]
mod tests;

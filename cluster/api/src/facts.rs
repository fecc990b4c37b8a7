//! The facts of the built-in types, read out of `facts.txt` when somebody asks.
//!
//! Start at [`type_at`]. The text is part of the program; what is scanned at start is one line a type, and a type's
//! fields are read the first time it is used, so a start costs microseconds and memory only for what is served.
//! Generated Rust tables were the other way: thousands of rows full of pointers cost a relocation each at every start.
//!
//! Invariants: the text is written by `gen` and checked by the tests, so what does not parse is our own mistake.
//!
//! Not here: what the words mean to others (`schema.rs`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

use crate::schema::{Field, ListTy, MapTy, Presence, Raw, Text, Topology, Ty, Type, TypeRef};

static FACTS: &str = include_str!("facts.txt");

/// Prefixes that the text leaves out or writes short.
const META: (&str, &str) = ("meta.v1.", "io.k8s.apimachinery.pkg.apis.meta.v1.");
const API: &str = "io.k8s.api.";

static TABLE: LazyLock<Table> = LazyLock::new(Table::scan);

struct Table {
    rows: Vec<Row>,
    /// By the name as the text writes it.
    by_name: HashMap<&'static str, u16>,
}

struct Row {
    /// What stands behind the sign `=`.
    head: &'static str,
    /// The lines of the fields.
    body: &'static str,
    ty: OnceLock<Type>,
}

impl Table {
    fn scan() -> Table {
        let mut table = Table { rows: Vec::new(), by_name: HashMap::new() };
        let (_, types) = FACTS.split_once("\n= ").expect("the facts hold types");
        for one in types.split("\n= ") {
            let (head, body) = one.split_once('\n').unwrap_or((one, ""));
            let name = head.split(' ').next().unwrap_or_default();
            let index = u16::try_from(table.rows.len()).expect("there are fewer types than 65,536");
            table.by_name.insert(name, index);
            table.rows.push(Row { head, body, ty: OnceLock::new() });
        }
        table
    }
}

/// How many types there are.
pub(crate) fn count() -> u16 {
    TABLE.rows.len() as u16
}

/// Where the type of that definition name stands.
pub(crate) fn index_of(name: &str) -> Option<u16> {
    if let Some(rest) = name.strip_prefix(META.1) {
        return TABLE.by_name.get(format!("{}{rest}", META.0).as_str()).copied();
    }
    TABLE.by_name.get(name.strip_prefix(API).unwrap_or(name)).copied()
}

/// The type in that place.
pub(crate) fn type_at(index: u16) -> &'static Type {
    let row = &TABLE.rows[usize::from(index)];
    row.ty.get_or_init(|| parse_type(row.head, row.body))
}

fn parse_type(head: &'static str, body: &'static str) -> Type {
    let (name, flags) = head.split_once(' ').unwrap_or((head, ""));
    Type {
        name: full_name(name),
        fields: body.lines().map(parse_field).collect(),
        atomic: flags == "atomic",
        ..Type::default()
    }
}

fn full_name(name: &'static str) -> Text {
    match name.strip_prefix(META.0) {
        Some(rest) => Text::Owned(format!("{}{rest}", META.1)),
        None if name.starts_with("io.") => Text::Borrowed(name),
        None => Text::Owned(format!("{API}{name}")),
    }
}

fn parse_field(line: &'static str) -> Field {
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_else(|| panic!("the fact {line:?} is short of words"));
    let (name, numbers, ty) = (next(), next(), next());
    let mut field = Field::new(name, parse_type_word(ty));
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("the fact {line:?} has no number {text:?}"));
    let mut path = numbers.rsplit('.').map(number);
    field.boxed = ty.contains('<');
    field.number = path.next().unwrap_or_default();
    let mut via: Vec<u16> = path.collect();
    via.reverse();
    field.via[..via.len()].copy_from_slice(&via);
    words.for_each(|flag| put_flag(&mut field, flag));
    field
}

fn put_flag(field: &mut Field, flag: &'static str) {
    let (key, value) = flag.split_once('=').unwrap_or((flag, ""));
    match (key, value) {
        ("z", _) => field.presence = Presence::ZeroIsAbsent,
        ("!", _) => field.presence = Presence::Always,
        ("n", _) => field.presence = Presence::NullIfAbsent,
        ("e", _) => field.presence = Presence::EmptyIsAbsent,
        ("req", _) => field.required = true,
        ("retain", _) => field.patch_retain_keys = true,
        ("default", json) => field.default = Some(Cow::Borrowed(json)),
        ("struct", how) => field.struct_atomic = Some(how == "atomic"),
        ("merge", key) => {
            field.patch_merge = true;
            field.patch_merge_key = (!key.is_empty()).then_some(Cow::Borrowed(key));
        }
        ("list", keys) => {
            let Ty::List(list) = &mut field.ty else { panic!("{flag} stands at {}, which is no list", field.name) };
            list.topology = match keys {
                "set" => Topology::Set,
                keys => Topology::Map(keys.split(',').map(Cow::Borrowed).collect()),
            };
        }
        ("map", _) => {
            let Ty::Map(map) = &mut field.ty else { panic!("{flag} stands at {}, which is no map", field.name) };
            map.atomic = true;
        }
        _ => panic!("the facts say {flag:?} of {}, which means nothing", field.name),
    }
}

fn parse_type_word(word: &'static str) -> Ty {
    if let Some(item) = inside(word, '[', ']').or_else(|| inside(word, '<', '>')) {
        return Ty::List(Box::new(ListTy { item: parse_type_word(item), topology: Topology::Atomic }));
    }
    if let Some(value) = inside(word, '{', '}') {
        return Ty::Map(Box::new(MapTy { value: parse_type_word(value), atomic: false }));
    }
    match word {
        "bool" => Ty::Bool,
        "int32" => Ty::Int32,
        "int64" => Ty::Int64,
        "double" => Ty::Double,
        "string" => Ty::String,
        "bytes" => Ty::Bytes,
        "time" => Ty::Time,
        "microtime" => Ty::MicroTime,
        "duration" => Ty::Duration,
        "quantity" => Ty::Quantity,
        "int-or-string" => Ty::IntOrString,
        "extension" => Ty::Raw(Raw::Extension),
        "fields" => Ty::Raw(Raw::Fields),
        "json" => Ty::Raw(Raw::Json),
        "schema-or-array" => Ty::Raw(Raw::SchemaOrArray),
        "schema-or-bool" => Ty::Raw(Raw::SchemaOrBool),
        "schema-or-strings" => Ty::Raw(Raw::SchemaOrStrings),
        "any" => Ty::Raw(Raw::Any),
        name => match TABLE.by_name.get(name) {
            Some(index) => Ty::Object(TypeRef::BuiltIn(*index)),
            None => panic!("the facts refer to {name}, which they do not hold"),
        },
    }
}

fn inside(word: &'static str, open: char, close: char) -> Option<&'static str> {
    word.strip_prefix(open)?.strip_suffix(close)
}

#[cfg(test)]
mod tests {
    use crate::schema::{Topology, Ty, all, find};

    #[test]
    fn every_fact_parses_and_every_reference_resolves() {
        let mut fields = 0;
        for ty in all() {
            fields += ty.fields.len();
            // Following one step reaches every reference: all types are visited.
            ty.fields.iter().filter_map(|field| field.ty.object()).for_each(|other| assert!(!other.name.is_empty()));
        }
        assert!(fields > 2000, "only {fields} fields");
    }

    #[test]
    fn fields_are_sorted_and_numbers_are_unique() {
        for ty in all() {
            assert!(ty.fields.is_sorted_by(|a, b| a.name < b.name), "fields of {} are not sorted", ty.name);
            let mut numbers: Vec<_> =
                ty.fields.iter().filter(|field| field.number != 0).map(|field| (field.via, field.number)).collect();
            let count = numbers.len();
            numbers.sort();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "two fields of {} share a number", ty.name);
        }
    }

    #[test]
    fn keys_of_list_maps_and_merge_keys_are_fields_of_the_items() {
        for ty in all() {
            for field in &ty.fields {
                let Ty::List(list) = &field.ty else { continue };
                let mut keys: Vec<_> = field.patch_merge_key.iter().collect();
                if let Topology::Map(names) = &list.topology {
                    keys.extend(names);
                }
                let item = list.item.object();
                for key in keys {
                    assert!(
                        item.is_some_and(|item| item.field(key).is_some()),
                        "{}.{}: no key {key}",
                        ty.name,
                        field.name
                    );
                }
            }
        }
    }

    #[test]
    fn defaults_are_json() {
        for field in all().flat_map(|ty| &ty.fields) {
            if let Some(text) = &field.default {
                serde_json::from_str::<serde_json::Value>(text).expect("a default is JSON");
            }
        }
    }

    #[test]
    fn finds_types_of_every_package() {
        for name in [
            "io.k8s.api.core.v1.Pod",
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
            "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        ] {
            assert_eq!(find(name).map(|ty| ty.name.as_ref()), Some(name));
        }
        assert!(find("io.k8s.api.core.v1.Nothing").is_none());
    }
}

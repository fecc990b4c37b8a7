//! Examples of sets, comparisons, merges and removals; `'` stands for `"`.

use serde_json::{Value, json};

use super::*;
use crate::kinds::{self, Kind};
use crate::schema::{Field, ListTy, Topology, Ty, Type, TypeRef};

fn read(text: &str) -> Value {
    serde_json::from_str(&text.replace('\'', "\"")).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn set(text: &str) -> Set {
    Set::read(read(text)).unwrap_or_else(|| panic!("{text} is no set"))
}

fn shown(set: Set) -> String {
    set.into_json().to_string().replace("\\\"", "\"").replace('"', "'")
}

#[track_caller]
fn check(operation: impl Fn(&mut Set, &Set), one: &str, other: &str, want: &str) {
    let mut result = set(one);
    operation(&mut result, &set(other));
    assert_eq!(shown(result), want, "{one} and {other}");
}

#[test]
fn sets_are_united() {
    let unite = |one: &mut Set, other: &Set| one.unite(other);
    check(unite, "{}", "{'f:a':{}}", "{'f:a':{}}");
    check(unite, "{'f:a':{}}", "{'f:a':{'f:b':{}}}", "{'f:a':{'.':{},'f:b':{}}}");
    check(unite, "{'f:a':{'f:b':{}}}", "{'f:a':{}}", "{'f:a':{'.':{},'f:b':{}}}");
    check(unite, "{'f:a':{'f:b':{}}}", "{'f:a':{'f:c':{}}}", "{'f:a':{'f:b':{},'f:c':{}}}");
}

#[test]
fn sets_are_subtracted() {
    let subtract = |one: &mut Set, other: &Set| one.subtract(other);
    check(subtract, "{'f:a':{}}", "{'f:a':{}}", "{}");
    check(subtract, "{'f:a':{'.':{},'f:b':{}}}", "{'f:a':{}}", "{'f:a':{'f:b':{}}}");
    check(subtract, "{'f:a':{'.':{},'f:b':{}}}", "{'f:a':{'f:b':{}}}", "{'f:a':{}}");
    check(subtract, "{'f:a':{'f:b':{}}}", "{'f:a':{'f:b':{}}}", "{}");
    check(subtract, "{'f:a':{}}", "{'f:a':{'f:b':{}},'f:c':{}}", "{'f:a':{}}");
    let whole = |one: &mut Set, other: &Set| one.subtract_whole(other);
    check(whole, "{'f:a':{'.':{},'f:b':{}},'f:c':{}}", "{'f:a':{}}", "{'f:c':{}}");
    check(whole, "{'f:a':{'f:b':{},'f:c':{}}}", "{'f:a':{'f:b':{}}}", "{'f:a':{'f:c':{}}}");
}

#[test]
fn sets_have_something_in_common() {
    let common = |one: &mut Set, other: &Set| *one = one.common(other);
    check(common, "{'f:a':{'.':{},'f:b':{}}}", "{'f:a':{'f:b':{}}}", "{'f:a':{'f:b':{}}}");
    check(common, "{'f:a':{'f:b':{}}}", "{'f:a':{}}", "{}");
    check(common, "{'f:a':{'.':{},'f:b':{}}}", "{'f:a':{'.':{},'f:c':{}}}", "{'f:a':{}}");
}

#[test]
fn what_a_client_wrote_becomes_canonical() {
    let read = set(
        r#"{'f:a':{'k:{\"b\": 1,\"a\":\"<x>\"}':{},'v: 1':{'.':{}},'i:03':{},'?:new':{}},'f:b':{'f:c':{'?:x':{}}}}"#,
    );
    let want = r#"{'f:a':{'i:3':{},'k:{'a':'\\u003cx\\u003e','b':1}':{},'v:1':{}}}"#;
    assert_eq!(shown(read), want);
    for nonsense in ["{'f:a':1}", "{'a':{}}", "{'k:1':{}}", "[]", "{'i:x':{}}"] {
        let nonsense = serde_json::from_str(&nonsense.replace('\'', "\"")).expect("JSON");
        assert_eq!(Set::read(nonsense), None);
    }
}

#[test]
fn paths_read_as_upstream_prints_them() {
    let set = set(
        r#"{'f:spec':{'f:ports':{'k:{\"port\":80,\"protocol\":\"TCP\"}':{'.':{},'f:name':{}}},'f:type':{}},'f:data':{},'f:metadata':{'f:finalizers':{'v:\"a/b\"':{}}}}"#,
    );
    let want = [
        ".data",
        ".metadata.finalizers[=\"a/b\"]",
        ".spec.type",
        ".spec.ports[port=80,protocol=\"TCP\"]",
        ".spec.ports[port=80,protocol=\"TCP\"].name",
    ];
    assert_eq!(set.paths(), want);
}

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    let (group, version) = kinds::split_api_version(api_version);
    kinds::find_kind(group, version, kind).unwrap_or_else(|| panic!("no kind {kind}"))
}

fn service(spec: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": read(spec)})
}

#[track_caller]
fn holds(spec: &str, want: &str) {
    assert_eq!(shown(fields(&kind("v1", "Service").ty, &service(spec))), want, "{spec}");
}

#[test]
fn a_configuration_has_fields() {
    holds("{}", "{'f:spec':{}}");
    holds("{'type':'ClusterIP','selector':{'a':'b'}}", "{'f:spec':{'f:selector':{},'f:type':{}}}");
    // The protocol is a key with a default.
    holds("{'ports':[{'port':80}]}", "{'f:spec':{'f:ports':{'k:{'port':80,'protocol':'TCP'}':{'.':{},'f:port':{}}}}}");
    holds("{'ports':[],'type':null}", "{'f:spec':{'f:type':{}}}");
    let map = json!({"data": {"a": "1"}, "metadata": {"name": "n", "labels": {"x": "y"}, "finalizers": ["f"]}});
    assert_eq!(
        shown(fields(&kind("v1", "ConfigMap").ty, &map)),
        "{'f:data':{'f:a':{}},'f:metadata':{'f:finalizers':{'v:'f'':{}},'f:labels':{'f:x':{}}}}"
    );
}

#[track_caller]
fn differs(old: &str, new: &str, added: &str, modified: &str, removed: &str) {
    let found = compare(&kind("v1", "Service").ty, &service(old), &service(new));
    let found = [shown(found.added), shown(found.modified), shown(found.removed)];
    assert_eq!(found, [added, modified, removed], "{old} -> {new}");
}

#[test]
fn two_versions_are_compared() {
    differs("{'type':'a'}", "{'type':'a'}", "{}", "{}", "{}");
    differs("{'type':'a'}", "{'type':'b'}", "{}", "{'f:spec':{'f:type':{}}}", "{}");
    differs("{'type':'a'}", "{}", "{}", "{}", "{'f:spec':{'f:type':{}}}");
    differs("{'selector':{'a':'b'}}", "{'selector':{'a':'c','d':'e'}}", "{}", "{'f:spec':{'f:selector':{}}}", "{}");
    // A list that appears is added itself, one that was null is not.
    let port = "'k:{'port':1,'protocol':'TCP'}':{'.':{},'f:port':{}}";
    differs("{}", "{'ports':[{'port':1}]}", &format!("{{'f:spec':{{'f:ports':{{'.':{{}},{port}}}}}}}"), "{}", "{}");
    differs("{'ports':null}", "{'ports':[{'port':1}]}", &format!("{{'f:spec':{{'f:ports':{{{port}}}}}}}"), "{}", "{}");
    // Order is nobody's.
    differs("{'ports':[{'port':1},{'port':2}]}", "{'ports':[{'port':2},{'port':1}]}", "{}", "{}", "{}");
    differs(
        "{'ports':[{'port':1,'name':'x'},{'port':2}]}",
        "{'ports':[{'port':1,'name':'y'}]}",
        "{}",
        "{'f:spec':{'f:ports':{'k:{'port':1,'protocol':'TCP'}':{'f:name':{}}}}}",
        "{'f:spec':{'f:ports':{'k:{'port':2,'protocol':'TCP'}':{'.':{},'f:port':{}}}}}",
    );
}

/// `a=1 b=2` as a list of items with the key `name`; `a` alone says nothing of the value.
fn list(text: &str) -> Value {
    let items = text.split_whitespace().map(|item| match item.split_once('=') {
        Some((name, value)) => json!({"name": name, "value": value}),
        None => json!({"name": item}),
    });
    json!({"list": items.collect::<Vec<_>>()})
}

fn with_list() -> TypeRef {
    let item =
        Type { fields: vec![Field::new("name", Ty::String), Field::new("value", Ty::String)], ..Type::default() };
    let topology = Topology::Map(vec!["name".into()]);
    let list = Ty::List(Box::new(ListTy { item: Ty::Object(item.into()), topology }));
    TypeRef::from(Type { fields: vec![Field::new("list", list)], ..Type::default() })
}

#[track_caller]
fn merges(live: &str, wanted: &str, want: &str) {
    assert_eq!(merge(&with_list(), &list(live), &list(wanted)), list(want), "{live} with {wanted}");
}

#[test]
fn lists_are_merged_in_order() {
    merges("a b c", "", "a b c");
    merges("a=1 b=2", "b=3", "a=1 b=3");
    merges("a=1", "a", "a=1");
    merges("a b", "c", "a b c");
    merges("a b c", "c b", "a c b");
    merges("a b c", "b x", "a b c x");
    merges("a b c d", "d a", "b c d a");
    merges("b a", "a x b", "a x b");
    merges("a c", "a b c", "a b c");
    merges("a=1 a=2", "a=3", "a=3");
}

#[test]
fn null_says_nothing_of_what_holds_something() {
    let merged =
        merge(&kind("v1", "Service").ty, &service("{'ports':[{'port':1}]}"), &service("{'ports':null,'type':null}"));
    assert_eq!(merged["spec"], read("{'ports':[{'port':1}],'type':null}"));
}

#[test]
fn fields_are_removed() {
    let ty = &kind("v1", "Service").ty;
    let object = service("{'ports':[{'port':1,'name':'x'},{'port':2}],'selector':{'a':'b'},'type':'t'}");
    let gone = set(
        r#"{'f:spec':{'f:ports':{'k:{\"port\":1,\"protocol\":\"TCP\"}':{'f:name':{}},'k:{\"port\":2,\"protocol\":\"TCP\"}':{}},'f:type':{}}}"#,
    );
    assert_eq!(remove(ty, &object, &gone)["spec"], read("{'ports':[{'port':1}],'selector':{'a':'b'}}"));
    let wide = with_named(ty, &set("{'f:spec':{'f:type':{}}}"));
    assert_eq!(shown(wide.clone()), "{'f:spec':{'.':{},'f:type':{}}}");
    assert_eq!(remove(ty, &object, &wide).get("spec"), None);
}

#[track_caller]
fn misfit(spec: &str, want: &str) {
    assert_eq!(misfits(&kind("v1", "Service").ty, &service(spec)).unwrap_or_default(), want, "{spec}");
}

#[test]
fn what_does_not_fit_is_said_in_upstreams_words() {
    misfit("{'type':'x','ports':[{'port':1},{'port':2}],'clusterIP':null}", "");
    misfit("{'foo':1}", ".spec.foo: field not declared in schema");
    misfit(
        "{'ports':[{'port':'x'}]}",
        ".spec.ports[port=\"x\",protocol=\"TCP\"].port: expected numeric (int or float), got string",
    );
    misfit("{'ports':{}}", ".spec.ports: expected list, got &{map[]}");
    misfit("{'type':1}", ".spec.type: expected string, got &value.valueUnstructured{Value:1}");
    misfit("{'publishNotReadyAddresses':'x'}", ".spec.publishNotReadyAddresses: expected boolean, got &{x}");
    misfit("{'ports':[{'port':1},{'port':1}]}", ".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]");
    misfit("{'type':1,'foo':2}", ".spec.foo: field not declared in schema");
    misfit(
        "{'ports':[null],'externalName':[]}",
        "errors:\n  .spec.externalName: expected string, got &value.valueUnstructured{Value:[]}\n  .spec.ports: element 0: \
         associative list with keys may not have a null element",
    );
}

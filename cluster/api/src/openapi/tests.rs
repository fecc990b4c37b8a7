//! What the published documents must hold for clients to work.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{collect_references, v2_document, v3, v3_document, v3_index};
use crate::kinds::{KINDS, Kind, Verbs};
use crate::schema::{Field, Ty, Type};

fn everything() -> Vec<&'static Kind> {
    KINDS.iter().collect()
}

fn apps() -> Value {
    let text = v3("apps", "v1", &everything()).expect("apps/v1 is served");
    serde_json::from_slice(&text).expect("the document is JSON")
}

#[test]
fn every_reference_resolves() {
    let groups: BTreeSet<_> = KINDS.iter().map(|kind| (&kind.group, &kind.version)).collect();
    for (group, version) in groups {
        let text = v3(group, version, &everything()).expect("the group is served");
        let document: Value = serde_json::from_slice(&text).expect("the document is JSON");
        let mut names = BTreeSet::new();
        collect_references(&document, &mut names);
        for name in &names {
            assert!(!document["components"]["schemas"][name].is_null(), "{group}/{version} has no {name}");
        }
    }
    let document = v2_document(&everything());
    let mut names = BTreeSet::new();
    collect_references(&document, &mut names);
    names.iter().for_each(|name| assert!(!document["definitions"][name].is_null(), "no {name}"));
}

#[test]
fn patch_knows_the_parameters_that_kubectl_looks_for() {
    for kind in KINDS.iter().filter(|kind| kind.verbs.has(Verbs::PATCH)) {
        let document = v3_document(&[kind]);
        let speaks = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let paths = document["paths"].as_object().expect("paths is an object");
        let patch =
            paths.values().map(|item| &item["patch"]).find(|patch| patch["x-kubernetes-group-version-kind"] == speaks);
        let parameters = patch.and_then(|patch| patch["parameters"].as_array()).expect("patch has parameters");
        for name in ["fieldValidation", "dryRun", "force", "fieldManager"] {
            assert!(parameters.iter().any(|one| one["name"] == name), "{} has no {name}", kind.qualified_plural());
        }
    }
}

#[test]
fn schemas_carry_the_extensions_that_clients_merge_by() {
    let schemas = &apps()["components"]["schemas"];
    let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
    assert_eq!(
        deployment["x-kubernetes-group-version-kind"],
        json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
    );
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"], "TCP");
    assert_eq!(schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"], "atomic");
}

#[test]
fn paths_have_upstreams_names() {
    let document = apps();
    let of = |path: &str, method: &str| document["paths"][path][method]["operationId"].clone();
    let one = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    assert_eq!(of(one, "get"), "readAppsV1NamespacedDeployment");
    assert_eq!(of(&format!("{one}/scale"), "put"), "replaceAppsV1NamespacedDeploymentScale");
    assert_eq!(of("/apis/apps/v1/deployments", "get"), "listAppsV1DeploymentForAllNamespaces");
    assert_eq!(
        of("/apis/apps/v1/namespaces/{namespace}/deployments", "delete"),
        "deleteAppsV1CollectionNamespacedDeployment"
    );
}

#[test]
fn custom_resources_are_published_like_the_rest() {
    let spec = Type {
        fields: vec![Field { description: "how many".into(), ..Field::new("size", Ty::Int64) }],
        ..Type::default()
    };
    let crd = Kind {
        group: "stable.example.com".into(),
        version: "v1".into(),
        kind: "CronTab".into(),
        plural: "crontabs".into(),
        list_kind: "CronTabList".into(),
        ty: Type { fields: vec![Field::new("spec", Ty::Object(spec.into()))], ..Type::default() }.into(),
        ..KINDS[2].clone()
    };
    let text = v3("stable.example.com", "v1", &[&crd]).expect("the kind is served");
    let document: Value = serde_json::from_slice(&text).expect("the document is JSON");
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["size"]["description"], "how many");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert!(!document["components"]["schemas"]["com.example.stable.v1.CronTabList"]["properties"]["items"].is_null());
    assert!(v3("nothing.example.com", "v1", &[&crd]).is_none());
}

#[test]
fn the_index_names_documents_with_a_hash() {
    let text = v3_index([("api/v1", "abc")]);
    assert_eq!(text, br#"{"paths":{"api/v1":{"serverRelativeURL":"/openapi/v3/api/v1?hash=abc"}}}"#);
}

#[test]
fn the_binary_form_holds_every_path_and_definition() {
    use crate::proto::wire::{Payload, Reader};
    let count = |bytes: &[u8], wanted: u32| -> (usize, Vec<u8>) {
        let (mut reader, mut found, mut last) = (Reader(bytes), 0, Vec::new());
        while let Some((number, payload)) = reader.next().expect("the bytes are a message") {
            if let (true, Payload::Bytes(bytes)) = (number == wanted, payload) {
                (found, last) = (found + 1, bytes.to_vec());
            }
        }
        (found, last)
    };
    let (bytes, document) = (super::v2_binary(&everything()), v2_document(&everything()));
    let length = |key: &str| document[key].as_object().map_or(0, serde_json::Map::len);
    let (_, paths) = count(&bytes, 8);
    let (_, definitions) = count(&bytes, 9);
    assert_eq!((count(&paths, 2).0, count(&definitions, 1).0), (length("paths"), length("definitions")));
    assert!(length("definitions") > 500 && length("paths") > 200);
}

//! Custom resource definitions over the memory store: what is served, published, refused and kept.
//!
//! Start at [`Server`]. The controller that establishes definitions is not here: [`Server::define`] writes the status
//! that it would write.

mod world;

use std::sync::Arc;

use apiserver::{Api, Body, Credentials, User, annotate};
use base::Timestamp;
use bytes::Bytes;
use futures::executor::block_on;
use serde_json::{Value, json};
use store::Store;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRONTABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";
const NAME: &str = "crontabs.stable.example.com";

struct Server(Arc<Api>);

impl Server {
    fn new() -> Server {
        Server::over(Arc::new(store::memory(annotate())))
    }

    fn over(store: Arc<dyn Store>) -> Server {
        let (api, _) = world::open(store);
        block_on(api.bootstrap()).expect("the first objects");
        Server(api)
    }

    fn send(&self, method: &str, path: &str, ty: &str, accept: &str, body: &Value) -> (apiserver::Response, Value) {
        let request =
            http::Request::builder().method(method).uri(path).header("content-type", ty).header("accept", accept);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Bytes::from(body)).expect("a request");
        let user = Credentials::User(Arc::new(User::new("admin", ["system:masters"])));
        let response = block_on(self.0.handle(request, user));
        let Body::Whole(bytes) = &response.body else { panic!("one answer was expected") };
        let tree = serde_json::from_slice(bytes).unwrap_or_default();
        (response, tree)
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let ty = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let (response, tree) = self.send(method, path, ty, "application/json", &body);
        (response.status.as_u16(), tree)
    }

    #[track_caller]
    fn must(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, tree) = self.ask(method, path, body);
        assert!(code < 300, "{method} {path}: {tree}");
        tree
    }

    #[track_caller]
    fn refused(&self, method: &str, path: &str, body: Value, code: u16, message: &str) {
        let (got, tree) = self.ask(method, path, body);
        assert_eq!((got, tree["message"].as_str().unwrap_or_default()), (code, message), "{tree}");
    }

    /// Creates a definition, and gives it its names as the controller would.
    #[track_caller]
    fn define(&self, definition: Value) {
        let made = self.must("POST", DEFINITIONS, definition);
        self.accept(made);
    }

    #[track_caller]
    fn accept(&self, mut made: Value) {
        made["status"] = api::custom::names(&made, &[], Timestamp::from_seconds(1_790_000_000));
        let path = format!("{DEFINITIONS}/{}/status", made["metadata"]["name"].as_str().expect("a name"));
        self.must("PUT", &path, made);
    }
}

/// The documentation's example, with a little of everything.
fn crontabs() -> Value {
    let spec = json!({
        "type": "object",
        "properties": {
            "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
            "image": {"type": "string", "default": "busybox"},
            "replicas": {"type": "integer", "minimum": 1, "maximum": 10},
        },
    });
    let status =
        json!({"type": "object", "properties": {"replicas": {"type": "integer"}, "labelSelector": {"type": "string"}}});
    let schema = json!({"type": "object", "properties": {"spec": spec, "status": status}});
    let version = json!({
        "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.labelSelector"},
        },
        "additionalPrinterColumns": [
            {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
        ],
        "selectableFields": [{"jsonPath": ".spec.image"}],
    });
    json!({
        "metadata": {"name": NAME},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "versions": [version],
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
        },
    })
}

fn crontab(name: &str) -> Value {
    json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cronSpec": "* * * * */5", "replicas": 2},
    })
}

#[test]
fn an_established_definition_is_served() {
    let server = Server::new();
    let made = server.must("POST", DEFINITIONS, crontabs());
    server.refused("GET", CRONTABS, Value::Null, 404, "the server could not find the requested resource");
    server.accept(made);
    let made = server.must("POST", CRONTABS, crontab("a"));
    assert_eq!((&made["spec"]["image"], &made["metadata"]["generation"]), (&json!("busybox"), &json!(1)));
    let list = server.must("GET", CRONTABS, Value::Null);
    assert_eq!((&list["kind"], &list["items"][0]), (&json!("CronTabList"), &made));
    let patched = server.must("PATCH", &format!("{CRONTABS}/a"), json!({"spec": {"replicas": 3}}));
    assert_eq!((&patched["spec"]["replicas"], &patched["metadata"]["generation"]), (&json!(3), &json!(2)));
    server.must("DELETE", &format!("{CRONTABS}/a"), Value::Null);
    server.refused("GET", &format!("{CRONTABS}/a"), Value::Null, 404, "crontabs.stable.example.com \"a\" not found");
}

#[test]
fn bad_objects_are_refused_in_upstreams_words() {
    let server = Server::new();
    server.define(crontabs());
    let mut wrong = crontab("a");
    wrong["spec"] = json!({"cronSpec": "* * * *", "replicas": 15});
    let message = "CronTab.stable.example.com \"a\" is invalid: [spec.cronSpec: Invalid value: \"* * * *\": spec.cronSpec in body \
        should match '^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$', spec.replicas: Invalid value: 15: spec.replicas in body \
        should be less than or equal to 10]";
    server.refused("POST", CRONTABS, wrong, 422, message);
    let mut unknown = crontab("a");
    unknown["spec"]["size"] = json!(1);
    let message =
        "CronTab in version \"v1\" cannot be handled as a CronTab: strict decoding error: unknown field \"spec.size\"";
    server.refused("POST", &format!("{CRONTABS}?fieldValidation=Strict"), unknown.clone(), 400, message);
    assert_eq!(server.must("POST", CRONTABS, unknown)["spec"].get("size"), None, "pruned");
    let message = "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, \
        application/merge-patch+json";
    let (response, tree) =
        server.send("PATCH", &format!("{CRONTABS}/a"), "application/strategic-merge-patch+json", "", &json!({}));
    assert!(response.status == 415 && tree["message"].as_str().is_some_and(|text| text.starts_with(message)), "{tree}");
}

#[test]
fn status_and_scale_are_apart() {
    let server = Server::new();
    server.define(crontabs());
    let mut object = crontab("a");
    object["status"] = json!({"replicas": 7});
    let mut made = server.must("POST", CRONTABS, object);
    assert_eq!(made.get("status"), None);
    made["status"] = json!({"replicas": 1, "labelSelector": "app=a"});
    made["spec"]["replicas"] = json!(9);
    let written = server.must("PUT", &format!("{CRONTABS}/a/status"), made);
    assert_eq!((&written["spec"]["replicas"], &written["status"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(written["metadata"]["generation"], 1);
    let scale = server.must("GET", &format!("{CRONTABS}/a/scale"), Value::Null);
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 2}), &json!({"replicas": 1, "selector": "app=a"}))
    );
    server.must("PATCH", &format!("{CRONTABS}/a/scale"), json!({"spec": {"replicas": 5}}));
    assert_eq!(server.must("GET", &format!("{CRONTABS}/a"), Value::Null)["spec"]["replicas"], 5);
    server.refused("PATCH", &format!("{CRONTABS}/a/scale"), json!({"spec": {"replicas": 50}}), 422,
        "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: 50: spec.replicas in body should be less than or equal to 10");
}

#[test]
fn tables_have_the_definitions_columns_and_selectors_its_fields() {
    let server = Server::new();
    server.define(crontabs());
    server.must("POST", CRONTABS, crontab("a"));
    let mut other = crontab("b");
    other["spec"]["image"] = json!("nginx");
    server.must("POST", CRONTABS, other);
    let (_, table) = server.send(
        "GET",
        &format!("{CRONTABS}?fieldSelector=spec.image%3Dnginx"),
        "",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        &Value::Null,
    );
    let names: Vec<&str> =
        table["columnDefinitions"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["Name", "Spec", "Replicas"]);
    assert_eq!(table["rows"].as_array().map(Vec::len), Some(1));
    assert_eq!(table["rows"][0]["cells"], json!(["b", "* * * * */5", 2]));
    server.refused(
        "GET",
        &format!("{CRONTABS}?fieldSelector=spec.replicas%3D2"),
        Value::Null,
        400,
        "field label not supported: spec.replicas",
    );
}

#[test]
fn documents_follow_the_definitions() {
    let server = Server::new();
    let before = server.must("GET", "/openapi/v3", Value::Null);
    server.must("GET", "/apis", Value::Null);
    server.define(crontabs());
    let groups = server.must("GET", "/apis", Value::Null);
    assert!(groups["groups"].as_array().into_iter().flatten().any(|group| group["name"] == "stable.example.com"));
    let list = server.must("GET", "/apis/stable.example.com/v1", Value::Null);
    let names: Vec<&str> =
        list["resources"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["crontabs", "crontabs/scale", "crontabs/status"]);
    let (response, aggregated) = server.send(
        "GET",
        "/apis",
        "",
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        &Value::Null,
    );
    assert!(response.headers.iter().any(|(name, _)| name == "etag"));
    assert!(
        aggregated["items"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|group| group["metadata"]["name"] == "stable.example.com")
    );
    let after = server.must("GET", "/openapi/v3", Value::Null);
    let path = "apis/stable.example.com/v1";
    assert!(before["paths"].get(path).is_none());
    let first = after["paths"][path]["serverRelativeURL"].as_str().expect("a document").to_owned();
    let document = server.must("GET", &first, Value::Null);
    let schema = &document["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["properties"]["spec"]["properties"]["image"]["default"], "busybox");
    let mut definition = server.must("GET", &format!("{DEFINITIONS}/{NAME}"), Value::Null);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["image"]["default"] =
        json!("nginx");
    server.must("PUT", &format!("{DEFINITIONS}/{NAME}"), definition);
    let again = server.must("GET", "/openapi/v3", Value::Null);
    assert_ne!(again["paths"][path]["serverRelativeURL"], json!(first), "the document's hash moves with its content");
    let v2 = server.must("GET", "/openapi/v2", Value::Null);
    assert!(v2["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

#[test]
fn objects_follow_a_changed_schema_and_a_restart() {
    let store: Arc<dyn Store> = Arc::new(store::memory(annotate()));
    let server = Server::over(store.clone());
    server.define(crontabs());
    server.must("POST", CRONTABS, crontab("a"));
    let mut definition = server.must("GET", &format!("{DEFINITIONS}/{NAME}"), Value::Null);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["zone"] =
        json!({"type": "string", "default": "z"});
    server.must("PUT", &format!("{DEFINITIONS}/{NAME}"), definition);
    for server in [server, Server::over(store)] {
        let list = server.must("GET", CRONTABS, Value::Null);
        assert_eq!(list["items"][0]["spec"]["zone"], "z", "a default reaches what was written before it");
        assert_eq!(server.must("GET", &format!("{CRONTABS}/a"), Value::Null)["spec"]["zone"], "z");
    }
}

#[test]
fn versions_share_their_objects() {
    let server = Server::new();
    let mut definition = crontabs();
    let mut beta = definition["spec"]["versions"][0].clone();
    beta["name"] = json!("v1beta1");
    beta["storage"] = json!(false);
    beta["deprecated"] = json!(true);
    definition["spec"]["versions"].as_array_mut().expect("versions").push(beta);
    server.define(definition);
    let beta = CRONTABS.replace("/v1/", "/v1beta1/");
    let mut object = crontab("a");
    object["apiVersion"] = json!("stable.example.com/v1beta1");
    let (response, made) = server.send("POST", &beta, "application/json", "", &object);
    assert_eq!(made["apiVersion"], "stable.example.com/v1beta1");
    let warned = response.headers.iter().any(|(name, value)| {
        name == "warning"
            && value.to_str().is_ok_and(|text| text.contains("stable.example.com/v1beta1 CronTab is deprecated"))
    });
    assert!(warned);
    let read = server.must("GET", &format!("{CRONTABS}/a"), Value::Null);
    assert_eq!(
        (&read["apiVersion"], &read["metadata"]["uid"]),
        (&json!("stable.example.com/v1"), &made["metadata"]["uid"])
    );
    let same = server.must("PUT", &format!("{beta}/a"), made.clone());
    assert_eq!(same, made, "nothing changed, nothing written");
}

#[test]
fn a_definition_that_goes_takes_no_new_objects() {
    let server = Server::new();
    server.define(crontabs());
    server.must("POST", CRONTABS, crontab("a"));
    let going = server.must("DELETE", &format!("{DEFINITIONS}/{NAME}"), Value::Null);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let message = "Operation cannot be fulfilled on crontabs.stable.example.com \"b\": create not allowed while custom resource \
        definition is terminating";
    server.refused("POST", CRONTABS, crontab("b"), 409, message);
    server.must("DELETE", &format!("{CRONTABS}/a"), Value::Null);
    server.must("PATCH", &format!("{DEFINITIONS}/{NAME}"), json!({"metadata": {"finalizers": []}}));
    server.refused("GET", CRONTABS, Value::Null, 404, "the server could not find the requested resource");
    let groups = server.must("GET", "/apis", Value::Null);
    assert!(!groups["groups"].as_array().into_iter().flatten().any(|group| group["name"] == "stable.example.com"));
}

#[test]
fn a_namespaces_quota_holds_for_custom_resources_too() {
    let server = Server::new();
    server.define(crontabs());
    let hard = json!({"count/crontabs.stable.example.com": "1", "configmaps": "2", "cpu": "1"});
    server.must(
        "POST",
        "/api/v1/namespaces/default/resourcequotas",
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}),
    );
    server.must("POST", CRONTABS, crontab("a"));
    let message = "crontabs.stable.example.com \"b\" is forbidden: exceeded quota: q, requested: \
        count/crontabs.stable.example.com=1, used: count/crontabs.stable.example.com=1, limited: count/crontabs.stable.example.com=1";
    server.refused("POST", CRONTABS, crontab("b"), 403, message);
    // One is there from the start, in every namespace.
    let maps = "/api/v1/namespaces/default/configmaps";
    server.must("POST", maps, json!({"metadata": {"name": "a"}}));
    let message = "configmaps \"b\" is forbidden: exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2";
    server.refused("POST", maps, json!({"metadata": {"name": "b"}}), 403, message);
    server.must("DELETE", &format!("{maps}/a"), Value::Null);
    server.must("POST", maps, json!({"metadata": {"name": "b"}}));
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    let message = "pods \"p\" is forbidden: failed quota: q: must specify cpu for: c";
    server.refused("POST", "/api/v1/namespaces/default/pods", pod, 403, message);
}

#[test]
fn unreadable_bodies_are_refused_in_upstreams_words() {
    let server = Server::new();
    let path = "/api/v1/namespaces/default/configmaps";
    let unread =
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error:";
    let ask = |ty: &str, body: &str| {
        let request = http::Request::builder().method("POST").uri(path).header("content-type", ty);
        let request = request.body(Bytes::from(body.to_owned())).expect("a request");
        let user = Credentials::User(Arc::new(User::new("admin", ["system:masters"])));
        let Body::Whole(bytes) = block_on(server.0.handle(request, user)).body else {
            panic!("one answer was expected")
        };
        let status: Value = serde_json::from_slice(&bytes).expect("a Status");
        status["message"].as_str().unwrap_or_default().to_owned()
    };
    for (ty, body, message) in [
        ("application/json", "", format!("{unread} unexpected end of JSON input (<empty>)")),
        ("application/json", "{\"a\":", format!("{unread} unexpected end of JSON input ({{\"a\":)")),
        ("application/json", r#"{"kind":"Pod","apiVersion":"v1"}"#, "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion".to_owned()),
        ("application/json", r#"{"kind":"Foo","apiVersion":"v1"}"#, "Foo in version \"v1\" cannot be handled as a ConfigMap: no kind \"Foo\" is registered for version \"v1\"".to_owned()),
        ("text/plain", "x", "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned()),
    ] {
        assert_eq!(ask(ty, body), message, "{body}");
    }
}

#[test]
fn bad_definitions_are_refused_in_upstreams_words() {
    let server = Server::new();
    let mut wrong = crontabs();
    wrong["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"] =
        json!({});
    server.refused("POST", DEFINITIONS, wrong, 422,
        "CustomResourceDefinition.apiextensions.k8s.io \"crontabs.stable.example.com\" is invalid: \
         spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[replicas].type: Required value: must not be empty for \
         specified object fields");
    let mut other = crontabs();
    other["metadata"]["name"] = json!("crons.stable.example.com");
    server.refused("POST", DEFINITIONS, other, 422,
        "CustomResourceDefinition.apiextensions.k8s.io \"crons.stable.example.com\" is invalid: metadata.name: Invalid value: \
         \"crons.stable.example.com\": must be spec.names.plural+\".\"+spec.group");
}

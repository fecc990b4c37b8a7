//! The verbs over the memory store, without sockets: what a client sends and what it gets.
//!
//! Start at [`Server`]: [`Server::ask`] sends one request and gives status and tree.

mod world;

use std::sync::Arc;

use apiserver::{Api, Body, Credentials, User, annotate, door};
use base::{ManualClock, Timestamp};
use bytes::Bytes;
use client::{Collection, EventKind};
use futures::StreamExt;
use futures::executor::block_on;
use serde_json::{Value, json};

struct Server {
    api: Arc<Api>,
    clock: Arc<ManualClock>,
}

impl Server {
    fn new() -> Server {
        let (api, clock) = world::open(Arc::new(store::memory(annotate())));
        block_on(api.bootstrap()).expect("the first objects");
        Server { api, clock }
    }

    fn send(&self, user: Option<User>, method: &str, path: &str, ty: &str, body: &str) -> apiserver::Response {
        let request = http::Request::builder().method(method).uri(path).header("content-type", ty);
        let request = request.body(Bytes::from(body.to_owned())).expect("a request");
        let credentials = user.map_or(Credentials::Headers, |user| Credentials::User(Arc::new(user)));
        block_on(self.api.handle(request, credentials))
    }

    fn as_user(&self, user: User, method: &str, path: &str, body: Value) -> (u16, Value) {
        told(self.send(Some(user), method, path, "application/json", &text(&body)))
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.as_user(admin(), method, path, body)
    }

    fn patch(&self, path: &str, ty: &str, body: Value) -> (u16, Value) {
        told(self.send(Some(admin()), "PATCH", path, &format!("application/{ty}+json"), &text(&body)))
    }

    #[track_caller]
    fn made(&self, path: &str, body: Value) -> Value {
        let (status, object) = self.ask("POST", path, body);
        assert_eq!(status, 201, "{object}");
        object
    }
}

fn admin() -> User {
    User::new("admin", ["system:masters"])
}

fn text(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

fn told(response: apiserver::Response) -> (u16, Value) {
    match response.body {
        Body::Whole(bytes) => (response.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_default()),
        _ => panic!("one answer was expected"),
    }
}

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": value}}, "data": {"key": value}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

#[test]
fn what_is_created_can_be_read() {
    let server = Server::new();
    let made = server.made(MAPS, map("a", "one"));
    let (status, read) = server.ask("GET", &format!("{MAPS}/a"), Value::Null);
    assert_eq!((status, &read), (200, &made));
    assert_eq!(read["metadata"]["namespace"], "default");
    assert_eq!(read["metadata"]["creationTimestamp"], "2026-09-21T14:13:20Z");
    for field in ["uid", "resourceVersion"] {
        assert!(read["metadata"][field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {read}");
    }
}

#[test]
fn refusals_speak_upstreams_words() {
    let server = Server::new();
    server.made(MAPS, map("a", "one"));
    let cases = [
        ("POST", MAPS, map("a", "two"), 409, "AlreadyExists", "configmaps \"a\" already exists"),
        (
            "GET",
            "/apis/apps/v1/namespaces/default/deployments/x",
            Value::Null,
            404,
            "NotFound",
            "deployments.apps \"x\" not found",
        ),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/b",
            map("b", "x"),
            404,
            "NotFound",
            "configmaps \"b\" not found",
        ),
        ("POST", "/api/v1/namespaces/none/configmaps", map("a", "x"), 404, "NotFound", "namespaces \"none\" not found"),
        (
            "PUT",
            "/api/v1/namespaces/default/configmaps/a",
            map("b", "x"),
            400,
            "BadRequest",
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            "GET",
            "/apis/none/v1/things",
            Value::Null,
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/default",
            Value::Null,
            403,
            "Forbidden",
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "PUT",
            MAPS,
            map("a", "x"),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
    ];
    for (method, path, body, code, reason, message) in cases {
        let (status, told) = server.ask(method, path, body);
        assert_eq!((status, told["reason"].as_str(), told["message"].as_str()), (code, Some(reason), Some(message)));
        assert_eq!((&told["kind"], &told["code"]), (&json!("Status"), &json!(code)));
    }
}

#[test]
fn an_old_version_is_not_written_over_a_new_one() {
    let server = Server::new();
    let old = server.made(MAPS, map("a", "one"));
    let mut new = old.clone();
    new["data"]["key"] = "two".into();
    let (status, written) = server.ask("PUT", &format!("{MAPS}/a"), new);
    assert_eq!(status, 200, "{written}");
    let mut late = old;
    late["data"]["key"] = "three".into();
    let (status, told) = server.ask("PUT", &format!("{MAPS}/a"), late);
    assert_eq!(status, 409);
    assert_eq!(
        told["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
}

#[test]
fn a_write_that_changes_nothing_writes_nothing() {
    let server = Server::new();
    let made = server.made(MAPS, map("a", "one"));
    let (_, same) = server.ask("PUT", &format!("{MAPS}/a"), made.clone());
    assert_eq!(same, made);
}

#[test]
fn patches_of_all_three_kinds_apply() {
    let server = Server::new();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}});
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template}});
    let made = server.made(path, deployment);
    assert_eq!((&made["spec"]["replicas"], &made["metadata"]["generation"]), (&json!(1), &json!(1)));
    let path = format!("{path}/web");
    let containers = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let (_, patched) = server.patch(&path, "strategic-merge-patch", containers);
    assert_eq!(patched["spec"]["template"]["spec"]["containers"][0]["image"], "two", "{patched}");
    assert_eq!(patched["metadata"]["generation"], 2);
    let (_, patched) = server.patch(&path, "merge-patch", json!({"spec": {"replicas": 3}}));
    assert_eq!(patched["spec"]["replicas"], 3);
    let change = json!([{"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let (_, patched) = server.patch(&path, "json-patch", change);
    assert_eq!(patched["spec"]["replicas"], 4);
    let (status, told) =
        server.patch(&path, "json-patch", json!([{"op": "test", "path": "/spec/replicas", "value": 9}]));
    assert_eq!(status, 422, "{told}");
    let (status, _) = server.patch(&path, "strange-patch", json!({}));
    assert_eq!(status, 415);
    let (status, scale) = server.patch(&format!("{path}/scale"), "merge-patch", json!({"spec": {"replicas": 7}}));
    assert_eq!((status, &scale["spec"]["replicas"], &scale["status"]["selector"]), (200, &json!(7), &json!("app=web")));
    let (_, read) = server.ask("GET", &path, Value::Null);
    assert_eq!(read["spec"]["replicas"], 7);
}

#[test]
fn a_status_is_written_through_its_own_path() {
    let server = Server::new();
    let made = server.made(PODS, pod("a"));
    assert_eq!(made["status"]["phase"], "Pending");
    let path = format!("{PODS}/a");
    let (status, told) = server.patch(
        &format!("{path}/status"),
        "merge-patch",
        json!({"status": {"phase": "Running"}, "spec": {"nodeName": "one"}}),
    );
    assert_eq!((status, &told["status"]["phase"], &told["spec"]["nodeName"]), (200, &json!("Running"), &Value::Null));
    let (_, told) =
        server.patch(&path, "merge-patch", json!({"metadata": {"labels": {"b": "c"}}, "status": {"phase": "Failed"}}));
    assert_eq!((&told["status"]["phase"], &told["metadata"]["labels"]["b"]), (&json!("Running"), &json!("c")));
}

#[test]
fn lists_are_selected_paged_and_tabled() {
    let server = Server::new();
    for (name, app) in [("a", "one"), ("b", "two"), ("c", "one")] {
        server.made(MAPS, map(name, app));
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| item["metadata"]["name"].as_str().unwrap_or("").to_owned())
            .collect()
    };
    let (_, list) = server.ask("GET", &format!("{MAPS}?labelSelector=app%3Done"), Value::Null);
    assert_eq!((names(&list), &list["kind"]), (vec!["a".to_owned(), "c".to_owned()], &json!("ConfigMapList")));
    let (_, list) = server.ask("GET", &format!("{MAPS}?fieldSelector=metadata.name%3Db"), Value::Null);
    assert_eq!(names(&list), ["b"]);
    let (status, _) = server.ask("GET", &format!("{MAPS}?fieldSelector=data.key%3Db"), Value::Null);
    assert_eq!(status, 400);
    let (_, first) = server.ask("GET", &format!("{MAPS}?limit=2"), Value::Null);
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a".to_owned(), "b".to_owned()], &json!(2))
    );
    server.made(MAPS, map("bb", "late"));
    let next = first["metadata"]["continue"].as_str().expect("there is more");
    let (_, second) = server.ask("GET", &format!("{MAPS}?limit=2&continue={next}"), Value::Null);
    assert_eq!(names(&second), ["c", "kube-root-ca.crt"], "the second page is of the first one's moment");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let request = http::Request::get(MAPS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let request = request.body(Bytes::new()).expect("a request");
    let (_, table) = told(block_on(server.api.handle(request, Credentials::User(Arc::new(admin())))));
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[test]
fn a_watch_tells_what_comes_into_a_selection_and_what_leaves_it() {
    let server = Server::new();
    let door = door::open(&server.api, admin());
    let mut collection = Collection::all("", "v1", "configmaps");
    collection.label_selector = "app=one".to_owned();
    let listing = block_on(door.list(&collection)).expect("a list");
    assert!(listing.items.is_empty());
    let watch = block_on(door.watch(&collection, &listing.resource_version)).expect("a watch");
    server.made(MAPS, map("a", "one"));
    server.made(MAPS, map("b", "two"));
    let label = |name: &str, app: &str| {
        server.patch(&format!("{MAPS}/{name}"), "merge-patch", json!({"metadata": {"labels": {"app": app}}}))
    };
    label("b", "one");
    label("a", "three");
    server.ask("DELETE", &format!("{MAPS}/b"), Value::Null);
    let events =
        watch.filter(|event| std::future::ready(!matches!(event, Ok(event) if event.kind == EventKind::Bookmark)));
    let events: Vec<_> = block_on(events.take(4).collect());
    let told: Vec<String> = events
        .into_iter()
        .map(|event| {
            let event = event.expect("no error");
            let object: Value = serde_json::from_slice(&event.object).expect("JSON");
            format!(
                "{:?} {} {}",
                event.kind,
                object["metadata"]["name"].as_str().unwrap_or(""),
                object["metadata"]["labels"]["app"].as_str().unwrap_or("")
            )
        })
        .collect();
    assert_eq!(told, ["Added a one", "Added b one", "Deleted a one", "Deleted b one"]);
}

#[test]
fn pods_get_their_account_and_go_gracefully() {
    let server = Server::new();
    let made = server.made(PODS, pod("a"));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let mount = &made["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(made["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
    let binding = json!({"metadata": {"name": "a"}, "target": {"kind": "Node", "name": "one"}});
    let (status, told) = server.ask("POST", &format!("{PODS}/a/binding"), binding.clone());
    assert_eq!((status, &told["status"]), (201, &json!("Success")), "{told}");
    let (status, told) = server.ask("POST", &format!("{PODS}/a/binding"), binding);
    assert_eq!(status, 409);
    assert_eq!(
        told["message"],
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"one\""
    );
    let (status, going) = server.ask("DELETE", &format!("{PODS}/a"), Value::Null);
    assert_eq!((status, &going["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
    assert_eq!(server.ask("GET", &format!("{PODS}/a"), Value::Null).0, 200);
    server.ask("DELETE", &format!("{PODS}/a"), json!({"gracePeriodSeconds": 0}));
    assert_eq!(server.ask("GET", &format!("{PODS}/a"), Value::Null).0, 404);
}

#[test]
fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::new();
    let mut held = map("a", "one");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    server.made(MAPS, held);
    let (_, going) = server.ask("DELETE", &format!("{MAPS}/a"), Value::Null);
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "{going}");
    server.patch(&format!("{MAPS}/a"), "merge-patch", json!({"metadata": {"finalizers": null}}));
    assert_eq!(server.ask("GET", &format!("{MAPS}/a"), Value::Null).0, 404);
}

#[test]
fn a_new_claim_is_protected_and_gets_the_default_class() {
    let server = Server::new();
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let claim = json!({"metadata": {"name": "a"}, "spec": spec});
    let made = server.made("/api/v1/namespaces/default/persistentvolumeclaims", claim);
    assert_eq!(made["spec"]["storageClassName"], "local");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

/// A class that was taken away stays away: only a new cluster gets it.
#[test]
fn the_default_class_is_given_once() {
    let server = Server::new();
    let class = "/apis/storage.k8s.io/v1/storageclasses/local";
    assert_eq!(server.ask("DELETE", class, Value::Null).0, 200);
    block_on(server.api.bootstrap()).expect("the first objects");
    assert_eq!(server.ask("GET", class, Value::Null).0, 404);
}

#[test]
fn a_node_notes_on_volumes_it_takes_care_of_and_changes_nothing_else() {
    let server = Server::new();
    let volume = |name: &str, node: &str| {
        let spec =
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp/x"}});
        let meta = json!({"name": name, "annotations": {"skerry.dev/caretaker": node}});
        server.made("/api/v1/persistentvolumes", json!({"metadata": meta, "spec": spec}));
    };
    volume("mine", "a");
    volume("other", "b");
    let patch = |name: &str, body: Value| {
        let node = Some(User::new("system:node:a", ["system:nodes", "system:authenticated"]));
        let path = format!("/api/v1/persistentvolumes/{name}");
        server.send(node, "PATCH", &path, "application/merge-patch+json", &text(&body)).status.as_u16()
    };
    let note = || json!({"metadata": {"annotations": {"skerry.dev/cleared": "u"}}});
    assert_eq!((patch("mine", note()), patch("other", note())), (200, 403));
    assert_eq!(patch("mine", json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})), 403);
    assert_eq!(patch("mine", json!({"metadata": {"labels": {"a": "b"}}})), 403);
}

#[test]
fn a_namespace_that_goes_takes_nothing_new() {
    let server = Server::new();
    server.made("/api/v1/namespaces", json!({"metadata": {"name": "n"}}));
    let (_, going) = server.ask("DELETE", "/api/v1/namespaces/n", Value::Null);
    assert_eq!(going["status"]["phase"], "Terminating");
    let (status, told) = server.ask("POST", "/api/v1/namespaces/n/configmaps", map("a", "one"));
    assert_eq!((status, &told["details"]["causes"][0]["reason"]), (403, &json!("NamespaceTerminating")));
    let (status, told) = server.ask(
        "PUT",
        "/api/v1/namespaces/n/finalize",
        json!({"metadata": {"name": "n"}, "spec": {"finalizers": []}}),
    );
    assert_eq!(status, 200, "{told}");
    assert_eq!(server.ask("GET", "/api/v1/namespaces/n", Value::Null).0, 404);
}

#[test]
fn services_get_addresses_and_ports() {
    let server = Server::new();
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
    let made = server.made(path, service("one"));
    assert_eq!(made["spec"]["clusterIP"], made["spec"]["clusterIPs"][0]);
    assert!(made["spec"]["ports"][0]["nodePort"].as_i64().is_some_and(|port| (30_000..=32_767).contains(&port)));
    let (_, ours) = server.ask("GET", &format!("{path}/kubernetes"), Value::Null);
    assert_eq!(ours["spec"]["clusterIP"], "10.43.0.1");
    let mut clash = service("two");
    clash["spec"]["clusterIP"] = "10.43.0.1".into();
    let (status, told) = server.ask("POST", path, clash);
    assert_eq!((status, &told["reason"]), (422, &json!("Invalid")));
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let server = Server::new();
    let (status, told) = server.ask("POST", &format!("{MAPS}?dryRun=All"), map("a", "one"));
    assert_eq!((status, &told["metadata"]["name"]), (201, &json!("a")));
    assert_eq!(server.ask("GET", &format!("{MAPS}/a"), Value::Null).0, 404);
}

#[test]
fn names_are_generated() {
    let server = Server::new();
    let made = server.made(MAPS, json!({"metadata": {"generateName": "a-"}}));
    let name = made["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("a-") && name.len() == 7, "{name}");
}

#[test]
fn unknown_fields_are_dropped_warned_of_or_refused() {
    let server = Server::new();
    let body = json!({"metadata": {"name": "a"}, "dater": {}}).to_string();
    let post = |query: &str| {
        server.send(Some(admin()), "POST", &format!("{MAPS}?dryRun=All&{query}"), "application/json", &body)
    };
    let warnings =
        |response: &apiserver::Response| response.headers.iter().filter(|(name, _)| name == "warning").count();
    let warned = post("");
    assert_eq!((warned.status.as_u16(), warnings(&warned)), (201, 1));
    let ignored = post("fieldValidation=Ignore");
    assert_eq!((ignored.status.as_u16(), warnings(&ignored)), (201, 0));
    let (status, told) = told(post("fieldValidation=Strict"));
    assert_eq!(status, 400);
    assert_eq!(
        told["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: unknown field \"dater\""
    );
}

#[test]
fn nobody_may_do_what_no_role_allows() {
    let server = Server::new();
    let (status, refusal) = told(server.send(None, "GET", PODS, "", ""));
    assert_eq!(status, 403);
    assert_eq!(
        refusal["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(server.send(None, "GET", "/healthz", "", "").status, 200);
    assert_eq!(server.send(None, "GET", "/version", "", "").status, 200);
    let alice = || User::new("alice", []);
    assert_eq!(server.as_user(alice(), "GET", PODS, Value::Null).0, 403);
    let binding = json!({
        "metadata": {"name": "alice"}, "subjects": [{"kind": "User", "name": "alice", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    });
    server.made("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding.clone());
    assert_eq!(server.as_user(alice(), "GET", PODS, Value::Null).0, 200);
    assert_eq!(server.as_user(alice(), "GET", "/api/v1/pods", Value::Null).0, 403);
    let mut greedy = binding;
    greedy["metadata"]["name"] = "greedy".into();
    greedy["roleRef"]["name"] = "cluster-admin".into();
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let (status, told) = server.as_user(alice(), "POST", path, greedy);
    assert_eq!(status, 403);
    assert!(told["message"].as_str().is_some_and(|text| text.contains("not currently held")), "{told}");
    let review =
        json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "pods", "namespace": "default"}}});
    let (_, told) = server.as_user(alice(), "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review);
    assert_eq!(told["status"]["allowed"], true, "{told}");
}

#[test]
fn an_accounts_token_lives_as_long_as_its_pod() {
    let server = Server::new();
    let made = server.made(PODS, pod("a"));
    let request = json!({"spec": {"expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "a", "uid": made["metadata"]["uid"]}}});
    let (status, answer) = server.ask("POST", "/api/v1/namespaces/default/serviceaccounts/default/token", request);
    assert_eq!(status, 201, "{answer}");
    let token = answer["status"]["token"].as_str().expect("a token").to_owned();
    let who = || {
        let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header("authorization", format!("Bearer {token}"));
        told(block_on(
            server.api.handle(request.body(Bytes::from_static(b"{}")).expect("a request"), Credentials::Headers),
        ))
    };
    let (status, told) = who();
    assert_eq!(
        (status, &told["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:default:default")),
        "{told}"
    );
    server.clock.advance(std::time::Duration::from_secs(3601));
    assert_eq!(who().0, 401);
    server.clock.jump_to(Timestamp::from_seconds(1_790_000_000));
    assert_eq!(who().0, 201);
    server.ask("DELETE", &format!("{PODS}/a"), Value::Null);
    assert_eq!(who().0, 401);
}

#[test]
fn bad_bodies_are_refused_and_nothing_is_stored() {
    let server = Server::new();
    for (ty, body, code) in [
        ("application/json", "{", 400),
        ("application/yaml", "a: [", 400),
        ("application/json", "[]", 400),
        ("text/html", "<p>", 415),
        ("application/json", r#"{"metadata":{"name":"a"},"data":7}"#, 400),
        ("application/json", r#"{"metadata":{"name":"A_b"}}"#, 422),
        ("application/json", r#"{"metadata":{}}"#, 422),
    ] {
        let (status, told) = told(server.send(Some(admin()), "POST", MAPS, ty, body));
        assert_eq!((status, &told["kind"]), (code, &json!("Status")), "{body}: {told}");
    }
    let (_, list) = server.ask("GET", MAPS, Value::Null);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "only the CA bundle is there");
}

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A pod `a`, `Running` and `ready` or not, and a budget `b` with these figures: observed generation, healthy, wanted, allowed.
fn guarded(ready: bool, policy: &str, figures: [i64; 4]) -> Server {
    let server = Server::new();
    server.made(PODS, pod("a"));
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    server.patch(&format!("{PODS}/a/status"), "merge-patch", json!({"status": status}));
    let spec =
        json!({"minAvailable": 1, "unhealthyPodEvictionPolicy": policy, "selector": {"matchLabels": {"app": "web"}}});
    server.made(BUDGETS, json!({"metadata": {"name": "b"}, "spec": spec}));
    let [observed, healthy, wanted, allowed] = figures;
    let status = json!({"observedGeneration": observed, "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": wanted, "expectedPods": 2});
    server.patch(&format!("{BUDGETS}/b/status"), "merge-patch", json!({"status": status}));
    server
}

fn evict(server: &Server, options: Value) -> (u16, Value) {
    server.ask("POST", &format!("{PODS}/a/eviction"), json!({"metadata": {"name": "a"}, "deleteOptions": options}))
}

fn is_there(server: &Server) -> bool {
    server.ask("GET", &format!("{PODS}/a"), Value::Null).0 == 200
}

#[test]
fn a_budget_stops_an_eviction() {
    let server = guarded(true, "IfHealthyBudget", [1, 1, 1, 0]);
    let (status, told) = evict(&server, Value::Null);
    assert_eq!(status, 429, "{told}");
    assert_eq!(told["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    let cause = json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods and has 1 currently"});
    assert_eq!(told["details"]["causes"][0], cause);
    server.patch(
        &format!("{BUDGETS}/b/status"),
        "merge-patch",
        json!({"status": {"disruptionsAllowed": 1, "currentHealthy": 2}}),
    );
    assert_eq!(evict(&server, Value::Null).0, 201);
    assert!(!is_there(&server));
    let budget = server.ask("GET", &format!("{BUDGETS}/b"), Value::Null).1;
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["a"].is_string(), "{budget}");
}

#[test]
fn a_budget_that_was_not_counted_yet_lets_nobody_go() {
    let server = guarded(true, "IfHealthyBudget", [0, 2, 1, 1]);
    let (status, told) = evict(&server, Value::Null);
    assert_eq!((status, &told["details"]["retryAfterSeconds"]), (429, &json!(10)));
    assert_eq!(
        told["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
}

#[test]
fn a_pod_that_is_not_ready_goes_as_the_policy_says() {
    assert_eq!(evict(&guarded(false, "IfHealthyBudget", [1, 0, 1, 0]), Value::Null).0, 429);
    assert_eq!(evict(&guarded(false, "AlwaysAllow", [1, 0, 1, 0]), Value::Null).0, 201);
    let server = guarded(false, "IfHealthyBudget", [1, 1, 1, 0]);
    assert_eq!(evict(&server, Value::Null).0, 201);
    let budget = server.ask("GET", &format!("{BUDGETS}/b"), Value::Null).1;
    assert!(budget["status"]["disruptedPods"].is_null(), "it costs nothing: {budget}");
}

#[test]
fn an_eviction_may_be_tried_and_may_name_what_it_means() {
    let server = guarded(true, "IfHealthyBudget", [1, 2, 1, 1]);
    assert_eq!(evict(&server, json!({"dryRun": ["All"]})).0, 201);
    assert_eq!(server.ask("POST", &format!("{PODS}/a/eviction?dryRun=All"), json!({"metadata": {"name": "a"}})).0, 201);
    assert_eq!(evict(&server, json!({"dryRun": ["Some"]})).0, 422);
    let budget = server.ask("GET", &format!("{BUDGETS}/b"), Value::Null).1;
    assert_eq!(budget["status"]["disruptionsAllowed"], 1, "nothing was spent");
    let (status, told) = server.ask("POST", &format!("{PODS}/a/eviction"), json!({"metadata": {"name": "c"}}));
    assert_eq!((status, told["message"].as_str()), (400, Some("name in URL does not match name in Eviction object")));
    assert!(is_there(&server));
    assert_eq!(
        evict(&guarded(true, "IfHealthyBudget", [1, 2, 1, 1]), json!({"preconditions": {"uid": "other"}})).0,
        409
    );
}

#[test]
fn two_budgets_are_one_too_many() {
    let server = guarded(true, "IfHealthyBudget", [1, 2, 1, 1]);
    server.made(BUDGETS, json!({"metadata": {"name": "c"}, "spec": {"minAvailable": 1, "selector": {}}}));
    let (status, told) = evict(&server, Value::Null);
    let wanted = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
    assert_eq!((status, told["message"].as_str()), (500, Some(wanted)));
}

#[test]
fn discovery_names_what_is_served() {
    let server = Server::new();
    for (path, kind) in [
        ("/api", "APIVersions"),
        ("/apis", "APIGroupList"),
        ("/api/v1", "APIResourceList"),
        ("/apis/apps/v1", "APIResourceList"),
        ("/apis/apps", "APIGroup"),
    ] {
        let (status, told) = server.ask("GET", path, Value::Null);
        assert_eq!((status, &told["kind"]), (200, &json!(kind)), "{path}");
    }
    assert_eq!(server.ask("GET", "/readyz?verbose", Value::Null).0, 200);
    assert_eq!(server.ask("GET", "/version", Value::Null).1["gitVersion"], api::VERSION);
    assert_eq!(server.ask("GET", "/openid/v1/jwks", Value::Null).1["keys"][0]["alg"], "ES256");
}

#[test]
fn a_node_reads_and_writes_what_is_its_own() {
    let server = Server::new();
    let nodes = "/api/v1/nodes";
    for (name, node, map) in [("mine", "one", "told"), ("other", "two", "untold")] {
        server.made(nodes, json!({"metadata": {"name": node}}));
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        pod["spec"]["volumes"] = json!([{"name": "v", "configMap": {"name": map}}]);
        let pod = server.made(PODS, pod);
        let owner =
            json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": pod["metadata"]["uid"], "controller": true});
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        let about = json!({"name": format!("{name}-v"), "ownerReferences": [owner]});
        server.made(CLAIMS, json!({"metadata": about, "spec": claim}));
        server.made(MAPS, self::map(map, "x"));
    }
    let status = |method: &str, path: &str, body: Value| {
        server.as_user(User::new("system:node:one", ["system:nodes"]), method, path, body).0
    };
    for (path, want) in [
        (format!("{PODS}/mine"), 200),
        (format!("{PODS}/other"), 403),
        (format!("{PODS}/gone"), 404),
        (PODS.to_owned(), 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Done".to_owned(), 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dtwo".to_owned(), 403),
        (format!("{MAPS}/told"), 200),
        (format!("{MAPS}?fieldSelector=metadata.name%3Dtold"), 200),
        (format!("{MAPS}/untold"), 403),
        (format!("{MAPS}?fieldSelector=metadata.name%3Duntold"), 403),
        (MAPS.to_owned(), 403),
        (format!("{CLAIMS}/mine-v"), 200),
        (format!("{CLAIMS}/other-v"), 403),
        (nodes.to_owned(), 200),
        ("/api/v1/services".to_owned(), 200),
    ] {
        assert_eq!(status("GET", &path, Value::Null), want, "{path}");
    }
    let ready = json!({"metadata": {"annotations": {"a": "b"}}});
    let patch = |path: &str| {
        let node = User::new("system:node:one", ["system:nodes"]);
        server.send(Some(node), "PATCH", path, "application/merge-patch+json", &ready.to_string()).status.as_u16()
    };
    assert_eq!((patch(&format!("{nodes}/one")), patch(&format!("{nodes}/two"))), (200, 403));
    assert_eq!((patch(&format!("{PODS}/mine/status")), patch(&format!("{PODS}/other/status"))), (200, 403));
    assert_eq!(status("DELETE", &format!("{PODS}/other"), Value::Null), 403);
    assert_eq!(status("DELETE", &format!("{nodes}/one"), Value::Null), 403);
    assert_eq!(status("GET", "/api/v1/secrets", Value::Null), 403);
}

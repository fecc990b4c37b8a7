//! Who may take a snapshot, and how many at once, over the memory store.
//!
//! Start at [`Server::ask`].

mod world;

use std::sync::Arc;

use apiserver::{Api, Body, Credentials, SNAPSHOT_PATH, Snapshot, User, annotate};
use bytes::Bytes;
use futures::StreamExt;
use futures::executor::block_on;
use serde_json::json;

struct Server(Arc<Api>);

impl Server {
    fn new(snapshot: Option<Snapshot>) -> Server {
        let (api, _) = world::open_with(Arc::new(store::memory(annotate())), |settings| settings.snapshot = snapshot);
        block_on(api.bootstrap()).expect("the first objects");
        Server(api)
    }

    fn ask(&self, user: User, method: &str, path: &str, body: &str) -> (u16, Body) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.body(Bytes::from(body.to_owned())).expect("a request");
        let response = block_on(self.0.handle(request, Credentials::User(Arc::new(user))));
        (response.status.as_u16(), response.body)
    }

    fn snapshot(&self, user: User) -> (u16, Body) {
        self.ask(user, "GET", SNAPSHOT_PATH, "")
    }

    fn create(&self, path: &str, object: serde_json::Value) {
        let (status, _) = self.ask(admin(), "POST", path, &object.to_string());
        assert_eq!(status, 201, "{object}");
    }
}

fn admin() -> User {
    User::new("admin", ["system:masters"])
}

fn keeper() -> User {
    User::new("keeper", [])
}

/// A stream of the keys the store holds.
fn keys() -> Snapshot {
    Arc::new(|page| Ok(Box::new(page.entries.into_iter().map(|entry| Bytes::from(format!("{}\n", entry.key))))))
}

fn text(body: Body) -> String {
    let Body::Stream { frames, .. } = body else { panic!("a snapshot is a stream") };
    let frames: Vec<Bytes> = block_on(frames.collect());
    String::from_utf8(frames.concat()).expect("text")
}

#[test]
fn whoever_has_the_right_gets_everything_and_nobody_else_anything() {
    let server = Server::new(Some(keys()));
    assert_eq!(server.snapshot(User::anonymous()).0, 403);
    assert_eq!(server.snapshot(keeper()).0, 403);
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let rules = json!([{"nonResourceURLs": [SNAPSHOT_PATH], "verbs": ["get"]}]);
    server.create(role, json!({"metadata": {"name": "backup"}, "rules": rules}));
    let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "backup"});
    let subject = json!({"kind": "User", "name": "keeper", "apiGroup": "rbac.authorization.k8s.io"});
    let binding = json!({"metadata": {"name": "backup"}, "roleRef": reference, "subjects": [subject]});
    server.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding);
    let (status, body) = server.snapshot(keeper());
    let keys = text(body);
    assert_eq!(status, 200);
    assert!(keys.contains("namespaces/kube-system\n") && keys.contains("clusterrolebindings"), "{keys}");
    assert_eq!(server.ask(keeper(), "POST", SNAPSHOT_PATH, "").0, 403, "the right is to get");
    assert_eq!(server.ask(admin(), "POST", SNAPSHOT_PATH, "").0, 405);
}

#[test]
fn few_are_taken_at_once_and_one_that_ended_makes_room() {
    let server = Server::new(Some(keys()));
    let (first, second) = (server.snapshot(admin()), server.snapshot(admin()));
    assert_eq!((first.0, second.0), (200, 200));
    assert_eq!(server.snapshot(admin()).0, 429);
    drop(text(first.1));
    assert_eq!(server.snapshot(admin()).0, 200);
    drop(second);
}

#[test]
fn a_server_without_snapshots_has_no_such_path() {
    assert_eq!(Server::new(None).snapshot(admin()).0, 404);
}

#[test]
fn what_hinders_it_is_told() {
    let server = Server::new(Some(Arc::new(|_| Err("the folder of keys cannot be read".to_owned()))));
    let (status, body) = server.snapshot(admin());
    let Body::Whole(said) = body else { panic!("a failure is one answer") };
    assert_eq!(status, 500);
    assert!(String::from_utf8_lossy(&said).contains("the folder of keys cannot be read"), "{said:?}");
}

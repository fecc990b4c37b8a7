//! A node without its server: what ran before a power cut runs again, and nothing is rebuilt when the server is back.

mod world;

use std::fs;
use std::time::{Duration, SystemTime};

use kubelet::checkpoint::Key;
use runtime::fake::{Life, Script};
use serde_json::{Value, json};
use world::{World, path};

const SECRET: &str = "hunter2-is-no-good-password";

/// A pod with all that a restart takes: a ConfigMap and a Secret in variables and files, a token, a Service's variables.
fn spec() -> Value {
    let from = |field: &str, name: &str| json!({"name": field, "valueFrom": {field: {"name": name, "key": "key"}}});
    json!({
        "serviceAccountName": "default",
        "containers": [{
            "name": "app", "image": "busybox", "imagePullPolicy": "Always",
            "env": [from("configMapKeyRef", "settings"), from("secretKeyRef", "password")],
            "volumeMounts": [{"name": "all", "mountPath": "/all"}],
        }],
        "volumes": [{"name": "all", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"secret": {"name": "password"}}, {"configMap": {"name": "settings", "items": [{"key": "key", "path": "settings"}]}},
        ]}}],
    })
}

/// A node with that pod, which runs and is remembered.
async fn world() -> World {
    let world = World::new();
    let put = |plural: &str, name: &str, object: Value| {
        let mut object = object;
        object["metadata"] = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
        world.api.put(&format!("/api/v1/namespaces/default/{plural}/{name}"), object);
    };
    put("configmaps", "settings", json!({"data": {"key": "value"}}));
    // "hunter2-is-no-good-password" in base64.
    put("secrets", "password", json!({"data": {"key": "aHVudGVyMi1pcy1uby1nb29kLXBhc3N3b3Jk"}}));
    put("services", "store", json!({"spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}}));
    world.pod("web", spec());
    world.pass(Duration::from_secs(8)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
    world
}

/// Kubelet and pods are gone, and what volumes held with them.
async fn cut_power(world: &mut World, pods: &[&str]) {
    world.stop().await;
    pods.iter().for_each(|pod| world.runtime.lose_sandbox(&format!("uid-{pod}")));
    let _ = fs::remove_dir_all(world.dir.path().join("kubelet/pods"));
}

fn starts(world: &World) -> usize {
    world.runtime.calls().iter().filter(|call| call.starts_with("start_container")).count()
}

fn variable(world: &World, name: &str) -> String {
    let config = world.runtime.config_of("app").expect("it was made");
    let found = config.envs.iter().find(|(its, _)| its == name);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// Every file in which something is remembered, with the time of its last write.
fn files(world: &World) -> Vec<(String, SystemTime)> {
    let folder = world.dir.path().join("kubelet/checkpoints");
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    let mut all: Vec<_> = entries
        .map(|file| {
            let changed = file.metadata().and_then(|meta| meta.modified()).expect("a time");
            (file.file_name().to_string_lossy().into_owned(), changed)
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(start_paused = true)]
async fn pods_run_again_without_the_server_and_nothing_is_rebuilt_when_it_is_back() {
    let mut world = world().await;
    cut_power(&mut world, &["web"]).await;
    world.api.cut(true);
    world.runtime.fail_pulls("busybox", Some("no network"));
    world.start();
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(starts(&world), 2, "{:#?}", world.runtime.calls());
    assert_eq!(
        (variable(&world, "configMapKeyRef"), variable(&world, "secretKeyRef")),
        ("value".into(), SECRET.into())
    );
    assert_eq!(variable(&world, "STORE_SERVICE_HOST"), "10.43.0.9");
    let volume = world.dir.path().join("kubelet/pods/uid-web/volumes");
    let file = |name: &str| {
        let found = walk(&volume).into_iter().find(|path| path.ends_with(name)).expect(name);
        fs::read_to_string(found).expect(name)
    };
    assert_eq!((file("token"), file("settings"), file("key")), ("a.b.c".into(), "value".into(), SECRET.into()));
    // The server says what it knew before the cut, until it hears from the node.
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
    let calls = world.runtime.calls().len();
    world.api.cut(false);
    world.pass(Duration::from_secs(30)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#1");
    let after: Vec<String> = world.runtime.calls()[calls..].to_vec();
    assert!(after.iter().all(|call| !call.contains("container") && !call.contains("sandbox")), "{after:#?}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            all.extend(walk(&entry.path()));
        }
        all.push(entry.path());
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_restarts_without_the_server_touches_nothing() {
    let mut world = world().await;
    world.stop().await;
    world.api.cut(true);
    let calls = world.runtime.calls().len();
    world.start();
    world.pass(Duration::from_secs(20)).await;
    let after: Vec<String> = world.runtime.calls()[calls..].to_vec();
    assert!(after.iter().all(|call| !call.contains("container") && !call.contains("sandbox")), "{after:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_meanwhile_is_ended_and_what_is_new_is_started() {
    let mut world = world().await;
    cut_power(&mut world, &["web"]).await;
    world.api.cut(true);
    world.start();
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(starts(&world), 2);
    world.api.remove(&path("web"));
    world.pod("new", json!({"containers": [{"name": "other", "image": "busybox"}]}));
    world.api.cut(false);
    world.pass(Duration::from_secs(15)).await;
    assert!(world.runtime.calls().contains(&"remove_sandbox web".to_owned()), "{:#?}", world.runtime.calls());
    assert_eq!(world.line("new"), "Running other=running,ready#0");
    let names: Vec<String> = files(&world).into_iter().map(|(name, _)| name).collect();
    assert!(!names.iter().any(|name| name.starts_with("uid-web")), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_remembered_is_left_alone_until_the_server_is_heard() {
    let mut world = world().await;
    world.stop().await;
    fs::remove_dir_all(world.dir.path().join("kubelet/checkpoints")).expect("a folder");
    world.api.cut(true);
    let calls = world.runtime.calls().len();
    world.start();
    world.pass(Duration::from_secs(20)).await;
    let after: Vec<String> = world.runtime.calls()[calls..].to_vec();
    assert!(after.iter().all(|call| !call.contains("stop")), "{after:#?}");
    world.api.cut(false);
    world.pass(Duration::from_secs(10)).await;
    assert_eq!((world.line("web"), starts(&world)), ("Running app=running,ready#0".to_owned(), 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_over_stays_over() {
    let mut world = World::new();
    let ends = Life::Ends { after: Duration::from_secs(1), exit_code: 0 };
    world.runtime.script("once", Script { lives: vec![ends], ..Script::default() });
    world.pod("job", json!({"restartPolicy": "Never", "containers": [{"name": "once", "image": "busybox"}]}));
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(world.line("job"), "Succeeded once=Completed:0#0");
    cut_power(&mut world, &["job"]).await;
    world.api.cut(true);
    world.start();
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(starts(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_that_did_not_change() {
    let mut world = world().await;
    world.pass(Duration::from_secs(10)).await;
    let before = files(&world);
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["services", "uid-web"]);
    // It crashes, its readiness and its token change, the kubelet restarts.
    world.runtime.crash("app", 1, "Error");
    world.pass(Duration::from_secs(7200)).await;
    world.stop().await;
    world.start();
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(files(&world), before);
    let mut map = world.api.get("/api/v1/namespaces/default/configmaps/settings").expect("a map");
    map["data"]["key"] = "other".into();
    world.api.put("/api/v1/namespaces/default/configmaps/settings", map);
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(files(&world).len(), 3, "the version before is kept");
    cut_power(&mut world, &["web"]).await;
    world.api.cut(true);
    world.start();
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(variable(&world, "configMapKeyRef"), "other");
}

#[tokio::test(start_paused = true)]
async fn with_a_key_the_disk_tells_no_secret() {
    let mut world = world().await;
    world.stop().await;
    let with_key = |options: &mut kubelet::Options| options.checkpoint_key = Key::from_secret(b"0123456789abcdef");
    world.start_with(with_key);
    world.pass(Duration::from_secs(10)).await;
    let folder = world.dir.path().join("kubelet/checkpoints");
    let bytes = fs::read(folder.join("uid-web")).expect("a file");
    assert!(!bytes.windows(10).any(|window| window == b"aHVudGVyMi"), "the secret is on the disk");
    cut_power(&mut world, &["web"]).await;
    world.api.cut(true);
    world.start_with(with_key);
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(variable(&world, "secretKeyRef"), SECRET);
}

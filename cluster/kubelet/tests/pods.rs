//! What becomes of pods on a node, seen through the API: the whole kubelet on a fake runtime.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::ExecResult;
use runtime::fake::{Life, Script};
use serde_json::{Value, json};
use world::{World, path};

fn app() -> Value {
    json!({"name": "app", "image": "busybox", "imagePullPolicy": "IfNotPresent"})
}

fn container(extra: Value) -> Value {
    let mut container = app();
    container.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
    container
}

fn ends(seconds: u64, exit_code: i32) -> Life {
    Life::Ends { after: Duration::from_secs(seconds), exit_code }
}

/// Runs a pod whose containers live as `lives` say, and compares its line after each of `moments`.
async fn check(spec: Value, lives: &[(&str, Vec<Life>)], moments: &[(u64, &str)]) {
    let world = World::new();
    for (name, lives) in lives {
        world.runtime.script(name, Script { lives: lives.clone(), ..Script::default() });
    }
    world.pod("web", spec);
    let mut passed = 0;
    for (moment, wanted) in moments {
        world.pass(Duration::from_secs(moment - passed)).await;
        passed = *moment;
        assert_eq!(world.line("web"), *wanted, "after {moment} s; calls: {:#?}", world.runtime.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_within_half_a_second() {
    let world = World::new();
    world.pass(Duration::from_millis(500)).await;
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_millis(200)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
    let status = world.status("web");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("10.42.0.1"), &json!("192.168.1.2")));
    let conditions: Vec<String> = status["conditions"]
        .as_array()
        .expect("conditions")
        .iter()
        .map(|condition| {
            format!(
                "{}={}",
                condition["type"].as_str().expect("a type"),
                condition["status"].as_str().expect("a status")
            )
        })
        .collect();
    assert_eq!(
        conditions,
        [
            "PodReadyToStartContainers=True",
            "Initialized=True",
            "Ready=True",
            "ContainersReady=True",
            "PodScheduled=True"
        ]
    );
    let mut events = world.events();
    events.sort();
    assert_eq!(
        events,
        [
            "Created: Container created",
            "Pulled: Container image \"busybox\" already present on machine and can be accessed by the pod",
            "Started: Container started",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_the_other() {
    let spec = json!({
        "initContainers": [{"name": "one", "image": "busybox"}, {"name": "two", "image": "busybox"}],
        "containers": [app()],
    });
    check(
        spec,
        &[("one", vec![ends(5, 0)]), ("two", vec![ends(5, 0)])],
        &[
            (2, "Pending one=running#0 two=PodInitializing#0 app=PodInitializing#0"),
            (7, "Pending one=Completed:0,ready#0 two=running#0 app=PodInitializing#0"),
            (12, "Running one=Completed:0,ready#0 two=Completed:0,ready#0 app=running,ready#0"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_runs_beside_and_does_not_keep_a_job_alive() {
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "side", "image": "busybox", "restartPolicy": "Always"}],
        "containers": [app()],
    });
    check(
        spec,
        &[("app", vec![ends(5, 0)])],
        &[
            (2, "Running side=running,ready#0 app=running,ready#0"),
            (10, "Succeeded side=Error:143#0 app=Completed:0#0"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_init_container_fails_a_pod_that_never_restarts() {
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "one", "image": "busybox"}], "containers": [app()]});
    check(spec, &[("one", vec![ends(1, 3)])], &[(5, "Failed one=Error:3#0 app=PodInitializing#0")]).await;
}

#[tokio::test(start_paused = true)]
async fn containers_that_crash_wait_longer_each_time() {
    check(
        json!({"containers": [app()]}),
        &[("app", vec![ends(1, 1)])],
        &[
            // Started at 0, restarted at once at 1; 10 s after the end at 2 again, 20 s after the end at 13.
            (4, "Running app=CrashLoopBackOff#1"),
            (15, "Running app=CrashLoopBackOff#2"),
            (32, "Running app=CrashLoopBackOff#2"),
            (36, "Running app=CrashLoopBackOff#3"),
        ],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn restart_policies_decide_what_an_end_means() {
    let with = |policy: &str| json!({"restartPolicy": policy, "containers": [app()]});
    check(with("Never"), &[("app", vec![ends(1, 0)])], &[(5, "Succeeded app=Completed:0#0")]).await;
    check(with("Never"), &[("app", vec![ends(1, 2)])], &[(5, "Failed app=Error:2#0")]).await;
    check(with("OnFailure"), &[("app", vec![ends(1, 2), ends(1, 0)])], &[(5, "Succeeded app=Completed:0#1")]).await;
    check(
        with("Always"),
        &[("app", vec![ends(1, 0), Life::Forever { exit_code_on_stop: 0 }])],
        &[(5, "Running app=running,ready#1")],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_tried_again_and_found() {
    let world = World::new();
    world.runtime.fail_pulls("nosuch", Some("not found"));
    world.pod("web", json!({"containers": [container(json!({"image": "nosuch", "imagePullPolicy": "Always"}))]}));
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.line("web"), "Pending app=ErrImagePull#0");
    world.pass(Duration::from_secs(4)).await;
    assert_eq!(world.line("web"), "Pending app=ImagePullBackOff#0");
    world.runtime.fail_pulls("nosuch", None);
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_start_says_why() {
    let never = container(json!({"image": "nosuch", "imagePullPolicy": "Never"}));
    check(json!({"containers": [never]}), &[], &[(2, "Pending app=ErrImageNeverPull#0")]).await;
    let config =
        container(json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}]}));
    check(json!({"containers": [config]}), &[], &[(2, "Pending app=CreateContainerConfigError#0")]).await;
    let fails = vec![Life::StartFails { detail: "exec: \"x\": not found".into(), exit_code: 127 }];
    check(
        json!({"restartPolicy": "Never", "containers": [app()]}),
        &[("app", fails)],
        &[(3, "Failed app=StartError:127#0")],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_config_map_that_comes_late_lets_the_pod_run() {
    let world = World::new();
    let mount = container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    world.pod("web", json!({"containers": [mount], "volumes": [{"name": "v", "configMap": {"name": "cm"}}]}));
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(world.line("web"), "Pending app=ContainerCreating#0");
    assert!(
        world.events().contains(
            &"FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found".to_owned()
        )
    );
    let object =
        |value: &str| json!({"metadata": {"name": "cm", "namespace": "default", "uid": "c"}, "data": {"a": value}});
    world.api.put("/api/v1/namespaces/default/configmaps/cm", object("1"));
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
    let mounts = world.runtime.config_of("app").expect("a container").mounts;
    let folder = &mounts.iter().find(|mount| mount.container_path.ends_with("v")).expect("a mount").host_path;
    assert_eq!(std::fs::read_to_string(folder.join("a")).expect("a file"), "1");
    world.api.put("/api/v1/namespaces/default/configmaps/cm", object("2"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(std::fs::read_to_string(folder.join("a")).expect("a file"), "2", "a change shows in the volume");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_stops_and_its_object_goes() {
    let world = World::new();
    world.runtime.script("app", Script { lives: vec![Life::Stubborn], ..Script::default() });
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_secs(1)).await;
    world.delete("web", 5);
    world.pass(Duration::from_secs(4)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0", "it has its grace");
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.line("web"), "none");
    assert!(world.events().contains(&"Killing: Stopping container app".to_owned()));
    assert!(world.runtime.calls().contains(&"remove_sandbox web".to_owned()), "{:#?}", world.runtime.calls());
    assert!(!world.dir.path().join("kubelet/pods/uid-web").exists());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_vanishes_from_the_api_is_cleaned_up() {
    let world = World::new();
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_secs(1)).await;
    world.api.remove(&path("web"));
    world.pass(Duration::from_secs(2)).await;
    assert!(world.runtime.calls().contains(&"remove_sandbox web".to_owned()), "{:#?}", world.runtime.calls());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_adopts_pods_and_removes_orphans() {
    let mut world = World::new();
    world.pod("web", json!({"containers": [container(json!({"readinessProbe": {"exec": {"command": ["x"]}}}))]}));
    world.pod("gone", json!({"containers": [{"name": "other", "image": "busybox"}]}));
    world.pass(Duration::from_secs(15)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0");
    world.stop().await;
    world.api.remove(&path("gone"));
    let (calls, before) = (world.runtime.calls().len(), world.status("web"));
    world.start();
    world.pass(Duration::from_secs(2)).await;
    let after: Vec<String> =
        world.runtime.calls()[calls..].iter().filter(|call| !call.starts_with("exec")).cloned().collect();
    assert_eq!(after, ["stop_container other#0", "stop_sandbox gone", "remove_sandbox gone"]);
    assert_eq!(world.status("web"), before, "nothing about the pod that stayed changed");
}

#[tokio::test(start_paused = true)]
async fn a_lost_sandbox_is_made_again() {
    let world = World::new();
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_secs(1)).await;
    world.runtime.lose_sandbox("uid-web");
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#1");
    assert!(world.events().iter().any(|event| event.starts_with("SandboxChanged")));
}

#[tokio::test(start_paused = true)]
async fn an_idle_node_writes_its_lease_and_nothing_else() {
    let world = World::new();
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_secs(30)).await;
    let before = world.api.writes().len();
    world.pass(Duration::from_secs(200)).await;
    let writes = world.api.writes()[before..].to_vec();
    assert!(writes.iter().all(|write| write.contains("/leases/")), "{writes:?}");
    assert_eq!(writes.len(), 40, "one each five seconds");
}

/// A node that was silent stayed `Unknown` for up to five minutes after it was heard again.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_taken_for_dead_says_that_it_lives() {
    let world = World::new();
    world.pass(Duration::from_secs(30)).await;
    let ready = |world: &World| {
        let node = world.api.get("/api/v1/nodes/n1").expect("a node");
        let conditions = node["status"]["conditions"].as_array().expect("conditions").clone();
        conditions.iter().find(|each| each["type"] == "Ready").expect("Ready")["status"].clone()
    };
    world.api.cut(true);
    world.pass(Duration::from_secs(60)).await;
    let mut node = world.api.get("/api/v1/nodes/n1").expect("a node");
    for condition in node["status"]["conditions"].as_array_mut().expect("conditions") {
        condition["status"] = "Unknown".into();
    }
    world.api.put("/api/v1/nodes/n1", node);
    assert_eq!(ready(&world), "Unknown");
    world.api.cut(false);
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(ready(&world), "True");
    world.api.remove("/api/v1/nodes/n1");
    world.pass(Duration::from_secs(11)).await;
    assert_eq!(ready(&world), "True", "a node that was deleted is registered again");
}

#[tokio::test(start_paused = true)]
async fn an_active_deadline_fails_the_pod() {
    let spec = json!({"activeDeadlineSeconds": 5, "terminationGracePeriodSeconds": 1, "containers": [app()]});
    check(spec, &[], &[(3, "Running app=running,ready#0"), (10, "Failed app=Error:143#0")]).await;
}

#[tokio::test(start_paused = true)]
async fn probes_hold_back_traffic_and_restart() {
    let fails = |command: &str| {
        let failed = ExecResult { stdout: b"no".to_vec(), stderr: vec![], exit_code: 1 };
        Script { execs: BTreeMap::from([(command.to_owned(), failed)]), ..Script::default() }
    };
    let probed = |kind: &str| {
        let mut probed = app();
        probed[kind] = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 2});
        json!({"containers": [probed], "terminationGracePeriodSeconds": 0})
    };
    let run = async |spec: Value, script: Option<Script>, seconds: u64| {
        let world = World::new();
        if let Some(script) = script {
            world.runtime.script("app", script);
        }
        world.pod("web", spec);
        world.pass(Duration::from_millis(seconds * 1000 - 500)).await;
        (world.line("web"), world.events())
    };
    let (line, events) = run(probed("readinessProbe"), Some(fails("x")), 5).await;
    assert_eq!(line, "Running app=running#0");
    assert!(events.contains(&"Unhealthy: Readiness probe failed: no".to_owned()), "{events:?}");
    assert_eq!(run(probed("readinessProbe"), None, 5).await.0, "Running app=running,ready#0");
    let (line, events) = run(probed("livenessProbe"), Some(fails("x")), 2).await;
    assert_eq!(line, "Running app=running,ready#1");
    assert!(
        events.contains(&"Killing: Container app failed liveness probe, will be restarted".to_owned()),
        "{events:?}"
    );
    assert_eq!(run(probed("startupProbe"), None, 3).await.0, "Running app=running,ready#0");
    let (line, _) = run(probed("startupProbe"), Some(fails("x")), 1).await;
    assert_eq!(line, "Running app=running#0");
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_the_start_and_before_the_end() {
    let world = World::new();
    let hooks = json!({"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}});
    world.pod("web", json!({"containers": [container(json!({"lifecycle": hooks}))]}));
    world.pass(Duration::from_secs(1)).await;
    world.delete("web", 5);
    world.pass(Duration::from_secs(2)).await;
    let calls: Vec<String> = world.runtime.calls().into_iter().filter(|call| call.contains("app")).collect();
    assert_eq!(
        calls,
        [
            "create_container web/app#0",
            "start_container app#0",
            "exec app: hello",
            "exec app: bye",
            "stop_container app#0"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_gates_and_other_conditions_are_respected() {
    let world = World::new();
    world.pod("web", json!({"containers": [app()], "readinessGates": [{"conditionType": "example.com/lb"}]}));
    world.pass(Duration::from_secs(1)).await;
    let ready = |world: &World| {
        let status = world.status("web");
        let conditions = status["conditions"].as_array().expect("conditions").clone();
        conditions.into_iter().find(|condition| condition["type"] == "Ready").expect("a condition")
    };
    assert_eq!(
        (&ready(&world)["status"], &ready(&world)["reason"]),
        (&json!("False"), &json!("ReadinessGatesNotReady"))
    );
    let mut object = world.api.get(&path("web")).expect("a pod");
    let gate = json!({"type": "example.com/lb", "status": "True"});
    object["status"]["conditions"].as_array_mut().expect("conditions").push(gate);
    world.api.put(&path("web"), object);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(ready(&world)["status"], "True");
    assert_eq!(world.status("web")["conditions"].as_array().expect("conditions").len(), 6);
}

#[tokio::test(start_paused = true)]
async fn volumes_this_node_cannot_mount_are_named() {
    let world = World::new();
    let volume = json!({"name": "v", "iscsi": {"targetPortal": "p", "iqn": "i", "lun": 0}});
    world.pod("web", json!({"containers": [app()], "volumes": [volume]}));
    world.pass(Duration::from_secs(2)).await;
    let wanted =
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : volumes of type iscsi are not supported on this node";
    assert!(world.events().contains(&wanted.to_owned()), "{:?}", world.events());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_bound_keeps_its_pod_waiting_and_is_named() {
    let world = World::new();
    let claim = json!({"metadata": {"name": "c", "namespace": "default", "uid": "u"}, "status": {"phase": "Pending"}});
    world.api.put("/api/v1/namespaces/default/persistentvolumeclaims/c", claim);
    let volume = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
    world.pod("web", json!({"containers": [app()], "volumes": [volume]}));
    world.pass(Duration::from_secs(2)).await;
    let wanted =
        "FailedMount: MountVolume.SetUp failed for volume \"v\" : error processing PVC default/c: PVC is not bound";
    assert!(world.events().contains(&wanted.to_owned()), "{:?}", world.events());
}

#[tokio::test(start_paused = true)]
async fn a_debug_container_joins_a_running_pod() {
    let world = World::new();
    world.pod("web", json!({"containers": [app()]}));
    world.pass(Duration::from_secs(1)).await;
    let mut object = world.api.get(&path("web")).expect("a pod");
    object["spec"]["ephemeralContainers"] =
        json!([{"name": "debug", "image": "busybox", "imagePullPolicy": "IfNotPresent", "targetContainerName": "app"}]);
    world.api.put(&path("web"), object);
    world.runtime.script("debug", Script { lives: vec![ends(1, 0)], ..Script::default() });
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(world.line("web"), "Running app=running,ready#0 debug=Completed:0#0");
}

#[tokio::test(start_paused = true)]
async fn the_node_is_registered_with_its_lease() {
    let world = World::new();
    world.pass(Duration::from_secs(1)).await;
    let node = world.api.get("/api/v1/nodes/n1").expect("a node");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(node["status"]["capacity"]["cpu"], "2");
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let lease = world.api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1").expect("a lease");
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
}

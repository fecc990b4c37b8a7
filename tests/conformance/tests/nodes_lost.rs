//! What becomes of pods when a machine or the server is lost or drained: real processes, a real kubectl.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::time::{Duration, Instant};

use conformance::{Site, User, manifest};

/// What is promised from the loss of a node to its pods running elsewhere.
const REPLACED_LIMIT: Duration = Duration::from_secs(60);

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: 'busybox:1.28', command: [sleep, '100000']}
";

/// Runs on the machine that will be lost.
const WORK: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  template:
    metadata: {labels: {app: work}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [agent-2]}]}
      containers:
      - {name: main, image: 'busybox:1.28', command: [sleep, '100000']}
";

/// Says what it was started with, and then sleeps under a name of its own.
const ALONE: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  nodeName: agent-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: busybox:1.28
    command: [sh, -c, 'echo $COLOUR $(cat /password/word) $(wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token); exec sleep 47110815']
    env: [{name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
    volumeMounts: [{name: password, mountPath: /password}]
  volumes: [{name: password, secret: {secretName: password}}]
";

fn create(site: &Site, name: &str, text: &str) {
    let file = site.server.data.join(name);
    std::fs::write(&file, text).expect("written");
    site.must(&format!("create -f {}", file.display()));
}

/// The nodes of an application's pods that are ready and stay.
fn ready(site: &Site, app: &str) -> Vec<String> {
    let told = site.must(&format!(
        "get pods -l app={app} '-o=jsonpath={{range .items[*]}}{{.spec.nodeName}}=\
         {{.status.conditions[?(@.type==\"Ready\")].status}}={{.metadata.deletionTimestamp}}{{\"\\n\"}}{{end}}'",
    ));
    let rows = told.lines().map(|line| line.split('=').collect::<Vec<_>>());
    rows.filter(|row| row[1..] == ["True", ""]).map(|row| row[0].to_owned()).collect()
}

#[test]
fn pods_outlive_machines_and_the_server() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 2);
    create(&site, "web.yaml", WEB);
    manifest::apply(&site, "tests/workloads/manifests/zookeeper.yaml", &[], &site.server.data);
    site.rolled_out("deployment/web", 60);
    site.rolled_out("statefulset/zk", 60);
    a_drain_asks_the_budget(&site);
    create(&site, "alone.yaml", ALONE);
    site.must_become("--for=condition=Ready pod/alone", 60);
    an_agent_without_a_server_runs_its_pods(&mut site);
    a_lost_machine_is_replaced(&mut site);
}

/// The documentation's set has a pod on each of the three nodes, and its budget wants two of them.
fn a_drain_asks_the_budget(site: &Site) {
    let drain = |node: &str, seconds| format!("drain {node} --ignore-daemonsets --timeout={seconds}s");
    site.must(&drain("agent-1", 60));
    site.wait("two of the set", site.limit(30), |_| ready(site, "zookeeper").len() == 2);
    let there = zookeeper_on(site, "agent-2");
    site.refused(&drain("agent-2", 1), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(zookeeper_on(site, "agent-2"), there, "it did not go");
    site.must("uncordon agent-1");
    site.wait("the third one to be ready again", site.limit(30), |_| ready(site, "zookeeper").len() == 3);
    site.must(&drain("agent-2", 60));
    site.wait("three pods elsewhere", site.limit(30), |_| {
        let nodes = ready(site, "web");
        nodes.len() == 3 && nodes.iter().all(|node| node != "agent-2")
    });
    assert_eq!(zookeeper_on(site, "agent-2"), "");
    site.must("uncordon agent-2");
    site.wait("all of the set", site.limit(30), |_| ready(site, "zookeeper").len() == 3);
    assert_ne!(zookeeper_on(site, "agent-2"), there);
}

/// Name and uid of the set's pod on a node, and when it was told to go.
fn zookeeper_on(site: &Site, node: &str) -> String {
    site.must(&format!(
        "get pods -l app=zookeeper --field-selector=spec.nodeName={node} \
         '-o=jsonpath={{range .items[*]}}{{.metadata.name}} {{.metadata.uid}} {{.metadata.deletionTimestamp}}{{end}}'"
    ))
}

fn an_agent_without_a_server_runs_its_pods(site: &mut Site) {
    let said = site.must("logs alone");
    assert!(said.starts_with("green hunter2 ") && !said.trim_end().ends_with(" 0"), "{said}");
    let uid = site.must("get pod alone -o jsonpath={.metadata.uid}");
    let kept = site.agents[0].data.join("kubelet/checkpoints").join(uid);
    site.wait_until("the pod is remembered", |_| kept.exists());
    let before = site.agents[0].process("47110815").expect("it runs");
    site.server.kill();
    site.agents[0].cut_power();
    assert_eq!(site.agents[0].process("47110815"), None);
    site.agents[0].run();
    site.wait_until("the pod runs without a server", |site| site.agents[0].process("47110815").is_some());
    let after = site.agents[0].process("47110815").expect("it runs");
    assert_ne!(before, after);
    site.server.run();
    site.wait_for_server();
    site.wait_for_ready(3);
    site.wait_for("get pod alone -o jsonpath={.status.containerStatuses[0].restartCount}", "1", site.limit(30));
    site.must_become("--for=condition=Ready pod/alone", 30);
    assert_eq!(site.must("logs alone"), said, "the same again");
    assert_eq!(site.agents[0].process("47110815"), Some(after), "nothing is rebuilt");
    site.must("delete pod alone");
    assert_eq!(site.agents[0].process("47110815"), None);
    site.wait_until("the pod is forgotten", |_| !kept.exists());
}

fn a_lost_machine_is_replaced(site: &mut Site) {
    // One pod on each machine again.
    site.must("rollout restart deployment/web");
    site.rolled_out("deployment/web", 60);
    site.wait_until("no pod leaves any more", |site| ready(site, "web").len() == 3);
    assert!(ready(site, "web").iter().any(|node| node == "agent-2"), "{:?}", ready(site, "web"));
    create(site, "work.yaml", WORK);
    site.wait_until("the job to run on the machine", |site| ready(site, "work") == ["agent-2"]);
    let of_the_set = zookeeper_on(site, "agent-2");
    site.agents[1].cut_power();
    let lost = Instant::now();
    site.wait("three pods and the job elsewhere", REPLACED_LIMIT, |_| {
        let nodes = [ready(site, "web"), ready(site, "work")].concat();
        nodes.len() == 4 && nodes.iter().all(|node| node != "agent-2")
    });
    println!("replaced {:.1} s after the power went", lost.elapsed().as_secs_f64());
    // Nobody knows whether it runs on, and there may be one of its name only.
    let leaves = zookeeper_on(site, "agent-2");
    assert!(leaves.starts_with(&of_the_set) && leaves.len() > of_the_set.len(), "{leaves:?} was {of_the_set:?}");
    assert_eq!((count(site, "zookeeper"), ready(site, "zookeeper").len()), (3, 2), "it is not replaced");
    site.agents[1].run();
    site.wait_for_ready(3);
    site.wait("what is left over to go", site.limit(60), |site| count(site, "web") == 3 && count(site, "work") == 1);
    site.wait("another one of the set", site.limit(60), |_| ready(site, "zookeeper").len() == 3);
    assert!(!zookeeper_on(site, "agent-2").starts_with(&of_the_set), "it is another one");
}

fn count(user: &User, app: &str) -> usize {
    user.must(&format!("get pods -l app={app} --no-headers")).lines().count()
}

//! What becomes of pods when a machine or the server is lost or drained: real processes, a real kubectl.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::time::{Duration, Instant};

use conformance::Site;

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
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 3, selector: {matchLabels: {app: web}}}
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

/// The nodes of the pods of `web` that are ready and stay.
fn ready(site: &Site) -> Vec<String> {
    let told = site.must(
        "get pods -l app=web '-o=jsonpath={range .items[*]}{.spec.nodeName}={.status.conditions[?(@.type==\"Ready\")].status}=\
         {.metadata.deletionTimestamp}{\"\\n\"}{end}'",
    );
    let rows = told.lines().map(|line| line.split('=').collect::<Vec<_>>());
    rows.filter(|row| row[1..] == ["True", ""]).map(|row| row[0].to_owned()).collect()
}

#[test]
fn pods_outlive_machines_and_the_server() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 2);
    create(&site, "web.yaml", WEB);
    create(&site, "alone.yaml", ALONE);
    site.rolled_out("deployment/web", 60);
    site.must_become("--for=condition=Ready pod/alone", 60);
    a_drain_asks_the_budget(&site);
    an_agent_without_a_server_runs_its_pods(&mut site);
    a_lost_machine_is_replaced(&mut site);
}

fn a_drain_asks_the_budget(site: &Site) {
    let drain = "drain agent-2 --ignore-daemonsets";
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    site.refused(&format!("{drain} --timeout=1s"), refused);
    assert_eq!(ready(site).len(), 3, "nothing went");
    site.must("patch pdb web -p {\"spec\":{\"minAvailable\":2}}");
    site.must(&format!("{drain} --timeout=60s"));
    site.wait("three pods elsewhere", site.limit(30), |_| {
        let nodes = ready(site);
        nodes.len() == 3 && nodes.iter().all(|node| node != "agent-2")
    });
    site.must("uncordon agent-2");
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
    site.wait_until("no pod leaves any more", |site| ready(site).len() == 3);
    assert!(ready(site).iter().any(|node| node == "agent-2"), "{:?}", ready(site));
    site.agents[1].cut_power();
    let lost = Instant::now();
    site.wait("three pods elsewhere", REPLACED_LIMIT, |_| {
        let nodes = ready(site);
        nodes.len() == 3 && nodes.iter().all(|node| node != "agent-2")
    });
    println!("replaced {:.1} s after the power went", lost.elapsed().as_secs_f64());
    site.agents[1].run();
    site.wait_for_ready(3);
    site.wait("what is left over to go", site.limit(60), |site| {
        site.must("get pods -l app=web --no-headers").lines().count() == 3
    });
}

//! The documentation's workloads on a real cluster on this machine, asked by a real kubectl.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use conformance::Cluster;
use images::debian::{Cache, Lock};
use images::{Architecture, build};

const LIMIT: Duration = Duration::from_secs(60);

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn skerry() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_skerry-under-test"))
}

fn test_images() -> PathBuf {
    let folder = top().join("build/images");
    std::fs::create_dir_all(&folder).expect("a folder");
    let archive = folder.join("host-cluster.tar");
    if !archive.exists() {
        let lock = Lock::read(&top().join("tests/images/packages.lock")).expect("the lock");
        let cache = Cache::new(&top().join("build/cache/debian"));
        build(&lock, &cache, Architecture::here(), |_| true, &archive).expect("the images are made");
    }
    archive
}

#[test]
fn the_documentations_workloads_run() {
    let mut cluster = Cluster::start(&skerry(), Some(&test_images()));
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/workloads.yaml");
    cluster.must(&format!("apply -f {}", manifest.display()));
    workloads_become_ready(&cluster);
    pods_see_what_they_were_given(&cluster);
    services_and_names_lead_to_pods(&cluster);
    an_unready_pod_leaves_the_service(&cluster);
    a_killed_container_comes_back(&cluster);
    pods_outlive_the_server(&mut cluster);
    bad_input_is_named(&cluster);
    what_is_deleted_goes(&cluster);
}

fn workloads_become_ready(cluster: &Cluster) {
    cluster.must("rollout status deployment/nginx-deployment --timeout=60s");
    cluster.must("rollout status statefulset/web --timeout=60s");
    cluster.must("rollout status daemonset/fluentd-elasticsearch -n kube-system --timeout=60s");
    cluster.must("wait --for=condition=Complete job/pi --timeout=60s");
    assert!(cluster.must("logs job/pi").starts_with("3.14159265358979"));
    cluster.must("create job hello-now --from=cronjob/hello");
    cluster.must("wait --for=condition=Complete job/hello-now --timeout=60s");
    assert!(cluster.must("logs job/hello-now").contains("Hello from the cluster"));
}

fn pods_see_what_they_were_given(cluster: &Cluster) {
    cluster.must("wait --for=condition=Ready pod/everything --timeout=60s");
    assert_eq!(cluster.must("logs everything -c demo"), "started\n");
    let ip = cluster.must("get pod everything -o jsonpath={.status.podIP}");
    let seen = cluster.kubectl_words(&["exec", "everything", "-c", "demo", "--", "sh", "-c", "echo $LIVES $POD_IP"]).1;
    assert!(seen.contains(&format!("3 {ip}")), "{seen}");
    for (file, text) in [
        ("/config/game.properties", "enemy.types=aliens,monsters"),
        ("/etc/secret/username", "admin"),
        ("/shared/note", "from the first container"),
        ("/var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"),
    ] {
        let seen = cluster.must(&format!("exec everything -c demo -- cat {file}"));
        assert!(seen.contains(text), "{file}: {seen}");
    }
}

fn services_and_names_lead_to_pods(cluster: &Cluster) {
    for host in ["nginx", "nginx.default.svc.cluster.local", "web-1.web", "web.default"] {
        let page = cluster.must(&format!("exec everything -c demo -- wget -T 5 -qO- http://{host}"));
        assert!(page.contains("Welcome to nginx!"), "{host}: {page}");
    }
}

fn an_unready_pod_leaves_the_service(cluster: &Cluster) {
    let pods = cluster.must("get pods -l app=nginx -o jsonpath={.items[*].metadata.name}");
    let pod = pods.split_whitespace().next().expect("a pod");
    let ip = cluster.must(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
    let ready = "get endpoints nginx -o jsonpath={.subsets[*].addresses[*].ip}";
    cluster.wait_for(ready, &ip, LIMIT);
    cluster.must(&format!("exec {pod} -- touch /tmp/unready"));
    cluster.wait("the endpoint to leave", LIMIT, |cluster| !cluster.must(ready).contains(&ip));
    cluster.must(&format!("exec {pod} -- rm /tmp/unready"));
    cluster.wait_for(ready, &ip, LIMIT);
}

fn a_killed_container_comes_back(cluster: &Cluster) {
    let restarts = "get pod web-0 -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(cluster.must(restarts), "0");
    // The process that is killed takes the exec with it, so its own exit code says nothing.
    cluster.kubectl("exec web-0 -- kill 1");
    cluster.wait("the container to be started again", LIMIT, |cluster| cluster.must(restarts) == "1");
    cluster.must("wait --for=condition=Ready pod/web-0 --timeout=60s");
}

fn pods_outlive_the_server(cluster: &mut Cluster) {
    let same = "get pod everything -o jsonpath={.status.containerStatuses[0].containerID}{.status.podIP}";
    let before = cluster.must(same);
    cluster.must("create configmap acknowledged --from-literal=a=b");
    cluster.kill_server();
    cluster.run_server();
    cluster.wait("the server to be back", LIMIT, |cluster| cluster.kubectl("get --raw /readyz").0);
    cluster.must("get configmap acknowledged");
    cluster.must("wait --for=condition=Ready pod/everything --timeout=60s");
    assert_eq!(cluster.must(same), before, "the container is the same one");
    assert_eq!(cluster.must("exec everything -c demo -- cat /shared/note"), "from the first container\n");
}

fn bad_input_is_named(cluster: &Cluster) {
    let refused = |words: &str, expected: &str| {
        let (ok, text) = cluster.kubectl(words);
        assert!(!ok && text.contains(expected), "kubectl {words}: {text}");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.yaml");
    let apply = format!("apply -f {}", file.display());
    std::fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndatum: {}\n").expect("written");
    refused(&apply, "unknown field \"datum\"");
    std::fs::write(&file, "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n").expect("written");
    refused(&apply, "spec.containers: Required value");
    std::fs::write(&file, "apiVersion: v1\nkind: [\n").expect("written");
    refused(&apply, "yaml");
    refused("get pod nosuch", "pods \"nosuch\" not found");
    cluster.must("run missing --image=registry.k8s.io/nosuch:1 --restart=Never");
    let waiting = "get pod missing -o jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    cluster.wait("the missing image to be named", LIMIT, |cluster| {
        ["ErrImagePull", "ImagePullBackOff"].contains(&cluster.must(waiting).as_str())
    });
    cluster.must("delete pod missing --wait=false");
}

fn what_is_deleted_goes(cluster: &Cluster) {
    cluster.must("delete deployment nginx-deployment --timeout=60s");
    cluster.must("delete pod everything --timeout=60s");
    cluster.wait("the pods of the Deployment to go", LIMIT, |cluster| {
        cluster.must("get pods -l app=nginx -o name").is_empty()
    });
}

//! Deployment, StatefulSet, DaemonSet.

use crate::scenario::apply;
use crate::{Break, User};

const ENDPOINTS: &str = "get endpoints nginx -o jsonpath={.subsets[*].addresses[*].ip}";
const IMAGE: &str = "get deployment nginx-deployment -o jsonpath={.spec.template.spec.containers[0].image}";

pub fn deployment(user: &User) {
    apply(user, "deployment.yaml");
    user.rolled_out("deployment/nginx-deployment", 60);
    assert!(user.must("get rs").contains("nginx-deployment-"));
    user.must("set image deployment/nginx-deployment nginx=nginx:1.16.1");
    user.rolled_out("deployment/nginx-deployment", 60);
    assert_eq!(user.must("get rs -o name").lines().count(), 2, "one ReplicaSet a revision");
    user.must("rollout undo deployment/nginx-deployment");
    user.rolled_out("deployment/nginx-deployment", 60);
    assert_eq!(user.must(IMAGE), "nginx:1.14.2");
    user.must("scale deployment/nginx-deployment --replicas=2");
    user.rolled_out("deployment/nginx-deployment", 60);
    an_unready_pod_leaves_the_service(user);
}

fn an_unready_pod_leaves_the_service(user: &User) {
    user.wait("the Service to have two pods", user.limit(30), |user| user.must(ENDPOINTS).split(' ').count() == 2);
    let endpoints = user.must(ENDPOINTS);
    let ip = endpoints.split(' ').next().expect("an address");
    let pod = user.must(&format!("get pods --field-selector=status.podIP={ip} -o name"));
    let pod = pod.trim();
    user.must(&format!("exec {pod} -- touch /tmp/unready"));
    user.wait("the endpoint to leave", user.limit(30), |user| !user.must(ENDPOINTS).contains(ip));
    let page = user.must(&format!("exec {pod} -- wget -T 20 -qO- http://nginx"));
    assert!(page.contains("Welcome to nginx!"), "the other pod answers: {page}");
    user.must(&format!("exec {pod} -- rm /tmp/unready"));
    user.wait_for(ENDPOINTS, ip, user.limit(30));
}

pub fn deployment_again(user: &User, _: Break) {
    user.must_become("--for=condition=Available deployment/nginx-deployment", 60);
    user.wait("the Service to have two pods", user.limit(30), |user| user.must(ENDPOINTS).split(' ').count() == 2);
    let page = user.must("exec deployment/nginx-deployment -- wget -T 20 -qO- http://nginx");
    assert!(page.contains("Welcome to nginx!"), "{page}");
}

pub fn stateful_set(user: &User) {
    apply(user, "statefulset.yaml");
    user.rolled_out("statefulset/web", 60);
    let started = "get pod web-0 web-1 -o jsonpath={.items[*].metadata.creationTimestamp}";
    let started = user.must(started);
    let (first, second) = started.split_once(' ').expect("two pods");
    assert!(first <= second, "web-0 comes first: {started}");
    for pod in ["web-0", "web-1"] {
        assert_eq!(user.must(&format!("exec {pod} -- hostname")).trim(), pod);
        user.must(&format!("exec {pod} -- sh -c 'echo $(hostname) > /usr/share/nginx/html/index.html'"));
    }
    each_pod_has_a_name(user);
    a_killed_container_comes_back(user);
    user.must("delete pod web-1");
    user.rolled_out("statefulset/web", 60);
    assert_eq!(user.must("exec web-1 -- hostname").trim(), "web-1");
    // The claim outlived the pod.
    let page = user.must("exec web-0 -- wget -T 20 -qO- http://web-1.nginx");
    assert_eq!(page.trim(), "web-1");
}

fn each_pod_has_a_name(user: &User) {
    for host in ["web-0.nginx", "web-1.nginx", "web-1.nginx.statefulset.svc.cluster.local"] {
        let page = user.must(&format!("exec web-0 -- wget -T 20 -qO- http://{host}"));
        assert_eq!(page.trim(), &host[..5], "{host}");
    }
    let both = user.must("exec web-0 -- nslookup -type=a nginx.statefulset.svc.cluster.local");
    for ip in user.must("get pods -l app=nginx -o jsonpath={.items[*].status.podIP}").split(' ') {
        assert!(both.contains(ip), "{ip}: {both}");
    }
}

/// Its claim is the pod's, so the page it serves is still there.
fn a_killed_container_comes_back(user: &User) {
    let restarts = "get pod web-0 -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(user.must(restarts), "0");
    // The process that is killed takes the exec with it, so its own exit code says nothing.
    user.kubectl("exec web-0 -- kill 1");
    user.wait_for(restarts, "1", user.limit(30));
    user.must_become("--for=condition=Ready pod/web-0", 30);
    user.wait("the page to be served again", user.limit(30), |user| {
        user.kubectl("exec web-1 -- wget -T 20 -qO- http://web-0.nginx").1.trim() == "web-0"
    });
}

pub fn stateful_set_again(user: &User, after: Break) {
    user.rolled_out("statefulset/web", 60);
    if after == Break::NewBoard {
        user.must("exec web-0 -- sh -c 'echo $(hostname) > /usr/share/nginx/html/index.html'");
    }
    let page = "exec web-1 -- wget -T 20 -qO- http://web-0.nginx";
    // A claim lives on, whatever happens to the machine, as long as its disk does.
    user.wait_for(page, "web-0", user.limit(30));
}

pub fn daemon_set(user: &User) {
    apply(user, "daemonset.yaml");
    user.rolled_out("daemonset/fluentd-elasticsearch", 60);
    let nodes = user.must("get nodes -o name").lines().count().to_string();
    assert_eq!(user.must("get daemonset fluentd-elasticsearch -o jsonpath={.status.numberReady}"), nodes);
    user.wait_for("logs daemonset/fluentd-elasticsearch", "collecting /var/log/containers", user.limit(30));
}

pub fn daemon_set_again(user: &User, _: Break) {
    user.rolled_out("daemonset/fluentd-elasticsearch", 60);
}

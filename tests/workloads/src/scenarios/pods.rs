//! What a pod can do: containers in order and side by side, hooks, logs, exec, limits, where it runs and as whom.

use crate::scenario::apply;
use crate::{Break, User};

pub fn init_containers(user: &User) {
    apply(user, "init-containers.yaml");
    user.wait_for("logs myapp-pod -c init-myservice", "waiting for myservice", user.limit(30));
    assert!(user.must("get pod myapp-pod").contains("Init:0/2"));
    user.refused("logs myapp-pod -c init-mydb", "is waiting to start: PodInitializing");
    apply(user, "init-containers-services.yaml");
    user.must_become("--for=condition=Ready pod/myapp-pod", 60);
    assert_eq!(user.must("logs myapp-pod").trim(), "The app is running!");
    let codes = "get pod myapp-pod -o jsonpath={.status.initContainerStatuses[*].state.terminated.exitCode}";
    assert_eq!(user.must(codes), "0 0");
}

pub fn sidecar(user: &User) {
    apply(user, "sidecar.yaml");
    user.rolled_out("deployment/myapp", 60);
    assert!(user.must("get pods -l app=myapp").contains("2/2"), "a sidecar counts");
    user.wait_for("logs deployment/myapp -c logshipper", "logging\nlogging", user.limit(30));
    user.must_become("--for=condition=Complete job/myjob", 60);
    assert!(user.must("logs job/myjob -c logshipper").contains("logging"));
}

pub fn two_containers(user: &User) {
    apply(user, "two-containers.yaml");
    let ended = "--for=jsonpath={.status.containerStatuses[?(@.name==\"debian-container\")].state.terminated.reason}";
    user.must_become(&format!("{ended}=Completed pod/two-containers"), 60);
    let page = user.must("exec two-containers -c nginx-container -- wget -T 20 -qO- http://localhost");
    assert_eq!(page.trim(), "Hello from the debian container");
    assert!(user.must("get pod two-containers").contains("1/2"));
    let alone = user.must("run by-itself --image=busybox:1.28 --restart=Always -- sleep 3600");
    assert!(alone.contains("created"));
    user.must_become("--for=condition=Ready pod/by-itself", 60);
    user.must("delete pod two-containers by-itself --now");
    user.must("create deployment kept --image=busybox:1.28 -- sleep 3600");
    user.rolled_out("deployment/kept", 60);
}

pub fn two_containers_again(user: &User, _: Break) {
    assert_eq!(user.must("exec deployment/kept -- echo hello").trim(), "hello");
}

pub fn host_path(user: &User) {
    apply(user, "hostpath.yaml");
    user.must_become("--for=condition=Ready pod/hostpath-example-linux", 60);
    let folder = user.must("exec hostpath-example-linux -- ls /foo/");
    assert!(folder.lines().any(|name| name == "os-release"), "{folder}");
    assert!(user.must("exec hostpath-example-linux -- cat /release").contains("ID="));
    user.refused("exec hostpath-example-linux -- touch /foo/x", "Read-only file system");
    let events = "get events --field-selector=involvedObject.name=wrong-type,reason=FailedMount";
    user.wait_for(events, "hostPath type check failed: /etc/hosts is not a directory", user.limit(60));
}

pub fn lifecycle(user: &User) {
    apply(user, "lifecycle.yaml");
    user.must_become("--for=condition=Ready pod/lifecycle-demo", 60);
    let message = user.must("exec lifecycle-demo -- cat /usr/share/message");
    assert_eq!(message.trim(), "Hello from the postStart handler");
    let begun = std::time::Instant::now();
    user.must("delete pod lifecycle-demo");
    assert!(begun.elapsed() < user.limit(25), "preStop ended nginx, and nothing waited for the 30 seconds of grace");
}

pub fn logging(user: &User) {
    apply(user, "logging.yaml");
    user.must_become("--for=condition=Ready pod/counter pod/counter-streams", 60);
    user.wait_for("logs counter", "\n2: ", user.limit(30));
    assert!(user.must("logs counter count").starts_with("0: "));
    assert_eq!(user.must("logs counter --tail=1").lines().count(), 1);
    let first = user.must("logs counter -f --limit-bytes=2");
    assert_eq!(first, "0:");
    user.wait_for("logs counter-streams count-log-1", "1: ", user.limit(30));
    user.wait_for("logs counter-streams count-log-2", " INFO 1", user.limit(30));
    let all = user.must("logs counter-streams --all-containers --prefix");
    assert!(all.contains("[pod/counter-streams/count-log-2]"), "{all}");
}

pub fn termination(user: &User) {
    apply(user, "termination.yaml");
    let message = |pod: &str, state: &str| {
        format!("get pod {pod} -o 'jsonpath={{.status.containerStatuses[0].{state}.terminated.message}}'")
    };
    // It is started again and again, so the message is that of its last end.
    user.wait_for(&message("termination-demo", "lastState"), "Sleep expired", user.limit(60));
    user.must_become("--for=jsonpath={.status.phase}=Failed pod/msg-path-demo", 60);
    assert_eq!(user.must(&message("msg-path-demo", "state")).trim(), "it went wrong");
}

pub fn shell_demo(user: &User) {
    apply(user, "shell-demo.yaml");
    user.must_become("--for=condition=Ready pod/shell-demo", 60);
    user.must("exec shell-demo -- /bin/bash -c 'echo Hello shell demo > /usr/share/nginx/html/index.html'");
    let page = user.must("exec shell-demo -- wget -T 20 -qO- http://localhost/");
    assert_eq!(page.trim(), "Hello shell demo");
    assert!(user.must("exec shell-demo -- env").contains("KUBERNETES_SERVICE_HOST="));
    assert!(user.must("exec shell-demo -- ps aux").contains("nginx: master process"));
    assert!(user.must("exec shell-demo -- cat /proc/1/mounts").contains(" / overlay "));
    let (ok, said) = user.kubectl("exec shell-demo -- sh -c 'exit 7'");
    assert!(!ok && said.contains("exit code 7"), "{said}");
    let told = user.must("describe pod shell-demo");
    for part in ["Successfully assigned shell-demo/shell-demo", "Container started", "EmptyDir", "QoS Class:"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

pub fn node_selector(user: &User) {
    apply(user, "node-selector.yaml");
    let events = "get events --field-selector=involvedObject.name=nginx,reason=FailedScheduling";
    user.wait_for(events, "didn't match Pod's node affinity/selector", user.limit(30));
    user.must("label nodes --all disktype=ssd");
    user.must_become("--for=condition=Ready pod/nginx", 60);
    user.must("label nodes --all disktype-");
    assert_eq!(user.must("get pod nginx -o jsonpath={.status.phase}"), "Running", "a running pod stays");
}

pub fn security_context(user: &User) {
    apply(user, "security-context.yaml");
    user.must_become("--for=condition=Ready pod/security-context-demo", 60);
    let inside = |command: &str| user.must(&format!("exec security-context-demo -- sh -c '{command}'"));
    assert_eq!(inside("echo $(id -u) $(id -g) $(id -G)").trim(), "1000 3000 3000 2000 4000");
    inside("echo hello > /data/demo/testfile");
    assert_eq!(inside("stat -c \"%u %g\" /data/demo/testfile").trim(), "1000 2000");
    assert!(inside("cat /proc/1/status").contains("NoNewPrivs:\t1"));
}

pub fn qos(user: &User) {
    apply(user, "qos.yaml");
    let class = |pod: &str| user.must(&format!("get pod {pod} -o jsonpath={{.status.qosClass}}"));
    let pods = ["qos-demo", "qos-demo-2", "qos-demo-3", "qos-demo-4"];
    assert_eq!(pods.map(class), ["Guaranteed", "Burstable", "BestEffort", "Burstable"]);
    user.must_become("--for=condition=Ready pod --all", 60);
}

pub fn too_large(user: &User) {
    apply(user, "memory-demo-3.yaml");
    let events = "get events --field-selector=involvedObject.name=memory-demo-3";
    user.wait_for(events, "Insufficient memory", user.limit(30));
    assert_eq!(user.must("get pod memory-demo-3 -o jsonpath={.status.phase}"), "Pending");
}

pub fn memory(user: &User) {
    apply(user, "memory.yaml");
    user.must_become("--for=condition=Ready pod/memory-demo", 60);
    let field = "{.status.containerStatuses[0].lastState.terminated.reason} \
                 {.status.containerStatuses[0].lastState.terminated.exitCode}";
    user.wait_for(&format!("get pod memory-demo-2 -o 'jsonpath={field}'"), "OOMKilled 137", user.limit(60));
    let restarts = "get pod memory-demo -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(user.must(restarts), "0", "the one within its limit runs on");
    let used = user.must("exec memory-demo -- cat /sys/fs/cgroup/memory.max");
    assert_eq!(used.trim(), (60 << 20).to_string());
}

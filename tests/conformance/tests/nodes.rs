//! Several machines on one cluster: they join with a token, run their pods, and come back.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use conformance::{Machine, Site};

const EVERYWHERE: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      containers:
      - name: main
        image: busybox:1.28
        command: [sh, -c, 'echo on $NODE; exec sleep 100000']
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
";

/// Creates the DaemonSet, and waits until it has a pod on every node.
fn run_everywhere(site: &Site) {
    let file = site.server.data.join("everywhere.yaml");
    std::fs::write(&file, EVERYWHERE).expect("written");
    site.must(&format!("create -f {}", file.display()));
    site.rolled_out("daemonset/everywhere", 60);
}

/// Each node and its pod.
fn pods(site: &Site) -> Vec<(String, String)> {
    let told = site.must("get pods -l app=everywhere --no-headers -o custom-columns=N:.spec.nodeName,P:.metadata.name");
    let pairs = told.lines().filter_map(|line| line.split_once(' '));
    let mut pods: Vec<(String, String)> = pairs.map(|(node, pod)| (node.to_owned(), pod.trim().to_owned())).collect();
    pods.sort();
    pods
}

/// Logs and exec reach the pod of every node.
#[track_caller]
fn are_reached(site: &Site, pods: &[(String, String)]) {
    for (node, pod) in pods {
        assert_eq!(site.must(&format!("logs {pod}")), format!("on {node}\n"));
        assert_eq!(site.must(&format!("exec {pod} -- printenv NODE")), format!("{node}\n"));
    }
}

#[test]
fn three_machines_are_one_cluster() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 2);
    run_everywhere(&site);
    let before = pods(&site);
    let nodes: Vec<&str> = before.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes, ["agent-1", "agent-2", "server"]);
    are_reached(&site, &before);
    let ranges = site.must("get nodes -o jsonpath={.items[*].spec.podCIDR}");
    let mut ranges: Vec<&str> = ranges.split(' ').collect();
    ranges.sort_unstable();
    assert_eq!(ranges, ["10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24"]);

    let uids = "get pods -l app=everywhere -o jsonpath={.items[*].metadata.uid}{.items[*]..restartCount}";
    let same = site.must(uids);
    // An agent that is started again needs no token.
    let server = site.server_url();
    site.agents[0].kill();
    site.agents[0].set_words(&["agent", "--server", &server]);
    site.agents[0].run();
    site.server.kill();
    site.server.run();
    site.wait_for_server();
    site.wait_until("every pod is reached again", |site| {
        before.iter().all(|(_, pod)| site.kubectl(&format!("exec {pod} -- true")).0)
    });
    are_reached(&site, &before);
    assert_eq!(site.must(uids), same, "nothing was restarted\n{}", site.last_lines());
}

#[test]
fn a_machine_gets_another_address() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 1);
    run_everywhere(&site);
    let all = pods(&site);
    site.agents[0].set_address("192.168.77.100".parse().expect("an address"));
    let address = "get node agent-1 -o jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    site.wait_until("its Node has the new address", |site| site.kubectl(address).1 == "192.168.77.100");
    let (_, moved) = &all[0];
    // By then the kubelet has a certificate for it.
    site.wait_until("its pod is reached", |site| site.kubectl(&format!("exec {moved} -- true")).0);
    are_reached(&site, &all);
}

/// How often a machine's pods have said where they are, by the logs on its disk.
fn said(machine: &Machine) -> usize {
    let wanted = format!("on {}", machine.name);
    let mut folders = vec![machine.data.join("log/pods")];
    let mut count = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => folders.push(path),
                false => count += std::fs::read_to_string(path).unwrap_or_default().matches(&wanted).count(),
            }
        }
    }
    count
}

#[test]
fn a_machine_starts_its_pods_without_the_server() {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 1);
    run_everywhere(&site);
    let before = pods(&site);
    site.wait_until("the log is written", |site| said(&site.agents[0]) == 1);
    site.server.kill();
    // What a power cut leaves: the disk.
    site.agents[0].clean_up();
    site.agents[0].run();
    site.wait_until("its pod runs", |site| said(&site.agents[0]) == 2);
    site.server.run();
    site.wait_for_server();
    site.wait_until("the pods are reached", |site| {
        before.iter().all(|(_, pod)| site.kubectl(&format!("exec {pod} -- true")).0)
    });
    assert_eq!(pods(&site), before);
}

#[test]
fn only_who_has_the_token_joins() {
    let mut site = Site::start(&made::skerry(), None, 0);
    let refused = |site: &mut Site, words: &[&str], why: &str| {
        let machine = site.add_agent(words);
        machine.run();
        machine.wait_for_log(0, why);
        machine.kill();
    };
    refused(&mut site, &["--token", "abcdee.0123456789abcdef"], "does not know token abcdee");
    refused(&mut site, &["--token", "abcdef.0123456789abcdee"], "the secret part of token abcdef is wrong");
    refused(&mut site, &[], "got no --token or --token-file");
    let short = site.server.skerry(&["token", "create", "--ttl", "1s"]);
    site.wait_until("the token is over", |site| !site.server.skerry(&["token", "list"]).contains(short.trim()));
    refused(&mut site, &["--token", short.trim()], "it is wrong, has expired or was deleted");

    let token = site.server.skerry(&["token", "create", "--description", "for a board"]);
    assert!(site.server.skerry(&["token", "list"]).contains("for a board"));
    site.add_agent(&["--token", token.trim()]).run();
    site.wait_for_ready(2);
    // Another machine with a good token does not become a node that lives.
    let name = site.agents.last().expect("just added").name.clone();
    let other = site.add_agent(&["--token", token.trim()]);
    other.name.clone_from(&name);
    other.run();
    other.wait_for_log(0, &format!("node {name} lives and has another key"));
    other.kill();
    let id = token.split('.').next().expect("an id");
    assert_eq!(site.server.skerry(&["token", "delete", id]), format!("token {id} deleted\n"));
    refused(&mut site, &["--token", token.trim()], &format!("does not know token {id}"));
}

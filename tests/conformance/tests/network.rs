//! The network of several machines: pods, Services and names from every node to every other.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use conformance::{Machine, Site};
use sys::net::{in_namespace, nft};

/// Each pod answers with its node, and with the address that it saw.
const EVERYWHERE: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: who}
spec:
  selector: {matchLabels: {app: who}}
  template:
    metadata: {labels: {app: who}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.28
        command:
        - sh
        - -c
        - |
          mkdir -p /tmp/www/cgi-bin
          printf '#!/bin/sh\necho\necho $NODE $REMOTE_ADDR\n' > /tmp/www/cgi-bin/who
          chmod +x /tmp/www/cgi-bin/who
          exec httpd -f -p 8080 -h /tmp/www
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: who}
spec: {type: NodePort, selector: {app: who}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: home}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: who}
  ports: [{port: 80, targetPort: 8080, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 30082
  selector: {app: who}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {sessionAffinity: ClientIP, selector: {app: who}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: all}
spec: {clusterIP: None, selector: {app: who}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: who.default.svc.cluster.local}
"#;

/// A change is to be in the kernel of the last node within this time.
const PROMISE: Duration = Duration::from_secs(1);
/// So many changes are measured.
const CHANGES: usize = 100;
const NODES: [&str; 3] = ["agent-1", "agent-2", "server"];

struct Pod {
    node: String,
    name: String,
    ip: String,
}

fn pods(site: &Site) -> Vec<Pod> {
    let columns = "N:.spec.nodeName,P:.metadata.name,I:.status.podIP";
    let told = site.must(&format!("get pods -l app=who --no-headers -o custom-columns={columns}"));
    let read = |line: &str| {
        let words = line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let [node, name, ip] = words.try_into().ok()?;
        Some(Pod { node, name, ip })
    };
    let mut pods: Vec<Pod> = told.lines().filter_map(read).collect();
    pods.sort_by(|one, other| one.node.cmp(&other.node));
    pods
}

fn start() -> Site {
    let site = Site::start(&made::skerry(), Some(&made::test_images()), 2);
    let file = site.server.data.join("who.yaml");
    std::fs::write(&file, EVERYWHERE).expect("written");
    site.must(&format!("create -f {}", file.display()));
    site.rolled_out("daemonset/who", 60);
    site
}

/// An answer's two words. The web server writes an IPv4 address as one of IPv6.
fn words(answer: &str) -> Option<(String, String)> {
    let (node, seen) = answer.trim().split_once(' ')?;
    Some((node.to_owned(), seen.trim_start_matches("[::ffff:").trim_end_matches(']').to_owned()))
}

/// What `host` answers to a pod: the node that answered, and whom it saw.
fn try_ask(site: &Site, from: &Pod, host: &str) -> Option<(String, String)> {
    let (ok, text) = site.kubectl(&format!("exec {} -- wget -T 5 -qO- http://{host}/cgi-bin/who", from.name));
    words(&text).filter(|_| ok)
}

#[track_caller]
fn ask(site: &Site, from: &Pod, host: &str) -> (String, String) {
    let told = try_ask(site, from, host);
    told.unwrap_or_else(|| panic!("{} on {} cannot ask {host}\n{}", from.name, from.node, site.last_lines()))
}

/// What a machine is answered at a port of a node: the node that answered, and whom it saw.
#[track_caller]
fn ask_from(machine: &Machine, address: impl std::fmt::Display, port: u16) -> (String, String) {
    let (head, body) = machine.get(&address, port, "/cgi-bin/who");
    let text = String::from_utf8_lossy(&body).into_owned();
    words(&text).unwrap_or_else(|| panic!("{address}:{port} gave no answer: {head}{text}"))
}

fn machines(site: &Site) -> Vec<&Machine> {
    site.agents.iter().chain([&site.server]).collect()
}

/// Every pod reaches every other, which sees its address.
fn are_connected(site: &Site, pods: &[Pod]) {
    for from in pods {
        for to in pods {
            let (node, seen) = ask(site, from, &format!("{}:8080", to.ip));
            assert_eq!(node, to.node);
            assert!(from.name == to.name || seen == from.ip, "{} saw {seen}, which is not {}", to.name, from.ip);
        }
    }
}

fn services_answer(site: &Site, pods: &[Pod]) {
    let names = ["who", "alias", "who.default.svc.cluster.local"];
    for from in pods {
        for name in names {
            let answered: BTreeSet<String> = (0..4).map(|_| ask(site, from, name).0).collect();
            assert!(answered.iter().all(|node| NODES.contains(&node.as_str())), "{answered:?}");
        }
        let found = site.must(&format!("exec {} -- nslookup all.default.svc.cluster.local", from.name));
        assert!(pods.iter().all(|pod| found.contains(&pod.ip)), "{} was told {found}", from.node);
        let first = ask(site, from, "sticky").0;
        assert!((0..6).all(|_| ask(site, from, "sticky").0 == first), "{} is led elsewhere", from.node);
    }
}

fn node_ports_answer(site: &Site) {
    for asker in machines(site) {
        for asked in machines(site) {
            let (node, _) = ask_from(asker, asked.address(), 30080);
            assert!(NODES.contains(&node.as_str()));
            if asker.name != asked.name {
                let told = ask_from(asker, asked.address(), 30081);
                assert_eq!(told, (asked.name.clone(), asker.address().to_string()), "a local policy");
            }
        }
    }
}

/// Every node says how many endpoints of a Service with a local policy it has, in upstream's words.
fn health_checks_answer(site: &Site) {
    let port = site.must("get service nobody -o jsonpath={.spec.healthCheckNodePort}").parse().expect("a port");
    for (name, port, status, count) in
        [("balanced", 30082, "200 OK", 1), ("nobody", port, "503 Service Unavailable", 0)]
    {
        for asked in machines(site) {
            let (head, body) = site.server.get(asked.address(), port, "/healthz");
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let wanted = serde_json::json!({
                "service": {"namespace": "default", "name": name}, "localEndpoints": count, "serviceProxyHealthy": true,
            });
            assert!(head.contains(status), "{}: {head}", asked.name);
            assert_eq!(body, wanted, "{} of {}", asked.name, name);
            let weight = format!("x-load-balancing-endpoint-weight: {count}\r\n");
            assert!(head.to_lowercase().contains(&weight), "{head}");
        }
    }
    site.must("patch service balanced -p '{\"spec\":{\"externalTrafficPolicy\":\"Cluster\"}}'");
    assert_eq!(site.must("get service balanced -o jsonpath={.spec.healthCheckNodePort}"), "");
    site.wait_until("nothing answers any more", |site| site.server.get(site.server.address(), 30082, "/").0.is_empty());
}

#[test]
fn pods_services_and_names_are_reached_from_every_node() {
    let mut site = start();
    let before = pods(&site);
    assert_eq!(before.iter().map(|pod| pod.node.as_str()).collect::<Vec<_>>(), NODES);
    are_connected(&site, &before);
    services_answer(&site, &before);
    node_ports_answer(&site);
    health_checks_answer(&site);
    let conditions = "get nodes -o jsonpath={.items[*].status.conditions[?(@.type=='NetworkUnavailable')].status}";
    assert_eq!(site.must(conditions), "False False False");

    // A cable in another socket, a lease that ran out: the node has another address, its pods keep theirs.
    let address = std::net::Ipv4Addr::new(192, 168, 77, 33);
    site.agents[1].set_address(address);
    let begun = Instant::now();
    let moved = |site: &Site| {
        let (from, to) = (&before[0], &before[1]);
        try_ask(site, from, &format!("{}:8080", to.ip)).is_some_and(|(_, seen)| seen == from.ip)
            && try_ask(site, to, &format!("{}:8080", from.ip)).is_some_and(|(_, seen)| seen == to.ip)
    };
    site.wait_until("the moved node's pods are reached", moved);
    eprintln!("a node that changed its address is reached again after {:?}", begun.elapsed());
    let told = "get node agent-2 -o jsonpath={.status.addresses[?(@.type=='InternalIP')].address}";
    assert_eq!(site.must(told), address.to_string());
    are_connected(&site, &before);
    node_ports_answer(&site);

    // A node that leaves takes its routes along: its pods' addresses are refused at once, not sent to the world.
    site.agents[1].kill();
    site.must("delete node agent-2");
    let refused = |site: &Site| {
        let gone = format!("exec {} -- wget -T 5 -qO- http://{}:8080/", before[0].name, before[1].ip);
        let (ok, text) = site.kubectl(&gone);
        !ok && (text.contains("No route to host") || text.contains("Host is unreachable"))
    };
    site.wait_until("the pods of the node that left are refused", refused);
    site.wait_until("its pod is out of the Service", |site| {
        let (ok, told) = site.kubectl("get endpoints who -o jsonpath={.subsets[*].addresses[*].ip}");
        ok && !told.contains(&before[1].ip)
    });
    for _ in 0..6 {
        assert!(ask(&site, &before[0], "who").0 != "agent-2");
    }
}

/// The network namespace of a machine whose program runs.
fn namespace(machine: &Machine) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", machine.pid().expect("it runs")))
}

#[test]
fn a_service_is_in_the_kernel_of_the_last_node_within_its_promise() {
    let site = Site::start(&made::skerry(), None, 2);
    let places: Vec<PathBuf> = machines(&site).into_iter().map(namespace).collect();
    let file = site.server.data.join("service.yaml");
    let mut times: Vec<Duration> = (0..CHANGES).map(|number| change(&site, &places, &file, number)).collect();
    times.sort();
    let (median, p99, most) = (times[CHANGES / 2], times[CHANGES * 99 / 100 - 1], times[CHANGES - 1]);
    eprintln!(
        "from a created Service to the rules of the last of three nodes: median {median:?}, p99 {p99:?}, most {most:?}"
    );
    assert!(p99 < PROMISE, "{p99:?}");
}

/// Creates a Service with an endpoint; the answer is how long the last node takes after the API server has it.
fn change(site: &Site, places: &[PathBuf], file: &Path, number: usize) -> Duration {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: 80}}]\n\
         metadata: {{name: s{number}, labels: {{kubernetes.io/service-name: s{number}}}}}\n\
         endpoints: [{{addresses: [192.168.77.200]}}]\n"
    );
    std::fs::write(file, text).expect("written");
    let chain = format!("svc-default/s{number}/tcp/80");
    // The watcher looks while kubectl is still at work: what counts is the time behind its answer.
    std::thread::scope(|scope| {
        let watching: Vec<_> = places.iter().map(|place| scope.spawn(|| seen_at(place, &chain))).collect();
        site.must(&format!("create -f {}", file.display()));
        let answered = Instant::now();
        let seen = watching.into_iter().map(|each| each.join().expect("it does not panic"));
        seen.max().expect("there are nodes").saturating_duration_since(answered)
    })
}

/// When the kernel of a machine has a chain.
fn seen_at(place: &Path, chain: &str) -> Instant {
    let look = || {
        let begun = Instant::now();
        while !nft::has_chain(proxy::TABLE, chain)? {
            assert!(begun.elapsed() < Duration::from_secs(30), "{chain} never came");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Instant::now())
    };
    in_namespace(place, look).expect("an answer")
}

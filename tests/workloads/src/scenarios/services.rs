//! Services: by name, by address, by the node's port.

use crate::scenario::apply;
use crate::{Break, User};

pub fn my_nginx(user: &User) {
    apply(user, "my-nginx.yaml");
    user.rolled_out("deployment/my-nginx", 60);
    assert!(user.must("describe svc my-nginx").contains("Endpoints:"));
    let slices = user.must(
        "get endpointslices -l kubernetes.io/service-name=my-nginx -o jsonpath={.items[*].endpoints[*].addresses}",
    );
    assert_eq!(slices.split(' ').count(), 2, "{slices}");
    every_way_leads_to_it(user);
    the_environment_names_it(user);
}

fn every_way_leads_to_it(user: &User) {
    let of = |field: &str| user.must(&format!("get svc my-nginx -o jsonpath={{{field}}}"));
    let node = user.must("get nodes -o jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let pod = user.must("get pods -l run=my-nginx -o jsonpath={.items[0].status.podIP}");
    let hosts = [
        "my-nginx:8080".to_owned(),
        "my-nginx.my-nginx.svc.cluster.local:8080".to_owned(),
        format!("{}:8080", of(".spec.clusterIP")),
        format!("{}:{}", node.split(' ').next().unwrap_or_default(), of(".spec.ports[0].nodePort")),
        format!("{pod}:80"),
    ];
    for host in hosts {
        let page = user.must(&format!("exec deployment/my-nginx -- wget -T 20 -qO- http://{host}"));
        assert!(page.contains("Welcome to nginx!"), "{host}: {page}");
    }
}

/// Pods that start after the Service are told of it, whether they want it or not.
fn the_environment_names_it(user: &User) {
    user.must("scale deployment my-nginx --replicas=0");
    user.wait("the pods to go", user.limit(60), |user| user.must("get pods -l run=my-nginx -o name").is_empty());
    user.must("scale deployment my-nginx --replicas=2");
    user.rolled_out("deployment/my-nginx", 60);
    let seen = user.must("exec deployment/my-nginx -- env");
    let ip = user.must("get svc my-nginx -o jsonpath={.spec.clusterIP}");
    for line in [format!("MY_NGINX_SERVICE_HOST={ip}"), "MY_NGINX_SERVICE_PORT=8080".to_owned()] {
        assert!(seen.lines().any(|seen| seen == line), "{line}: {seen}");
    }
}

pub fn my_nginx_again(user: &User, _: Break) {
    user.must_become("--for=condition=Available deployment/my-nginx", 60);
    every_way_leads_to_it(user);
}

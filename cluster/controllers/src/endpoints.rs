//! Says which pods stand behind a Service: EndpointSlices, and the older Endpoints.
//!
//! Start at [`Slices`] and [`Endpoints`]. Both read the same [`Backend`]s.
//!
//! Invariants:
//! * a pod is behind a Service when the selector selects it, it has an address and has not finished;
//! * it is `ready` when its Ready condition holds and it is not leaving, or the Service publishes unready addresses;
//! * slices are named after what they hold, so that the same pods always give the same slices.
//!
//! Not here: Services without selector (their owners write the endpoints).

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use client::{Collection, DeleteOptions, Entry, Kind, Resource, Selector};
use control::{About, Key, Outcome, Reconciler, View, Write, itself};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints as OldEndpoints, Node, ObjectReference, Pod,
    Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods::{controller_reference, hash, is_ready, node_name, phase};

/// Endpoints in one slice.
const SLICE_MAX: usize = 100;
/// Addresses in one Endpoints object.
const ENDPOINTS_MAX: usize = 1000;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller of EndpointSlices.
pub struct Slices;

/// The controller of Endpoints.
pub struct Endpoints;

impl Reconciler for Slices {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Service::RESOURCE, Pod::RESOURCE, EndpointSlice::RESOURCE, Node::RESOURCE];
        About {
            name: "endpoint-slice-controller",
            reads: READS,
            writes: &["endpointslices.discovery.k8s.io"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "pods" => services_of(view, entry),
            "nodes" => Vec::new(),
            "endpointslices" => {
                let service = entry
                    .meta
                    .labels
                    .get(SERVICE_NAME)
                    .filter(|_| entry.meta.labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER));
                service.map(|service| Key::new(&entry.meta.namespace, service)).into_iter().collect()
            }
            _ => itself(entry),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        // Slices of a Service that went are the garbage collector's: they are owned.
        let Some(service) = view.get::<Service>(&key.namespace, &key.name) else { return Outcome::none() };
        let mut wanted = BTreeMap::new();
        if let Some(backends) = backends(view, &service) {
            for slice in slices(&service, &backends) {
                wanted.insert(slice.name().to_owned(), slice);
            }
        } else if !is_selective(&service) && !is_external(&service) {
            return Outcome::none();
        }
        let mut outcome = Outcome::none();
        // By label, as upstream does: a Service that went may have left its slices without an owner, and this one has its name.
        let ours = [(SERVICE_NAME, key.name.as_str()), (MANAGED_BY, MANAGER)];
        let ours = ours.map(|(label, value)| (label.to_owned(), value.to_owned()));
        for known in view.select::<EndpointSlice>(&key.namespace, &Selector::labels(&ours.into())) {
            if known.deleting() {
                continue;
            }
            match wanted.remove(known.name()) {
                None => outcome.writes.push(Write::delete(&*known, DeleteOptions::default())),
                Some(slice) => {
                    let same = (&slice.endpoints, &slice.ports) == (&known.endpoints, &known.ports);
                    let (ours, its) = (&slice.metadata, &known.metadata);
                    if !same || (&ours.labels, &ours.owner_references) != (&its.labels, &its.owner_references) {
                        let ObjectMeta { labels, owner_references, .. } = slice.metadata;
                        let metadata = ObjectMeta { labels, owner_references, ..its.clone() };
                        outcome.writes.push(Write::update(&EndpointSlice { metadata, ..slice }));
                    }
                }
            }
        }
        outcome.writes.extend(wanted.values().map(|slice| Write::create(slice).or_exists()));
        outcome
    }
}

impl Reconciler for Endpoints {
    fn about(&self) -> About {
        const READS: &[&Resource] = &[Service::RESOURCE, Pod::RESOURCE, OldEndpoints::RESOURCE];
        About { name: "endpoint-controller", reads: READS, writes: &["endpoints"], everything: false }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        match collection.resource.as_str() {
            "pods" => services_of(view, entry),
            _ => itself(entry),
        }
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, _: Timestamp) -> Outcome {
        let known = view.get::<OldEndpoints>(&key.namespace, &key.name);
        let Some(service) = view.get::<Service>(&key.namespace, &key.name) else {
            let ours = known.filter(|known| is_ours(known) && !known.deleting());
            return ours.map(|known| Write::delete(&*known, DeleteOptions::default()).into()).unwrap_or_default();
        };
        let Some(backends) = backends(view, &service) else { return Outcome::none() };
        let subsets = Some(subsets(&service, &backends)).filter(|subsets| !subsets.is_empty());
        let mut labels = service.metadata.labels.clone().unwrap_or_default();
        labels.insert("endpoints.kubernetes.io/managed-by".to_owned(), "endpoint-controller".to_owned());
        if is_headless(&service) {
            labels.insert(HEADLESS.to_owned(), String::new());
        }
        match known {
            None => {
                let metadata = ObjectMeta {
                    name: Some(key.name.clone()),
                    namespace: Some(key.namespace.clone()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                };
                Write::create(&OldEndpoints { metadata, subsets }).or_exists().into()
            }
            Some(known) if known.subsets != subsets || known.metadata.labels.as_ref() != Some(&labels) => {
                let metadata = ObjectMeta { labels: Some(labels), ..known.metadata.clone() };
                Write::update(&OldEndpoints { metadata, subsets }).into()
            }
            Some(_) => Outcome::none(),
        }
    }
}

fn is_ours(endpoints: &OldEndpoints) -> bool {
    endpoints.metadata.labels.iter().flatten().any(|(key, _)| key == "endpoints.kubernetes.io/managed-by")
}

fn spec(service: &Service) -> ServiceSpec {
    service.spec.clone().unwrap_or_default()
}

fn is_external(service: &Service) -> bool {
    spec(service).type_.as_deref() == Some("ExternalName")
}

fn is_selective(service: &Service) -> bool {
    spec(service).selector.is_some_and(|selector| !selector.is_empty()) && !is_external(service)
}

fn is_headless(service: &Service) -> bool {
    spec(service).cluster_ip.as_deref() == Some("None")
}

fn services_of(view: &View<'_>, entry: &Entry) -> Vec<Key> {
    crate::replicaset::selecting::<Service>(view, entry, |service| match is_selective(service) {
        true => Selector::labels(&spec(service).selector.unwrap_or_default()),
        false => Selector::nothing(),
    })
}

/// A pod behind a Service.
struct Backend {
    pod: Arc<Pod>,
    ips: Vec<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
    hostname: Option<String>,
    zone: Option<String>,
}

/// The pods behind a Service, by name; `None` if that is not for us to say.
fn backends(view: &View<'_>, service: &Service) -> Option<Vec<Backend>> {
    if !is_selective(service) {
        return None;
    }
    let spec = spec(service);
    let publish = spec.publish_not_ready_addresses == Some(true);
    let pods = view.select::<Pod>(service.namespace(), &Selector::labels(&spec.selector.unwrap_or_default()));
    let behind = pods.into_iter().filter_map(|pod| {
        let status = pod.status.as_ref()?;
        let listed: Vec<String> = status.pod_ips.iter().flatten().map(|each| each.ip.clone()).collect();
        let ips = if listed.is_empty() { status.pod_ip.clone().into_iter().collect() } else { listed };
        if ips.is_empty() || matches!(phase(&pod), "Succeeded" | "Failed") {
            return None;
        }
        let (serving, terminating) = (is_ready(&pod) || publish, pod.deleting());
        let its = pod.spec.as_ref()?;
        let named = its.subdomain.as_deref() == Some(service.name());
        let hostname = its.hostname.clone().filter(|name| named && !name.is_empty());
        let zone =
            view.get::<Node>("", node_name(&pod)).and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
        let ready = publish || (serving && !terminating);
        Some(Backend { ips, ready, serving, terminating, hostname, zone, pod })
    });
    Some(behind.collect())
}

/// A Service's ports as this pod has them; a named port it lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<(ServicePort, i32)> {
    let all = spec(service).ports.unwrap_or_default();
    let resolved = all.into_iter().filter_map(|port| {
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name, port.protocol.as_deref().unwrap_or("TCP"))?,
        };
        Some((port, number))
    });
    resolved.collect()
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let restarts = |each: &&k8s_openapi::api::core::v1::Container| each.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(restarts);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut found = ports
        .filter(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
    found.next().map(|port| port.container_port)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn slices(service: &Service, backends: &[Backend]) -> Vec<EndpointSlice> {
    let families =
        spec(service).ip_families.filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".into()]);
    let mut made = Vec::new();
    for family in families {
        let of_family = |ip: &&String| ip.contains(':') == (family == "IPv6");
        let mut groups: BTreeMap<String, (Vec<EndpointPort>, Vec<Endpoint>)> = BTreeMap::new();
        for backend in backends {
            let Some(ip) = backend.ips.iter().find(of_family) else { continue };
            let ports: Vec<EndpointPort> = ports(service, &backend.pod)
                .into_iter()
                .map(|(port, number)| EndpointPort {
                    name: Some(port.name.unwrap_or_default()),
                    port: Some(number),
                    protocol: Some(port.protocol.unwrap_or_else(|| "TCP".to_owned())),
                    app_protocol: port.app_protocol,
                })
                .collect();
            let group = groups.entry(serde_json::to_string(&ports).unwrap_or_default()).or_default();
            group.0 = ports;
            group.1.push(endpoint(backend, ip));
        }
        if groups.is_empty() {
            // A Service nobody stands behind has one empty slice, so that its readers know that it was looked at.
            groups.insert(String::new(), Default::default());
        }
        for (key, (ports, endpoints)) in groups {
            let chunks: Vec<&[Endpoint]> =
                if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(SLICE_MAX).collect() };
            for (index, chunk) in chunks.into_iter().enumerate() {
                let id = hash(&format!("{} {family} {key} {index}", service.uid()), 0);
                made.push(slice(service, &family, &id, ports.clone(), chunk.to_vec()));
            }
        }
    }
    made
}

fn slice(
    service: &Service,
    family: &str,
    id: &str,
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", service.name(), &id[id.len().saturating_sub(5)..])),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports),
    }
}

fn endpoint(backend: &Backend, ip: &str) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: Some(node_name(&backend.pod).to_owned()).filter(|name| !name.is_empty()),
        target_ref: Some(reference(&backend.pod)),
        zone: backend.zone.clone(),
        ..Endpoint::default()
    }
}

fn subsets(service: &Service, backends: &[Backend]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    for backend in backends.iter().filter(|backend| !backend.terminating || backend.ready).take(ENDPOINTS_MAX) {
        let Some(ip) = backend.ips.first() else { continue };
        let ports: Vec<OldPort> = ports(service, &backend.pod)
            .into_iter()
            .map(|(port, number)| OldPort {
                name: port.name.filter(|name| !name.is_empty()),
                port: number,
                protocol: Some(port.protocol.unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol,
            })
            .collect();
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        let subset = groups.entry(serde_json::to_string(&ports).unwrap_or_default()).or_default();
        subset.ports = Some(ports).filter(|ports| !ports.is_empty());
        let address = EndpointAddress {
            ip: ip.clone(),
            hostname: backend.hostname.clone(),
            node_name: Some(node_name(&backend.pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(reference(&backend.pod)),
        };
        let list = if backend.ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            list.iter_mut().for_each(|list| list.sort_by(|one, other| one.ip.cmp(&other.ip)));
        }
    }
    subsets
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{World, lines};

    /// Pods as `name[marks]`: `!` unready, `-` leaving, `.` without address. Tells `ip:ready/serving/terminating`.
    #[track_caller]
    fn check(extra: serde_json::Value, pods: &str, wanted: &str) {
        let mut world = World::default();
        let mut spec = json!({"selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ports": [{"port": 80, "targetPort": "http"}]});
        spec.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
        world.put(Service::RESOURCE, json!({"metadata": {"name": "web", "namespace": "n"}, "spec": spec}));
        for (index, pod) in pods.split_whitespace().enumerate() {
            let (name, marks) = pod.split_at(1);
            let mut object = json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}], "nodeName": "node"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if marks.contains('!') { "False" } else { "True" }}]}});
            if !marks.contains('.') {
                object["status"]["podIP"] = format!("10.42.0.{index}").into();
            }
            if marks.contains('-') {
                object["metadata"]["deletionTimestamp"] = "2026-11-23T19:59:00Z".into();
            }
            world.put(Pod::RESOURCE, object);
        }
        let outcome = world.reconcile(&Slices, "n", "web");
        let told: Vec<String> = outcome
            .writes
            .iter()
            .flat_map(|write| {
                let slice = EndpointSlice::decode(&write.body).expect("a slice");
                let port = slice.ports.iter().flatten().filter_map(|port| port.port).next().unwrap_or_default();
                slice
                    .endpoints
                    .unwrap_or_default()
                    .into_iter()
                    .map(move |each| {
                        let is = each.conditions.unwrap_or_default();
                        let flag = |flag: Option<bool>| if flag == Some(true) { 'y' } else { 'n' };
                        format!(
                            "{}:{port} {}{}{}",
                            each.addresses[0],
                            flag(is.ready),
                            flag(is.serving),
                            flag(is.terminating)
                        )
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(told.join(", "), wanted);
    }

    #[test]
    fn ready_pods_are_ready_endpoints() {
        check(json!({}), "a", "10.42.0.0:8080 yyn");
    }
    #[test]
    fn unready_and_leaving_pods_say_so() {
        check(json!({}), "a! b-", "10.42.0.0:8080 nnn, 10.42.0.1:8080 nyy");
    }
    #[test]
    fn pods_without_address_are_not_there_yet() {
        check(json!({}), "a.", "");
    }
    #[test]
    fn a_service_may_publish_pods_that_are_not_ready() {
        check(json!({"publishNotReadyAddresses": true}), "a!", "10.42.0.0:8080 yyn");
    }
    #[test]
    fn a_service_without_selector_is_left_alone() {
        check(json!({"selector": null}), "a", "");
    }

    #[test]
    fn slices_that_a_namesake_left_without_an_owner_are_put_right() {
        let mut world = World::default();
        world.put(Service::RESOURCE, json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        let first = world.reconcile(&Slices, "n", "web");
        let mut orphan: serde_json::Value = serde_json::from_slice(&first.writes[0].body).expect("JSON");
        orphan["metadata"].as_object_mut().expect("a map").remove("ownerReferences");
        orphan["metadata"]["name"] = "web-other".into();
        world.put(EndpointSlice::RESOURCE, orphan.clone());
        orphan["metadata"]["name"] = "of-somebody".into();
        orphan["metadata"]["labels"][MANAGED_BY] = "somebody".into();
        world.put(EndpointSlice::RESOURCE, orphan);
        let told = lines(&world.reconcile(&Slices, "n", "web"));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("delete") && told[0].contains("web-other"), "{told:?}");
        assert!(told[1].starts_with("create"), "{told:?}");
    }

    #[test]
    fn what_is_right_is_not_written_again() {
        let mut world = World::default();
        world.put(Service::RESOURCE, json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
        let first = world.reconcile(&Slices, "n", "web");
        world.put(EndpointSlice::RESOURCE, serde_json::from_slice(&first.writes[0].body).expect("JSON"));
        assert!(lines(&world.reconcile(&Slices, "n", "web")).is_empty());
        let first = world.reconcile(&Endpoints, "n", "web");
        world.put(OldEndpoints::RESOURCE, serde_json::from_slice(&first.writes[0].body).expect("JSON"));
        assert!(lines(&world.reconcile(&Endpoints, "n", "web")).is_empty());
    }
}

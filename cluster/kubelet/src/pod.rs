//! A pod as this node needs it: the API object, parsed once into its members in the order they start.
//!
//! Start at [`PodInfo::new`]. Below are small questions about the spec that several files ask.
//!
//! Not here: anything about what runs (`step`, `status`).

use std::net::IpAddr;
use std::time::Duration;

use base::Timestamp;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The grace upstream gives where a pod names none.
pub const GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// When and for how long a container of a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container with `restartPolicy: Always`: starts in order, runs as long as the pod.
    Sidecar,
    /// The pod's own work.
    App,
    /// Added for debugging; never restarted.
    Ephemeral,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its part in the pod.
    pub role: Role,
    /// Its spec (an ephemeral container's in the common form).
    pub container: Container,
    /// Whose pid namespace an ephemeral container joins.
    pub target: Option<String>,
}

impl Member {
    /// The container's name.
    pub fn name(&self) -> &str {
        &self.container.name
    }
}

/// A pod, parsed.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The object as the API server gave it.
    pub pod: Pod,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`, or of a static pod the hash of its manifest.
    pub uid: String,
    /// Init containers and sidecars in order, then app containers, then ephemeral ones.
    pub members: Vec<Member>,
}

impl PodInfo {
    /// Parses a pod; `None` if it lacks a name, namespace, uid or spec, which no stored pod does.
    pub fn new(pod: Pod) -> Option<PodInfo> {
        let spec = pod.spec.as_ref()?;
        let mut members: Vec<Member> = Vec::new();
        for container in spec.init_containers.iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let role = if sidecar { Role::Sidecar } else { Role::Init };
            members.push(Member { role, container: container.clone(), target: None });
        }
        for container in &spec.containers {
            members.push(Member { role: Role::App, container: container.clone(), target: None });
        }
        for ephemeral in spec.ephemeral_containers.iter().flatten() {
            members.push(Member {
                role: Role::Ephemeral,
                container: common_form(ephemeral),
                target: ephemeral.target_container_name.clone().filter(|name| !name.is_empty()),
            });
        }
        Some(PodInfo {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            members,
            pod,
        })
    }

    /// The spec; [`PodInfo::new`] saw that it is there.
    pub fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().expect("checked by PodInfo::new")
    }

    /// The member of that name.
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name() == name)
    }

    /// `name_namespace(uid)`, as upstream's messages name a pod.
    pub fn full_name(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// `Always`, `OnFailure` or `Never`.
    pub fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }

    /// Whether somebody asked for the pod's deletion.
    pub fn deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }

    /// How long the pod has from being asked to stop.
    pub fn grace(&self) -> Duration {
        let deletion = self.pod.metadata.deletion_grace_period_seconds.filter(|_| self.deleting());
        match deletion.or(self.spec().termination_grace_period_seconds) {
            Some(seconds) => Duration::from_secs(seconds.max(0) as u64),
            None => GRACE_DEFAULT,
        }
    }

    /// Whether the pod shares the machine's network.
    pub fn host_network(&self) -> bool {
        self.spec().host_network == Some(true)
    }

    /// Whether the pod came from a file of this node.
    pub fn is_static(&self) -> bool {
        self.annotation("kubernetes.io/config.source") == Some("file")
    }

    /// Whether the API shows it as ended.
    pub fn ended(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The pod's quality of service: what the API says, or computed.
    pub fn qos(&self) -> Qos {
        match self.pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("Guaranteed") => Qos::Guaranteed,
            Some("Burstable") => Qos::Burstable,
            Some("BestEffort") => Qos::BestEffort,
            _ => qos(self.spec()),
        }
    }
}

/// How a pod is treated when memory or CPU run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits everywhere.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is.
    BestEffort,
}

impl Qos {
    /// Upstream's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

/// The quality of service of a spec.
pub fn qos(spec: &PodSpec) -> Qos {
    let pod_level = spec.resources.iter();
    let all: Vec<&ResourceRequirements> = if spec.resources.as_ref().is_some_and(asks_for_something) {
        pod_level.collect()
    } else {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        static EMPTY: ResourceRequirements = ResourceRequirements { claims: None, limits: None, requests: None };
        containers.map(|container| container.resources.as_ref().unwrap_or(&EMPTY)).collect()
    };
    if !all.iter().any(|resources| asks_for_something(resources)) {
        return Qos::BestEffort;
    }
    if all.iter().all(|resources| requests_equal_limits(resources)) { Qos::Guaranteed } else { Qos::Burstable }
}

fn amount(map: &Option<std::collections::BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    map.as_ref()?.get(name).and_then(crate::quantity::milli).filter(|milli| *milli > 0)
}

fn asks_for_something(resources: &ResourceRequirements) -> bool {
    ["cpu", "memory"]
        .iter()
        .any(|name| amount(&resources.requests, name).is_some() || amount(&resources.limits, name).is_some())
}

fn requests_equal_limits(resources: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let limit = amount(&resources.limits, name);
        limit.is_some() && amount(&resources.requests, name).is_none_or(|request| Some(request) == limit)
    })
}

fn common_form(ephemeral: &EphemeralContainer) -> Container {
    Container {
        args: ephemeral.args.clone(),
        command: ephemeral.command.clone(),
        env: ephemeral.env.clone(),
        env_from: ephemeral.env_from.clone(),
        image: ephemeral.image.clone(),
        image_pull_policy: ephemeral.image_pull_policy.clone(),
        name: ephemeral.name.clone(),
        resources: ephemeral.resources.clone(),
        security_context: ephemeral.security_context.clone(),
        stdin: ephemeral.stdin,
        stdin_once: ephemeral.stdin_once,
        termination_message_path: ephemeral.termination_message_path.clone(),
        termination_message_policy: ephemeral.termination_message_policy.clone(),
        tty: ephemeral.tty,
        volume_mounts: ephemeral.volume_mounts.clone(),
        working_dir: ephemeral.working_dir.clone(),
        ..Container::default()
    }
}

/// A time of ours in the API's form: whole seconds.
pub fn api_time(time: Timestamp) -> Time {
    let seconds = time
        .seconds()
        .clamp(k8s_openapi::jiff::Timestamp::MIN.as_second(), k8s_openapi::jiff::Timestamp::MAX.as_second());
    Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap_or(k8s_openapi::jiff::Timestamp::UNIX_EPOCH))
}

/// A time of the API in ours.
pub fn our_time(time: &Time) -> Timestamp {
    Timestamp(time.0.as_nanosecond())
}

/// The first address of each family, the first address first: `podIPs` and `hostIPs` hold at most two.
pub fn one_of_each_family(addresses: &[IpAddr]) -> Vec<String> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let other = addresses.iter().find(|address| address.is_ipv4() != first.is_ipv4());
    std::iter::once(first).chain(other).map(IpAddr::to_string).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pod from the inside of its spec, in JSON.
    pub(crate) fn pod(spec: serde_json::Value) -> PodInfo {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "generation": 1},
            "spec": spec,
        });
        PodInfo::new(serde_json::from_value(object).expect("a pod")).expect("a whole pod")
    }

    #[track_caller]
    fn has_qos(resources: serde_json::Value, wanted: Qos) {
        let pod = pod(serde_json::json!({"containers": [{"name": "a", "resources": resources}]}));
        assert_eq!(pod.qos(), wanted);
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        use serde_json::json;
        has_qos(json!({}), Qos::BestEffort);
        has_qos(json!({"requests": {"cpu": "0"}}), Qos::BestEffort);
        has_qos(json!({"requests": {"cpu": "1m"}}), Qos::Burstable);
        has_qos(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Qos::Guaranteed);
        has_qos(
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
            Qos::Guaranteed,
        );
        has_qos(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}}), Qos::Burstable);
    }

    #[test]
    fn members_come_in_the_order_they_start() {
        let pod = pod(serde_json::json!({
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "a"}],
        }));
        let order: Vec<(&str, Role)> = pod.members.iter().map(|member| (member.name(), member.role)).collect();
        assert_eq!(order, [("i", Role::Init), ("s", Role::Sidecar), ("a", Role::App), ("e", Role::Ephemeral)]);
        assert_eq!(pod.members[3].target.as_deref(), Some("a"));
    }

    #[test]
    fn host_addresses_are_one_of_each_family() {
        let addresses: Vec<IpAddr> =
            ["10.0.0.1", "10.0.0.2", "fd00::1"].iter().map(|a| a.parse().expect("ip")).collect();
        assert_eq!(one_of_each_family(&addresses), ["10.0.0.1", "fd00::1"]);
    }
}

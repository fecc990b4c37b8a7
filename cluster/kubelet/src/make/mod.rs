//! What sandboxes and containers are made from: the pod's spec in the words of the runtime.
//!
//! Start at [`sandbox_config`] and [`container_config`]. Both are functions of values; objects they need were fetched before.
//!
//! Not here: filling volumes (`volumes`), fetching (`objects`).

pub mod env;
pub mod fields;
pub mod limits;
pub mod network;
pub mod security;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use runtime::{ContainerConfig, ImageStatus, NamespaceMode, PortMapping, SandboxConfig};

use crate::Options;
use crate::pod::{Member, PodInfo, Role};
use crate::step::{HASH_ANNOTATION, spec_hash};

/// Labels by which upstream's tools find pods and containers in a runtime.
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
/// See [`LABEL_POD_NAME`].
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// See [`LABEL_POD_NAME`].
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
/// See [`LABEL_POD_NAME`].
pub const LABEL_CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// How long a container of a pod that nobody knows any more has to stop.
pub const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Where a container's termination message lies on the host.
pub const MESSAGE_PATH_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const MESSAGE_POLICY_ANNOTATION: &str = "io.kubernetes.container.terminationMessagePolicy";

/// ConfigMaps and Secrets of the pod's namespace.
pub trait Source {
    /// A ConfigMap.
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>>;
    /// A Secret.
    fn secret(&self, name: &str) -> Option<Arc<Secret>>;
}

/// Why a container cannot be described: the user's mistake, shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such ConfigMap.
    #[error("configmap \"{0}\" not found")]
    ConfigMapMissing(String),
    /// There is no such Secret.
    #[error("secret \"{0}\" not found")]
    SecretMissing(String),
    /// The object has no such key.
    #[error("couldn't find key {key} in {object}")]
    KeyMissing {
        /// The key.
        key: String,
        /// Of what.
        object: String,
    },
    /// A file of variables that is not read.
    #[error("failed to read file {path} of volume {volume}: {detail}")]
    File {
        /// The file.
        path: String,
        /// The volume it is in.
        volume: String,
        /// Why not.
        detail: String,
    },
    /// A field nobody knows.
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    /// A container nobody knows.
    #[error("container {0} not found")]
    Container(String),
    /// The image's user against the pod's wish.
    #[error("{0}")]
    NonRoot(String),
    /// A profile outside its folder.
    #[error("localhostProfile must name a file below the kubelet's seccomp folder")]
    Seccomp,
    /// A volume that is mounted but not there.
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    Volume {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
    },
    /// A path that leaves its volume.
    #[error("failed to prepare subPath for volumeMount \"{volume}\" of container \"{container}\": {detail}")]
    SubPath {
        /// The volume.
        volume: String,
        /// The container.
        container: String,
        /// What is wrong.
        detail: String,
    },
}

/// What a pod's sandbox is made from.
pub fn sandbox_config(
    pod: &PodInfo,
    options: &Options,
    node_resolver: &network::Resolver,
    attempt: u32,
) -> SandboxConfig {
    let spec = pod.spec();
    let resolver = network::resolver(pod, node_resolver, &options.cluster_dns, &options.cluster_domain);
    let node_if = |wanted: Option<bool>, other| if wanted == Some(true) { NamespaceMode::Node } else { other };
    let shared_pid = spec.share_process_namespace == Some(true);
    let pid = if shared_pid { NamespaceMode::Pod } else { NamespaceMode::Container };
    let sysctls = spec.security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    SandboxConfig {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        namespace: pod.namespace.clone(),
        attempt,
        hostname: network::hostname(pod, &options.node_name, &options.cluster_domain),
        log_directory: log_directory(options, pod),
        dns_servers: resolver.servers,
        dns_searches: resolver.searches,
        dns_options: resolver.options,
        port_mappings: port_mappings(pod),
        network: node_if(spec.host_network, NamespaceMode::Pod),
        pid: node_if(spec.host_pid, pid),
        ipc: node_if(spec.host_ipc, NamespaceMode::Pod),
        sysctls: sysctls.into_iter().flatten().map(|one| (one.name.replace('/', "."), one.value.clone())).collect(),
        cgroup_parent: limits::cgroup_parent(pod),
        resources: limits::pod_limits(pod),
        labels: {
            let mut labels = pod.pod.metadata.labels.clone().unwrap_or_default();
            labels.extend(labels_of(pod));
            labels
        },
        annotations: BTreeMap::from([(GRACE_ANNOTATION.to_owned(), pod.grace().as_secs().to_string())]),
    }
}

/// Where a pod's logs go.
pub fn log_directory(options: &Options, pod: &PodInfo) -> PathBuf {
    options.log_dir.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

fn labels_of(pod: &PodInfo) -> BTreeMap<String, String> {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    BTreeMap::from([
        label(LABEL_POD_NAME, &pod.name),
        label(LABEL_POD_NAMESPACE, &pod.namespace),
        label(LABEL_POD_UID, &pod.uid),
    ])
}

fn port_mappings(pod: &PodInfo) -> Vec<PortMapping> {
    if pod.host_network() {
        return Vec::new();
    }
    let members = pod.members.iter().filter(|member| matches!(member.role, Role::App | Role::Sidecar));
    let ports = members.flat_map(|member| member.container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(PortMapping {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                container_port: u16::try_from(port.container_port).ok()?,
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// What is known when a container is described.
pub struct Parts<'a> {
    /// Everything the environment needs.
    pub env: env::EnvFacts<'a>,
    /// The image as the runtime named it.
    pub image: String,
    /// What is known of it.
    pub image_status: Option<&'a ImageStatus>,
    /// The mounts, ready.
    pub mounts: Vec<runtime::Mount>,
    /// Where the termination message will lie.
    pub message_path: &'a Path,
    /// The container an ephemeral one joins.
    pub target: Option<runtime::ContainerId>,
}

/// What a container is made from.
pub fn container_config(
    pod: &PodInfo,
    member: &Member,
    attempt: u32,
    options: &Options,
    parts: Parts<'_>,
) -> Result<ContainerConfig, ConfigError> {
    let container = &member.container;
    let envs = env::environment(container, &parts.env)?;
    let value = |name: &str| envs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| env::expand(word, &value)).collect()
    };
    let mut labels = labels_of(pod);
    labels.insert(LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    let policy = container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    let annotations = BTreeMap::from([
        (HASH_ANNOTATION.to_owned(), spec_hash(member)),
        (MESSAGE_PATH_ANNOTATION.to_owned(), parts.message_path.to_string_lossy().into_owned()),
        (MESSAGE_POLICY_ANNOTATION.to_owned(), policy),
    ]);
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt,
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: parts.mounts,
        devices: Vec::new(),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        resources: limits::limits(pod, container.resources.as_ref(), options.machine.memory),
        security: security::security(pod, member, parts.image_status, &options.data_dir)?,
        pid: parts.target.map(NamespaceMode::Target),
        image: parts.image,
        envs,
        labels,
        annotations,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// ConfigMaps and Secrets from JSON.
    #[derive(Default)]
    pub(crate) struct Objects {
        config_maps: BTreeMap<String, Arc<ConfigMap>>,
        secrets: BTreeMap<String, Arc<Secret>>,
    }

    impl Objects {
        pub(crate) fn from_json(config_maps: Value, secrets: Value) -> Objects {
            let each = |value: &Value| -> Vec<(String, Value)> {
                let objects = value.as_object().into_iter().flatten();
                objects.map(|(name, data)| (name.clone(), json!({"metadata": {"name": name}, "data": data}))).collect()
            };
            let parse = "an object";
            Objects {
                config_maps: each(&config_maps)
                    .into_iter()
                    .map(|(name, object)| (name, Arc::new(serde_json::from_value(object).expect(parse))))
                    .collect(),
                secrets: each(&secrets)
                    .into_iter()
                    .map(|(name, object)| (name, Arc::new(serde_json::from_value(object).expect(parse))))
                    .collect(),
            }
        }
    }

    impl Source for Objects {
        fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
            self.config_maps.get(name).cloned()
        }
        fn secret(&self, name: &str) -> Option<Arc<Secret>> {
            self.secrets.get(name).cloned()
        }
    }

    /// A pod of one container called `app`.
    pub(crate) fn pod_with(mut container: Value) -> PodInfo {
        container["name"] = "app".into();
        crate::pod::tests::pod(json!({"containers": [container]}))
    }

    /// Fields of a pod on `node-1`.
    pub(crate) fn fields(pod: &PodInfo) -> fields::FieldFacts<'_> {
        static POD_IPS: std::sync::LazyLock<Vec<String>> =
            std::sync::LazyLock::new(|| vec!["10.42.0.5".to_owned(), "fd00::5".to_owned()]);
        static NODE: std::sync::LazyLock<BTreeMap<String, i128>> =
            std::sync::LazyLock::new(|| BTreeMap::from([("memory".to_owned(), (4i128 << 30) * 1000)]));
        fields::FieldFacts {
            pod,
            container: "app",
            pod_ips: &POD_IPS,
            host_ips: &[],
            node_name: "node-1",
            allocatable_milli: &NODE,
        }
    }

    #[test]
    fn commands_use_the_environment() {
        let pod =
            pod_with(json!({"command": ["echo", "$(A)"], "args": ["$(B)"], "env": [{"name": "A", "value": "1"}]}));
        let objects = Objects::default();
        let options = Options::new("node-1", Path::new("/d"), Path::new("/l"));
        let parts = Parts {
            env: env::EnvFacts { source: &objects, services: &[], fields: fields(&pod), volume_file: &|_, _| Ok(None) },
            image: "busybox".into(),
            image_status: None,
            mounts: vec![],
            message_path: Path::new("/d/m"),
            target: None,
        };
        let config = container_config(&pod, &pod.members[0], 0, &options, parts).expect("a config");
        assert_eq!((config.command, config.args), (vec!["echo".to_owned(), "1".into()], vec!["$(B)".to_owned()]));
    }

    #[test]
    fn host_ports_are_mapped_unless_the_network_is_the_hosts() {
        let pod = pod_with(json!({"ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}));
        let found = port_mappings(&pod);
        assert_eq!((found.len(), found[0].host_port, found[0].container_port), (1, 8080, 80));
    }
}

//! What `skerry` tells the kubelet about this node.
//!
//! Start at [`Options`]. Values only; nothing here is read from a file or the kernel except by [`Machine::read`].
//!
//! Not here: flags and their help (`skerry`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base::Bytes;
use k8s_openapi::api::core::v1::Taint;
use tokio::sync::watch;

use crate::volumes::Helper;

/// The port of the kubelet's HTTPS API.
pub const PORT: u16 = 10250;
/// Pods a node takes; upstream's default.
pub const PODS_MAX: u32 = 110;

/// What may change while the kubelet runs.
pub type Live<T> = watch::Receiver<T>;

/// What does not.
pub fn fixed<T>(value: T) -> Live<T> {
    watch::channel(value).1
}

/// What this node is and where things lie on it.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Node object's name.
    pub node_name: String,
    /// The folder for volumes and the kubelet's own files (`D/kubelet`). Made if missing.
    pub data_dir: PathBuf,
    /// The folder for container logs (`D/log/pods`). Made if missing.
    pub log_dir: PathBuf,
    /// The node's own addresses, the primary first; they may change.
    pub addresses: Live<Vec<IpAddr>>,
    /// Where the HTTPS API listens; `None` serves none.
    pub listen: Option<SocketAddr>,
    /// Keys for the HTTPS API, which are renewed now and then. Until there are some, nobody who connects is answered.
    pub tls: Live<Option<Tls>>,
    /// Common names of client certificates that may use the HTTPS API, such as `kube-apiserver-kubelet-client`.
    /// Members of `system:masters` (the organisation) may always.
    pub authorised_users: BTreeSet<String>,
    /// The address of the cluster's DNS service; empty makes `ClusterFirst` behave as `Default`.
    pub cluster_dns: Vec<IpAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// The node's own resolver file, for `dnsPolicy: Default` and as upstream of the rest.
    pub resolv_conf: PathBuf,
    /// Extra labels for the Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node object when it is made; afterwards they are the administrator's.
    pub taints: Vec<Taint>,
    /// The pods this node takes at most.
    pub pods_max: u32,
    /// CPU kept back from pods, in milli-CPU.
    pub reserved_cpu_milli: u64,
    /// Memory kept back from pods.
    pub reserved_memory: Bytes,
    /// Whether NTP keeps this machine's clock: its Lease says so to those that know the time from nobody.
    pub clock_is_kept: fn() -> bool,
    /// What the machine has.
    pub machine: Machine,
    /// Such as `skerry://0.1.0`.
    pub runtime_version: String,
    /// A folder of manifests run without an API server; `None` looks nowhere.
    pub static_pods: Option<PathBuf>,
    /// Where the node remembers its pods, to start them without a server; `None` where the server is in this process.
    pub checkpoints: Option<PathBuf>,
    /// Encrypts what it remembers.
    pub checkpoint_key: Option<crate::checkpoint::Key>,
    /// The images that other nodes may have from this one; `None` hands on none.
    pub images: Option<oci::Store>,
    /// How this program is started again to touch NFS.
    pub mount_helper: Helper,
    /// The folder for volumes of the class `local` (`D/kubelet/local`). Made when one is.
    pub local_volumes: PathBuf,
}

/// The kubelet's server certificate and the CA its clients' certificates must come from, all DER.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// The certificate and its chain, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// The key, PKCS#8.
    pub key: Vec<u8>,
    /// The cluster's client CA.
    pub client_ca: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key stays out of logs.
        write!(out, "Tls({} certificates)", self.certificates.len())
    }
}

/// What the machine has and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Memory.
    pub memory: Bytes,
    /// The size of the file system that holds the data.
    pub storage: Bytes,
    /// `amd64`, `arm64`, as Go names them.
    pub architecture: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's UUID, or the machine id.
    pub system_uuid: String,
    /// This boot's id.
    pub boot_id: String,
}

impl Machine {
    /// Reads `/proc`, `/sys` and `/etc` of this machine; what is not there stays empty. `storage` is the caller's to say.
    pub fn read(storage: Bytes) -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let os_release = [text("/etc/os-release"), text("/usr/lib/os-release")].concat();
        let machine_id = text("/etc/machine-id");
        let uuid = text("/sys/class/dmi/id/product_uuid");
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, |count| count.get() as u64),
            memory: meminfo_total(&text("/proc/meminfo")),
            storage,
            architecture: go_architecture(std::env::consts::ARCH).to_owned(),
            kernel_version: text("/proc/sys/kernel/osrelease"),
            os_image: os_release_pretty(&os_release),
            system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
        }
    }
}

fn meminfo_total(meminfo: &str) -> Bytes {
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    Bytes(kib.unwrap_or(0) * 1024)
}

fn os_release_pretty(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_else(|| "Linux".to_owned())
}

fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Options {
    /// The node's own addresses now, the primary first.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        self.addresses.borrow().clone()
    }

    /// A node with upstream's defaults: no HTTPS API, no DNS service.
    pub fn new(node_name: &str, data_dir: &Path, log_dir: &Path) -> Options {
        Options {
            node_name: node_name.to_owned(),
            data_dir: data_dir.to_owned(),
            log_dir: log_dir.to_owned(),
            addresses: fixed(Vec::new()),
            listen: None,
            tls: fixed(None),
            authorised_users: BTreeSet::from(["kube-apiserver-kubelet-client".to_owned()]),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pods_max: PODS_MAX,
            reserved_cpu_milli: 0,
            reserved_memory: Bytes(0),
            clock_is_kept: || false,
            machine: Machine::default(),
            runtime_version: "skerry://0.1.0".to_owned(),
            static_pods: None,
            checkpoints: None,
            checkpoint_key: None,
            images: None,
            mount_helper: Helper { program: std::env::current_exe().unwrap_or_default(), args: vec!["mounter".into()] },
            // Other machines read it, so it must not depend on where this program was started.
            local_volumes: std::path::absolute(data_dir.join("local")).unwrap_or_else(|_| data_dir.join("local")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(meminfo_total("MemTotal:       16 kB\nMemFree: 1 kB"), Bytes(16 * 1024));
        assert_eq!(meminfo_total("nothing"), Bytes(0));
    }

    #[test]
    fn the_image_is_called_by_its_pretty_name() {
        assert_eq!(os_release_pretty("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert_eq!(os_release_pretty(""), "Linux");
    }

    #[test]
    fn the_key_stays_out_of_debug_output() {
        let tls = Tls { certificates: vec![vec![1]], key: vec![7, 7, 7], client_ca: vec![] };
        assert_eq!(format!("{tls:?}"), "Tls(1 certificates)");
    }
}

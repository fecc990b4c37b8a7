//! The rights of a container: pod and container security contexts merged, and the checks upstream makes before a start.
//!
//! Start at [`security`].

use k8s_openapi::api::core::v1::{PodSecurityContext, SeccompProfile, SecurityContext as ApiSecurity};
use runtime::{ImageStatus, Seccomp, SecurityContext};

use super::ConfigError;
use crate::pod::{Member, PodInfo};

/// Paths hidden from containers that are not privileged; those of containerd.
const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// Paths such containers may read only.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Where `localhostProfile` is looked for, below the kubelet's folder.
const SECCOMP_FOLDER: &str = "seccomp";

/// A container's rights; an error if the image would run as a user the pod forbids.
pub fn security(
    pod: &PodInfo,
    member: &Member,
    image: Option<&ImageStatus>,
    data_dir: &std::path::Path,
) -> Result<SecurityContext, ConfigError> {
    let whole = pod.spec().security_context.clone().unwrap_or_default();
    let own = member.container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(whole.run_as_user);
    check_non_root(pod, member, &whole, &own, run_as_user, image)?;
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths =
        |list: &[&str]| if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let named = |list: Option<Vec<String>>| -> Vec<String> {
        list.unwrap_or_default().iter().map(|name| name.trim_start_matches("CAP_").to_owned()).collect()
    };
    let mut groups = whole.supplemental_groups.clone().unwrap_or_default();
    groups.extend(whole.fs_group);
    Ok(SecurityContext {
        privileged,
        add_capabilities: named(capabilities.add),
        drop_capabilities: named(capabilities.drop),
        run_as_user,
        run_as_group: own.run_as_group.or(whole.run_as_group),
        supplemental_groups: groups,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED_PATHS),
        readonly_paths: paths(&READONLY_PATHS),
        seccomp: match own.seccomp_profile.as_ref().or(whole.seccomp_profile.as_ref()) {
            _ if privileged => Seccomp::Unconfined,
            profile => seccomp(profile, data_dir)?,
        },
    })
}

/// Upstream's kubelet leaves pods that ask for nothing unconfined (`--seccomp-default` is off, v1.36).
fn seccomp(profile: Option<&SeccompProfile>, data_dir: &std::path::Path) -> Result<Seccomp, ConfigError> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => match profile.localhost_profile.as_deref() {
            Some(name) if !name.is_empty() && !name.starts_with('/') && !name.contains("..") => {
                Ok(Seccomp::Localhost(data_dir.join(SECCOMP_FOLDER).join(name)))
            }
            _ => Err(ConfigError::Seccomp),
        },
        _ => Ok(Seccomp::Unconfined),
    }
}

fn check_non_root(
    pod: &PodInfo,
    member: &Member,
    whole: &PodSecurityContext,
    own: &ApiSecurity,
    run_as_user: Option<i64>,
    image: Option<&ImageStatus>,
) -> Result<(), ConfigError> {
    if own.run_as_non_root.or(whole.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: \"{}\", container: {})", pod.full_name(), member.name());
    if let Some(user) = run_as_user {
        let broken = format!("container's runAsUser breaks non-root policy {place}");
        return if user == 0 { Err(ConfigError::NonRoot(broken)) } else { Ok(()) };
    }
    let Some(image) = image else { return Ok(()) };
    match image.uid {
        Some(0) => Err(ConfigError::NonRoot(format!("container has runAsNonRoot and image will run as root {place}"))),
        Some(_) => Ok(()),
        None if image.username.is_empty() || image.username == "root" => {
            Err(ConfigError::NonRoot(format!("container has runAsNonRoot and image will run as root {place}")))
        }
        None => Err(ConfigError::NonRoot(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        ))),
    }
}

/// Namespaced sysctls upstream calls safe: any pod may set them.
const SAFE_SYSCTLS: [&str; 13] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
];

/// The first sysctl a pod asks for and may not set.
pub fn forbidden_sysctl(pod: &PodInfo) -> Option<String> {
    let sysctls = pod.spec().security_context.as_ref().and_then(|security| security.sysctls.as_ref());
    sysctls.into_iter().flatten().map(|sysctl| sysctl.name.replace('/', ".")).find(|name| {
        let of_host = name.starts_with("net.") && pod.host_network()
            || name.starts_with("kernel.") && pod.spec().host_ipc == Some(true);
        of_host || !SAFE_SYSCTLS.contains(&name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod_with;
    use super::*;
    use serde_json::json;

    fn image(uid: Option<i64>, username: &str) -> ImageStatus {
        ImageStatus {
            id: "sha256:1".into(),
            repo_tags: vec![],
            repo_digests: vec![],
            size: base::Bytes(1),
            uid,
            username: username.into(),
            pinned: false,
        }
    }

    #[track_caller]
    fn non_root(context: serde_json::Value, image: ImageStatus, wanted: Option<&str>) {
        let pod = pod_with(json!({"securityContext": context}));
        let found = security(&pod, &pod.members[0], Some(&image), std::path::Path::new("/d"));
        match wanted {
            None => assert!(found.is_ok(), "{found:?}"),
            Some(wanted) => assert!(found.is_err_and(|error| error.to_string().starts_with(wanted))),
        }
    }

    #[test]
    fn run_as_non_root_is_checked_against_the_image() {
        let wanted = json!({"runAsNonRoot": true});
        non_root(wanted.clone(), image(Some(1000), ""), None);
        non_root(wanted.clone(), image(Some(0), ""), Some("container has runAsNonRoot and image will run as root"));
        non_root(wanted.clone(), image(None, ""), Some("container has runAsNonRoot and image will run as root"));
        non_root(wanted, image(None, "app"), Some("container has runAsNonRoot and image has non-numeric user (app)"));
        let zero = json!({"runAsNonRoot": true, "runAsUser": 0});
        non_root(zero, image(Some(1000), ""), Some("container's runAsUser breaks non-root policy"));
        non_root(json!({"runAsNonRoot": true, "runAsUser": 5}), image(Some(0), ""), None);
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let mut pod =
            pod_with(json!({"securityContext": {"runAsUser": 7, "capabilities": {"add": ["CAP_NET_ADMIN"]}}}));
        let whole = json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]});
        pod.pod.spec.as_mut().expect("a spec").security_context = serde_json::from_value(whole).expect("a context");
        let found = security(&pod, &pod.members[0], None, std::path::Path::new("/d")).expect("allowed");
        assert_eq!((found.run_as_user, found.run_as_group), (Some(7), Some(2)));
        assert_eq!(found.supplemental_groups, [4, 3]);
        assert_eq!(found.add_capabilities, ["NET_ADMIN"]);
        assert!(!found.masked_paths.is_empty() && !found.no_new_privs);
    }

    #[test]
    fn unsafe_sysctls_are_named() {
        let mut pod = pod_with(json!({}));
        let with = |names: &[&str]| {
            let list: Vec<_> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
            serde_json::from_value(json!({"sysctls": list})).expect("a context")
        };
        pod.pod.spec.as_mut().expect("a spec").security_context = with(&["kernel.shm_rmid_forced"]);
        assert_eq!(forbidden_sysctl(&pod), None);
        pod.pod.spec.as_mut().expect("a spec").security_context = with(&["kernel.shm_rmid_forced", "kernel.msgmax"]);
        assert_eq!(forbidden_sysctl(&pod), Some("kernel.msgmax".to_owned()));
    }
}

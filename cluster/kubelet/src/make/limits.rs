//! Requests and limits in the words of the runtime, and the cgroup a pod belongs to.
//!
//! Start at [`limits`] and [`cgroup_parent`].

use base::Bytes;
use k8s_openapi::api::core::v1::ResourceRequirements;
use runtime::Resources;

use crate::pod::{PodInfo, Qos, Role};
use crate::quantity;

/// The period quotas are given for, in microseconds.
const PERIOD_US: u64 = 100_000;
/// The least quota the kernel takes.
const QUOTA_US_MIN: i64 = 1000;
const SHARES_MIN: u64 = 2;
const SHARES_MAX: u64 = 262_144;

/// The pod's cgroup, relative to the root.
pub fn cgroup_parent(pod: &PodInfo) -> String {
    match pod.qos() {
        Qos::Guaranteed => format!("kubepods/pod{}", pod.uid),
        Qos::Burstable => format!("kubepods/burstable/pod{}", pod.uid),
        Qos::BestEffort => format!("kubepods/besteffort/pod{}", pod.uid),
    }
}

/// A container's limits.
pub fn limits(pod: &PodInfo, resources: Option<&ResourceRequirements>, node_memory: Bytes) -> Resources {
    let amount = |limits: bool, name: &str| {
        let map = resources
            .and_then(|resources| if limits { resources.limits.as_ref() } else { resources.requests.as_ref() });
        map.and_then(|map| map.get(name)).and_then(quantity::milli)
    };
    let (cpu_limit, memory_limit) = (amount(true, "cpu"), amount(true, "memory"));
    let cpu_request = amount(false, "cpu").or(cpu_limit).unwrap_or(0);
    let memory_request = amount(false, "memory").or(memory_limit).unwrap_or(0);
    let mut found = in_words(cpu_request, cpu_limit, memory_limit);
    found.oom_score_adj = oom_score_adj(pod, (memory_request / 1000) as u64, node_memory);
    found
}

/// The limits of a pod as a whole: the sum where every container has one.
pub fn pod_limits(pod: &PodInfo) -> Resources {
    let whole = pod.spec().resources.as_ref();
    let of_pod = |limits: bool, name: &str| {
        let map = whole.and_then(|whole| if limits { whole.limits.as_ref() } else { whole.requests.as_ref() });
        map.and_then(|map| map.get(name)).and_then(quantity::milli)
    };
    let each = |name: &str, limit: bool| -> (i128, bool) {
        let (mut kept, mut init_peak, mut complete) = (0, 0, true);
        for member in &pod.members {
            let resources = member.container.resources.clone().unwrap_or_default();
            let map = if limit { resources.limits } else { resources.requests };
            let amount = map.as_ref().and_then(|map| map.get(name)).and_then(quantity::milli);
            complete &= amount.is_some() || member.role == Role::Ephemeral;
            match member.role {
                Role::Init => init_peak = init_peak.max(kept + amount.unwrap_or(0)),
                _ => kept += amount.unwrap_or(0),
            }
        }
        (kept.max(init_peak), complete)
    };
    let limit_of =
        |name: &str| of_pod(true, name).or_else(|| Some(each(name, true)).filter(|(_, all)| *all).map(|(sum, _)| sum));
    let request = of_pod(false, "cpu").unwrap_or_else(|| each("cpu", false).0);
    in_words(request, limit_of("cpu"), limit_of("memory"))
}

fn in_words(cpu_request: i128, cpu_limit: Option<i128>, memory_limit: Option<i128>) -> Resources {
    let quota = cpu_limit
        .filter(|milli| *milli > 0)
        .map(|milli| ((milli as i64) * (PERIOD_US as i64) / 1000).max(QUOTA_US_MIN));
    Resources {
        cpu_shares: Some(((cpu_request.max(0) as u64) * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX)),
        cpu_quota: quota,
        cpu_period: quota.map(|_| PERIOD_US),
        memory_limit: memory_limit.filter(|milli| *milli > 0).map(|milli| Bytes((milli / 1000) as u64)),
        ..Resources::default()
    }
}

/// Who dies first when memory runs out; upstream's formula.
fn oom_score_adj(pod: &PodInfo, request: u64, node_memory: Bytes) -> i64 {
    let critical = pod.spec().priority.is_some_and(|priority| priority >= 2_000_000_000);
    match pod.qos() {
        _ if critical => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let share = (request as i128 * 1000 / i128::from(node_memory.0.max(1))) as i64;
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod_with;
    use super::*;
    use serde_json::json;

    #[test]
    fn cpu_and_memory_become_shares_quota_and_bytes() {
        let resources =
            json!({"requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "2Gi"}});
        let pod = pod_with(json!({"resources": resources}));
        let found = limits(&pod, pod.members[0].container.resources.as_ref(), Bytes(4 << 30));
        assert_eq!((found.cpu_shares, found.cpu_quota, found.cpu_period), (Some(256), Some(50_000), Some(100_000)));
        assert_eq!((found.memory_limit, found.oom_score_adj), (Some(Bytes(2 << 30)), 750));
        assert_eq!(cgroup_parent(&pod), "kubepods/burstable/podu1");
    }

    #[test]
    fn a_pod_without_requests_gets_the_least() {
        let pod = pod_with(json!({}));
        let found = limits(&pod, None, Bytes(4 << 30));
        assert_eq!(
            (found.cpu_shares, found.cpu_quota, found.memory_limit, found.oom_score_adj),
            (Some(2), None, None, 1000)
        );
        assert_eq!(cgroup_parent(&pod), "kubepods/besteffort/podu1");
    }
}

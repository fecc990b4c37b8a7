//! What a pod asks of a node: the resources that count against it.
//!
//! Start at [`Request::of`].
//!
//! See <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers>.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// Amounts: of the three resources that nearly every pod asks for, and of any others by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Thousandths of a core.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of `ephemeral-storage`.
    pub storage: i64,
    /// Everything else, each in its own unit (pieces, bytes).
    pub others: BTreeMap<String, i64>,
}

impl Request {
    /// What is asked for by a pod: the larger of what runs together and of what each init container needs in its turn,
    /// with the pod's overhead.
    pub fn of(pod: &Pod) -> Request {
        let Some(spec) = &pod.spec else { return Request::default() };
        let mut total = of_containers(spec);
        if let Some(whole) = spec.resources.as_ref().and_then(|whole| whole.requests.as_ref()) {
            // Requests of the pod as a whole replace the sum of the containers'.
            put(&mut total, whole);
        }
        total.add(&read(spec.overhead.as_ref()));
        total
    }

    /// What a node has.
    pub fn allocatable(amounts: Option<&BTreeMap<String, Text>>) -> Request {
        read(amounts)
    }

    /// An amount; 0 if there is none.
    pub fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.milli_cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.storage,
            other => self.others.get(other).copied().unwrap_or_default(),
        }
    }

    /// Adds `other`, resource by resource.
    pub fn add(&mut self, other: &Request) {
        self.merge(other, |mine, amount| mine + amount);
    }

    /// Takes `other` away, resource by resource.
    pub fn subtract(&mut self, other: &Request) {
        self.merge(other, |mine, amount| mine - amount);
    }

    fn max(&mut self, other: &Request) {
        self.merge(other, i64::max);
    }

    fn merge(&mut self, other: &Request, change: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = change(self.milli_cpu, other.milli_cpu);
        self.memory = change(self.memory, other.memory);
        self.storage = change(self.storage, other.storage);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = change(*mine, *amount);
        }
    }

    fn set(&mut self, name: &str, amount: i64) {
        match name {
            "cpu" => self.milli_cpu = amount,
            "memory" => self.memory = amount,
            "ephemeral-storage" => self.storage = amount,
            other => drop(self.others.insert(other.to_owned(), amount)),
        }
    }
}

fn of_containers(spec: &PodSpec) -> Request {
    let mut together = Request::default();
    for container in &spec.containers {
        together.add(&of_container(container));
    }
    // A sidecar stays from its turn on, so what starts after it needs room beside it.
    let mut sidecars = Request::default();
    let mut in_turn = Request::default();
    for container in spec.init_containers.iter().flatten() {
        let asked = of_container(container);
        let mut now = sidecars.clone();
        now.add(&asked);
        in_turn.max(&now);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&asked);
        }
    }
    together.add(&sidecars);
    together.max(&in_turn);
    together
}

fn of_container(container: &Container) -> Request {
    container.resources.as_ref().map(amounts).unwrap_or_default()
}

fn amounts(resources: &ResourceRequirements) -> Request {
    read(resources.requests.as_ref())
}

fn read(amounts: Option<&BTreeMap<String, Text>>) -> Request {
    let mut request = Request::default();
    amounts.into_iter().for_each(|amounts| put(&mut request, amounts));
    request
}

fn put(into: &mut Request, amounts: &BTreeMap<String, Text>) {
    for (name, text) in amounts {
        // The API server has checked it; what is no quantity all the same asks for nothing.
        let Ok(quantity) = Quantity::parse(&text.0) else { continue };
        into.set(name, if name == "cpu" { quantity.milli_value() } else { quantity.value() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(spec: serde_json::Value, cpu: i64) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod");
        assert_eq!(Request::of(&pod).get("cpu"), cpu);
    }

    fn container(cpu: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn containers_add_up() {
        check(json!({"containers": [container("100m"), container("1")]}), 1100);
    }

    #[test]
    fn an_init_container_counts_if_it_needs_more() {
        check(json!({"initContainers": [container("2")], "containers": [container("1")]}), 2000);
        check(json!({"initContainers": [container("500m")], "containers": [container("1")]}), 1000);
    }

    #[test]
    fn a_sidecar_counts_beside_what_follows_it() {
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        check(json!({"initContainers": [sidecar.clone(), container("2")], "containers": [container("1")]}), 3000);
        check(json!({"initContainers": [container("2"), sidecar], "containers": [container("1")]}), 2000);
    }

    #[test]
    fn overhead_is_added() {
        check(json!({"containers": [container("1")], "overhead": {"cpu": "250m"}}), 1250);
    }
}

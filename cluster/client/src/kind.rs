//! The resources that components read and write as types.
//!
//! Start at [`Kind`]. One table at the end says, for each typed kind, where it lives in the API.
//!
//! Invariants:
//! * `decode` and `encode` are compiled here, once a kind, and nowhere else: JSON code for a Pod is large;
//! * a [`Resource`] names a place in the API, never an object.
//!
//! Not here: kinds nobody handles as a type (the garbage collector works on [`Resource`]s and metadata alone).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v1 as autoscaling, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy,
    scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::Collection;

/// A kind of object, and where the API serves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// `""` for the core group.
    pub group: Cow<'static, str>,
    /// Such as `v1`.
    pub version: Cow<'static, str>,
    /// Such as `pods`.
    pub plural: Cow<'static, str>,
    /// Such as `Pod`.
    pub kind: Cow<'static, str>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// A resource known when compiling.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Resource {
        Resource {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            plural: Cow::Borrowed(plural),
            kind: Cow::Borrowed(kind),
            namespaced,
        }
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// All its objects.
    pub fn all(&self) -> Collection {
        Collection::all(&self.group, &self.version, &self.plural)
    }

    /// Its objects in one namespace.
    pub fn within(&self, namespace: &str) -> Collection {
        let namespace = (self.namespaced && !namespace.is_empty()).then(|| namespace.to_owned());
        Collection { namespace, ..self.all() }
    }

    /// The path of one object; `subresource` may be empty.
    pub fn path(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = format!("{}/{name}", self.within(namespace).path());
        if !subresource.is_empty() {
            path.push('/');
            path.push_str(subresource);
        }
        path
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.group.is_empty() { out.write_str(&self.plural) } else { write!(out, "{}.{}", self.plural, self.group) }
    }
}

/// A Rust type of an object of the API.
pub trait Kind: k8s_openapi::Metadata<Ty = ObjectMeta> + Clone + Default + fmt::Debug + Send + Sync + 'static {
    /// Where it lives.
    const RESOURCE: &'static Resource;

    /// Reads the object's JSON.
    fn decode(object: &[u8]) -> Result<Self, serde_json::Error>;

    /// Writes it, `apiVersion` and `kind` included.
    fn encode(&self) -> Bytes;

    /// `metadata.namespace`, or `""`.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.name`, or `""`.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, or `""`.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    /// Whether it has a `deletionTimestamp`.
    fn deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }
}

macro_rules! kinds {
    ($($type:ty: $group:literal $version:literal $plural:literal $kind:literal $namespaced:literal;)*) => {$(
        impl Kind for $type {
            const RESOURCE: &'static Resource = &Resource::new($group, $version, $plural, $kind, $namespaced);
            fn decode(object: &[u8]) -> Result<Self, serde_json::Error> {
                serde_json::from_slice(object)
            }
            fn encode(&self) -> Bytes {
                // These types hold maps with string keys and finite numbers only, which JSON always has a form for.
                Bytes::from(serde_json::to_vec(self).expect("an API object has a JSON form"))
            }
        }
    )*};
}

kinds! {
    core::ConfigMap: "" "v1" "configmaps" "ConfigMap" true;
    core::Endpoints: "" "v1" "endpoints" "Endpoints" true;
    core::Event: "" "v1" "events" "Event" true;
    core::LimitRange: "" "v1" "limitranges" "LimitRange" true;
    core::Namespace: "" "v1" "namespaces" "Namespace" false;
    core::Node: "" "v1" "nodes" "Node" false;
    core::PersistentVolume: "" "v1" "persistentvolumes" "PersistentVolume" false;
    core::PersistentVolumeClaim: "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim" true;
    core::Pod: "" "v1" "pods" "Pod" true;
    core::ReplicationController: "" "v1" "replicationcontrollers" "ReplicationController" true;
    core::ResourceQuota: "" "v1" "resourcequotas" "ResourceQuota" true;
    core::Secret: "" "v1" "secrets" "Secret" true;
    core::Service: "" "v1" "services" "Service" true;
    core::ServiceAccount: "" "v1" "serviceaccounts" "ServiceAccount" true;
    apps::ControllerRevision: "apps" "v1" "controllerrevisions" "ControllerRevision" true;
    apps::DaemonSet: "apps" "v1" "daemonsets" "DaemonSet" true;
    apps::Deployment: "apps" "v1" "deployments" "Deployment" true;
    apps::ReplicaSet: "apps" "v1" "replicasets" "ReplicaSet" true;
    apps::StatefulSet: "apps" "v1" "statefulsets" "StatefulSet" true;
    autoscaling::HorizontalPodAutoscaler: "autoscaling" "v1" "horizontalpodautoscalers" "HorizontalPodAutoscaler" true;
    batch::CronJob: "batch" "v1" "cronjobs" "CronJob" true;
    batch::Job: "batch" "v1" "jobs" "Job" true;
    coordination::Lease: "coordination.k8s.io" "v1" "leases" "Lease" true;
    discovery::EndpointSlice: "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice" true;
    networking::Ingress: "networking.k8s.io" "v1" "ingresses" "Ingress" true;
    networking::NetworkPolicy: "networking.k8s.io" "v1" "networkpolicies" "NetworkPolicy" true;
    policy::PodDisruptionBudget: "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget" true;
    scheduling::PriorityClass: "scheduling.k8s.io" "v1" "priorityclasses" "PriorityClass" false;
    storage::StorageClass: "storage.k8s.io" "v1" "storageclasses" "StorageClass" false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_agrees_with_the_types() {
        fn check<T: Kind + k8s_openapi::Resource>() {
            let ours = T::RESOURCE;
            assert_eq!(
                (ours.group.as_ref(), ours.version.as_ref(), ours.plural.as_ref(), ours.kind.as_ref()),
                (T::GROUP, T::VERSION, T::URL_PATH_SEGMENT, T::KIND)
            );
        }
        check::<core::Pod>();
        check::<core::Endpoints>();
        check::<core::ReplicationController>();
        check::<apps::ControllerRevision>();
        check::<batch::CronJob>();
        check::<discovery::EndpointSlice>();
        check::<policy::PodDisruptionBudget>();
        check::<coordination::Lease>();
    }

    #[test]
    fn paths_name_the_object() {
        assert_eq!(core::Node::RESOURCE.path("", "a", "status"), "/api/v1/nodes/a/status");
        assert_eq!(batch::Job::RESOURCE.path("x", "a", ""), "/apis/batch/v1/namespaces/x/jobs/a");
    }

    #[test]
    fn objects_of_another_release_are_read() {
        // What a newer release adds is passed over, at every level; what an older one did not write has its default.
        let newer = br#"{
            "apiVersion": "v1", "kind": "Pod", "added": {"a": [1]},
            "metadata": {"name": "p", "added": true},
            "spec": {
                "added": [{}], "containers": [{"name": "c", "image": "i", "added": {"b": null}}],
                "volumes": [{"name": "v", "addedSource": {"path": "/x"}}], "restartPolicy": "AddedPolicy"
            },
            "status": {"phase": "Added", "conditions": [{"type": "Added", "status": "True", "added": 1}]}
        }"#;
        let pod = core::Pod::decode(newer).expect("a pod");
        let spec = pod.spec.expect("a spec");
        assert_eq!((spec.containers[0].name.as_str(), spec.restart_policy.as_deref()), ("c", Some("AddedPolicy")));
        assert_eq!(spec.volumes.expect("volumes")[0].name, "v");
        let older = core::Pod::decode(br#"{"metadata": {"name": "p"}, "spec": {}}"#).expect("a pod");
        assert!(older.status.is_none() && older.spec.expect("a spec").containers.is_empty());
    }
}

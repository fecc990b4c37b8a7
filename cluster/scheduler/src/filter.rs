//! Why a pod cannot be on a node.
//!
//! Start at [`Question::check`]: the filters in order, the first that objects is heard.
//!
//! What concerns the whole cluster is read once for a pod, in [`Question::new`]; a filter then looks at one node.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::affinity::{Domains, Term, node_matches, required_affinity, required_anti_affinity, tolerates};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::spread::Spread;
use crate::volumes::{Needs, Volumes};

/// Why not, in upstream's words: `kubectl describe pod` shows them, and people search for them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Not this node by name.
    NodeName,
    /// Cordoned.
    Unschedulable,
    /// A taint nobody tolerates.
    Taint {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// `nodeSelector` or required node affinity.
    NodeAffinity,
    /// A host port is taken.
    Ports,
    /// Not enough of a resource.
    Insufficient(String),
    /// The node has as many pods as it takes.
    TooManyPods,
    /// Required pod affinity.
    PodAffinity,
    /// Required pod anti-affinity of this pod.
    PodAntiAffinity,
    /// Required anti-affinity of a pod that is there.
    ExistingAntiAffinity,
    /// A hard topology spread constraint.
    Spread,
    /// The node lacks the label a hard topology spread constraint goes by.
    SpreadLabel,
    /// A claim that only one pod may use is used by another.
    VolumeTaken,
    /// A claim's volume is gone.
    VolumeGone,
    /// A claim's volume cannot be reached from the node.
    VolumeNode,
    /// A claim that waits for its pod finds no volume here, and nobody makes one.
    VolumeNone,
}

impl Reason {
    /// Whether taking pods away from the node could help.
    pub fn yields_to_preemption(&self) -> bool {
        !matches!(
            self,
            Reason::NodeName
                | Reason::Unschedulable
                | Reason::Taint { .. }
                | Reason::NodeAffinity
                | Reason::PodAffinity
                | Reason::SpreadLabel
                | Reason::VolumeGone
                | Reason::VolumeNode
                | Reason::VolumeNone
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NodeName => write!(out, "node(s) didn't match the requested node name"),
            Reason::Unschedulable => write!(out, "node(s) were unschedulable"),
            Reason::Taint { key, value } => write!(out, "node(s) had untolerated taint {{{key}: {value}}}"),
            Reason::NodeAffinity => write!(out, "node(s) didn't match Pod's node affinity/selector"),
            Reason::Ports => write!(out, "node(s) didn't have free ports for the requested pod ports"),
            Reason::Insufficient(name) => write!(out, "Insufficient {name}"),
            Reason::TooManyPods => write!(out, "Too many pods"),
            Reason::PodAffinity => write!(out, "node(s) didn't match pod affinity rules"),
            Reason::PodAntiAffinity => write!(out, "node(s) didn't match pod anti-affinity rules"),
            Reason::ExistingAntiAffinity => write!(out, "node(s) didn't satisfy existing pods anti-affinity rules"),
            Reason::Spread => write!(out, "node(s) didn't match pod topology spread constraints"),
            Reason::SpreadLabel => {
                write!(out, "node(s) didn't match pod topology spread constraints (missing required label)")
            }
            Reason::VolumeTaken => {
                write!(
                    out,
                    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
                )
            }
            Reason::VolumeGone => {
                write!(out, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
            }
            Reason::VolumeNode => write!(out, "node(s) didn't match PersistentVolume's node affinity"),
            Reason::VolumeNone => write!(out, "node(s) didn't find available persistent volumes to bind"),
        }
    }
}

type Filter = fn(&Question<'_>, &NodeInfo) -> Vec<Reason>;

/// The filters in upstream's order: cheap ones first.
const FILTERS: [Filter; 9] =
    [unschedulable, node_name, taints, node_affinity, ports, resources, volumes, spread, pod_affinity];

/// A pod that looks for a node, with what the cluster as a whole means for it.
pub(crate) struct Question<'a> {
    /// The pod.
    pub(crate) pod: &'a PodInfo,
    tolerations: &'a [Toleration],
    /// Hard constraints.
    spread: Vec<Spread<'a>>,
    /// Domains, as label and value, out of which pods that are there keep it.
    forbidden: BTreeSet<(String, String)>,
    /// Its own anti-affinity: the label, and the pods in each of its domains.
    apart: Vec<(&'a str, Domains)>,
    /// Its own affinity.
    together: Vec<(&'a str, Domains)>,
    /// The first of a group that wants to be together has nobody to be with: it may go anywhere that has the labels.
    is_first: bool,
    /// Its claims; an error keeps it from every node.
    pub(crate) needs: Result<Needs<'a>, String>,
    all_volumes: &'a Volumes,
}

impl<'a> Question<'a> {
    /// Reads the cluster for this pod.
    pub(crate) fn new(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Question<'a> {
        let terms = |terms: &'a [_]| terms.iter().map(|term| Term::new(term, &pod.pod)).collect::<Vec<_>>();
        let read = |terms: &[Term<'a>]| terms.iter().map(|term| (term.key, term.domains(snapshot))).collect::<Vec<_>>();
        let affine = terms(required_affinity(&pod.pod));
        let together = read(&affine);
        let is_first = !affine.is_empty()
            && affine.iter().all(|term| term.matches(&pod.pod, snapshot))
            && together.iter().all(|(_, domains)| domains.is_empty());
        Question {
            tolerations: tolerations(pod),
            spread: Spread::read(pod, snapshot, "DoNotSchedule"),
            forbidden: forbidden(pod, snapshot),
            apart: read(&terms(required_anti_affinity(&pod.pod))),
            together,
            is_first,
            needs: Needs::of(pod, snapshot),
            all_volumes: &snapshot.volumes,
            pod,
        }
    }

    /// What the first filter that objects says; nothing if the pod can be there.
    pub(crate) fn check(&self, node: &NodeInfo) -> Vec<Reason> {
        FILTERS.iter().map(|filter| filter(self, node)).find(|reasons| !reasons.is_empty()).unwrap_or_default()
    }
}

/// The pod's tolerations.
pub(crate) fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// The first taint of a node that keeps a pod away.
pub(crate) fn untolerated<'a>(tolerations: &[Toleration], node: &'a NodeInfo) -> Option<&'a Taint> {
    let taints = node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let mut binding = taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    binding.find(|taint| !tolerates(tolerations, taint))
}

fn forbidden(pod: &PodInfo, snapshot: &Snapshot) -> BTreeSet<(String, String)> {
    let mut forbidden = BTreeSet::new();
    for (node, other) in snapshot.pods_with_terms() {
        for term in required_anti_affinity(&other.pod) {
            if let Some(domain) = node.label(&term.topology_key)
                && Term::new(term, &other.pod).matches(&pod.pod, snapshot)
            {
                forbidden.insert((term.topology_key.clone(), domain.to_owned()));
            }
        }
    }
    forbidden
}

fn when(objection: bool, reason: Reason) -> Vec<Reason> {
    if objection { vec![reason] } else { Vec::new() }
}

fn unschedulable(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    if node.node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true) {
        return Vec::new();
    }
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
    when(!tolerates(question.tolerations, &taint), Reason::Unschedulable)
}

fn node_name(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    when(question.pod.node_name().is_some_and(|name| node.name != name), Reason::NodeName)
}

fn taints(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    let reason =
        |taint: &Taint| Reason::Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default() };
    untolerated(question.tolerations, node).map(reason).into_iter().collect()
}

fn node_affinity(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    when(!node_matches(&question.pod.pod, node), Reason::NodeAffinity)
}

fn ports(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    let any = "0.0.0.0";
    let clash = |mine: &(String, String, i32), other: &(String, String, i32)| {
        let addresses = mine.1 == other.1 || mine.1 == any || other.1 == any;
        addresses && mine.0 == other.0 && mine.2 == other.2
    };
    let mut mine = question.pod.ports.iter();
    let taken = mine.any(|mine| node.pods.iter().flat_map(|each| &each.ports).any(|other| clash(mine, other)));
    when(taken, Reason::Ports)
}

fn resources(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if node.allocatable.others.get("pods").is_some_and(|most| node.pods.len() as i64 >= *most) {
        reasons.push(Reason::TooManyPods);
    }
    let (asked, has, used) = (&question.pod.request, &node.allocatable, &node.requested);
    let mut need = |name: &str, asked: i64, free: i64| {
        if asked > 0 && asked > free {
            reasons.push(Reason::Insufficient(name.to_owned()));
        }
    };
    need("cpu", asked.milli_cpu, has.milli_cpu - used.milli_cpu);
    need("memory", asked.memory, has.memory - used.memory);
    need("ephemeral-storage", asked.storage, has.storage - used.storage);
    for (name, amount) in &asked.others {
        need(name, *amount, has.get(name) - used.get(name));
    }
    reasons
}

fn volumes(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    // Without needs there is no node at all; `place` says why.
    question.needs.as_ref().map_or_else(|_| vec![Reason::VolumeGone], |needs| needs.check(node, question.all_volumes))
}

fn spread(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    question.spread.iter().find_map(|each| each.objection(node)).into_iter().collect()
}

fn pod_affinity(question: &Question<'_>, node: &NodeInfo) -> Vec<Reason> {
    let count = |(key, domains): &(&str, Domains)| {
        let domain = node.label(key);
        domain.and_then(|domain| domains.get(domain)).copied().unwrap_or_default()
    };
    let is_here = |(key, value): &(String, String)| node.label(key) == Some(value);
    if question.forbidden.iter().any(is_here) {
        return vec![Reason::ExistingAntiAffinity];
    }
    if question.apart.iter().any(|term| count(term) > 0) {
        return vec![Reason::PodAntiAffinity];
    }
    let together = question.together.iter().all(|term| count(term) > 0);
    let first = question.is_first && question.together.iter().all(|(key, _)| node.label(key).is_some());
    when(!together && !first, Reason::PodAffinity)
}

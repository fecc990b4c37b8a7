//! Roles and bindings: who may do what.
//!
//! Start at [`allows`]. The stored objects are read into an index when it is first needed after a change.
//!
//! Invariants:
//! * the index never outlives a change to roles or bindings that was answered;
//! * nobody gives away what they do not have: see [`covers`].
//!
//! Not here: the roles every cluster starts with (`policy.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use api::selector::LabelSelector;
use api::{dig, meta};
use serde_json::{Value, json};

use crate::authorise::Wish;
use crate::{Api, User};

const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io/";
const ROLES: &str = "roles.rbac.authorization.k8s.io/";
const CLUSTER_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io/";
const BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io/";
/// Aggregated roles may be made of aggregated roles, so deep.
const AGGREGATION_DEPTH_MAX: usize = 4;

/// One rule of a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    paths: Vec<String>,
}

/// The rules in force.
#[derive(Default)]
pub(crate) struct Rules {
    generation: AtomicU64,
    index: Mutex<Option<(u64, Arc<Index>)>>,
}

type Granted = BTreeMap<Subject, Vec<Arc<Vec<Rule>>>>;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    User(String),
    Group(String),
}

#[derive(Default)]
pub(crate) struct Index {
    everywhere: Granted,
    within: BTreeMap<String, Granted>,
    cluster_roles: BTreeMap<String, Arc<Vec<Rule>>>,
    roles: BTreeMap<(String, String), Arc<Vec<Rule>>>,
}

impl Rules {
    /// A role or binding changed.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn index(&self, api: &Api) -> Arc<Index> {
        // Read before the objects are: an index made of older ones is then known to be old.
        let generation = self.generation.load(Ordering::SeqCst);
        let mut held = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some((its, index)) if *its == generation => index.clone(),
            _ => {
                let index = Arc::new(Index::build(api));
                *held = Some((generation, index.clone()));
                index
            }
        }
    }
}

/// Whether a role bound to the user allows it.
pub(crate) fn allows(api: &Api, user: &User, wish: &Wish<'_>) -> bool {
    let index = api.rules.index(api);
    index.rules(user, wish.namespace).any(|rule| rule.allows(wish))
}

/// Whether the user has every right that these rules give, in that namespace (or everywhere, if it is empty).
pub(crate) fn covers(api: &Api, user: &User, namespace: &str, rules: &[Rule]) -> bool {
    let index = api.rules.index(api);
    let own: Vec<&Rule> = index.rules(user, namespace).collect();
    rules.iter().flat_map(Rule::atoms).all(|atom| own.iter().any(|rule| rule.includes(&atom)))
}

/// The rules of the role that a binding refers to.
pub(crate) fn referred(api: &Api, namespace: &str, reference: &Value) -> Option<Arc<Vec<Rule>>> {
    let index = api.rules.index(api);
    index.role(namespace, dig::text(reference, "kind"), dig::text(reference, "name"))
}

/// The rules written in a role.
pub(crate) fn rules_of(role: &Value) -> Vec<Rule> {
    dig::list(role, "rules").iter().map(Rule::of).collect()
}

/// The user's rules in a namespace, as a SelfSubjectRulesReview tells them.
pub(crate) fn told(api: &Api, user: &User, namespace: &str) -> (Vec<Value>, Vec<Value>) {
    let index = api.rules.index(api);
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in index.rules(user, namespace) {
        if rule.paths.is_empty() {
            let mut told = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                told["resourceNames"] = json!(rule.names);
            }
            resources.push(told);
        } else {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.paths}));
        }
    }
    (resources, paths)
}

impl Index {
    fn build(api: &Api) -> Index {
        let mut index = Index::default();
        let cluster_roles = api.objects(CLUSTER_ROLES);
        for role in &cluster_roles {
            let rules = aggregated(role, &cluster_roles, AGGREGATION_DEPTH_MAX);
            index.cluster_roles.insert(meta::name(role).to_owned(), Arc::new(rules));
        }
        for role in api.objects(ROLES) {
            let key = (meta::namespace(&role).to_owned(), meta::name(&role).to_owned());
            index.roles.insert(key, Arc::new(rules_of(&role)));
        }
        for binding in api.objects(CLUSTER_BINDINGS) {
            if let Some(rules) = index.role("", "ClusterRole", dig::text(&binding, "roleRef.name")) {
                grant(&mut index.everywhere, &binding, &rules);
            }
        }
        for binding in api.objects(BINDINGS) {
            let namespace = meta::namespace(&binding).to_owned();
            let reference = &binding["roleRef"];
            if let Some(rules) = index.role(&namespace, dig::text(reference, "kind"), dig::text(reference, "name")) {
                grant(index.within.entry(namespace).or_default(), &binding, &rules);
            }
        }
        index
    }

    fn role(&self, namespace: &str, kind: &str, name: &str) -> Option<Arc<Vec<Rule>>> {
        match kind {
            "ClusterRole" => self.cluster_roles.get(name).cloned(),
            "Role" => self.roles.get(&(namespace.to_owned(), name.to_owned())).cloned(),
            _ => None,
        }
    }

    fn rules<'a>(&'a self, user: &User, namespace: &str) -> impl Iterator<Item = &'a Rule> {
        let groups = user.groups.iter().map(|group| Subject::Group(group.clone()));
        let subjects: Vec<Subject> = groups.chain([Subject::User(user.name.clone())]).collect();
        let granted = [Some(&self.everywhere), self.within.get(namespace)].into_iter().flatten();
        granted.flat_map(move |granted| {
            let found: Vec<&Arc<Vec<Rule>>> =
                subjects.iter().filter_map(|subject| granted.get(subject)).flatten().collect();
            found.into_iter().flat_map(|rules| rules.iter())
        })
    }
}

fn grant(granted: &mut Granted, binding: &Value, rules: &Arc<Vec<Rule>>) {
    for subject in dig::list(binding, "subjects") {
        let name = dig::text(subject, "name").to_owned();
        let subject = match dig::text(subject, "kind") {
            "User" => Subject::User(name),
            "Group" => Subject::Group(name),
            "ServiceAccount" => {
                let namespace = match dig::text(subject, "namespace") {
                    "" => meta::namespace(binding),
                    namespace => namespace,
                };
                Subject::User(format!("system:serviceaccount:{namespace}:{name}"))
            }
            _ => continue,
        };
        granted.entry(subject).or_default().push(rules.clone());
    }
}

/// A role's own rules and those of the roles it is made of.
fn aggregated(role: &Value, all: &[Value], depth: usize) -> Vec<Rule> {
    let mut rules = rules_of(role);
    let selectors = dig::list(role, "aggregationRule.clusterRoleSelectors");
    let selectors: Vec<LabelSelector> =
        selectors.iter().filter_map(|one| LabelSelector::from_object(one).ok()).collect();
    if selectors.is_empty() || depth == 0 {
        return rules;
    }
    for other in all.iter().filter(|other| meta::name(other) != meta::name(role)) {
        if selectors.iter().any(|selector| selector.matches(meta::labels(other))) {
            for rule in aggregated(other, all, depth - 1) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    rules
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

impl Rule {
    fn of(rule: &Value) -> Rule {
        let texts = |field: &str| dig::texts(rule, field).into_iter().map(str::to_owned).collect();
        Rule {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    fn allows(&self, wish: &Wish<'_>) -> bool {
        if !any(&self.verbs, wish.verb) {
            return false;
        }
        if !wish.path.is_empty() {
            return self.paths.iter().any(|path| covers_path(path, wish.path));
        }
        any(&self.groups, wish.group)
            && self.covers_resource(wish.resource, wish.subresource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == wish.name))
    }

    fn covers_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|one| match one.split_once('/') {
            _ if one == "*" => true,
            None => one == resource && subresource.is_empty(),
            Some((its, sub)) => (its == resource || its == "*") && sub == subresource && !subresource.is_empty(),
        })
    }

    /// The rule taken apart: one verb, one group, one resource and one name each.
    fn atoms(&self) -> Vec<Rule> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            let verbs = vec![verb.clone()];
            atoms.extend(self.paths.iter().map(|path| Rule {
                verbs: verbs.clone(),
                paths: vec![path.clone()],
                ..Rule::default()
            }));
            for (group, resource) in
                self.groups.iter().flat_map(|group| self.resources.iter().map(move |one| (group, one)))
            {
                let atom = Rule {
                    verbs: verbs.clone(),
                    groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    ..Rule::default()
                };
                if self.names.is_empty() {
                    atoms.push(atom);
                } else {
                    atoms.extend(self.names.iter().map(|name| Rule { names: vec![name.clone()], ..atom.clone() }));
                }
            }
        }
        atoms
    }

    /// Whether this rule gives at least what an atom gives.
    fn includes(&self, atom: &Rule) -> bool {
        let has_verb = atom.verbs.iter().all(|verb| any(&self.verbs, verb));
        if let Some(path) = atom.paths.first() {
            return has_verb && self.paths.iter().any(|own| own == path || covers_path(own, path));
        }
        let has_resource = atom.resources.iter().all(|resource| match resource.split_once('/') {
            None => any(&self.resources, resource),
            Some((_, sub)) => {
                any(&self.resources, resource) || self.resources.iter().any(|own| *own == format!("*/{sub}"))
            }
        });
        let has_name = self.names.is_empty()
            || (!atom.names.is_empty() && atom.names.iter().all(|name| self.names.contains(name)));
        has_verb && atom.groups.iter().all(|group| any(&self.groups, group)) && has_resource && has_name
    }
}

fn covers_path(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules and wishes as `verbs groups resources [names]`, groups with `core` for the empty one.
    fn rule(text: &str) -> Rule {
        let mut parts = text
            .split(' ')
            .map(|part| part.split(',').map(|one| if one == "core" { "" } else { one }.to_owned()).collect());
        let mut next = || parts.next().unwrap_or_default();
        Rule { verbs: next(), groups: next(), resources: next(), names: next(), paths: Vec::new() }
    }

    #[track_caller]
    fn check(role: &str, wish: Wish<'_>, allowed: bool) {
        assert_eq!(rule(role).allows(&wish), allowed, "{role} {wish:?}");
    }

    fn wish<'a>(verb: &'a str, resource: &'a str, subresource: &'a str, name: &'a str) -> Wish<'a> {
        Wish { verb, resource, subresource, name, namespace: "a", ..Wish::default() }
    }

    #[test]
    fn rules_allow_what_they_name() {
        check("get core pods", wish("get", "pods", "", "x"), true);
        check("get core pods", wish("get", "pods", "log", "x"), false);
        check("get core pods/log", wish("get", "pods", "log", "x"), true);
        check("get core */scale", wish("get", "pods", "scale", "x"), true);
        check("get core *", wish("get", "pods", "log", "x"), true);
        check("get apps pods", wish("get", "pods", "", "x"), false);
        check("list core pods", wish("get", "pods", "", "x"), false);
        check("get core pods x,y", wish("get", "pods", "", "x"), true);
        check("get core pods y", wish("get", "pods", "", "x"), false);
        check("* * *", wish("get", "pods", "", "x"), true);
    }

    #[test]
    fn paths_match_by_prefix() {
        let rule =
            Rule { verbs: vec!["get".into()], paths: vec!["/healthz".into(), "/api/*".into()], ..Rule::default() };
        for (path, allowed) in [("/healthz", true), ("/healthz/x", false), ("/api/v1", true), ("/apis", false)] {
            assert_eq!(rule.allows(&Wish { verb: "get", path, ..Wish::default() }), allowed, "{path}");
        }
    }

    #[track_caller]
    fn covered(own: &str, given: &str, enough: bool) {
        assert_eq!(rule(given).atoms().iter().all(|atom| rule(own).includes(atom)), enough, "{own} / {given}");
    }

    #[test]
    fn nobody_gives_what_they_lack() {
        covered("get,list core pods", "get core pods", true);
        covered("get core pods", "get,list core pods", false);
        covered("get core pods", "get core pods x", true);
        covered("get core pods x", "get core pods", false);
        covered("* * *", "* * *", true);
        covered("get core pods", "* * *", false);
        covered("get core *", "get core pods/log", true);
    }
}

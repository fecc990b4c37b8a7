//! Signs certificates: approves what nodes ask for themselves, signs what was approved, forgets what is long done.
//!
//! Start at [`Signing`].
//!
//! Invariants:
//! * only approved requests are signed, and only for what their signer is for;
//! * a node is approved only for its own name, and for serving only under the addresses that its Node has;
//! * a bootstrap token makes no second machine of a node that lives: a node is its key.
//!
//! Not here: who may approve by hand (`apiserver`), the key (`pki`).

use std::collections::BTreeSet;
use std::time::Duration;

use base::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use control::{About, Guard, Key, Outcome, Reconciler, Verb, View, Write, itself};
use k8s_openapi::api::core::v1::Node;
use pki::{Purpose, Requested};
use serde_json::{Value, json};

use crate::Signer;

const RESOURCE: &Resource =
    &Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false);
/// Who asks for less gets so much, unless certificates of this cluster last less in any case; as upstream.
const LIFE_MIN: Duration = Duration::from_secs(600);
/// Requests that came to an end are kept so long.
const DONE_TIME: Duration = Duration::from_secs(3_600);
/// A name that somebody else was given so shortly ago is not given again: that machine may be about to register.
const CLAIM_TIME: Duration = Duration::from_secs(300);
/// Requests that nobody answered are kept so long.
const PENDING_TIME: Duration = Duration::from_secs(86_400);

/// The signers of Kubernetes, by what follows `kubernetes.io/`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum For {
    /// `kube-apiserver-client`: any client of the API server.
    Client,
    /// `kube-apiserver-client-kubelet`: a node as a client.
    NodeClient,
    /// `kubelet-serving`: a node as a server.
    NodeServer,
}

/// The controller of certificate signing requests.
pub struct Signing {
    /// Signs.
    pub signer: Signer,
}

impl Reconciler for Signing {
    fn about(&self) -> About {
        About {
            name: "csrsigning-controller",
            reads: &[RESOURCE, Node::RESOURCE],
            writes: &["certificatesigningrequests.status", "certificatesigningrequests.approval"],
            everything: false,
        }
    }

    fn keys(&self, view: &View<'_>, collection: &Collection, entry: &Entry) -> Vec<Key> {
        if *collection == RESOURCE.all() {
            return itself(entry);
        }
        // A node that got its addresses may be what a request waits for.
        view.entries(RESOURCE, None).iter().map(|each| Key::new("", &each.meta.name)).collect()
    }

    fn reconcile(&self, view: &View<'_>, key: &Key, now: Timestamp) -> Outcome {
        let Some(entry) = view.cache(RESOURCE).and_then(|cache| cache.entry("", &key.name)) else {
            return Outcome::none();
        };
        let request: Value = serde_json::from_slice(&entry.object).unwrap_or_default();
        let conditions = Conditions::of(&request);
        let has_certificate = !request["status"]["certificate"].is_null();
        let (done, kept) = match conditions {
            Conditions::Open => (false, PENDING_TIME),
            Conditions::Approved if !has_certificate => (false, PENDING_TIME),
            _ => (true, DONE_TIME),
        };
        if let Some(wait) = left(&request, kept, now) {
            let wanted = if done { Outcome::none() } else { self.answer(view, &entry, request, conditions, now) };
            let again = Some(wanted.requeue_after.unwrap_or(wait));
            return Outcome { requeue_after: again, ..wanted };
        }
        Write::raw_delete(RESOURCE, &entry, DeleteOptions::default()).into()
    }
}

impl Signing {
    fn answer(
        &self,
        view: &View<'_>,
        entry: &Entry,
        request: Value,
        conditions: Conditions,
        now: Timestamp,
    ) -> Outcome {
        let Some(purpose) = purpose(api::dig::text(&request, "spec.signerName")) else { return Outcome::none() };
        let Some(pem) = pem(&request) else { return Outcome::none() };
        let asked = pki::requested(&pem);
        match (conditions, asked) {
            (Conditions::Approved, Err(error)) => failed(entry, request, &error.to_string(), now).into(),
            (Conditions::Approved, Ok(asked)) => match suits(purpose, &asked, &request) {
                Err(why) => failed(entry, request, &why, now).into(),
                Ok(()) => self.sign(purpose, &pem, entry, request, now).into(),
            },
            (_, Ok(asked)) => approve(view, purpose, &asked, entry, request, now),
            (_, Err(_)) => Outcome::none(),
        }
    }

    fn sign(&self, purpose: For, pem: &str, entry: &Entry, mut request: Value, now: Timestamp) -> Write {
        let asked = api::dig::int(&request, "spec.expirationSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        let life = life(asked.map(Duration::from_secs), self.signer.0.life());
        let purposes = match purpose {
            For::Client | For::NodeClient => [Purpose::Client],
            For::NodeServer => [Purpose::Server],
        };
        match self.signer.0.authority().sign_request(pem, &purposes, life, now) {
            Ok(certificate) => {
                request["status"]["certificate"] = STANDARD.encode(certificate).into();
                write("status", entry, &request)
            }
            Err(error) => failed(entry, request, &error.to_string(), now),
        }
    }
}

/// How long a certificate lasts: as asked, and no longer than the cluster's do.
fn life(asked: Option<Duration>, longest: Duration) -> Duration {
    asked.map_or(longest, |asked| asked.max(LIFE_MIN).min(longest))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Conditions {
    /// Nobody decided yet.
    Open,
    /// Approved, and not failed since.
    Approved,
    /// Denied or failed.
    Refused,
}

impl Conditions {
    fn of(request: &Value) -> Conditions {
        let has = |ty: &str| {
            let conditions = api::dig::list(request, "status.conditions");
            conditions.iter().any(|one| one["type"] == ty && one["status"] != "False")
        };
        match () {
            () if has("Denied") || has("Failed") => Conditions::Refused,
            () if has("Approved") => Conditions::Approved,
            () => Conditions::Open,
        }
    }
}

fn purpose(signer: &str) -> Option<For> {
    match signer.strip_prefix("kubernetes.io/")? {
        "kube-apiserver-client" => Some(For::Client),
        "kube-apiserver-client-kubelet" => Some(For::NodeClient),
        "kubelet-serving" => Some(For::NodeServer),
        _ => None,
    }
}

fn pem(request: &Value) -> Option<String> {
    let bytes = STANDARD.decode(api::dig::text(request, "spec.request")).ok()?;
    String::from_utf8(bytes).ok()
}

/// How long the request is kept yet.
fn left(request: &Value, kept: Duration, now: Timestamp) -> Option<Duration> {
    let made: Timestamp = api::dig::text(request, "metadata.creationTimestamp").parse().ok()?;
    let end = made.plus(kept);
    (end.0 > now.0).then(|| Duration::from_nanos((end.0 - now.0) as u64))
}

/// Whether the signer signs such a request, in upstream's words.
fn suits(purpose: For, asked: &Requested, request: &Value) -> Result<(), String> {
    let usages: BTreeSet<&str> = api::dig::texts(request, "spec.usages").into_iter().collect();
    let needed = if purpose == For::NodeServer { "server auth" } else { "client auth" };
    let allowed = ["key encipherment", "digital signature", needed];
    if !usages.contains(needed) || usages.iter().any(|usage| !allowed.contains(usage)) {
        return Err(format!(
            "invalid usages for this signer: {needed} is needed, and digital signature and key encipherment are allowed"
        ));
    }
    if purpose == For::Client {
        return Ok(());
    }
    let names = !asked.dns.is_empty() || !asked.addresses.is_empty();
    match () {
        () if asked.groups != ["system:nodes"] => Err("subject organization is not system:nodes".to_owned()),
        () if node_of(&asked.name).is_none() => Err("subject common name does not begin with system:node: ".to_owned()),
        () if asked.others => Err("Email and URI subjectAltNames are not allowed".to_owned()),
        () if purpose == For::NodeClient && names => Err("DNS and IP subjectAltNames are not allowed".to_owned()),
        () if purpose == For::NodeServer && !names => Err("DNS or IP subjectAltName is required".to_owned()),
        () => Ok(()),
    }
}

fn node_of(name: &str) -> Option<&str> {
    name.strip_prefix("system:node:").filter(|node| !node.is_empty())
}

/// Approves what a node asks for itself, or one that joins for the node it becomes.
fn approve(
    view: &View<'_>,
    purpose: For,
    asked: &Requested,
    entry: &Entry,
    mut request: Value,
    now: Timestamp,
) -> Outcome {
    let is_itself = api::dig::text(&request, "spec.username") == asked.name;
    if suits(purpose, asked, &request).is_err() {
        return Outcome::none();
    }
    let (subresource, message) = match (purpose, is_itself) {
        (For::NodeClient, true) => {
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.")
        }
        (For::NodeClient, false) => {
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.")
        }
        (For::NodeServer, true) if is_at_home(view, asked) => {
            ("selfnodeclient", "Auto approving kubelet serving certificate: its names are the node's own.")
        }
        _ => return Outcome::none(),
    };
    let allowed = Guard::Allowed {
        user: api::dig::text(&request, "spec.username").to_owned(),
        groups: api::dig::texts(&request, "spec.groups").into_iter().map(str::to_owned).collect(),
        verb: "create",
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        subresource,
    };
    match taken(view, asked, entry, now).filter(|_| !is_itself) {
        Some(why) => condition(&mut request, "Denied", "NodeNameTaken", &why, now),
        None => condition(&mut request, "Approved", "AutoApproved", message, now),
    }
    write("approval", entry, &request).only_if(allowed).into()
}

/// Why a token is not enough to become this node, if it is not.
fn taken(view: &View<'_>, asked: &Requested, entry: &Entry, now: Timestamp) -> Option<String> {
    let name = node_of(&asked.name)?;
    if view.get::<Node>("", name).is_some_and(|node| lives(&node)) {
        return Some(format!(
            "node {name} lives and has another key; choose another name, or wait until that node is known to be gone"
        ));
    }
    let others = view.entries(RESOURCE, None).into_iter().filter(|other| other.meta.uid != entry.meta.uid);
    let mut requests = others.map(|other| serde_json::from_slice::<Value>(&other.object).unwrap_or_default());
    let claims = |request: &Value| {
        let theirs = pem(request).and_then(|pem| pki::requested(&pem).ok());
        purpose(api::dig::text(request, "spec.signerName")) == Some(For::NodeClient)
            && Conditions::of(request) == Conditions::Approved
            && left(request, CLAIM_TIME, now).is_some()
            && theirs.is_some_and(|theirs| theirs.name == asked.name && theirs.key != asked.key)
    };
    requests.any(|request| claims(&request)).then(|| format!("another machine has just joined as node {name}"))
}

/// Until the node controller has missed its reports, a node counts as living.
fn lives(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    !conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

/// Every name and address asked for is one that the Node has.
fn is_at_home(view: &View<'_>, asked: &Requested) -> bool {
    let Some(name) = node_of(&asked.name) else { return false };
    let Some(node) = view.get::<Node>("", name) else { return false };
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut known: BTreeSet<String> = addresses.map(|address| address.address.clone()).collect();
    known.insert(name.to_owned());
    asked.dns.iter().all(|name| known.contains(name))
        && asked.addresses.iter().all(|address| known.contains(&address.to_string()))
}

fn failed(entry: &Entry, mut request: Value, why: &str, now: Timestamp) -> Write {
    condition(&mut request, "Failed", "SignerValidationFailure", why, now);
    write("status", entry, &request)
}

fn condition(request: &mut Value, ty: &str, reason: &str, message: &str, now: Timestamp) {
    let mut conditions = api::dig::list(request, "status.conditions").to_vec();
    let now = now.rfc3339();
    conditions.push(json!({
        "type": ty, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now,
    }));
    api::dig::put(request, "status.conditions", conditions.into());
}

fn write(subresource: &'static str, entry: &Entry, request: &Value) -> Write {
    Write::raw(Verb::Update, RESOURCE, entry, subresource, Bytes::from(request.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{NOW, World, body, lines};

    fn signing() -> (Signing, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let pki = pki::Pki::open(folder.path(), &pki::Names::default(), NOW).expect("keys");
        (Signing { signer: Signer(Arc::new(pki)) }, folder)
    }

    /// A request for a node, by somebody, to a signer; the conditions it has.
    fn request(signer: &str, node: &str, by: &str, addresses: &[&str], conditions: &[&str]) -> Value {
        let (name, group) = (format!("system:node:{node}"), "system:nodes");
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let subject = pki::Subject { name, group: Some(group.to_owned()), addresses, ..pki::Subject::default() };
        let pem = pki::SigningRequest::make(&subject).expect("a request").request_pem;
        let usage = if signer == "kubelet-serving" { "server auth" } else { "client auth" };
        let conditions: Vec<Value> = conditions.iter().map(|ty| json!({"type": ty, "status": "True"})).collect();
        json!({
            "metadata": {"name": "r", "creationTimestamp": NOW.rfc3339()},
            "spec": {
                "request": STANDARD.encode(pem), "signerName": format!("kubernetes.io/{signer}"), "username": by,
                "groups": ["system:nodes"], "usages": ["digital signature", usage],
            },
            "status": {"conditions": conditions},
        })
    }

    #[track_caller]
    fn check(request: Value, later: u64, want: &[&str]) -> Outcome {
        let (signing, _folder) = signing();
        let mut world = World::default();
        world.add::<Node>(
            r#"{"metadata":{"name":"one"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"}]}}"#,
        );
        world.put(RESOURCE, request);
        world.now = NOW.plus(Duration::from_secs(later));
        let outcome = world.reconcile(&signing, "", "r");
        assert_eq!(lines(&outcome), want);
        outcome
    }

    const STATUS: &str = "update certificatesigningrequests.certificates.k8s.io/status r";
    const APPROVAL: &str = "update certificatesigningrequests.certificates.k8s.io/approval r";
    const DELETE: &str = "delete certificatesigningrequests.certificates.k8s.io r";
    const CLIENT: &str = "kube-apiserver-client-kubelet";

    #[test]
    fn a_node_is_approved_for_itself_if_it_may() {
        let outcome = check(request(CLIENT, "one", "system:node:one", &[], &[]), 0, &[APPROVAL]);
        assert!(matches!(&outcome.writes[0].guards[..], [Guard::Allowed { subresource: "selfnodeclient", .. }]));
    }

    /// What becomes of a machine that joins as a node which is there in this state, or whose name another was given
    /// so many seconds ago.
    #[track_caller]
    fn join(ready: Option<&str>, given: Option<u64>, want: &str) {
        let (signing, _folder) = signing();
        let mut world = World::default();
        if let Some(ready) = ready {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            world.put(Node::RESOURCE, json!({"metadata": {"name": "one"}, "status": {"conditions": conditions}}));
        }
        let mut other = request(CLIENT, "one", "system:bootstrap:x", &[], &["Approved"]);
        other["metadata"]["name"] = "other".into();
        if given.is_some() {
            world.put(RESOURCE, other);
        }
        world.put(RESOURCE, request(CLIENT, "one", "system:bootstrap:x", &[], &[]));
        world.now = NOW.plus(Duration::from_secs(given.unwrap_or(0)));
        let outcome = world.reconcile(&signing, "", "r");
        assert!(matches!(&outcome.writes[0].guards[..], [Guard::Allowed { subresource: "nodeclient", .. }]));
        let written = body(&outcome, APPROVAL);
        let condition = &written["status"]["conditions"][0];
        let told = format!("{}: {}", condition["type"].as_str().expect("a type"), condition["message"]);
        assert!(told.contains(want), "{told}");
    }

    #[test]
    fn a_token_is_enough_for_a_name_that_nobody_has() {
        join(None, None, "Approved");
        join(Some("Unknown"), None, "Approved");
        join(None, Some(301), "Approved");
    }
    #[test]
    fn a_token_takes_no_name_from_who_lives() {
        join(Some("True"), None, "Denied: \"node one lives");
        join(Some("False"), None, "Denied: \"node one lives");
        join(None, Some(299), "Denied: \"another machine has just joined as node one");
    }
    #[test]
    fn a_node_serves_only_under_its_own_addresses() {
        check(request("kubelet-serving", "one", "system:node:one", &["10.0.0.1"], &[]), 0, &[APPROVAL]);
        check(request("kubelet-serving", "one", "system:node:one", &["10.0.0.2"], &[]), 0, &[]);
        check(request("kubelet-serving", "one", "system:node:two", &["10.0.0.1"], &[]), 0, &[]);
    }
    #[test]
    fn what_is_approved_is_signed() {
        let outcome = check(request(CLIENT, "one", "somebody", &[], &["Approved"]), 0, &[STATUS]);
        let signed = body(&outcome, STATUS);
        let pem = STANDARD.decode(signed["status"]["certificate"].as_str().expect("a certificate")).expect("base64");
        let pem = String::from_utf8(pem).expect("PEM");
        let seen = pki::presented(&pki::der_of_pem(&pem).expect("PEM")).expect("a certificate");
        assert_eq!(seen.name, "system:node:one");
    }
    #[test]
    fn a_life_is_as_asked_within_bounds() {
        let check = |asked: Option<u64>, longest, want| {
            let (longest, want) = (Duration::from_secs(longest), Duration::from_secs(want));
            assert_eq!(life(asked.map(Duration::from_secs), longest), want);
        };
        check(None, 86_400, 86_400);
        check(Some(3_600), 86_400, 3_600);
        check(Some(90_000), 86_400, 86_400);
        check(Some(1), 86_400, 600);
        check(Some(1), 30, 30);
        check(Some(3_600), 30, 30);
    }
    #[test]
    fn what_the_signer_is_not_for_fails() {
        let outcome = check(request(CLIENT, "one", "x", &["10.0.0.1"], &["Approved"]), 0, &[STATUS]);
        let failed = body(&outcome, STATUS);
        assert_eq!(failed["status"]["conditions"][1]["message"], "DNS and IP subjectAltNames are not allowed");
    }
    #[test]
    fn what_is_denied_or_anothers_is_left_alone_and_forgotten() {
        check(request(CLIENT, "one", "system:node:one", &[], &["Approved", "Denied"]), 0, &[]);
        check(request("other", "one", "system:node:one", &[], &["Approved"]), 0, &[]);
        check(request(CLIENT, "one", "system:node:one", &[], &["Denied"]), 3601, &[DELETE]);
        check(request("other", "one", "x", &[], &[]), 3601, &[]);
        check(request("other", "one", "x", &[], &[]), 86_401, &[DELETE]);
    }
}

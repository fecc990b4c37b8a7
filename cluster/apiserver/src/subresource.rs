//! What lies below an object: its status, its scale, and what can be done to pods.
//!
//! Start at [`answer`].
//!
//! Invariant: a subresource changes its own part of the object and nothing else.
//!
//! Not here: passing requests on to kubelets (`proxied.rs`), evictions (`evict.rs`).

use std::sync::Arc;

use api::custom::Scale;
use api::kinds::{Kind, find};
use api::selector::LabelSelector;
use api::{dig, meta};
use bytes::Bytes;
use http::StatusCode;
use pki::{BoundObject, Claims};
use serde_json::{Value, json};

use crate::apply::Wanted;
use crate::managed::Hand;
use crate::server::{Ask, decoded, success};
use crate::status::{Named, resource_of};
use crate::write::{BINDING, Change, place};
use crate::{Api, Failure, Response, apply, evict, proxied, render};

/// The shortest and the longest life a token may ask for, in seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
/// The life of a token that asks for none.
const TOKEN_SECONDS_DEFAULT: i64 = 3600;

/// Answers a request for something below an object.
pub(crate) async fn answer(api: &Arc<Api>, ask: &Ask) -> Result<Response, Failure> {
    let name = ask.info.subresource.as_str();
    if name == "proxy" && matches!(ask.kind.plural.as_ref(), "pods" | "services" | "nodes") {
        return proxied::answer(api, ask);
    }
    let sub = ask.kind.subresource(name).ok_or_else(Failure::no_such_path)?;
    let connects = matches!(name, "exec" | "attach" | "portforward" | "log");
    if !sub.verbs.allows(ask.info.verb) && !(connects && matches!(ask.info.verb, "get" | "create")) {
        return Err(Failure::method_not_allowed());
    }
    match (ask.kind.plural.as_ref(), name) {
        ("pods", "exec" | "attach" | "portforward" | "log") => proxied::answer(api, ask),
        ("pods", "binding") => {
            let kind = find("", "v1", "bindings").ok_or_else(Failure::no_such_path)?;
            let mut object = ask.sent(kind)?.object;
            place(kind, &mut object, &ask.info.namespace, &ask.info.name)?;
            bind(api, ask, &ask.info.namespace, &ask.info.name, object).await
        }
        ("pods", "eviction") => evict::evict(api, ask).await,
        ("serviceaccounts", "token") => token(api, ask),
        (_, "scale") => scale(api, ask).await,
        ("certificatesigningrequests", "approval") if ask.info.verb != "get" => {
            crate::admit::approval(api, &ask.kind, &ask.info.name, &ask.user)?;
            match ask.info.verb {
                "patch" => api.patch(ask, Some(name)).await,
                _ => api.update(ask, Some(name)).await,
            }
        }
        // Status and its like: the object as a whole, of which the strategy keeps the part that is meant.
        (_, sub) => match ask.info.verb {
            "get" => api.get(ask),
            "patch" => api.patch(ask, Some(sub)).await,
            "update" => api.update(ask, Some(sub)).await,
            _ => Err(Failure::method_not_allowed()),
        },
    }
}

/// Gives a pod its node, once.
pub(crate) async fn bind(
    api: &Arc<Api>,
    ask: &Ask,
    namespace: &str,
    pod: &str,
    binding: Value,
) -> Result<Response, Failure> {
    let node = dig::text(&binding, "target.name").to_owned();
    if node.is_empty() {
        return Err(Failure::bad_request("target.name: Required value"));
    }
    let kind = find("", "v1", "pods").ok_or_else(Failure::no_such_path)?;
    let what = Named { group: "", resource: "pods/binding" };
    let now = api.now().rfc3339();
    let dry_run = ask.query.dry_run()?;
    let change =
        Change { kind: kind.into(), namespace, name: pod, subresource: Some(BINDING), user: &ask.user, dry_run };
    api.replace(&change, &mut |old| {
        let held = dig::text(old, "spec.nodeName");
        if meta::is_terminating(old) {
            return Err(Failure::conflict(
                what,
                pod,
                &format!("pod {pod} is being deleted, cannot be assigned to a host"),
            ));
        }
        if !held.is_empty() {
            return Err(Failure::conflict(what, pod, &format!("pod {pod} is already assigned to node {held:?}")));
        }
        if !dig::list(old, "spec.schedulingGates").is_empty() {
            return Err(Failure::conflict(what, pod, &format!("pod {pod} has non-empty .spec.schedulingGates")));
        }
        let mut new = old.clone();
        dig::put(&mut new, "spec.nodeName", node.as_str().into());
        for (key, value) in meta::annotations(&binding) {
            dig::map_mut(&mut new, "metadata.annotations").insert(key.clone(), value.clone());
        }
        for (key, value) in meta::labels(&binding) {
            dig::map_mut(&mut new, "metadata.labels").insert(key.clone(), value.clone());
        }
        let mut conditions = dig::list(&new, "status.conditions").to_vec();
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions
            .push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}));
        dig::put(&mut new, "status.conditions", conditions.into());
        Ok(new)
    })
    .await?;
    render::tree(ask.wanted.format, StatusCode::CREATED, &success(StatusCode::CREATED, Value::Null))
}

/// Makes a token for an account.
fn token(api: &Api, ask: &Ask) -> Result<Response, Failure> {
    let account = decoded(&api.entry(&ask.kind, &ask.info.namespace, &ask.info.name)?);
    let kind = find("authentication.k8s.io", "v1", "tokenrequests")
        .or_else(|| api::kinds::find_kind("authentication.k8s.io", "v1", "TokenRequest"));
    let mut request = match kind {
        Some(kind) => ask.sent(kind)?.object,
        None => crate::body::tree(ask.content_type(), &ask.body)?.0,
    };
    let seconds = dig::int(&request, "spec.expirationSeconds").unwrap_or(TOKEN_SECONDS_DEFAULT);
    if seconds < TOKEN_SECONDS.0 || seconds > TOKEN_SECONDS.1 {
        return Err(Failure::unprocessable(format!(
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: may not \
             specify a duration less than 10 minutes or larger than 2^32 seconds"
        )));
    }
    let bound = bound_object(api, ask, &request)?;
    let to = bound.as_ref().map(|(bound, object)| (bound.kind.as_str(), object));
    crate::admit_node::token(&ask.user, &ask.info.name, to)?;
    let node = bound.as_ref().and_then(|(_, object)| {
        let name = dig::text(object, "spec.nodeName");
        let node = api.object(&format!("nodes/{name}"))?;
        Some((name.to_owned(), meta::uid(&node).to_owned()))
    });
    let now = api.now().seconds();
    let mut audiences: Vec<String> = dig::texts(&request, "spec.audiences").into_iter().map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(api.settings.issuer.clone());
    }
    let claims = Claims {
        namespace: ask.info.namespace.clone(),
        service_account: ask.info.name.clone(),
        service_account_uid: meta::uid(&account).to_owned(),
        bound: bound.map(|(bound, _)| bound),
        node,
        audiences: audiences.clone(),
        issued_at: now,
        expires_at: now + seconds,
        id: api.rng().uid().to_string(),
    };
    let token = api.settings.tokens.sign(&api.settings.issuer, &claims).map_err(Failure::internal)?;
    let end = base::Timestamp::from_seconds(now + seconds).rfc3339();
    dig::put(&mut request, "spec.audiences", json!(audiences));
    dig::put(&mut request, "spec.expirationSeconds", seconds.into());
    request["metadata"] =
        json!({"name": ask.info.name, "namespace": ask.info.namespace, "creationTimestamp": api.now().rfc3339()});
    request["status"] = json!({"token": token, "expirationTimestamp": end});
    request["kind"] = "TokenRequest".into();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    render::tree(ask.wanted.format, StatusCode::CREATED, &request)
}

fn bound_object(api: &Api, ask: &Ask, request: &Value) -> Result<Option<(BoundObject, Value)>, Failure> {
    let reference = &request["spec"]["boundObjectRef"];
    if reference.is_null() {
        return Ok(None);
    }
    let (kind, name, uid) = (dig::text(reference, "kind"), dig::text(reference, "name"), dig::text(reference, "uid"));
    let plural = match kind {
        "Pod" => "pods",
        "Secret" => "secrets",
        "Node" => "nodes",
        other => {
            return Err(Failure::bad_request(format!("cannot bind token for serviceaccount to object type {other:?}")));
        }
    };
    let found = find("", "v1", plural).ok_or_else(Failure::no_such_path)?;
    let namespace = if found.namespaced { ask.info.namespace.as_str() } else { "" };
    let object = decoded(&api.entry(found, namespace, name)?);
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record ({})",
            meta::uid(&object)
        );
        return Err(Failure::conflict(Named { group: "", resource: plural }, name, &why));
    }
    if plural == "pods" && dig::text(&object, "spec.serviceAccountName") != ask.info.name {
        return Err(Failure::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            ask.info.name
        )));
    }
    let bound = BoundObject { kind: kind.to_owned(), name: name.to_owned(), uid: meta::uid(&object).to_owned() };
    Ok(Some((bound, object)))
}

/// Where a kind keeps the numbers of its scale.
fn scale_paths(kind: &Kind) -> Scale {
    let built_in = || Scale {
        spec_replicas: "spec.replicas".to_owned(),
        status_replicas: "status.replicas".to_owned(),
        selector: "spec.selector".to_owned(),
    };
    kind.own.as_ref().and_then(|own| own.scale.clone()).unwrap_or_else(built_in)
}

/// The number of replicas, as a Scale.
async fn scale(api: &Arc<Api>, ask: &Ask) -> Result<Response, Failure> {
    let entry = api.entry(&ask.kind, &ask.info.namespace, &ask.info.name)?;
    let paths = scale_paths(&ask.kind);
    let wanted = match ask.info.verb {
        "get" => {
            let object = decoded(&entry);
            if ask.kind.own.is_some() && !dig::has(&object, &paths.spec_replicas) {
                return Err(Failure::internal(format!(
                    "the spec replicas field \".{}\" does not exist",
                    paths.spec_replicas
                )));
            }
            return shown(ask, &object);
        }
        "update" => {
            let scale = crate::body::tree(ask.content_type(), &ask.body)?.0;
            if !matches!(dig::text(&scale, "metadata.name"), name if name.is_empty() || name == ask.info.name) {
                return Err(Failure::bad_request("the name of the scale does not match the name on the URL"));
            }
            scale
        }
        "patch" if apply::is_apply(ask) => return apply_scale(api, ask).await,
        "patch" => {
            let mut scale = scale_of(&ask.kind, &decoded(&entry));
            let patch = crate::body::tree("application/json", &ask.body)?.0;
            match crate::body::media_type(ask.content_type()) {
                "application/json-patch+json" => api::patch::json_patch(&mut scale, &patch)
                    .map_err(|error| Failure::unprocessable(error.to_string()))?,
                "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
                    api::patch::merge_patch(&mut scale, &patch);
                }
                other => {
                    let accepted = ["application/json-patch+json", "application/merge-patch+json"];
                    return Err(Failure::unsupported_media_type(other, &accepted));
                }
            }
            scale
        }
        _ => return Err(Failure::method_not_allowed()),
    };
    let replicas = dig::int(&wanted, "spec.replicas").unwrap_or(0);
    if replicas < 0 {
        return Err(Failure::unprocessable(format!(
            "Scale.autoscaling {:?} is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
            ask.info.name
        )));
    }
    let version = meta::resource_version(&wanted).to_owned();
    let patched = ask.info.verb == "patch";
    let change = ask.change(None)?;
    let hand = Hand::of(api, ask, Some("scale"), "UpdateOptions")?;
    let value: Bytes = api
        .replace(&change, &mut |old| {
            if !version.is_empty() && !patched && version != meta::resource_version(old) {
                return Err(Failure::modified(resource_of(&ask.kind), &ask.info.name));
            }
            let mut new = old.clone();
            dig::put(&mut new, &paths.spec_replicas, replicas.into());
            hand.wrote(Some(old), &mut new);
            Ok(new)
        })
        .await?;
    shown(ask, &serde_json::from_slice(&value).map_err(Failure::internal)?)
}

/// Applies a Scale to the object it scales.
async fn apply_scale(api: &Arc<Api>, ask: &Ask) -> Result<Response, Failure> {
    let mut wanted = Wanted::of(ask)?;
    wanted.configuration = apply::of_scale(ask, &wanted.configuration, &scale_paths(&ask.kind).spec_replicas)?;
    let hand = Hand::of(api, ask, Some("scale"), "PatchOptions")?;
    let value = api.apply_to(ask, None, &wanted, &hand).await?;
    let mut response = shown(ask, &serde_json::from_slice(&value).map_err(Failure::internal)?)?;
    render::warn(&mut response, &wanted.warnings);
    Ok(response)
}

fn shown(ask: &Ask, object: &Value) -> Result<Response, Failure> {
    render::tree(ask.wanted.format, StatusCode::OK, &scale_of(&ask.kind, object))
}

fn scale_of(kind: &Kind, object: &Value) -> Value {
    let paths = scale_paths(kind);
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[field] = object["metadata"][field].clone();
    }
    let replicas = dig::int(object, &paths.status_replicas).unwrap_or(0);
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {}, "status": {"replicas": replicas},
    });
    if let Some(replicas) = dig::int(object, &paths.spec_replicas).filter(|replicas| *replicas > 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    if let Some(selector) = scale_selector(dig::get(object, &paths.selector)) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The selector as text: custom resources keep it so, built-in kinds as an object or, the oldest, as a map.
fn scale_selector(selector: &Value) -> Option<String> {
    match selector {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        selector if selector.get("matchLabels").or(selector.get("matchExpressions")).is_some() => {
            LabelSelector::from_object(selector).ok().map(|selector| selector.to_string())
        }
        selector => selector.as_object().map(|map| LabelSelector::from_map(map).to_string()),
    }
}

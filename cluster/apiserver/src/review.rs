//! Kinds that exist only while a request lasts: questions about identities and rights.
//!
//! Start at [`answer`].

use std::sync::Arc;

use api::{defaults, dig};
use http::StatusCode;
use serde_json::{Value, json};

use crate::authorise::{Wish, allows};
use crate::server::Ask;
use crate::{Api, Failure, Response, User, authenticate, rbac, render};

/// Answers a request for a kind that is not stored.
pub(crate) async fn answer(api: &Arc<Api>, ask: &Ask) -> Result<Response, Failure> {
    if ask.kind.plural == "componentstatuses" {
        return component_statuses(ask);
    }
    if ask.info.verb != "create" {
        return Err(Failure::method_not_allowed());
    }
    if ask.kind.plural == "bindings" {
        let sent = ask.sent(&ask.kind)?;
        let pod = api::meta::name(&sent.object).to_owned();
        return crate::subresource::bind(api, ask, &ask.info.namespace, &pod, sent.object).await;
    }
    let mut object = ask.sent(&ask.kind)?.object;
    defaults::apply(&ask.kind, &mut object);
    let status = match ask.kind.plural.as_ref() {
        "tokenreviews" => token_review(api, &object),
        "subjectaccessreviews" => access_review(api, &object, &named(&object)),
        "localsubjectaccessreviews" => {
            if dig::text(&object, "spec.resourceAttributes.namespace") != ask.info.namespace {
                return Err(Failure::bad_request(
                    "spec.resourceAttributes.namespace must match the request's namespace",
                ));
            }
            access_review(api, &object, &named(&object))
        }
        "selfsubjectaccessreviews" => access_review(api, &object, &ask.user),
        "selfsubjectrulesreviews" => {
            let namespace = dig::text(&object, "spec.namespace");
            if namespace.is_empty() {
                return Err(Failure::bad_request("no namespace on request"));
            }
            let (resources, paths) = rbac::told(api, &ask.user, namespace);
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        "selfsubjectreviews" => json!({"userInfo": told(&ask.user)}),
        _ => return Err(Failure::method_not_allowed()),
    };
    object["status"] = status;
    dig::map_mut(&mut object, "metadata");
    render::tree(ask.wanted.format, StatusCode::CREATED, &object)
}

fn told(user: &User) -> Value {
    let mut told = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        told["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        told["extra"] = json!(user.extra);
    }
    told
}

fn token_review(api: &Api, review: &Value) -> Value {
    let audiences: Vec<String> = dig::texts(review, "spec.audiences").into_iter().map(str::to_owned).collect();
    match authenticate::of_token(api, dig::text(review, "spec.token"), &audiences) {
        Ok((user, shared)) => json!({"authenticated": true, "user": told(&user), "audiences": shared}),
        Err(_) => json!({"authenticated": false, "user": {}, "error": "the token is not valid"}),
    }
}

/// The user a SubjectAccessReview asks about.
fn named(review: &Value) -> User {
    let mut user = User::new(dig::text(review, "spec.user"), dig::texts(review, "spec.groups"));
    if !dig::texts(review, "spec.groups").contains(&crate::user::AUTHENTICATED) {
        user.groups.pop();
    }
    user
}

fn access_review(api: &Api, review: &Value, user: &User) -> Value {
    let spec = &review["spec"];
    let wish = match (dig::has(spec, "resourceAttributes"), dig::has(spec, "nonResourceAttributes")) {
        (true, _) => {
            let of = |field: &str| spec["resourceAttributes"][field].as_str().unwrap_or_default();
            Wish {
                verb: of("verb"),
                group: of("group"),
                resource: of("resource"),
                subresource: of("subresource"),
                namespace: of("namespace"),
                name: of("name"),
                path: "",
                on_node: "",
            }
        }
        (false, true) => {
            let of = |field: &str| spec["nonResourceAttributes"][field].as_str().unwrap_or_default();
            Wish { verb: of("verb"), path: of("path"), ..Wish::default() }
        }
        (false, false) => return json!({"allowed": false, "reason": "nothing was asked"}),
    };
    json!({"allowed": allows(api, user, &wish)})
}

/// Deprecated upstream, and still asked for: the parts of this process answer together or not at all.
fn component_statuses(ask: &Ask) -> Result<Response, Failure> {
    let items: Vec<Value> = ["controller-manager", "scheduler", "etcd-0"]
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name},
                "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}],
            })
        })
        .collect();
    let form = ask.form();
    let tables = ask.wanted.shape == crate::accept::Shape::Table;
    if ask.info.name.is_empty() {
        let list = if tables {
            form.table(items, json!({}), true, base::Timestamp::default())
        } else {
            json!({"apiVersion": "v1", "kind": "ComponentStatusList", "metadata": {}, "items": items})
        };
        return render::tree(ask.wanted.format, StatusCode::OK, &list);
    }
    let item = items.into_iter().find(|item| item["metadata"]["name"] == ask.info.name.as_str());
    let item = item.ok_or_else(|| Failure::not_found(crate::status::resource_of(&ask.kind), &ask.info.name))?;
    render::tree(ask.wanted.format, StatusCode::OK, &item)
}

//! May they: the order in which authorisers are asked.
//!
//! Start at [`check`].
//!
//! Invariant: what nobody allows is forbidden.

use std::sync::Arc;

use http::HeaderMap;

use crate::path::{Info, Route};
use crate::server::text;
use crate::status::Named;
use crate::user::{AUTHENTICATED, MASTERS};
use crate::{Api, Failure, User, node, rbac};

/// What somebody wants to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Set for reading pods that are bound to this node alone.
    pub on_node: &'a str,
    /// Set for what is no resource.
    pub path: &'a str,
}

impl<'a> Wish<'a> {
    pub(crate) fn of(route: &'a Route) -> Wish<'a> {
        match route {
            Route::Other { path, verb } => Wish { verb, path, ..Wish::default() },
            Route::Resource(Info { verb, group, namespace, resource, name, subresource, only, .. }) => {
                // Who reads many, but only the one of a name, reads that one.
                let name = if name.is_empty() { &only.name } else { name };
                Wish { verb, group, resource, subresource, namespace, name, on_node: &only.node, path: "" }
            }
        }
    }

    /// Resource and subresource as rules name them: `pods/log`.
    pub(crate) fn full_resource(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            sub => format!("{}/{sub}", self.resource),
        }
    }
}

/// Refuses what the user may not do.
pub(crate) fn check(api: &Api, user: &User, route: &Route) -> Result<(), Failure> {
    require(api, user, &Wish::of(route))
}

/// Refuses what the user may not do, where a request implies a second one.
pub(crate) fn require(api: &Api, user: &User, wish: &Wish<'_>) -> Result<(), Failure> {
    if allows(api, user, wish) { Ok(()) } else { Err(refusal(user, wish)) }
}

/// Whether anybody allows it.
pub(crate) fn allows(api: &Api, user: &User, wish: &Wish<'_>) -> bool {
    user.is_in(MASTERS) || node::allows(api, user, wish) || rbac::allows(api, user, wish)
}

fn refusal(user: &User, wish: &Wish<'_>) -> Failure {
    let (name, verb) = (&user.name, wish.verb);
    if !wish.path.is_empty() {
        let why = format!("User {name:?} cannot {verb} path {:?}", wish.path);
        return Failure::forbidden(Named { group: "", resource: "" }, "", &why);
    }
    let place = match wish.namespace {
        "" => "at the cluster scope".to_owned(),
        _ if wish.resource == "namespaces" && wish.subresource.is_empty() && wish.name.is_empty() => {
            "at the cluster scope".to_owned()
        }
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {name:?} cannot {verb} resource {:?} in API group {:?} {place}",
        wish.full_resource(),
        wish.group
    );
    Failure::forbidden(Named { group: wish.group, resource: wish.resource }, wish.name, &why)
}

/// Who they say they speak for, if they may.
pub(crate) fn impersonated(api: &Api, headers: &HeaderMap, user: Arc<User>) -> Result<Arc<User>, Failure> {
    let name = text(headers, "impersonate-user");
    let groups: Vec<&str> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).collect();
    if name.is_empty() {
        if !groups.is_empty() || headers.contains_key("impersonate-uid") {
            return Err(Failure::internal("requested impersonation of groups or uid without impersonating a user"));
        }
        return Ok(user);
    }
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut wishes = vec![match account {
        Some((namespace, name)) => {
            Wish { verb: "impersonate", resource: "serviceaccounts", namespace, name, ..Wish::default() }
        }
        None => Wish { verb: "impersonate", resource: "users", name, ..Wish::default() },
    }];
    wishes.extend(groups.iter().map(|group| Wish {
        verb: "impersonate",
        resource: "groups",
        name: group,
        ..Wish::default()
    }));
    if let Some(wish) = wishes.iter().find(|wish| !allows(api, &user, wish)) {
        return Err(refusal(&user, wish));
    }
    let implied = account.map(|(namespace, _)| format!("system:serviceaccounts:{namespace}"));
    let mut all = groups;
    if let (Some(of_namespace), true) = (&implied, all.is_empty()) {
        all.extend(["system:serviceaccounts", of_namespace]);
    }
    let mut spoken_for = User::new(name, all);
    if name == crate::user::ANONYMOUS {
        spoken_for.groups.retain(|group| group != AUTHENTICATED);
        spoken_for.groups.push(crate::user::UNAUTHENTICATED.to_owned());
    }
    spoken_for.uid = text(headers, "impersonate-uid").to_owned();
    Ok(Arc::new(spoken_for))
}

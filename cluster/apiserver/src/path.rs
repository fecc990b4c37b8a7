//! What a request is about: the path and method of HTTP, in Kubernetes' words.
//!
//! Start at [`Route::of`].
//!
//! Invariant: authorisation and the verbs read the same [`Info`], so what is allowed is what is done.

use api::selector::FieldSelector;
use http::Method;

use crate::query::{Query, decode};

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// An object, a collection or something below an object.
    Resource(Info),
    /// Anything else, such as `/healthz`: the path without a query, and the verb.
    Other {
        /// The path.
        path: String,
        /// The method as a verb: `get`.
        verb: &'static str,
    },
}

/// A request for resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Such as `list`.
    pub verb: &'static str,
    /// Empty for core.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Empty outside namespaces. For a namespace itself, its name.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// Empty for a collection.
    pub name: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// What follows the subresource, for proxies: with a leading slash if anything.
    pub rest: String,
    /// For a list, a watch or a deletion of many: which of them alone are meant.
    pub only: Only,
}

/// What field selectors restrict a request to, as far as it matters for who may make it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Only {
    /// The object of this name.
    pub name: String,
    /// Pods bound to this node.
    pub node: String,
}

impl Only {
    /// Reads a field selector; one that is wrong is refused elsewhere and restricts nothing.
    pub(crate) fn of(selector: &str) -> Only {
        let read = FieldSelector::parse(selector).ok();
        let field = |name: &str| read.as_ref().and_then(|read| read.required(name)).unwrap_or_default().to_owned();
        Only { name: field("metadata.name"), node: field("spec.nodeName") }
    }
}

impl Route {
    /// Reads path, method and the query's `watch`.
    pub(crate) fn of(method: &Method, path: &str, query: &Query) -> Route {
        let other = || Route::Other { path: path.to_owned(), verb: verb_of(method) };
        let mut steps = path.trim_start_matches('/').split('/');
        let (group, version) = match steps.next() {
            Some("api") => (String::new(), steps.next()),
            Some("apis") => (decode(steps.next().unwrap_or_default(), false), steps.next()),
            _ => return other(),
        };
        let version = match version {
            Some(version) if !version.is_empty() => decode(version, false),
            _ => return other(),
        };
        let mut steps: Vec<&str> = steps.collect();
        // A path's tail belongs to the proxied server; elsewhere a trailing slash means nothing.
        let tail_at = steps.len();
        if steps.last() == Some(&"") && !steps.contains(&"proxy") {
            steps.truncate(tail_at - 1);
        }
        let mut steps = steps.into_iter().peekable();
        let watch_path = steps.next_if_eq(&"watch").is_some();
        let mut info = Info { group, version, ..Info::default() };
        match steps.next() {
            None | Some("") => return other(),
            Some("namespaces") => namespaced(&mut info, &mut steps),
            Some(resource) => {
                info.resource = decode(resource, false);
                below(&mut info, &mut steps);
            }
        }
        info.verb = match (verb_of(method), info.name.is_empty()) {
            ("get", _) if watch_path || (info.subresource.is_empty() && query.flag("watch")) => "watch",
            ("get", true) => "list",
            ("delete", true) => "deletecollection",
            (verb, _) => verb,
        };
        if matches!(info.verb, "list" | "watch" | "deletecollection") {
            info.only = Only::of(query.get("fieldSelector"));
        }
        Route::Resource(info)
    }
}

type Steps<'a> = std::iter::Peekable<std::vec::IntoIter<&'a str>>;

/// Reads what follows `namespaces`: the kind itself, or something inside one.
fn namespaced(info: &mut Info, steps: &mut Steps<'_>) {
    info.namespace = decode(steps.next().unwrap_or_default(), false);
    match steps.peek() {
        None | Some(&"status" | &"finalize") => {
            info.resource = "namespaces".to_owned();
            info.name = info.namespace.clone();
            info.subresource = steps.next().unwrap_or_default().to_owned();
        }
        Some(_) => {
            info.resource = decode(steps.next().unwrap_or_default(), false);
            below(info, steps);
        }
    }
}

fn below(info: &mut Info, steps: &mut Steps<'_>) {
    info.name = decode(steps.next().unwrap_or_default(), false);
    info.subresource = decode(steps.next().unwrap_or_default(), false);
    for step in steps {
        info.rest.push('/');
        info.rest.push_str(step);
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verb group/version namespace/resource/name/subresource rest`
    #[track_caller]
    fn check(method: Method, path: &str, query: &str, want: &str) {
        let got = match Route::of(&method, path, &Query::parse(query)) {
            Route::Other { path, verb } => format!("{verb} other {path}"),
            Route::Resource(i) => format!(
                "{} {}/{} {}/{}/{}/{} {}",
                i.verb, i.group, i.version, i.namespace, i.resource, i.name, i.subresource, i.rest
            ),
        };
        assert_eq!(got.trim_end(), want);
    }

    #[test]
    fn paths_name_what_they_mean() {
        check(Method::GET, "/api/v1/pods", "", "list /v1 /pods//");
        check(Method::GET, "/api/v1/namespaces/a/pods", "watch=1", "watch /v1 a/pods//");
        check(Method::GET, "/api/v1/watch/namespaces/a/pods/b", "", "watch /v1 a/pods/b/");
        check(Method::GET, "/api/v1/namespaces/a", "", "get /v1 a/namespaces/a/");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "", "update /v1 a/namespaces/a/finalize");
        check(Method::GET, "/api/v1/namespaces", "", "list /v1 /namespaces//");
        check(Method::POST, "/apis/apps/v1/namespaces/a/deployments", "", "create apps/v1 a/deployments//");
        check(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments", "", "deletecollection apps/v1 a/deployments//");
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            "",
            "patch apps/v1 a/deployments/b/scale",
        );
        check(Method::GET, "/api/v1/namespaces/a/pods/b/log", "follow=true", "get /v1 a/pods/b/log");
        check(Method::GET, "/api/v1/nodes/n/proxy/stats/summary", "", "get /v1 /nodes/n/proxy /stats/summary");
        check(Method::GET, "/api/v1/namespaces/a/pods/b/proxy/", "", "get /v1 a/pods/b/proxy /");
        check(
            Method::GET,
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
            "",
            "get rbac.authorization.k8s.io/v1 /clusterroles/system:node/",
        );
    }

    #[test]
    fn everything_else_is_a_path() {
        check(Method::GET, "/healthz", "", "get other /healthz");
        check(Method::GET, "/api", "", "get other /api");
        check(Method::GET, "/api/v1", "", "get other /api/v1");
        check(Method::GET, "/apis/apps", "", "get other /apis/apps");
        check(Method::GET, "/apis/apps/v1/", "", "get other /apis/apps/v1/");
    }
}

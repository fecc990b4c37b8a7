//! The page on a real API server: every file it names is there, every path its script asks for is answered to the
//! account of its manifest, and who shows no token, or a wrong one, is told so.
//!
//! The paths come from the script itself: each text that begins with a method and a path, its placeholders filled from
//! [`EXAMPLES`].
//!
//! Not here: what a browser draws.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::Arc;

use apiserver::{Api, Body, Credentials, Response, Settings, User};
use base::{ManualClock, Timestamp};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use regex_lite::Regex;
use serde_json::{Value, json};
use telemetry::{Resources, Telemetry};

const SCRIPT: &str = include_str!("../page/dashboard.js");
const HTML: &str = include_str!("../page/index.html");
const STYLE: &str = include_str!("../page/dashboard.css");
const VIEWER: &str = include_str!("../manifests/viewer.yaml");
/// Roles by which `view` covers what collectors collect.
const COLLECTORS: [&str; 2] =
    [include_str!("../../telemetry/manifests/logs.yaml"), include_str!("../../telemetry/manifests/metrics.yaml")];
/// All files together, as they lie in the binary.
const PAGE_BYTES_MAX: usize = 64 << 10;
/// As the script asks.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// What the script may put between braces, and what the test puts there.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("{scope}", &["", "/namespaces/default"]),
    ("{/name}", &["", "/web"]),
    ("{namespace}", &["default"]),
    ("{name}", &["web"]),
    ("{kind}", &["Pod"]),
    ("{labels}", &["app%3Dweb%2C!old%2Ctier%20in%20(a%2Cb)"]),
    ("{series}", &["node_cpu_usage_seconds_total"]),
    (
        "{?container,previous,follow,timestamps,tailLines}",
        &["", "?container=c&follow=true&timestamps=true&tailLines=9"],
    ),
    (
        "{?pod,container,node,ofNodes,grep,sinceTime,tailLines,continue}",
        &[
            "",
            "?pod=web&container=c&node=node&grep=a%7Cb&sinceTime=2026-11-25T02:00:00.000Z&tailLines=9",
            "?ofNodes=true",
        ],
    ),
    ("{&node,pod,sinceTime,step}", &["", "&node=node&pod=web&sinceTime=2026-11-25T02:00:00.000Z&step=60"]),
];

struct World {
    api: Arc<Api>,
    admin: Credentials,
    _folder: tempfile::TempDir,
}

impl World {
    /// A server with its page, its stores, and everything the manifests say.
    async fn start() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::at(Timestamp::from_seconds(1_790_000_000)));
        let tokens = Arc::new(pki::TokenKey::ephemeral().expect("a key"));
        let stores = Arc::new(Telemetry::new(folder.path(), clock.clone()));
        let mut settings = Settings::new(clock.clone(), 7, tokens, "CA".to_owned());
        settings.pages = Some(dashboard::page);
        settings.extensions = vec![stores.clone(), Arc::new(Resources::new(stores.clone(), clock))];
        let store = store::memory(apiserver::annotate());
        let api = Api::open(Arc::new(store), settings);
        api.bootstrap().await.expect("what every cluster has");
        tokio::spawn(async move { stores.run().await });
        let admin = Credentials::User(Arc::new(User::new("admin", ["system:masters"])));
        let world = World { api, admin, _folder: folder };
        world.apply().await;
        world.create_one_of_each().await;
        world
    }

    /// One object named `web` of every kind of which the page shows one.
    async fn create_one_of_each(&self) {
        let pod = json!({"containers": [{"name": "c", "image": "i"}]});
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": pod});
        let mut once = template.clone();
        once["spec"]["restartPolicy"] = "Never".into();
        let many = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
        let mut set = many.clone();
        set["serviceName"] = "web".into();
        let mut bound = pod.clone();
        bound["nodeName"] = "web".into();
        let objects = [
            ("/api/v1/nodes", "Node", json!({})),
            ("/api/v1/namespaces/default/pods", "Pod", bound),
            ("/apis/apps/v1/namespaces/default/deployments", "Deployment", many.clone()),
            ("/apis/apps/v1/namespaces/default/daemonsets", "DaemonSet", many),
            ("/apis/apps/v1/namespaces/default/statefulsets", "StatefulSet", set),
            ("/apis/batch/v1/namespaces/default/jobs", "Job", json!({"template": once})),
            (
                "/apis/batch/v1/namespaces/default/cronjobs",
                "CronJob",
                json!({"schedule": "@daily", "jobTemplate": {"spec": {"template": once}}}),
            ),
        ];
        for (path, kind, spec) in objects {
            // The path says the version: between `api` or `apis` and what follows.
            let version = path.trim_start_matches("/apis/").trim_start_matches("/api/");
            let version = version.split("/n").next().expect("a version");
            let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec});
            self.create(path, &object).await;
        }
        let address = json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let merge = [("content-type", "application/merge-patch+json")];
        let path = "/api/v1/nodes/web/status";
        let patched = self.ask(Method::PATCH, path, &merge, &address, self.admin.clone()).await;
        must_be(StatusCode::OK, path, patched);
    }

    async fn create(&self, path: &str, object: &Value) {
        let created = self.ask(Method::POST, path, &[], object, self.admin.clone()).await;
        must_be(StatusCode::CREATED, path, created);
    }

    async fn apply(&self) {
        let texts = COLLECTORS.iter().chain([&VIEWER]);
        let documents = texts
            .flat_map(|text| text.split("\n---\n"))
            .map(|text| serde_saphyr::from_str::<Value>(text).unwrap_or_else(|error| panic!("{error}: {text}")));
        for object in documents {
            let namespace = object["metadata"]["namespace"].as_str();
            let path = match object["kind"].as_str().expect("a kind") {
                "ServiceAccount" => format!("/api/v1/namespaces/{}/serviceaccounts", namespace.expect("a namespace")),
                "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
                "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".to_owned(),
                _ => continue,
            };
            self.create(&path, &object).await;
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
        who: Credentials,
    ) -> Response {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        self.api.handle(request.body(body).expect("a request"), who).await
    }

    /// What a browser asks, which has headers alone.
    async fn browse(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
        let body = if method == Method::POST { json!({}) } else { Value::Null };
        self.ask(method, path, headers, &body, Credentials::Headers).await
    }

    /// A token, as `kubectl create token` gets it.
    async fn token(&self, namespace: &str, account: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let response = self.ask(Method::POST, &path, &[], &request, self.admin.clone()).await;
        let token: Value = serde_json::from_slice(&bytes(response)).expect("JSON");
        token["status"]["token"].as_str().expect("a token").to_owned()
    }
}

fn must_be(status: StatusCode, what: &str, response: Response) {
    let its = response.status;
    assert!(its == status, "{what}: {its}: {:?}", bytes(response));
}

fn bytes(response: Response) -> Bytes {
    match response.body {
        Body::Whole(bytes) => bytes,
        _ => panic!("a stream"),
    }
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    let found = response.headers.iter().find(|(its, _)| its.as_str() == name);
    found.map_or("", |(_, value)| value.to_str().expect("text"))
}

fn all<'a>(pattern: &str, text: &'a str) -> Vec<&'a str> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found.get(1).expect("a group").as_str()).collect()
}

/// Every request the script can make.
fn requests() -> Vec<(Method, String)> {
    let mut requests = Vec::new();
    for text in all(r#""((?:GET|POST) /[^"]*)""#, SCRIPT) {
        let (method, path) = text.split_once(' ').expect("two words");
        let mut paths = vec![path.to_owned()];
        for (hole, values) in EXAMPLES {
            paths = paths.iter().flat_map(|path| values.iter().map(|value| path.replace(hole, value))).collect();
        }
        // One object of a namespace is asked for in its namespace.
        let is_astray =
            |path: &str| text.contains("{scope}") && path.contains("/web?limit") && !path.contains("/namespaces/");
        paths.retain(|path| !is_astray(path));
        for path in paths {
            assert!(!path.contains('{'), "{path}: what goes there is not in EXAMPLES");
            let request = (method.parse().expect("a method"), path);
            if !requests.contains(&request) {
                requests.push(request);
            }
        }
    }
    requests
}

#[tokio::test]
async fn the_page_and_every_file_it_names_are_served_to_anybody() {
    let world = World::start().await;
    let names = all(r#"(?:src|href)="([^":]+)""#, HTML);
    assert_eq!(names, ["dashboard.css", "dashboard.js"]);
    for (name, content_type) in [("", "text/html"), ("dashboard.css", "text/css"), ("dashboard.js", "text/javascript")]
    {
        let path = format!("{}{name}", dashboard::PATH);
        let plain = world.browse(Method::GET, &path, &[]).await;
        assert_eq!(plain.status, StatusCode::OK, "{path}");
        assert_eq!(plain.content_type, format!("{content_type}; charset=utf-8"));
        assert_eq!(header(&plain, "x-content-type-options"), "nosniff");
        let policy = header(&plain, "content-security-policy").to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"));
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        let tag = header(&plain, "etag").to_owned();
        let packed = world.browse(Method::GET, &path, &[("accept-encoding", "br, gzip;q=0.9")]).await;
        assert_eq!(header(&packed, "content-encoding"), "gzip");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*bytes(packed)).read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(bytes(plain), unpacked);
        let again = world.browse(Method::GET, &path, &[("if-none-match", &tag)]).await;
        assert_eq!(again.status, StatusCode::NOT_MODIFIED);
        assert!(bytes(again).is_empty());
    }
    let moved = world.browse(Method::GET, "/dashboard", &[]).await;
    assert_eq!((moved.status.as_u16(), header(&moved, "location")), (301, "/dashboard/"));
    for (method, path, status) in [
        (Method::GET, "/dashboard/none.js", StatusCode::NOT_FOUND),
        (Method::POST, "/dashboard/", StatusCode::FORBIDDEN),
        (Method::GET, "/dashboards", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(world.browse(method, path, &[]).await.status, status, "{path}");
    }
}

#[test]
fn the_page_is_small_and_loads_nothing_from_elsewhere() {
    assert!(HTML.len() + STYLE.len() + SCRIPT.len() <= PAGE_BYTES_MAX);
    for (name, text) in [("index.html", HTML), ("dashboard.css", STYLE), ("dashboard.js", SCRIPT)] {
        let elsewhere: Vec<&str> = all(r"((?:https?:)?//[a-z][\w.-]*\.[a-z]+\S*)", text)
            .into_iter()
            .filter(|it| !it.contains("w3.org"))
            .collect();
        assert!(elsewhere.is_empty(), "{name} names {elsewhere:?}");
        assert!(!text.contains("@import") && !text.contains("url("), "{name}");
    }
}

/// The policy forbids most of it too; a page that a policy keeps from working is no page.
#[test]
fn nothing_is_inline_and_no_text_becomes_markup() {
    assert_eq!(all(r"(<script[^>]*>[^<]+)", HTML), [""; 0]);
    assert_eq!(all(r"(<style|\sstyle=|\son[a-z]+=)", HTML), [""; 0]);
    let sinks = r"(innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|localStorage|cookie\b)";
    let said: Vec<&str> = SCRIPT.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    assert_eq!(all(sinks, &said.join("\n").replace("no cookie", "")), [""; 0]);
    assert_eq!(all(r"(\bfetch\()", SCRIPT).len(), 1, "one place asks, or this test does not see every path");
}

#[tokio::test]
async fn every_path_answers_an_account_that_may_view() {
    let world = World::start().await;
    let token = world.token("kube-system", "skerry-dashboard").await;
    let bearer = format!("Bearer {token}");
    let requests = requests();
    assert!(requests.len() > 10, "{requests:?}");
    for (method, path) in requests {
        for accept in ["application/json", TABLE] {
            let headers = [("authorization", bearer.as_str()), ("accept", accept)];
            let mut response = world.browse(method.clone(), &path, &headers).await;
            // The stores open meanwhile.
            while response.status == StatusCode::SERVICE_UNAVAILABLE {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                response = world.browse(method.clone(), &path, &headers).await;
            }
            let status = response.status;
            assert!(status.is_success(), "{method} {path}: {status}: {:?}", bytes(response));
        }
    }
}

#[tokio::test]
async fn without_a_token_or_with_a_wrong_one_the_page_says_so() {
    let world = World::start().await;
    let said: BTreeSet<&str> = all(r"(?m)^  (4\d\d): \S", SCRIPT).into_iter().collect();
    let token = world.token("default", "default").await;
    let stranger = format!("Bearer {token}");
    let cases: [(&[(&str, &str)], &str); 4] = [
        (&[("authorization", "Bearer wrong")], "401"),
        (&[("authorization", "Bearer null")], "401"),
        (&[], "403"),
        (&[("authorization", &stranger)], "403"),
    ];
    for (method, path) in requests() {
        for (headers, code) in cases {
            // Whoever is believed may ask who he is.
            let code = if method == Method::POST && headers.first().is_some_and(|(_, value)| *value == stranger) {
                "201"
            } else {
                code
            };
            let status = world.browse(method.clone(), &path, headers).await.status;
            assert_eq!(status.as_str(), code, "{method} {path} {headers:?}");
            assert!(code == "201" || said.contains(code), "the page has no words for {code}");
        }
    }
}

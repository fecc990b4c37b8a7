//! Everything that is no resource: health, version, discovery, schemas, keys, metrics.
//!
//! Start at [`answer`].

use std::sync::Arc;

use api::discovery::{self, Version};
use api::kinds::Kind;
use api::openapi;
use bytes::Bytes;
use http::header::{ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::documents::Document;
use crate::query::Query;
use crate::server::text;
use crate::{Api, Body, Failure, Response};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
/// What `/` lists.
const PATHS: [&str; 15] = [
    "/.well-known/openid-configuration",
    "/api",
    "/api/v1",
    "/apis",
    "/healthz",
    "/livez",
    "/metrics",
    "/openapi/v2",
    "/openapi/v3",
    "/openid/v1/jwks",
    "/readyz",
    "/readyz/ping",
    "/readyz/poststarthook/bootstrap",
    crate::SNAPSHOT_PATH,
    "/version",
];

/// Answers a path that names no resource.
pub(crate) async fn answer(
    api: &Arc<Api>,
    path: &str,
    verb: &str,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    if verb != "get" {
        return Err(Failure::method_not_allowed());
    }
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    match steps.as_slice() {
        [] => Ok(json(&json!({"paths": paths(api)}))),
        ["healthz" | "livez", ..] => Ok(health(path, &[("ping", true)], query)),
        ["readyz", ..] => Ok(health(path, &[("ping", true), ("poststarthook/bootstrap", api.is_ready())], query)),
        ["version"] => Ok(json(&version())),
        ["metrics"] => Ok(Response {
            status: StatusCode::OK,
            content_type: base::exposition::CONTENT_TYPE,
            headers: Vec::new(),
            body: Body::Whole(Bytes::from(api.exposition().to_string())),
        }),
        ["skerry.dev", "snapshot"] => crate::snapshot::answer(api),
        ["openid", "v1", "jwks"] => Ok(json(&api.settings.tokens.jwks())),
        [".well-known", "openid-configuration"] => Ok(json(&issuer(api))),
        _ => match api.settings.pages.and_then(|pages| pages(path, headers)) {
            Some(page) => Ok(page),
            None => documents(api, &steps, headers),
        },
    }
}

fn documents(api: &Api, steps: &[&str], headers: &HeaderMap) -> Result<Response, Failure> {
    let accept = text(headers, "accept");
    let made = |name: &str, make: &dyn Fn() -> Option<Vec<u8>>| api.documents.get(name, make);
    let rows = api.kinds.all();
    let all: Vec<&Kind> = rows.iter().map(|kind| &**kind).collect();
    let kinds = || all.iter().copied();
    let (document, content_type) = match steps {
        ["api" | "apis"] => {
            let core = steps[0] == "api";
            match aggregated(accept) {
                Some((version, content_type, name)) => {
                    let make = || bytes(discovery::aggregated(core, version, kinds()));
                    (made(&format!("{}{name}", steps[0]), &make)?, content_type)
                }
                None if core => {
                    let (address, port) = api.advertise();
                    (made("api", &|| bytes(discovery::versions(&format!("{address}:{port}"))))?, crate::response::JSON)
                }
                None => (made("apis", &|| bytes(discovery::groups(kinds())))?, crate::response::JSON),
            }
        }
        ["api", version] => {
            let make = || discovery::resources("", version, kinds()).and_then(bytes);
            (made(&format!("api/{version}"), &make)?, crate::response::JSON)
        }
        ["apis", group] => {
            let make = || discovery::group(group, kinds()).and_then(bytes);
            (made(&format!("apis/{group}"), &make)?, crate::response::JSON)
        }
        ["apis", group, version] => {
            let make = || discovery::resources(group, version, kinds()).and_then(bytes);
            (made(&format!("apis/{group}/{version}"), &make)?, crate::response::JSON)
        }
        ["openapi", "v2"] => {
            // Clients in Go take the binary form and nothing else.
            match accept.contains("proto-openapi.spec.v2") {
                true => (made("openapi/v2+binary", &|| Some(openapi::v2_binary(&all)))?, openapi::V2_BINARY_TYPE),
                false => (made("openapi/v2", &|| Some(openapi::v2(&all)))?, crate::response::JSON),
            }
        }
        ["openapi", "v3"] => (made("openapi/v3", &|| Some(v3_index(api, &all)))?, crate::response::JSON),
        ["openapi", "v3", rest @ ..] => (v3(api, &all, rest)?, crate::response::JSON),
        _ => return Err(Failure::no_such_path()),
    };
    Ok(served(document, content_type, text(headers, IF_NONE_MATCH.as_str())))
}

fn served(document: Document, content_type: &'static str, held: &str) -> Response {
    let same = held == document.tag;
    let status = if same { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let body = if same { Bytes::new() } else { document.bytes };
    let mut response = Response { status, content_type, headers: Vec::new(), body: Body::Whole(body) };
    if let Ok(tag) = HeaderValue::from_str(&document.tag) {
        response.headers.push((ETAG, tag));
    }
    response.headers.push((http::header::VARY, HeaderValue::from_static("Accept")));
    response
}

/// The aggregated form, if the client takes one: its version, content type and name.
fn aggregated(accept: &str) -> Option<(Version, &'static str, &'static str)> {
    accept.split(',').find_map(|clause| {
        let has = |part: &str| clause.split(';').any(|one| one.trim() == part);
        match has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") {
            true if has("v=v2") => Some((Version::V2, AGGREGATED, "+v2")),
            true if has("v=v2beta1") => Some((Version::V2Beta1, AGGREGATED_BETA, "+v2beta1")),
            _ => None,
        }
    })
}

/// Path, group and version of each document of OpenAPI v3.
fn groups<'a>(kinds: &[&'a Kind]) -> Vec<(String, &'a str, &'a str)> {
    let mut groups: Vec<(String, &str, &str)> = Vec::new();
    for kind in kinds {
        let path = openapi::v3_path(&kind.group, &kind.version);
        if !groups.iter().any(|(its, _, _)| *its == path) {
            groups.push((path, &kind.group, &kind.version));
        }
    }
    groups
}

fn v3(api: &Api, all: &[&Kind], rest: &[&str]) -> Result<Document, Failure> {
    let path = rest.join("/");
    let found = groups(all).into_iter().find(|(its, _, _)| *its == path);
    let (_, group, version) = found.ok_or_else(Failure::no_such_path)?;
    api.documents.get(&format!("openapi/v3/{path}"), || openapi::v3(group, version, all))
}

fn v3_index(api: &Api, all: &[&Kind]) -> Vec<u8> {
    // A document changes with the program and with definitions only, so these are its fingerprint; making all of them
    // to fingerprint the bytes would cost every first `kubectl` a second.
    let custom = api.kinds.custom();
    let marked = |(path, group, version): (String, &str, &str)| {
        (path, format!("{}{}", api::VERSION, custom.mark(group, version)))
    };
    let documents: Vec<(String, String)> = groups(all).into_iter().map(marked).collect();
    openapi::v3_index(documents.iter().map(|(path, mark)| (path.as_str(), mark.as_str())))
}

fn paths(api: &Api) -> Vec<String> {
    let served = api.kinds.all();
    let all: Vec<&Kind> = served.iter().map(|kind| &**kind).collect();
    let groups = groups(&all).into_iter().filter(|(path, _, _)| path.starts_with("apis/"));
    let mut all: Vec<String> = PATHS.iter().map(|path| (*path).to_owned()).collect();
    for (path, group, _) in groups {
        all.push(format!("/apis/{group}"));
        all.push(format!("/{path}"));
    }
    all.sort();
    all.dedup();
    all
}

fn health(path: &str, checks: &[(&str, bool)], query: &Query) -> Response {
    let mut steps = path.trim_matches('/').splitn(2, '/');
    let (name, one) = (steps.next().unwrap_or_default(), steps.next());
    let excluded = query.get("exclude");
    let chosen: Vec<&(&str, bool)> =
        checks.iter().filter(|(check, _)| one.is_none_or(|one| one == *check) && *check != excluded).collect();
    if one.is_some() && chosen.is_empty() {
        return crate::render::failure(&Failure::no_such_path());
    }
    let well = chosen.iter().all(|(_, well)| *well);
    let status = if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    if well && !query.has("verbose") {
        return Response::text(status, "ok");
    }
    let mut lines: String = chosen
        .iter()
        .map(
            |(check, well)| {
                if *well { format!("[+]{check} ok\n") } else { format!("[-]{check} failed: not finished\n") }
            },
        )
        .collect();
    lines.push_str(&format!("{name} check {}\n", if well { "passed" } else { "failed" }));
    Response::text(status, lines)
}

fn version() -> Value {
    json!({
        "major": api::MAJOR, "minor": api::MINOR, "gitVersion": api::VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "go1.25", "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
        "emulationMajor": api::MAJOR, "emulationMinor": api::MINOR,
        "minCompatibilityMajor": api::MAJOR, "minCompatibilityMinor": api::MINOR,
    })
}

fn issuer(api: &Api) -> Value {
    let (address, port) = api.advertise();
    json!({
        "issuer": api.settings.issuer, "jwks_uri": format!("https://{address}:{port}/openid/v1/jwks"),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    Some(value.to_string().into_bytes())
}

fn json(value: &Value) -> Response {
    Response::json(StatusCode::OK, Bytes::from(value.to_string()))
}

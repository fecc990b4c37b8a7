//! The web page: a cluster in a browser, served at [`PATH`] by the API server itself.
//!
//! Start at [`page`]; what a browser makes of it begins at `route` in `page/dashboard.js`. The page asks the Kubernetes
//! API with the token its reader logs in with, at the address it came from, so RBAC decides what is seen. A port of its
//! own would need certificates, an address and leave for other origins, and would serve the same three files.
//!
//! Invariants:
//! * nothing here knows anything of a cluster: files and headers are the same for everybody;
//! * the page works without the internet: all it loads lies at [`PATH`], and the browser is told to load nothing else;
//! * nothing is kept for it: a file is packed when it is asked for.
//!
//! Not here: who may load it (the API server's bootstrap policy), what the paths it asks for answer (`apiserver`,
//! `telemetry`).
#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use apiserver::{Body, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, ETAG, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// Where the page is; its files lie below.
pub const PATH: &str = "/dashboard/";

/// Name below [`PATH`], type, text.
const FILES: [(&str, &str, &str); 3] = [
    ("", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("dashboard.css", "text/css; charset=utf-8", include_str!("../page/dashboard.css")),
    ("dashboard.js", "text/javascript; charset=utf-8", include_str!("../page/dashboard.js")),
];

/// What every file comes with. A name or a log line that slipped in as markup would still run nothing and load nothing.
const GUARDS: [(HeaderName, &str); 3] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
];

/// A file of the page; nothing for paths that are none of its own.
pub fn page(path: &str, headers: &HeaderMap) -> Option<Response> {
    let Some(name) = path.strip_prefix(PATH) else {
        return (path == PATH.trim_end_matches('/')).then(moved);
    };
    let (_, content_type, text) = FILES.iter().find(|(its, _, _)| *its == name)?;
    Some(file(content_type, text.as_bytes(), headers))
}

/// Names of files in the page are relative, so its path needs the slash.
fn moved() -> Response {
    let headers = vec![(LOCATION, HeaderValue::from_static(PATH))];
    Response { status: StatusCode::MOVED_PERMANENTLY, content_type: "", headers, body: Body::Whole(Bytes::new()) }
}

fn file(content_type: &'static str, bytes: &'static [u8], asked: &HeaderMap) -> Response {
    let guards = GUARDS.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
    let mut headers: Vec<(HeaderName, HeaderValue)> = guards.collect();
    let tag = tag(bytes);
    let is_held = says(asked, &IF_NONE_MATCH, |held| held == tag);
    headers.push((VARY, HeaderValue::from_static("Accept-Encoding")));
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (ETAG, tag)));
    if is_held {
        let body = Body::Whole(Bytes::new());
        return Response { status: StatusCode::NOT_MODIFIED, content_type, headers, body };
    }
    let takes_gzip = says(asked, &ACCEPT_ENCODING, |one| one.split(';').next().is_some_and(|name| name == "gzip"));
    let packed = takes_gzip.then(|| gzip(bytes)).flatten();
    if packed.is_some() {
        headers.push((CONTENT_ENCODING, HeaderValue::from_static("gzip")));
    }
    let body = Body::Whole(packed.unwrap_or(Bytes::from_static(bytes)));
    Response { status: StatusCode::OK, content_type, headers, body }
}

/// Changes with the file; weak, because it says nothing of the encoding.
fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("W/\"{:016x}\"", hasher.finish())
}

/// Whether a header's list has such an entry.
fn says(headers: &HeaderMap, name: &HeaderName, is_one: impl Fn(&str) -> bool) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|entry| is_one(entry.trim()))
}

/// Packed, or nothing: memory takes every byte, and who cannot have it packed gets it plain.
fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

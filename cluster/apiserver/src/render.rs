//! From stored bytes to an answer in the form the client wants.
//!
//! Start at [`object`] and [`list`].
//!
//! Invariants:
//! * JSON in the storage version is spliced, never decoded;
//! * everything else goes through one tree a time.

use api::kinds::{KindRef, join_api_version};
use api::{proto, table};
use base::Timestamp;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use store::Entry;

use crate::accept::{Format, Shape, Wanted};
use crate::server::decoded;
use crate::{Body, Failure, Response, convert};

/// How answers are made for one kind and client.
#[derive(Clone)]
pub(crate) struct Form {
    pub kind: KindRef,
    pub wanted: Wanted,
    /// What goes into a table's rows: `Metadata`, `Object` or `None`.
    pub include: Include,
}

/// How much of its object a table's row carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Metadata,
    Object,
    Nothing,
}

impl Form {
    /// The form for a kind, from what the client accepts and its query's `includeObject`.
    pub(crate) fn new(kind: KindRef, wanted: Wanted, include: &str) -> Form {
        let include = match include {
            "Object" => Include::Object,
            "None" => Include::Nothing,
            _ => Include::Metadata,
        };
        Form { kind, wanted, include }
    }

    /// Stored bytes of that revision can be sent as they are.
    pub(crate) fn splices(&self, revision: u64) -> bool {
        self.wanted.format == Format::Json && self.wanted.shape == Shape::Whole && self.kind.serves_stored(revision)
    }

    /// The tree of an entry, in this form's version and shape (tables apart).
    pub(crate) fn tree(&self, stored: Value) -> Value {
        let object = convert::from_storage(&self.kind, stored);
        match self.wanted.shape {
            Shape::Partial => self.partial(object),
            _ => object,
        }
    }

    fn partial(&self, mut object: Value) -> Value {
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": self.meta_version(),
            "metadata": object.get_mut("metadata").map(Value::take).unwrap_or_default(),
        })
    }

    fn meta_version(&self) -> String {
        join_api_version("meta.k8s.io", self.wanted.version)
    }

    /// A table of these objects, in the kind's own version.
    pub(crate) fn table(&self, objects: Vec<Value>, metadata: Value, headings: bool, now: Timestamp) -> Value {
        let columns = if headings { table::columns(&self.kind) } else { Vec::new() };
        let columns: Vec<Value> = columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.ty, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect();
        let rows: Vec<Value> = objects.into_iter().map(|object| self.row(object, now)).collect();
        let columns = if headings { Value::Array(columns) } else { Value::Null };
        json!({
            "kind": "Table", "apiVersion": self.meta_version(), "metadata": metadata,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    fn row(&self, object: Value, now: Timestamp) -> Value {
        let cells = table::row(&self.kind, &object, now);
        match self.include {
            Include::Nothing => json!({"cells": cells, "object": null}),
            Include::Object => json!({"cells": cells, "object": object}),
            Include::Metadata => json!({"cells": cells, "object": self.partial(object)}),
        }
    }
}

/// The answer to a request for one object.
pub(crate) fn object(form: &Form, status: StatusCode, stored: &Bytes, now: Timestamp) -> Result<Response, Failure> {
    // Of one custom resource the revision is not at hand, and reading it costs little.
    if form.splices(0) {
        return Ok(Response::json(status, stored.clone()));
    }
    let object = convert::from_storage(&form.kind, serde_json::from_slice(stored).map_err(Failure::internal)?);
    let shown = match form.wanted.shape {
        Shape::Whole => object,
        Shape::Partial => form.partial(object),
        Shape::Table => {
            let metadata = json!({"resourceVersion": api::meta::resource_version(&object)});
            form.table(vec![object], metadata, true, now)
        }
    };
    tree(form.wanted.format, status, &shown)
}

/// A page of a list.
pub(crate) struct Listed {
    pub entries: Vec<Entry>,
    /// The list's `resourceVersion`, `continue` and `remainingItemCount`.
    pub metadata: Value,
}

/// The answer to a request for many.
pub(crate) fn list(form: &Form, listed: &Listed, now: Timestamp) -> Result<Response, Failure> {
    let (kind, api_version) = (&form.kind.list_kind, form.kind.api_version());
    if form.splices(u64::MAX) {
        return Ok(Response::json(StatusCode::OK, spliced(form, kind, &api_version, listed)));
    }
    let objects = listed.entries.iter().map(|entry| convert::from_storage(&form.kind, decoded(entry)));
    let shown = match form.wanted.shape {
        Shape::Table => form.table(objects.collect(), listed.metadata.clone(), true, now),
        Shape::Partial => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": form.meta_version(),
            "metadata": listed.metadata, "items": objects.map(|object| form.partial(object)).collect::<Vec<_>>(),
        }),
        Shape::Whole => json!({
            "kind": kind, "apiVersion": api_version, "metadata": listed.metadata, "items": objects.collect::<Vec<_>>(),
        }),
    };
    tree(form.wanted.format, StatusCode::OK, &shown)
}

fn spliced(form: &Form, kind: &str, api_version: &str, listed: &Listed) -> Bytes {
    let metadata = listed.metadata.to_string();
    let bytes: usize = listed.entries.iter().map(|entry| entry.value.len() + 1).sum();
    let mut out = Vec::with_capacity(bytes + metadata.len() + 128);
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(metadata.as_bytes());
    out.extend_from_slice(b",\"items\":[");
    for (index, entry) in listed.entries.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match form.splices(entry.revision.0) {
            true => out.extend_from_slice(&entry.value),
            false => out.extend_from_slice(form.tree(decoded(entry)).to_string().as_bytes()),
        }
    }
    out.extend_from_slice(b"]}\n");
    Bytes::from(out)
}

/// Any tree, encoded.
pub(crate) fn tree(format: Format, status: StatusCode, tree: &Value) -> Result<Response, Failure> {
    let (content_type, bytes) = match format {
        Format::Json => (crate::response::JSON, serde_json::to_vec(tree).map_err(Failure::internal)?),
        Format::Yaml => ("application/yaml", crate::yaml::text(tree).into_bytes()),
        Format::Protobuf => {
            let accepted = ["application/json", "application/yaml"];
            let bytes = proto::encode_any(tree).map_err(|_| Failure::not_acceptable(&accepted))?;
            (proto::CONTENT_TYPE, bytes)
        }
    };
    Ok(Response { status, content_type, headers: Vec::new(), body: Body::Whole(Bytes::from(bytes)) })
}

/// A refusal as its `Status`.
pub(crate) fn failure(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = Response::json(status, Bytes::from(failure.status().to_string()));
    if let Some(seconds) = failure.details.get("retryAfterSeconds").and_then(Value::as_u64) {
        response.headers.push((http::header::RETRY_AFTER, HeaderValue::from(seconds)));
    }
    response
}

/// Adds a `Warning` header for each text.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning.chars().filter(|letter| !letter.is_control()).collect();
        let quoted = quoted.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers.push((HeaderName::from_static("warning"), value));
        }
    }
}

/// Indents JSON, for people who ask with `?pretty`.
pub(crate) fn pretty(mut response: Response) -> Response {
    if let (true, Body::Whole(bytes)) = (response.content_type == crate::response::JSON, &response.body)
        && let Ok(value) = serde_json::from_slice::<Value>(bytes)
        && let Ok(text) = serde_json::to_vec_pretty(&value)
    {
        response.body = Body::Whole(Bytes::from(text));
    }
    response
}

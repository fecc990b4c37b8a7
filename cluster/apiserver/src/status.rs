//! Refusals, in Kubernetes' words: the one place where errors become a `Status`.
//!
//! Start at [`Failure`]; each constructor is a reason upstream has, with upstream's message. Clients compare these texts.

use std::fmt;

use api::FieldError;
use api::kinds::Kind;
use api::managed::Conflict;
use serde_json::{Value, json};
use store::StoreError;

/// A request that was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The HTTP code.
    pub code: u16,
    /// The machine-readable reason, such as `NotFound`.
    pub reason: &'static str,
    /// The sentence for people.
    pub message: String,
    /// Further facts: name, group, kind, causes; an empty map where there are none.
    pub details: Value,
}

/// What an object is called in messages and details: resource and group.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    /// The group; empty for core.
    pub group: &'a str,
    /// The plural, or for `Invalid` the kind.
    pub resource: &'a str,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => out.write_str(self.resource),
            group => write!(out, "{}.{group}", self.resource),
        }
    }
}

/// The resource of a kind, as messages name it.
pub(crate) fn resource_of(kind: &Kind) -> Named<'_> {
    Named { group: &kind.group, resource: &kind.plural }
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Failure {
        Failure { code, reason, message: message.into(), details: json!({}) }
    }

    fn about(mut self, what: Named<'_>, name: &str) -> Failure {
        for (key, value) in [("name", name), ("group", what.group), ("kind", what.resource)] {
            if !value.is_empty() {
                self.details[key] = value.into();
            }
        }
        self
    }

    /// The client should ask again in so many seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Failure {
        self.details["retryAfterSeconds"] = seconds.into();
        self
    }

    /// Adds one cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: &str) -> Failure {
        self.details["causes"] = json!([{"reason": reason, "message": message}]);
        self
    }

    pub(crate) fn not_found(what: Named<'_>, name: &str) -> Failure {
        Failure::new(404, "NotFound", format!("{what} {name:?} not found")).about(what, name)
    }

    /// Nothing is served under that path.
    pub fn no_such_path() -> Failure {
        Failure::new(404, "NotFound", "the server could not find the requested resource")
    }

    pub(crate) fn already_exists(what: Named<'_>, name: &str) -> Failure {
        Failure::new(409, "AlreadyExists", format!("{what} {name:?} already exists")).about(what, name)
    }

    pub(crate) fn conflict(what: Named<'_>, name: &str, why: &str) -> Failure {
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Failure::new(409, "Conflict", message).about(what, name)
    }

    /// Somebody else changed the object first.
    pub(crate) fn modified(what: Named<'_>, name: &str) -> Failure {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Failure::conflict(what, name, why)
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Failure {
        let what = Named { group: &kind.group, resource: &kind.kind };
        let message = format!("{what} {name:?} is invalid: {}", api::field::aggregate(errors));
        let mut failure = Failure::new(422, "Invalid", message).about(what, name);
        failure.details["causes"] = errors.iter().map(FieldError::cause).collect();
        failure
    }

    /// The options of a request do not go together; `kind` is theirs, such as `PatchOptions`.
    pub(crate) fn invalid_options(kind: &str, errors: &[FieldError]) -> Failure {
        let what = Named { group: "meta.k8s.io", resource: kind };
        let message = format!("{what} \"\" is invalid: {}", api::field::aggregate(errors));
        let mut failure = Failure::new(422, "Invalid", message).about(what, "");
        failure.details["causes"] = errors.iter().map(FieldError::cause).collect();
        failure
    }

    /// A configuration that does not fit the schema. Upstream has no reason for it, and calls it a fault of its own.
    pub(crate) fn misfit(message: String) -> Failure {
        Failure::new(500, "", message)
    }

    /// Others manage fields that a configuration gives other values.
    pub(crate) fn apply_conflict(conflicts: &[Conflict]) -> Failure {
        let mut failure = Failure::new(409, "Conflict", conflict_words(conflicts));
        let cause = |one: &Conflict| {
            let message = format!("conflict with {}", one.manager);
            json!({"reason": "FieldManagerConflict", "message": message, "field": one.path})
        };
        failure.details["causes"] = conflicts.iter().map(cause).collect();
        failure
    }

    /// A patch that is well formed and does not apply.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Failure {
        Failure::new(422, "Invalid", message)
    }

    /// The request is not one that can be understood.
    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(400, "BadRequest", message)
    }

    /// The chain of authorisation or admission said no; `why` follows the object's name.
    pub(crate) fn forbidden(what: Named<'_>, name: &str, why: &str) -> Failure {
        let message = match (what.resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{what} is forbidden: {why}"),
            (_, name) => format!("{what} {name:?} is forbidden: {why}"),
        };
        Failure::new(403, "Forbidden", message).about(what, name)
    }

    pub(crate) fn unauthorized() -> Failure {
        Failure::new(401, "Unauthorized", "Unauthorized")
    }

    /// The verb is none of this resource.
    pub fn method_not_allowed() -> Failure {
        let message = "the server does not allow this method on the requested resource";
        Failure::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn not_acceptable(accepted: &[&str]) -> Failure {
        let list = accepted.join(", ");
        Failure::new(406, "NotAcceptable", format!("only the following media types are accepted: {list}"))
    }

    pub(crate) fn unsupported_media_type(given: &str, accepted: &[&str]) -> Failure {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        tracing::debug!("a body came as {given:?}");
        Failure::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(bytes_max: usize) -> Failure {
        let message = format!("Request entity too large: limit is {bytes_max}");
        Failure::new(413, "RequestEntityTooLarge", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Failure {
        Failure::new(410, "Expired", message)
    }

    pub(crate) fn too_many_requests(message: impl Into<String>, seconds: u32) -> Failure {
        Failure::new(429, "TooManyRequests", message).retry_after(seconds)
    }

    /// It cannot be answered, and that is our fault.
    pub fn internal(message: impl fmt::Display) -> Failure {
        Failure::new(500, "InternalError", format!("Internal error occurred: {message}"))
            .cause("", &message.to_string())
    }

    /// It cannot be answered now.
    pub fn unavailable(message: impl Into<String>) -> Failure {
        Failure::new(503, "ServiceUnavailable", message)
    }

    /// An extension has no object of that name.
    pub fn no_such_object(group: &str, resource: &str, name: &str) -> Failure {
        Failure::not_found(Named { group, resource }, name)
    }

    /// What the store said about a write or a list; conflicts are the callers' to tell apart.
    pub(crate) fn store(error: &StoreError) -> Failure {
        match error {
            StoreError::Compacted { asked, oldest } => {
                Failure::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::Future { asked, current } => {
                let message = format!("Too large resource version: {asked}, current: {current}");
                Failure::new(504, "Timeout", message)
                    .cause("ResourceVersionTooLarge", "Too large resource version")
                    .retry_after(1)
            }
            StoreError::Slow => Failure::expired("the watch fell behind and must start again from a list"),
            StoreError::ReadOnly { .. } | StoreError::Closed => Failure::unavailable(error.to_string()).retry_after(1),
            StoreError::Unknown { .. } => Failure::new(500, "InternalError", error.to_string()).retry_after(1),
            StoreError::Conflict { .. } | StoreError::Open { .. } | StoreError::Fill { .. } => Failure::internal(error),
        }
    }

    /// The `Status` object.
    pub fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if self.details.as_object().is_some_and(|details| !details.is_empty()) {
            status["details"] = self.details.clone();
        }
        status
    }
}

fn conflict_words(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path);
    }
    let mut words = format!("Apply failed with {} conflicts: ", conflicts.len());
    let mut manager = None;
    for one in conflicts {
        if manager != Some(&one.manager) {
            let line = if manager.is_some() { "\n" } else { "" };
            words.push_str(&format!("{line}conflicts with {}:", one.manager));
            manager = Some(&one.manager);
        }
        words.push_str(&format!("\n- {}", one.path));
    }
    words
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

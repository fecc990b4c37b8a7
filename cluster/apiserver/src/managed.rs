//! Notes who manages the fields of what is written.
//!
//! Start at [`Hand`]: made once a request, it notes the managers of each version that the request makes
//! ([`Hand::wrote`]), or applies a configuration ([`Hand::applied`]).
//!
//! Invariant: what is noted is what the client wrote, before admission, allocation and the strategy add to it: whose
//! fields those are, nobody says.
//!
//! Not here: how managers and their fields are computed (`api::managed`).

use std::borrow::Cow;

use api::FieldError;
use api::field::Path;
use api::kinds::{Kind, split_api_version};
use api::managed::{self, Refusal, Writer};
use api::schema::TypeRef;
use http::header::USER_AGENT;
use serde_json::Value;

use crate::server::{Ask, text};
use crate::{Api, Failure, convert};

/// A manager's name has no more bytes.
const MANAGER_BYTES_MAX: usize = 128;

/// Who writes through what, and when.
pub(crate) struct Hand<'a> {
    api: &'a Api,
    /// The kind, in the version of the request.
    kind: &'a Kind,
    manager: Cow<'a, str>,
    subresource: Option<&'a str>,
    now: String,
}

impl<'a> Hand<'a> {
    /// The hand of a component of the server itself.
    pub(crate) fn own(api: &'a Api, kind: &'a Kind) -> Hand<'a> {
        Hand { api, kind, manager: "kube-apiserver".into(), subresource: None, now: api.now().rfc3339() }
    }

    /// The client's hand; `options` names the options that a wrong manager stands in.
    pub(crate) fn of(
        api: &'a Api,
        ask: &'a Ask,
        subresource: Option<&'a str>,
        options: &str,
    ) -> Result<Hand<'a>, Failure> {
        let manager = match ask.query.get("fieldManager") {
            "" => Cow::Owned(managed::of_user_agent(text(&ask.headers, USER_AGENT.as_str()))),
            manager => {
                let errors = wrong_manager(manager);
                if !errors.is_empty() {
                    return Err(Failure::invalid_options(options, &errors));
                }
                Cow::Borrowed(manager)
            }
        };
        Ok(Hand { api, kind: &ask.kind, manager, subresource, now: api.now().rfc3339() })
    }

    /// Notes whose the fields of a new version are. `old` is as stored, `new` in the version of the request.
    pub(crate) fn wrote(&self, old: Option<&Value>, new: &mut Value) {
        let old = old.map(|old| self.shown(old));
        let convert = |object: &Value, version: &str| self.converted(object, version);
        managed::update(&self.writer(&convert), old.as_deref(), new);
    }

    /// The object once the configuration is applied to it. `old` is as stored.
    pub(crate) fn applied(&self, old: Option<&Value>, configuration: &Value, force: bool) -> Result<Value, Failure> {
        let old = old.map(|old| self.shown(old));
        let convert = |object: &Value, version: &str| self.converted(object, version);
        managed::apply(&self.writer(&convert), old.as_deref(), configuration, force).map_err(refused)
    }

    fn writer<'h>(&'h self, convert: &'h managed::Convert<'h>) -> Writer<'h> {
        let Hand { kind, manager, subresource, now, .. } = self;
        Writer { kind, manager, subresource: *subresource, now, convert }
    }

    /// Custom resources are handled in the client's version anyway.
    fn shown<'v>(&self, stored: &'v Value) -> Cow<'v, Value> {
        match self.kind.is_storage_version() || self.kind.own.is_some() {
            true => Cow::Borrowed(stored),
            false => Cow::Owned(convert::from_storage(self.kind, stored.clone())),
        }
    }

    /// An object in another version of its kind.
    fn converted(&self, object: &Value, version: &str) -> Option<(TypeRef, Value)> {
        let kind_in = |version: &str| {
            let (group, version) = split_api_version(version);
            self.api.kinds.find(group, version, &self.kind.plural)
        };
        let its = object["apiVersion"].as_str().unwrap_or_default();
        if its == version && version == self.kind.api_version() {
            return Some((self.kind.ty.clone(), object.clone()));
        }
        let (from, to) = (kind_in(its)?, kind_in(version)?);
        let object = convert::from_storage(&to, convert::to_storage(&from, object.clone()));
        Some((to.ty.clone(), object))
    }
}

/// What is wrong with the name of a manager.
pub(crate) fn wrong_manager(manager: &str) -> Vec<FieldError> {
    let root = Path::new("fieldManager");
    let mut errors = Vec::new();
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(FieldError::too_long(&root, MANAGER_BYTES_MAX));
    }
    let strange = manager.char_indices().filter(|(_, letter)| letter.is_control());
    errors.extend(strange.enumerate().map(|(_, (at, letter))| {
        let detail = format!("invalid character U+{:04X} (at position {at})", u32::from(letter));
        FieldError::invalid(&root, manager, detail)
    }));
    errors
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::OtherKind(what) => Failure::bad_request(format!("invalid object type: {what}")),
        Refusal::HasManagedFields => Failure::bad_request("metadata.managedFields must be nil"),
        Refusal::Misfit(message) => Failure::misfit(message),
        Refusal::Conflicts(conflicts) => Failure::apply_conflict(&conflicts),
    }
}

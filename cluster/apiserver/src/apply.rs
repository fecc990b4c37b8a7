//! Server-side apply: a configuration creates an object, or becomes part of the one that is there.
//!
//! Start at [`Api::apply`].
//!
//! Invariants:
//! * what is applied goes the road of every other write: defaults, admission, the strategy of its kind, validation;
//! * whoever makes an object by applying may also create.
//!
//! Not here: merging, owners and conflicts (`api::managed`).

use std::sync::Arc;

use api::field::Path;
use api::{FieldError, check, dig, meta};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::authorise::{self, Wish};
use crate::body::{self, Sent};
use crate::managed::{Hand, wrong_manager};
use crate::path::Info;
use crate::query::FieldValidation;
use crate::server::Ask;
use crate::status::resource_of;
use crate::write::{Author, place};
use crate::{Api, Failure, Response, render};

/// The media type that means applying.
pub(crate) const APPLY: &str = "application/apply-patch+yaml";
/// An object that comes and goes while it is applied to is tried again so often.
const RETRIES_MAX: usize = 4;

/// How upstream's decoder begins when a configuration is no object.
const NO_MAP: &str = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";

/// The sort of a value, as Go's decoder names it.
fn word(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "number",
    }
}

/// The patch is a configuration to apply.
pub(crate) fn is_apply(ask: &Ask) -> bool {
    body::media_type(ask.content_type()) == APPLY
}

/// What a client wants applied.
pub(crate) struct Wanted {
    /// As it was sent.
    pub configuration: Value,
    /// Take fields from other managers.
    pub force: bool,
    /// Fields that were sent twice, if the client is to be told.
    pub warnings: Vec<String>,
    /// The same, if that is to refuse the request.
    strict: Option<String>,
}

impl Wanted {
    /// Reads a request's options and its body, which is YAML or JSON.
    pub(crate) fn of(ask: &Ask) -> Result<Wanted, Failure> {
        options(ask)?;
        let undecodable = |detail: String| Failure::bad_request(format!("error decoding patch: {detail}"));
        let (configuration, twice) = body::lenient_yaml(&ask.body).map_err(|failure| undecodable(failure.message))?;
        if !configuration.is_object() {
            return Err(undecodable(format!(
                "{NO_MAP} {} into Go value of type map[string]interface {{}}",
                word(&configuration)
            )));
        }
        let wanted = Wanted { configuration, force: ask.query.flag("force"), warnings: Vec::new(), strict: None };
        Ok(match (ask.query.field_validation()?, twice) {
            (FieldValidation::Ignore, _) | (_, None) => wanted,
            (FieldValidation::Warn, Some(twice)) => Wanted { warnings: vec![twice], ..wanted },
            (FieldValidation::Strict, twice) => Wanted { strict: twice, ..wanted },
        })
    }

    /// The object that applying to `old` makes, in canonical form.
    pub(crate) fn object(&self, ask: &Ask, hand: &Hand, old: Option<&Value>) -> Result<Value, Failure> {
        let applied = hand.applied(old, &self.configuration, self.force)?;
        if let Some(twice) = &self.strict {
            return Err(Failure::bad_request(format!("error strict decoding patch: {twice}")));
        }
        // What the schema does not know was refused already.
        let Sent { object, .. } = body::structured(&ask.kind, applied, Vec::new(), FieldValidation::Ignore)?;
        Ok(object)
    }
}

/// Refuses options that do not go together.
pub(crate) fn options(ask: &Ask) -> Result<(), Failure> {
    let mut errors = Vec::new();
    let manager = ask.query.get("fieldManager");
    match is_apply(ask) {
        true if manager.is_empty() => {
            errors.push(FieldError::required(&Path::new("fieldManager"), "is required for apply patch"));
        }
        false if ask.query.has("force") => {
            errors.push(FieldError::forbidden(&Path::new("force"), "may not be specified for non-apply patch"));
        }
        _ => {}
    }
    errors.extend(wrong_manager(manager));
    if errors.is_empty() { Ok(()) } else { Err(Failure::invalid_options("PatchOptions", &errors)) }
}

impl Api {
    /// Applies the configuration in a request's body.
    pub(crate) async fn apply(self: &Arc<Self>, ask: &Ask, subresource: Option<&str>) -> Result<Response, Failure> {
        let wanted = Wanted::of(ask)?;
        let hand = Hand::of(self, ask, subresource, "PatchOptions")?;
        let (status, value) = self.apply_or_create(ask, subresource, &wanted, &hand).await?;
        let mut response = render::object(&ask.form(), status, &value, self.now())?;
        render::warn(&mut response, &wanted.warnings);
        Ok(response)
    }

    async fn apply_or_create(
        self: &Arc<Self>,
        ask: &Ask,
        subresource: Option<&str>,
        wanted: &Wanted,
        hand: &Hand<'_>,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let (namespace, name) = (ask.info.namespace.as_str(), ask.info.name.as_str());
        let key = ask.kind.key(namespace, name);
        for _ in 0..RETRIES_MAX {
            let is_there = self.store.get(&key).is_some();
            let tried = match is_there || subresource.is_some() {
                true => self.apply_to(ask, subresource, wanted, hand).await,
                false => self.apply_anew(ask, wanted, hand).await,
            };
            match tried {
                // It went, or came, in between.
                Err(failure) if failure.code == 404 && is_there && self.store.get(&key).is_none() => {}
                Err(failure) if failure.reason == "AlreadyExists" && !is_there => {}
                Err(failure) => return Err(failure),
                Ok(value) if is_there => return Ok((StatusCode::OK, value)),
                Ok(value) => return Ok((StatusCode::CREATED, value)),
            }
        }
        Err(Failure::modified(resource_of(&ask.kind), name))
    }

    /// Applies to an object that is there; the answer is what is stored then.
    pub(crate) async fn apply_to(
        self: &Arc<Self>,
        ask: &Ask,
        subresource: Option<&str>,
        wanted: &Wanted,
        hand: &Hand<'_>,
    ) -> Result<Bytes, Failure> {
        let change = ask.change(subresource)?;
        self.replace(&change, &mut |old| {
            let mut new = wanted.object(ask, hand, Some(old))?;
            place(&ask.kind, &mut new, &ask.info.namespace, &ask.info.name)?;
            Ok(crate::write::defaulted(&ask.kind, new))
        })
        .await
    }

    async fn apply_anew(self: &Arc<Self>, ask: &Ask, wanted: &Wanted, hand: &Hand<'_>) -> Result<Bytes, Failure> {
        let (namespace, name) = (ask.info.namespace.as_str(), ask.info.name.as_str());
        let Info { group, resource, .. } = &ask.info;
        let create = Wish { verb: "create", group, resource, namespace, name, ..Wish::default() };
        authorise::require(self, &ask.user, &create)?;
        let uid = meta::uid(&wanted.configuration);
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(Failure::conflict(resource_of(&ask.kind), name, &why));
        }
        let mut object = wanted.object(ask, hand, None)?;
        place(&ask.kind, &mut object, namespace, name)?;
        dig::remove(&mut object, "metadata.resourceVersion");
        let author = Author { user: &ask.user, hand: None, dry_run: ask.query.dry_run()? };
        self.create_object(&ask.kind, namespace, object, &author).await
    }
}

/// A Scale that is applied, as a configuration of the object it scales.
pub(crate) fn of_scale(ask: &Ask, scale: &Value, replicas_at: &str) -> Result<Value, Failure> {
    let (version, kind) = (dig::text(scale, "apiVersion"), dig::text(scale, "kind"));
    if (version, kind) != ("autoscaling/v1", "Scale") {
        let slash = if version.contains('/') { "" } else { "/" };
        return Err(Failure::bad_request(format!("invalid object type: {slash}{version}, Kind={kind}")));
    }
    let ty = api::schema::find_ref("io.k8s.api.autoscaling.v1.Scale").ok_or_else(Failure::no_such_path)?;
    if let Some(misfits) = api::fieldset::misfits(&ty, scale) {
        let (namespace, name) = (meta::namespace(scale), meta::name(scale));
        let what = format!("{namespace}/{name}; autoscaling/v1, Kind=Scale");
        return Err(Failure::misfit(format!("failed to create typed patch object ({what}): {misfits}")));
    }
    let mut whole = scale.clone();
    let report = check::structure_as(&ty, &mut whole, check::Mode::Whole);
    if let Some(fault) = report.errors.first() {
        return Err(Failure::bad_request(fault.message.clone()));
    }
    let mut configuration = json!({"apiVersion": ask.kind.api_version(), "kind": ask.kind.kind, "metadata": {}});
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        dig::put(&mut configuration["metadata"], field, dig::get(&scale["metadata"], field).clone());
    }
    dig::put(&mut configuration, replicas_at, dig::get(scale, "spec.replicas").clone());
    Ok(configuration)
}

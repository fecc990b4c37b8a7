//! Writing: create, update, patch.
//!
//! Start at [`Api::create_object`] and [`Api::replace`]: every write, from outside or within, goes through one of them,
//! and so through defaults, admission, the strategy of its kind and validation.
//!
//! Invariants:
//! * nothing is stored that was not validated as it is stored;
//! * a replacement is made from exactly the version it replaces, or not at all;
//! * a replacement that changes nothing writes nothing.
//!
//! Not here: deleting (`delete.rs`), what a subresource may change (`subresource.rs`).

use std::sync::Arc;

use api::kinds::{Kind, KindRef};
use api::{defaults, dig, managed, meta, patch, strategy, validation};
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;
use store::{Delete, Durability, Entry, Precondition, Put, StoreError, Write};

use crate::body::{self, Sent};
use crate::delete::goes_now;
use crate::managed::Hand;
use crate::query::FieldValidation;
use crate::server::{Ask, decoded, text};
use crate::status::resource_of;
use crate::{Api, Failure, Response, User, admit, admit_node, apply, convert, encode, render};

/// A write that meets a newer version is made again so often.
const RETRIES_MAX: usize = 16;
/// A generated name that is taken is generated again so often.
const NAMES_MAX: usize = 8;

/// The subresource by which a pod gets its node.
pub(crate) const BINDING: &str = "binding";

/// What a replacement is about.
pub(crate) struct Change<'a> {
    /// The kind in the version the client speaks.
    pub kind: KindRef,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Such as `status`; `None` for the object itself.
    pub subresource: Option<&'a str>,
    pub user: &'a User,
    pub dry_run: bool,
}

/// Who creates.
pub(crate) struct Author<'a> {
    pub user: &'a User,
    /// Notes whose the fields are; `None` where that is noted already.
    pub hand: Option<&'a Hand<'a>>,
    pub dry_run: bool,
}

/// Makes the new version from the old; both as stored.
pub(crate) type Make<'a> = dyn FnMut(&Value) -> Result<Value, Failure> + Send + 'a;

impl Api {
    pub(crate) async fn create(self: &Arc<Self>, ask: &Ask) -> Result<Response, Failure> {
        let sent = ask.sent(&ask.kind)?;
        let hand = Hand::of(self, ask, None, "CreateOptions")?;
        let author = Author { user: &ask.user, hand: Some(&hand), dry_run: ask.query.dry_run()? };
        let value = self.create_object(&ask.kind, &ask.info.namespace, sent.object, &author).await?;
        let mut response = render::object(&ask.form(), StatusCode::CREATED, &value, self.now())?;
        render::warn(&mut response, &sent.warnings);
        Ok(response)
    }

    /// Creates an object; the answer is what was stored.
    pub(crate) async fn create_object(
        self: &Arc<Self>,
        kind: &KindRef,
        namespace: &str,
        mut object: Value,
        author: &Author<'_>,
    ) -> Result<Bytes, Failure> {
        if kind.own.as_ref().is_some_and(|own| own.ending) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(Failure::conflict(resource_of(kind), meta::name(&object), why));
        }
        place(kind, &mut object, namespace, "")?;
        if !meta::resource_version(&object).is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
        defaults::apply(kind, &mut object);
        strategy::settle(kind, &mut object);
        if let Some(hand) = author.hand {
            hand.wrote(None, &mut object);
        }
        let object = convert::to_storage(kind, object);
        let kind = &self.handled(kind);
        if !generated {
            return self.create_named(kind, namespace, object, author).await;
        }
        let mut attempt = 1;
        loop {
            let mut object = object.clone();
            let name = meta::generated_name(meta::generate_name(&object), &mut self.rng());
            meta::metadata_mut(&mut object).insert("name".to_owned(), name.into());
            match self.create_named(kind, namespace, object, author).await {
                Err(failure) if failure.reason == "AlreadyExists" && attempt < NAMES_MAX => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn create_named(
        self: &Arc<Self>,
        kind: &KindRef,
        namespace: &str,
        mut object: Value,
        author: &Author<'_>,
    ) -> Result<Bytes, Failure> {
        admit::create(self, kind, &mut object, author.user)?;
        strategy::prepare_create(kind, &mut object);
        let (uid, now) = (self.rng().uid().to_string(), self.now().rfc3339());
        let metadata = meta::metadata_mut(&mut object);
        metadata.insert("uid".to_owned(), uid.into());
        metadata.insert("creationTimestamp".to_owned(), now.into());
        strategy::finish_create(kind, &mut object);
        defaults::apply(kind, &mut object);
        let held = self.allocator.admit(kind, &mut object, None)?;
        let errors = validation::create(kind, &object);
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, meta::name(&object), &errors));
        }
        let _claimed = self.quotas.admit(self, kind, &object, None)?;
        let name = meta::name(&object).to_owned();
        let key = kind.key(namespace, &name);
        if author.dry_run {
            let taken = self.store.get(&key).is_some();
            return if taken { Err(Failure::already_exists(resource_of(kind), &name)) } else { Ok(plain(&object)) };
        }
        let (value, stamp_at) = encode::stored(convert::as_stored(kind, &object).as_ref().unwrap_or(&object));
        let put = Put {
            key,
            value,
            stamp_at: Some(stamp_at),
            precondition: Precondition::Absent,
            durability: durability(kind),
        };
        match self.store.write(Write::Put(put)).await {
            Ok(entry) => {
                held.keep();
                self.written(kind);
                Ok(entry.value)
            }
            Err(StoreError::Conflict { .. }) => Err(Failure::already_exists(resource_of(kind), &name)),
            Err(error) => Err(Failure::store(&error)),
        }
    }

    pub(crate) async fn update(self: &Arc<Self>, ask: &Ask, subresource: Option<&str>) -> Result<Response, Failure> {
        let (sent, change) = (ask.sent(&ask.kind)?, ask.change(subresource)?);
        let mut object = sent.object;
        place(&ask.kind, &mut object, &ask.info.namespace, &ask.info.name)?;
        defaults::apply(&ask.kind, &mut object);
        strategy::settle(&ask.kind, &mut object);
        let hand = Hand::of(self, ask, subresource, "UpdateOptions")?;
        let make = &mut |old: &Value| {
            let mut new = object.clone();
            hand.wrote(Some(old), &mut new);
            Ok(convert::to_storage(&ask.kind, new))
        };
        let value = self.replace(&change, make).await?;
        let mut response = render::object(&ask.form(), StatusCode::OK, &value, self.now())?;
        render::warn(&mut response, &sent.warnings);
        Ok(response)
    }

    pub(crate) async fn patch(self: &Arc<Self>, ask: &Ask, subresource: Option<&str>) -> Result<Response, Failure> {
        if apply::is_apply(ask) {
            return self.apply(ask, subresource).await;
        }
        let patch = Patch::of(ask)?;
        apply::options(ask)?;
        let hand = Hand::of(self, ask, subresource, "PatchOptions")?;
        let validation = ask.query.field_validation()?;
        let change = ask.change(subresource)?;
        let mut warnings = Vec::new();
        let value = self
            .replace(&change, &mut |old| {
                let shown = convert::from_storage(&ask.kind, old.clone());
                let sent = patch.apply(&ask.kind, &shown, validation)?;
                warnings = sent.warnings;
                let mut new = sent.object;
                place(&ask.kind, &mut new, &ask.info.namespace, &ask.info.name)?;
                defaults::apply(&ask.kind, &mut new);
                strategy::settle(&ask.kind, &mut new);
                hand.wrote(Some(old), &mut new);
                Ok(convert::to_storage(&ask.kind, new))
            })
            .await?;
        let mut response = render::object(&ask.form(), StatusCode::OK, &value, self.now())?;
        render::warn(&mut response, &warnings);
        Ok(response)
    }

    /// Puts what `make` makes of an object in its place; the answer is what is stored then.
    pub(crate) async fn replace(self: &Arc<Self>, change: &Change<'_>, make: &mut Make<'_>) -> Result<Bytes, Failure> {
        let kind = &self.handled(&change.kind);
        for _ in 0..RETRIES_MAX {
            let entry = self.entry(kind, change.namespace, change.name)?;
            match self.replace_version(kind, change, &entry, make).await {
                Err(Refused::Raced) => {}
                Err(Refused::For(failure)) => return Err(failure),
                Ok(value) => return Ok(value),
            }
        }
        Err(Failure::modified(resource_of(kind), change.name))
    }

    async fn replace_version(
        self: &Arc<Self>,
        kind: &KindRef,
        change: &Change<'_>,
        entry: &Entry,
        make: &mut Make<'_>,
    ) -> Result<Bytes, Refused> {
        let old = if kind.own.is_some() { convert::from_storage(kind, decoded(entry)) } else { decoded(entry) };
        let mut new = make(&old)?;
        held_to(kind, &new, &old, change.name)?;
        let version = meta::resource_version(&old).to_owned();
        meta::metadata_mut(&mut new).insert("resourceVersion".to_owned(), version.into());
        // A binding writes a pod's node and its condition in one go, which no strategy lets anybody else do.
        if change.subresource != Some(BINDING) {
            strategy::prepare_update(kind, &mut new, &old, change.subresource);
        }
        admit_node::update(kind, &new, &old, change.user)?;
        if change.subresource.is_none() {
            admit::update(self, kind, &mut new, &old, change.user)?;
            defaults::apply(kind, &mut new);
        }
        let held = self.allocator.admit(kind, &mut new, Some(&old))?;
        let errors = match change.subresource {
            Some(subresource) => validation::subresource_update(kind, subresource, &new, &old),
            None => validation::update(kind, &new, &old),
        };
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, change.name, &errors).into());
        }
        if new == old || managed::is_same_but_for_times(&new, &old) {
            return Ok(entry.value.clone());
        }
        let _claimed = match change.subresource {
            None => self.quotas.admit(self, kind, &new, Some(&old))?,
            Some(_) => Default::default(),
        };
        if change.dry_run {
            return Ok(plain(&new));
        }
        let (value, stamp_at) = encode::stored(convert::as_stored(kind, &new).as_ref().unwrap_or(&new));
        let precondition = Precondition::At(entry.revision);
        let write = if goes_now(kind, &new) {
            let tombstone = Some((value, Some(stamp_at)));
            Write::Delete(Delete { key: entry.key.to_string(), precondition, tombstone })
        } else {
            let durability = if is_renewal(kind, &new, &old) { Durability::Lazy } else { durability(kind) };
            Write::Put(Put { key: entry.key.to_string(), value, stamp_at: Some(stamp_at), precondition, durability })
        };
        let deletes = matches!(write, Write::Delete(_));
        match self.store.write(write).await {
            Ok(written) => {
                held.keep();
                if deletes {
                    self.allocator.release(kind, &new);
                }
                self.written(kind);
                Ok(written.value)
            }
            Err(StoreError::Conflict { .. }) => Err(Refused::Raced),
            Err(error) => Err(Failure::store(&error).into()),
        }
    }

    /// An object of this kind changed: what was derived from such objects is derived again.
    pub(crate) fn written(&self, kind: &Kind) {
        if kind.group == "rbac.authorization.k8s.io" {
            self.rules.forget();
        }
        if kind.plural == "customresourcedefinitions" && self.kinds.reload(&*self.store) {
            self.documents.forget();
        }
    }

    /// The row by which a write is judged: the storage version's of a built-in kind, whose versions are converted; the
    /// client's own of a custom resource, whose versions have a schema each.
    fn handled(&self, kind: &KindRef) -> KindRef {
        if kind.own.is_some() { kind.clone() } else { self.kinds.storage(kind) }
    }
}

/// Why a version was not replaced.
enum Refused {
    /// It is no longer the newest.
    Raced,
    /// It may not be.
    For(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused::For(failure)
    }
}

impl Ask {
    /// The body as an object of `kind`.
    pub(crate) fn sent(&self, kind: &Kind) -> Result<Sent, Failure> {
        body::object(kind, self.content_type(), &self.body, self.query.field_validation()?)
    }

    pub(crate) fn content_type(&self) -> &str {
        text(&self.headers, http::header::CONTENT_TYPE.as_str())
    }

    /// The replacement this request is about.
    pub(crate) fn change<'a>(&'a self, subresource: Option<&'a str>) -> Result<Change<'a>, Failure> {
        let (namespace, name) = (self.info.namespace.as_str(), self.info.name.as_str());
        let dry_run = self.query.dry_run()?;
        Ok(Change { kind: self.kind.clone(), namespace, name, subresource, user: &self.user, dry_run })
    }
}

/// A patch as a client sent it.
enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    fn of(ask: &Ask) -> Result<Patch, Failure> {
        let mut accepted = vec![
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
        ];
        // Only types made in Go carry the tags that strategic merging reads.
        accepted.truncate(if ask.kind.own.is_some() { 2 } else { 3 });
        accepted.push(apply::APPLY);
        let make = match body::media_type(ask.content_type()) {
            "application/json-patch+json" => Patch::Json,
            "application/merge-patch+json" => Patch::Merge,
            "application/strategic-merge-patch+json" if ask.kind.own.is_none() => Patch::Strategic,
            other => return Err(Failure::unsupported_media_type(other, &accepted)),
        };
        let (value, _) = body::tree("application/json", &ask.body)
            .map_err(|failure| Failure::bad_request(format!("error decoding patch: {failure}")))?;
        Ok(make(value))
    }

    fn apply(&self, kind: &Kind, old: &Value, validation: FieldValidation) -> Result<Sent, Failure> {
        let refused = |error: patch::PatchError| match error.code() {
            400 => Failure::bad_request(error.to_string()),
            413 => Failure {
                code: 413,
                reason: "RequestEntityTooLarge",
                message: error.to_string(),
                details: Value::Object(Default::default()),
            },
            _ => Failure::unprocessable(error.to_string()),
        };
        let patched = match self {
            Patch::Json(patch) => {
                let mut patched = old.clone();
                patch::json_patch(&mut patched, patch).map_err(refused)?;
                patched
            }
            Patch::Merge(patch) => {
                if !patch.is_object() {
                    return Err(Failure::bad_request("error decoding patch: a merge patch is an object"));
                }
                let mut patched = old.clone();
                patch::merge_patch(&mut patched, patch);
                patched
            }
            Patch::Strategic(patch) => patch::strategic(kind.schema(), old, patch).map_err(refused)?,
        };
        body::structured(kind, patched, Vec::new(), validation)
    }
}

/// An object that was merged, defaulted and as it is stored.
pub(crate) fn defaulted(kind: &Kind, mut object: Value) -> Value {
    defaults::apply(kind, &mut object);
    strategy::settle(kind, &mut object);
    convert::to_storage(kind, object)
}

/// Fills in the namespace (and for writes to a name the name) that the path says, or refuses another.
pub(crate) fn place(kind: &Kind, object: &mut Value, namespace: &str, name: &str) -> Result<(), Failure> {
    let (its_namespace, its_name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
    if kind.namespaced {
        if its_namespace.is_empty() {
            meta::metadata_mut(object).insert("namespace".to_owned(), namespace.into());
        } else if its_namespace != namespace {
            return Err(Failure::bad_request(format!(
                "the namespace of the provided object does not match the namespace sent on the request"
            )));
        }
    }
    if name.is_empty() || its_name == name {
        return Ok(());
    }
    if its_name.is_empty() {
        meta::metadata_mut(object).insert("name".to_owned(), name.into());
        return Ok(());
    }
    Err(Failure::bad_request(format!(
        "the name of the object ({its_name}) does not match the name on the URL ({name})"
    )))
}

/// A write may say which version and which object it means.
fn held_to(kind: &Kind, new: &Value, old: &Value, name: &str) -> Result<(), Failure> {
    let (version, uid) = (meta::resource_version(new), meta::uid(new));
    if !uid.is_empty() && uid != meta::uid(old) {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(old));
        return Err(Failure::conflict(resource_of(kind), name, &why));
    }
    if !version.is_empty() && version != "0" && version != meta::resource_version(old) {
        return Err(Failure::modified(resource_of(kind), name));
    }
    Ok(())
}

/// Events may wait for the next commit; a crash that loses the last of them loses nothing else.
fn durability(kind: &Kind) -> Durability {
    if kind.plural == "events" { Durability::Lazy } else { Durability::Durable }
}

/// A Lease is kept by who has it: nothing is lost if that is forgotten, and it happens all day long.
fn is_renewal(kind: &Kind, new: &Value, old: &Value) -> bool {
    if kind.plural != "leases" {
        return kind.plural == "events";
    }
    let is_same = |part: &str, but: &str| {
        let fields = |object: &'_ Value| dig::map(object, part).iter().filter(|(field, _)| *field != but).count();
        let kept = dig::map(old, part);
        let mut rest = dig::map(new, part).iter().filter(|(field, _)| *field != but);
        fields(new) == fields(old) && rest.all(|(field, value)| kept.get(field) == Some(value))
    };
    is_same("spec", "renewTime") && is_same("metadata", "managedFields")
}

/// The bytes of an object that is not stored: a dry run's.
fn plain(object: &Value) -> Bytes {
    Bytes::from(object.to_string())
}

//! What a reconciler wants written: a value that can be looked at, compared, and applied by somebody else.
//!
//! Start at [`Write`].
//!
//! Invariants:
//! * an update carries the version it was made from, a delete the uid of what was seen: a decision is never applied to
//!   another object than the one it was made about.

use std::fmt;

use bytes::Bytes;
use client::{Collection, DeleteOptions, Entry, Kind, Resource};
use serde_json::Value;

use crate::{Note, Regarding};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH, with this content type.
    Patch(&'static str),
    /// DELETE.
    Delete,
}

/// What must still be true, asked of the server itself, when the write is applied: caches may lag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// There is no object of this uid at this place; with an empty uid, no object at all.
    Absent {
        /// Where.
        resource: Resource,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// There is an object of this uid at this place, and it is not being deleted.
    Present {
        /// Where.
        resource: Resource,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// The collection is empty.
    Empty(Collection),
    /// Somebody may do this; asked by a SubjectAccessReview.
    Allowed {
        /// Who.
        user: String,
        /// Their groups.
        groups: Vec<String>,
        /// Such as `create`.
        verb: &'static str,
        /// Of which group.
        group: &'static str,
        /// With which resource.
        resource: &'static str,
        /// Or with what below it.
        subresource: &'static str,
    },
}

/// An Event to record when the write is done, and another for when it fails. `{}` stands for the object's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// About what.
    pub regarding: Regarding,
    /// The reason and message on success.
    pub done: (&'static str, String),
    /// The reason, and the words before the error, on failure.
    pub failed: (&'static str, String),
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What to do.
    pub verb: Verb,
    /// To which kind of object.
    pub resource: Resource,
    /// In which namespace.
    pub namespace: String,
    /// To which object; a create may leave it to the server.
    pub name: String,
    /// Such as `status`, or `""`.
    pub subresource: &'static str,
    /// The uid of the object seen, or `""`.
    pub uid: String,
    /// What is sent.
    pub body: Bytes,
    /// What must still be true.
    pub guards: Vec<Guard>,
    /// What to tell.
    pub announce: Option<Box<Announce>>,
    /// A create that finds the object there already is content.
    pub may_exist: bool,
}

impl Write {
    /// Creates an object.
    pub fn create<T: Kind>(object: &T) -> Write {
        Write::plain(Verb::Create, object, "", object.encode())
    }

    /// Replaces an object, in the version it carries.
    pub fn update<T: Kind>(object: &T) -> Write {
        Write::plain(Verb::Update, object, "", object.encode())
    }

    /// Replaces an object's status, in the version it carries.
    pub fn status<T: Kind>(object: &T) -> Write {
        Write::plain(Verb::Update, object, "status", object.encode())
    }

    /// Deletes the object seen, as `options` say.
    pub fn delete<T: Kind>(object: &T, options: DeleteOptions) -> Write {
        let options = DeleteOptions { uid: Some(object.uid().to_owned()), ..options };
        Write::plain(Verb::Delete, object, "", options.body())
    }

    /// Changes some fields of the object seen by a merge patch.
    pub fn patch<T: Kind>(object: &T, subresource: &'static str, mut patch: Value) -> Write {
        patch["metadata"]["uid"] = object.uid().into();
        Write::plain(Verb::Patch(client::typed::MERGE_PATCH), object, subresource, Bytes::from(patch.to_string()))
    }

    /// Does something to an object of any resource.
    pub fn raw(verb: Verb, resource: &Resource, entry: &Entry, subresource: &'static str, body: Bytes) -> Write {
        Write {
            verb,
            resource: resource.clone(),
            namespace: entry.meta.namespace.clone(),
            name: entry.meta.name.clone(),
            subresource,
            uid: entry.meta.uid.clone(),
            body,
            guards: Vec::new(),
            announce: None,
            may_exist: false,
        }
    }

    /// Deletes an object of any resource.
    pub fn raw_delete(resource: &Resource, entry: &Entry, options: DeleteOptions) -> Write {
        let options = DeleteOptions { uid: Some(entry.meta.uid.clone()), ..options };
        Write::raw(Verb::Delete, resource, entry, "", options.body())
    }

    /// Tells about it.
    pub fn announce(mut self, announce: Announce) -> Write {
        self.announce = Some(Box::new(announce));
        self
    }

    /// Is content if the object exists already.
    pub fn or_exists(mut self) -> Write {
        self.may_exist = true;
        self
    }

    /// Only if this is still true.
    pub fn only_if(mut self, guard: Guard) -> Write {
        self.guards.push(guard);
        self
    }

    /// Method and path, such as `DELETE /api/v1/namespaces/default/pods/a`.
    pub fn target(&self) -> (http::Method, String) {
        let object = || self.resource.path(&self.namespace, &self.name, self.subresource);
        match self.verb {
            // A pod's binding and its like are created below the object.
            Verb::Create if !self.subresource.is_empty() => (http::Method::POST, object()),
            Verb::Create => (http::Method::POST, self.resource.within(&self.namespace).path()),
            Verb::Update => (http::Method::PUT, object()),
            Verb::Patch(_) => (http::Method::PATCH, object()),
            Verb::Delete => (http::Method::DELETE, object()),
        }
    }

    fn plain<T: Kind>(verb: Verb, object: &T, subresource: &'static str, body: Bytes) -> Write {
        Write {
            verb,
            resource: T::RESOURCE.clone(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            subresource,
            uid: object.uid().to_owned(),
            body,
            guards: Vec::new(),
            announce: None,
            may_exist: false,
        }
    }
}

impl Announce {
    /// The note for a success, about the object of this name.
    pub fn success(&self, name: &str) -> Note {
        Note::normal(&self.regarding, self.done.0, self.done.1.replace("{}", name))
    }

    /// The note for a failure.
    pub fn failure(&self, error: &str) -> Note {
        Note::warning(&self.regarding, self.failed.0, format!("{}{error}", self.failed.1))
    }
}

/// One line, for tests and logs: `delete pods default/a`, `update deployments.apps/status default/web`.
impl fmt::Display for Write {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.verb {
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch(_) => "patch",
            Verb::Delete => "delete",
        };
        write!(out, "{verb} {}", self.resource)?;
        if !self.subresource.is_empty() {
            write!(out, "/{}", self.subresource)?;
        }
        write!(out, " {}", crate::Key::new(&self.namespace, &self.name))
    }
}

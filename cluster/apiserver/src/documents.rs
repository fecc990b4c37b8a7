//! What the server says about itself: discovery and OpenAPI, made once and kept.
//!
//! Start at [`Documents::get`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::Failure;

/// A document and its entity tag.
#[derive(Clone)]
pub(crate) struct Document {
    pub bytes: Bytes,
    pub tag: String,
}

/// The documents made so far, by name.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<BTreeMap<String, Document>>,
}

impl Documents {
    /// Forgets all: what is served changed.
    pub(crate) fn forget(&self) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The document of that name; made the first time it is asked for.
    pub(crate) fn get(&self, name: &str, make: impl FnOnce() -> Option<Vec<u8>>) -> Result<Document, Failure> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = made.get(name) {
            return Ok(document.clone());
        }
        let bytes = Bytes::from(make().ok_or_else(Failure::no_such_path)?);
        let document = Document { tag: format!("\"{:016X}\"", base::fnv1a(bytes.iter().copied())), bytes };
        // Only what exists is kept, so names that clients invent take no memory.
        made.insert(name.to_owned(), document.clone());
        Ok(document)
    }
}

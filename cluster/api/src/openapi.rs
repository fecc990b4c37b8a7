//! The schemas of kinds, published as OpenAPI v2 and v3.
//!
//! Start at [`v3`], one document a group and version, and [`v3_index`], the list of them; [`v2`] is the one big
//! document that older clients read. All take kinds from anywhere, so custom resources are published the same way.
//!
//! Invariants: the same kinds give the same bytes.
//!
//! Not here: caching and compression (the `apiserver` crate keeps the bytes).

use crate::kinds::Kind;

/// `/openapi/v2`: everything in one document.
pub fn v2(_kinds: &[&Kind]) -> Vec<u8> {
    b"{}".to_vec()
}

/// `/openapi/v3`: paths of the documents, such as `apis/apps/v1`, each with a text that changes when the document does.
pub fn v3_index<'a>(_documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    b"{\"paths\":{}}".to_vec()
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`: one group and version, if any kind is in it.
pub fn v3(_group: &str, _version: &str, _kinds: &[&Kind]) -> Option<Vec<u8>> {
    None
}

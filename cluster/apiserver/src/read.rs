//! Reading: one object, and lists of them.
//!
//! Start at [`Api::get`] and [`Api::list`].
//!
//! Invariants:
//! * a list is a picture of one revision, also when it is read in pages;
//! * a page holds at most the objects asked for, and says where the next one begins.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Map, Value, json};
use store::{Entry, Range, Revision, StoreError};

use crate::render::{Form, Listed};
use crate::select::Selection;
use crate::server::Ask;
use crate::{Api, Failure, Response, render};

/// Objects looked at in one step when a selector decides which of them fill a page.
const SCAN_MAX: usize = 1_000;

/// What of the past or present a list shows, and how much.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub limit: usize,
    pub resume: String,
    pub version: String,
    pub version_match: String,
}

impl Ask {
    /// The form of answers to this request.
    pub(crate) fn form(&self) -> Form {
        Form::new(self.kind.clone(), self.wanted, self.query.get("includeObject"))
    }

    /// The objects this request is about.
    pub(crate) fn selection(&self) -> Result<Selection, Failure> {
        let (labels, fields) = (self.query.get("labelSelector"), self.query.get("fieldSelector"));
        let namespace = if self.kind.namespaced { self.info.namespace.as_str() } else { "" };
        Selection::of(&self.kind, namespace, &self.info.name, labels, fields)
    }

    fn window(&self) -> Result<Window, Failure> {
        Ok(Window {
            limit: self.query.number("limit")?.unwrap_or(0) as usize,
            resume: self.query.get("continue").to_owned(),
            version: self.query.get("resourceVersion").to_owned(),
            version_match: self.query.get("resourceVersionMatch").to_owned(),
        })
    }
}

impl Api {
    pub(crate) fn get(&self, ask: &Ask) -> Result<Response, Failure> {
        let entry = self.entry(&ask.kind, &ask.info.namespace, &ask.info.name)?;
        if let Some(wanted) = revision_of(ask.query.get("resourceVersion"))?
            && wanted > self.store.revision()
        {
            return Err(Failure::store(&StoreError::Future { asked: wanted, current: self.store.revision() }));
        }
        render::object(&ask.form(), StatusCode::OK, &entry.value, self.now())
    }

    pub(crate) fn list(&self, ask: &Ask) -> Result<Response, Failure> {
        let listed = self.page(&ask.selection()?, &ask.window()?)?;
        render::list(&ask.form(), &listed, self.now())
    }

    /// One page of a selection.
    pub(crate) fn page(&self, selection: &Selection, window: &Window) -> Result<Listed, Failure> {
        let (at, after) = begin(window, self.store.revision())?;
        if let Some(key) = &selection.exact
            && at.is_none()
        {
            let revision = self.store.revision();
            let entries = self.store.get(key).filter(|entry| selection.selects(entry)).into_iter().collect();
            return Ok(Listed { entries, metadata: metadata(revision, None, None) });
        }
        let expired = |error: StoreError| match (&error, window.resume.is_empty()) {
            (StoreError::Compacted { .. }, false) => Failure::expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a new \
                 list without the continue parameter.",
            ),
            _ => Failure::store(&error),
        };
        if window.limit == 0 || selection.is_everything() {
            let range = Range { prefix: selection.prefix.clone(), after, limit: window.limit, at };
            let mut page = self.store.list(&range).map_err(expired)?;
            let remaining = (page.remaining > 0).then_some(page.remaining);
            let next = page.entries.last().filter(|_| remaining.is_some()).map(|last| token(page.revision, &last.key));
            if !selection.is_everything() {
                page.entries.retain(|entry| selection.selects(entry));
            }
            return Ok(Listed { entries: page.entries, metadata: metadata(page.revision, next, remaining) });
        }
        self.scan(selection, window.limit, at, after, expired)
    }

    /// Fills a page with selected objects, step by step.
    fn scan(
        &self,
        selection: &Selection,
        limit: usize,
        mut at: Option<Revision>,
        mut after: Option<String>,
        expired: impl Fn(StoreError) -> Failure,
    ) -> Result<Listed, Failure> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let range = Range { prefix: selection.prefix.clone(), after: after.take(), limit: SCAN_MAX, at };
            let page = self.store.list(&range).map_err(&expired)?;
            at = Some(page.revision);
            let seen = page.entries.len();
            for (index, entry) in page.entries.into_iter().enumerate() {
                let last = index + 1 == seen && page.remaining == 0;
                after = Some(entry.key.to_string());
                if !selection.selects(&entry) {
                    continue;
                }
                entries.push(entry);
                if entries.len() == limit && !last {
                    let next = after.as_deref().map(|key| token(page.revision, key));
                    return Ok(Listed { entries, metadata: metadata(page.revision, next, None) });
                }
            }
            if page.remaining == 0 {
                return Ok(Listed { entries, metadata: metadata(page.revision, None, None) });
            }
        }
    }
}

/// The revision a `resourceVersion` names; nothing where any will do.
pub(crate) fn revision_of(text: &str) -> Result<Option<Revision>, Failure> {
    match text {
        "" | "0" => Ok(None),
        text => text.parse().map(|number| Some(Revision(number))).map_err(|_| {
            Failure::bad_request(format!(
                "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

/// At which revision a list stands and behind which key it begins.
fn begin(window: &Window, current: Revision) -> Result<(Option<Revision>, Option<String>), Failure> {
    if !window.resume.is_empty() {
        if !window.version.is_empty() && window.version != "0" {
            return Err(Failure::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, key) = untoken(&window.resume).ok_or_else(|| {
            Failure::bad_request("invalid continue token: continue key is not valid: it was not made by this server")
        })?;
        return Ok((Some(revision), Some(key)));
    }
    let revision = revision_of(&window.version)?;
    match (window.version_match.as_str(), revision) {
        ("Exact", None) => {
            Err(Failure::bad_request("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""))
        }
        ("Exact", Some(revision)) => Ok((Some(revision), None)),
        ("NotOlderThan", Some(asked)) | ("", Some(asked)) if asked > current => {
            Err(Failure::store(&StoreError::Future { asked, current }))
        }
        ("", Some(revision)) if window.limit > 0 => Ok((Some(revision), None)),
        ("" | "NotOlderThan", _) => Ok((None, None)),
        (other, _) => Err(Failure::bad_request(format!("resourceVersionMatch {other:?} is not supported"))),
    }
}

fn metadata(revision: Revision, next: Option<String>, remaining: Option<usize>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    if let Some(next) = next {
        metadata.insert("continue".to_owned(), next.into());
    }
    if let Some(remaining) = remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    Value::Object(metadata)
}

fn token(revision: Revision, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision.0, "start": key}).to_string())
}

fn untoken(token: &str) -> Option<(Revision, String)> {
    let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    Some((Revision(value["rv"].as_u64()?), value["start"].as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(version: &str, version_match: &str, limit: usize, want: Result<Option<u64>, u16>) {
        let window =
            Window { limit, version: version.into(), version_match: version_match.into(), ..Window::default() };
        let got = begin(&window, Revision(10)).map(|(at, _)| at.map(|at| at.0)).map_err(|failure| failure.code);
        assert_eq!(got, want, "{version} {version_match} {limit}");
    }

    #[test]
    fn versions_mean_what_upstream_documents() {
        check("", "", 0, Ok(None));
        check("0", "", 5, Ok(None));
        check("7", "", 0, Ok(None));
        check("7", "", 5, Ok(Some(7)));
        check("7", "Exact", 0, Ok(Some(7)));
        check("7", "NotOlderThan", 5, Ok(None));
        check("0", "Exact", 0, Err(400));
        check("11", "", 0, Err(504));
        check("x", "", 0, Err(400));
        check("7", "Nearly", 0, Err(400));
    }

    #[test]
    fn tokens_carry_revision_and_key() {
        assert_eq!(untoken(&token(Revision(3), "pods/a/b")), Some((Revision(3), "pods/a/b".to_owned())));
        assert_eq!(untoken("nonsense"), None);
    }
}

//! Everything the cluster is, as one stream: what a backup is made of.
//!
//! Start at [`answer`]. Who may ask for it is a question of RBAC, for the path [`SNAPSHOT_PATH`] and the verb `get`; it is as
//! much as being the administrator, because every Secret and the cluster's own keys are in it.
//!
//! Invariants:
//! * the stream is the cluster at one revision, whatever is written meanwhile;
//! * so many are under way at once as [`AT_ONCE_MAX`] says: each may keep old versions of objects in memory.
//!
//! Not here: what a stream looks like (`backup`).

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::StatusCode;
use store::{Page, Range};

use crate::{Api, Body, Failure, Response};

/// Where a snapshot is had.
pub const SNAPSHOT_PATH: &str = "/skerry.dev/snapshot";
/// One that runs, and one by hand.
pub(crate) const AT_ONCE_MAX: usize = 2;
/// Whoever comes when there are as many is told to come back after so many seconds.
const RETRY_SECONDS: u32 = 10;

/// Makes the frames of a snapshot of everything the store holds, or says why it cannot.
pub type Snapshot = Arc<dyn Fn(Page) -> Result<Box<dyn Iterator<Item = Bytes> + Send>, String> + Send + Sync>;

/// The stream.
pub(crate) fn answer(api: &Api) -> Result<Response, Failure> {
    let make = api.settings.snapshot.as_ref().ok_or_else(Failure::no_such_path)?;
    let room = api.snapshots.clone().try_acquire_owned();
    let room = room.map_err(|_| {
        Failure::too_many_requests(format!("{AT_ONCE_MAX} snapshots are being taken already"), RETRY_SECONDS)
    })?;
    let page = api.store.list(&Range::default()).map_err(|error| Failure::store(&error))?;
    let frames = make(page).map_err(Failure::internal)?;
    let frames = stream::iter(frames).map(move |frame| {
        let _held_until_the_stream_is_dropped = &room;
        frame
    });
    let body = Body::Stream { frames: frames.boxed(), timeout: None };
    Ok(Response { status: StatusCode::OK, content_type: "application/octet-stream", headers: Vec::new(), body })
}

//! Watch events as they go over the wire, each encoded once and shared by all who watch.
//!
//! Start at [`Frames::spliced`]. A few hundred recent frames are kept: watchers of one event ask for it at nearly the
//! same time, and a frame kept longer would only double the memory of its object.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// So many recent frames are kept.
const FRAMES_MAX: usize = 256;

/// The recent frames, by revision.
pub(crate) struct Frames {
    recent: Mutex<Vec<Option<(u64, &'static str, Bytes)>>>,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames { recent: Mutex::new(vec![None; FRAMES_MAX]) }
    }
}

impl Frames {
    /// The frame of an event whose object is sent as stored.
    pub(crate) fn spliced(&self, revision: u64, event: &'static str, object: &Bytes) -> Bytes {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut recent[(revision % FRAMES_MAX as u64) as usize];
        match slot {
            Some((its, kind, frame)) if *its == revision && *kind == event => frame.clone(),
            _ => {
                let frame = frame(event, object);
                *slot = Some((revision, event, frame.clone()));
                frame
            }
        }
    }
}

/// One event as JSON.
pub(crate) fn frame(event: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_encoded_once() {
        let (frames, object) = (Frames::default(), Bytes::from_static(b"{}"));
        let first = frames.spliced(7, "ADDED", &object);
        assert_eq!(first.as_ptr(), frames.spliced(7, "ADDED", &object).as_ptr());
        assert_eq!(&first[..], b"{\"type\":\"ADDED\",\"object\":{}}\n");
        assert_ne!(frames.spliced(7, "DELETED", &object), first);
        assert_ne!(frames.spliced(7 + FRAMES_MAX as u64, "MODIFIED", &object), first);
    }
}

//! Fills caches through a door, each in a tokio task.
//!
//! Start at [`caches`].
//!
//! Not here: what to do when something fails (`reflector.rs` decides).

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::sleep;

use crate::reflector::{Reflector, Step};
use crate::{Cache, Caches, Door};

/// How often a quiet reflector looks whether anybody still holds its cache.
const HELD_CHECK: Duration = Duration::from_secs(30);

/// Caches that fill themselves through `door`. Must be called, and used, inside a tokio runtime.
pub fn caches(door: Arc<dyn Door>) -> Arc<Caches> {
    Caches::new(move |cache| {
        tokio::spawn(fill(door.clone(), Arc::downgrade(&cache)));
    })
}

/// Lists and watches until nobody holds the cache.
pub async fn fill(door: Arc<dyn Door>, cache: Weak<Cache>) {
    let Some(held) = cache.upgrade() else { return };
    let collection = held.collection().clone();
    let mut reflector = Reflector::new(held);
    let mut watch = futures::stream::empty().boxed();
    while is_held(&reflector) {
        match reflector.next() {
            Step::List => reflector.listed(door.list(&collection).await),
            Step::Watch(from) => {
                let opened = door.watch(&collection, &from).await;
                reflector.opened(opened.map(|events| watch = events));
            }
            Step::Hear => match tokio::time::timeout(HELD_CHECK, watch.next()).await {
                // A server that stops ends its readers first: that their watches break then is no news.
                Ok(event) if is_held(&reflector) => reflector.heard(event),
                _ => {}
            },
            Step::Wait(time) => sleep(time).await,
        }
    }
}

/// Whether somebody holds the cache; one holder is the reflector itself.
fn is_held(reflector: &Reflector) -> bool {
    Arc::strong_count(reflector.cache()) > 1
}

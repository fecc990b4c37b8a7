//! What a request writes many times over is committed together: a slow disk is waited for once.
//!
//! Start at [`Server::commits`].

mod world;

use std::sync::Arc;

use apiserver::{Api, Credentials, User, annotate};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::json;
use store::{Disk, Local, Options, Pace};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server over a store that commits only when it is told to.
struct Server {
    api: Arc<Api>,
    store: Arc<Local>,
}

impl Server {
    fn new() -> Server {
        let store = store::memory_on(&Disk::new(), annotate(), Options::default(), Pace::ByHand);
        let store = Arc::new(store.expect("a disk without faults"));
        let server = Server { api: world::open(store.clone()).0, store };
        let api = server.api.clone();
        server.commits(async { api.bootstrap().await.expect("the first objects") });
        server
    }

    /// How many commits it takes until `work` is done.
    fn commits(&self, work: impl Future<Output = ()>) -> usize {
        let (mut work, mut commits) = (std::pin::pin!(work), 0);
        while work.as_mut().now_or_never().is_none() {
            assert!(self.store.turn(), "the work waits for something else");
            commits += 1;
        }
        commits
    }

    async fn ask(&self, method: &str, path: &str, body: String) {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/json");
        let credentials = Credentials::User(Arc::new(User::new("admin", ["system:masters"])));
        let response = self.api.handle(request.body(Bytes::from(body)).expect("a request"), credentials).await;
        assert!(response.status.is_success(), "{method} {path}: {}", response.status);
    }
}

#[test]
fn a_collection_is_deleted_in_few_commits() {
    let server = Server::new();
    let create = |number: usize| {
        let object = json!({"metadata": {"name": format!("map-{number}")}});
        server.ask("POST", MAPS, object.to_string())
    };
    assert_eq!(server.commits(async { drop(join_all((0..150).map(create)).await) }), 1);
    assert_eq!(server.commits(server.ask("DELETE", MAPS, String::new())), 2);
}

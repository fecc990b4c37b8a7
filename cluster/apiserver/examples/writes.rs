//! How long writes take in the API server itself, without a network and without a disk: a ConfigMap of 256 bytes is
//! created, replaced and patched, then a Lease is renewed, all through [`Api::handle`] over the memory store.
//!
//! Start at [`main`]: `cargo run --release -p apiserver --example writes -- COUNT`. It prints microseconds a write, and the
//! bytes of an object as it is stored.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Api, Body, Credentials, Settings, User, annotate};
use base::Clock;
use bytes::Bytes;
use futures::executor::block_on;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

struct Server {
    api: Arc<Api>,
    user: Arc<User>,
    clock: Arc<dyn Clock>,
}

impl Server {
    fn ask(&self, method: &str, path: &str, ty: &str, body: String) -> Bytes {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("content-type", ty).header("user-agent", "writes/1 (example)");
        let request = request.body(Bytes::from(body)).expect("a request");
        let response = block_on(self.api.handle(request, Credentials::User(self.user.clone())));
        assert!(response.status.is_success(), "{method} {path}: {}", response.status);
        match response.body {
            Body::Whole(bytes) => bytes,
            _ => Bytes::new(),
        }
    }

    /// Does something so often, and says how long each time took.
    fn time(&self, what: &str, count: usize, mut act: impl FnMut(usize)) {
        let start = self.clock.monotonic();
        (0..count).for_each(&mut act);
        let took: Duration = self.clock.monotonic().since(start);
        println!("{what:8} {:8.2} µs", took.as_secs_f64() * 1e6 / count as f64);
    }
}

fn map(name: usize, turn: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("m{name}"), "namespace": "default", "labels": {"app": "bench"}},
        "data": {"value": format!("{turn:0256}")},
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse())?;
    let clock: Arc<dyn Clock> = Arc::new(sys::clock::SystemClock);
    let tokens = Arc::new(pki::TokenKey::ephemeral()?);
    let settings = Settings::new(clock.clone(), 7, tokens, "CA".to_owned());
    let api = Api::open(Arc::new(store::memory(annotate())), settings);
    block_on(api.bootstrap())?;
    let server = Server { api, user: Arc::new(User::new("admin", ["system:masters"])), clock };
    const JSON: &str = "application/json";
    server.time("create", count, |at| drop(server.ask("POST", MAPS, JSON, map(at, 0).to_string())));
    let read = |at: usize| server.ask("GET", &format!("{MAPS}/m{at}"), JSON, String::new());
    server.time("update", count, |at| {
        // A client sends back what it read, changed.
        let mut object: Value = serde_json::from_slice(&read(at)).expect("an object");
        object["data"]["value"] = format!("{:0256}", 1).into();
        server.ask("PUT", &format!("{MAPS}/m{at}"), JSON, object.to_string());
    });
    server.time("patch", count, |at| {
        let patch = json!({"data": {"value": format!("{:0256}", 2)}}).to_string();
        server.ask("PATCH", &format!("{MAPS}/m{at}"), "application/merge-patch+json", patch);
    });
    println!("{:8} {:8} bytes", "object", read(0).len());
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "one", "leaseDurationSeconds": 40}});
    let mut lease: Value = serde_json::from_slice(&server.ask("POST", LEASES, JSON, lease.to_string()))?;
    server.time("renew", count, |at| {
        lease["spec"]["renewTime"] = format!("2026-01-01T00:00:00.{at:06}Z").into();
        let renewed = server.ask("PUT", &format!("{LEASES}/l"), JSON, lease.to_string());
        lease = serde_json::from_slice(&renewed).expect("a lease");
    });
    println!("{:8} {:8} bytes", "lease", lease.to_string().len());
    Ok(())
}

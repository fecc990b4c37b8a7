//! Which addresses this node may give its pods: what the control plane has written into its Node.
//!
//! Start at [`of_node`].
//!
//! Invariants:
//! * a range is remembered before it is used, so that pods start again without any server;
//! * a node that is not registered yet is, as not ready: it has no range to give addresses from.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Timestamp, chain};
use client::{Cache, Client, ClientError, Kind};
use k8s_openapi::api::core::v1::Node;
use kubelet::node::Health;
use sys::net::link::Net;

/// The pauses between attempts to learn it.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is not ready before there is a range.
const NO_NETWORK: &str = "container runtime network not ready: the node has no podCIDR yet";

/// The range that is remembered in a data folder.
pub(super) fn remembered(data: &Path) -> Option<Net> {
    parse(std::fs::read_to_string(file(data)).ok()?.trim())
}

/// The range of this node: the one remembered, or else the one that its Node is given.
pub(super) async fn of_node(
    data: &Path,
    options: &kubelet::Options,
    client: &Client,
    now: impl Fn() -> Timestamp,
) -> Result<Net, io::Error> {
    if let Some(range) = remembered(data) {
        return Ok(range);
    }
    let mut pause = PAUSE;
    loop {
        match given(options, client, now()).await {
            Ok(Some(range)) => {
                remember(data, range)?;
                return Ok(range);
            }
            Ok(None) => tracing::debug!("the node has no podCIDR yet"),
            Err(error) => tracing::warn!("failed to learn the node's podCIDR: {}", chain(&error)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits until the Node has another range than this one, and remembers that.
pub(super) async fn moved(data: &Path, node: &str, range: Net, nodes: &Cache) -> Result<Net, io::Error> {
    let mut changed = nodes.changed();
    loop {
        changed.borrow_and_update();
        let now = nodes.get::<Node>("", node).and_then(|node| range_of(&node));
        if let Some(other) = now.filter(|now| *now != range) {
            remember(data, other)?;
            return Ok(other);
        }
        if changed.changed().await.is_err() {
            // The cache lives as long as we hold it.
            std::future::pending::<()>().await;
        }
    }
}

async fn given(options: &kubelet::Options, client: &Client, now: Timestamp) -> Result<Option<Net>, ClientError> {
    match client.get::<Node>("", &options.node_name).await {
        Ok(node) => Ok(range_of(&node)),
        Err(error) if error.not_found() => {
            let health = Health { trouble: Some(NO_NETWORK.to_owned()), ..Health::default() };
            match client.create(&kubelet::node::node(options, &[], &health, now)).await {
                Err(error) if !error.already_exists() => Err(error),
                _ => Ok(None),
            }
        }
        Err(error) => Err(error),
    }
}

fn range_of(node: &Node) -> Option<Net> {
    let range = node.spec.as_ref()?.pod_cidr.as_deref().filter(|range| !range.is_empty())?;
    let parsed = parse(range);
    if parsed.is_none() {
        tracing::error!("node {} has the podCIDR {range:?}, which is no IPv4 range", node.name());
    }
    parsed
}

fn parse(text: &str) -> Option<Net> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse().ok()?, prefix.parse().ok()?);
    (prefix <= 32).then_some(Net { address: IpAddr::V4(address), prefix })
}

fn remember(data: &Path, range: Net) -> io::Result<()> {
    let path = file(data);
    std::fs::create_dir_all(path.parent().unwrap_or(data))?;
    sys::files::write_atomically(&path, format!("{range}\n").as_bytes(), 0o644).map_err(io::Error::other)
}

fn file(data: &Path) -> PathBuf {
    data.join("node/pod-cidr")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(remembered(folder.path()), None);
        let range = parse("10.42.7.0/24").expect("a range");
        remember(folder.path(), range).expect("written");
        assert_eq!(remembered(folder.path()), Some(range));
        for wrong in ["", "10.42.7.0", "10.42.7.0/33", "fd00::/64"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}

//! `skerry update-agent`: what the pods of an update's DaemonSet run. It gives the node's update service a bundle, and mirrors
//! what becomes of it.
//!
//! Start at [`run`]; [`mirror`] says what there is to say. What it says goes to its log, and to a file in the pod's memory that
//! its readiness probe (`--ready`) reads, so that `kubectl describe pod` tells why a pod is not ready.
//!
//! Invariant: ready means that this very bundle runs here and is confirmed.
//!
//! Not here: doing anything with the bundle (the node does).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bundle::message::{Drain, REFUSED, Reply, Request, SOCKET, State, Status};
use bundle::{Digest, ask};
use clap::Args;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// What was refused is offered again after so long: it may have been put right meanwhile. A damaged bundle is read as a whole
/// each time.
const AGAIN: Duration = Duration::from_secs(60);
const READY: &str = "ready";

/// Options of `skerry update-agent`.
#[derive(Clone, Debug, Args)]
pub struct UpdateAgent {
    /// The bundle. Another bundle goes by another name, so that the pods are replaced for it.
    #[arg(long, value_name = "FILE", required_unless_present = "ready")]
    pub bundle: Option<PathBuf>,
    /// The node may evict pods that no controller replaces.
    #[arg(long)]
    pub evict_bare_pods: bool,
    /// The node may evict pods with emptyDir volumes, whose data is lost.
    #[arg(long)]
    pub evict_empty_dir: bool,
    /// Pods that do not leave within so many seconds end the attempt; as long after that it is tried again. 0 is for ever.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub drain_timeout: u32,
    /// Where the node's update service listens.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    pub socket: PathBuf,
    /// Where it is written down how things are.
    #[arg(long, value_name = "FILE", default_value = "/dev/shm/update")]
    pub state: PathBuf,
    /// Only tell whether the bundle runs and is confirmed: for the readiness probe.
    #[arg(long)]
    pub ready: bool,
}

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It is not ready.
    #[error("{0}")]
    NotReady(String),
    /// The state cannot be kept.
    #[error("failed to write {path}")]
    State {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runtime cannot be started.
    #[error("failed to start")]
    Start(#[source] io::Error),
}

/// Runs until it is told to stop.
pub fn run(options: UpdateAgent) -> Result<(), AgentError> {
    let Some(bundle) = options.bundle.clone().filter(|_| !options.ready) else { return is_ready(&options.state) };
    crate::server::logging();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AgentError::Start)?;
    runtime.block_on(async move {
        let stop = crate::server::stop().map_err(AgentError::Start)?;
        tokio::select! {
            () = stop => Ok(()),
            ended = work(&options, &bundle) => ended,
        }
    })
}

fn is_ready(state: &Path) -> Result<(), AgentError> {
    match fs::read_to_string(state) {
        Ok(text) if text == READY => Ok(()),
        Ok(text) => Err(AgentError::NotReady(text)),
        Err(_) => Err(AgentError::NotReady("it has not looked yet".to_owned())),
    }
}

async fn work(options: &UpdateAgent, bundle: &Path) -> Result<(), AgentError> {
    let drain = Drain {
        bare_pods: options.evict_bare_pods,
        empty_dir: options.evict_empty_dir,
        within_s: options.drain_timeout,
    };
    let mut agent =
        Agent { socket: options.socket.clone(), bundle: bundle.to_owned(), drain, ours: None, offered: None };
    let mut before = String::new();
    loop {
        let said = agent.look();
        let text = said.clone().err().unwrap_or_else(|| READY.to_owned());
        if text != before {
            tracing::info!("{}", said.unwrap_or_else(|told| told));
            let failed = |source| AgentError::State { path: options.state.clone(), source };
            fs::write(&options.state, &text).map_err(failed)?;
            before = text;
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What asks and mirrors.
struct Agent {
    socket: PathBuf,
    bundle: PathBuf,
    drain: Drain,
    /// The bundle's digest, as the node read it, or why the node does not want it.
    ours: Option<Result<Digest, String>>,
    offered: Option<Instant>,
}

impl Agent {
    /// Looks, and offers the bundle where the node does not have it: how well things are, or why not.
    fn look(&mut self) -> Result<String, String> {
        let mut status = self.status()?;
        if self.is_to_offer(&status) {
            self.ours = Some(self.offer()?);
            self.offered = Some(Instant::now());
            status = self.status()?;
        }
        match &self.ours {
            Some(Ok(digest)) => mirror(&status, *digest),
            Some(Err(told)) => Err(told.clone()),
            None => Err("the bundle has not been offered".to_owned()),
        }
    }

    fn is_to_offer(&self, status: &Status) -> bool {
        let is_old = self.offered.is_none_or(|offered| offered.elapsed() > AGAIN);
        match &self.ours {
            None => true,
            Some(Err(_)) => is_old,
            Some(Ok(ours)) => !is_known(status, *ours) || is_old && is_refused(status, *ours),
        }
    }

    fn status(&self) -> Result<Status, String> {
        match self.ask(&Request::Status, None)? {
            Reply::Status(status) => Ok(status),
            other => Err(format!("the node's update service answered {other:?}")),
        }
    }

    /// What cannot be asked is tried again at once; what was answered holds for a while.
    fn offer(&self) -> Result<Result<Digest, String>, String> {
        let file = match File::open(&self.bundle) {
            Ok(file) => file,
            Err(error) => return Ok(Err(format!("the bundle {} cannot be opened: {error}", self.bundle.display()))),
        };
        Ok(match self.ask(&Request::Offer { drain: self.drain }, Some(&file))? {
            Reply::Accepted { digest } => Ok(digest),
            Reply::Refused(told) => Err(format!("the node refuses the bundle: {told}")),
            other => Err(format!("the node's update service answered {other:?}")),
        })
    }

    fn ask(&self, request: &Request, file: Option<&File>) -> Result<Reply, String> {
        let failed = |error| format!("the node's update service at {} cannot be asked: {error}", self.socket.display());
        ask(&self.socket, request, file).map_err(failed)
    }
}

/// Whether the node runs it, is about to, or has tried.
fn is_known(status: &Status, ours: Digest) -> bool {
    let is_under_way = |state| state != State::Waiting;
    status.digest == Some(ours)
        || status.wanted.as_ref().is_some_and(|wanted| wanted.digest == ours && is_under_way(wanted.state))
        || status.failed.as_ref().is_some_and(|failed| failed.digest == ours)
}

fn is_refused(status: &Status, ours: Digest) -> bool {
    status.failed.as_ref().is_some_and(|failed| failed.digest == ours && failed.cause == REFUSED)
}

/// What is to be said of our bundle: that it runs, or why it does not.
fn mirror(status: &Status, ours: Digest) -> Result<String, String> {
    if let Some(wanted) = status.wanted.as_ref().filter(|wanted| wanted.digest == ours) {
        let version = &wanted.version;
        return Err(match wanted.state {
            State::Waiting => format!("version {version} waits for its bytes"),
            State::Staging { .. } => format!("version {version} is checked and written"),
            State::Staged => format!("version {version} is staged; the node makes room for the restart"),
            State::Trial => format!("version {version} is on trial"),
        });
    }
    if status.digest == Some(ours) {
        let version = &status.version;
        return if status.confirmed {
            Ok(format!("version {version} runs and is confirmed"))
        } else {
            Err(format!("version {version} runs and is not confirmed"))
        };
    }
    if let Some(failed) = status.failed.as_ref().filter(|failed| failed.digest == ours) {
        let word = if failed.cause == REFUSED { "is refused" } else { "was tried and given up" };
        return Err(format!("version {} {word}: {}", failed.version, failed.told));
    }
    Err("the node does not know the bundle any more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bundle::message::{Failed, Wanted};

    fn status(runs: &[u8], confirmed: bool, wanted: Option<State>, failed: Option<&str>) -> Status {
        let digest = Digest::of(b"ours");
        let wanted = wanted.map(|state| Wanted { digest, version: "2".into(), drain: Drain::default(), state });
        let failed =
            failed.map(|cause| Failed { digest, version: "2".into(), cause: cause.into(), told: "why".into() });
        Status { digest: Some(Digest::of(runs)), version: "2".into(), confirmed, wanted, failed, ..Status::default() }
    }

    #[track_caller]
    fn check(status: &Status, expected: Result<&str, &str>) {
        assert_eq!(mirror(status, Digest::of(b"ours")), expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn ready_is_what_runs_confirmed_and_nothing_else() {
        check(&status(b"ours", true, None, None), Ok("version 2 runs and is confirmed"));
        check(&status(b"ours", false, None, None), Err("version 2 runs and is not confirmed"));
        check(&status(b"ours", false, Some(State::Trial), None), Err("version 2 is on trial"));
        check(&status(b"old", true, None, None), Err("the node does not know the bundle any more"));
    }

    #[test]
    fn what_went_wrong_is_told() {
        check(&status(b"old", true, None, Some("panic")), Err("version 2 was tried and given up: why"));
        check(&status(b"old", true, None, Some(REFUSED)), Err("version 2 is refused: why"));
        check(
            &status(b"old", true, Some(State::Staging { done: 0, of: 1 }), None),
            Err("version 2 is checked and written"),
        );
    }

    #[test]
    fn a_bundle_is_offered_where_the_node_does_not_have_it() {
        let mut agent = Agent {
            socket: "/s".into(),
            bundle: "/b".into(),
            drain: Drain::default(),
            ours: None,
            offered: Some(Instant::now()),
        };
        assert!(agent.is_to_offer(&status(b"old", true, None, None)));
        agent.ours = Some(Ok(Digest::of(b"ours")));
        assert!(agent.is_to_offer(&status(b"old", true, None, None)));
        assert!(agent.is_to_offer(&status(b"old", true, Some(State::Waiting), None)));
        assert!(!agent.is_to_offer(&status(b"old", true, Some(State::Staged), None)));
        assert!(!agent.is_to_offer(&status(b"old", true, None, Some("panic"))), "what failed is not offered again");
        assert!(!agent.is_to_offer(&status(b"old", true, None, Some(REFUSED))), "not at once");
        agent.offered = None;
        assert!(agent.is_to_offer(&status(b"old", true, None, Some(REFUSED))));
        assert!(!agent.is_to_offer(&status(b"old", true, None, Some("panic"))));
    }

    #[test]
    fn the_probe_says_what_was_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(is_ready(&path).unwrap_err().to_string(), "it has not looked yet");
        fs::write(&path, "version 2 is on trial").unwrap();
        assert_eq!(is_ready(&path).unwrap_err().to_string(), "version 2 is on trial");
        fs::write(&path, READY).unwrap();
        is_ready(&path).unwrap();
    }
}

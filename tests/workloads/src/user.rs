//! Somebody with kubectl and a kubeconfig, who asks, expects and waits.
//!
//! Start at [`User::new`]. Where the cluster runs shows in two things only: the words before kubectl's own, and how slow it is.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Between two looks, on a machine that is not emulated.
const PAUSE: Duration = Duration::from_millis(200);
/// A request may take so long, watches among them: longer than anything here waits, and not for ever.
const REQUEST_LIMIT_SECONDS: u32 = 300;

/// Somebody who uses a cluster.
#[derive(Clone, Debug)]
pub struct User {
    words: Vec<OsString>,
    slowness: u32,
}

impl User {
    /// Somebody who types `before` (a command that leads into another network, or nothing), kubectl, and what is asked.
    /// `slowness` is 1 for this machine and more for one that is emulated: limits grow with it.
    pub fn new(before: &[&str], kubeconfig: &Path, slowness: u32) -> User {
        let kubectl = std::env::var_os("SKERRY_KUBECTL").unwrap_or_else(|| "kubectl".into());
        let mut words: Vec<OsString> = before.iter().map(OsString::from).collect();
        words.extend([kubectl, "--kubeconfig".into(), kubeconfig.into()]);
        words.push(format!("--request-timeout={REQUEST_LIMIT_SECONDS}s").into());
        User { words, slowness }
    }

    /// The same one, in a namespace.
    pub fn in_namespace(&self, namespace: &str) -> User {
        let mut user = self.clone();
        user.words.push(format!("--namespace={namespace}").into());
        user
    }

    /// A limit for this cluster: so many seconds on a machine that is not emulated.
    pub fn limit(&self, seconds: u32) -> Duration {
        Duration::from_secs(u64::from(seconds * self.slowness))
    }

    /// Runs kubectl; the answer is whether it succeeded, and what it printed: the answer, or else the reason. What stands in
    /// single quotes is one word.
    pub fn kubectl(&self, words: &str) -> (bool, String) {
        self.kubectl_words(&split(words))
    }

    /// kubectl with these words, not started yet.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(words);
        command
    }

    /// The words that stand before kubectl's own, as a shell takes them.
    pub fn shell_words(&self) -> String {
        self.words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// The same with the words apart.
    pub fn kubectl_words(&self, words: &[&str]) -> (bool, String) {
        let output = self.command(words).stdin(Stdio::null()).output().expect("kubectl is installed");
        let ok = output.status.success();
        // Where it succeeds, its warnings would get between us and the answer.
        let text = if ok { output.stdout } else { [output.stdout, output.stderr].concat() };
        (ok, String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs kubectl and expects success.
    #[track_caller]
    pub fn must(&self, words: &str) -> String {
        let (ok, text) = self.kubectl(words);
        assert!(ok, "kubectl {words}: {text}\n{}", self.told());
        text
    }

    /// Runs kubectl and expects that it refuses, and says why.
    #[track_caller]
    pub fn refused(&self, words: &str, why: &str) {
        let (ok, text) = self.kubectl(words);
        assert!(!ok && text.contains(why), "kubectl {words} should be refused with {why:?}: {text}");
    }

    /// Waits by `kubectl wait`: `words` are the condition and what it is about.
    #[track_caller]
    pub fn must_become(&self, words: &str, seconds: u32) {
        self.must(&format!("wait --timeout={}s {words}", seconds * self.slowness));
    }

    /// Waits until a rollout is through.
    #[track_caller]
    pub fn rolled_out(&self, what: &str, seconds: u32) {
        self.must(&format!("rollout status --timeout={}s {what}", seconds * self.slowness));
    }

    /// Waits until something holds.
    #[track_caller]
    pub fn wait(&self, what: &str, limit: Duration, holds: impl Fn(&User) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < limit, "waited {limit:?} in vain for {what}\n{}", self.told());
            sleep(PAUSE * self.slowness);
        }
    }

    /// Waits until kubectl prints something that contains `wanted`.
    #[track_caller]
    pub fn wait_for(&self, words: &str, wanted: &str, limit: Duration) {
        let mut said = String::new();
        let begun = Instant::now();
        while begun.elapsed() < limit {
            said = self.kubectl(words).1;
            if said.contains(wanted) {
                return;
            }
            sleep(PAUSE * self.slowness);
        }
        panic!("`kubectl {words}` did not print {wanted:?} within {limit:?}, but {said:?}\n{}", self.told());
    }

    /// What a person would look at first: pods and events.
    pub fn told(&self) -> String {
        format!("{}\n{}", self.kubectl("get pods -o wide").1, self.kubectl("get events").1)
    }
}

/// Words at spaces; what stands in single quotes is one.
fn split(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').unwrap_or((quoted, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word);
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_are_one() {
        assert_eq!(split("exec x -- sh -c 'echo $A  $B' end"), ["exec", "x", "--", "sh", "-c", "echo $A  $B", "end"]);
        assert_eq!(split("  get   pods "), ["get", "pods"]);
        assert_eq!(split("'' a"), ["", "a"]);
    }

    #[test]
    fn limits_grow_with_the_slowness_of_the_machine() {
        let user = |slowness| User::new(&[], Path::new("kubeconfig"), slowness);
        assert_eq!((user(1).limit(30).as_secs(), user(5).limit(30).as_secs()), (30, 150));
    }
}

//! What is remembered of an update across restarts: small texts in a folder of the data partition, `name value` a line.
//!
//! Start at [`Notes`]. The ledger decides what boots; these say which bundle it was about and how it is to be judged. All of
//! them may be lost: then a trial is judged by [`Terms::default`], and whoever wants an update asks again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bundle::Digest;
use bundle::message::{Check, Drain, Failed};

use crate::Error;
use crate::error::Doing;
use crate::trial::Terms;

/// What was reported longer ago says nothing of now.
pub const FRESH: Duration = Duration::from_secs(30);

/// Where the notes lie.
#[derive(Clone, Debug)]
pub struct Notes {
    folder: PathBuf,
}

/// A bundle that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The bundle.
    pub digest: Digest,
    /// Its version.
    pub version: String,
    /// What the node may do.
    pub drain: Drain,
}

/// A bundle that was put on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The bundle.
    pub digest: Digest,
    /// Its version.
    pub version: String,
    /// The kernel's number of the boot it was decided in.
    pub boot: String,
    /// How it is judged.
    pub terms: Terms,
}

impl Notes {
    /// The notes in `folder`, which need not be there.
    pub fn in_folder(folder: &Path) -> Notes {
        Notes { folder: folder.to_owned() }
    }

    /// The bundle that is wanted.
    pub fn wish(&self) -> Option<Wish> {
        let text = self.read("wanted")?;
        let drain = Drain {
            bare_pods: value(&text, "bare_pods") == Some("yes"),
            empty_dir: value(&text, "empty_dir") == Some("yes"),
            within_s: value(&text, "drain_within_s").and_then(|text| text.parse().ok()).unwrap_or_default(),
        };
        Some(Wish { digest: digest(&text)?, version: version(&text), drain })
    }

    /// Remembers it.
    pub fn want(&self, wish: &Wish) -> Result<(), Error> {
        let drain = wish.drain;
        self.write(
            "wanted",
            &format!(
                "digest {}\nversion {}\nbare_pods {}\nempty_dir {}\ndrain_within_s {}\n",
                wish.digest,
                wish.version,
                yes(drain.bare_pods),
                yes(drain.empty_dir),
                drain.within_s
            ),
        )
    }

    /// The bundle that was put on trial last, if its end has not been noted.
    pub fn trial(&self) -> Option<Trial> {
        let text = self.read("trial")?;
        let within = value(&text, "within_s").and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let before = value(&text, "checks").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let terms = Terms { before, within: within.unwrap_or(Terms::default().within) };
        let boot = value(&text, "boot").unwrap_or_default().to_owned();
        Some(Trial { digest: digest(&text)?, version: version(&text), boot, terms })
    }

    /// Remembers it.
    pub fn try_it(&self, trial: &Trial) -> Result<(), Error> {
        let Trial { digest, version, boot, terms } = trial;
        let (within, checks) = (terms.within.as_secs(), terms.before.join(" "));
        let text = format!("digest {digest}\nversion {version}\nboot {boot}\nwithin_s {within}\nchecks {checks}\n");
        self.write("trial", &text)
    }

    /// Forgets that one was put on trial.
    pub fn forget_trial(&self) -> Result<(), Error> {
        self.forget("trial")
    }

    /// The last bundle that was given up.
    pub fn failed(&self) -> Option<Failed> {
        let text = self.read("failed")?;
        let word = |name| value(&text, name).unwrap_or_default().to_owned();
        Some(Failed { digest: digest(&text)?, version: version(&text), cause: word("cause"), told: word("told") })
    }

    /// The same, while somebody asks for that bundle.
    pub fn failed_and_asked(&self) -> Option<Failed> {
        self.failed().filter(|_| self.read("failed").is_some_and(|text| value(&text, "asked") != Some("no")))
    }

    /// Remembers it, and that nothing is wanted or tried any more.
    pub fn fail(&self, failed: &Failed) -> Result<(), Error> {
        self.write_failed(failed, true)?;
        self.forget("trial")?;
        self.forget("wanted")
    }

    /// Remembers whether somebody still asks for the bundle that was given up. It is not tried again either way.
    pub fn ask_for_failed(&self, asked: bool) -> Result<(), Error> {
        match self.failed() {
            Some(failed) if self.failed_and_asked().is_some() != asked => self.write_failed(&failed, asked),
            _ => Ok(()),
        }
    }

    fn write_failed(&self, failed: &Failed, asked: bool) -> Result<(), Error> {
        let Failed { digest, version, cause, told } = failed;
        let (told, asked) = (told.replace('\n', " "), yes(asked));
        let text = format!("digest {digest}\nversion {version}\ncause {cause}\ntold {told}\nasked {asked}\n");
        self.write("failed", &text)
    }

    /// What was wanted runs.
    pub fn succeed(&self) -> Result<(), Error> {
        self.forget("trial")?;
        self.forget("failed")?;
        self.forget("wanted")
    }

    /// Nobody wants `digest` any more, and that it failed is forgiven.
    pub fn withdraw(&self, digest: Digest) -> Result<(), Error> {
        if self.wish().is_some_and(|wish| wish.digest == digest) {
            self.forget("wanted")?;
        }
        if self.failed().is_some_and(|failed| failed.digest == digest) {
            self.forget("failed")?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        let told = format!("note what happens to an update in {}", path.display());
        fs::create_dir_all(&self.folder).doing(&told)?;
        sys::files::write_atomically(&path, text.as_bytes(), 0o600).map_err(io::Error::other).doing(told)
    }

    fn forget(&self, name: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        sys::files::remove_file(&path).doing(format_args!("remove {}", path.display()))
    }
}

/// Checks as a text, with the time since the machine started, which no clock moves.
pub fn report(checks: &[Check], uptime: Duration) -> String {
    let line = |check: &Check| format!("{} {}\n", if check.passes { "passes" } else { "fails" }, check.name);
    format!("uptime {}\n{}", uptime.as_secs(), checks.iter().map(line).collect::<String>())
}

/// The checks in such a text, none of them where it is not [`FRESH`] at `uptime`.
pub fn reported(text: &str, uptime: Duration) -> Vec<Check> {
    let at = value(text, "uptime").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    if !at.is_some_and(|at| at <= uptime && uptime - at <= FRESH) {
        return Vec::new();
    }
    let check = |line: &str| match line.split_once(' ')? {
        ("passes", name) => Some(Check { name: name.to_owned(), passes: true }),
        ("fails", name) => Some(Check { name: name.to_owned(), passes: false }),
        _ => None,
    };
    text.lines().filter_map(check).collect()
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}

fn digest(text: &str) -> Option<Digest> {
    value(text, "digest")?.parse().ok()
}

fn version(text: &str) -> String {
    value(text, "version").unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::in_folder(&folder.path().join("deep"));
        assert_eq!((notes.wish(), notes.trial(), notes.failed()), (None, None, None));
        let digest = Digest::of(b"x");
        let drain = Drain { bare_pods: true, empty_dir: false, within_s: 300 };
        let wish = Wish { digest, version: "2".into(), drain };
        notes.want(&wish).unwrap();
        let terms = Terms { before: vec!["api".into(), "node".into()], within: Duration::from_secs(60) };
        let trial = Trial { digest, version: "2".into(), boot: "b".into(), terms };
        notes.try_it(&trial).unwrap();
        assert_eq!((notes.wish(), notes.trial()), (Some(wish), Some(trial)));
        let failed = Failed { digest, version: "2".into(), cause: "panic".into(), told: "it\nfell".into() };
        notes.fail(&failed).unwrap();
        assert_eq!((notes.wish(), notes.trial()), (None, None));
        assert_eq!(notes.failed().unwrap().told, "it fell");
        assert_eq!(notes.failed_and_asked(), notes.failed());
        notes.ask_for_failed(false).unwrap();
        assert_eq!((notes.failed().unwrap().told.as_str(), notes.failed_and_asked()), ("it fell", None));
        notes.ask_for_failed(true).unwrap();
        assert_eq!(notes.failed_and_asked(), notes.failed());
        notes.withdraw(digest).unwrap();
        assert_eq!(notes.failed(), None);
    }

    #[test]
    fn a_trial_without_checks_asks_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::in_folder(folder.path());
        let terms = Terms { before: vec![], within: Duration::from_secs(60) };
        notes.try_it(&Trial { digest: Digest::of(b"x"), version: "2".into(), boot: "b".into(), terms }).unwrap();
        assert_eq!(notes.trial().unwrap().terms.before, Vec::<String>::new());
    }

    fn check(reported_at: u64, read_at: u64, expected: &str) {
        let checks = [("api", true), ("node", false)].map(|(name, passes)| Check { name: name.into(), passes });
        let text = report(&checks, Duration::from_secs(reported_at));
        let read = reported(&text, Duration::from_secs(read_at));
        let told: Vec<String> = read.iter().map(|check| format!("{}={}", check.name, check.passes)).collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn a_report_says_something_while_it_is_fresh() {
        check(100, 100, "api=true node=false");
        check(100, 130, "api=true node=false");
        check(100, 131, "");
        check(100, 99, "");
        assert_eq!(reported("garbage", Duration::from_secs(1)), vec![]);
    }
}

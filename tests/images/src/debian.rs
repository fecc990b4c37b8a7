//! Debian packages: which ones, exactly, and how they get here.
//!
//! Start at [`Lock::read`] and [`Cache::fetch`]. Every package that goes into an image is named in `tests/images/packages.lock` by
//! name, version and SHA-256; nothing else is ever fetched. `images lock --update` asks the archive anew.
//!
//! Invariants:
//! * a file in the cache has the hash the lock says, or it is not used;
//! * the machine's own package sources are neither read nor changed: updates use a folder of their own;
//! * apt does the fetching, so the machine's proxies and the archive's signatures count.
//!
//! Not here: what is made of the packages (`build.rs`).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The archive, unless [`MIRROR_VARIABLE`] names another.
const ARCHIVE: &str = "http://deb.debian.org/debian";

/// The environment variable that names a mirror of the archive.
pub const MIRROR_VARIABLE: &str = "SKERRY_DEBIAN_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// One package of the lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// The release it is taken from, such as `bookworm-backports`.
    pub suite: String,
    /// Its name.
    pub name: String,
    /// `arm64`, `amd64` or `all`.
    pub architecture: String,
    /// Its version.
    pub version: String,
    /// Of the .deb file, in hexadecimal.
    pub sha256: String,
    /// Where it lies below the archive's root.
    pub filename: String,
}

/// `tests/images/packages.lock` as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// The comment at the top.
    header: String,
    /// The packages, in the file's order.
    pub packages: Vec<Package>,
}

/// Why a package is not here.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// A line of the lock makes no sense.
    #[error("{path}:{line}: expected `suite name architecture version sha256 filename`, found {text:?}")]
    BadLine {
        /// The lock.
        path: String,
        /// The line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// The lock has no such package.
    #[error("{name} for {architecture} is not in tests/images/packages.lock")]
    Unknown {
        /// What was asked for.
        name: String,
        /// For which machine.
        architecture: String,
    },
    /// The archive does not have it (any more).
    #[error(
        "{name} {version} ({architecture}, {suite}) could not be fetched: {detail}; if the archive has a newer version, `cargo run -p images -- lock --update` renews the lock"
    )]
    Missing {
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// Its architecture.
        architecture: String,
        /// Its suite.
        suite: String,
        /// What apt said.
        detail: String,
    },
    /// The archive's list does not name it.
    #[error("{suite} has no package {name} for {architecture}")]
    NotInSuite {
        /// The suite.
        suite: String,
        /// The package.
        name: String,
        /// The architecture.
        architecture: String,
    },
    /// A tool failed.
    #[error("failed to {action}: {detail}")]
    Tool {
        /// What was being done, to which thing.
        action: String,
        /// What the tool said.
        detail: String,
    },
    /// The disk refused.
    #[error("failed to {action}")]
    Disk {
        /// What was being done, to which thing.
        action: String,
        /// Why not.
        source: io::Error,
    },
}

impl Lock {
    /// Reads the lock at `path`.
    pub fn read(path: &Path) -> Result<Lock, DebianError> {
        let failed = |source| DebianError::Disk { action: format!("read {}", path.display()), source };
        Lock::parse(&path.display().to_string(), &fs::read_to_string(path).map_err(failed)?)
    }

    /// Reads the text of a lock; `path` is for error messages.
    pub fn parse(path: &str, text: &str) -> Result<Lock, DebianError> {
        let mut lock = Lock::default();
        for (index, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.is_empty() {
                if lock.packages.is_empty() {
                    lock.header.push_str(line);
                    lock.header.push('\n');
                }
                continue;
            }
            let bad = || DebianError::BadLine { path: path.to_owned(), line: index + 1, text: line.to_owned() };
            lock.packages.push(parse_line(line).ok_or_else(bad)?);
        }
        Ok(lock)
    }

    /// The package of this name for a machine; one for all machines will do.
    pub fn find(&self, name: &str, architecture: &str) -> Result<&Package, DebianError> {
        let fits = |package: &&Package| {
            package.name == name && (package.architecture == architecture || package.architecture == "all")
        };
        let unknown = || DebianError::Unknown { name: name.to_owned(), architecture: architecture.to_owned() };
        self.packages.iter().find(fits).ok_or_else(unknown)
    }
}

/// A new line of the lock may leave version, hash and file to `lock --update`.
fn parse_line(line: &str) -> Option<Package> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (suite, name, architecture, version, sha256, filename) = match words.as_slice() {
        [suite, name, architecture] => (suite, name, architecture, "?", "?", "?"),
        [suite, name, architecture, version, sha256, filename] => {
            (suite, name, architecture, *version, *sha256, *filename)
        }
        _ => return None,
    };
    let hash_fits = sha256 == "?" || (sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hash_fits.then(|| Package {
        suite: (*suite).to_owned(),
        name: (*name).to_owned(),
        architecture: (*architecture).to_owned(),
        version: version.to_owned(),
        sha256: sha256.to_owned(),
        filename: filename.to_owned(),
    })
}

impl fmt::Display for Lock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.header)?;
        self.packages.iter().try_for_each(|package| writeln!(out, "{package}"))
    }
}

impl fmt::Display for Package {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Package { suite, name, architecture, version, sha256, filename } = self;
        write!(out, "{suite} {name} {architecture} {version} {sha256} {filename}")
    }
}

/// A folder with what was fetched.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// Keeps packages below `folder`.
    pub fn new(folder: &Path) -> Cache {
        Cache(folder.to_owned())
    }

    /// The .deb file of a package, fetched if need be.
    pub fn fetch(&self, package: &Package) -> Result<PathBuf, DebianError> {
        let short = package.sha256.get(..12).unwrap_or(&package.sha256);
        let path = self.0.join(format!("{}_{}_{short}.deb", package.name, package.architecture));
        if path.exists() {
            return Ok(path);
        }
        disk(fs::create_dir_all(&self.0), || format!("create {}", self.0.display()))?;
        let part = path.with_extension("part");
        let archive = std::env::var(MIRROR_VARIABLE).unwrap_or_else(|_| ARCHIVE.to_owned());
        let said = Command::new(APT_HELPER)
            .args(["-q", "-o", "APT::Sandbox::User=root", "download-file"])
            .arg(format!("{archive}/{}", package.filename))
            .arg(&part)
            .arg(format!("SHA256:{}", package.sha256))
            .output();
        let said = disk(said, || format!("run {APT_HELPER}"))?;
        if !said.status.success() {
            return Err(DebianError::Missing {
                name: package.name.clone(),
                version: package.version.clone(),
                architecture: package.architecture.clone(),
                suite: package.suite.clone(),
                detail: last_line(&said.stderr),
            });
        }
        disk(fs::rename(&part, &path), || format!("rename {}", part.display()))?;
        Ok(path)
    }

    /// Unpacks a package into `folder`.
    pub fn unpack(&self, package: &Package, folder: &Path) -> Result<(), DebianError> {
        let deb = self.fetch(package)?;
        disk(fs::create_dir_all(folder), || format!("create {}", folder.display()))?;
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(folder), || format!("unpack {}", deb.display()))
    }

    /// The lock with the newest version of each package; a package the archive no longer has is named.
    pub fn update(&self, lock: &Lock) -> Result<Lock, DebianError> {
        let mut suites: Vec<&str> = lock.packages.iter().map(|package| package.suite.as_str()).collect();
        suites.sort_unstable();
        suites.dedup();
        let roots = suites.iter().map(|suite| Ok((*suite, self.apt_root(suite)?))).collect::<Result<Vec<_>, _>>()?;
        let renew = |package: &Package| {
            let (_, config) = roots.iter().find(|(suite, _)| *suite == package.suite).expect("every suite has a root");
            renewed(config, package)
        };
        let packages = lock.packages.iter().map(renew).collect::<Result<_, _>>()?;
        Ok(Lock { header: lock.header.clone(), packages })
    }

    /// A private apt with the lists of one suite; the answer is its configuration file.
    fn apt_root(&self, suite: &str) -> Result<PathBuf, DebianError> {
        let root = self.0.join("apt").join(suite);
        for folder in ["state/lists/partial", "cache/archives/partial", "etc/parts"] {
            disk(fs::create_dir_all(root.join(folder)), || format!("create {}", root.display()))?;
        }
        let archive = std::env::var(MIRROR_VARIABLE).unwrap_or_else(|_| ARCHIVE.to_owned());
        let sources = format!("deb [signed-by={KEYRING}] {archive} {suite} main non-free-firmware\n");
        let at = |path: &str| root.join(path).display().to_string();
        let config = [
            format!("Dir::State \"{}\";", at("state")),
            format!("Dir::State::status \"{}\";", at("status")),
            format!("Dir::Cache \"{}\";", at("cache")),
            format!("Dir::Etc::sourcelist \"{}\";", at("etc/sources.list")),
            format!("Dir::Etc::sourceparts \"{}\";", at("etc/parts")),
            format!("Dir::Etc::preferencesparts \"{}\";", at("etc/parts")),
            "APT::Architecture \"amd64\"; APT::Architectures {\"amd64\"; \"arm64\";};".to_owned(),
            "Acquire::Languages \"none\"; APT::Sandbox::User \"root\";".to_owned(),
        ];
        let path = root.join("apt.conf");
        for (path, text) in [
            (root.join("etc/sources.list"), sources),
            (root.join("status"), String::new()),
            (path.clone(), config.join("\n")),
        ] {
            disk(fs::write(&path, text), || format!("write {}", path.display()))?;
        }
        run(Command::new("apt-get").arg("-c").arg(&path).args(["-qq", "update"]), || {
            format!("read the lists of {suite}")
        })?;
        Ok(path)
    }
}

fn renewed(config: &Path, package: &Package) -> Result<Package, DebianError> {
    let wanted = match package.architecture.as_str() {
        "all" => package.name.clone(),
        architecture => format!("{}:{architecture}", package.name),
    };
    let said = Command::new("apt-cache").arg("-c").arg(config).args(["show", "--no-all-versions", &wanted]).output();
    let said = disk(said, || "run apt-cache".to_owned())?;
    let text = String::from_utf8_lossy(&said.stdout);
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
    let missing = || DebianError::NotInSuite {
        suite: package.suite.clone(),
        name: package.name.clone(),
        architecture: package.architecture.clone(),
    };
    Ok(Package {
        version: field("Version").ok_or_else(missing)?,
        sha256: field("SHA256").ok_or_else(missing)?,
        filename: field("Filename").ok_or_else(missing)?,
        architecture: field("Architecture").ok_or_else(missing)?,
        ..package.clone()
    })
}

fn run(command: &mut Command, action: impl Fn() -> String) -> Result<(), DebianError> {
    let said = disk(command.output(), &action)?;
    if said.status.success() {
        Ok(())
    } else {
        Err(DebianError::Tool { action: action(), detail: last_line(&said.stderr) })
    }
}

fn disk<T>(result: io::Result<T>, action: impl FnOnce() -> String) -> Result<T, DebianError> {
    result.map_err(|source| DebianError::Disk { action: action(), source })
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next_back().unwrap_or("it gave no reason").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, architecture: &str) -> String {
        format!("bookworm {name} {architecture} 1.0 {} pool/x.deb", "0".repeat(64))
    }

    #[test]
    fn a_lock_reads_back_as_written() {
        let text =
            format!("# What this is.\n\n{}\n{}\n", line("busybox-static", "arm64"), line("ca-certificates", "all"));
        let lock = Lock::parse("packages.lock", &text).expect("a lock");
        assert_eq!(lock.to_string(), text);
    }

    #[test]
    fn a_package_for_all_machines_serves_each() {
        let text = format!("{}\n{}\n", line("busybox-static", "arm64"), line("ca-certificates", "all"));
        let lock = Lock::parse("packages.lock", &text).expect("a lock");
        assert!(lock.find("ca-certificates", "amd64").is_ok());
        let error = lock.find("busybox-static", "amd64").expect_err("none for amd64");
        assert_eq!(error.to_string(), "busybox-static for amd64 is not in tests/images/packages.lock");
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Lock::parse("packages.lock", "# x\nbookworm busybox\n").expect_err("a bad line");
        assert!(error.to_string().starts_with("packages.lock:2: expected"), "{error}");
        assert!(Lock::parse("packages.lock", "bookworm a arm64 1 abc pool/x.deb").is_err(), "a short hash");
    }

    #[test]
    fn a_new_line_may_be_short() {
        let lock = Lock::parse("packages.lock", "bookworm busybox-static arm64\n").expect("a lock");
        assert_eq!(lock.packages[0].version, "?");
    }
}

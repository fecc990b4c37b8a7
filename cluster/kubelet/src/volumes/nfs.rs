//! An NFS mount as a value: what the kernel is told, for each version that is tried.
//!
//! Start at [`plans`]; [`words`] says what an error of the kernel means to whoever wrote the volume. There is no `mount.nfs`: the
//! kernel reads the options itself, and needs only the server's address from us.
//!
//! Invariants:
//! * without a version in the options 4.1 comes first, not the newest, which `mount.nfs` begins with: see `VERSIONS`;
//! * an option the kernel does not know is passed on: the kernel names it in its refusal.
//!
//! Not here: doing it (`helper.rs`).

use std::net::IpAddr;

use sys::mounts::Attributes;

/// Versions, in the order to try them. Not the newest first: a kernel that speaks 4.2 reads by READ_PLUS where it was built so, as
/// Debian's are, and nfs-ganesha 4.3, which is Debian's, answers that with zeros where data is. What 4.2 has more than 4.1 is
/// speed (copies and holes on the server), and who wants it names it. It comes second for a server that is told not to speak 4.1.
const VERSIONS: [&str; 4] = ["4.1", "4.2", "4.0", "3"];

/// Options that are for other programs than the kernel, and mean nothing here.
const IGNORED: [&str; 14] = [
    "_netdev", "auto", "noauto", "nofail", "user", "nouser", "users", "defaults", "bg", "fg", "rw", "suid", "dev",
    "exec",
];
/// Where file locks of version 3 are kept; without `rpc.statd` only the node itself can keep them.
const LOCKING: [&str; 3] = ["lock", "nolock", "local_lock"];

/// One way to mount an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `server:/path`.
    pub source: String,
    /// Option and value; an empty value is a flag.
    pub options: Vec<(String, String)>,
    /// The mount's own attributes.
    pub attributes: Attributes,
}

/// The ways to mount an export, in the order to try them. The error is a mistake in the options.
pub fn plans(address: IpAddr, path: &str, options: &[String], read_only: bool) -> Result<Vec<Plan>, String> {
    let mut asked = read(options)?;
    if read_only {
        asked.attributes = asked.attributes.and(Attributes::READONLY);
    }
    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    let plan = |version: &String| {
        let mut all = vec![("vers".to_owned(), version.clone()), ("addr".to_owned(), address.to_string())];
        if asked.attributes.0 & Attributes::READONLY.0 != 0 {
            all.push(("ro".to_owned(), String::new()));
        }
        all.extend(asked.passed.iter().cloned());
        if version == "3" && !asked.passed.iter().any(|(name, _)| LOCKING.contains(&name.as_str())) {
            all.push(("nolock".to_owned(), String::new()));
        }
        Plan { source: format!("{host}:{path}"), options: all, attributes: asked.attributes }
    };
    Ok(asked.versions()?.iter().map(plan).collect())
}

#[derive(Default)]
struct Asked {
    version: Option<String>,
    minor: Option<String>,
    attributes: Attributes,
    passed: Vec<(String, String)>,
}

fn read(options: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let words = options.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty());
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let attribute = match name {
            "ro" => Attributes::READONLY,
            "nosuid" => Attributes::NOSUID,
            "nodev" => Attributes::NODEV,
            "noexec" => Attributes::NOEXEC,
            "noatime" => Attributes::NOATIME,
            "nodiratime" => Attributes::NODIRATIME,
            _ => Attributes::default(),
        };
        asked.attributes = asked.attributes.and(attribute);
        match name {
            _ if attribute != Attributes::default() => {}
            "nfsvers" | "vers" => asked.version = Some(value.to_owned()),
            "minorversion" => asked.minor = Some(value.to_owned()),
            "bind" | "rbind" | "remount" | "move" | "addr" => {
                return Err(format!("mount option \"{word}\" is not for a volume to set"));
            }
            "retry" | "relatime" | "atime" | "async" => {}
            _ if IGNORED.contains(&name) => {}
            _ => asked.passed.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok(asked)
}

impl Asked {
    fn versions(&self) -> Result<Vec<String>, String> {
        let known = |version: &str| VERSIONS.contains(&version).then(|| vec![version.to_owned()]);
        let found = match (self.version.as_deref(), self.minor.as_deref()) {
            (None, None) => return Ok(VERSIONS.map(str::to_owned).to_vec()),
            (Some("4"), None) => return Ok(VERSIONS[..3].iter().map(|it| (*it).to_owned()).collect()),
            (Some("4") | None, Some(minor)) => known(&format!("4.{minor}")),
            (Some(version), _) => known(version),
        };
        let asked = [
            self.version.as_deref().map(|it| format!("vers={it}")),
            self.minor.as_deref().map(|it| format!("minorversion={it}")),
        ];
        let asked: Vec<String> = asked.into_iter().flatten().collect();
        found.ok_or_else(|| {
            format!("mount option \"{}\": NFS has the versions {}", asked.join(","), VERSIONS.join(", "))
        })
    }
}

/// Whether another version may succeed where one failed with this number.
pub fn may_try_another(errno: Option<i32>) -> bool {
    // No such version, here or there; what another version exports under another path; no port of that version.
    const EPROTONOSUPPORT: i32 = 93;
    const EOPNOTSUPP: i32 = 95;
    const ECONNREFUSED: i32 = 111;
    const ENOENT: i32 = 2;
    const EINVAL: i32 = 22;
    matches!(errno, Some(EPROTONOSUPPORT | EOPNOTSUPP | ECONNREFUSED | ENOENT | EINVAL))
}

/// What the kernel's number means for a mount.
pub fn words(errno: Option<i32>) -> Option<&'static str> {
    Some(match errno? {
        2 => "the server has no such export or directory",
        13 | 1 => "the server refuses access to it: no such export, or not for this node",
        19 => "this node's kernel has no NFS",
        22 => "the kernel refuses the mount options",
        93 => "the server does not speak this version of NFS",
        110 => "the server does not answer",
        111 => "the server refuses connections: no NFS server runs there",
        112 | 113 | 101 => "the server cannot be reached",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each plan as the options text of `mount -o`.
    #[track_caller]
    fn check(options: &[&str], read_only: bool, wanted: Result<&[&str], &str>) {
        let options: Vec<String> = options.iter().map(|it| (*it).to_owned()).collect();
        let found = plans("10.0.0.9".parse().expect("an address"), "/srv", &options, read_only);
        let text = |plan: Plan| {
            let each = plan.options.iter().map(|(name, value)| match value.as_str() {
                "" => name.clone(),
                value => format!("{name}={value}"),
            });
            format!("{} {} {:x}", plan.source, each.collect::<Vec<_>>().join(","), plan.attributes.0)
        };
        let found = found.map(|plans| plans.into_iter().map(text).collect::<Vec<_>>());
        assert_eq!(found, wanted.map(|lines| lines.iter().map(|it| (*it).to_owned()).collect()).map_err(str::to_owned));
    }

    #[test]
    fn without_a_version_all_are_tried_and_4_1_first() {
        let all: &[&str] = &[
            "10.0.0.9:/srv vers=4.1,addr=10.0.0.9 0",
            "10.0.0.9:/srv vers=4.2,addr=10.0.0.9 0",
            "10.0.0.9:/srv vers=4.0,addr=10.0.0.9 0",
            "10.0.0.9:/srv vers=3,addr=10.0.0.9,nolock 0",
        ];
        check(&[], false, Ok(all));
        check(&["nfsvers=4"], false, Ok(&all[..3]));
        check(&["vers=4", "minorversion=1"], false, Ok(&all[..1]));
        check(&["vers=3"], false, Ok(&all[3..]));
        check(&["nfsvers=4.1,rw,_netdev", "retry=2"], false, Ok(&all[..1]));
        check(&["nfsvers=4.2"], false, Ok(&all[1..2]));
    }

    #[test]
    fn options_are_passed_on_and_flags_become_attributes() {
        check(
            &["vers=4.2", "hard", "timeo=600,noatime"],
            false,
            Ok(&["10.0.0.9:/srv vers=4.2,addr=10.0.0.9,hard,timeo=600 10"]),
        );
        check(&["vers=3", "local_lock=all"], true, Ok(&["10.0.0.9:/srv vers=3,addr=10.0.0.9,ro,local_lock=all 1"]));
        check(&["vers=4.0,ro"], false, Ok(&["10.0.0.9:/srv vers=4.0,addr=10.0.0.9,ro 1"]));
    }

    #[test]
    fn what_cannot_be_is_named() {
        check(&["vers=2"], false, Err("mount option \"vers=2\": NFS has the versions 4.1, 4.2, 4.0, 3"));
        check(
            &["vers=4", "minorversion=7"],
            false,
            Err("mount option \"vers=4,minorversion=7\": NFS has the versions 4.1, 4.2, 4.0, 3"),
        );
        check(&["remount"], false, Err("mount option \"remount\" is not for a volume to set"));
    }

    #[test]
    fn an_address_of_version_6_is_in_brackets() {
        let found =
            plans("fd00::9".parse().expect("an address"), "/srv", &["vers=4.2".to_owned()], false).expect("plans");
        assert_eq!(found[0].source, "[fd00::9]:/srv");
        assert_eq!(found[0].options[1], ("addr".to_owned(), "fd00::9".to_owned()));
    }
}

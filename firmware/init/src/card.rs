//! The settings that a person wrote on the boot partition, and the report of what is wrong with them beside them.
//!
//! Start at [`read`]; [`values`] is what services hear of them.
//!
//! Invariants:
//! * the partition is mounted for a moment and read-only, and written only where the report changes;
//! * what runs once because of a setting is run while the partition is mounted; where it fails, that is a problem of this setting,
//!   and the board starts no cluster: one that began empty could not become the wanted one any more;
//! * where the partition cannot be read, the settings that were good last count, and a board without any starts no cluster
//!   that nobody asked for.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use settings::{ERRORS_FILE, FILE, Problem, Role, Settings};

use crate::disk::Disk;
use crate::facts::{Service, Values, lines_for, services};
use crate::phase::{Doing, Error};

/// Of the firmware partition.
const PARTITION: usize = 1;
/// Where it is mounted for a moment.
const PLACE: &str = "/run/boot";
/// The last good settings, on the data partition.
const KEPT: &str = "/data/init/skerry.toml";
/// What services are told by files: tokens do not belong on command lines.
const FOLDER: &str = "/run/skerry";
/// Of a machine-id, so many letters tell boards apart that nobody named.
const LETTERS: usize = 6;
/// The settings that only services act on, and what services call them.
const FOR_SERVICES: [(&str, &str); 6] = [
    ("labels", "labels"),
    ("taints", "taints"),
    ("mirrors", "mirrors"),
    ("checkpoint_key", "checkpoint_key_file"),
    ("restore", "restore"),
    ("restore_volumes", "restore_volumes"),
];
const NO_CLUSTER: &str = "the board starts no cluster and joins none";

/// What the image offers to do with settings.
pub struct Offer<'a> {
    /// The text of `/etc/skerry/services`.
    pub services: &'a str,
    /// Runs one that runs once; the error says why it failed.
    pub once: &'a dyn Fn(&Service) -> Result<(), String>,
}

/// Reads the settings, runs what runs once because of them, and brings the report up to date. What cannot be done is a problem
/// like any other, and so is what no service of this image takes.
pub fn read(disk: &Disk, offer: &Offer<'_>) -> (Settings, Vec<Problem>) {
    match with_card(disk, |place| look(place, offer)) {
        Ok((good, settings, problems)) => {
            good.iter().for_each(|bytes| keep(bytes));
            (settings, problems)
        }
        Err(error) => {
            let (mut settings, what) = match fs::read(KEPT) {
                Ok(bytes) => (settings::read(&bytes).0, "the last good ones count"),
                Err(_) => (unclear(), NO_CLUSTER),
            };
            let what = format!("the boot partition cannot be read, {what}: {}", base::chain(&error));
            let mut problems = vec![Problem { line: 0, what }];
            problems.extend(prepare(&[], &mut settings, offer));
            (settings, problems)
        }
    }
}

/// Runs what runs once, before the services.
fn prepare(bytes: &[u8], settings: &mut Settings, offer: &Offer<'_>) -> Vec<Problem> {
    // What is wrong with the list itself is told when the services are to start.
    let all = services(offer.services, settings.role.word(), &values(settings)).unwrap_or_default();
    let mut problems = Vec::new();
    for (setting, service) in all.iter().filter_map(|service| Some((service.once.as_ref()?, service))) {
        if let Err(why) = (offer.once)(service) {
            let what = format!("{setting} cannot be done, {NO_CLUSTER}: {why}");
            problems.push(Problem { line: settings::line_of(bytes, setting), what });
            settings.role = Role::Unclear;
        }
    }
    problems
}

fn unclear() -> Settings {
    Settings { role: Role::Unclear, ..Settings::default() }
}

/// Keeps good settings where they are needed should the card's first partition fail.
fn keep(bytes: &[u8]) {
    if fs::read(KEPT).ok().as_deref() != Some(bytes) {
        let _no_data = sys::files::write_atomically(Path::new(KEPT), bytes, 0o600);
    }
}

/// Does `work` in the mounted boot partition.
fn with_card<T>(disk: &Disk, work: impl Fn(&Path) -> Result<T, Error>) -> Result<T, Error> {
    let (device, place) = (disk.partition(PARTITION), Path::new(PLACE));
    fs::create_dir_all(place).doing(format_args!("make {PLACE}"))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(&device), place, Some("vfat"), flags, Some("fmask=0077,dmask=0077"))
        .doing(format_args!("mount the boot partition {}", device.display()))?;
    let done = work(place);
    let _busy = umount2(place, MntFlags::MNT_DETACH);
    done
}

/// The settings and what is wrong with them; before them the file's bytes where every line of it is good.
fn look(place: &Path, offer: &Offer<'_>) -> Result<(Option<Vec<u8>>, Settings, Vec<Problem>), Error> {
    let bytes = bytes(&place.join(FILE))?;
    let (mut settings, mut problems) = settings::read(&bytes);
    let is_good = problems.is_empty();
    problems.extend(unheeded(&bytes, &settings, offer.services));
    problems.extend(prepare(&bytes, &mut settings, offer));
    let report = if problems.is_empty() { String::new() } else { settings::report(&problems) };
    let path = place.join(ERRORS_FILE);
    let before = fs::read_to_string(&path).unwrap_or_default();
    if before != report
        && let Err(error) = write_report(place, &path, &report)
    {
        problems.push(Problem { line: 0, what: format!("{ERRORS_FILE} is not written: {}", base::chain(&error)) });
    }
    Ok((is_good.then_some(bytes), settings, problems))
}

/// The settings that would change nothing, because no service asks for them: who writes one is told so.
fn unheeded(bytes: &[u8], settings: &Settings, services: &str) -> Vec<Problem> {
    let (values, role) = (values(settings), settings.role.word());
    let is_taken = |value: &str| lines_for(services, role).any(|line| line.contains(&format!("{{{value}}}")));
    let unheeded = |name: &&str| settings.role != Role::Unclear && !is_taken(name);
    FOR_SERVICES
        .iter()
        .filter(|(_, value)| values.contains_key(value) && unheeded(value))
        .map(|(name, _)| Problem {
            line: settings::line_of(bytes, name),
            what: format!("{name} changes nothing: no service of this image takes it on a board that is {role}"),
        })
        .collect()
}

/// The file as far as anybody reads it; none is an empty one.
fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    let doing = format!("read {FILE}");
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(&doing)?,
    };
    let mut bytes = Vec::new();
    file.take(settings::BYTES_MAX as u64 + 1).read_to_end(&mut bytes).doing(&doing)?;
    Ok(bytes)
}

fn write_report(place: &Path, path: &Path, report: &str) -> Result<(), Error> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(None::<&str>, place, None::<&str>, flags | MsFlags::MS_SYNCHRONOUS, None::<&str>)
        .doing("make the boot partition writable")?;
    let written = match report {
        "" => fs::remove_file(path),
        report => fs::write(path, report),
    };
    let synced = File::open(place).and_then(|folder| folder.sync_all());
    written.and(synced).doing(format_args!("write {}", path.display()))
}

/// The name of a board: its own, or one that tells agents apart that nobody named.
pub fn hostname(settings: &Settings, usual: &str, machine_id: &str) -> String {
    match (&settings.hostname, settings.role, machine_id.get(..LETTERS)) {
        (Some(name), _, _) => name.clone(),
        (None, Role::Agent, Some(letters)) => format!("{usual}-{letters}"),
        _ => usual.to_owned(),
    }
}

/// What services are told of the settings, secrets as the files they lie in.
pub fn values(settings: &Settings) -> Values {
    let mut values = Values::new();
    let mut say = |name: &'static str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            values.insert(name, value);
        }
    };
    let file = |name: &str| PathBuf::from(FOLDER).join(name).display().to_string();
    say("server", settings.server.as_ref().map(ToString::to_string));
    say("token_file", settings.token.as_ref().map(|_| file("token")));
    say("keys_file", (!settings.trusted_keys.is_empty()).then(|| file("trusted-keys")));
    let on_board = |name: &String| Path::new(PLACE).join(name).display().to_string();
    say("checkpoint_key_file", settings.checkpoint_key.as_ref().map(|_| file("checkpoint-key")));
    say("restore", settings.restore.as_ref().map(on_board));
    say("restore_key", settings.restore_key.as_ref().map(on_board));
    say("restore_volumes", settings.restore_volumes.clone());
    say("node_ip", settings.node_ip.map(|ip| ip.to_string()));
    let labels: Vec<String> = settings.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    say("labels", Some(labels.join(",")));
    say("taints", Some(settings.taints.join(",")));
    let mirrors =
        settings.mirrors.iter().flat_map(|(registry, all)| all.iter().map(move |one| format!("{registry}={one}")));
    say("mirrors", Some(mirrors.collect::<Vec<_>>().join(",")));
    values
}

/// Writes the files that [`values`] names.
pub fn hand_out(settings: &Settings) -> Result<(), Error> {
    fs::create_dir_all(FOLDER).doing(format_args!("make {FOLDER}"))?;
    let keys: String = settings.trusted_keys.iter().map(|key| format!("{key}\n")).collect();
    let (token, checkpoint_key) = (settings.token.clone(), settings.checkpoint_key.clone());
    let texts = [("token", token), ("checkpoint-key", checkpoint_key), ("trusted-keys", Some(keys))];
    for (name, text) in texts.map(|(name, text)| (name, text.unwrap_or_default())) {
        if !text.is_empty() {
            sys::files::replace(&Path::new(FOLDER).join(name), text.as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(text: &str) -> Settings {
        let (settings, problems) = settings::read(text.as_bytes());
        assert_eq!(problems, [], "{text}");
        settings
    }

    #[test]
    fn agents_that_nobody_named_differ() {
        let name = |text: &str| hostname(&settings_of(text), "skerry", "0123456789abcdef");
        assert_eq!(name(""), "skerry");
        assert_eq!(name("server = \"a\"\n"), "skerry-012345");
        assert_eq!(name("server = \"a\"\nhostname = \"b\"\n"), "b");
        assert_eq!(hostname(&settings_of("server = \"a\"\n"), "skerry", ""), "skerry");
    }

    #[test]
    fn services_hear_only_of_what_was_said() {
        assert_eq!(values(&Settings::default()), Values::new());
        let values = values(&settings_of(
            "server = \"a\"\ntoken = \"abcdef.0123456789abcdef\"\nlabels = { a = \"b\", c = \"\" }\ntaints = [\"x:NoExecute\", \"y=z:NoSchedule\"]\n\
             mirrors = { \"docker.io\" = [\"http://m:1\", \"http://n\"] }\nnode_ip = \"10.0.0.2\"\n",
        ));
        let expected = [
            ("labels", "a=b,c="),
            ("mirrors", "docker.io=http://m:1,docker.io=http://n"),
            ("node_ip", "10.0.0.2"),
            ("server", "https://a:6443"),
            ("taints", "x:NoExecute,y=z:NoSchedule"),
            ("token_file", "/run/skerry/token"),
        ];
        assert_eq!(values, expected.map(|(name, value)| (name, value.to_owned())).into());
    }

    /// What lies beside a file of this text after it was looked at, where `before` lay there.
    fn check(text: Option<&str>, role: Role, has_problems: bool) {
        let folder = tempfile::tempdir().unwrap();
        if let Some(text) = text {
            fs::write(folder.path().join(FILE), text).unwrap();
        }
        let (_, settings, problems) = look(folder.path(), &Offer { services: "", once: &|_| Ok(()) }).unwrap();
        assert_eq!((settings.role, !problems.is_empty()), (role, has_problems), "{problems:?}");
    }

    #[test]
    fn what_no_service_takes_is_told() {
        let text = "# labels\nlabels = { a = \"b\" }\ntaints = [\"x:NoExecute\"]\n";
        let settings = settings_of(text);
        let said = |services: &str| -> Vec<String> {
            unheeded(text.as_bytes(), &settings, services).iter().map(ToString::to_string).collect()
        };
        let expected =
            "skerry.toml:2: labels changes nothing: no service of this image takes it on a board that is server";
        assert_eq!(said("server /bin/x [ --taints {taints} ]\nagent role=agent /bin/x {labels}"), [expected]);
        assert_eq!(said("{labels} {taints}").len(), 0);
    }

    const RESTORES: &str = "restore role=server once=restore /bin/r [ --key {restore_key} ] [ --to {restore_volumes} ] {restore}\nserver role=server /s";

    /// What runs once because of these settings, and what becomes of the board where it ends so.
    #[track_caller]
    fn check_once(text: &str, ends: Result<(), String>, ran: &str, role: Role, problems: &[&str]) {
        let mut settings = settings::read(text.as_bytes()).0;
        let seen = std::cell::RefCell::new(String::new());
        let once = |service: &Service| {
            *seen.borrow_mut() = service.args.join(" ");
            ends.clone()
        };
        let said = prepare(text.as_bytes(), &mut settings, &Offer { services: RESTORES, once: &once });
        let said: Vec<String> = said.iter().map(ToString::to_string).collect();
        assert_eq!((seen.into_inner().as_str(), settings.role), (ran, role), "{text}");
        assert_eq!(said, problems, "{text}");
    }

    #[test]
    fn a_backup_that_cannot_be_restored_starts_no_empty_cluster() {
        check_once("hostname = \"a\"\n", Ok(()), "", Role::Server, &[]);
        let text = "# restore\nrestore = \"a.backup\"\nrestore_key = \"/data/key\"\n";
        let ran = "--key /data/key /run/boot/a.backup";
        check_once(text, Ok(()), ran, Role::Server, &[]);
        let with_volumes = "restore = \"a.backup\"\nrestore_volumes = \"/\"\n";
        check_once(with_volumes, Ok(()), "--to / /run/boot/a.backup", Role::Server, &[]);
        let expected =
            "skerry.toml:2: restore cannot be done, the board starts no cluster and joins none: a.backup is damaged";
        check_once(text, Err("a.backup is damaged".to_owned()), ran, Role::Unclear, &[expected]);
        // Somebody meant a backup: whatever the program makes of the folder, an empty cluster is not it.
        check_once("restore = 7\n", Ok(()), "/run/boot/", Role::Server, &[]);
        check_once("server = \"a\"\nrestore = \"b\"\n", Ok(()), "", Role::Agent, &[]);
    }

    #[test]
    fn a_card_without_settings_is_a_server() {
        check(None, Role::Server, false);
        check(Some(""), Role::Server, false);
        check(Some("role = \"agent\"\nserver = \"a\"\r\n"), Role::Agent, false);
    }
}

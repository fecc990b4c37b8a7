//! The CronJob of `cluster/skerry/manifests/backup.yaml` on a real cluster, and a blank board restored from what it made.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::path::{Path, PathBuf};

use conformance::Cluster;
use workloads::{Break, Report, check_again, chosen, run_all, with_volume};

const MANIFEST: &str = include_str!("../../../cluster/skerry/manifests/backup.yaml");
/// Where the manifest puts backups; the test has a folder of its own.
const BACKUPS: &str = "/var/lib/skerry-backups";
const SIDE_BY_SIDE: usize = 8;
const JOB_SECONDS: u32 = 60;
/// A number that no other process of this machine sleeps for.
const LATER: &str = "471147";

#[test]
fn the_cronjob_makes_a_backup_and_a_blank_board_restored_from_it_runs_every_workload() {
    let folder = tempfile::tempdir().expect("a folder for backups");
    let mut cluster = Cluster::start(&made::skerry(), Some(&made::test_images()));
    let mut here = chosen();
    here.retain(|scenario| scenario.again.is_some() && !scenario.limits_memory);
    let report = run_all(&cluster, &here, SIDE_BY_SIDE);
    assert!(report.holds(), "{report}\n{}", cluster.last_lines());
    let manifest = folder.path().join("backup.yaml");
    let backups = folder.path().join("backups");
    let site = folder.path().join("site");
    std::fs::create_dir_all(site.join("pages")).expect("a folder");
    std::fs::write(site.join("pages/index"), "hello").expect("it can be written");
    let text = MANIFEST.replace(BACKUPS, &backups.display().to_string());
    std::fs::write(&manifest, with_volume(&text, "/site", &site.display().to_string())).expect("it can be written");
    cluster.must(&format!("apply -f {}", manifest.display()));
    a_run_succeeds(&cluster);
    a_run_that_fails_says_why(
        &cluster,
        ("--to=/backups", "--to=/none"),
        "failed to make a backup in /none: failed to read /none",
    );
    let small = "\"emptyDir\":{\"medium\":\"Memory\",\"sizeLimit\":\"16Ki\"}";
    let full = format!("\"hostPath\":{{\"path\":\"{}\",\"type\":\"DirectoryOrCreate\"}}", backups.display());
    a_run_that_fails_says_why(&cluster, (&full, small), "No space left on device");
    a_run_that_fails_says_why(&cluster, ("\"emptyDir\":{}", small), "not kept, because it could not be proved");
    let file = the_file(&backups);
    cluster.make_blank();
    let back = folder.path().join("back");
    cluster.restore(&file, &["--volumes-to", &back.display().to_string()]);
    assert_eq!(std::fs::read_to_string(back.join("site/pages/index")).expect("the volume came back"), "hello");
    cluster.run_server();
    cluster.wait_for_server();
    // The run that made the file had not ended in it, so that it begins again: it is none of the workloads looked at below.
    cluster.must("-n kube-system delete jobs --all --cascade=foreground");
    let again = check_again(&cluster, &report, Break::NewBoard, SIDE_BY_SIDE);
    println!("restored:\n{again}");
    assert!(again.holds(), "{again}\n{}", cluster.last_lines());
    // The CronJob, its account and the rights of that came back as well.
    what_is_too_old_goes(&cluster, &file);
    a_damaged_file_is_told_and_no_good_one_goes_because_of_it(&cluster, &backups);
    an_older_state_takes_over_what_runs(&mut cluster, &newest(&backups), &again);
}

/// Back to an earlier state on the same machine: what ran then goes on in the same containers, what came later ends.
fn an_older_state_takes_over_what_runs(cluster: &mut Cluster, file: &Path, before: &Report) {
    cluster.must(&format!("run later --image=busybox:1.36 --command -- sleep {LATER}"));
    cluster.must_become("--for=condition=Ready pod/later", JOB_SECONDS);
    assert!(runs(LATER));
    cluster.kill_server();
    cluster.restore(file, &["--move-aside"]);
    cluster.run_server();
    cluster.wait_for_server();
    cluster.refused("get pod later", "NotFound");
    cluster.wait("the pod nobody knows any more to end", cluster.limit(JOB_SECONDS), |_| !runs(LATER));
    let again = check_again(cluster, before, Break::ServerKilled, SIDE_BY_SIDE);
    println!("taken over:\n{again}");
    assert!(again.holds(), "{again}\n{}", cluster.last_lines());
}

/// Whether a process of this machine sleeps for so long.
fn runs(seconds: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("processes").flatten();
    let mut lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.any(|line| line.contains("sleep") && line.contains(seconds))
}

/// The manifest keeps none that is older than 30 days, but for the newest three.
fn what_is_too_old_goes(cluster: &Cluster, file: &Path) {
    let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
    let [skerry, id, ..] = name.split('-').collect::<Vec<_>>()[..] else { panic!("{name} has parts") };
    // The second of them stays, unless the run that was broken off made a file as well.
    let [oldest, old] = [1, 2].map(|revision| format!("{skerry}-{id}-{revision:020}-20260102T030405Z.backup"));
    for name in [&oldest, &old] {
        std::fs::copy(file, file.with_file_name(name)).expect("copied");
    }
    let said = a_run_succeeds(cluster);
    assert!(said.contains("; removed ") && said.contains(&oldest), "{said}");
    assert!(!file.with_file_name(&oldest).exists() && file.exists(), "{said}");
}

fn a_run_succeeds(cluster: &Cluster) -> String {
    cluster.must("-n kube-system create job --from=cronjob/skerry-backup backup-now");
    cluster.must_become("--for=condition=Complete -n kube-system job/backup-now", JOB_SECONDS);
    let said = cluster.must("-n kube-system logs job/backup-now");
    assert!(said.contains("restored and compared"), "{said}");
    said
}

/// A run in whose Job this is that says why where people look: in its log, its pod's status, and an event of the Job. Nothing of
/// it is left among the backups.
fn a_run_that_fails_says_why(cluster: &Cluster, (this, that): (&str, &str), why: &str) {
    run_changed(cluster, (this, that));
    let status = "get pods -l job-name=wrong -n kube-system -o \
                  jsonpath={.items[*].status.containerStatuses[*].state.terminated.message}";
    let event = "get events -n kube-system --field-selector involvedObject.name=wrong,reason=BackupFailed -o \
                 jsonpath={.items[*].message}";
    let limit = cluster.limit(JOB_SECONDS);
    cluster.wait("the reason in the pod's status", limit, |user| user.kubectl(status).1.contains(why));
    cluster.wait("the reason in an event", limit, |user| user.kubectl(event).1.contains(why));
    let log = cluster.must("-n kube-system logs job/wrong");
    assert!(log.contains(why), "{log}");
    cluster.must("-n kube-system delete job wrong");
}

/// A Job `wrong` as the manifest has it, but for this, which is that, and without a second try.
fn run_changed(cluster: &Cluster, (this, that): (&str, &str)) {
    let job = cluster.must("-n kube-system create job --from=cronjob/skerry-backup wrong --dry-run=client -o json");
    let job: String = job.lines().map(str::trim).collect::<String>().replace("\": ", "\":");
    assert!(job.contains(this), "{this} is not in {job}");
    let file = cluster.data().with_file_name("wrong.json");
    let once = job.replace(this, that).replace("\"backoffLimit\":2", "\"backoffLimit\":0");
    std::fs::write(&file, once).expect("it can be written");
    cluster.must(&format!("apply -f {}", file.display()));
}

/// Two files are kept. All but the oldest one are damaged, so that it must not go for a new one.
fn a_damaged_file_is_told_and_no_good_one_goes_because_of_it(cluster: &Cluster, backups: &Path) {
    let before = files(backups);
    let [good, damaged @ ..] = before.as_slice() else { panic!("there are backups") };
    for damaged in damaged {
        let mut bytes = std::fs::read(damaged).expect("it can be read");
        let half = bytes.len() / 2;
        bytes[half] ^= 1;
        std::fs::write(damaged, bytes).expect("it can be written");
    }
    run_changed(cluster, ("--keep=14", "--keep=2"));
    cluster.must_become("--for=condition=Complete -n kube-system job/wrong", JOB_SECONDS);
    let event = "get events -n kube-system --field-selector involvedObject.name=wrong,reason=BackupDamaged -o \
                 jsonpath={.items[*].message}";
    let newest = damaged.last().expect("two were made at least");
    let name = newest.file_name().expect("it has a name").to_string_lossy().into_owned();
    cluster.wait_for(event, &format!("/backups/{name} is damaged or cut short"), cluster.limit(JOB_SECONDS));
    let after = files(backups);
    assert!(after.contains(good) && after.len() == before.len() + 1, "{after:?}");
    cluster.must("-n kube-system delete job wrong");
}

fn newest(folder: &Path) -> PathBuf {
    files(folder).pop().expect("two backups were made")
}

fn the_file(folder: &Path) -> PathBuf {
    let mut files = files(folder);
    assert_eq!(files.len(), 1, "one backup was made, and nothing else is left there: {files:?}");
    files.remove(0)
}

/// The oldest first.
fn files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).expect("the folder is there").flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.collect();
    files.sort();
    files
}

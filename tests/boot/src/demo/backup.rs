//! The leg `backup`: the server's board is lost with its card, and a blank one becomes the same cluster from one file.
//!
//! Start at [`run`]. A CronJob backs the cluster up to the server's board while fifty clients write; one of its files is damaged,
//! which is told, and no good one goes for it. The newest file is copied off, as a user does it; then the board gets a new
//! card, flashed with that file and its key. The other two boards are never touched.
//!
//! Not here: damaged files on a card (the boot test `qemu_arm64`), every workload of the documentation after a restore (there, too).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use image::flash::Said;
use workloads::User;
use workloads::writes::prefix;

use super::clients::Clients;
use super::fleet::BOARDS;
use super::{Answer, Fleet, join};

const MANIFEST: &str = include_str!("../../../../cluster/skerry/manifests/backup.yaml");
/// What this leg has otherwise: every minute, two files, those on the server's board, encrypted.
const CHANGES: [(&str, &str); 6] = [
    ("schedule: \"15 2 * * *\"", "schedule: \"* * * * *\""),
    ("- --keep=14", "- --keep=2"),
    ("- --scratch=/scratch", "- --scratch=/scratch\n            - --key-file=/key/key"),
    ("restartPolicy: Never", "restartPolicy: Never\n          nodeSelector: {kubernetes.io/hostname: skerry-1}"),
    ("volumeMounts:", "volumeMounts:\n            - {name: key, mountPath: /key, readOnly: true}"),
    ("volumes:\n", "volumes:\n          - name: key\n            secret: {secretName: backup-key}\n"),
];
/// Where the manifest puts backups, as somebody sees it who reaches all of the board.
const FOLDER: &str = "/proc/1/root/var/lib/skerry-backups";
const KEY_BYTES: u64 = 32;
const SERVER: u8 = 1;
const CLIENTS: usize = 50;
/// The label of what clients write.
const LABEL: &str = "backup";
/// A run on an emulated board begins a minute later at most.
const RUN_SECONDS: u32 = 60;
/// Nobody else on a board sleeps for so long.
const LATER: &str = "471147";
const AGENTS_BACK_WITHIN: Duration = Duration::from_secs(180);
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// Pods on both agents with a claim each, beside the pods of [`join`]'s DaemonSet on all boards.
const KEEPS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeps}
spec:
  serviceName: keeps
  replicas: 2
  selector: {matchLabels: {app: keeps}}
  template:
    metadata: {labels: {app: keeps}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
            - matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [skerry-1]}]
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: keeps}}}
      containers:
      - name: keeps
        image: busybox:1.28
        command: ["sh", "-c", "test -e /kept/name || hostname >/kept/name; exec sleep 1000000"]
        volumeMounts: [{name: kept, mountPath: /kept}]
  volumeClaimTemplates:
  - metadata: {name: kept}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"#;

/// A backup off the board, and what each client was told of before and after it.
struct Taken {
    file: PathBuf,
    before: Vec<usize>,
    after: Vec<usize>,
}

/// Backs up, loses the board, and looks whether everything is there again.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let fleet = &*fleet;
    let user = fleet.user();
    let system = user.in_namespace("kube-system");
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let key = key_in(folder.path())?;
    fleet.lend_hands()?;
    fleet.apply(join::WEB)?;
    fleet.apply(KEEPS)?;
    user.in_namespace(join::NAMESPACE).rolled_out("daemonset/web", 60);
    user.rolled_out("statefulset/keeps", 60);
    system.must(&format!("create secret generic backup-key --from-file=key={}", key.display()));
    fleet.apply(&manifest())?;
    let clients = Clients::start(&user, CLIENTS, LABEL)?;
    let taken = take(fleet, &system, &clients, folder.path())?;
    let written = clients.stop()?;
    println!("{written} writes were acknowledged");
    let later = format!(r#"{{"spec":{{"nodeName":"{}"}}}}"#, fleet.node(2));
    let words = ["run", "later", "--image=busybox:1.28", "--overrides", &later, "--command", "--", "sleep", LATER];
    fleet.kubectl(&words)?;
    user.must_become("--for=condition=Ready pod/later", RUN_SECONDS);

    fleet.cut_power(SERVER)?;
    let settings = folder.path().join("settings.toml");
    fs::write(&settings, settings::file(&fleet.settings(SERVER))).map_err(|error| error.to_string())?;
    let size = fs::metadata(&taken.file).map_or(0, |about| about.len());
    let said =
        Said { file: Some(settings), restore: Some(taken.file.clone()), restore_key: Some(key), ..Said::default() };
    fleet.flash(SERVER, &said)?;
    let ready = fleet.is_ready()?;
    println!("a blank board is Ready {ready:.0?} after it was switched on");
    let there = is_there_again(fleet, &user, &taken)?;
    clean_up(fleet, &user, &system)?;
    Ok(format!(
        "{CLIENTS} clients were told of {written} writes; a damaged backup was told in an Event and no good one went for it; the \
         blank board was Ready {ready:.0?} after it was switched on with {size} bytes of backup, {there} writes in it are a prefix, \
         and every pod of {BOARDS} boards runs"
    ))
}

fn manifest() -> String {
    CHANGES.iter().fold(MANIFEST.to_owned(), |text, (this, that)| {
        assert!(text.contains(this), "the manifest has {this}");
        // What stands in a comment is not meant.
        let (before, after) = text.rsplit_once(this).expect("it has");
        format!("{before}{that}{after}")
    })
}

/// As the manifest tells it.
fn key_in(folder: &Path) -> Answer<PathBuf> {
    let (path, mut bytes) = (folder.join("backup.key"), Vec::new());
    let read = File::open("/dev/urandom").and_then(|random| random.take(KEY_BYTES).read_to_end(&mut bytes));
    read.and_then(|_| fs::write(&path, bytes)).map_err(|error| format!("failed to make a key: {error}"))?;
    Ok(path)
}

/// The CronJob makes a first file by itself. The second one is damaged, and must not take the first one's place when the third
/// comes, which is copied to `folder`.
fn take(fleet: &Fleet, system: &User, clients: &Clients, folder: &Path) -> Answer<Taken> {
    let runs = "get jobs -o 'jsonpath={range .items[*]}{.metadata.ownerReferences[0].kind} {.status.succeeded};{end}'";
    system.wait_for(runs, "CronJob 1;", system.limit(RUN_SECONDS));
    system.must(r#"patch cronjob skerry-backup -p '{"spec":{"suspend":true}}'"#);
    // The next one may have begun before.
    system.wait("no backup to be on its way", system.limit(RUN_SECONDS), |system| {
        let (ok, active) = system.kubectl("get jobs -o jsonpath={.items[*].status.active}");
        ok && active.trim().is_empty()
    });
    let good = newest(fleet)?;
    let damaged = back_up(system, "backup-damaged")?;
    fleet.by_hand(
        SERVER,
        &format!("dd if=/dev/zero of={FOLDER}/{damaged} bs=1 seek=1000 count=64 conv=notrunc; sync"),
    )?;
    let before = clients.counts();
    let name = back_up(system, "backup-now")?;
    let after = clients.counts();
    let events = "get events --field-selector involvedObject.name=backup-now,reason=BackupDamaged -o jsonpath={.items[*].message}";
    system.wait_for(events, &format!("{damaged} is damaged or cut short"), TOLD_WITHIN);
    let there = fleet.by_hand(SERVER, &format!("ls {FOLDER}"))?;
    if [&good, &name].iter().any(|name| !there.contains(name.as_str())) {
        return Err(format!("{good} and {name} are good, and there are {there}"));
    }
    if before.contains(&0) {
        return Err(format!("not every client was told of a write before: {before:?}"));
    }
    let file = folder.join(&name);
    let from = format!("{}:{FOLDER}/{name}", fleet.pod("kube-system", "hands", SERVER)?.trim_start_matches("pod/"));
    system.must(&format!("cp {from} {}", file.display()));
    Ok(Taken { file, before, after })
}

/// Has the CronJob run now; the name of the file that it made.
fn back_up(system: &User, job: &str) -> Answer<String> {
    system.must(&format!("create job --from=cronjob/skerry-backup {job}"));
    system.must_become(&format!("--for=condition=Complete job/{job}"), RUN_SECONDS);
    let said = system.must(&format!("logs job/{job}"));
    println!("{said}");
    let line = said.lines().find(|line| line.contains("restored and compared"));
    let name = line.and_then(|line| line.split_once(':')).map(|(name, _)| name.to_owned());
    name.ok_or_else(|| format!("job {job} made no backup: {said}"))
}

fn newest(fleet: &Fleet) -> Answer<String> {
    let files = fleet.by_hand(SERVER, &format!("ls {FOLDER}"))?;
    files.lines().max().map(str::to_owned).ok_or_else(|| "there is no backup".to_owned())
}

/// What was written, what ran, and what is new: the agents do as the restored server says. How many writes are there.
fn is_there_again(fleet: &Fleet, user: &User, taken: &Taken) -> Answer<usize> {
    let listed = user.must(&format!("get configmaps -l demo={LABEL} -o name --chunk-size=0"));
    let there = prefix(&listed, &taken.before, &taken.after)?;
    user.refused("get pod later", "NotFound");
    let look = format!("ps | grep -v grep | grep -q 'sleep {LATER}' || echo gone");
    let is_gone = |fleet: &Fleet| fleet.by_hand(2, &look).is_ok_and(|said| said.contains("gone"));
    fleet.waits_for("the pod that nobody knows any more to end", AGENTS_BACK_WITHIN, is_gone)?;
    for pod in ["keeps-0", "keeps-1"] {
        let kept = user.must(&format!("exec {pod} -- cat /kept/name"));
        if kept.trim() != pod {
            return Err(format!("{pod} has kept {kept:?}"));
        }
    }
    join::all_ways_answer(fleet)?;
    // New pods on every board, and not what the backup remembers of old ones.
    let web = user.in_namespace(join::NAMESPACE);
    web.must("rollout restart daemonset/web");
    web.rolled_out("daemonset/web", 60);
    user.must("rollout restart statefulset/keeps");
    user.rolled_out("statefulset/keeps", 60);
    join::all_ways_answer(fleet)?;
    back_up(&user.in_namespace("kube-system"), "backup-again")?;
    Ok(there)
}

fn clean_up(fleet: &Fleet, user: &User, system: &User) -> Answer<()> {
    user.must("delete statefulset keeps");
    user.must("delete pvc -l app=keeps --wait=false");
    // One request for all of them: kubectl asks once an object.
    user.must(&format!("delete --raw /api/v1/namespaces/default/configmaps?labelSelector=demo%3D{LABEL}"));
    // Its Jobs go with it.
    system.must("delete cronjob skerry-backup");
    system.must("delete secret backup-key");
    fleet.kubectl(&["delete", "namespace", join::NAMESPACE, "--timeout=120s"])?;
    fleet.take_hands()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_takes_the_changes() {
        let text = manifest();
        for (_, that) in CHANGES {
            assert!(text.contains(that), "{that}");
        }
        // The comment at its head is as it was.
        assert_eq!(text.lines().next(), MANIFEST.lines().next());
    }
}

//! The leg `nfs`: what boards keep on a real NFS server, by the documentation's manifests and by our own.
//!
//! Start at [`run`]. The server runs on this machine and is reached as the boards reach any other. Needs root.
//!
//! Not here: what a single board's pods see of a dead server (`tests/nfs.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use workloads::{User, nfs_is_shared};

use super::fleet::BOARDS;
use super::{Answer, Fleet};
use crate::nfs::{EXPORT, Server, failed_mounts, numbers};

/// Longer than a mount waits, so that nobody is spared.
const AWAY: Duration = Duration::from_secs(30);
/// A server that was away asks its clients for a while what they had; kernels look for it ever less often.
const BACK_WITHIN: Duration = Duration::from_secs(180);
const BACKUP: &str = include_str!("../../../../cluster/skerry/manifests/backup.yaml");
/// Where the manifest puts backups, and the line that its comment has in its place.
const BACKUP_FOLDER: &str = "hostPath: {path: /var/lib/skerry-backups, type: DirectoryOrCreate}";
/// The folder of the export for them.
const BACKUPS: &str = "backups";
const BACKUP_SECONDS: u32 = 60;

/// A class that makes a directory a claim, a claim that two boards share, and a StatefulSet with a claim for each pod.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: demo-nfs}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: demo-nfs}
provisioner: skerry.dev/nfs
parameters: {server: SERVER, share: /srv}
mountOptions: [nfsvers=4.1]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared, namespace: demo-nfs}
spec:
  accessModes: [ReadWriteMany]
  storageClassName: demo-nfs
  resources: {requests: {storage: 1Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer, namespace: demo-nfs}
spec:
  nodeName: skerry-2
  terminationGracePeriodSeconds: 1
  containers:
  - name: writer
    image: busybox:1.28
    command: ["sh", "-c", "last=0; while :; do last=$((last + 1)); echo $last >>/mnt/numbers && sleep 0.3; done"]
    volumeMounts: [{name: shared, mountPath: /mnt}]
  volumes: [{name: shared, persistentVolumeClaim: {claimName: shared}}]
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: demo-nfs}
spec:
  nodeName: skerry-3
  terminationGracePeriodSeconds: 1
  containers:
  - name: reader
    image: busybox:1.28
    command: [sleep, "1000000"]
    volumeMounts: [{name: shared, mountPath: /mnt}]
  volumes: [{name: shared, persistentVolumeClaim: {claimName: shared}}]
---
apiVersion: v1
kind: Service
metadata: {name: keeps, namespace: demo-nfs}
spec: {clusterIP: None, selector: {app: keeps}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeps, namespace: demo-nfs}
spec:
  serviceName: keeps
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: keeps}}
  template:
    metadata: {labels: {app: keeps}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: keeps
        image: busybox:1.28
        command: ["sh", "-c", "[ -e /data/first ] || echo $NODE >/data/first; exec sleep 1000000"]
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: demo-nfs
      resources: {requests: {storage: 1Mi}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: keeps, namespace: demo-nfs}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: keeps}}
"#;

/// A board that did not make it reads the backup and restores it to a blank folder.
const RESTORES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: restores, namespace: demo-nfs}
spec:
  nodeName: NODE
  restartPolicy: Never
  containers:
  - name: restores
    image: skerry.dev/skerry:node
    imagePullPolicy: Always
    args: [restore, --data-dir=/scratch/blank, /backups/FILE]
    volumeMounts:
    - {name: backups, mountPath: /backups, readOnly: true}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - name: backups
    nfs: {server: SERVER, path: /srv/backups, readOnly: true}
  - {name: scratch, emptyDir: {}}
"#;

/// Sharing, a server that dies, an export that is not there, the documentation's volume, a drain, a backup.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let mut server = Server::start("demo-nfs");
    fs::create_dir(server.file(BACKUPS)).map_err(|error| format!("no folder for backups: {error}"))?;
    let user = fleet.user().in_namespace("demo-nfs");
    fleet.apply(&MANIFEST.replace("SERVER", &server.address()))?;
    user.must_become("--for=condition=Ready pod/writer pod/reader", 30);
    user.rolled_out("statefulset/keeps", 30);
    let volume = user.must("get pvc shared -o jsonpath={.spec.volumeName}");
    let written = server.file(&format!("demo-nfs-shared-{volume}/numbers"));
    let survived = dies_and_returns(fleet, &user, &mut server, &written)?;
    names_what_is_not_there(fleet, &user, &server)?;
    let published = is_shared(&user, &server)?;
    let moved = moves(&user)?;
    let backed_up = backs_up(fleet, &user, &server)?;
    let all = numbers(&written)?;
    user.must("delete namespace demo-nfs --timeout=180s");
    user.must("delete storageclass demo-nfs");
    Ok(format!(
        "{published}; {survived}; an export that is not there is named; {moved}; {backed_up}; {all} numbers in the end, each once"
    ))
}

/// What the reader's board sees last of what the writer's board writes.
fn seen(user: &User) -> usize {
    user.kubectl("exec reader -- tail -n 1 /mnt/numbers").1.trim().parse().unwrap_or(0)
}

fn dies_and_returns(fleet: &Fleet, user: &User, server: &mut Server, written: &Path) -> Answer<String> {
    let goes_on = |from: usize| {
        let more = |_: &Fleet| numbers(written).is_ok_and(|all| all > from + 10) && seen(user) > from + 10;
        fleet.waits_for("the reader to see more numbers", BACK_WITHIN, more)
    };
    goes_on(0)?;
    server.kill();
    let before = numbers(written)?;
    sleep(AWAY);
    let meanwhile = numbers(written)?;
    if meanwhile != before {
        return Err(format!("{meanwhile} numbers instead of {before}, written while the server was dead"));
    }
    server.restart();
    let back = goes_on(before)?;
    numbers(written)?;
    Ok(format!(
        "two boards write and read on {back:.0?} after a server that was dead for {AWAY:?} is back, nothing lost"
    ))
}

fn names_what_is_not_there(fleet: &Fleet, user: &User, server: &Server) -> Answer<()> {
    let none = server.none();
    let pod = none.pod.replace("{name: wrong}", "{name: wrong, namespace: demo-nfs}");
    fleet.apply(&pod)?;
    user.wait_for(&failed_mounts("wrong"), &none.told, user.limit(20));
    user.must("delete pod wrong");
    Ok(())
}

/// The documentation's volume, claim and Deployments.
fn is_shared(user: &User, server: &Server) -> Answer<String> {
    let nodes = nfs_is_shared(user, &server.address(), EXPORT);
    user.must("delete pvc nfs");
    user.must("delete pv nfs");
    match nodes.len() {
        2 => Ok("the documentation's two Deployments share a volume between two boards".to_owned()),
        _ => Err(format!("the pods of nfs-busybox should be on two boards: {nodes:?}")),
    }
}

/// A board is drained, first against the budget and then within it.
fn moves(user: &User) -> Answer<String> {
    let node_of = || user.must("get pod keeps-1 -o jsonpath={.spec.nodeName}");
    let first = || user.must("exec keeps-1 -- cat /data/first");
    let (node, before) = (node_of(), first());
    let drain = format!("drain {node} --pod-selector=app=keeps --ignore-daemonsets");
    user.refused(&format!("{drain} --timeout=15s"), "violate the pod's disruption budget");
    let stays = node_of();
    user.must("patch pdb keeps -p {\"spec\":{\"minAvailable\":1}}");
    user.must(&format!("{drain} --timeout=180s"));
    user.wait("keeps-1 on another board", user.limit(60), |user| {
        let (ok, said) = user.kubectl("get pod keeps-1 -o jsonpath={.spec.nodeName},{.status.phase}");
        ok && said.ends_with(",Running") && !said.starts_with(&node)
    });
    let (moved, after) = (node_of(), first());
    user.must(&format!("uncordon {node}"));
    match stays == node && moved != node && after == before {
        true => Ok(format!("keeps-1 went from {node} to {moved} once its budget allowed that, and found its data")),
        false => Err(format!("keeps-1: {node}, {stays}, {moved}; its data: {before}, {after}")),
    }
}

/// The CronJob writes to the export; what lies there is restored by another board.
fn backs_up(fleet: &Fleet, user: &User, server: &Server) -> Answer<String> {
    let volume = format!("nfs: {{server: {}, path: {EXPORT}/{BACKUPS}}}", server.address());
    assert_eq!(BACKUP.matches(BACKUP_FOLDER).count(), 1, "the manifest's folder");
    let manifest = BACKUP.replace(BACKUP_FOLDER, &volume);
    fleet.apply(&manifest)?;
    let system = user.in_namespace("kube-system");
    system.must("create job --from=cronjob/skerry-backup backup-nfs");
    system.must_become("--for=condition=Complete job/backup-nfs", BACKUP_SECONDS);
    let said = system.must("logs job/backup-nfs");
    if !said.contains("restored and compared") {
        return Err(format!("the backup does not say that it was verified: {said}"));
    }
    let node = system.must("get pods -l job-name=backup-nfs -o jsonpath={.items[0].spec.nodeName}");
    let other = (1..=BOARDS).map(|board| fleet.node(board)).find(|name| *name != node).ok_or("there are others")?;
    let file = the_file(&server.file(BACKUPS))?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pod = RESTORES.replace("NODE", &other).replace("FILE", &name).replace("SERVER", &server.address());
    fleet.apply(&pod)?;
    user.must_become("--for=jsonpath={.status.phase}=Succeeded pod/restores", BACKUP_SECONDS);
    println!("{}", user.must("logs restores"));
    system.must("delete job/backup-nfs cronjob/skerry-backup");
    let bytes = fs::metadata(&file).map_err(|error| error.to_string())?.len();
    Ok(format!("{node} wrote a backup of {} KiB there, and {other} restored it", bytes >> 10))
}

/// The one backup in a folder of the server.
fn the_file(folder: &Path) -> Answer<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|error| format!("the backups cannot be listed: {error}"))?;
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        others => Err(format!("the export should have one backup: {others:?}")),
    }
}

//! What is written while machines lose power, and whether it is there in the end.
//!
//! Start at [`while_writing`]: some write objects through the API meanwhile. [`numbers`] is a DaemonSet whose pods write numbers to
//! their node's disk. What was acknowledged, by the API server or by the disk, must be there.
//!
//! Not here: who cuts the power, and of what.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::User;

/// So many write through the API,
const WRITERS: usize = 3;
/// so many objects a call, one after the other.
const OBJECTS: usize = 10;
const CREATED: &str = " created";

/// Each pod, one a line: its name, its phase, whether it is Ready.
const PODS: &str = r#"get pods -A -o 'jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}'"#;

/// On every node: numbers, one a line, each kept on the disk before the next.
const NUMBERS: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: numbers}
spec:
  selector: {matchLabels: {app: numbers}}
  template:
    metadata: {labels: {app: numbers}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: numbers
        image: busybox:1.28
        command:
        - sh
        - -c
        - |
          last=$(tail -n 1 /kept/$NODE 2>/dev/null || echo 0)
          while :; do
            last=$((last + 1)); echo $last >>/kept/$NODE && sync && sleep 0.3
          done
        env:
        - name: NODE
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        volumeMounts: [{name: kept, mountPath: /kept}]
      volumes:
      - {name: kept, hostPath: {path: FOLDER, type: DirectoryOrCreate}}
"#;

/// The DaemonSet `numbers`; each pod writes to a file of its node's name in this folder of the node.
pub fn numbers(folder: &Path) -> String {
    NUMBERS.replace("FOLDER", &folder.display().to_string())
}

/// Does `work` while objects are written; the names of those that were acknowledged, beside its answer. Their manifests are
/// written to `folder`.
pub fn while_writing<T>(user: &User, folder: &Path, work: impl FnOnce() -> T) -> (Vec<String>, T) {
    let stop = AtomicBool::new(false);
    let (acknowledged, done) = std::thread::scope(|scope| {
        let stop = &stop;
        let write = |writer| move || write_until(user, folder, writer, stop);
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
        let done = catch_unwind(AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let acknowledged = writers.into_iter().flat_map(|writer| writer.join().expect("the writer ends"));
        (acknowledged.collect(), done)
    });
    (acknowledged, done.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Writes objects of this writer's; the names of those that were acknowledged.
fn write_until(user: &User, folder: &Path, writer: usize, stop: &AtomicBool) -> Vec<String> {
    let path = folder.join(format!("power-{writer}.json"));
    let mut acknowledged = Vec::new();
    for call in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let objects: Vec<String> = (0..OBJECTS).map(|object| config_map(writer, call * OBJECTS + object)).collect();
        let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, objects.join(","));
        std::fs::write(&path, list).expect("a manifest can be written");
        // What was created is told also where the rest was not.
        let (_, said) = user.kubectl(&format!("create --request-timeout=5s -f {}", path.display()));
        acknowledged.extend(said.lines().filter_map(|line| line.strip_suffix(CREATED)).map(str::to_owned));
    }
    acknowledged
}

fn config_map(writer: usize, number: usize) -> String {
    let about = format!(r#"{{"name":"power-{writer}-{number}","labels":{{"demo":"power"}}}}"#);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{about}}}"#)
}

/// Which of these objects are not there.
pub fn lost<'a>(user: &User, acknowledged: &'a [String]) -> Vec<&'a str> {
    let there = user.must("get configmaps -l demo=power -o name");
    let there: BTreeSet<&str> = there.lines().map(str::trim).collect();
    acknowledged.iter().map(String::as_str).filter(|name| !there.contains(name)).collect()
}

/// Waits until every pod of the cluster runs and is Ready, or has done what it was to do.
pub fn every_pod_runs(user: &User) {
    user.wait("every pod to run", user.limit(60), |user| {
        let (ok, pods) = user.kubectl(PODS);
        ok && pods.lines().all(|pod| pod.ends_with(" Running True") || pod.contains(" Succeeded "))
    });
}

/// Takes away the objects and the DaemonSet.
pub fn forget(user: &User) {
    user.must("delete --raw /api/v1/namespaces/default/configmaps?labelSelector=demo%3Dpower");
    user.must("delete daemonset numbers");
}

/// The last number that a node has kept, as soon as its pod answers; they follow one another without a hole.
pub fn last_number(user: &User, node: &str) -> Result<u64, String> {
    let mut numbers = String::new();
    let until = Instant::now() + user.limit(60);
    while numbers.is_empty() {
        if Instant::now() > until {
            return Err(format!("no answer from the pod that counts on {node}\n{}", user.told()));
        }
        numbers = numbers_of(user, node).unwrap_or_default();
    }
    last_in_order(&numbers).map_err(|wrong| format!("on {node} {wrong}"))
}

fn numbers_of(user: &User, node: &str) -> Option<String> {
    let there = format!("get pods -l app=numbers --field-selector spec.nodeName={node} -o name");
    let pod = user.kubectl(&there).1.lines().next()?.to_owned();
    let (ok, numbers) = user.kubectl(&format!("exec {pod} -- cat /kept/{node}"));
    ok.then_some(numbers)
}

fn last_in_order(numbers: &str) -> Result<u64, String> {
    let number = |line: &str| line.trim().parse().map_err(|_| format!("{line:?} is no number"));
    let numbers: Vec<u64> = numbers.lines().map(number).collect::<Result<_, _>>()?;
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(format!("{} comes after {}", pair[1], pair[0])),
        None => Ok(numbers.last().copied().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_one_another() {
        assert_eq!(last_in_order("1\n2\n3\n"), Ok(3));
        assert_eq!(last_in_order("1\n3\n"), Err("3 comes after 1".to_owned()));
        assert_eq!(last_in_order("1\n1\n"), Err("1 comes after 1".to_owned()));
        assert_eq!(last_in_order("1\n\0\0\n"), Err("\"\\0\\0\" is no number".to_owned()));
    }
}

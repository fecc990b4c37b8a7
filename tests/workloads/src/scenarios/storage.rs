//! Volumes that outlive pods: claims, classes, hostPath and NFS volumes.

use crate::User;
use crate::nfs::USERS;
use crate::scenario::{apply, apply_with};

/// The words of a line of a table, such as `kubectl get pv NAME`'s.
fn row(user: &User, words: &str) -> Vec<String> {
    let table = user.must(words);
    table.lines().nth(1).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

pub fn persistent_volume(user: &User) {
    apply(user, "persistent-volume.yaml");
    user.must_become("--for=condition=Ready pod/task-pv-pod", 60);
    user.must("exec task-pv-pod -- sh -c 'echo Hello from Kubernetes storage > /usr/share/nginx/html/index.html'");
    assert!(user.must("exec task-pv-pod -- wget -qO- http://localhost/").contains("Hello from Kubernetes storage"));
    let pv = row(user, "get pv task-pv-volume");
    assert_eq!(pv[..6], ["task-pv-volume", "10Gi", "RWO", "Retain", "Bound", "persistent-volume/task-pv-claim"]);
    let claim = row(user, "get pvc task-pv-claim");
    assert_eq!(claim[..6], ["task-pv-claim", "Bound", "task-pv-volume", "10Gi", "RWO", "manual"]);
    let described = user.must("describe pvc task-pv-claim");
    assert!(described.contains("Used By:") && described.contains("task-pv-pod"), "{described}");
    protected_in_use(user);
}

fn protected_in_use(user: &User) {
    user.must("delete pvc task-pv-claim --wait=false");
    assert_eq!(row(user, "get pvc task-pv-claim")[1], "Terminating");
    user.must("delete pod task-pv-pod");
    user.must_become("--for=delete pvc/task-pv-claim", 30);
    user.must_become("--for=jsonpath={.status.phase}=Released pv/task-pv-volume", 30);
    user.must("delete pv task-pv-volume");
}

pub fn claims(user: &User) {
    apply(user, "claims.yaml");
    user.must_become("--for=condition=Ready pod/mypod", 60);
    user.must("exec mypod -- sh -c 'echo kept > /var/www/html/index.html'");
    assert_eq!(user.must("exec mypod -- cat /whole/html/index.html").trim(), "kept");
    user.refused("exec mypod -- touch /whole/x", "Read-only file system");
    assert_eq!(user.must("exec mypod -- stat -c %g /whole").trim(), "2000");
    assert_eq!(row(user, "get sc local")[..2], ["local", "(default)"]);
    nothing_fits(user);
    over_the_limit(user);
    let volume = user.must("get pvc myclaim -o jsonpath={.spec.volumeName}");
    user.must("delete pod mypod");
    user.must("delete pvc myclaim");
    // Its directory goes first: the volume stays until its node has removed that.
    user.must_become(&format!("--for=delete pv/{volume}"), 60);
}

pub fn ephemeral(user: &User) {
    apply(user, "ephemeral.yaml");
    user.must_become("--for=condition=Ready pod/my-app", 60);
    user.must("exec my-app -- sh -c 'echo mine > /scratch/file'");
    let claim = "get pvc my-app-scratch-volume -o jsonpath=";
    let about =
        user.must(&format!("{claim}{{.metadata.labels.type}}:{{.metadata.ownerReferences[0].name}}:{{.status.phase}}"));
    assert_eq!(about, "my-frontend-volume:my-app:Bound");
    let volume = user.must(&format!("{claim}{{.spec.volumeName}}"));
    user.must("delete pod my-app");
    user.must_become("--for=delete pvc/my-app-scratch-volume", 60);
    user.must_become(&format!("--for=delete pv/{volume}"), 60);
}

fn nothing_fits(user: &User) {
    let events = "get events --field-selector=involvedObject.name=too-much,reason=FailedBinding";
    let why = "no persistent volumes available for this claim and no storage class is set";
    user.wait_for(events, why, user.limit(30));
    let events = "get events --field-selector=involvedObject.name=unbound,reason=FailedScheduling";
    user.wait_for(events, "pod has unbound immediate PersistentVolumeClaims", user.limit(30));
}

fn over_the_limit(user: &User) {
    user.must_become("--for=jsonpath={.status.reason}=Evicted pod/overfull", 60);
    let message = user.must("get pod overfull -o jsonpath={.status.phase}:{.status.message}");
    assert!(
        message.starts_with("Failed:Usage of EmptyDir volume \"cache-volume\" exceeds the limit \"1Mi\""),
        "{message}"
    );
}

pub fn reclaimed(user: &User) {
    // Others may run the same on this machine.
    let folder = format!("/tmp/pv-recycled-{}", std::process::id());
    let here = ("/tmp/pv-recycled", folder.as_str());
    apply_with(user, "recycle.yaml", &[here]);
    user.must_become("--for=condition=Ready pod/first", 60);
    user.must("exec first -- sh -c 'mkdir -p /data/.hidden/deep && echo mine > /data/.hidden/deep/file'");
    a_claim_for_one_pod_is_used_by_one(user, here);
    let node = user.must("get pod first -o jsonpath={.spec.nodeName}");
    user.must("delete pod first second");
    user.must("delete pvc for-one-pod");
    user.must_become("--for=jsonpath={.status.phase}=Available pv/pv-recycled", 60);
    apply_with(user, "local.yaml", &[here, ("example-node", &node)]);
    user.must_become("--for=condition=Ready pod/reader", 60);
    let pv = row(user, "get pv pv-recycled");
    assert_eq!(pv[..6], ["pv-recycled", "1Gi", "RWOP", "Recycle", "Bound", "reclaimed/once-more"]);
    assert_eq!(user.must("exec reader -- ls -A /data"), "", "nothing of whoever had it before");
    let pv = row(user, "get pv example-pv");
    assert_eq!(pv[..6], ["example-pv", "100Gi", "ROX", "Retain", "Bound", "reclaimed/read-by-many"]);
    // Both volumes are the same folder of the node.
    user.must("exec reader -- sh -c 'echo new > /data/file'");
    assert_eq!(user.must("exec reader -- cat /usr/test-pod/file").trim(), "new");
    user.refused("exec reader -- touch /usr/test-pod/x", "Read-only file system");
    the_folder_goes_with_its_volume(user);
}

fn a_claim_for_one_pod_is_used_by_one(user: &User, here: (&str, &str)) {
    apply_with(user, "recycle.yaml", &[here, ("name: first", "name: second")]);
    let events = "get events --field-selector=involvedObject.name=second,reason=FailedScheduling";
    let why = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    user.wait_for(events, why, user.limit(30));
    assert_eq!(user.must("get pod second -o jsonpath={.status.phase}{.spec.nodeName}"), "Pending");
}

fn the_folder_goes_with_its_volume(user: &User) {
    user.must("patch pv pv-recycled -p {\"spec\":{\"persistentVolumeReclaimPolicy\":\"Delete\"}}");
    user.must("delete pod reader");
    user.must("delete pvc once-more read-by-many");
    user.must_become("--for=delete pv/pv-recycled", 60);
    user.must_become("--for=jsonpath={.status.phase}=Released pv/example-pv", 30);
    user.must("delete pv example-pv");
    user.must("delete storageclass local-storage");
}

/// No server runs there: the pods wait, others do not, and each says for which server and export.
pub fn nfs(user: &User) {
    apply(user, "nfs.yaml");
    user.must_become("--for=jsonpath={.status.phase}=Bound pvc/nfs", 30);
    let first = |label: &str| {
        let names = format!("get pods -l {label} -o jsonpath={{.items[*].metadata.name}}");
        user.wait(label, user.limit(30), |user| user.kubectl(&names).1.starts_with("nfs-"));
        user.must(&names).split_whitespace().next().map(str::to_owned).expect("it has pods")
    };
    let (busybox, web) = (first("name=nfs-busybox"), first("role=web-frontend"));
    for (pod, export) in [(busybox.as_str(), "/"), (&web, "/"), ("test-pd", "/my-nfs-volume")] {
        let events = format!("get events --field-selector=involvedObject.name={pod},reason=FailedMount");
        user.wait_for(&events, &format!("mount failed: 127.0.0.1:{export}: "), user.limit(60));
    }
    user.must(&format!("delete {USERS}"));
    user.must("delete pvc nfs");
    user.must("delete pv nfs");
}

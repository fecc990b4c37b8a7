//! The leg `refusals`: what is wrong is refused, with the reason where a user looks, and nothing changes.
//!
//! Start at [`run`]. All of it happens to one running agent, whose card first gets a settings file with errors. Bundles are
//! offered as somebody before the board does it; the Node and its events must tell what became of them.
//!
//! Not here: NFS exports that do not exist, bundles that fail on trial.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bundle::head::CHUNK_BYTES;
use bundle::{Head, Secret};
use workloads::User;

use super::{Answer, Fleet};
use crate::updates::tree_and_key;

/// The board to which all of it happens: an agent, so that the API is there when its disk is full.
const BOARD: u8 = 2;
/// The Node tells what the update service does within seconds; emulated, and with everything else it does.
const TOLD_WITHIN: Duration = Duration::from_secs(90);
/// Small, and in one part.
const IMAGE_BYTES: u64 = 8192;
/// More than a slot holds. All parts are alike, so that the file is small.
const LARGE_BYTES: u64 = 512 << 20;
/// Where the board's own programs see what the pod puts into `/refusals`.
const FOLDER: &str = "/data/refusals";
const EXEC: [&str; 3] = ["exec", "refusals", "--"];
/// Programs of the board, not of the pod.
const CHROOT: [&str; 2] = ["chroot", "/proc/1/root"];
const CONDITION: &str =
    r#"jsonpath={.status.conditions[?(@.type=="skerry.dev/UpdateFailed")]['status','reason','message']}"#;

/// Lines that nobody can mean; the rest of the file counts.
const WRONG_SETTINGS: &str = "flavour = \"vanilla\"\nntp = 7\n";

/// Looks at the board from inside, and has what is offered to it.
const PROBE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: refusals, namespace: kube-system}
spec:
  nodeName: NODE
  hostPID: true
  hostNetwork: true
  # Not to be evicted when the disk is full.
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 1
  containers:
  - name: refusals
    image: busybox:1.28
    command: ["sh", "-c", "cp -L /offered/* /refusals/ && echo there && exec sleep 1000000"]
    securityContext: {privileged: true}
    volumeMounts:
    - {name: offered, mountPath: /offered}
    - {name: refusals, mountPath: /refusals}
  volumes:
  - name: offered
    configMap: {name: refusals}
  - name: refusals
    hostPath: {path: /data/refusals, type: DirectoryOrCreate}
"#;

/// Takes every byte.
const FILL: &str = "i=0; n=1024; while [ $n -gt 0 ]; do i=$((i + 1)); fallocate -l ${n}M /refusals/fill$i || n=$((n / 2)); done; \
                    dd if=/dev/zero of=/refusals/rest bs=4k; sync";

/// Asks for more than anybody has.
const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: refusals, namespace: kube-system}
spec: {accessModes: [ReadWriteOnce], storageClassName: "", resources: {requests: {storage: 1Ei}}}
"#;

/// All that is refused, one after the other.
pub fn run(fleet: &mut Fleet) -> Answer<String> {
    let wrong = settings_with_errors(fleet)?;
    let bundles = bundles(&tree_and_key().1, &fleet.board().name);
    let probe = Probe::enter(fleet, &bundles)?;
    let beside = probe.script(
        "mkdir -p /mnt; mount -t vfat -o ro /proc/1/root/dev/vda1 /mnt && cat /mnt/skerry-errors.txt; umount /mnt",
    )?;
    if beside.lines().count() < wrong {
        return Err(format!("the file beside the settings does not tell {wrong} errors: {beside}"));
    }
    let before = probe.state();
    let (last, others) = bundles.split_last().ok_or("there are bundles")?;
    for bundle in others {
        probe.refuses(bundle)?;
    }
    full_partition(&probe, last)?;
    tokens(&probe)?;
    probe.says_no(
        "a backup that is none",
        "/bin/skerry restore --data-dir /data/refusals/blank /data/refusals/text",
        "is no backup made by Skerry",
    )?;
    claim(&probe)?;
    if probe.state() != before {
        return Err(format!("something changed:\n{before}\n{}", probe.state()));
    }
    probe.leave()?;
    Ok(format!(
        "{wrong} lines of settings, {} bundles, a full data partition among them, 3 tokens, a backup, a claim: each with its reason, \
         nothing changed",
        bundles.len()
    ))
}

/// Something that no board is to take.
struct Refused {
    name: &'static str,
    file: Vec<u8>,
    /// What the Node says of it.
    why: &'static str,
}

/// The last one is good, and refused where it cannot be noted.
fn bundles(key: &Secret, board: &str) -> Vec<Refused> {
    let bundle_of = |version: &str, security_epoch, image_bytes, key: Option<&Secret>| {
        bundle_of(board, version, security_epoch, image_bytes, key)
    };
    let good = bundle_of("good", 1, IMAGE_BYTES, Some(key));
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        bytes
    };
    let stranger = Secret::generate().expect("a key");
    let refused = |name, file, why| Refused { name, file, why };
    vec![
        refused("text", b"This is a text that somebody took for an update.".to_vec(), "this is no update bundle"),
        refused("unsigned", bundle_of("unsigned", 1, IMAGE_BYTES, None), "the bundle is unsigned"),
        refused("stranger", bundle_of("stranger", 1, IMAGE_BYTES, Some(&stranger)), "the bundle is wrongly signed"),
        refused("short", good[..good.len() - 1].to_vec(), "the bundle is truncated"),
        refused("header", flipped(100), "the bundle is wrongly signed"),
        refused("flipped", flipped(good.len() - 1), "the bundle is damaged: part 1 of 1"),
        refused("downgrade", bundle_of("downgrade", 0, IMAGE_BYTES, Some(key)), "the bundle is a downgrade"),
        refused("large", bundle_of("large", 1, LARGE_BYTES, Some(key)), "the bundle is oversized"),
        refused("good", good, "No space left on device"),
    ]
}

fn bundle_of(board: &str, version: &str, security_epoch: u32, image_bytes: u64, key: Option<&Secret>) -> Vec<u8> {
    let head = Head {
        version: version.into(),
        board: board.into(),
        arch: "arm64".into(),
        security_epoch,
        confirm_within_s: 60,
        image_bytes: 0,
        chunk_bytes: CHUNK_BYTES,
        chunks: vec![],
    };
    let mut image = tempfile::tempfile().expect("a file");
    image.set_len(image_bytes).expect("a hole");
    let mut file = Vec::new();
    bundle::write(head, &mut image, key, &mut file).expect("a bundle");
    file
}

/// Restarts the board with a settings file that has errors: it comes up as before, and names each line. How many.
fn settings_with_errors(fleet: &Fleet) -> Answer<usize> {
    let text = format!("{WRONG_SETTINGS}{}", settings::file(&fleet.settings(BOARD)));
    let (_, problems) = settings::read(text.as_bytes());
    fleet.cut_power(BOARD)?;
    fleet.write_settings(BOARD, &text)?;
    fleet.is_ready()?;
    let console = fleet.console(BOARD);
    match problems.iter().find(|problem| !console.contains(&problem.to_string())) {
        Some(silent) => Err(format!("the console of board {BOARD} does not say {silent}")),
        None => Ok(problems.len()),
    }
}

/// Every byte is taken, the reserve of the system's own programs too: a wish that cannot be noted is none.
fn full_partition(probe: &Probe<'_>, good: &Refused) -> Answer<()> {
    probe.script(FILL)?;
    let refused = probe.refuses(good);
    probe.script("rm -f /refusals/fill* /refusals/rest; sync")?;
    refused
}

/// A token that nobody made, and the cluster's own in the name of a node that lives.
fn tokens(probe: &Probe<'_>) -> Answer<()> {
    let settings = probe.fleet.settings(BOARD);
    let (server, token) = (settings.server.ok_or("an agent has a server")?, settings.token.ok_or("it has a token")?);
    let joins = |token: &str, node: &str| {
        format!(
            "/bin/skerry agent --data-dir /data/refusals/agent --server {server} --token {token} --node-name {node}"
        )
    };
    let (id, _) = token.split_once('.').ok_or("a token has two parts")?;
    let unknown = joins("nobody.0123456789abcdef", "refusals");
    probe.says_no("a token that nobody made", &unknown, "the cluster does not know token nobody")?;
    let wrong = joins(&format!("{id}.0123456789abcdef"), "refusals");
    probe.says_no("a token with a wrong secret", &wrong, &format!("the secret part of token {id} is wrong"))?;
    let reused = joins(&token, &probe.fleet.node(BOARD + 1));
    probe.says_no("a token in the name of a node that lives", &reused, "lives and has another key")?;
    let nodes = probe.user.must("get nodes -o name");
    if nodes.contains("refusals") { Err(format!("somebody joined: {nodes}")) } else { Ok(()) }
}

fn claim(probe: &Probe<'_>) -> Answer<()> {
    probe.fleet.apply(CLAIM)?;
    let events =
        "get events --field-selector involvedObject.name=refusals,reason=FailedBinding -o jsonpath={.items[*].message}";
    probe.user.wait_for(events, "no persistent volumes available for this claim", TOLD_WITHIN);
    let phase = probe.user.must("get pvc refusals -o jsonpath={.status.phase}");
    if phase == "Pending" { Ok(()) } else { Err(format!("a claim that nothing fits is {phase}")) }
}

/// A pod on the board.
struct Probe<'a> {
    fleet: &'a Fleet,
    user: User,
    node: String,
}

impl<'a> Probe<'a> {
    fn enter(fleet: &'a Fleet, bundles: &[Refused]) -> Answer<Probe<'a>> {
        let (user, node) = (fleet.user().in_namespace("kube-system"), fleet.node(BOARD));
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        for Refused { name, file, .. } in bundles {
            written(&folder.path().join(name), file)?;
        }
        user.must(&format!("create configmap refusals --from-file={}", folder.path().display()));
        fleet.apply(&PROBE.replace("NODE", &node))?;
        user.must_become("--for=condition=Ready pod/refusals", 60);
        user.wait_for("logs refusals", "there", TOLD_WITHIN);
        let probe = Probe { fleet, user, node };
        match probe.update("check", "good") {
            (true, _) => Ok(probe),
            (false, said) => Err(format!("a good bundle would not be taken: {said}")),
        }
    }

    fn leave(self) -> Answer<()> {
        let (_, said) = self.user.kubectl(&format!("get node {} -o {CONDITION}", self.node));
        let digest = said.split(['(', ')']).nth(1).ok_or_else(|| format!("no digest in {said}"))?.to_owned();
        let (ok, said) = self.program(&["/sbin/skerry-init", "update", "withdraw", &digest]);
        if !ok {
            return Err(format!("a refusal cannot be withdrawn: {said}"));
        }
        self.shows("False Confirmed", "")?;
        self.script("rm -rf /refusals/*")?;
        self.user.must("delete pod/refusals configmap/refusals pvc/refusals");
        Ok(())
    }

    /// Offers a file; the board refuses it, and its Node and an event say why.
    fn refuses(&self, refused: &Refused) -> Answer<()> {
        let Refused { name, why, .. } = refused;
        let (_, said) = self.update("stage", name);
        self.shows("True Refused", why).map_err(|error| format!("{name}: {error}; the board said {said}"))?;
        let events = format!(
            "get events --namespace=default --field-selector involvedObject.name={},reason=UpdateRefused -o jsonpath={{.items[*].message}}",
            self.node
        );
        self.user.wait_for(&events, why, TOLD_WITHIN);
        println!("refused: {name}: {why}");
        Ok(())
    }

    /// Waits until the Node says it.
    fn shows(&self, begins: &str, contains: &str) -> Answer<()> {
        let asked = format!("get node {} -o {CONDITION}", self.node);
        let told = |_: &Fleet| {
            let (_, said) = self.user.kubectl(&asked);
            said.starts_with(begins) && said.contains(contains)
        };
        self.fleet.waits_for(&format!("{begins} … {contains} on {}", self.node), TOLD_WITHIN, told).map(drop)
    }

    /// Runs a program of the board that must not do what it is asked for, and say why.
    fn says_no(&self, what: &str, words: &str, why: &str) -> Answer<()> {
        // One that would try for ever ends in good order when it is told to.
        let said = self.script(&format!("timeout 20 {} {words} 2>&1; true", CHROOT.join(" ")))?;
        if said.contains(why) {
            println!("refused: {what}: {why}");
            return Ok(());
        }
        Err(format!("{what} should be refused with {why:?}: {said}"))
    }

    /// Which slot boots, what lies in the slots, and what the update service says of it.
    fn state(&self) -> String {
        let (_, status) = self.program(&["/sbin/skerry-init", "update", "status"]);
        let status: Vec<&str> =
            status.lines().filter(|line| !line.starts_with("failed") && !line.starts_with("cause")).collect();
        // The whole slots, and what lies before the first partition.
        let sums = "cd /proc/1/root/dev; cksum vda2 vda3; head -c 1048576 vda | cksum";
        format!("{}\n{}", status.join("\n"), self.script(sums).unwrap_or_else(|error| error))
    }

    fn update(&self, verb: &str, file: &str) -> (bool, String) {
        self.program(&["/sbin/skerry-init", "update", verb, &format!("{FOLDER}/{file}")])
    }

    fn program(&self, words: &[&str]) -> (bool, String) {
        self.user.kubectl_words(&[&EXEC[..], &CHROOT[..], words].concat())
    }

    fn script(&self, script: &str) -> Answer<String> {
        let (ok, said) = self.user.kubectl_words(&[&EXEC[..], &["sh", "-c", script]].concat());
        if ok { Ok(said) } else { Err(format!("{script}: {said}")) }
    }
}

fn written(path: &Path, bytes: &[u8]) -> Answer<()> {
    fs::write(path, bytes).map_err(|error| format!("failed to write {}: {error}", path.display()))
}

//! One board's updates, through its boot loader: the DaemonSet's good bundle stays and its pod is Ready; one whose kernel
//! panics is left again, and the Node says why.
//!
//! Start at [`a_good_bundle_stays_and_a_bad_one_is_left`]: one machine, because each boot of an emulated one takes time.

use boot::inside::Inside;
use boot::updates::{FOLDER, archive_of, manifest, tree_and_key};
use boot::{Bench, board};
use bundle::{Digest, Secret};
use image::qemu::Way;
use settings::Settings;
use slots::{Cause, Name, Slot};

/// Hundredths of a second: what a small change may take of the emulated board's processors, whatever else they do meanwhile.
const BUSY_MAX: u64 = 60 * 100;

/// What the Node says of updates.
const CONDITION: &str = r#"jsonpath={.status.conditions[?(@.type=="skerry.dev/UpdateFailed")]['status','reason']}"#;
const ROLLOUT: [&str; 4] = ["-n", "kube-system", "rollout", "status"];
const DAEMON_SET: &str = "daemonset/skerry-update";

#[test]
fn a_good_bundle_stays_and_a_bad_one_is_left() {
    let (tree, key) = tree_and_key();
    let mut bench = Bench::with(&tree, &board(), "update-test", 16446, |board| board.name += "-updates");
    bench.boot(Way::Loader);
    bench.is_ready();
    bench.shut_down();
    let bundles = bench.bundles(key);
    // A key that the image does not know, and the board's settings do.
    let own = Secret::generate().expect("a key");
    let change = archive_of("etc/changed", b"a small change");
    let good = bundles.add_signed("good", bench.image(), &change, &own);
    bench.write_settings(&settings::file(&Settings {
        trusted_keys: vec![own.public().to_string()],
        ..Settings::default()
    }));
    bundles.add("panic", bench.image(), &archive_of("init", b"no program"));
    bundles.add_refused();
    bench.put(&bundles);
    bench.boot(Way::Loader);
    bench.is_ready();
    what_is_not_for_this_board_is_refused(&bench);
    a_good_one_is_confirmed(&mut bench, good);
    a_bad_one_is_left(&mut bench, "panic", "KernelPanic");
    bench.shut_down();
    let ledger = bench.ledger();
    assert_eq!((ledger.active, ledger.spare, ledger.cause), (Name::B, Slot::Empty, Cause::Panic));
}

fn what_is_not_for_this_board_is_refused(bench: &Bench) {
    let inside = entered(bench);
    let refused = |file: &str, why: &str| {
        let (ok, said) = inside.update(&["stage", &format!("{FOLDER}{file}")]);
        assert!(!ok && said.contains(why), "{file}: {said}");
    };
    refused("downgrade", "the bundle is a downgrade: its security epoch is 0, and this board has reached 1");
    refused("stranger", "the bundle is wrongly signed");
    assert!(status(&inside).contains("slot a\nconfirmed true"), "{}", status(&inside));
}

fn a_good_one_is_confirmed(bench: &mut Bench, digest: Digest) {
    let before = stage(bench, "good", digest);
    // Somebody before the board did not say that the pod inside may be evicted; the manifest does.
    bench.waits_for("a pod in the way", || node(bench, CONDITION) == "False DrainBlocked");
    roll_out(bench, "good");
    println!("and confirmed after {:.1?} in all", bench.hears("slot b is confirmed"));
    is_rolled_out(bench);
    let inside = entered(bench);
    // Its processors have counted from their start: kernel, root, pods and the proof that all of it is well.
    let (staged, started) = (seconds(before), seconds(inside.busy()));
    println!(
        "an emulated board was busy for {staged:.1} s until the change was staged, and for {started:.1} s from its start on"
    );
    let status = status(&inside);
    assert!(status.contains(&format!("slot b\nconfirmed true\nversion good\ndigest {digest}")), "{status}");
    assert!(!status.contains("wanted") && !status.contains("failed"), "{status}");
    bench.waits_for("a Node that says so", || node(bench, CONDITION) == "False Confirmed");
}

/// By hand, without the DaemonSet: whoever stands before the board can do that too. How long its processors were busy meanwhile.
fn stage(bench: &mut Bench, file: &str, digest: Digest) -> u64 {
    bench.begin_anew();
    let inside = entered(bench);
    let (board, service) = (inside.busy(), inside.update_service_busy());
    let (ok, said) = inside.update(&["stage", &format!("{FOLDER}{file}")]);
    assert!(ok && said.contains(&digest.to_string()), "{said}");
    let took = bench.waits_for("staged", || status(&inside).contains("state staged"));
    let (board, service) = (inside.busy() - board, inside.update_service_busy() - service);
    println!("{file} is staged after {took:.1?}, {:.1} s of it the update service's", seconds(service));
    assert!(board < BUSY_MAX, "an emulated board was busy for {:.1} s by a small change", seconds(board));
    board
}

fn seconds(hundredths: u64) -> f64 {
    hundredths as f64 / 100.0
}

fn a_bad_one_is_left(bench: &mut Bench, version: &str, reason: &str) {
    let good = bench.console().matches("healthy: ").count();
    bench.begin_anew();
    roll_out(bench, version);
    println!("back from {version} {:.1?} after it was asked for", bench.hears_times("healthy: ", good + 1));
    bench.is_ready();
    bench.waits_for("the cause on the Node", || node(bench, CONDITION) == format!("True {reason}"));
    bench.waits_for("an open Node", || node(bench, "jsonpath={.spec.unschedulable}").is_empty());
}

/// Applies the manifest with another bundle.
fn roll_out(bench: &Bench, bundle: &str) {
    let file = bench.files().disk.with_file_name("update.yaml");
    std::fs::write(&file, manifest(bundle)).expect("the manifest is written");
    bench.kubectl(&["apply", "-f", &file.display().to_string()]);
}

fn is_rolled_out(bench: &Bench) {
    bench.is_ready();
    bench.kubectl(&[&ROLLOUT[..], &[DAEMON_SET, "--timeout=100s"]].concat());
}

fn node(bench: &Bench, path: &str) -> String {
    let (_, said) = bench.user().kubectl_words(&["get", "nodes", "-o", &path.replace("={", "={.items[*]")]);
    said
}

/// What a pod was before the restart is said of it for a moment after it.
fn entered(bench: &Bench) -> Inside {
    let inside = Inside::enter(&bench.user());
    bench.waits_for("an answer from inside", || inside.update(&["status"]).0);
    inside
}

fn status(inside: &Inside) -> String {
    let (ok, said) = inside.update(&["status"]);
    assert!(ok, "{said}");
    said
}

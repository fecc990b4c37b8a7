//! One board's updates, through U-Boot: a good bundle stays, one whose kernel panics is left again and says why.
//!
//! Start at [`a_good_bundle_stays_and_a_bad_one_is_left`]: one machine, because each boot of an emulated one takes time.

use boot::Bench;
use boot::inside::Inside;
use boot::updates::{Bundles, FOLDER, archive_of, tree_and_key};
use bundle::Digest;
use image::qemu::Way;
use slots::{Cause, Name, Slot};

/// Hundredths of a second: what staging a small change may take of an emulated processor.
const BUSY_MAX: u64 = 60 * 100;

#[test]
fn a_good_bundle_stays_and_a_bad_one_is_left() {
    let (tree, key) = tree_and_key();
    let mut bench =
        Bench::with(&tree, "qemu-arm64", "update-test", 16446, |board| board.name = "qemu-arm64-updates".into());
    bench.boot(Way::Loader);
    bench.is_ready();
    bench.shut_down();
    let bundles = Bundles::of(&bench, &key);
    let good = bundles.same("good");
    let panic = bundles.with("panic", &archive_of("init", b"no program"));
    bundles.refused();
    drop(bundles);
    bench.boot(Way::Loader);
    bench.is_ready();
    what_is_not_for_this_board_is_refused(&bench);
    a_good_one_is_confirmed(&mut bench, good);
    a_bad_one_is_left(&mut bench, "panic", panic, Cause::Panic);
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
    let (inside, _) = stage(bench, "good", digest);
    activate(bench, &inside, digest);
    println!("a good bundle is confirmed {:.1?} after its switch", bench.hears("slot b is confirmed"));
    bench.is_ready();
    let status = status(&entered(bench));
    assert!(status.contains(&format!("slot b\nconfirmed true\nversion good\ndigest {digest}")), "{status}");
    assert!(!status.contains("wanted") && !status.contains("failed"), "{status}");
}

fn a_bad_one_is_left(bench: &mut Bench, version: &str, digest: Digest, cause: Cause) {
    let (inside, busy) = stage(bench, version, digest);
    assert!(busy < BUSY_MAX, "{busy} hundredths of a second are too much for a small change");
    let good = bench.console().matches("healthy: ").count();
    activate(bench, &inside, digest);
    let back = bench.hears_times("healthy: ", good + 1);
    println!("back from {version} {back:.1?} after its switch");
    bench.is_ready();
    let status = status(&entered(bench));
    assert!(status.contains("slot b\nconfirmed true\nversion good"), "{status}");
    assert!(
        status.contains(&format!("failed {digest} {version}\ncause {}: {}", cause.word(), cause.told())),
        "{status}"
    );
}

fn stage(bench: &mut Bench, file: &str, digest: Digest) -> (Inside, u64) {
    bench.begin_anew();
    let inside = entered(bench);
    let before = inside.update_service_busy();
    let (ok, said) = inside.update(&["stage", &format!("{FOLDER}{file}")]);
    assert!(ok && said.contains(&digest.to_string()), "{said}");
    let took = bench.waits_for("staged", || {
        let status = status(&inside);
        assert!(!status.contains(&format!("failed {digest}")), "{status}");
        status.contains("state staged")
    });
    let busy = inside.update_service_busy() - before;
    println!("{file} is staged after {took:.1?}, {}.{:02} s of an emulated processor", busy / 100, busy % 100);
    (inside, busy)
}

/// What a pod was before the restart is said of it for a moment after it.
fn entered(bench: &Bench) -> Inside {
    let inside = Inside::enter(&bench.user());
    bench.waits_for("an answer from inside", || inside.update(&["status"]).0);
    inside
}

fn activate(bench: &mut Bench, inside: &Inside, digest: Digest) {
    let trials = bench.console().matches("on trial").count();
    bench.begin_anew();
    let (_, said) = inside.update(&["activate", &digest.to_string()]);
    assert!(!said.contains("skerry-init:"), "{said}");
    bench.hears_times("on trial", trials + 1);
}

fn status(inside: &Inside) -> String {
    let (ok, said) = inside.update(&["status"]);
    assert!(ok, "{said}");
    said
}

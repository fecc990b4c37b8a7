//! The figures that are measured on the booted image, with the patience that a test has not.
//!
//! Start at [`measure`].

use std::thread::sleep;
use std::time::Duration;

use image::Tree;
use image::qemu::Way;
use image::shell::{run, tool};

use crate::Bench;
use crate::inside::Inside;

/// What happens after a boot has happened by then.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// So long the collectors are watched.
const COLLECTS: Duration = Duration::from_secs(180);
const MIB: f64 = 1_048_576.0;

/// Measures and prints: `boots` second boots beside as many of the bare kernel, then `idle` without anything to do.
pub fn measure(boots: usize, idle: Duration) {
    let mut bench = Bench::new("qemu-arm64", "figures", 16449);
    bench.boot(Way::Loader);
    println!("first boot, by U-Boot, data partition grown, keys made: Ready after {:.1?}", bench.is_ready());
    let user = bench.user();
    user.must("create deployment five --replicas=5 --image=busybox:1.28 -- sleep 1000000");
    user.rolled_out("deployment/five", 60);
    bench.shut_down();
    second_boots(&mut bench, boots);
    user.rolled_out("deployment/five", 60);
    idleness(&bench, idle);
    user.must("scale deployment five --replicas=10");
    user.rolled_out("deployment/five", 60);
    collecting(&bench);
    bench.shut_down();
    image_size(&bench);
}

/// Leaves the machine running after the last one.
fn second_boots(bench: &mut Bench, boots: usize) {
    let (mut bare, mut ready) = (Vec::new(), Vec::new());
    for boot in 0..boots {
        if boot > 0 {
            bench.shut_down();
        }
        bare.push(bench.bare_kernel());
        bench.boot(Way::Direct);
        ready.push(bench.is_ready());
        println!("boot {}: bare kernel {:.1?}, Ready {:.1?}", boot + 1, bare[boot], ready[boot]);
    }
    let (bare, ready) = (median(bare), median(ready));
    let times = ready.as_secs_f64() / bare.as_secs_f64();
    println!(
        "median of {boots}: Ready after {ready:.1?}, {times:.2} times the bare kernel's {bare:.1?}; the promise is 4"
    );
}

fn idleness(bench: &Bench, idle: Duration) {
    let inside = Inside::enter(&bench.user());
    sleep(SETTLES_WITHIN);
    println!("memory, idle with five pods and the one that looks:\n{}", inside.memory().against(64));
    let (syncs, written) = does_nothing(&inside, idle);
    println!("promised: fewer than 60 fsyncs and 1 MiB in 600s, and there were {syncs} and {written:.2} in {idle:?}");
    println!("memory after it:\n{}", inside.memory().against(64));
    inside.leave();
}

/// The server's board with ten pods and both collectors.
fn collecting(bench: &Bench) {
    let user = bench.user();
    let manifests = Tree::ours().top.join("cluster/telemetry/manifests");
    for kind in ["logs", "metrics"] {
        user.must(&format!("apply -f {}", manifests.join(format!("{kind}.yaml")).display()));
        user.in_namespace("kube-system").rolled_out(&format!("daemonset/skerry-{kind}"), 120);
    }
    let inside = Inside::enter(&user);
    sleep(SETTLES_WITHIN);
    let (syncs, written) = does_nothing(&inside, COLLECTS);
    let minutes = COLLECTS.as_secs_f64() / 60.0;
    println!(
        "with ten pods and both collectors: promised 10 fsyncs and 0.1 MiB a minute, and there were {:.1} and {:.2}",
        syncs as f64 / minutes,
        written / minutes
    );
    println!("memory:\n{}", inside.memory().against(160));
    inside.leave();
}

/// The fsyncs meanwhile, and the MiB written.
pub(crate) fn does_nothing(inside: &Inside, time: Duration) -> (u64, f64) {
    inside.count_syncs();
    let (written, busy) = (inside.bytes_written(), inside.busy());
    sleep(time);
    let (written, busy, syncs) = (inside.bytes_written() - written, inside.busy() - busy, inside.syncs());
    let part = busy as f64 / 100.0 / time.as_secs_f64();
    println!("busy meanwhile: {:.1} % of one emulated processor, pods, kernel and our looking included", part * 100.0);
    (syncs, written as f64 / MIB)
}

/// Takes minutes; the image that has no test images is left in the build folder.
fn image_size(bench: &Bench) {
    let bare = bench.image_without_images();
    let packed = Tree::ours().build.join("image-size.zst");
    run(tool("zstd").args(["-19", "-T0", "-q", "-f"]).arg(&bare.disk).arg("-o").arg(&packed)).expect("zstd packs it");
    let bytes = std::fs::metadata(&packed).expect("it is there").len();
    println!("the image without preloaded images, zstd -19: {:.1} MiB; the promise is 80", bytes as f64 / MIB);
    let _ = std::fs::remove_file(&packed);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median([5, 1, 3].map(Duration::from_secs).into()), Duration::from_secs(3));
    }
}

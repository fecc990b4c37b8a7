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

/// What was measured, beside what was promised.
#[derive(Debug, Default)]
struct Promises {
    broken: Vec<String>,
}

impl Promises {
    /// Prints both; `promised` is the most that may be.
    fn compare(&mut self, what: &str, measured: f64, promised: f64, unit: &str) {
        let told = format!("{what}: {measured:.2}{unit}; the promise is {promised}");
        println!("{told}");
        if measured > promised {
            self.broken.push(told);
        }
    }
}

/// Measures and prints: `boots` second boots beside as many of the bare kernel, then `idle` without anything to do. Answers
/// what is more than was promised.
pub fn measure(boots: usize, idle: Duration) -> Vec<String> {
    let (mut bench, mut promises) = (Bench::new("qemu-arm64", "figures", 16449), Promises::default());
    bench.boot(Way::Loader);
    println!("first boot, by U-Boot, data partition grown, keys made: Ready after {:.1?}", bench.is_ready());
    let user = bench.user();
    user.must("create deployment five --replicas=5 --image=busybox:1.28 -- sleep 1000000");
    user.rolled_out("deployment/five", 60);
    bench.shut_down();
    second_boots(&mut bench, boots, &mut promises);
    user.rolled_out("deployment/five", 60);
    idleness(&bench, idle, &mut promises);
    user.must("scale deployment five --replicas=10");
    user.rolled_out("deployment/five", 60);
    collecting(&bench, &mut promises);
    bench.shut_down();
    image_size(&bench, &mut promises);
    promises.broken
}

/// Leaves the machine running after the last one.
fn second_boots(bench: &mut Bench, boots: usize, promises: &mut Promises) {
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
    println!("median of {boots}: Ready after {ready:.1?}, the bare kernel {bare:.1?}");
    promises.compare("second boot", ready.as_secs_f64() / bare.as_secs_f64(), 4.0, " times the bare kernel's");
}

fn idleness(bench: &Bench, idle: Duration, promises: &mut Promises) {
    let inside = Inside::enter(&bench.user());
    sleep(SETTLES_WITHIN);
    let holds = |when: &str, promises: &mut Promises| {
        let memory = inside.memory();
        print!("memory, with five pods and the one that looks, {when}:\n{memory}");
        promises.compare(&format!("our memory, {when}"), memory.ours(), 64.0, " MiB");
    };
    holds("idle for a minute", promises);
    let (syncs, written) = does_nothing(&inside, idle);
    let tens = idle.as_secs_f64() / 600.0;
    promises.compare("fsyncs in ten idle minutes", syncs as f64 / tens, 60.0, "");
    promises.compare("written in ten idle minutes", written / tens, 1.0, " MiB");
    holds("after it", promises);
    inside.leave();
}

/// The server's board with ten pods and both collectors.
fn collecting(bench: &Bench, promises: &mut Promises) {
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
    println!("with ten pods and both collectors:");
    promises.compare("fsyncs a minute", syncs as f64 / minutes, 10.0, "");
    promises.compare("written a minute", written * 1024.0 / minutes, 100.0, " KiB");
    let memory = inside.memory();
    print!("{memory}");
    let board_mib = bench.board.qemu.as_ref().expect("QEMU plays it").memory_mib;
    promises.compare(
        &format!("memory of the whole board of {board_mib} MiB"),
        memory.of_board(board_mib),
        160.0,
        " MiB",
    );
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
fn image_size(bench: &Bench, promises: &mut Promises) {
    let bare = bench.image_without_images();
    let packed = Tree::ours().build.join("image-size.zst");
    run(tool("zstd").args(["-19", "-T0", "-q", "-f"]).arg(&bare.disk).arg("-o").arg(&packed)).expect("zstd packs it");
    let bytes = std::fs::metadata(&packed).expect("it is there").len();
    promises.compare("the image without preloaded images, zstd -19", bytes as f64 / MIB, 80.0, " MiB");
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

    #[test]
    fn what_is_more_than_was_promised_is_told() {
        let mut promises = Promises::default();
        promises.compare("boots", 4.0, 4.0, " times");
        promises.compare("memory", 161.5, 160.0, " MiB");
        assert_eq!(promises.broken, ["memory: 161.50 MiB; the promise is 160"]);
    }
}

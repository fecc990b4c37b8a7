//! Images where there is no internet: nodes get them from those that have them.
//!
//! Needs root (network namespaces) and, the first time, Debian's archive for the test images.

mod made;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use conformance::{Machine, Site};
use image::preload;
use image::root::Root;

fn everywhere(policy: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: everywhere}}
spec:
  selector: {{matchLabels: {{app: everywhere}}}}
  template:
    metadata: {{labels: {{app: everywhere}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: busybox:1.28
        imagePullPolicy: {policy}
        command: [sleep, '100000']
"
    )
}

/// A server that has the images, and agents that have none.
fn site(agents: usize) -> Site {
    let mut site = Site::start(&made::skerry(), Some(&made::test_images()), 0);
    site.forget_images();
    for _ in 0..agents {
        site.add_agent(&["--token", conformance::TOKEN]).run();
    }
    site.wait_for_ready(agents + 1);
    site
}

/// The test images as they lie in a board's firmware, below `folder`: what `image build --preload` puts into the root.
fn firmware_images(folder: &Path) -> PathBuf {
    let images = preload::read(&made::test_images(), images::Architecture::here().name());
    let mut root = Root::default();
    root.add_images(images.expect("the archive is read")).expect("its layers are read");
    let archive = folder.join("root.tar");
    root.tar(File::create(&archive).expect("a file")).expect("packed");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--xattrs", "--xattrs-include=*", "--file"]).arg(&archive).arg("--directory").arg(folder);
    assert!(tar.status().expect("tar starts").success(), "the archive is unpacked");
    std::fs::remove_file(&archive).expect("removed");
    folder.join(preload::FOLDER)
}

fn create(site: &Site, text: &str) {
    let file = site.server.data.join("everywhere.yaml");
    std::fs::write(&file, text).expect("written");
    site.must(&format!("create -f {}", file.display()));
}

/// What was told of the pods of a node.
fn told(site: &Site, machine: &Machine) -> String {
    site.must(&format!(
        "get events -o jsonpath={{.items[?(@.source.host=='{}')].message}} --field-selector involvedObject.kind=Pod",
        machine.name
    ))
}

/// The largest file of the image's layers on a machine's disk.
fn large_file(machine: &Machine) -> PathBuf {
    let mut folders = vec![machine.data.join("images/layers")];
    let mut largest = (0, PathBuf::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("listed").flatten() {
            let found = entry.metadata().expect("there");
            if found.is_dir() {
                folders.push(entry.path());
            } else if found.is_file() && entry.path().ends_with("busybox") {
                largest = largest.max((found.len(), entry.path()));
            }
        }
    }
    largest.1
}

#[test]
fn an_image_on_one_machine_runs_on_all() {
    let site = site(2);
    create(&site, &everywhere("Always"));
    site.rolled_out("daemonset/everywhere", 60);
    let server = told(&site, &site.server);
    assert!(server.contains("\"busybox:1.28\" was put on this machine beforehand"), "{server}");
    for agent in &site.agents {
        let told = told(&site, agent);
        assert!(told.contains("Successfully pulled image \"busybox:1.28\" from peer "), "{told}");
    }
}

#[test]
fn an_image_of_one_boards_firmware_runs_on_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let firmware = firmware_images(folder.path());
    let mut site = Site::start(&made::skerry(), None, 0);
    let preloaded = ["--token", conformance::TOKEN, "--preloaded", &firmware.to_string_lossy()];
    for words in [&preloaded[..], &preloaded[..2]] {
        site.add_agent(words).run();
    }
    site.wait_for_ready(3);
    create(&site, &everywhere("Always"));
    site.rolled_out("daemonset/everywhere", 60);
    let layers = |machine: &Machine| std::fs::read_dir(machine.data.join("images/layers")).expect("listed").count();
    let [holder, other] = &site.agents[..] else { panic!("two agents") };
    let here = told(&site, holder);
    assert!(here.contains("\"busybox:1.28\" was put on this machine beforehand"), "{here}");
    assert_eq!(layers(holder), 0, "it is used where it lies");
    for machine in [other, &site.server] {
        let told = told(&site, machine);
        assert!(told.contains("Successfully pulled image \"busybox:1.28\" from peer "), "{told}");
        assert!(layers(machine) > 0);
    }
}

#[test]
fn a_layer_that_was_changed_is_refused_and_the_peer_named() {
    let site = site(1);
    let file = File::options().read(true).write(true).open(large_file(&site.server)).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4000).expect("read");
    file.write_all_at(&[byte[0] ^ 1], 4000).expect("written");
    create(&site, &everywhere("IfNotPresent"));
    site.wait_until("it is refused", |site| {
        told(site, &site.agents[0]).contains("peer server: a layer's content is sha256:")
    });
    assert_eq!(std::fs::read_dir(site.agents[0].data.join("images/layers")).expect("listed").count(), 0);
}

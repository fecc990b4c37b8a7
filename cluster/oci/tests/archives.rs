//! Archives as the world writes them, and what is wrong with some.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base::chain;
use oci::{Digest, OciError, Platform, Store};

/// A tar of these files.
fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &content[..]).expect("written");
    }
    builder.into_inner().expect("finished")
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, bytes).expect("written");
    encoder.finish().expect("finished")
}

/// An OCI layout with one image for each of `(name, architecture)`.
fn layout(images: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut entries = Vec::new();
    let mut put = |bytes: Vec<u8>| {
        let digest = Digest::of(&bytes);
        files.insert(format!("blobs/sha256/{}", digest.hex()), bytes);
        digest
    };
    for (name, architecture) in images {
        let layer = tar(&[("hello".to_owned(), name.as_bytes().to_vec())]);
        let diff_id = Digest::of(&layer);
        let blob = put(packed(&layer));
        let config = put(
            format!(r#"{{"architecture":"{architecture}","os":"linux","config":{{"User":"7"}},"rootfs":{{"diff_ids":["{diff_id}"]}}}}"#)
                .into_bytes(),
        );
        let manifest =
            put(format!(r#"{{"schemaVersion":2,"config":{{"digest":"{config}"}},"layers":[{{"digest":"{blob}"}}]}}"#)
                .into_bytes());
        entries.push(format!(
            r#"{{"digest":"{manifest}","platform":{{"os":"linux","architecture":"{architecture}"}},"annotations":{{"io.containerd.image.name":"{name}"}}}}"#
        ));
    }
    files.insert(
        "index.json".to_owned(),
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes(),
    );
    files.into_iter().collect()
}

struct Machine {
    folder: tempfile::TempDir,
    store: Store,
}

fn machine() -> Machine {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&folder.path().join("images"), &[]).expect("a store");
    Machine { folder, store }
}

impl Machine {
    fn import(&self, bytes: &[u8]) -> Result<Vec<String>, OciError> {
        let path = self.folder.path().join("images.tar");
        fs::write(&path, bytes).expect("written");
        let mut names: Vec<String> = self.store.import(&path, &[])?.into_iter().flat_map(|image| image.names).collect();
        names.sort();
        Ok(names)
    }
}

fn here() -> String {
    Platform::here().architecture
}

#[test]
fn a_layout_is_read_plain_and_packed() {
    let files = layout(&[("busybox:1", &here()), ("registry.k8s.io/pause:3", &here())]);
    let expected = ["docker.io/library/busybox:1", "registry.k8s.io/pause:3"];
    assert_eq!(machine().import(&tar(&files)).expect("read"), expected);
    let machine = machine();
    assert_eq!(machine.import(&packed(&tar(&files))).expect("read"), expected);
    let image = machine.store.find("busybox:1").expect("there");
    assert_eq!(fs::read_to_string(image.layers[0].join("hello")).expect("unpacked"), "busybox:1");
    assert_eq!(image.config.config.user, "7");
    assert!(image.digests[0].starts_with("docker.io/library/busybox@sha256:"));
}

#[test]
fn of_several_machines_images_those_for_here_count() {
    let both = layout(&[("a:1", &here()), ("a:1", "s390x"), ("b:1", "s390x")]);
    assert_eq!(machine().import(&tar(&both)).expect("read"), ["docker.io/library/a:1"]);
    let error = machine().import(&tar(&layout(&[("b:1", "s390x")]))).expect_err("nothing for here");
    let expected = format!("image docker.io/library/b:1 has nothing for {}: it is for linux/s390x", Platform::here());
    assert_eq!(chain(&error).to_string(), expected);
}

#[track_caller]
fn check_refused(bytes: &[u8], expected: &str) {
    let machine = machine();
    let error = machine.import(bytes).expect_err("refused");
    assert!(chain(&error).to_string().contains(expected), "{}", chain(&error));
    assert!(machine.store.list().is_empty());
}

#[test]
fn what_is_wrong_is_told() {
    check_refused(b"no tar at all", "images.tar is malformed");
    check_refused(
        &tar(&[("readme".into(), vec![])]),
        "it has neither index.json (OCI) nor manifest.json (docker save)",
    );
    let mut files = layout(&[("a:1", &here())]);
    let removed =
        files.iter().position(|(name, bytes)| name.starts_with("blobs/") && bytes.starts_with(b"{")).expect("a blob");
    files.remove(removed);
    check_refused(&tar(&files), "it lacks blobs/sha256/");
    let mut files = layout(&[("a:1", &here())]);
    for (name, bytes) in &mut files {
        if name.starts_with("blobs/") && bytes.starts_with(b"{\"schema") {
            bytes.push(b' ');
        }
    }
    check_refused(&tar(&files), "as its digest says");
}

#[test]
fn archives_in_a_folder_are_added_once() {
    let machine = machine();
    let folder = machine.folder.path().join("preload");
    assert!(machine.store.preload(&folder).is_empty());
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("good.tar"), tar(&layout(&[("a:1", &here())]))).expect("written");
    fs::write(folder.join("bad.tar"), "x").expect("written");
    fs::write(folder.join("notes.txt"), "x").expect("written");
    let outcome = |answers: Vec<(std::path::PathBuf, Result<Vec<oci::Image>, OciError>)>| -> Vec<bool> {
        answers.into_iter().map(|(_, answer)| answer.is_ok()).collect()
    };
    assert_eq!(outcome(machine.store.preload(&folder)), [false, true]);
    assert_eq!(outcome(machine.store.preload(&folder)), [false], "the good one is done, the bad one is tried again");
    assert!(machine.store.find("a:1").is_some());
}

#[test]
fn the_firmwares_images_are_pinned_and_shared() {
    let (firmware, here_machine) = (machine(), machine());
    firmware.import(&tar(&layout(&[("a:1", &here())]))).expect("read");
    let folders = [firmware.store.folder().to_owned()];
    let store = Store::open(&here_machine.folder.path().join("own"), &folders).expect("a store");
    let image = store.find("a:1").expect("there");
    assert!(image.pinned && image.layers[0].starts_with(firmware.store.folder()));
    store.remove("a:1", &Default::default()).expect("nothing happens");
    assert!(store.find("a:1").is_some() && image.layers[0].exists());
    let own_layers = |path: &Path| fs::read_dir(path.join("layers")).expect("listed").count();
    assert_eq!(own_layers(store.folder()), 0);
}

#[test]
fn a_name_moves_to_the_newest_image() {
    let machine = machine();
    machine.import(&tar(&layout(&[("a:1", &here())]))).expect("read");
    let old = machine.store.find("a:1").expect("there");
    let text = tar(&layout(&[("b:1", &here())]));
    fs::write(machine.folder.path().join("b.tar"), text).expect("written");
    let names = ["a:1".parse().expect("a name")];
    machine.store.import(&machine.folder.path().join("b.tar"), &names).expect("read");
    let new = machine.store.find("a:1").expect("there");
    assert_ne!(old.id, new.id);
    let again = Store::open(machine.store.folder(), &[]).expect("opened again");
    assert_eq!(again.find("a:1").map(|image| image.id), Some(new.id));
    assert!(again.find(old.id.hex()).expect("still there").names.is_empty());
}

#[test]
fn layers_go_with_their_last_user() {
    let machine = machine();
    machine.import(&tar(&layout(&[("a:1", &here())]))).expect("read");
    let image = machine.store.find("a:1").expect("there");
    let in_use = [image.layers[0].clone()].into_iter().collect();
    machine.store.remove("a:1", &in_use).expect("removed");
    assert!(machine.store.find("a:1").is_none() && image.layers[0].exists(), "a container still has it");
    machine.store.sweep(&Default::default());
    assert!(!image.layers[0].exists());
}

/// Nobody listens there.
const OUT_OF_REACH: &str = "127.0.0.1:1/team/app:v1";

#[tokio::test]
async fn an_image_that_was_put_here_beforehand_needs_no_registry() {
    let machine = machine();
    let folder = machine.folder.path().join("preload");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("good.tar"), tar(&layout(&[(OUT_OF_REACH, &here())]))).expect("written");
    let added = machine.store.preload(&folder);
    let added = added[0].1.as_ref().expect("added");
    let puller = oci::Puller::new(Vec::new(), None);
    let name = OUT_OF_REACH.parse().expect("a name");
    let reopened = Store::open(machine.store.folder(), &[]).expect("a store");
    for store in [&machine.store, &reopened] {
        let pulled = puller.pull(store, &name, None).await.expect("what is here will do");
        assert_eq!((pulled.image.id, pulled.from), (added[0].id.clone(), oci::Origin::Here));
    }
}

#[tokio::test]
async fn any_other_image_is_not_taken_for_pulled() {
    let machine = machine();
    let archive = machine.folder.path().join("x.tar");
    fs::write(&archive, tar(&layout(&[(OUT_OF_REACH, &here())]))).expect("written");
    machine.store.import(&archive, &[]).expect("imported");
    let pulled =
        oci::Puller::new(Vec::new(), None).pull(&machine.store, &OUT_OF_REACH.parse().expect("a name"), None).await;
    assert!(matches!(pulled, Err(OciError::Network { .. })), "{pulled:?}");
}

//! A backup of what a board runs, and a blank board that is flashed with it.
//!
//! Start at [`Bench::back_up`]; what it gives back is for [`Bench::become_blank`].
//!
//! Not here: what a backup holds (`backup`), what a board makes of one on its card (`init`).

use std::fs;
use std::path::{Path, PathBuf};

use image::Tree;
use image::flash::{Said, brought};
use workloads::with_volume;

use crate::Bench;
use crate::updates::data_files;

const MANIFEST: &str = include_str!("../../../cluster/skerry/manifests/backup.yaml");
/// Where the manifest puts backups, seen from the data partition.
const FOLDER: &str = "/var/lib/skerry-backups";
/// A folder of the board that is in the backup too, as the manifest's comment says.
const VOLUME: &str = "/var/lib/kept";
const JOB_SECONDS: u32 = 60;

impl Bench {
    /// Makes a backup as the manifest's CronJob does, switches the machine off and takes the file off its disk.
    pub fn back_up(&mut self) -> PathBuf {
        let user = self.user();
        let manifest = self.files().disk.with_file_name("backup.yaml");
        fs::write(&manifest, with_volume(MANIFEST, VOLUME, VOLUME)).expect("it can be written");
        user.must(&format!("apply -f {}", manifest.display()));
        user.must("-n kube-system create job --from=cronjob/skerry-backup backup-now");
        user.must_become("--for=condition=Complete -n kube-system job/backup-now", JOB_SECONDS);
        let said = user.must("-n kube-system logs job/backup-now");
        assert!(said.contains("restored and compared"), "{said}");
        self.shut_down();
        let here = self.files().disk.with_file_name("backups");
        let _stale = fs::remove_dir_all(&here);
        fs::create_dir_all(&here).expect("a folder");
        data_files(&self.files().disk, &self.image, &[], &format!("rdump {FOLDER} {}", here.display()));
        let folder = here.join(Path::new(FOLDER).file_name().expect("it has a name"));
        let files = fs::read_dir(folder).expect("the folder was taken").flatten().map(|entry| entry.path());
        files.max().expect("a backup was made")
    }

    /// The volume of the backup came back, where it was; the machine is off.
    pub fn has_volume(&self) {
        data_files(&self.files().disk, &self.image, &[], &format!("stat {VOLUME}"));
    }

    /// From here on it is a blank board: its card is new, flashed as `image flash` does it.
    pub fn become_blank(&self, said: &Said) {
        assert!(self.machine.is_none(), "the machine is off");
        let brought = brought(said).expect("the settings are right");
        let put = image::fleet::put_new(&Tree::ours(), &self.board, &self.image, &self.files().disk, &brought);
        put.expect("the card can be flashed");
    }
}

//! A machine under test as its user and as its kernel see it: kubectl, and how long the bare kernel takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use image::build::Image;
use workloads::User;

use crate::{Bench, bare};

/// Emulation on two busy cores: a shell loop is twenty times slower than on the machine itself, waiting is not slower at all.
pub(crate) const SLOWNESS: u32 = 6;

impl Bench {
    /// Somebody with kubectl and the kubeconfig that the machine handed out.
    pub fn user(&self) -> User {
        User::new(&[], &self.kubeconfig, SLOWNESS)
    }

    /// The image of the same board and binaries without container images.
    pub fn image_without_images(&self) -> Image {
        let tree = image::Tree::ours();
        let given = std::env::var_os("SKERRY_BINARIES").map(PathBuf::from);
        let binaries = image::cross::build(&tree, &self.board, given.as_deref()).expect("the binaries are built");
        image::build::build(&tree, &self.board, &binaries, None).expect("the image builds")
    }

    /// Boots the kernel alone, on a machine like this one, while this one is off.
    pub fn bare_kernel(&self) -> Duration {
        assert!(self.machine.is_none(), "two machines would measure each other");
        let folder = self.files().disk.parent().unwrap_or(Path::new(".")).join("bare");
        let images = image::up::test_archive(&image::Tree::ours(), &self.board);
        bare::boot(&self.board, &self.image, &images, &folder)
    }
}

//! The image of this node's own program.
//!
//! Start at [`IMAGE`] and [`program`]. Pods that work on the node's behalf (backups, collectors) run the node's program with
//! another verb; an image of it in a registry, or one more copy in the firmware, would be eighteen megabytes that can be of
//! another version than the node.
//!
//! Not here: making the image (`oci`), when it is pulled (`kubelet`).

use std::path::{Path, PathBuf};

/// What it is called. It is made anew at each pull, and is the same image unless the program is another.
pub(crate) const IMAGE: &str = "skerry.dev/skerry:node";
/// The running program, also where its file was replaced meanwhile.
const RUNNING: &str = "/proc/self/exe";
/// Where programs look for the dynamic linker.
const LINKER_FOLDERS: [&str; 2] = ["/lib64", "/lib"];

/// What the image is made of: the program, and the shared libraries it has loaded. One that is linked statically, as on a board,
/// has none.
pub(crate) fn program() -> oci::Program {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let libraries = libraries(&maps);
    let linker = libraries.iter().find(|library| name(library).starts_with("ld-"));
    let link = |folder: &str, linker: &Path| (Path::new(folder).join(name(linker)), linker.to_owned());
    let links = linker.iter().flat_map(|linker| LINKER_FOLDERS.map(|folder| link(folder, linker))).collect();
    oci::Program { program: PathBuf::from(RUNNING), libraries, links }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into()
}

/// The shared libraries among the files that a process has mapped to run.
fn libraries(maps: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|mode| mode.contains('x')))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| name(path).contains(".so"))
        .collect();
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_is_mapped_to_run() {
        let maps = "\
            55d0-55d1 r-xp 00000000 fe:00 1 /usr/bin/skerry\n\
            7f00-7f01 r--p 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f01-7f02 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02-7f03 r-xp 00000000 fe:00 3 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n\
            7f03-7f04 r--p 00000000 fe:00 4 /usr/lib/locale/x.so\n\
            7ffe-7fff r-xp 00000000 00:00 0 [vdso]\n";
        let wanted = ["/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "/usr/lib/x86_64-linux-gnu/libc.so.6"];
        assert_eq!(libraries(maps), wanted.map(PathBuf::from));
        assert_eq!(libraries(""), Vec::<PathBuf>::new());
    }
}

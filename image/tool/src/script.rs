//! The boot script: what U-Boot does with the ledger and the slots.
//!
//! Start at [`boot_script`]. It reads the ledger's two sectors, takes the newer valid one, counts a trial down before it
//! boots it, returns to the active slot when the tries are used up, and boots the other slot when one cannot be read.
//!
//! Invariant: no trial is booted whose countdown does not stand on the disk, as read back; a disk that takes no writes would
//! be tried for ever.
//!
//! Not here: what the words in a sector mean (`slots`); the same for machines with UEFI, in Rust (`loader`).

use board::{Board, Compression};
use slots::store::PLACES;

use crate::layout::Layout;

/// A packed kernel is unpacked beside what it was read from, and moved to the beginning of memory. U-Boot's own addresses for
/// the Raspberry Pi leave it 38 MiB there, less than Debian's takes: device tree and initramfs lie further up.
const UNPACKED_ADDRESSES: &str = "\
setenv kernel_comp_addr_r 0x0a000000; setenv kernel_comp_size 0x05000000
setenv fdt_addr_r 0x0f000000; setenv ramdisk_addr_r 0x10000000
";

/// The script for a board, U-Boot's shell.
///
/// `place` is the board's disk as U-Boot calls it, such as `mmc 0`.
pub fn boot_script(board: &Board, place: &str, layout: &Layout) -> String {
    let (disk, number) = place.split_once(' ').unwrap_or((place, "0"));
    let [one, two] = PLACES;
    let start = |name: &str| layout.parts.iter().find(|part| part.name == name).map_or(0, |part| part.at);
    let prepare = if disk == "virtio" { "virtio scan".to_owned() } else { format!("{disk} dev {number}") };
    let devicetree = if board.devicetree.is_empty() {
        "setenv tree ${fdtcontroladdr}".to_owned()
    } else {
        format!(
            "setexpr from ${{start}} + 0x${{dtb_at}}; {disk} read ${{fdt_addr_r}} ${{from}} ${{dtb_n}} && setenv tree ${{fdt_addr_r}}"
        )
    };
    let addresses = match board.compression {
        Compression::None => "",
        Compression::Gzip => UNPACKED_ADDRESSES,
    };
    format!(
        "\
# Boots the slot that the ledger names. Numbers are hexadecimal.
{prepare}
{addresses}setenv mem ${{ramdisk_addr_r}}
setenv vars 'seq active trying tries spare cause'
setenv active a; setenv trying none; setenv tries 0; setenv seq 0; setenv spare empty; setenv cause none
setenv seq_one none; setenv seq_two none
if {disk} read ${{mem}} {one:x} 1; then if env import -c ${{mem}} 200 ${{vars}}; then setenv seq_one ${{seq}}; fi; fi
if {disk} read ${{mem}} {two:x} 1; then if env import -c ${{mem}} 200 ${{vars}}; then setenv seq_two ${{seq}}; fi; fi
setenv older {one:x}
if test \"${{seq_one}}\" != none; then
  setenv newer yes
  if test \"${{seq_two}}\" != none; then if itest 0x${{seq_two}} -gt 0x${{seq_one}}; then setenv newer no; fi; fi
  if test ${{newer}} = yes; then
    setenv older {two:x}
    {disk} read ${{mem}} {one:x} 1; env import -c ${{mem}} 200 ${{vars}}
  fi
fi
setenv slot ${{active}}
if test \"${{trying}}\" != none; then
  if test \"${{tries}}\" != 0; then
    setexpr tries ${{tries}} - 1
    setenv slot ${{trying}}
    setenv cause panic
  else
    echo skerry: slot ${{trying}} used up its tries, returning to ${{active}}
    setenv trying none
    if test ${{cause}} = none; then setenv cause tries; fi
  fi
  setexpr seq ${{seq}} + 1
  env export -c -s 200 ${{mem}} ${{vars}}
  setexpr back ${{mem}} + 1000
  if {disk} write ${{mem}} ${{older}} 1 && {disk} read ${{back}} ${{older}} 1 && cmp.b ${{mem}} ${{back}} 200; then
    if test ${{slot}} != ${{active}}; then echo skerry: slot ${{slot}} on trial, 0x${{tries}} tries left; fi
  else
    echo skerry: the ledger cannot be written, so nothing is tried and slot ${{active}} is booted
    setenv slot ${{active}}
  fi
fi
setenv other b
if test ${{slot}} = b; then setenv other a; fi
for slot in ${{slot}} ${{other}}; do
  setenv start {a:x}
  if test ${{slot}} = b; then setenv start {b:x}; fi
  if {disk} read ${{mem}} ${{start}} 1; then
    if env import -c ${{mem}} 200 {names}; then
      echo skerry: booting slot ${{slot}}
      setexpr from ${{start}} + 0x${{kernel_at}}; {disk} read ${{kernel_addr_r}} ${{from}} ${{kernel_n}}
      setexpr from ${{start}} + 0x${{initrd_at}}; {disk} read ${{ramdisk_addr_r}} ${{from}} ${{initrd_n}}
      {devicetree}
      setenv bootargs \"{command_line} skerry.slot=${{slot}}\"
      booti ${{kernel_addr_r}} ${{ramdisk_addr_r}}:${{initrd_bytes}} ${{tree}}
    fi
  fi
  echo skerry: slot ${{slot}} cannot be booted
done
reset
",
        a = start("slot a"),
        b = start("slot b"),
        names = slots::CONTENTS_NAMES.join(" "),
        command_line = board.command_line,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use board::Loader;

    use super::*;
    use crate::Tree;
    use crate::layout::{Artifacts, plan};

    /// What U-Boot's commands do, by a folder for the disk's sectors and one for memory, for a shell that reads the script
    /// as U-Boot's does. A sector is a file with one variable a line.
    const COMMANDS: &str = r#"
set -f
setenv() { local name=$1; shift; eval "$name=\$*"; }
setexpr() { local sum; sum=$(printf %x $((0x${2#0x} $3 0x${4#0x}))); eval "$1=$sum"; }
itest() { test $(($1)) "$2" $(($3)); }
virtio() {
  case $1 in
  read) cp "disk/$3" "memory/$2" 2>/dev/null ;;
  write)
    case $WRITES in
    fail) return 1 ;;
    lie) ;;
    *) cp "memory/$2" "disk/$3" ;;
    esac ;;
  esac
}
env() {
  case $1 in
  import) test -s "memory/$3" && . "memory/$3" ;;
  export) local to=$5 name; shift 5; for name in $*; do echo "$name=${!name}"; done >"memory/$to" ;;
  esac
}
cmp.b() { cmp -s "memory/$1" "memory/$2"; }
booti() { exit 0; }
reset() { exit 0; }
ramdisk_addr_r=40000000
"#;

    /// The script of a board that U-Boot boots.
    fn script(board: &str) -> Option<String> {
        let board = board::read(&Tree::ours().boards(), board).unwrap();
        let Loader::UBoot { disk, .. } = &board.loader else { return None };
        Some(boot_script(&board, disk, &plan(&board, &Artifacts::example()).unwrap()))
    }

    /// Boots with two ledgers (sequence number, active, trying, tries), while writing does this; what is said, and the
    /// ledgers afterwards. Slot b cannot be read where `holes` says so.
    #[track_caller]
    fn check(ledgers: [&str; 2], writes: &str, holes: &str, said: &str, after: [&str; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let (disk, memory) = (folder.path().join("disk"), folder.path().join("memory"));
        fs::create_dir(&disk).unwrap();
        fs::create_dir(memory).unwrap();
        let board = board::read(&Tree::ours().boards(), "qemu-arm64").unwrap();
        let layout = plan(&board, &Artifacts::example()).unwrap();
        let sector = |at: u64| disk.join(format!("{at:x}"));
        for (at, ledger) in PLACES.into_iter().zip(ledgers) {
            let words: Vec<&str> = ledger.split(' ').collect();
            let [seq, active, trying, tries] = words[..] else {
                fs::write(sector(at), "").unwrap();
                continue;
            };
            let text = format!("seq={seq}\nactive={active}\ntrying={trying}\ntries={tries}\nspare=x\ncause=none\n");
            fs::write(sector(at), text).unwrap();
        }
        let contents: String = slots::CONTENTS_NAMES.iter().map(|name| format!("{name}=1\n")).collect();
        for slot in ["a", "b"].iter().filter(|slot| !holes.contains(**slot)) {
            fs::write(sector(layout.part(&format!("slot {slot}")).at), &contents).unwrap();
        }
        let text = format!("{COMMANDS}{}", script("qemu-arm64").unwrap());
        let ran = Command::new("bash").arg("-c").arg(text).env("WRITES", writes).current_dir(folder.path()).output();
        let ran = ran.expect("bash is on every Debian");
        assert!(ran.status.success() && ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
        let heard = String::from_utf8(ran.stdout).unwrap();
        let heard: Vec<&str> = heard.lines().filter_map(|line| line.strip_prefix("skerry: ")).collect();
        assert_eq!(heard.join("; "), said);
        let kept = PLACES.map(|at| {
            let text = fs::read_to_string(sector(at)).unwrap();
            let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            let values: Vec<&str> = ["seq", "active", "trying", "tries"].into_iter().filter_map(value).collect();
            values.join(" ")
        });
        assert_eq!(kept.each_ref().map(String::as_str), after);
    }

    #[test]
    fn the_newer_ledger_says_what_boots() {
        check(["1 a none 0", "2 b none 0"], "", "", "booting slot b", ["1 a none 0", "2 b none 0"]);
        check(["a b none 0", "9 a none 0"], "", "", "booting slot b", ["a b none 0", "9 a none 0"]);
        check(["1 b none 0", ""], "", "", "booting slot b", ["1 b none 0", ""]);
        check(["", ""], "", "", "booting slot a", ["", ""]);
        check(["1 b none 0", ""], "", "b", "slot b cannot be booted; booting slot a", ["1 b none 0", ""]);
    }

    #[test]
    fn a_trial_is_counted_down_before_it_boots() {
        let said = "slot b on trial, 0x2 tries left; booting slot b";
        check(["1 a none 0", "2 a b 3"], "", "", said, ["3 a b 2", "2 a b 3"]);
        check(["2 a b 3", ""], "", "", said, ["2 a b 3", "3 a b 2"]);
        let said = "slot b used up its tries, returning to a; booting slot a";
        check(["1 a none 0", "2 a b 0"], "", "", said, ["3 a none 0", "2 a b 0"]);
    }

    #[test]
    fn a_trial_that_cannot_be_counted_is_not_booted() {
        let said = "the ledger cannot be written, so nothing is tried and slot a is booted; booting slot a";
        check(["1 a none 0", "2 a b 3"], "fail", "", said, ["1 a none 0", "2 a b 3"]);
        check(["1 a none 0", "2 a b 3"], "lie", "", said, ["1 a none 0", "2 a b 3"]);
        check(["2 a b 3", ""], "lie", "", said, ["2 a b 3", ""]);
        let said = format!("slot b used up its tries, returning to a; {said}");
        check(["1 a none 0", "2 a b 0"], "fail", "", &said, ["1 a none 0", "2 a b 0"]);
    }

    #[test]
    fn every_board_gets_a_script_without_holes() {
        let boards = Tree::ours().boards();
        for name in board::names(&boards) {
            let Some(script) = script(&name) else { continue };
            let words: Vec<&str> = script.split([' ', ';', '\n']).collect();
            let count = |word: &str| words.iter().filter(|each| **each == word).count();
            assert_eq!((count("if"), count("for")), (count("fi"), count("done")), "{script}");
            assert!(script.contains(&board::read(&boards, &name).unwrap().command_line));
        }
    }
}

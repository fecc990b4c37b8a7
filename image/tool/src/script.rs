//! The boot script: what U-Boot does with the ledger and the slots.
//!
//! Start at [`boot_script`]. It reads the ledger's two sectors, takes the newer valid one, counts a trial down before it
//! boots it, returns to the active slot when the tries are used up, and boots the other slot when one cannot be read.
//!
//! Not here: what the words in a sector mean (`slots`).

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
pub fn boot_script(board: &Board, layout: &Layout) -> String {
    let disk = board.loader_disk.split(' ').next().unwrap_or_default();
    let [one, two] = PLACES;
    let start = |name: &str| layout.parts.iter().find(|part| part.name == name).map_or(0, |part| part.at);
    let prepare =
        if disk == "virtio" { "virtio scan".to_owned() } else { format!("{disk} dev {}", device_number(board)) };
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
    echo skerry: slot ${{slot}} on trial, 0x${{tries}} tries left
  else
    echo skerry: slot ${{trying}} used up its tries, returning to ${{active}}
    setenv trying none
    if test ${{cause}} = none; then setenv cause tries; fi
  fi
  setexpr seq ${{seq}} + 1
  env export -c -s 200 ${{mem}} ${{vars}}
  {disk} write ${{mem}} ${{older}} 1
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

fn device_number(board: &Board) -> &str {
    board.loader_disk.split(' ').nth(1).unwrap_or("0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tree;
    use crate::layout::{Artifacts, plan};

    #[test]
    fn every_board_gets_a_script_without_holes() {
        let boards = Tree::ours().boards();
        for name in board::names(&boards) {
            let board = board::read(&boards, &name).unwrap();
            let layout = plan(&board, &Artifacts::example()).unwrap();
            let script = boot_script(&board, &layout);
            let words: Vec<&str> = script.split([' ', ';', '\n']).collect();
            let count = |word: &str| words.iter().filter(|each| **each == word).count();
            assert_eq!((count("if"), count("for")), (count("fi"), count("done")), "{script}");
            assert!(script.contains(&board.command_line));
        }
    }
}

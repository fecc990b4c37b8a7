#!/bin/sh
# Makes the disk image of a Skerry board from what Buildroot built; called by Buildroot with BINARIES_DIR, the
# board's name and that of its kernel's package.
#
# What was built is laid out as Debian's packages would be, which is what the assembler reads; it decides what lies where and
# writes the parts and a genimage.cfg, and genimage puts the disk together.
set -eu

binaries=$1
board=$2
kernel_package=$3
work=$BASE_DIR/skerry
from=$work/from

one() {
	if [ $# -ne 1 ] || [ ! -e "$1" ]; then
		echo "post-image: expected one $what, found: $*" >&2
		exit 1
	fi
	echo "$1"
}

put() {
	[ ! -e "$1" ] || install -D -m 0644 "$1" "$2"
}

what="kernel in lib/modules"
release=$(basename "$(one "$TARGET_DIR"/lib/modules/*)")
what="kernel configuration"
# Named by its version, or linux-custom where its source is not upstream's.
config=$(one "$BUILD_DIR"/linux-[0-9c]*/.config)

rm -rf "$work"
kernel=$from/$kernel_package
for image in Image bzImage; do
	put "$binaries/$image" "$kernel/boot/vmlinuz-$release"
done
put "$config" "$kernel/boot/config-$release"
mkdir -p "$kernel/lib/modules" "$kernel/usr/lib/linux-image-$release"
cp -a "$TARGET_DIR/lib/modules/$release" "$kernel/lib/modules/"
for tree in "$binaries"/*/*.dtb; do
	put "$tree" "$kernel/usr/lib/linux-image-$release/$(basename "$(dirname "$tree")")/$(basename "$tree")"
done
put "$binaries/u-boot.bin" "$from/u-boot-qemu/usr/lib/u-boot/qemu_arm64/u-boot.bin"
put "$binaries/u-boot.bin" "$from/u-boot-rpi/usr/lib/u-boot/rpi_arm64/u-boot.bin"
for file in "$binaries"/rpi-firmware/*; do
	put "$file" "$from/raspi-firmware/usr/lib/raspi-firmware/$(basename "$file")"
done
mkdir -p "$from/ca-certificates/usr/share/ca-certificates"
cp -a "$TARGET_DIR/usr/share/ca-certificates/mozilla" "$from/ca-certificates/usr/share/ca-certificates/"
install -D -m 0755 "$TARGET_DIR/bin/skerry" "$work/programs/skerry"
install -D -m 0755 "$TARGET_DIR/sbin/skerry-init" "$work/programs/skerry-init"
put "$binaries/skerry-loader.efi" "$work/programs/skerry-loader.efi"

"$HOST_DIR/bin/skerry-image" build --board "$board" --binaries "$work/programs" --from "$from" \
	--from-name "Buildroot" --build-folder "$work/build" --parts "$work/parts"

mkdir -p "$work/empty"
genimage --config "$work/parts/genimage.cfg" --inputpath "$work/parts" --outputpath "$binaries" \
	--rootpath "$work/empty" --tmppath "$work/genimage"
mv "$binaries/disk.img" "$binaries/skerry-$board.img"

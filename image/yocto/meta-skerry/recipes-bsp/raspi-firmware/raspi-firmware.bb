SUMMARY = "What the Raspberry Pi's processor starts before anything else"
HOMEPAGE = "https://github.com/raspberrypi/firmware"
LICENSE = "LicenseRef-Broadcom-RPi"
NO_GENERIC_LICENSE[Broadcom-RPi] = "boot/LICENCE.broadcom"
LIC_FILES_CHKSUM = "file://boot/LICENCE.broadcom;md5=c403841ff2837657b2ed8e5bb474ac8d"

FIRMWARE_COMMIT = "063bcab6c8a90efb0d19f69d88cbbc7ec79cab68"
PV = "0+${@d.getVar('FIRMWARE_COMMIT')[:12]}"
SRC_URI = "https://github.com/raspberrypi/firmware/archive/${FIRMWARE_COMMIT}/rpi-firmware-${FIRMWARE_COMMIT}.tar.gz"
SRC_URI[sha256sum] = "812cb64617d6ffbc76f9b8dce8237b31159a1216b31845faec1bb75b6b6b291f"
S = "${UNPACKDIR}/firmware-${FIRMWARE_COMMIT}"

inherit deploy nopackages
INHIBIT_DEFAULT_DEPS = "1"
COMPATIBLE_MACHINE = "^skerry-rpi"

do_configure[noexec] = "1"
do_compile[noexec] = "1"
do_install[noexec] = "1"

do_deploy() {
	install -d ${DEPLOYDIR}/raspi-firmware
	for file in bootcode.bin start_cd.elf fixup_cd.dat start4cd.elf fixup4cd.dat; do
		install -m 0644 ${S}/boot/$file ${DEPLOYDIR}/raspi-firmware/
	done
}
addtask deploy before do_build after do_unpack

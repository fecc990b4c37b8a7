SUMMARY = "The kernel of Skerry's boards"
DESCRIPTION = "Linux with its own defconfig and the options that Skerry needs"
LICENSE = "GPL-2.0-only"
LIC_FILES_CHKSUM = "file://COPYING;md5=6bc538ed5bd9a7fc9398086aedcd7e46"

# Which of the kernels it is, and which list of options is its own, is the machine's word.
SKERRY_KERNEL ?= "kernel"
SKERRY_ARCHITECTURE ?= "arm64"
require recipes-kernel/linux/linux-skerry-${SKERRY_KERNEL}.inc
inherit kernel

PV = "${LINUX_VERSION}"
FILESEXTRAPATHS:prepend := "${SKERRY_TREE}/image:"
SRC_URI = "${LINUX_SOURCE};name=kernel \
           file://kernel.config \
           file://kernel-${SKERRY_ARCHITECTURE}.config \
           "
S = "${UNPACKDIR}/linux-${LINUX_VERSION}"
DEPENDS += "openssl-native util-linux-native elfutils-native"
COMPATIBLE_MACHINE = "^skerry-"

# The defconfig of the architecture, and then what every kernel of ours must have; the assembler checks what came of it.
do_configure() {
	oe_runmake -C ${S} O=${B} defconfig
	${S}/scripts/kconfig/merge_config.sh -m -O ${B} ${B}/.config \
		${UNPACKDIR}/kernel.config ${UNPACKDIR}/kernel-${SKERRY_ARCHITECTURE}.config
	oe_runmake -C ${S} O=${B} olddefconfig
}

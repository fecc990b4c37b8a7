SUMMARY = "The parts of a Skerry board's disk"
DESCRIPTION = "Kernel, loader, firmware and programs, laid out as Debian's packages would be, made into the parts of a disk by Skerry's assembler"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://${SKERRY_TREE}/LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

inherit deploy nopackages

PACKAGE_ARCH = "${MACHINE_ARCH}"
COMPATIBLE_MACHINE = "^skerry-"
INHIBIT_DEFAULT_DEPS = "1"
DEPENDS = "skerry ca-certificates skerry-assembler-native cargo-native \
           dosfstools-native mtools-native e2fsprogs-native squashfs-tools-native u-boot-tools-native kmod-native"

S = "${UNPACKDIR}"
do_configure[noexec] = "1"
do_install[noexec] = "1"

FROM = "${WORKDIR}/from"

do_compile[depends] += "virtual/kernel:do_deploy virtual/kernel:do_shared_workdir ${SKERRY_LOADER}:do_deploy ${SKERRY_FIRMWARE}"
do_compile[cleandirs] = "${FROM} ${WORKDIR}/programs ${WORKDIR}/parts ${WORKDIR}/assembled"
do_compile() {
	release=$(cat ${STAGING_KERNEL_BUILDDIR}/kernel-abiversion)
	kernel=${FROM}/${SKERRY_KERNEL}
	install -D -m 0644 ${DEPLOY_DIR_IMAGE}/${KERNEL_IMAGETYPE} $kernel/boot/vmlinuz-$release
	install -D -m 0644 ${STAGING_KERNEL_BUILDDIR}/.config $kernel/boot/config-$release
	tar -xzf ${DEPLOY_DIR_IMAGE}/modules-${MACHINE}.tgz -C $kernel
	[ -d $kernel/lib ] || ln -s usr/lib $kernel/lib
	for tree in ${KERNEL_DEVICETREE}; do
		install -D -m 0644 ${DEPLOY_DIR_IMAGE}/$(basename $tree) $kernel/usr/lib/linux-image-$release/$tree
	done
	if [ -n "${SKERRY_U_BOOT}" ]; then
		install -D -m 0644 ${DEPLOY_DIR_IMAGE}/u-boot.bin ${FROM}/${SKERRY_U_BOOT}
	else
		install -D -m 0644 ${DEPLOY_DIR_IMAGE}/skerry-loader.efi ${WORKDIR}/programs/skerry-loader.efi
	fi
	if [ -d ${DEPLOY_DIR_IMAGE}/raspi-firmware ]; then
		install -d ${FROM}/raspi-firmware/usr/lib
		cp -r ${DEPLOY_DIR_IMAGE}/raspi-firmware ${FROM}/raspi-firmware/usr/lib/
	fi
	install -d ${FROM}/ca-certificates/usr/share/ca-certificates
	cp -r ${RECIPE_SYSROOT}${datadir}/ca-certificates/mozilla ${FROM}/ca-certificates/usr/share/ca-certificates/
	install -D -m 0755 ${RECIPE_SYSROOT}${bindir}/skerry ${WORKDIR}/programs/skerry
	install -D -m 0755 ${RECIPE_SYSROOT}${base_sbindir}/skerry-init ${WORKDIR}/programs/skerry-init
	skerry-image build --board ${SKERRY_BOARD} --binaries ${WORKDIR}/programs --from ${FROM} --from-name Yocto \
		--build-folder ${WORKDIR}/assembled --parts ${WORKDIR}/parts
}

do_deploy() {
	install -d ${DEPLOYDIR}/skerry-parts
	cp --sparse=always ${WORKDIR}/parts/* ${DEPLOYDIR}/skerry-parts/
}
addtask deploy after do_compile before do_build

SUMMARY = "A whole Kubernetes in one program, and its PID 1"

require skerry.inc

COMPATIBLE_HOST = "(aarch64|x86_64).*-linux.*"
# PID 1 runs in the initramfs, where there is no C library to load.
RUSTFLAGS:append = " -C target-feature=+crt-static"
CARGO_BUILD_FLAGS:append = " --package init --package skerry --bins"

do_install() {
	install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/skerry ${D}${bindir}/skerry
	install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/skerry-init ${D}${base_sbindir}/skerry-init
}

# The image takes both from the sysroot.
SYSROOT_DIRS += "${bindir} ${base_sbindir}"

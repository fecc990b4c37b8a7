SUMMARY = "Makes the disk images of Skerry's boards"

require skerry.inc
inherit native

CARGO_BUILD_FLAGS:append = " --package image --bins"

do_install() {
	install -D -m 0755 ${B}/target/${CARGO_TARGET_SUBDIR}/image ${D}${bindir}/skerry-image
}

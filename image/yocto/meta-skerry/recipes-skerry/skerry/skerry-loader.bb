SUMMARY = "Skerry's boot loader, which UEFI starts"

require skerry.inc
inherit deploy nopackages

PACKAGE_ARCH = "${MACHINE_ARCH}"
COMPATIBLE_MACHINE = "^skerry-"
COMPATIBLE_HOST = "(aarch64|x86_64).*-linux.*"

# Under UEFI there is no Linux: of Rust's library it needs what needs no system, which is made from the compiler's own source.
RUSTLIB_DEP = ""
DEPENDS += "lld-native"
RUST_LIBRARY = "${STAGING_LIBDIR_NATIVE}/rustlib/src/rust/library"
UEFI_TARGET = "${TARGET_ARCH}-unknown-uefi"

# No dates in the file: the same source gives the same bytes.
RUSTFLAGS = "${RUST_DEBUG_REMAP} -C linker=lld-link -C link-arg=/Brepro"
CARGO_BUILD_FLAGS = "-v --frozen --release --target ${UEFI_TARGET} --manifest-path=${CARGO_MANIFEST_PATH} \
                     -Z build-std=core,compiler_builtins -Z build-std-features=compiler-builtins-mem \
                     --package efi --bins"

# Cargo looks for the library's crates where it looks for ours.
do_configure:append() {
	cp -rf ${RUST_LIBRARY}/vendor/. ${CARGO_VENDORING_DIRECTORY}/
}

do_compile:prepend() {
	export RUSTC_BOOTSTRAP="1"
}

do_install[noexec] = "1"

do_deploy() {
	install -D -m 0644 ${B}/target/${UEFI_TARGET}/release/skerry-loader.efi ${DEPLOYDIR}/skerry-loader.efi
}
addtask deploy after do_compile before do_build

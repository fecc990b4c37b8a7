################################################################################
#
# skerry
#
################################################################################

# This tree is part of Skerry's own: what is built is the tree around it.
SKERRY_SITE = $(realpath $(BR2_EXTERNAL_SKERRY_PATH)/../..)
SKERRY_SITE_METHOD = local
SKERRY_VERSION = $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' $(SKERRY_SITE)/Cargo.toml | head -n 1)
SKERRY_LICENSE = Apache-2.0
SKERRY_LICENSE_FILES = LICENSE
SKERRY_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude /build --exclude /target
SKERRY_DEPENDENCIES = host-skerry
HOST_SKERRY_DEPENDENCIES = \
	host-dosfstools \
	host-e2fsprogs \
	host-kmod \
	host-mtools \
	host-squashfs \
	host-uboot-tools

SKERRY_PROGRAMS = $(@D)/target/$(RUSTC_TARGET_NAME)/$(if $(BR2_ENABLE_DEBUG),debug,release)

# A local site is not downloaded, so nobody has vendored its crates yet.
define SKERRY_VENDOR
	cd $(@D) && \
	flock $(BR_CARGO_HOME)/.br-lock \
	env $(HOST_MAKE_ENV) $(PKG_COMMON_CARGO_ENV) \
		cargo vendor --locked VENDOR >.cargo/vendor.toml
	cat $(@D)/.cargo/vendor.toml >>$(@D)/.cargo/config.toml
endef

define SKERRY_CARGO_HOME
	mkdir -p $(BR_CARGO_HOME)
endef
SKERRY_PRE_CONFIGURE_HOOKS += SKERRY_CARGO_HOME SKERRY_VENDOR
HOST_SKERRY_PRE_CONFIGURE_HOOKS += SKERRY_CARGO_HOME SKERRY_VENDOR

# PID 1 runs in the initramfs, where there is no C library to load.
SKERRY_CARGO_ENV = \
	CARGO_TARGET_$(call UPPERCASE,$(RUSTC_TARGET_NAME))_RUSTFLAGS="-C target-feature=+crt-static"
SKERRY_CARGO_BUILD_OPTS = --package init --package skerry --bins
HOST_SKERRY_CARGO_BUILD_OPTS = --package image --bins

define SKERRY_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(SKERRY_PROGRAMS)/skerry $(TARGET_DIR)/bin/skerry
	$(INSTALL) -D -m 0755 $(SKERRY_PROGRAMS)/skerry-init $(TARGET_DIR)/sbin/skerry-init
endef

# No dates in the file: the same source gives the same bytes.
ifeq ($(BR2_PACKAGE_SKERRY_LOADER),y)
SKERRY_DEPENDENCIES += host-rust-std-uefi
SKERRY_INSTALL_IMAGES = YES

define SKERRY_BUILD_LOADER
	cd $(@D) && \
	$(TARGET_MAKE_ENV) $(PKG_CARGO_ENV) \
		CARGO_TARGET_$(call UPPERCASE,$(RUST_STD_UEFI_TARGET))_RUSTFLAGS="-C link-arg=/Brepro" \
		cargo build --offline --release --locked \
			--target $(RUST_STD_UEFI_TARGET) --package efi --bins
endef
SKERRY_POST_BUILD_HOOKS += SKERRY_BUILD_LOADER

define SKERRY_INSTALL_IMAGES_CMDS
	$(INSTALL) -D -m 0644 $(@D)/target/$(RUST_STD_UEFI_TARGET)/release/skerry-loader.efi \
		$(BINARIES_DIR)/skerry-loader.efi
endef
endif

# The assembler reads boards and lists of the tree that it was built in.
define HOST_SKERRY_INSTALL_CMDS
	$(INSTALL) -D -m 0755 $(@D)/target/release/image $(HOST_DIR)/bin/skerry-image
endef

$(eval $(cargo-package))
$(eval $(host-cargo-package))

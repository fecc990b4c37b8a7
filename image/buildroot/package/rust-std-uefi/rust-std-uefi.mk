################################################################################
#
# rust-std-uefi
#
################################################################################

# The library of the compiler that Buildroot installs, for what UEFI starts.
RUST_STD_UEFI_VERSION = $(RUST_BIN_VERSION)
RUST_STD_UEFI_SITE = https://static.rust-lang.org/dist
RUST_STD_UEFI_TARGET = x86_64-unknown-uefi
RUST_STD_UEFI_SOURCE = rust-std-$(RUST_STD_UEFI_VERSION)-$(RUST_STD_UEFI_TARGET).tar.xz
RUST_STD_UEFI_LICENSE = Apache-2.0 or MIT
HOST_RUST_STD_UEFI_DEPENDENCIES = host-rustc

define HOST_RUST_STD_UEFI_INSTALL_CMDS
	mkdir -p $(HOST_DIR)/lib/rustlib
	cp -a $(@D)/rust-std-$(RUST_STD_UEFI_TARGET)/lib/rustlib/$(RUST_STD_UEFI_TARGET) \
		$(HOST_DIR)/lib/rustlib/
endef

$(eval $(host-generic-package))

//! One board file: everything may be left out, because a board may inherit it.
//!
//! Start at [`File::parse`]; [`File::over`] lays one file over another, [`File::whole`] sees that nothing is missing.

use std::ops::RangeInclusive;

use serde::Deserialize;

use crate::{
    Architecture, Board, Compression, Error, FirmwareFile, Loader as BootMethod, PackagedFile, Qemu, Watchdog, Wiring,
};

/// Firmware partitions hold at least U-Boot; slots an image; ext4 wants a journal.
const FIRMWARE_MIB: RangeInclusive<u64> = 8..=512;
const SLOT_MIB: RangeInclusive<u64> = 64..=4096;
const DATA_MIB: RangeInclusive<u64> = 64..=4096;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) inherits: Option<String>,
    /// Only there to be inherited from.
    pub(crate) base: bool,
    summary: Option<String>,
    architecture: Option<Architecture>,
    watchdog: Option<Watchdog>,
    kernel: Kernel,
    modules: Modules,
    loader: Loader,
    disk: Disk,
    qemu: Option<QemuFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kernel {
    package: Option<String>,
    compression: Option<Compression>,
    command_line: Option<String>,
    devicetree: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Modules {
    initramfs: Vec<String>,
    boot: Vec<String>,
    lazy: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Method {
    UBoot,
    Uefi,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Loader {
    method: Option<Method>,
    disk: Option<String>,
    u_boot: Option<FirmwareFile>,
    firmware: Vec<FirmwareFile>,
    config_txt: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Disk {
    firmware_mib: Option<u64>,
    slot_mib: Option<u64>,
    data_mib: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QemuFile {
    machine: Option<String>,
    wiring: Option<Wiring>,
    firmware: Option<PackagedFile>,
    cpu: Option<String>,
    cpus: Option<u32>,
    memory_mib: Option<u32>,
    disk_mib: Option<u64>,
    devices: Vec<String>,
}

impl File {
    pub(crate) fn parse(path: &str, text: &str) -> Result<File, Error> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().map_or("", |span| &text[..span.start.min(text.len())]);
            let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
            let why = error.message().lines().next().unwrap_or_default().to_owned();
            Error::Wrong { path: path.to_owned(), line, why }
        })
    }

    /// What this file says, and where it says nothing, what `below` says; lists are joined, `below`'s first.
    pub(crate) fn over(self, below: File) -> File {
        let join = |mut first: Vec<String>, second: Vec<String>| {
            first.extend(second);
            first
        };
        let mut firmware = below.loader.firmware;
        firmware.extend(self.loader.firmware);
        File {
            inherits: below.inherits,
            base: self.base,
            summary: self.summary.or(below.summary),
            architecture: self.architecture.or(below.architecture),
            watchdog: self.watchdog.or(below.watchdog),
            kernel: Kernel {
                package: self.kernel.package.or(below.kernel.package),
                compression: self.kernel.compression.or(below.kernel.compression),
                command_line: self.kernel.command_line.or(below.kernel.command_line),
                devicetree: self.kernel.devicetree.or(below.kernel.devicetree),
            },
            modules: Modules {
                initramfs: join(below.modules.initramfs, self.modules.initramfs),
                boot: join(below.modules.boot, self.modules.boot),
                lazy: join(below.modules.lazy, self.modules.lazy),
            },
            loader: Loader {
                method: self.loader.method.or(below.loader.method),
                disk: self.loader.disk.or(below.loader.disk),
                u_boot: self.loader.u_boot.or(below.loader.u_boot),
                firmware,
                config_txt: self.loader.config_txt.or(below.loader.config_txt),
            },
            disk: Disk {
                firmware_mib: self.disk.firmware_mib.or(below.disk.firmware_mib),
                slot_mib: self.disk.slot_mib.or(below.disk.slot_mib),
                data_mib: self.disk.data_mib.or(below.disk.data_mib),
            },
            qemu: match (self.qemu, below.qemu) {
                (Some(above), Some(below)) => Some(QemuFile {
                    machine: above.machine.or(below.machine),
                    wiring: above.wiring.or(below.wiring),
                    firmware: above.firmware.or(below.firmware),
                    cpu: above.cpu.or(below.cpu),
                    cpus: above.cpus.or(below.cpus),
                    memory_mib: above.memory_mib.or(below.memory_mib),
                    disk_mib: above.disk_mib.or(below.disk_mib),
                    devices: join(below.devices, above.devices),
                }),
                (above, below) => above.or(below),
            },
        }
    }

    pub(crate) fn whole(self, name: &str) -> Result<Board, Error> {
        let open = |field| Error::Open { name: name.to_owned(), field };
        let kernel_package = self.kernel.package.ok_or_else(|| open("kernel.package"))?;
        let wrong = |why: String| Error::Wrong { path: format!("{name}.toml"), line: 1, why };
        let loader = match self.loader.method.ok_or_else(|| open("loader.method"))? {
            Method::UBoot => BootMethod::UBoot {
                disk: self.loader.disk.ok_or_else(|| open("loader.disk"))?,
                binary: self.loader.u_boot.ok_or_else(|| open("loader.u_boot"))?,
            },
            Method::Uefi => {
                let lacks = |what: &str| Err(wrong(format!("{what} where UEFI starts the kernel")));
                if self.loader.disk.is_some() || self.loader.u_boot.is_some() {
                    return lacks("loader.disk and loader.u_boot are left out");
                }
                if self.kernel.compression == Some(Compression::Gzip) {
                    return lacks("kernel.compression is none");
                }
                if self.kernel.devicetree.is_some() {
                    return lacks("kernel.devicetree is left out");
                }
                BootMethod::Uefi
            }
        };
        let qemu = self.qemu.map(|qemu| {
            if loader == BootMethod::Uefi && qemu.firmware.is_none() {
                return Err(open("qemu.firmware"));
            }
            Ok(Qemu {
                wiring: qemu.wiring.ok_or_else(|| open("qemu.wiring"))?,
                firmware: qemu.firmware,
                machine: qemu.machine.ok_or_else(|| open("qemu.machine"))?,
                cpu: qemu.cpu.ok_or_else(|| open("qemu.cpu"))?,
                cpus: qemu.cpus.ok_or_else(|| open("qemu.cpus"))?,
                memory_mib: qemu.memory_mib.ok_or_else(|| open("qemu.memory_mib"))?,
                disk_mib: qemu.disk_mib.ok_or_else(|| open("qemu.disk_mib"))?,
                devices: qemu.devices,
            })
        });
        let mib = |field: &'static str, value: Option<u64>, range: RangeInclusive<u64>| {
            let value = value.ok_or_else(|| open(field))?;
            if range.contains(&value) {
                return Ok(value);
            }
            Err(wrong(format!("{field} is {value}, which is not between {} and {}", range.start(), range.end())))
        };
        Ok(Board {
            name: name.to_owned(),
            summary: self.summary.ok_or_else(|| open("summary"))?,
            architecture: self.architecture.ok_or_else(|| open("architecture"))?,
            kernel_package,
            compression: self.kernel.compression.ok_or_else(|| open("kernel.compression"))?,
            command_line: self.kernel.command_line.ok_or_else(|| open("kernel.command_line"))?,
            devicetree: self.kernel.devicetree.unwrap_or_default(),
            initramfs_modules: self.modules.initramfs,
            boot_modules: self.modules.boot,
            lazy_modules: self.modules.lazy,
            loader,
            firmware: self.loader.firmware,
            config_txt: self.loader.config_txt.unwrap_or_default(),
            firmware_mib: mib("disk.firmware_mib", self.disk.firmware_mib, FIRMWARE_MIB)?,
            slot_mib: mib("disk.slot_mib", self.disk.slot_mib, SLOT_MIB)?,
            data_mib: mib("disk.data_mib", self.disk.data_mib, DATA_MIB)?,
            watchdog: self.watchdog.ok_or_else(|| open("watchdog"))?,
            qemu: qemu.transpose()?,
        })
    }
}

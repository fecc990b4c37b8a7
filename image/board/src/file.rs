//! One board file: everything may be left out, because a board may inherit it.
//!
//! Start at [`Sources::parse`]; [`File::over`] lays one file over another, [`File::whole`] sees that nothing is missing.
//!
//! Invariant: what can be refused after its file was read keeps its span, which [`Sources`] turn into file and line.

use std::ops::RangeInclusive;

use serde::Deserialize;
use toml::Spanned;

use crate::{
    Architecture, Board, Compression, Error, FirmwareFile, Loader as BootMethod, PackagedFile, Qemu, Watchdog, Wiring,
};

/// Firmware partitions hold at least U-Boot; slots an image; ext4 wants a journal.
const FIRMWARE_MIB: RangeInclusive<u64> = 8..=512;
const SLOT_MIB: RangeInclusive<u64> = 64..=4096;
const DATA_MIB: RangeInclusive<u64> = 64..=4096;

/// The files that a board is read from, its own first. Spans count through all of them as if they were one text.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    text: String,
    /// Where each begins, and its path.
    files: Vec<(usize, String)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct File {
    pub(crate) inherits: Option<Spanned<String>>,
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
    package: Option<Spanned<String>>,
    compression: Option<Spanned<Compression>>,
    command_line: Option<String>,
    devicetree: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Modules {
    initramfs: Vec<Spanned<String>>,
    boot: Vec<Spanned<String>>,
    lazy: Vec<Spanned<String>>,
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
    method: Option<Spanned<Method>>,
    disk: Option<Spanned<String>>,
    u_boot: Option<Spanned<FirmwareFile>>,
    firmware: Vec<Spanned<FirmwareFile>>,
    config_txt: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Disk {
    firmware_mib: Option<Spanned<u64>>,
    slot_mib: Option<Spanned<u64>>,
    data_mib: Option<Spanned<u64>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct QemuFile {
    machine: Option<String>,
    wiring: Option<Wiring>,
    firmware: Option<Spanned<PackagedFile>>,
    cpu: Option<String>,
    cpus: Option<u32>,
    memory_mib: Option<u32>,
    disk_mib: Option<u64>,
    devices: Vec<String>,
}

impl Sources {
    /// Understands one more file.
    pub(crate) fn parse(&mut self, path: &str, text: &str) -> Result<File, Error> {
        let begin = self.text.len();
        self.files.push((begin, path.to_owned()));
        self.text.push_str(text);
        // Blanks are nothing to TOML, and move all spans behind those of the files before.
        toml::from_str(&(" ".repeat(begin) + text)).map_err(|error| {
            let why = error.message().lines().next().unwrap_or_default();
            self.wrong(error.span().map_or(begin, |span| span.start), why)
        })
    }

    /// What is wrong with what was said at `at`.
    pub(crate) fn wrong(&self, at: usize, why: impl ToString) -> Error {
        let (path, line) = self.place(at);
        Error::Wrong { path: path.to_owned(), line, why: why.to_string() }
    }

    /// The file and the line in it, from 1.
    pub(crate) fn place(&self, at: usize) -> (&str, usize) {
        let (begin, path) = match self.files.iter().rfind(|(begin, _)| *begin <= at) {
            Some((begin, path)) => (*begin, path.as_str()),
            None => (0, ""),
        };
        let before = self.text.as_bytes().get(begin..at).unwrap_or_default();
        (path, 1 + before.iter().filter(|byte| **byte == b'\n').count())
    }
}

impl File {
    /// Every module and package that is named, and where.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        let Modules { initramfs, boot, lazy } = &self.modules;
        let plain = self.kernel.package.iter().chain(initramfs).chain(boot).chain(lazy);
        let files = self.loader.u_boot.iter().chain(&self.loader.firmware);
        let played = self.qemu.iter().filter_map(|qemu| qemu.firmware.as_ref());
        plain
            .map(|name| (name.get_ref().as_str(), name.span().start))
            .chain(files.map(|file| (file.get_ref().package.as_str(), file.span().start)))
            .chain(played.map(|file| (file.get_ref().package.as_str(), file.span().start)))
    }

    /// What this file says, and where it says nothing, what `below` says; lists are joined, `below`'s first.
    pub(crate) fn over(self, below: File) -> File {
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
                firmware: join(below.loader.firmware, self.loader.firmware),
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

    /// The board, which `sources` said.
    pub(crate) fn whole(self, name: &str, sources: &Sources) -> Result<Board, Error> {
        let open = |field| Error::Open { name: name.to_owned(), field };
        let kernel_package = self.kernel.package.as_ref().ok_or_else(|| open("kernel.package"))?.get_ref().clone();
        self.goes_together(sources)?;
        let loader = match self.loader.method.ok_or_else(|| open("loader.method"))?.into_inner() {
            Method::UBoot => BootMethod::UBoot {
                disk: self.loader.disk.ok_or_else(|| open("loader.disk"))?.into_inner(),
                binary: self.loader.u_boot.ok_or_else(|| open("loader.u_boot"))?.into_inner(),
            },
            Method::Uefi => BootMethod::Uefi,
        };
        let qemu = self.qemu.map(|qemu| {
            if loader == BootMethod::Uefi && qemu.firmware.is_none() {
                return Err(open("qemu.firmware"));
            }
            Ok(Qemu {
                wiring: qemu.wiring.ok_or_else(|| open("qemu.wiring"))?,
                firmware: qemu.firmware.map(Spanned::into_inner),
                machine: qemu.machine.ok_or_else(|| open("qemu.machine"))?,
                cpu: qemu.cpu.ok_or_else(|| open("qemu.cpu"))?,
                cpus: qemu.cpus.ok_or_else(|| open("qemu.cpus"))?,
                memory_mib: qemu.memory_mib.ok_or_else(|| open("qemu.memory_mib"))?,
                disk_mib: qemu.disk_mib.ok_or_else(|| open("qemu.disk_mib"))?,
                devices: qemu.devices,
            })
        });
        let mib = |field: &'static str, said: Option<Spanned<u64>>, range: RangeInclusive<u64>| {
            let said = said.ok_or_else(|| open(field))?;
            let (at, value) = (said.span().start, said.into_inner());
            if range.contains(&value) {
                return Ok(value);
            }
            let (least, most) = range.into_inner();
            Err(sources.wrong(at, format_args!("{field} is {value}, which is not between {least} and {most}")))
        };
        Ok(Board {
            name: name.to_owned(),
            summary: self.summary.ok_or_else(|| open("summary"))?,
            architecture: self.architecture.ok_or_else(|| open("architecture"))?,
            kernel_package,
            compression: self.kernel.compression.ok_or_else(|| open("kernel.compression"))?.into_inner(),
            command_line: self.kernel.command_line.ok_or_else(|| open("kernel.command_line"))?,
            devicetree: self.kernel.devicetree.map(Spanned::into_inner).unwrap_or_default(),
            initramfs_modules: plain(self.modules.initramfs),
            boot_modules: plain(self.modules.boot),
            lazy_modules: plain(self.modules.lazy),
            loader,
            firmware: plain(self.loader.firmware),
            config_txt: self.loader.config_txt.unwrap_or_default(),
            firmware_mib: mib("disk.firmware_mib", self.disk.firmware_mib, FIRMWARE_MIB)?,
            slot_mib: mib("disk.slot_mib", self.disk.slot_mib, SLOT_MIB)?,
            data_mib: mib("disk.data_mib", self.disk.data_mib, DATA_MIB)?,
            watchdog: self.watchdog.ok_or_else(|| open("watchdog"))?,
            qemu: qemu.transpose()?,
        })
    }

    /// What does not go with UEFI is named where it was said, or where UEFI was, if that was said by the board nearer to ours.
    fn goes_together(&self, sources: &Sources) -> Result<(), Error> {
        let Some(method) = self.loader.method.as_ref().filter(|method| matches!(method.get_ref(), Method::Uefi)) else {
            return Ok(());
        };
        let packed = self.kernel.compression.as_ref().filter(|packing| *packing.get_ref() == Compression::Gzip);
        let wrong = [
            (self.loader.disk.as_ref().map(Spanned::span), "loader.disk and loader.u_boot are left out"),
            (self.loader.u_boot.as_ref().map(Spanned::span), "loader.disk and loader.u_boot are left out"),
            (packed.map(Spanned::span), "kernel.compression is none"),
            (self.kernel.devicetree.as_ref().map(Spanned::span), "kernel.devicetree is left out"),
        ];
        match wrong.into_iter().find_map(|(span, what)| Some((span?, what))) {
            None => Ok(()),
            Some((span, what)) => {
                let at = span.start.min(method.span().start);
                Err(sources.wrong(at, format_args!("{what} where UEFI starts the kernel")))
            }
        }
    }
}

fn join<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
    first.extend(second);
    first
}

fn plain<T>(all: Vec<Spanned<T>>) -> Vec<T> {
    all.into_iter().map(Spanned::into_inner).collect()
}

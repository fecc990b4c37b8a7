//! PID 1 of the image: from the kernel's last line to a supervised system, and orderly down again.
//!
//! Start at [`early::PHASES`] (in the initramfs: find the slot, verify it, move into it) and [`root::PHASES`] (in the root:
//! data, network, watchdog); each is the list of what happens, in order, and is printed as it happens. Then [`supervise`]
//! keeps the programs of `/etc/skerry/services` alive for ever.
//!
//! Invariants:
//! * PID 1 never exits: an error is printed with what it was about, a panic is caught, and the machine goes on or restarts;
//! * nothing is written but to the data partition, the ledger's two sectors and the partition table's fourth entry;
//! * the root is read-only and every block of it verified.
//!
//! Not here: Kubernetes (a service like any other), what an update does (`update`, in a process of its own: [`updates`]), what
//! is in the image (`image`).
#![forbid(unsafe_code)]

pub mod card;
pub mod clock;
pub mod console;
pub mod data;
pub mod dhcp;
pub mod disk;
pub mod early;
pub mod facts;
pub mod lease;
pub mod modprobe;
pub mod network;
pub mod ntp;
pub mod once;
pub mod phase;
pub mod power;
pub mod root;
pub mod supervise;
pub mod trial;
pub mod updates;
pub mod watchdog;

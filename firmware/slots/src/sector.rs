//! One sector of `name=value` strings behind a checksum: U-Boot's `env export -c -s 200` format.
//!
//! Start at [`encode`] and [`decode`]. The format is a little-endian CRC-32 of everything after it, then strings each ended
//! by NUL, then one more NUL, zeros to the end. It is not postcard, as our other messages are: a boot script reads it by
//! `env import -c` and counts a trial down by `env export`, and U-Boot has no command that understands anything else.
//!
//! Invariant: a sector that is torn or garbled decodes to nothing, never to something else.

use heapless::Vec;

use crate::ledger::{Cause, Ledger, Name, Slot, TRIES_MAX};

/// The size of a sector.
pub const BYTES: usize = 512;
/// A sector holds so many strings at most.
pub const PAIRS_MAX: usize = 24;

/// A sector's bytes.
pub type Sector = [u8; BYTES];

/// The strings of a sector whose checksum is right.
pub fn pairs(sector: &Sector) -> Option<Vec<(&str, &str), PAIRS_MAX>> {
    let (checksum, data) = sector.split_at(4);
    if crc32(data).to_le_bytes() != checksum {
        return None;
    }
    let text = core::str::from_utf8(data).ok()?;
    let mut found = Vec::new();
    for line in text.split('\0').take_while(|line| !line.is_empty()) {
        found.push(line.split_once('=')?).ok()?;
    }
    Some(found)
}

/// A sector of these strings; nothing where they do not fit.
pub fn from_pairs(pairs: &[(&str, &str)]) -> Option<Sector> {
    let mut sector = [0u8; BYTES];
    let mut at = 4;
    for (name, value) in pairs {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            // The last byte stays NUL: it ends the list.
            sector.get_mut(at..at + part.len()).filter(|_| at + part.len() < BYTES)?.copy_from_slice(part);
            at += part.len();
        }
    }
    let checksum = crc32(&sector[4..]);
    sector[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(sector)
}

/// The ledger as a sector.
pub fn encode(ledger: &Ledger) -> Sector {
    let sequence = hex(ledger.sequence.into());
    let (trying, tries) = match ledger.spare {
        Slot::Trying { tries_left } => (ledger.active.other().letter(), hex(tries_left.into())),
        Slot::Empty | Slot::Staged | Slot::Good => ("none", hex(0)),
    };
    let spare = match ledger.spare {
        Slot::Empty => "empty",
        Slot::Staged => "staged",
        Slot::Trying { .. } => "trying",
        Slot::Good => "good",
    };
    let pairs = [
        ("seq", sequence.as_str()),
        ("active", ledger.active.letter()),
        ("trying", trying),
        ("tries", tries.as_str()),
        ("spare", spare),
        ("cause", ledger.cause.word()),
    ];
    from_pairs(&pairs).expect("six short strings fit a sector")
}

/// The ledger in a sector; nothing where the sector is torn, garbled or of another kind.
///
/// The boot script counts `tries` down and turns `trying` to `none` when they are used up. It leaves `spare` alone then, which
/// reads here as a trial that was given up.
pub fn decode(sector: &Sector) -> Option<Ledger> {
    let pairs = pairs(sector)?;
    let value = |name: &str| pairs.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
    let sequence = u32::from_str_radix(value("seq")?, 16).ok()?;
    let active = Name::from_letter(value("active")?)?;
    let cause = Cause::from_word(value("cause")?)?;
    let spare = match (value("spare")?, value("trying")?) {
        ("trying", trying) if Name::from_letter(trying) == Some(active.other()) => {
            let tries_left = u8::from_str_radix(value("tries")?, 16).ok()?;
            if tries_left > TRIES_MAX {
                return None;
            }
            Slot::Trying { tries_left }
        }
        ("trying", "none") | ("empty", "none") => Slot::Empty,
        ("staged", "none") => Slot::Staged,
        ("good", "none") => Slot::Good,
        _ => return None,
    };
    Some(Ledger { sequence, active, spare, cause })
}

/// A number as U-Boot writes it: lower-case hexadecimal without prefix.
pub(crate) fn hex(number: u64) -> heapless::String<16> {
    let mut text = heapless::String::new();
    // Sixteen digits are the longest there is, so writing cannot fail.
    let _written = core::fmt::write(&mut text, format_args!("{number:x}"));
    text
}

/// The CRC-32 of Ethernet and zlib. Bit by bit: it runs over 508 bytes a boot, and a table would cost a kilobyte.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPARES: [Slot; 6] = [
        Slot::Empty,
        Slot::Staged,
        Slot::Trying { tries_left: 0 },
        Slot::Trying { tries_left: 3 },
        Slot::Trying { tries_left: TRIES_MAX },
        Slot::Good,
    ];

    #[test]
    fn every_ledger_survives_the_round() {
        for active in [Name::A, Name::B] {
            for spare in SPARES {
                for cause in Cause::ALL {
                    let ledger = Ledger { sequence: 0xdead_beef, active, spare, cause };
                    assert_eq!(decode(&encode(&ledger)), Some(ledger));
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_the_one_u_boot_computes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn one_changed_bit_anywhere_makes_the_sector_nothing() {
        let good = encode(&Ledger::new());
        for bit in 0..BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_sector_torn_anywhere_is_nothing_or_one_of_the_two() {
        let old = encode(&Ledger::new());
        let new = encode(&Ledger {
            sequence: 2,
            active: Name::B,
            spare: Slot::Trying { tries_left: 9 },
            cause: Cause::Asked,
        });
        for cut in 0..=BYTES {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            let got = decode(&torn);
            assert!(got.is_none() || got == decode(&old) || got == decode(&new), "cut at {cut}");
        }
    }

    #[test]
    fn zeros_and_ones_are_nothing() {
        assert_eq!(decode(&[0; BYTES]), None);
        assert_eq!(decode(&[0xff; BYTES]), None);
    }

    #[test]
    fn a_trial_the_script_gave_up_reads_as_empty() {
        let pairs = [
            ("seq", "8"),
            ("active", "a"),
            ("trying", "none"),
            ("tries", "0"),
            ("spare", "trying"),
            ("cause", "tries"),
        ];
        let ledger = decode(&from_pairs(&pairs).unwrap()).unwrap();
        assert_eq!((ledger.spare, ledger.cause), (Slot::Empty, Cause::TriesUsedUp));
    }

    #[test]
    fn a_trial_of_the_active_slot_is_nonsense() {
        let pairs =
            [("seq", "8"), ("active", "a"), ("trying", "a"), ("tries", "1"), ("spare", "trying"), ("cause", "none")];
        assert_eq!(decode(&from_pairs(&pairs).unwrap()), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = std::string::String::from_utf8(std::vec![b'x'; 600]).unwrap();
        assert_eq!(from_pairs(&[("name", &long)]), None);
    }
}

//! Why a bundle is refused.
//!
//! Start at [`Error`]. None of these goes away by trying again with the same file.

use std::io;

/// Why a bundle is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is some other file.
    #[error("this is no update bundle: it does not begin as one")]
    NotABundle,
    /// It ends early.
    #[error("the bundle is truncated: it has {have} bytes of {wanted}")]
    Truncated {
        /// Its bytes.
        have: u64,
        /// What its header promises.
        wanted: u64,
    },
    /// Something follows where it should end.
    #[error("the bundle is {have} bytes long, and its header accounts for {wanted}")]
    Longer {
        /// Its bytes.
        have: u64,
        /// What its header promises.
        wanted: u64,
    },
    /// Nobody signed it.
    #[error("the bundle is unsigned")]
    Unsigned,
    /// The board trusts nobody.
    #[error("this board trusts no key, so it takes no bundle; put a public key into its settings or its image")]
    NoTrustedKeys,
    /// No trusted key signed this header.
    #[error(
        "the bundle is wrongly signed: none of the {trusted} keys this board trusts has signed its header as it is"
    )]
    WronglySigned {
        /// How many keys are trusted.
        trusted: usize,
    },
    /// A trusted key signed a header that makes no sense.
    #[error("the bundle's header is wrong: {0}")]
    Header(String),
    /// A chunk is not what was signed.
    #[error("the bundle is damaged: part {part} of {parts} is not what was signed")]
    Damaged {
        /// Which, from 1.
        part: usize,
        /// Of how many.
        parts: usize,
    },
    /// It is for another board.
    #[error("the bundle is for {wanted}, and this board is {board}")]
    OtherBoard {
        /// What it is for.
        wanted: String,
        /// What this is.
        board: String,
    },
    /// It would take back a security update.
    #[error("the bundle is a downgrade: its security epoch is {epoch}, and this board has reached {reached}")]
    Downgraded {
        /// The bundle's.
        epoch: u32,
        /// The board's.
        reached: u32,
    },
    /// It does not fit.
    #[error("the bundle is oversized: its image takes {wanted} bytes, and a slot of this board holds {room}")]
    Oversized {
        /// The image's bytes.
        wanted: u64,
        /// The slot's.
        room: u64,
    },
    /// A key cannot be understood.
    #[error("{0} is no key: {1}")]
    Key(String, &'static str),
    /// It cannot be read.
    #[error("failed to read the bundle")]
    Read(#[from] io::Error),
}

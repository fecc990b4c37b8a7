//! How collectors' messages travel: postcard in zstd, and which version of them it is.
//!
//! Start at [`unpack`].
//!
//! Invariant: a message of a later version is refused as that, by its number, and not taken for garbage. Version 1 is a bare frame
//! of zstd, as it always was, so that neighbouring releases understand each other; a later one begins with [`LATER`] and its
//! number in one byte.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version that is spoken here.
const VERSION: u8 = 1;
/// What messages of later versions begin with.
const LATER: &[u8] = b"skerry";

/// Packs a message.
pub(crate) fn pack(message: &impl Serialize) -> Vec<u8> {
    // Values of ours always have a form, and memory takes every byte.
    let plain = postcard::to_allocvec(message).unwrap_or_default();
    zstd::bulk::compress(&plain, 1).unwrap_or_default()
}

/// Unpacks a message that is no larger than so many bytes; or says why it cannot be.
pub(crate) fn unpack<T: DeserializeOwned>(packed: &[u8], bytes_max: usize) -> Result<T, String> {
    if let Some(version) = packed.strip_prefix(LATER).and_then(|rest| rest.first()) {
        return Err(format!(
            "its collector speaks version {version}, and this server version {VERSION}: they are of releases too far apart"
        ));
    }
    let plain = zstd::bulk::decompress(packed, bytes_max).map_err(|error| error.to_string())?;
    postcard::from_bytes(&plain).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_refused_by_its_number() {
        assert_eq!(unpack(&pack(&7_u32), 100), Ok(7_u32));
        let error = unpack::<u32>(b"skerry\x02whatever", 100).expect_err("refused");
        assert!(error.contains("speaks version 2, and this server version 1"), "{error}");
        assert!(!unpack::<u32>(b"skerry", 100).expect_err("garbage").contains("version"));
    }

    #[test]
    fn the_first_version_stays_a_bare_frame() {
        // What collectors of the first release send, to the byte after unpacking: an older server must understand ours.
        let packed = pack(&("node", 5_i64));
        assert_eq!(packed[..4], 0xfd2f_b528_u32.to_le_bytes());
        assert_eq!(zstd::bulk::decompress(&packed, 100).expect("zstd"), b"\x04node\x0a");
    }
}

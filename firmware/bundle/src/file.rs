//! The file: made, and read chunk by chunk.
//!
//! Start at [`Bundle::open`]. [`Bundle::verify`] reads all of it once; nothing is to be written before it has passed.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};

use crate::head::{self, Digest, Head};
use crate::{Error, Public, Secret};

/// A bundle whose header is signed by a trusted key.
pub struct Bundle<R> {
    head: Head,
    head_bytes: Vec<u8>,
    digest: Digest,
    /// Where in the file each chunk lies.
    places: Vec<u64>,
    file: R,
}

impl<R: Read + Seek> Bundle<R> {
    /// Reads the header and checks its signature and the file's length.
    pub fn open(mut file: R, trusted: &[Public]) -> Result<Bundle<R>, Error> {
        let have = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut head_bytes = Vec::new();
        (&mut file).take(head::MAGIC.len() as u64 + 4).read_to_end(&mut head_bytes)?;
        let length = head::length(&head_bytes)? as u64;
        (&mut file).take(length - head_bytes.len() as u64).read_to_end(&mut head_bytes)?;
        let (head, digest, _) = Head::decode_signed(&head_bytes, trusted)?;
        let (places, wanted) = places(&head, length);
        match have {
            have if have < wanted => return Err(Error::Truncated { have, wanted }),
            have if have > wanted => return Err(Error::Longer { have, wanted }),
            _ => {}
        }
        Ok(Bundle { head, head_bytes, digest, places, file })
    }

    /// What it says of its image.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The head as it lies in the file, signature and all.
    pub fn head_bytes(&self) -> &[u8] {
        &self.head_bytes
    }

    /// What names it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads chunk `index` and checks it.
    pub fn chunk(&mut self, index: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; self.head.chunk_len(index)];
        self.file.seek(SeekFrom::Start(self.places[index]))?;
        self.file.read_exact(&mut bytes)?;
        if Digest::of(&bytes) != self.head.chunks[index] {
            return Err(Error::Damaged { part: index + 1, parts: self.head.chunks.len() });
        }
        Ok(bytes)
    }

    /// Reads every chunk once and checks it.
    pub fn verify(&mut self) -> Result<(), Error> {
        let mut before = 0;
        for index in 0..self.head.chunks.len() {
            // Chunks that occur again lie where they lay the first time.
            if self.places[index] > before {
                before = self.places[index];
                self.chunk(index)?;
            }
        }
        Ok(())
    }
}

/// Where each chunk lies behind a head of `length` bytes, and where the file ends. A header that lists one digest for
/// chunks of two lengths gets two places: no hash function we use allows it, so one of them will be found damaged.
fn places(head: &Head, length: u64) -> (Vec<u64>, u64) {
    let mut end = length;
    let mut known: HashMap<(Digest, usize), u64> = HashMap::new();
    let place = |(index, digest): (usize, &Digest)| {
        let bytes = head.chunk_len(index);
        *known.entry((*digest, bytes)).or_insert_with(|| {
            end += bytes as u64;
            end - bytes as u64
        })
    };
    let places = head.chunks.iter().enumerate().map(place).collect();
    (places, end)
}

/// What a bundle of the image that `image` reads says: `about`, with sizes and chunks.
pub fn describe(mut about: Head, image: &mut (impl Read + Seek)) -> Result<Head, Error> {
    about.image_bytes = image.seek(SeekFrom::End(0))?;
    about.chunks.clear();
    image.seek(SeekFrom::Start(0))?;
    for index in 0..about.image_bytes.div_ceil(about.chunk_bytes.into()) as usize {
        about.chunks.push(Digest::of(&next(&about, index, image)?));
    }
    Ok(about)
}

/// Writes the bundle of the image that `image` reads, as [`describe`] describes it; gives back its digest.
pub fn write(
    about: Head,
    image: &mut (impl Read + Seek),
    key: Option<&Secret>,
    into: &mut impl Write,
) -> Result<Digest, Error> {
    let head = describe(about, image)?;
    let head_bytes = head.encode(key);
    // What would be refused by every board is not made.
    let (_, digest, length) = Head::decode(&head_bytes)?;
    into.write_all(&head_bytes)?;
    let mut before = 0;
    for (index, place) in places(&head, length as u64).0.into_iter().enumerate() {
        if place > before {
            before = place;
            image.seek(SeekFrom::Start(index as u64 * u64::from(head.chunk_bytes)))?;
            into.write_all(&next(&head, index, image)?)?;
        }
    }
    into.flush()?;
    Ok(digest)
}

fn next(head: &Head, index: usize, image: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; head.chunk_len(index)];
    image.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// An image whose second and fourth chunk are the same, and whose last is short.
    fn image() -> Vec<u8> {
        let chunk = |byte: u8, bytes: usize| vec![byte; bytes];
        [chunk(1, 4096), chunk(2, 4096), chunk(3, 4096), chunk(2, 4096), chunk(2, 100)].concat()
    }

    fn made(key: Option<&Secret>) -> Vec<u8> {
        let mut file = Vec::new();
        write(head::tests::head(), &mut Cursor::new(image()), key, &mut file).unwrap();
        file
    }

    /// What a board that trusts `key` says of a file, after reading all of it.
    fn told(file: &[u8], key: &Secret) -> String {
        let verified = Bundle::open(Cursor::new(file), &[key.public()]).and_then(|mut bundle| bundle.verify());
        verified.map(|()| "good".into()).unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn what_was_written_is_read_and_same_chunks_are_kept_once() {
        let key = Secret::generate().unwrap();
        let file = made(Some(&key));
        let mut bundle = Bundle::open(Cursor::new(&file), &[key.public()]).unwrap();
        let read: Vec<u8> = (0..5).flat_map(|index| bundle.chunk(index).unwrap()).collect();
        assert_eq!(read, image());
        assert_eq!(file.len() - bundle.head_bytes().len(), 3 * 4096 + 100);
        assert_eq!(told(&file, &key), "good");
    }

    #[test]
    fn the_same_image_and_key_give_the_same_bytes() {
        let key = Secret::generate().unwrap();
        assert_eq!(made(Some(&key)), made(Some(&key)));
    }

    #[test]
    fn an_unsigned_or_wrongly_signed_bundle_is_refused() {
        let (key, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_eq!(told(&made(None), &key), "the bundle is unsigned");
        let wrongly =
            "the bundle is wrongly signed: none of the 1 keys this board trusts has signed its header as it is";
        assert_eq!(told(&made(Some(&other)), &key), wrongly);
        let nobody = Bundle::open(Cursor::new(made(Some(&key))), &[]).err().unwrap().to_string();
        assert!(nobody.starts_with("this board trusts no key"), "{nobody}");
    }

    #[test]
    fn a_bundle_cut_off_anywhere_is_refused() {
        let key = Secret::generate().unwrap();
        let file = made(Some(&key));
        for cut in (0..file.len()).filter(|cut| *cut < 600 || cut % 997 == 0 || *cut + 3 > file.len()) {
            let told = told(&file[..cut], &key);
            let named =
                told.starts_with("the bundle is truncated") || (cut < 12 && told.starts_with("this is no update"));
            assert!(named, "cut at {cut}: {told}");
        }
        let longer = [&file[..], b"x"].concat();
        assert!(told(&longer, &key).contains("its header accounts for"));
    }

    #[test]
    fn one_changed_bit_anywhere_is_found() {
        let key = Secret::generate().unwrap();
        let file = made(Some(&key));
        for byte in (0..file.len()).filter(|byte| *byte < 400 || byte % 499 == 0 || *byte + 2 > file.len()) {
            let mut bad = file.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_ne!(told(&bad, &key), "good", "byte {byte}");
        }
    }
}

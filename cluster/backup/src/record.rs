//! What a snapshot is made of, as bytes: objects, key files, volumes, an end that says how many there were.
//!
//! Start at [`RecordWriter`] and [`RecordReader`].
//!
//! Invariants:
//! * objects come first, by key, each key once; then files; then volumes, each name once; then the end, and nothing behind it;
//! * the end holds a checksum of every record before it, so what arrives is what was sent, whatever carried it;
//! * no length in a stream is believed beyond its limit.
//!
//! Not here: the two lines before the records (`meta.rs`), the file around them (`file.rs`).

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// No object, file or chunk is larger. An API object is at most 3 MiB when it is written.
const BYTES_MAX: u32 = 64 << 20;
/// No key, path or name is longer.
const NAME_BYTES_MAX: u32 = 8 << 10;

/// One thing of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An object of the store.
    Object {
        /// Its key.
        key: String,
        /// The change that made this version.
        revision: u64,
        /// Its bytes as stored.
        value: Bytes,
    },
    /// A file of the cluster's keys.
    File {
        /// Its name in the folder of keys.
        path: String,
        /// What it holds.
        bytes: Bytes,
    },
    /// A volume begins; its chunks follow.
    Volume {
        /// Its name.
        name: String,
    },
    /// The next part of the volume's tar archive.
    Chunk(Bytes),
}

/// How many there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Objects.
    pub objects: u64,
    /// Files.
    pub files: u64,
    /// Volumes.
    pub volumes: u64,
}

/// Why no record can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes do not come.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// They are no records, or not those that were written.
    #[error("{0}")]
    Malformed(String),
}

const OBJECT: u8 = 1;
const FILE: u8 = 2;
const VOLUME: u8 = 3;
const CHUNK: u8 = 4;
const END: u8 = 5;

/// Writes records.
pub struct RecordWriter<W> {
    out: W,
    hash: Sha256,
    count: End,
}

impl<W: Write> RecordWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> RecordWriter<W> {
        RecordWriter { out, hash: Sha256::new(), count: End::default() }
    }

    /// An object. They come by key.
    pub fn object(&mut self, key: &str, revision: u64, value: &[u8]) -> io::Result<()> {
        self.count.objects += 1;
        self.put(&[OBJECT])?;
        self.bytes(key.as_bytes())?;
        self.put(&revision.to_le_bytes())?;
        self.bytes(value)
    }

    /// A file of keys.
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.count.files += 1;
        self.put(&[FILE])?;
        self.bytes(path.as_bytes())?;
        self.bytes(bytes)
    }

    /// A volume begins.
    pub fn volume(&mut self, name: &str) -> io::Result<()> {
        self.count.volumes += 1;
        self.put(&[VOLUME])?;
        self.bytes(name.as_bytes())
    }

    /// More of it.
    pub fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.put(&[CHUNK])?;
        self.bytes(bytes)
    }

    /// Any of them.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Object { key, revision, value } => self.object(key, *revision, value),
            Record::File { path, bytes } => self.file(path, bytes),
            Record::Volume { name } => self.volume(name),
            Record::Chunk(bytes) => self.chunk(bytes),
        }
    }

    /// Nothing more comes.
    pub fn end(mut self) -> io::Result<W> {
        let mut end = vec![END];
        for count in [self.count.objects, self.count.files, self.count.volumes] {
            end.extend(count.to_le_bytes());
        }
        self.put(&end)?;
        let sum = self.hash.finalize();
        self.out.write_all(&sum)?;
        Ok(self.out)
    }

    /// What is written to.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= BYTES_MAX);
        let length =
            length.ok_or_else(|| io::Error::other(format!("{} bytes are too many for one record", bytes.len())))?;
        self.put(&length.to_le_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads records, and finds out whether they are those that were written.
pub struct RecordReader<R> {
    input: R,
    hash: Sha256,
    count: End,
    last_key: Option<String>,
    names: BTreeSet<String>,
    ended: bool,
}

impl<R: Read> RecordReader<R> {
    /// Reads from `input`, which holds records and nothing else.
    pub fn new(input: R) -> RecordReader<R> {
        let (count, names) = (End::default(), BTreeSet::new());
        RecordReader { input, hash: Sha256::new(), count, last_key: None, names, ended: false }
    }

    /// How many there were so far.
    pub fn count(&self) -> End {
        self.count
    }

    /// The next record; nothing once all were read and are right.
    pub fn next(&mut self) -> Result<Option<Record>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let kind = self.array::<1>()?[0];
        match kind {
            OBJECT => self.object().map(Some),
            FILE => {
                self.count.files += 1;
                must(self.count.volumes == 0, "a file comes behind a volume")?;
                Ok(Some(Record::File { path: self.name("file")?, bytes: self.bytes(BYTES_MAX)? }))
            }
            VOLUME => {
                self.count.volumes += 1;
                Ok(Some(Record::Volume { name: self.name("volume")? }))
            }
            CHUNK => {
                must(self.count.volumes > 0, "a chunk comes before a volume")?;
                Ok(Some(Record::Chunk(self.bytes(BYTES_MAX)?)))
            }
            END => self.end().map(|()| None),
            other => Err(malformed(format!("there is no record of kind {other}"))),
        }
    }

    fn object(&mut self) -> Result<Record, ReadError> {
        self.count.objects += 1;
        must(self.count.files == 0 && self.count.volumes == 0, "an object comes behind a file")?;
        let key = self.text()?;
        let revision = u64::from_le_bytes(self.array()?);
        let value = self.bytes(BYTES_MAX)?;
        must(self.last_key.as_ref().is_none_or(|last| *last < key), "objects do not come by key")?;
        self.last_key = Some(key.clone());
        Ok(Record::Object { key, revision, value })
    }

    fn end(&mut self) -> Result<(), ReadError> {
        let mut counts = [0; 3];
        for count in &mut counts {
            *count = u64::from_le_bytes(self.array()?);
        }
        let wanted = [self.count.objects, self.count.files, self.count.volumes];
        must(counts == wanted, "some records are missing")?;
        let sum = std::mem::take(&mut self.hash).finalize();
        let mut written = [0; 32];
        self.input.read_exact(&mut written)?;
        must(sum.as_slice() == written, "its records are not those that were written")?;
        let more = self.input.read(&mut [0])?;
        must(more == 0, "something comes behind its end")?;
        self.ended = true;
        Ok(())
    }

    /// A name that no other file or volume has.
    fn name(&mut self, of: &str) -> Result<String, ReadError> {
        let name = self.text()?;
        must(self.names.insert(format!("{of} {name}")), "a name comes twice")?;
        Ok(name)
    }

    fn text(&mut self) -> Result<String, ReadError> {
        let bytes = self.bytes(NAME_BYTES_MAX)?;
        String::from_utf8(bytes.into()).map_err(|_| malformed("a name is no text".to_owned()))
    }

    fn bytes(&mut self, max: u32) -> Result<Bytes, ReadError> {
        let length = u32::from_le_bytes(self.array()?);
        if length > max {
            return Err(malformed(format!("a record says that it holds {length} bytes")));
        }
        // Grows as bytes come: a length alone takes no memory.
        let mut bytes = Vec::new();
        let read = self.input.by_ref().take(u64::from(length)).read_to_end(&mut bytes)?;
        if read < length as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.hash.update(&bytes);
        Ok(bytes.into())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.hash.update(bytes);
        Ok(bytes)
    }
}

fn must(holds: bool, otherwise: &str) -> Result<(), ReadError> {
    if holds { Ok(()) } else { Err(malformed(otherwise.to_owned())) }
}

fn malformed(detail: String) -> ReadError {
    ReadError::Malformed(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(records: &[Record]) -> Vec<u8> {
        let mut writer = RecordWriter::new(Vec::new());
        records.iter().for_each(|record| writer.record(record).expect("memory takes it"));
        writer.end().expect("memory takes it")
    }

    fn read(bytes: &[u8]) -> Result<Vec<Record>, ReadError> {
        let mut reader = RecordReader::new(bytes);
        let mut records = Vec::new();
        while let Some(record) = reader.next()? {
            records.push(record);
        }
        Ok(records)
    }

    fn object(key: &str) -> Record {
        Record::Object { key: key.to_owned(), revision: 7, value: Bytes::from_static(b"{}") }
    }

    fn file(path: &str) -> Record {
        Record::File { path: path.to_owned(), bytes: Bytes::from_static(b"key") }
    }

    fn volume(name: &str) -> Record {
        Record::Volume { name: name.to_owned() }
    }

    /// Whether records in this order are taken.
    #[track_caller]
    fn check(records: &[Record], wanted: Result<(), &str>) {
        let got = read(&written(records)).map(|got| assert_eq!(got, records));
        assert_eq!(got.map_err(|error| error.to_string()), wanted.map_err(str::to_owned));
    }

    #[test]
    fn what_is_written_is_read() {
        check(&[], Ok(()));
        let chunk = Record::Chunk(Bytes::from_static(b"tar"));
        check(&[object("a"), object("b"), file("ca.key"), volume("web"), chunk.clone(), chunk, volume("logs")], Ok(()));
    }

    #[test]
    fn order_is_part_of_it() {
        check(&[object("b"), object("a")], Err("objects do not come by key"));
        check(&[object("a"), object("a")], Err("objects do not come by key"));
        check(&[file("a"), object("a")], Err("an object comes behind a file"));
        check(&[volume("a"), file("a")], Err("a file comes behind a volume"));
        check(&[volume("a"), volume("a")], Err("a name comes twice"));
        check(&[Record::Chunk(Bytes::new())], Err("a chunk comes before a volume"));
    }

    #[test]
    fn every_cut_and_every_changed_bit_is_noticed() {
        let bytes =
            written(&[object("a"), object("b"), file("ca.key"), volume("web"), Record::Chunk(Bytes::from("tar"))]);
        assert!(read(&bytes).is_ok());
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "cut to {length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&changed).is_err(), "bit {bit}");
        }
        assert!(read(&[bytes, vec![0]].concat()).is_err(), "something behind the end");
    }
}

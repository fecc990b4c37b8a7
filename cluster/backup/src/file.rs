//! A backup as a file: compressed records between two lines of text and a checksum.
//!
//! Start at [`FileWriter`]; [`check`] is the only way to read one.
//!
//! Invariants:
//! * a file that is finished is on the disk, whole, and readable by its owner only;
//! * nothing is read out of a file before its checksum was found right.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Take, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::error::Doing;
use crate::meta::{MAGIC, NotMeta};
use crate::seal::{Key, Opening, Sealing, salt};
use crate::{BackupError, End, FORMAT, Meta, Record, RecordReader, RecordWriter, volume};

/// zstd's own default: a tenth of the size of JSON, at the speed of a card.
const LEVEL: i32 = 3;
/// What a decoder may be made to hold, as a power of two: what any level up to 19 needs.
const WINDOW_LOG_MAX: u32 = 23;
const SUM_BYTES: u64 = 32;
const BUFFER_BYTES: usize = 64 << 10;

/// A file that is being written.
pub struct FileWriter {
    path: PathBuf,
    records: RecordWriter<zstd::Encoder<'static, Sink>>,
}

/// A file, and the checksum of what was written to it.
struct Summed {
    file: BufWriter<File>,
    hash: Sha256,
}

/// Where compressed records go.
enum Sink {
    Plain(Summed),
    Sealed(Sealing<Summed>),
}

impl Sink {
    fn finish(self) -> io::Result<Summed> {
        match self {
            Sink::Plain(out) => Ok(out),
            Sink::Sealed(sealing) => sealing.finish(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Plain(out) => out.write(bytes),
            Sink::Sealed(sealing) => sealing.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Sink::Plain(out) => out.flush(),
            Sink::Sealed(sealing) => sealing.flush(),
        }
    }
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl FileWriter {
    /// Makes a new file, encrypted if there is a key.
    pub fn create(path: &Path, meta: &Meta, key: Option<&Key>) -> Result<FileWriter, BackupError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).doing("make", path)?;
        let mut out = Summed { file: BufWriter::with_capacity(BUFFER_BYTES, file), hash: Sha256::new() };
        let sink = match key {
            None => {
                out.write_all(&meta.lines()).doing("write", path)?;
                Sink::Plain(out)
            }
            Some(key) => {
                let salt = salt().doing("encrypt", path)?;
                let head = meta.sealed_lines(&salt);
                out.write_all(&head).doing("write", path)?;
                Sink::Sealed(Sealing::new(out, key, &salt, &head))
            }
        };
        let encoder = zstd::Encoder::new(sink, LEVEL).doing("write", path)?;
        Ok(FileWriter { path: path.to_owned(), records: RecordWriter::new(encoder) })
    }

    /// Adds a record.
    pub fn record(&mut self, record: &Record) -> Result<(), BackupError> {
        self.records.record(record).doing("write", &self.path)
    }

    /// Adds what lies in `folder` as the volume `name`.
    pub fn volume(&mut self, name: &str, folder: &Path) -> Result<(), BackupError> {
        self.records.volume(name).doing("write", &self.path)?;
        volume::pack(folder, &self.path, &mut self.records)
    }

    /// Writes the end and the checksum, and waits for the disk. The answer is the file's size.
    pub fn finish(self) -> Result<u64, BackupError> {
        let path = self.path;
        let encoder = self.records.end().doing("write", &path)?;
        let mut out = encoder.finish().and_then(Sink::finish).doing("write", &path)?;
        let sum = std::mem::take(&mut out.hash).finalize();
        out.file.write_all(&sum).doing("write", &path)?;
        let file = out.file.into_inner().map_err(io::IntoInnerError::into_error).doing("write", &path)?;
        file.sync_all().doing("write", &path)?;
        Ok(file.metadata().doing("look at", &path)?.len())
    }
}

/// A file whose checksum is right.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is a backup of.
    pub meta: Meta,
    /// Where its compressed records begin and end.
    begin: u64,
    end: u64,
    sealed: Option<Sealed>,
}

/// What it takes to decrypt a file.
#[derive(Clone, Debug)]
struct Sealed {
    key: Key,
    salt: String,
    head: Vec<u8>,
}

/// Where compressed records come from.
enum Source {
    Plain(Take<File>),
    Sealed(Box<Opening<BufReader<Take<File>>>>),
}

impl Read for Source {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(file) => file.read(out),
            Source::Sealed(opening) => opening.read(out),
        }
    }
}

/// What a file holds.
#[derive(Clone, Debug)]
pub struct Contents {
    /// How many of what.
    pub count: End,
    /// The files of its keys.
    pub keys: Vec<(String, Bytes)>,
    /// The names of its volumes.
    pub volumes: Vec<String>,
}

/// The records of a stream that begins with its two lines.
pub fn open_stream<R: BufRead>(mut input: R) -> Result<(Meta, RecordReader<R>), BackupError> {
    let head = Meta::read(&mut input).map_err(|not| BackupError::Stream {
        detail: match not {
            NotMeta::Foreign => "it does not begin as one".to_owned(),
            NotMeta::Newer(format) => format!("the server speaks format {format}, this program up to {FORMAT}"),
            NotMeta::Broken(detail) => detail,
        },
    })?;
    match head.salt {
        None => Ok((head.meta, RecordReader::new(input))),
        Some(_) => Err(BackupError::Stream { detail: "it is an encrypted file".to_owned() }),
    }
}

/// Reads a file to its end and compares its checksum; one that is encrypted needs its key.
pub fn check(path: &Path, key: Option<&Key>) -> Result<Checked, BackupError> {
    let mut file = File::open(path).doing("open", path)?;
    let length = file.metadata().doing("look at", path)?.len();
    let damaged = |detail: String| BackupError::Damaged { path: path.to_owned(), detail };
    let mut head = vec![0; MAGIC.len()];
    if file.read_exact(&mut head).is_err() || head != MAGIC.as_bytes() {
        return Err(BackupError::Foreign { path: path.to_owned() });
    }
    let end = length.saturating_sub(SUM_BYTES);
    compare_sum(&mut file, end, path)?;
    file.seek(SeekFrom::Start(0)).doing("read", path)?;
    let head = Meta::read(&mut BufReader::new(file)).map_err(|not| match not {
        NotMeta::Foreign => BackupError::Foreign { path: path.to_owned() },
        NotMeta::Newer(format) => BackupError::Newer { path: path.to_owned(), format },
        NotMeta::Broken(detail) => damaged(detail),
    })?;
    let begin = head.bytes.len() as u64;
    if begin > end {
        return Err(damaged("it ends before its records begin".to_owned()));
    }
    let sealed = match (head.salt, key) {
        (None, _) => None,
        (Some(_), None) => return Err(BackupError::NoKey { path: path.to_owned() }),
        (Some(salt), Some(key)) => Some(Sealed { key: key.clone(), salt, head: head.bytes }),
    };
    let checked = Checked { path: path.to_owned(), meta: head.meta, begin, end, sealed };
    // Its bytes are right, so what the first of them cannot be made of is the key.
    match checked.source()?.read(&mut [0]) {
        Err(_) if checked.sealed.is_some() => Err(BackupError::WrongKey { path: path.to_owned() }),
        _ => Ok(checked),
    }
}

fn compare_sum(file: &mut File, end: u64, path: &Path) -> Result<(), BackupError> {
    file.seek(SeekFrom::Start(0)).doing("read", path)?;
    let (mut hash, mut left, mut buffer) = (Sha256::new(), end, vec![0; BUFFER_BYTES]);
    while left > 0 {
        let part = left.min(BUFFER_BYTES as u64) as usize;
        file.read_exact(&mut buffer[..part]).doing("read", path)?;
        hash.update(&buffer[..part]);
        left -= part as u64;
    }
    let mut written = Vec::new();
    file.read_to_end(&mut written).doing("read", path)?;
    if hash.finalize().as_slice() == written {
        return Ok(());
    }
    let detail = "its checksum does not fit what it holds".to_owned();
    Err(BackupError::Damaged { path: path.to_owned(), detail })
}

/// The records of a file.
pub type FileRecords = RecordReader<Box<dyn Read + Send>>;

impl Checked {
    /// Its records, from the first one.
    pub fn records(&self) -> Result<FileRecords, BackupError> {
        let input = BufReader::new(self.source()?);
        let mut decoder = zstd::Decoder::with_buffer(input).doing("read", &self.path)?;
        decoder.window_log_max(WINDOW_LOG_MAX).doing("read", &self.path)?;
        Ok(RecordReader::new(Box::new(decoder)))
    }

    fn source(&self) -> Result<Source, BackupError> {
        let mut file = File::open(&self.path).doing("open", &self.path)?;
        file.seek(SeekFrom::Start(self.begin)).doing("read", &self.path)?;
        let bytes = file.take(self.end - self.begin);
        Ok(match &self.sealed {
            None => Source::Plain(bytes),
            Some(Sealed { key, salt, head }) => {
                Source::Sealed(Box::new(Opening::new(BufReader::new(bytes), key, salt, head)))
            }
        })
    }

    /// Reads it from beginning to end, and says what it holds.
    pub fn contents(&self) -> Result<Contents, BackupError> {
        let (mut keys, mut volumes, mut records) = (Vec::new(), Vec::new(), self.records()?);
        while let Some(record) = records.next().map_err(|error| self.damage(error))? {
            match record {
                Record::File { path, bytes } => keys.push((path, bytes)),
                Record::Volume { name } => volumes.push(name),
                Record::Object { .. } | Record::Chunk(_) => {}
            }
        }
        Ok(Contents { count: records.count(), keys, volumes })
    }

    /// Refuses the name of a volume that it does not hold.
    pub fn must_hold(&self, contents: &Contents, name: &str) -> Result<(), BackupError> {
        if contents.volumes.iter().any(|held| held == name) {
            return Ok(());
        }
        let held = if contents.volumes.is_empty() { "none".to_owned() } else { contents.volumes.join(", ") };
        Err(BackupError::NoSuchVolume { path: self.path.clone(), name: name.to_owned(), held })
    }

    /// The error of a record that cannot be read.
    pub fn damage(&self, error: crate::ReadError) -> BackupError {
        BackupError::Damaged { path: self.path.clone(), detail: error.to_string() }
    }
}

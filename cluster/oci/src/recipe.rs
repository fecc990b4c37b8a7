//! How a layer's tar is made again from its unpacked files, byte for byte, so that it can be handed on and be proved by its
//! digest. Tars are not made the same way by any two programs; so what is not in a file is written down while it passes.
//!
//! Start at [`Recorder`], which writes a recipe beside the unpacked layer, and at [`Retold`], which reads the tar again.
//!
//! A recipe is the tar's length (8 bytes, little end first), and then, as they are or compressed, steps:
//!
//! ```text
//! 0  length (4 bytes)  bytes                          what comes next
//! 1  length (2 bytes)  path  length (8 bytes)         the content of the file at that path comes next
//! ```
//!
//! Invariants:
//! * a layer that takes away what it brought itself has no recipe: the content is gone;
//! * no more than [`LITERAL_BYTES_MAX`] are held in memory on either side.
//!
//! Not here: comparing with the digest (whoever gets the tar does it). Recipes of the firmware's layers are written by `image`.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use sys::files::Root;

use crate::unpack::decompressed;

/// The file beside the folder of the layer.
pub(crate) const RECIPE: &str = "recipe";

/// A step's bytes, at most.
const LITERAL_BYTES_MAX: usize = 64 << 10;

/// Headers are nearly all zeros and repetitions: the fastest level makes a tenth of them.
const LEVEL: i32 = 1;

/// Writes down what passes. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Recorder(Rc<RefCell<Recording>>);

struct Recording {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    literal: Vec<u8>,
    /// How much of the tar passed.
    position: u64,
    /// Where the content that needs no writing down ends.
    content_end: u64,
    /// Whether the tar can be made again.
    is_whole: bool,
    failed: Option<io::Error>,
}

impl Recorder {
    /// Writes to a new file.
    pub(crate) fn create(path: &Path) -> io::Result<Recorder> {
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(&[0; 8])?;
        let out = zstd::stream::write::Encoder::new(file, LEVEL)?;
        let (literal, is_whole) = (Vec::new(), true);
        let recording = Recording { out, literal, position: 0, content_end: 0, is_whole, failed: None };
        Ok(Recorder(Rc::new(RefCell::new(recording))))
    }

    /// A reader whose bytes are written down.
    pub(crate) fn tap<R: Read>(&self, inner: R) -> Tap<R> {
        Tap { inner, recorder: self.clone() }
    }

    /// What comes next is the content of a file, which will be found at `path`.
    pub(crate) fn content(&self, start: u64, length: u64, path: &Path) {
        let mut recording = self.0.borrow_mut();
        let plain: PathBuf = path.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        if recording.position != start || u16::try_from(plain.as_os_str().len()).is_err() {
            return;
        }
        recording.flush();
        recording.content_end = start + length;
        let name = plain.as_os_str().as_bytes();
        let step = [&[1], &(name.len() as u16).to_le_bytes()[..], name, &length.to_le_bytes()].concat();
        recording.write(&step);
    }

    /// Something that passed will not be found any more.
    pub(crate) fn is_lost(&self) {
        self.0.borrow_mut().is_whole = false;
    }

    /// To be called when all has passed. False if there is no way back, and the file is to be removed.
    pub(crate) fn finish(self) -> io::Result<bool> {
        let Some(mut recording) = Rc::into_inner(self.0).map(RefCell::into_inner) else { return Ok(false) };
        recording.flush();
        if let Some(error) = recording.failed {
            return Err(error);
        }
        let mut file = recording.out.finish()?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&recording.position.to_le_bytes())?;
        file.flush()?;
        Ok(recording.is_whole)
    }
}

impl Recording {
    fn passed(&mut self, bytes: &[u8]) {
        let content = usize::try_from(self.content_end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        self.position += bytes.len() as u64;
        self.literal.extend_from_slice(&bytes[content.min(bytes.len())..]);
        if self.literal.len() >= LITERAL_BYTES_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for piece in std::mem::take(&mut self.literal).chunks(LITERAL_BYTES_MAX) {
            self.write(&[0]);
            self.write(&(piece.len() as u32).to_le_bytes());
            self.write(piece);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.out.write_all(bytes) {
            self.failed.get_or_insert(error);
        }
    }
}

/// See [`Recorder::tap`].
pub(crate) struct Tap<R> {
    inner: R,
    recorder: Recorder,
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.recorder.0.borrow_mut().passed(&buffer[..length]);
        Ok(length)
    }
}

/// A layer's tar, made again while it is read.
pub struct Retold {
    length: u64,
    root: Root,
    recipe: Box<dyn Read + Send>,
    step: Step,
}

/// What is being told.
enum Step {
    None,
    Literal(u64),
    Content { file: File, left: u64, path: PathBuf },
}

impl Retold {
    /// Of the layer in this folder; none if it has no recipe.
    pub(crate) fn open(layer: &Path) -> io::Result<Option<Retold>> {
        let mut file = match File::open(layer.join(RECIPE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let root = Root::open(&layer.join("fs")).map_err(io::Error::other)?;
        let recipe = Box::new(BufReader::new(decompressed(file)?));
        Ok(Some(Retold { length: u64::from_le_bytes(length), root, recipe, step: Step::None }))
    }

    /// How long the tar is.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn next(&mut self) -> io::Result<bool> {
        let mut kind = [0];
        if self.recipe.read(&mut kind)? == 0 {
            return Ok(false);
        }
        self.step = match kind {
            [0] => Step::Literal(u64::from(u32::from_le_bytes(self.number()?))),
            [1] => self.content()?,
            [other] => return Err(io::Error::other(format!("a layer's recipe has a step of kind {other}"))),
        };
        Ok(true)
    }

    fn content(&mut self) -> io::Result<Step> {
        let mut name = vec![0; usize::from(u16::from_le_bytes(self.number()?))];
        self.recipe.read_exact(&mut name)?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
        let left = u64::from_le_bytes(self.number()?);
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = self.root.open_at(&path, flags, 0).map_err(io::Error::other)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() != left {
            return Err(io::Error::other(format!("{} in a layer is not what was unpacked", path.display())));
        }
        Ok(Step::Content { file, left, path })
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.recipe.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Retold {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            let all = buffer.len();
            let room = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(all);
            let length = match &mut self.step {
                Step::None | Step::Literal(0) | Step::Content { left: 0, .. } => {
                    if self.next()? {
                        continue;
                    }
                    return Ok(0);
                }
                Step::Literal(left) => {
                    let length = self.recipe.read(&mut buffer[..room(*left)])?;
                    *left -= length as u64;
                    length
                }
                Step::Content { file, left, path } => {
                    let length = file.read(&mut buffer[..room(*left)])?;
                    *left -= length as u64;
                    if length == 0 {
                        return Err(io::Error::other(format!("{} in a layer became shorter", path.display())));
                    }
                    length
                }
            };
            return if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(length) };
        }
        Ok(0)
    }
}

//! Byte streams to and from processes, as the async runtime wants them.
//!
//! Start at [`Stream`]: a pipe, socket or terminal behind futures' traits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::io::{AsyncRead, AsyncWrite};
use tokio::io::unix::AsyncFd;

/// A descriptor that can be waited for.
pub(crate) struct Stream(AsyncFd<File>);

impl Stream {
    /// Takes over a pipe, socket or terminal. Called within the async runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Stream> {
        sys::files::set_nonblocking(&fd, true)?;
        // `new` is deprecated because some type could change its descriptor; a `File` does not, and the successor of
        // `new` is unsafe, which this crate has none of.
        #[allow(deprecated)]
        let stream = AsyncFd::new(File::from(fd))?;
        Ok(Stream(stream))
    }
}

/// A terminal whose other side is closed says EIO where a pipe says end.
fn end_of_terminal(error: io::Error) -> io::Result<usize> {
    if error.raw_os_error() == Some(libc::EIO) { Ok(0) } else { Err(error) }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            match guard.try_io(|inner| inner.get_ref().read(buffer)) {
                Ok(answer) => return Poll::Ready(answer.or_else(end_of_terminal)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|inner| inner.get_ref().write(buffer)) {
                Ok(answer) => return Poll::Ready(answer),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// A pipe is closed by dropping it; a socket says so to its other end first.
    fn poll_close(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = sys::fdpass::finish_sending(self.0.get_ref());
        Poll::Ready(Ok(()))
    }
}

//! A connection that begins in the clear, read no further than each line while it is.
//!
//! lettre keeps what it has read beyond an answer, also when TLS begins (as of 0.11.23). Somebody between us and the server
//! could therefore put answers behind the one to STARTTLS, in the clear, and have them taken for what the server said inside
//! TLS: "accepted", for one (CVE-2011-0411 is the same fault of servers). Read byte by byte until TLS begins, nothing lies
//! behind an answer, and what was put there breaks the handshake.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The first byte of a TLS handshake (RFC 8446 §5.1), which no SMTP command begins with.
const HANDSHAKE: u8 = 0x16;

/// The connection.
#[derive(Debug)]
pub struct Lines {
    stream: TcpStream,
    tls: bool,
}

impl Lines {
    /// A connection on which nothing was read yet.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, tls: false }
    }
}

impl AsyncTokioStream for Lines {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}

impl AsyncRead for Lines {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.tls {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut one = [0];
        let mut byte = ReadBuf::new(&mut one);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut byte))?;
        buf.put_slice(byte.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.tls |= buf.first() == Some(&HANDSHAKE);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

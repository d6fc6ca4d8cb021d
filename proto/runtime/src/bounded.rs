//! A listener with so many connections at once, each for so long: more of them have the oldest closed, and
//! don't run the process out of files.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Before the next try, when no connection could be taken in.
const RETRY: Duration = Duration::from_millis(200);

/// Accepts connections.
pub(crate) struct Bounded {
    listener: TcpListener,
    most: usize,
    life: Duration,
    /// The connections there are, the oldest first.
    open: VecDeque<Weak<CancellationToken>>,
}

/// One of them. It ends with an error once its time is over.
pub(crate) struct Connection {
    stream: TcpStream,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    late: Pin<Box<tokio::time::Sleep>>,
    /// Held as long as the connection is.
    _open: Arc<CancellationToken>,
}

impl Bounded {
    /// At most so many connections, none for longer than this.
    pub(crate) fn new(listener: TcpListener, most: usize, life: Duration) -> Self {
        Self { listener, most, life, open: VecDeque::new() }
    }

    fn admit(&mut self, stream: TcpStream) -> Connection {
        self.open.retain(|open| open.strong_count() > 0);
        while self.open.len() >= self.most {
            if let Some(oldest) = self.open.pop_front().and_then(|open| open.upgrade()) {
                oldest.cancel();
            }
        }
        let open = Arc::new(CancellationToken::new());
        self.open.push_back(Arc::downgrade(&open));
        let over = Box::pin((*open).clone().cancelled_owned());
        Connection { stream, over, late: Box::pin(tokio::time::sleep(self.life)), _open: open }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (self.admit(stream), peer),
                // One that went away, or no file left for it: others may be had, or later.
                Err(error) => {
                    tracing::debug!(%error, "a connection for operations was not taken in");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let over = self.over.as_mut().poll(context).is_ready() || self.late.as_mut().poll(context).is_ready();
        if over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn the_oldest_connection_makes_room_and_an_idle_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut bounded = Bounded::new(listener, 2, Duration::from_secs(60));
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
            served.push(bounded.accept().await.0);
        }
        assert_eq!(served[0].read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        for i in [1, 2] {
            clients[i].write_u8(7).await.unwrap();
            assert_eq!(served[i].read_u8().await.unwrap(), 7);
        }
        // One that has ended makes room by itself.
        served.remove(1);
        clients.push(TcpStream::connect(address).await.unwrap());
        let (mut last, _) = bounded.accept().await;
        clients[2].write_u8(8).await.unwrap();
        assert_eq!(served[1].read_u8().await.unwrap(), 8);
        bounded.life = Duration::ZERO;
        clients[3].write_u8(9).await.unwrap();
        assert_eq!(last.read_u8().await.unwrap(), 9);
        let _client = TcpStream::connect(address).await.unwrap();
        let (mut short, _) = bounded.accept().await;
        assert_eq!(short.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}

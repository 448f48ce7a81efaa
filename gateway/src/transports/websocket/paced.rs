//! The bytes under a WebSocket, so that one client cannot keep a core: a message may come in frames of one byte, of which a core
//! reads millions a second without ever having a message.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Read at once, as much as an agent's message seldom exceeds. Then it is the turn of the core's other connections: so much in frames of
/// one byte is tens of microseconds.
const TURN_BYTES: usize = 1024;
/// What a frame's head may take beside its payload: an eighth would be fragments of 64 bytes.
const OVERHEAD: usize = 4;
/// Of the largest message so much is read without a pause: a frame of the size that agents may send, whole.
const UNPAUSED: usize = 4;
/// A pause for so much of the largest message that is read behind that.
const STEP: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// Pings and pongs are no messages. After so long without one they are begun to be counted anew: an idle page answers one a minute. Far
/// longer than all pauses of what is cut, on a busy core too.
const COUNTED_FOR: Duration = Duration::from_secs(60);

/// A stream that is read in turns, ever more slowly the more comes of one message, and not for ever without one.
#[derive(Debug)]
pub struct Paced<S> {
    stream: S,
    turn: usize,
    /// Since the last message, or since then.
    read: usize,
    since: Instant,
    message_bytes_max: usize,
    /// Where the next pause is, in `read`.
    pause_at: usize,
    pause: Option<Pin<Box<Sleep>>>,
}

/// More was read than a message takes, and there was none.
#[derive(Debug, thiserror::Error)]
#[error("{0} bytes without a whole message: send one frame a message, and few pings")]
struct Endless(usize);

impl<S> Paced<S> {
    pub(super) fn new(stream: S, message_bytes_max: usize) -> Self {
        let pause_at = message_bytes_max / UNPAUSED;
        Self { stream, turn: 0, read: 0, since: Instant::now(), message_bytes_max, pause_at, pause: None }
    }

    /// There was a message.
    pub fn finished(&mut self) {
        (self.read, self.since) = (0, Instant::now());
        (self.pause_at, self.pause) = (self.message_bytes_max / UNPAUSED, None);
    }

    /// Whether it was cut because there was none.
    pub fn is_endless(&self) -> bool {
        self.read > self.message_bytes_max + self.message_bytes_max / OVERHEAD
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if polled.is_pending() {
            self.turn = 0;
        }
        ready!(polled)?;
        let read = buffer.filled().len() - before;
        self.turn += read;
        if self.read > 0 && self.since.elapsed() > COUNTED_FOR {
            self.finished();
        }
        self.read += read;
        if self.read >= self.pause_at {
            self.pause_at = self.read + self.message_bytes_max / STEP;
            self.pause = Some(Box::pin(sleep(PAUSE)));
        }
        match self.is_endless() {
            true => Poll::Ready(Err(io::Error::other(Endless(self.read)))),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const MESSAGE: usize = 64 * 1024;

    #[tokio::test]
    async fn a_stream_that_is_always_ready_gives_others_their_turn() {
        let (mut client, server) = duplex(2 * TURN_BYTES);
        let mut paced = Paced::new(server, MESSAGE);
        client.write_all(&[0; 2 * TURN_BYTES]).await.unwrap();
        let mut buffer = [0; TURN_BYTES / 4];
        let turn = std::iter::from_fn(|| paced.read(&mut buffer).now_or_never()).count();
        assert_eq!(turn, 4);
        assert_eq!(paced.read(&mut buffer).now_or_never().unwrap().unwrap(), buffer.len(), "the next turn");
    }

    #[tokio::test]
    async fn what_is_no_message_is_read_up_to_the_size_of_one_and_what_is_one_for_ever() {
        let (mut client, server) = duplex(MESSAGE);
        let mut paced = Paced::new(server, MESSAGE);
        let mut buffer = vec![0; MESSAGE / 2];
        for _ in 0..10 {
            client.write_all(&buffer).await.unwrap();
            paced.read_exact(&mut buffer).await.unwrap();
            paced.finished();
        }
        client.write_all(&buffer[..MESSAGE / 4 - 1]).await.unwrap();
        paced.read_exact(&mut buffer[..MESSAGE / 4 - 1]).await.unwrap();
        assert!(paced.pause.is_none(), "a frame is read without a pause");
        paced.finished();
        let (mut read, began) = (0, Instant::now());
        let error = loop {
            client.write_all(&[0; 1024]).await.unwrap();
            match paced.read(&mut buffer).await {
                Ok(more) => read += more,
                Err(error) => break error,
            }
        };
        assert!((MESSAGE..=2 * MESSAGE).contains(&read), "{read}");
        let paused = began.elapsed();
        assert!(paused >= PAUSE * 48, "the largest message takes its time: {paused:?}");
        assert!(paced.is_endless() && error.to_string().contains("one frame a message"), "{error}");
    }
}

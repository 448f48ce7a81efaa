//! How much of what a client sends HTTP/3 may hold. h3 collects a frame until it is whole, and a frame may announce 2^62 bytes; what
//! it reads, QUIC's own windows take for consumed. So its streams go through a count: what was read and not passed on yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, OpenStreams, StreamErrorIncoming, StreamId, WriteBuf};
use h3_quinn::{BidiStream, Connection, OpenStreams as Opener, RecvStream, SendStream};

use crate::transports::HEADER_BYTES_MAX;
use crate::transports::quic::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

/// Of one stream: a head, and what may have come with it in one piece.
const STREAM_BYTES_MAX: usize = HEADER_BYTES_MAX + STREAM_WINDOW_BYTES as usize;
/// Of all streams of a connection: as much as QUIC itself may hold of it.
const CONNECTION_BYTES_MAX: usize = CONNECTION_WINDOW_BYTES as usize;

/// A client asked to have more held than it may.
#[derive(Debug, thiserror::Error)]
#[error(
    "more than {STREAM_BYTES_MAX} bytes of one stream, or {CONNECTION_BYTES_MAX} of a connection, would have to be held"
)]
struct Excessive;

/// What is held of one stream.
#[derive(Debug)]
pub struct Budget {
    stream: AtomicUsize,
    connection: Arc<AtomicUsize>,
}

impl Budget {
    fn new(connection: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { stream: AtomicUsize::new(0), connection })
    }

    fn is_spent(&self) -> bool {
        self.stream.load(Ordering::Relaxed) >= STREAM_BYTES_MAX
            || self.connection.load(Ordering::Relaxed) >= CONNECTION_BYTES_MAX
    }

    fn held(&self, bytes: usize) {
        self.stream.fetch_add(bytes, Ordering::Relaxed);
        self.connection.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was read of the stream has been passed on.
    pub fn renew(&self) {
        let bytes = self.stream.swap(0, Ordering::Relaxed);
        self.connection.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        self.renew();
    }
}

/// A connection, or what opens streams of one, whose streams are counted.
pub struct Counted<C> {
    inner: C,
    held: Arc<AtomicUsize>,
}

impl Counted<Connection> {
    /// Nothing is held of it yet.
    pub fn new(connection: quinn::Connection) -> Self {
        Self { inner: Connection::new(connection), held: Arc::default() }
    }
}

impl quic::Connection<Bytes> for Counted<Connection> {
    type RecvStream = CountedRecv;
    type OpenStreams = Counted<Opener>;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let stream = ready!(quic::Connection::<Bytes>::poll_accept_recv(&mut self.inner, cx))?;
        Poll::Ready(Ok(CountedRecv { stream, budget: Budget::new(Arc::clone(&self.held)) }))
    }

    fn poll_accept_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        let stream = ready!(self.inner.poll_accept_bidi(cx))?;
        Poll::Ready(Ok(CountedBidi::new(stream, &self.held)))
    }

    fn opener(&self) -> Self::OpenStreams {
        let inner = quic::Connection::<Bytes>::opener(&self.inner);
        Counted { inner, held: Arc::clone(&self.held) }
    }
}

impl<C> OpenStreams<Bytes> for Counted<C>
where
    C: OpenStreams<Bytes, BidiStream = BidiStream<Bytes>, SendStream = SendStream<Bytes>>,
{
    type BidiStream = CountedBidi;
    type SendStream = SendStream<Bytes>;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        let stream = ready!(self.inner.poll_open_bidi(cx))?;
        Poll::Ready(Ok(CountedBidi::new(stream, &self.held)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        self.inner.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.inner.close(code, reason);
    }
}

/// The receiving half of a stream.
pub struct CountedRecv {
    stream: RecvStream,
    budget: Arc<Budget>,
}

impl quic::RecvStream for CountedRecv {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if self.budget.is_spent() {
            self.stream.stop_sending(Code::H3_EXCESSIVE_LOAD.value());
            return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(Excessive))));
        }
        let data = ready!(self.stream.poll_data(cx))?;
        self.budget.held(data.as_ref().map_or(0, Buf::remaining));
        Poll::Ready(Ok(data))
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.stream.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.stream.recv_id()
    }
}

/// A stream of both directions.
pub struct CountedBidi {
    send: SendStream<Bytes>,
    recv: CountedRecv,
}

impl CountedBidi {
    fn new(stream: BidiStream<Bytes>, held: &Arc<AtomicUsize>) -> Self {
        let (send, stream) = quic::BidiStream::split(stream);
        Self { send, recv: CountedRecv { stream, budget: Budget::new(Arc::clone(held)) } }
    }

    /// To be renewed by whoever passes on what is read of it.
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.recv.budget)
    }
}

impl quic::BidiStream<Bytes> for CountedBidi {
    type SendStream = SendStream<Bytes>;
    type RecvStream = CountedRecv;

    fn split(self) -> (Self::SendStream, Self::RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for CountedBidi {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for CountedBidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::SendStreamUnframed<Bytes> for CountedBidi {
    fn poll_send<D: Buf>(&mut self, cx: &mut Context<'_>, buf: &mut D) -> Poll<Result<usize, StreamErrorIncoming>> {
        self.send.poll_send(cx, buf)
    }
}

//! One visitor's session: the agent that runs in every page, with a socket and a clock around it instead of a browser.

use std::{cell::RefCell, iter::Peekable, pin::Pin, sync::Arc, time::Duration};

use agent_core::{Agent, Answer, BATCHES_MAX, BatchId, Command, FRAME_BYTES, Kept, NotAdopted, STORED_AT, Start};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;

mod habits;
mod outbox;

pub use habits::Habits;
use outbox::Outbox;

use crate::{
    gateway::{ConnectError, Gateways, Socket},
    receipts::Receipts,
    tally::Tally,
    visitor::Visitor,
    walk::{Event, Intended},
};

/// A gateway that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is left of a connection gets so long to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// When a session is to end.
#[derive(Clone, Default)]
pub struct Ends {
    /// No more events: flush, wait for the answers, leave.
    pub flush: CancellationToken,
    /// Leave now, whatever is unanswered.
    pub leave: CancellationToken,
    /// Cancelled by a session whose site or origin the gateway does not take.
    pub refused: CancellationToken,
}

/// From when until when the visitor has the page open.
#[derive(Debug, Clone, Copy)]
pub struct Stay {
    /// What intended times count from.
    pub begin: Instant,
    /// Since `begin`. Then the session flushes and, when everything is answered, leaves.
    pub until: Duration,
}

/// A visitor's agent at work.
pub struct Session<I: Iterator<Item = Intended>> {
    agent: Box<Agent>,
    site: String,
    visitor: Visitor,
    intended: Peekable<I>,
    stay: Stay,
    gateway: Arc<Gateways>,
    habits: Habits,
    /// What is on the device.
    outbox: Outbox,
    ends: Ends,
    tally: Arc<Tally>,
    receipts: Receipts,
    clock: Clock,
    link: Link,
    had_connection: bool,
    flushed: bool,
}

impl<I: Iterator<Item = Intended>> Session<I> {
    /// A session that has not started.
    pub fn new(
        site: &str,
        visitor: Visitor,
        intended: I,
        stay: Stay,
        gateway: Arc<Gateways>,
        tally: Arc<Tally>,
        ends: Ends,
    ) -> Self {
        Self {
            agent: Box::new(Agent::new()),
            site: site.to_owned(),
            visitor,
            intended: intended.peekable(),
            stay,
            gateway,
            habits: Habits::default(),
            outbox: Outbox::default(),
            ends,
            receipts: Receipts::new(tally.clone()),
            tally,
            clock: Clock::new(),
            link: Link::Down,
            had_connection: false,
            flushed: false,
        }
    }

    /// The same visitor, with habits.
    pub fn with_habits(self, habits: Habits) -> Self {
        Self { habits, ..self }
    }

    /// Runs until everything has an outcome after the stay, or until it is told to leave.
    pub async fn run(mut self) {
        if !self.start() {
            self.tally.lock().refusal = Some(format!("{:?} cannot be a site's name", self.site));
            return self.ends.refused.cancel();
        }
        while let Some(wait) = self.obey().await {
            if self.flushed && self.receipts.outstanding() == 0 {
                self.tally.lock().agents_settled += 1;
                break;
            }
            let wake = self.wake_at(wait);
            tokio::select! {
                biased;
                () = self.ends.leave.cancelled() => break,
                () = self.ends.flush.cancelled(), if !self.flushed => self.flush(),
                happened = self.link.next() => self.on_link(happened),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.hand_over_what_is_due();
            self.follow_habits().await;
        }
        self.disconnect().await;
    }

    /// Starts the agent of a page.
    fn start(&mut self) -> bool {
        let start = Start {
            site: &self.site,
            stamp_ms: self.clock.now_ms(),
            random: rand::random(),
            class: self.habits.class(),
            language: self.visitor.language,
            screen_width: self.visitor.screen.0,
            screen_height: self.visitor.screen.1,
            ..Start::default()
        };
        self.agent.start(&start).is_ok()
    }

    /// Moves to another gateway, or closes the page and opens another one, when it is time.
    async fn follow_habits(&mut self) {
        let now = Instant::now();
        if self.flushed {
            self.habits.stay();
        }
        if self.habits.moves(now) && matches!(self.link, Link::Up(_)) {
            self.disconnect().await;
            self.agent.closed(self.clock.now_ms(), true);
        }
        if self.habits.leaves(now) {
            self.agent.flush(self.clock.now_ms());
            while let Step::Store(stored) = self.store() {
                self.keep(&stored);
            }
            if self.receipts.unnumbered() > 0 {
                return self.habits.stays(now); // its outbox is full: the rest is in the page's memory alone
            }
            self.disconnect().await;
            if self.start() {
                self.restore();
            }
        }
    }

    /// The next batch that the agent wants on the device.
    fn store(&mut self) -> Step {
        let mut stored = [0; FRAME_BYTES];
        match self.agent.store(&mut stored) {
            Some(length) => Step::Store(Bytes::copy_from_slice(&stored[..length])),
            None => Step::Wait(Duration::ZERO),
        }
    }

    fn keep(&mut self, stored: &[u8]) {
        let Some((replaced, id)) = self.outbox.keep(stored) else { return };
        self.receipts.stored(replaced, id, &stored[STORED_AT..]);
        self.agent.stored(self.clock.now_ms(), &id, Kept::Stored);
    }

    /// Gives the agent what is on the device, as far as it has room.
    fn restore(&mut self) {
        let now_ms = self.clock.now_ms();
        for (id, batch) in self.outbox.iter() {
            if self.agent.restore(now_ms, batch, self.receipts.was_sent(id)) == Err(NotAdopted::NoRoom) {
                return;
            }
        }
    }

    /// Does what the agent says until it says to wait; nothing if it never wants anything again.
    async fn obey(&mut self) -> Option<Duration> {
        let mut wrote = false;
        loop {
            match self.poll() {
                Step::Wait(wait) => {
                    if wrote && let Link::Up(socket) = &mut self.link {
                        let flushed = timeout(WRITE_TIMEOUT, socket.flush()).await;
                        if !matches!(flushed, Ok(Ok(()))) {
                            self.lost();
                            wrote = false;
                            continue;
                        }
                    }
                    return Some(wait);
                }
                Step::Send(frame) => {
                    self.receipts.transmitted(Instant::now(), &frame);
                    wrote = true;
                    if let Link::Up(socket) = &mut self.link {
                        let fed = timeout(WRITE_TIMEOUT, socket.feed(Message::Binary(frame))).await;
                        if !matches!(fed, Ok(Ok(()))) {
                            self.lost();
                        }
                    }
                }
                Step::Store(stored) => self.keep(&stored),
                Step::Settled(id) => {
                    if self.outbox.forget(&id) && self.outbox.len() >= BATCHES_MAX / 2 {
                        self.restore();
                    }
                }
                Step::Connect => {
                    let away = self.habits.back_at();
                    let (gateway, visitor) = (self.gateway.clone(), self.visitor.clone());
                    self.link = Link::Connecting(Box::pin(async move {
                        tokio::time::sleep_until(away).await;
                        gateway.connect(&visitor).await
                    }));
                }
                Step::Disconnect => self.disconnect().await,
                Step::Stopped => return None,
            }
        }
    }

    /// The agent's next command.
    fn poll(&mut self) -> Step {
        thread_local! {
            // One buffer a thread instead of one an agent: a frame leaves it before anything else can happen.
            static FRAME: RefCell<[u8; FRAME_BYTES]> = const { RefCell::new([0; FRAME_BYTES]) };
        }
        FRAME.with_borrow_mut(|frame| match self.agent.poll(self.clock.now_ms(), frame) {
            Command::Settled(settled) => {
                self.receipts.settled(Instant::now(), settled);
                Step::Settled(settled.id)
            }
            Command::Send(length) => Step::Send(Bytes::copy_from_slice(&frame[..length])),
            Command::Store(length) => Step::Store(Bytes::copy_from_slice(&frame[..length])),
            Command::Connect => Step::Connect,
            Command::Disconnect => Step::Disconnect,
            Command::Wait(ms) => Step::Wait(Duration::from_millis(ms)),
            Command::Stopped => Step::Stopped,
        })
    }

    fn on_link(&mut self, happened: Happened) {
        match happened {
            Happened::Connected(socket) => {
                self.link = Link::Up(socket);
                let mut sums = self.tally.lock();
                sums.connections.open += 1;
                sums.connections.opened += 1;
                sums.connections.reconnects += u64::from(self.had_connection);
                drop(sums);
                self.had_connection = true;
                self.agent.opened(self.clock.now_ms());
            }
            Happened::Failed(error) => {
                let mut sums = self.tally.lock();
                sums.connections.failed += 1;
                sums.connections.last_failure = Some(error.to_string());
                drop(sums);
                self.lost();
            }
            Happened::Message(Message::Binary(frame)) => self.on_frame(&frame),
            Happened::Message(_) => {} // pings are answered by the library, a close is followed by the end
            Happened::Ended => self.lost(),
        }
    }

    fn on_frame(&mut self, frame: &[u8]) {
        self.receipts.received(frame.len());
        match self.agent.receive(self.clock.now_ms(), frame) {
            Answer::Taken | Answer::Noticed(_) => {}
            Answer::Unreadable => self.tally.lock().batches.unknown_answers += 1,
            Answer::Refused(_, message) => self.tally.lock().refusal = Some(text(message)),
            Answer::Stopped(_, message) => {
                self.tally.lock().refusal = Some(text(message));
                self.ends.refused.cancel();
            }
        }
    }

    /// Gives the agent every event whose time has come, whatever the gateway does meanwhile.
    fn hand_over_what_is_due(&mut self) {
        if self.flushed {
            return;
        }
        let elapsed = self.stay.begin.elapsed();
        while let Some(Intended { at, event }) = self.intended.next_if(|next| next.at <= elapsed) {
            let props: Vec<(&str, &str)> = event.props.iter().map(|(key, value)| (&**key, &**value)).collect();
            let Event { name, url, referrer, engaged_ms, .. } = &event;
            let told = agent_core::Event { name, url, referrer, props: &props, engaged_ms: *engaged_ms };
            let taken = self.agent.event(self.clock.now_ms(), &told);
            self.receipts.handed_over(Instant::now(), self.stay.begin + at, event, taken);
        }
        if elapsed >= self.stay.until {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.flushed = true;
        self.agent.flush(self.clock.now_ms());
    }

    fn wake_at(&mut self, wait: Duration) -> Instant {
        let wake = Instant::now() + wait;
        if self.flushed {
            return wake;
        }
        let wake = self.habits.next_at().map_or(wake, |at| wake.min(at));
        let next = self.intended.peek().map_or(self.stay.until, |next| next.at.min(self.stay.until));
        wake.min(self.stay.begin + next)
    }

    /// The connection broke, or did not come about.
    fn lost(&mut self) {
        self.drop_link();
        self.agent.closed(self.clock.now_ms(), false);
    }

    async fn disconnect(&mut self) {
        if let Link::Up(socket) = &mut self.link {
            // A courtesy: whatever matters was acknowledged before.
            let _ = timeout(CLOSE_TIMEOUT, socket.close()).await;
        }
        self.drop_link();
    }

    fn drop_link(&mut self) {
        if let Link::Up(_) = std::mem::replace(&mut self.link, Link::Down) {
            self.tally.lock().connections.open -= 1;
        }
    }
}

fn text(message: &[u8]) -> String {
    String::from_utf8_lossy(message).into_owned()
}

enum Step {
    Connect,
    Send(Bytes),
    Store(Bytes),
    Settled(BatchId),
    Disconnect,
    Wait(Duration),
    Stopped,
}

enum Link {
    Down,
    Connecting(Pin<Box<dyn Future<Output = Result<Socket, ConnectError>> + Send>>),
    Up(Box<Socket>),
}

enum Happened {
    Connected(Box<Socket>),
    Failed(ConnectError),
    Message(Message),
    Ended,
}

impl Link {
    /// The next thing that happens on the connection; never, if there is none. May be dropped and asked again.
    async fn next(&mut self) -> Happened {
        match self {
            Self::Down => std::future::pending().await,
            Self::Connecting(attempt) => match attempt.await {
                Ok(socket) => Happened::Connected(Box::new(socket)),
                Err(error) => Happened::Failed(error),
            },
            Self::Up(socket) => match socket.next().await {
                Some(Ok(message)) => Happened::Message(message),
                None | Some(Err(tungstenite::Error::ConnectionClosed)) => Happened::Ended,
                Some(Err(_)) => Happened::Ended,
            },
        }
    }
}

/// A device's clock: right at the start, then steady.
struct Clock {
    started_ms: u64,
    started: Instant,
}

impl Clock {
    fn new() -> Self {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { started_ms: since_1970.as_millis() as u64, started: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        self.started_ms + self.started.elapsed().as_millis() as u64
    }
}

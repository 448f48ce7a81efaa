//! The machine. It is told the time and what came in, and says what to do next.

mod stored;

use proto::limits::IN_FLIGHT_MAX;

use crate::batch::Page;
use crate::connection::{Connection, Wish};
use crate::frames::{self, Envelope, FRAME_BYTES, Reject, SITE_BYTES_MAX, ServerFrame};
use crate::given_up::{GivenUp, Reason};
use crate::numbering::Numbering;
use crate::outbox::{Entry, NoRoom, Outbox, State, unsent};
use crate::regions::{Region, Regions};
use crate::shell::{Answer, Command, Event, EventNumber, NotTaken, Outcome, Settled, Start, StartError};

/// How long an open batch waits when the gateway has said nothing else.
const FLUSH_INTERVAL_DEFAULT_MS: u64 = 500;
/// How long an open batch waits at most, whatever the gateway says and while nothing can leave.
const FLUSH_INTERVAL_MAX_MS: u64 = 60_000;
/// A clock that is this far behind what it said before was set back; less is a clock being trimmed.
const CLOCK_TRIMMED_MS: u64 = 1_000;
/// A connection that has not answered for so long is none: a gateway answers after its disk and its Redis have.
const ANSWER_MS_MAX: u64 = 30_000;
/// How long a refused batch waits for the answers to its other transmissions.
const DOUBT_MS_MAX: u64 = 30_000;
/// A batch leaves as a POST once in this time: a page that goes says so twice within milliseconds.
const POST_AGAIN_MS: u64 = 1_000;
/// A batch whose every number is refused is given up: the clocks will not agree.
const RENUMBERED_MAX: u32 = 3;
/// [`Command::Wait`] never says more.
const WAIT_MS_MAX: u64 = 60_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unstarted,
    Running,
    Stopped,
}

/// One agent: its queue, its numbers, its connection. About 55 KiB, all of it in place.
///
/// The shell tells it what happens ([`event`](Self::event), [`flush`](Self::flush), [`opened`](Self::opened),
/// [`closed`](Self::closed), [`receive`](Self::receive)) and after each asks [`poll`](Self::poll) what to do, again and
/// again until that is to wait. Every time is the device's clock, Unix ms; it may jump.
pub struct Agent {
    phase: Phase,
    site: [u8; SITE_BYTES_MAX],
    site_len: usize,
    /// The device's clock when it was last told.
    now_ms: u64,
    /// The same, without its jumps back: what all waiting goes by.
    steady_ms: u64,
    flush_interval_ms: u64,
    quiet_until_ms: u64,
    page: Page,
    numbering: Numbering,
    connection: Connection,
    regions: Regions,
    /// Where the connection leads, once the gateway has said so.
    region: Option<Region>,
    given_up: GivenUp,
    outbox: Outbox,
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent {
    /// An agent that has not started: it takes nothing and wants nothing. All of its bytes are zero but few.
    pub const fn new() -> Self {
        Self {
            phase: Phase::Unstarted,
            site: [0; SITE_BYTES_MAX],
            site_len: 0,
            now_ms: 0,
            steady_ms: 0,
            flush_interval_ms: 0,
            quiet_until_ms: 0,
            page: Page::new(),
            numbering: Numbering::new(),
            connection: Connection::new(),
            regions: Regions::new(),
            region: None,
            given_up: GivenUp::new(),
            outbox: Outbox::new(),
        }
    }

    /// Starts with an empty outbox, whatever was before.
    pub fn start(&mut self, start: &Start<'_>) -> Result<(), StartError> {
        let site = start.site.as_bytes();
        match self.site.get_mut(..site.len()) {
            Some(place) if !site.is_empty() => place.copy_from_slice(site),
            _ => return Err(StartError::InvalidSite),
        }
        self.site_len = site.len();
        self.phase = Phase::Running;
        self.now_ms = start.stamp_ms;
        self.steady_ms = 0;
        self.flush_interval_ms = FLUSH_INTERVAL_DEFAULT_MS;
        self.quiet_until_ms = 0;
        self.page.start(start);
        self.numbering.start(start.stamp_ms, start.random, start.first_seq, start.class);
        self.connection.start(start.random);
        self.regions = Regions::new();
        self.region = None;
        self.given_up = GivenUp::new();
        self.outbox.clear();
        Ok(())
    }

    /// Appends an event that happened now.
    pub fn event(&mut self, now_ms: u64, event: &Event<'_>) -> Result<EventNumber, NotTaken> {
        self.observe(now_ms);
        if self.phase != Phase::Running {
            return Err(NotTaken::Stopped);
        }
        let mut appended = self.outbox.append(event, &self.page, now_ms, self.steady_ms);
        if appended == Err(NoRoom::Full) && self.outbox.open().events() > 0 && self.close() {
            appended = self.outbox.append(event, &self.page, now_ms, self.steady_ms);
        }
        appended.map_err(|no_room| {
            let reason = match no_room {
                NoRoom::TooLarge => Reason::TOO_LARGE,
                NoRoom::Full => Reason::OUTBOX_FULL,
            };
            self.given_up.add(reason, 1, 0, self.steady_ms);
            NotTaken::GivenUp(reason)
        })
    }

    /// Reports events that the shell had to give up itself.
    pub fn give_up(&mut self, now_ms: u64, reason: Reason, events: u32) {
        self.observe(now_ms);
        if events > 0 {
            self.given_up.add(reason, events, 0, self.steady_ms);
        }
    }

    /// Closes the open batch, so that the next [`poll`](Self::poll) or [`post`](Self::post) takes it along.
    pub fn flush(&mut self, now_ms: u64) {
        self.observe(now_ms);
        self.close();
    }

    /// The connection that [`Command::Connect`] asked for is open.
    pub fn opened(&mut self, now_ms: u64) {
        self.observe(now_ms);
        self.region = None;
        self.connection.opened();
    }

    /// The connection is gone, or was not to be had. `on_purpose`: the shell closed it and wants the next one at once.
    pub fn closed(&mut self, now_ms: u64, on_purpose: bool) {
        self.observe(now_ms);
        self.outbox.disconnected();
        if on_purpose {
            self.connection.left(self.steady_ms);
        } else if !self.connection.is_down() {
            self.connection.failed(self.steady_ms);
        }
    }

    /// A message from the gateway, or the answer to a POST.
    pub fn receive<'f>(&mut self, now_ms: u64, frame: &'f [u8]) -> Answer<'f> {
        self.observe(now_ms);
        let Ok(frame) = frames::read_server_frame(frame) else { return Answer::Unreadable };
        match frame {
            ServerFrame::Welcome { server_ms, region, flush_interval_ms } => {
                self.numbering.learn_server_clock(server_ms, now_ms);
                self.connection.welcomed(self.steady_ms);
                self.region = self.regions.meet(region);
                self.outbox.met_region(self.region);
                self.configure(flush_interval_ms);
            }
            ServerFrame::Ack(ack) => {
                self.numbering.learn_server_clock(ack.server_ms, now_ms);
                ack.for_each_seq(|seq| {
                    if let Some(entry) = self.outbox.find(ack.sid, seq) {
                        // The answer to a POST says nothing about the connection.
                        if matches!(entry.state, State::InFlight { .. }) && entry.posted_ms.is_none() {
                            self.connection.served();
                        }
                        entry.state = State::Settled(Outcome::Acknowledged);
                    }
                });
                if !ack.message.is_empty() {
                    return Answer::Noticed(ack.message);
                }
            }
            ServerFrame::Reject(reject) => {
                self.numbering.learn_server_clock(reject.server_ms, now_ms);
                self.refused(&reject);
                let answer = if self.phase == Phase::Stopped { Answer::Stopped } else { Answer::Refused };
                return answer(reject.reason, reject.message);
            }
            ServerFrame::Throttle { wait_ms, sid, seq } => {
                self.quiet_until_ms = self.quiet_until_ms.max(self.steady_ms.saturating_add(wait_ms.into()));
                if let Some(entry) = self.outbox.find(sid, seq) {
                    entry.refusals += 1;
                    entry.state = State::Waiting;
                }
            }
            ServerFrame::Drain { within_ms } => self.connection.drain(within_ms, self.steady_ms),
            ServerFrame::Config { flush_interval_ms } => self.configure(flush_interval_ms),
            ServerFrame::Notice { message } => return Answer::Noticed(message),
            ServerFrame::Unknown => {}
        }
        Answer::Taken
    }

    /// A batch that has its outcome, once for each. [`poll`](Self::poll) asks for the same.
    pub fn settled(&mut self) -> Option<Settled> {
        self.outbox.take_settled(&mut self.given_up, self.steady_ms)
    }

    /// What to do next. Frames to send are written to `frame`.
    pub fn poll(&mut self, now_ms: u64, frame: &mut [u8; FRAME_BYTES]) -> Command {
        self.observe(now_ms);
        self.give_up_in_doubt();
        self.give_up_expired();
        if let Some(settled) = self.settled() {
            return Command::Settled(settled);
        }
        if self.phase != Phase::Running {
            let connected = !self.connection.is_down();
            self.connection.left(self.steady_ms);
            return if connected { Command::Disconnect } else { Command::Stopped };
        }
        if let Some(bytes) = self.store_if(frame, self.connection.is_up(), false) {
            return Command::Store(bytes);
        }
        if self.answer_at_ms().is_some_and(|at_ms| at_ms <= self.steady_ms) {
            self.connection.broken();
        }
        let connection_at_ms = match self.connection.poll(self.steady_ms) {
            Wish::Connect => return Command::Connect,
            Wish::Disconnect => {
                self.outbox.disconnected();
                return Command::Disconnect;
            }
            Wish::Nothing(at_ms) => at_ms,
        };
        if self.connection.take_hello() {
            return sent(frames::write_hello(frame, self.site()));
        }
        if self.close_at_ms().is_some_and(|at_ms| at_ms <= self.steady_ms) {
            self.close();
            if let Some(bytes) = self.store_if(frame, self.connection.is_up(), false) {
                return Command::Store(bytes);
            }
        }
        if let Some(command) = self.transmit(frame) {
            return command;
        }
        let deadlines =
            [connection_at_ms, self.close_at_ms(), self.answer_at_ms(), self.doubt_at_ms(), self.quiet_at_ms()];
        let next_ms = deadlines.into_iter().flatten().min().unwrap_or(u64::MAX);
        Command::Wait(next_ms.saturating_sub(self.steady_ms).clamp(1, WAIT_MS_MAX))
    }

    /// Writes the oldest batch without an answer as a bare Envelope, the body of `POST /v1/batch`, and gives its length;
    /// each batch once a second at most, so ask until there is none. The same number over two ways counts once.
    pub fn post(&mut self, now_ms: u64, body: &mut [u8; FRAME_BYTES]) -> Option<usize> {
        self.observe(now_ms);
        let steady_ms = self.steady_ms;
        let due =
            |entry: &Entry| entry.may_leave() && entry.posted_ms.is_none_or(|at_ms| at_ms + POST_AGAIN_MS <= steady_ms);
        if self.phase != Phase::Running {
            return None;
        }
        let entry = self.outbox.entries_mut().find(|entry| due(entry))?;
        entry.posted_ms = Some(steady_ms);
        entry.transmissions += 1;
        let entry = *entry;
        self.envelope(&entry, self.site()).write_bare(body).ok()
    }

    fn site(&self) -> &[u8] {
        self.site.get(..self.site_len).unwrap_or_default()
    }

    /// Follows the device's clock. One that was set back closes the batch: its events' times would not fit together.
    fn observe(&mut self, now_ms: u64) {
        let back_ms = self.now_ms.saturating_sub(now_ms);
        if back_ms > CLOCK_TRIMMED_MS {
            self.close();
            self.numbering.set_back(back_ms);
        }
        let ahead_ms = now_ms.saturating_sub(self.now_ms);
        self.steady_ms = self.steady_ms.saturating_add(ahead_ms);
        if ahead_ms > FLUSH_INTERVAL_MAX_MS {
            self.close(); // set forward, or asleep: the batch is too old either way
        }
        self.now_ms = now_ms;
    }

    fn configure(&mut self, flush_interval_ms: u32) {
        if flush_interval_ms != 0 {
            self.flush_interval_ms = u64::from(flush_interval_ms).min(FLUSH_INTERVAL_MAX_MS);
        }
    }

    /// Closes and numbers the open batch, if there is anything in it or to report and a place for it.
    fn close(&mut self) -> bool {
        let anything = self.outbox.open().events() > 0 || !self.given_up.is_empty();
        let closes = self.phase == Phase::Running
            && anything
            && self.outbox.has_place()
            && self.outbox.open_for_report(&self.page, self.now_ms, self.steady_ms);
        if closes {
            let number = self.numbering.next(self.now_ms);
            self.outbox.close(number, &mut self.given_up);
        }
        closes
    }

    /// When the open batch is to be closed: after the flush interval if it can leave then, after a minute if not. So what
    /// has to wait waits in one batch, not in many.
    fn close_at_ms(&self) -> Option<u64> {
        let open = self.outbox.open();
        let event_ms = (open.events() > 0).then_some(open.opened_ms());
        let report_ms = (!self.given_up.is_empty()).then_some(self.given_up.since_ms());
        let since_ms = event_ms.into_iter().chain(report_ms).min()?;
        let leaves = self.may_transmit() && !self.outbox.entries().any(|entry| entry.state == State::Waiting);
        let interval_ms = if leaves { self.flush_interval_ms } else { FLUSH_INTERVAL_MAX_MS };
        let roomy = event_ms.is_some() || self.outbox.has_room_for_report();
        (self.outbox.has_place() && roomy).then_some(since_ms + interval_ms)
    }

    fn may_transmit(&self) -> bool {
        self.connection.is_up() && self.quiet_until_ms <= self.steady_ms && self.in_flight() < IN_FLIGHT_MAX
    }

    fn in_flight(&self) -> usize {
        self.outbox.entries().filter(|entry| matches!(entry.state, State::InFlight { .. })).count()
    }

    /// When the connection has taken too long over an answer.
    fn answer_at_ms(&self) -> Option<u64> {
        let sent = self.outbox.entries().filter_map(|entry| match entry.state {
            State::InFlight { sent_ms } => Some(sent_ms + ANSWER_MS_MAX),
            _ => None,
        });
        sent.min()
    }

    /// When a refused batch has waited long enough for its other answers.
    fn doubt_at_ms(&self) -> Option<u64> {
        let refused = self.outbox.entries().filter_map(|entry| match entry.state {
            State::Refused { until_ms } => Some(until_ms),
            _ => None,
        });
        refused.min()
    }

    /// When a throttled connection may speak again.
    fn quiet_at_ms(&self) -> Option<u64> {
        (self.quiet_until_ms > self.steady_ms).then_some(self.quiet_until_ms)
    }

    /// Sends the oldest batch that waits.
    fn transmit(&mut self, frame: &mut [u8; FRAME_BYTES]) -> Option<Command> {
        if !self.may_transmit() {
            return None;
        }
        let (steady_ms, region) = (self.steady_ms, self.region);
        let entry = self.outbox.entries_mut().find(|entry| entry.state == State::Waiting && entry.may_leave())?;
        let before = *entry;
        entry.state = State::InFlight { sent_ms: steady_ms };
        entry.transmissions += 1;
        entry.regions_tried.insert(region);
        Some(sent(self.envelope(&before, &[]).write_frame(frame)))
    }

    fn envelope<'b>(
        &'b self,
        entry: &'b Entry,
        site: &'b [u8],
    ) -> Envelope<'b, impl Iterator<Item = &'b [u8]> + Clone + use<'b>> {
        Envelope {
            site,
            regions_tried: self.regions.names(entry.regions_tried),
            sent_ms: self.now_ms,
            number: entry.number,
            body: self.outbox.body(entry),
        }
    }

    fn refused(&mut self, reject: &Reject<'_>) {
        if matches!(reject.reason, Reason::UNKNOWN_SITE | Reason::WRONG_ORIGIN | Reason::WRONG_KEY) {
            self.phase = Phase::Stopped;
            return;
        }
        let (now_ms, steady_ms) = (self.now_ms, self.steady_ms);
        let Some(entry) = self.outbox.find(reject.sid, reject.seq) else {
            if !reject.is_final {
                self.connection.broken(); // it is the connection that is refused
            }
            return;
        };
        entry.refusals += 1;
        if reject.is_final {
            entry.state = State::Settled(Outcome::Dropped(reject.reason));
            return;
        }
        match reject.reason {
            Reason::SID_EXPIRED | Reason::SID_IN_FUTURE if entry.refusals < entry.transmissions => {
                entry.state = State::Refused { until_ms: steady_ms + DOUBT_MS_MAX };
            }
            // Every transmission was refused, so it cannot have been counted: it may have a new number.
            Reason::SID_EXPIRED | Reason::SID_IN_FUTURE if entry.renumbered < RENUMBERED_MAX => {
                entry.number = self.numbering.next(now_ms);
                entry.renumbered += 1;
                entry.transmissions = 0;
                entry.marked = false;
                entry.refusals = 0;
                entry.regions_tried = Default::default();
                entry.posted_ms = None;
                entry.state = unsent(entry.number.class);
            }
            // A repeat of the same bytes would be refused the same way.
            Reason::SID_EXPIRED
            | Reason::SID_IN_FUTURE
            | Reason::MALFORMED
            | Reason::FRAME_TOO_LARGE
            | Reason::INVALID_SID
            | Reason::INVALID_SEQ => {
                entry.state = State::Settled(Outcome::GivenUp(reject.reason));
            }
            _ => {
                entry.state = State::Waiting;
                self.connection.broken();
            }
        }
    }

    fn give_up_in_doubt(&mut self) {
        for entry in self.outbox.entries_mut() {
            if matches!(entry.state, State::Refused { until_ms } if until_ms <= self.steady_ms) {
                entry.state = State::Settled(Outcome::GivenUp(Reason::EXPIRED_IN_DOUBT));
            }
        }
    }
}

/// Every frame fits into its buffer (see [`FRAME_BYTES`]); one that did not would be nothing to send.
fn sent(written: Result<usize, proto::wire::Overflow>) -> Command {
    written.map_or(Command::Wait(1), Command::Send)
}

#[cfg(test)]
mod tests;

//! One page: a visitor with one stream of batches at a time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::agent::{Batch, Drain, Event, client_frame, server_frame};
use proto::limits::PAGEVIEW;
use proto::sid::Sid;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use super::{Plan, Shared};
use crate::ORIGIN;
use crate::page::{Page, Visitor, envelope, now_ms, one_by_one, sid};

/// As many as an agent may have in flight.
const IN_FLIGHT_MAX: usize = 8;
/// A connection on which nothing is answered for so long is given up: its other end may be gone without a word.
const SILENCE_MAX: Duration = Duration::from_secs(5);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Streams are short, so that a run sees many.
const SEQ_MAX: u32 = 300;
/// Acknowledged batches kept for a repeat.
const REMEMBERED: usize = 50;
/// Paths of pageviews: a wrong count shows on few of them.
const PATHS: u32 = 400;

pub(super) struct Agent {
    shared: Arc<Shared>,
    plan: Plan,
    address: String,
    number: u32,
    random: SmallRng,
    stream: Sid,
    seq: u32,
    /// Sent or to be sent, and not answered; the numbers of an older stream come first.
    open: BTreeMap<(Sid, u32), Batch>,
    /// When each of these was made.
    since: BTreeMap<(Sid, u32), Instant>,
    answered: VecDeque<Batch>,
}

/// Why a connection ended.
enum Ended {
    /// Nothing is left to do.
    Done,
    /// The gateway asked for it.
    Drained(Duration),
    /// It broke: what was seen of it.
    Broken(String),
}

impl Agent {
    pub(super) fn new(shared: Arc<Shared>, plan: Plan, run: u8, number: u32) -> Self {
        Self {
            shared,
            plan,
            address: format!("10.{run}.{}.{}", number / 250, number % 250 + 1),
            number,
            random: SmallRng::seed_from_u64(u64::from(number)),
            stream: sid(now_ms()),
            seq: 0,
            open: BTreeMap::new(),
            since: BTreeMap::new(),
            answered: VecDeque::new(),
        }
    }

    pub(super) async fn run(mut self) {
        // Not all at once.
        sleep(self.plan.every.mul_f64(self.random.random_range(0.0..1.0))).await;
        loop {
            let door = *self.shared.doors.lock().unwrap().choose(&mut self.random).expect("a gateway to send to");
            let ended = match timeout(CONNECT_MAX, self.connect(door)).await {
                Ok(Ok(page)) => self.converse(page).await,
                Ok(Err(ended)) => ended,
                Err(_) => Ended::Broken("no welcome in time".into()),
            };
            let pause = match ended {
                Ended::Done => return,
                Ended::Drained(within) => within.mul_f64(self.random.random_range(0.0..1.0)),
                Ended::Broken(how) => {
                    *self.shared.sent.lock().unwrap().broken.entry(how).or_default() += 1;
                    Duration::from_millis(self.random.random_range(50..400))
                }
            };
            self.shared.sent.lock().unwrap().reconnects += 1;
            sleep(pause).await;
        }
    }

    async fn connect(&self, door: SocketAddr) -> Result<Page, Ended> {
        let visitor = Visitor { forwarded_for: Some(&self.address), ..Default::default() };
        let mut page = Page::try_connect(door, &visitor)
            .await
            .map_err(|error| Ended::Broken(format!("not connected: {error}")))?;
        page.try_hello(crate::SITE).await.map_err(|_| Ended::Broken("no hello".into()))?;
        match page.frame_or_closed().await {
            Some(server_frame::Frame::Welcome(_)) => Ok(page),
            // It came to a gateway that had just begun to leave.
            Some(server_frame::Frame::Drain(drain)) => Err(drained(drain)),
            Some(_) => Err(Ended::Broken("refused instead of welcomed".into())),
            None => Err(Ended::Broken("closed instead of welcomed".into())),
        }
    }

    /// Sends what is open, then makes and sends batches and takes answers.
    async fn converse(&mut self, mut page: Page) -> Ended {
        let open: Vec<Batch> = self.open.values().cloned().collect();
        for batch in &open {
            if self.transmit(&mut page, batch).await.is_err() {
                return Ended::Broken("what was open could not be sent".into());
            }
        }
        let stop = self.shared.stop.clone();
        let mut next = Instant::now() + self.plan.every.mul_f64(self.random.random_range(0.5..1.0));
        let mut heard = Instant::now();
        loop {
            if stop.is_cancelled() && self.open.is_empty() {
                return Ended::Done;
            }
            let may_make = !stop.is_cancelled() && self.open.len() < IN_FLIGHT_MAX;
            if self.open.is_empty() {
                heard = Instant::now();
            }
            tokio::select! {
                frame = page.frame_or_closed() => {
                    heard = Instant::now();
                    match frame {
                        Some(frame) => if let Some(ended) = self.hear(&mut page, frame).await { return ended },
                        None => return Ended::Broken("closed".into()),
                    }
                }
                () = tokio::time::sleep_until(next), if may_make => {
                    next += self.plan.every;
                    next = next.max(Instant::now());
                    if self.shared.pauses.load(Ordering::SeqCst) { continue }
                    let batch = self.something();
                    if self.transmit(&mut page, &batch).await.is_err() { return Ended::Broken("a batch could not be sent".into()) }
                }
                () = tokio::time::sleep_until(heard + SILENCE_MAX) => return Ended::Broken("silent".into()),
                () = stop.cancelled(), if may_make => {}
            }
        }
    }

    async fn hear(&mut self, page: &mut Page, frame: server_frame::Frame) -> Option<Ended> {
        match frame {
            server_frame::Frame::Ack(ack) => {
                let stream = Sid::try_new(&ack.sid).expect("an acknowledgement names a stream");
                for seq in ack.seqs {
                    self.acknowledged(stream, seq);
                }
                None
            }
            server_frame::Frame::Throttle(throttle) => {
                sleep(Duration::from_millis(throttle.wait_ms.into()).min(CONNECT_MAX)).await;
                let stream = Sid::try_new(&throttle.sid).ok()?;
                let batch = self.open.get(&(stream, throttle.seq)).cloned()?;
                self.transmit(page, &batch).await.is_err().then(|| Ended::Broken("closed after a throttle".into()))
            }
            server_frame::Frame::Drain(drain) => Some(drained(drain)),
            server_frame::Frame::Reject(reject) => {
                // A gateway that takes nothing for a while says so; anything else is an answer that a right batch must not get.
                if reject.reason() != proto::agent::Reason::Unavailable {
                    let words = format!("{:?} of {:?}: {}", reject.reason(), reject.seq, reject.message);
                    self.shared.sent.lock().unwrap().refusals.push(words);
                }
                Some(Ended::Broken("refused".into()))
            }
            server_frame::Frame::Welcome(_) | server_frame::Frame::Config(_) | server_frame::Frame::Notice(_) => None,
        }
    }

    fn acknowledged(&mut self, stream: Sid, seq: u32) {
        // A repeat is acknowledged too.
        if let Some(batch) = self.open.remove(&(stream, seq)) {
            self.shared.sent.lock().unwrap().acknowledged += 1;
            if let Some(since) = self.since.remove(&(stream, seq)) {
                self.shared.latencies.lock().unwrap().push(since.elapsed());
            }
            self.answered.push_back(batch);
            if self.answered.len() > REMEMBERED {
                self.answered.pop_front();
            }
        }
    }

    /// A new batch, now and then one that was answered long ago.
    fn something(&mut self) -> Batch {
        if let Some(old) = self.answered.front()
            && self.random.random_bool(self.plan.repeated)
        {
            return old.clone();
        }
        if self.seq == SEQ_MAX {
            (self.stream, self.seq) = (sid(now_ms()), 0);
        }
        self.seq += 1;
        let batch = self.batch();
        self.open.insert((self.stream, self.seq), batch.clone());
        self.since.insert((self.stream, self.seq), Instant::now());
        self.shared.sent.lock().unwrap().add(&batch);
        batch
    }

    fn batch(&mut self) -> Batch {
        let path = |event: u32| (self.number * 31 + self.seq * 7 + event) % PATHS;
        let mut strings = vec!["Signup".to_owned(), PAGEVIEW.to_owned(), format!("{ORIGIN}/signup")];
        strings.extend((1..self.plan.events).map(|event| format!("{ORIGIN}/page/{}", path(event))));
        let signup = Event { name: 1, url: 3, ..Default::default() };
        let views = (4..).take(self.plan.events as usize - 1).map(|url| Event { name: 2, url, ..Default::default() });
        let mut events: Vec<Event> = std::iter::once(signup).chain(views).collect();
        // What must not be counted stands among what must.
        let wrong = match (self.number + self.seq) % 6 {
            0 => Some((PAGEVIEW, "not a page")),
            3 => Some(("Sign\u{1}up", ORIGIN)),
            _ => None,
        };
        if let Some((name, url)) = wrong {
            strings.extend([name.to_owned(), url.to_owned()]);
            let [name, url] = [strings.len() as u32 - 1, strings.len() as u32];
            events.insert(events.len() / 2, Event { name, url, ..Default::default() });
        }
        one_by_one(Batch {
            sid: self.stream.as_bytes().to_vec(),
            seq: self.seq,
            base_ms: now_ms(),
            strings,
            events,
            ..Default::default()
        })
    }

    async fn transmit(&self, page: &mut Page, batch: &Batch) -> Result<(), ()> {
        self.shared.sent.lock().unwrap().transmissions += 1;
        let sent = timeout(CONNECT_MAX, page.try_send(client_frame::Frame::Batch(envelope(batch)))).await;
        sent.map_err(|_| ())?.map_err(|_| ())
    }
}

fn drained(drain: Drain) -> Ended {
    Ended::Drained(Duration::from_millis(drain.within_ms.into()))
}

//! What lies between two processes: it delays, loses, breaks and keeps silent, by a seed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

/// Nobody waits longer for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Shared by everyone who talks.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    weather: Weather,
    /// Nothing gets through before this.
    silent_until: Option<Instant>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of a message, ms at most; most take less.
    pub delay_ms: u64,
    /// That a message, or its answer, is lost with its connection.
    pub loss: f64,
    /// That a message to central comes when its sender has given it up.
    pub late: f64,
    /// Central does not hear that the sender of such a message has gone: what it answers goes nowhere.
    pub half_open: bool,
}

/// What happens to one message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    /// It arrives.
    Arrives,
    /// It never arrives, and its connection breaks.
    Lost,
    /// It arrives, its answer does not, and the connection breaks.
    AnswerLost,
}

impl Network {
    /// Good weather.
    pub fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(State { random, weather: Weather::default(), silent_until: None })))
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// How much later than all others a message to central arrives whose sender has given it up, and its connection with it: it is
    /// sent again and again by the kernel of a machine whose way was cut. Almost none is.
    pub fn late(&self) -> Option<Duration> {
        let mut state = self.lock();
        let probability = state.weather.late;
        let late = probability > 0.0 && state.random.random_bool(probability);
        late.then(|| Duration::from_secs(state.random.random_range(1..120)))
    }

    /// Whether what central answers to a stream that its peer gave up goes nowhere, and central does not hear of it.
    pub fn is_half_open(&self) -> bool {
        self.lock().weather.half_open
    }

    /// For this long nothing gets through, and nobody is told.
    pub fn silence(&self, duration: Duration) {
        self.lock().silent_until = Some(Instant::now() + duration);
    }

    /// What is sent from now on gets through.
    pub fn end_silence(&self) {
        self.lock().silent_until = None;
    }

    /// When a message that is sent now arrives.
    pub fn arrival(&self) -> Instant {
        let mut state = self.lock();
        let most = state.weather.delay_ms;
        // Now and then one takes long: those sent later overtake it, on other connections.
        let delay_ms = if most == 0 {
            0
        } else if state.random.random_bool(0.1) {
            state.random.random_range(0..=most)
        } else {
            state.random.random_range(0..=most.div_ceil(20))
        };
        let now = Instant::now() + Duration::from_millis(delay_ms);
        state.silent_until.map_or(now, |until| until.max(now))
    }

    /// Whether a new connection comes about, as soon as it does, or when whoever wants it gives up.
    pub async fn connect(&self) -> bool {
        let arrives = self.arrival();
        let until = arrives.min(Instant::now() + CONNECT_MAX);
        sleep_until(until).await;
        until == arrives
    }

    /// Whether it arrives.
    pub fn fate(&self) -> Fate {
        let mut state = self.lock();
        let loss = state.weather.loss;
        match loss > 0.0 && state.random.random_bool(loss) {
            false => Fate::Arrives,
            true if state.random.random_bool(0.5) => Fate::Lost,
            true => Fate::AnswerLost,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The one connection: when to open it, when to leave it, how long to wait in between. All times are of the steady clock.

/// The first wait after a connection failed, and the least of any.
const BACKOFF_BASE_MS: u64 = 500;
/// The longest wait between two attempts.
const BACKOFF_CAP_MS: u64 = 30_000;
/// An attempt that has not succeeded by then has failed.
const CONNECT_MS_MAX: u64 = 10_000;
/// A connection that lived so long after its welcome was a good one, even if there was nothing to send.
const GOOD_MS: u64 = 30_000;

/// What the connection wants of the shell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Connect,
    Disconnect,
    /// Nothing before this time.
    Nothing(Option<u64>),
}

#[derive(Clone, Copy)]
enum State {
    Down {
        connect_at_ms: u64,
    },
    Connecting {
        until_ms: u64,
    },
    Up {
        hello_due: bool,
        leave_at_ms: Option<u64>,
    },
    /// Open, but of no use.
    Broken,
}

pub(crate) struct Connection {
    state: State,
    backoff_ms: u64,
    /// When the gateway welcomed this connection, or the last while there is none.
    welcomed_ms: Option<u64>,
    random: u64,
}

impl Connection {
    pub(crate) const fn new() -> Self {
        Self { state: State::Down { connect_at_ms: 0 }, backoff_ms: 0, welcomed_ms: None, random: 0 }
    }

    pub(crate) fn start(&mut self, random: [u8; 10]) {
        *self = Self::new();
        for byte in random {
            self.random = (self.random ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.random |= 1; // the generator stays at 0 for ever
    }

    pub(crate) fn opened(&mut self) {
        self.state = State::Up { hello_due: true, leave_at_ms: None };
    }

    /// The connection failed or was refused: the next attempt waits, each time up to three times as long.
    pub(crate) fn failed(&mut self, steady_ms: u64) {
        if self.welcomed_ms.is_some_and(|at_ms| at_ms + GOOD_MS <= steady_ms) {
            self.backoff_ms = 0;
        }
        let span_ms = (3 * self.backoff_ms).saturating_sub(BACKOFF_BASE_MS).max(BACKOFF_BASE_MS);
        self.backoff_ms = (BACKOFF_BASE_MS + self.below(span_ms)).min(BACKOFF_CAP_MS);
        self.state = State::Down { connect_at_ms: steady_ms + self.backoff_ms };
    }

    /// The connection was left on purpose: the next attempt need not wait.
    pub(crate) fn left(&mut self, steady_ms: u64) {
        self.state = State::Down { connect_at_ms: steady_ms };
    }

    /// What is connected does not serve: leave it as if it had failed.
    pub(crate) fn broken(&mut self) {
        if self.is_up() {
            self.state = State::Broken;
        }
    }

    /// The gateway has welcomed us, which does not say yet that it can serve.
    pub(crate) fn welcomed(&mut self, steady_ms: u64) {
        self.welcomed_ms = Some(steady_ms);
    }

    /// The gateway has taken a batch: what failed before does not count any more.
    pub(crate) fn served(&mut self) {
        self.backoff_ms = 0;
    }

    /// The gateway is leaving: so do we, after a random part of the time it gave.
    pub(crate) fn drain(&mut self, within_ms: u32, steady_ms: u64) {
        let wait_ms = self.below(u64::from(within_ms) + 1);
        if let State::Up { leave_at_ms: leave_at_ms @ None, .. } = &mut self.state {
            *leave_at_ms = Some(steady_ms + wait_ms);
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.state, State::Down { .. })
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether Hello is still to be sent; true once a connection.
    pub(crate) fn take_hello(&mut self) -> bool {
        match &mut self.state {
            State::Up { hello_due, .. } => core::mem::take(hello_due),
            _ => false,
        }
    }

    pub(crate) fn poll(&mut self, steady_ms: u64) -> Wish {
        match self.state {
            State::Down { connect_at_ms } if connect_at_ms <= steady_ms => {
                self.state = State::Connecting { until_ms: steady_ms + CONNECT_MS_MAX };
                self.welcomed_ms = None;
                Wish::Connect
            }
            State::Down { connect_at_ms } => Wish::Nothing(Some(connect_at_ms)),
            State::Connecting { until_ms } if until_ms <= steady_ms => {
                self.failed(steady_ms);
                Wish::Disconnect
            }
            State::Connecting { until_ms } => Wish::Nothing(Some(until_ms)),
            State::Broken => {
                self.failed(steady_ms);
                Wish::Disconnect
            }
            State::Up { leave_at_ms: Some(leave_at_ms), .. } if leave_at_ms <= steady_ms => {
                self.left(steady_ms);
                Wish::Disconnect
            }
            State::Up { leave_at_ms, .. } => Wish::Nothing(leave_at_ms),
        }
    }

    /// A number below `bound`, which is not 0. xorshift64*, whose low bits are its weak ones.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connection(random: [u8; 10]) -> Connection {
        let mut connection = Connection::new();
        connection.start(random);
        connection
    }

    fn wait_ms(connection: &mut Connection) -> u64 {
        match connection.poll(0) {
            Wish::Nothing(Some(at_ms)) => at_ms,
            wish => panic!("{wish:?}"),
        }
    }

    proptest! {
        #[test]
        fn every_wait_lies_between_the_base_and_three_times_the_last(random in any::<[u8; 10]>()) {
            let mut connection = connection(random);
            let mut last_ms = BACKOFF_BASE_MS;
            for _ in 0..40 {
                connection.failed(0);
                let waited_ms = wait_ms(&mut connection);
                prop_assert!((BACKOFF_BASE_MS..=BACKOFF_CAP_MS).contains(&waited_ms));
                prop_assert!(waited_ms <= 3 * last_ms, "{} after {}", waited_ms, last_ms);
                last_ms = waited_ms;
            }
            connection.served();
            connection.failed(0);
            prop_assert!(wait_ms(&mut connection) < 2 * BACKOFF_BASE_MS);
        }

        #[test]
        fn a_drain_is_left_within_its_time_and_reconnected_at_once(random in any::<[u8; 10]>(), within_ms in any::<u32>()) {
            let mut connection = connection(random);
            prop_assert_eq!(connection.poll(0), Wish::Connect);
            connection.opened();
            connection.drain(within_ms, 0);
            let leave_at_ms = match connection.poll(0) {
                Wish::Disconnect => 0,
                Wish::Nothing(Some(at_ms)) => at_ms,
                wish => panic!("{wish:?}"),
            };
            prop_assert!(leave_at_ms <= u64::from(within_ms));
            if leave_at_ms > 0 {
                prop_assert_eq!(connection.poll(leave_at_ms), Wish::Disconnect);
            }
            prop_assert_eq!(connection.poll(leave_at_ms), Wish::Connect);
        }
    }

    #[test]
    fn a_welcome_shortens_the_wait_only_if_the_connection_then_lives() {
        for (lived_ms, shortened) in [(GOOD_MS - 1, false), (GOOD_MS, true)] {
            let mut connection = connection([1; 10]);
            connection.backoff_ms = BACKOFF_CAP_MS;
            assert_eq!(connection.poll(0), Wish::Connect);
            connection.opened();
            connection.welcomed(0);
            connection.failed(lived_ms);
            assert_eq!(connection.backoff_ms < 2 * BACKOFF_BASE_MS, shortened, "{lived_ms}: {}", connection.backoff_ms);
        }
    }

    #[test]
    fn agents_do_not_wait_in_step() {
        let mut waits: Vec<_> = (0..100u8)
            .map(|agent| {
                let mut connection = connection([agent; 10]);
                connection.failed(0);
                wait_ms(&mut connection)
            })
            .collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 80, "{} different waits", waits.len());
    }

    #[test]
    fn an_attempt_that_hangs_has_failed() {
        let mut connection = connection([1; 10]);
        assert_eq!(connection.poll(0), Wish::Connect);
        assert_eq!(connection.poll(CONNECT_MS_MAX - 1), Wish::Nothing(Some(CONNECT_MS_MAX)));
        assert_eq!(connection.poll(CONNECT_MS_MAX), Wish::Disconnect);
        assert!(connection.is_down());
    }
}

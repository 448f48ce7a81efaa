//! One batch, one answer, without a session: what a POST and a gRPC call have in common.

use std::time::Duration;

use proto::agent::{Envelope, Reason, ServerFrame};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::delivery::answer::{self, Answer, Refusal};
use crate::door::sites::Credentials;
use crate::door::{Door, Taken};
use crate::ingest::Client;

/// A client on a page that is going away does not wait longer, and a proxy in between seldom.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Nor longer than this on a gateway that leaves.
const LEAVING_MAX: Duration = Duration::from_secs(5);

/// What a batch was answered.
#[derive(Debug)]
pub enum Asked {
    /// It is durable, and Redis has it.
    Answered {
        /// Says so to the agent.
        frame: ServerFrame,
        /// As [`Answer::refused`].
        refused: Option<Reason>,
    },
    /// Not now: it keeps its number and comes again.
    Later {
        /// Says so to the agent.
        frame: ServerFrame,
        /// After this long.
        wait_ms: u32,
    },
    /// Not taken, or nobody knows in time what became of it.
    Refused(Refusal),
}

/// Takes one batch and waits for its outcome.
pub async fn ask(door: &Door, client: &Client, envelope: &Envelope, transport: &'static str) -> Asked {
    let (session, mut answers) = mpsc::channel::<Answer>(1);
    let too_late = async {
        let leaving = async {
            door.stop.cancelled().await;
            sleep(LEAVING_MAX).await;
        };
        tokio::select! {
            biased;
            () = leaving => {}
            () = sleep(ANSWER_MAX) => {}
        }
    };
    let answered = async {
        match door.take(client, Credentials::from(envelope), envelope, None, transport, &session).await {
            Taken::Submitted { notices } => answers.recv().await.map(|answer| Asked::Answered {
                frame: answer::only_frame(answer, &notices, door.ingest.clock.now_ms()),
                refused: answer.refused,
            }),
            Taken::Later { frame, wait_ms } => Some(Asked::Later { frame, wait_ms }),
            Taken::Refused(refusal) => Some(Asked::Refused(refusal)),
            Taken::Stopping => None,
        }
    };
    let answered = tokio::select! {
        biased;
        answered = answered => answered,
        () = too_late => None,
    };
    // It may be counted yet, so the answer does not name it: to the agent a named refusal means that it was not taken, and
    // a batch that was never taken may get another number.
    answered.unwrap_or_else(|| Asked::Refused(Refusal::of_frame(Reason::Unavailable)))
}

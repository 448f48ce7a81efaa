//! The threads that answer questions.

use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::chdb::Connection;
use super::{Statement, StoreError};

/// A report that takes longer than this is not worth waiting for; what it would hold up is.
const QUESTION_SECONDS_MAX: u32 = 30;
/// The engine parses and plans on the caller's stack.
pub(super) const STACK_BYTES: usize = 8 << 20;

pub(super) struct Question {
    pub(super) statement: Statement,
    pub(super) answer: oneshot::Sender<Result<Vec<Vec<Value>>, StoreError>>,
}

/// A thread a connection; they share the queue and end when it closes or at a stop.
pub(super) fn spawn(
    connections: Vec<Connection>,
    questions: mpsc::Receiver<Question>,
) -> Result<Vec<JoinHandle<()>>, StoreError> {
    let questions = Arc::new(Mutex::new(questions));
    let mut threads = Vec::new();
    for mut connection in connections {
        connection.execute(&Statement::new(&format!("SET max_execution_time = {QUESTION_SECONDS_MAX}")))?;
        let questions = questions.clone();
        let thread = Builder::new().name("store-reader".to_owned()).stack_size(STACK_BYTES);
        let answer_all = move || {
            while let Some(question) = next(&questions) {
                // Whoever asked may be gone: an abandoned question is not worth the engine's time.
                if !question.answer.is_closed() {
                    let _ = question.answer.send(connection.rows(&question.statement));
                }
            }
        };
        threads
            .push(thread.spawn(answer_all).map_err(|source| StoreError::Io { path: "store-reader".into(), source })?);
    }
    Ok(threads)
}

/// Waits for a question; the waiting reader holds the queue, the others wait for it.
fn next(questions: &Mutex<mpsc::Receiver<Question>>) -> Option<Question> {
    let mut questions = questions.lock().ok()?;
    questions.blocking_recv().filter(|question| !question.statement.is_stop())
}

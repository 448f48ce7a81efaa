//! What a link runs over: a Redis by its URL, or something else that answers like one.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, RedisFuture, Value};

/// A function call takes milliseconds; a Redis that has not answered by then is as good as gone.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where a shard's Redis is.
#[derive(Clone)]
pub enum Server {
    /// `redis://host:port` or `unix:///path`.
    Url(String),
    /// Whatever gives connections to it.
    Other(Arc<dyn Connect>),
}

/// Gives connections to one Redis.
pub trait Connect: Send + Sync {
    /// A new connection.
    fn connect(&self) -> RedisFuture<'_, Box<dyn Connection>>;
}

/// A connection, to one process of Redis: it breaks when that process ends, and never comes back to another one.
pub trait Connection: ConnectionLike + Send + Sync {
    /// Another handle of the same connection: commands of both are sent in the order in which they are given.
    fn duplicate(&self) -> Box<dyn Connection>;
}

impl Server {
    /// What is wrong with the address, if anything. Says nothing of it: it may hold a password.
    pub fn problem(&self) -> Option<String> {
        let Self::Url(url) = self else { return None };
        let error = Client::open(url.as_str()).err()?;
        Some(format!("it is not a Redis URL: give redis://host:port or unix:///path ({error})"))
    }

    pub(crate) async fn connect(&self) -> Result<Box<dyn Connection>, RedisError> {
        match self {
            Self::Url(url) => {
                let settings = AsyncConnectionConfig::new()
                    .set_response_timeout(Some(ANSWER_MAX))
                    .set_connection_timeout(Some(CONNECT_MAX));
                let client = Client::open(url.as_str())?;
                Ok(Box::new(client.get_multiplexed_async_connection_with_config(&settings).await?))
            }
            Self::Other(other) => other.connect().await,
        }
    }
}

impl From<&str> for Server {
    fn from(url: &str) -> Self {
        Self::Url(url.to_owned())
    }
}

impl From<String> for Server {
    fn from(url: String) -> Self {
        Self::Url(url)
    }
}

impl Connection for MultiplexedConnection {
    fn duplicate(&self) -> Box<dyn Connection> {
        Box::new(self.clone())
    }
}

impl ConnectionLike for Box<dyn Connection> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        (**self).req_packed_command(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        (**self).req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        (**self).get_db()
    }
}

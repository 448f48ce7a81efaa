//! The gateway's stream to central: it registers its id, and is told sites and salts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::Message;
use proto::dial::Dial;
use proto::uplink::central_frame::Frame as FromCentral;
use proto::uplink::region_frame::Frame as ToCentral;
use proto::uplink::{Configuration, GatewayHello, RegionFrame, ShardLsn};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;

use crate::folder::write_durably;
use crate::ingest::Ingest;
use crate::metrics::Metrics;

const RETRY_MAX: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(200);

/// What the stream needs.
pub struct Uplink {
    /// The way to central.
    pub dial: Arc<dyn Dial>,
    /// Who registers.
    pub hello: GatewayHello,
    /// Whose sites are replaced.
    pub ingest: Arc<Ingest>,
    /// Where the last configuration is kept, so that a start without central works.
    pub cache: PathBuf,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Status(Box<tonic::Status>),
    #[error("central refuses this gateway: {0}")]
    Refused(String),
    #[error("central closed the stream")]
    Closed,
}

impl Uplink {
    /// Puts the configuration of the last run in force. False: there is none.
    pub fn restore(&self) -> bool {
        let cached = std::fs::read(&self.cache).ok().and_then(|bytes| Configuration::decode(&bytes[..]).ok());
        cached.is_some_and(|configuration| self.ingest.sites.replace(&configuration).is_ok())
    }

    /// Keeps a stream up for ever; each configuration goes in force at once and to `latest`.
    pub async fn run(self, latest: watch::Sender<Option<Vec<ShardLsn>>>) {
        let mut wait = RETRY_MIN;
        loop {
            match self.stream(&latest, &mut wait).await {
                Ok(never) => match never {},
                Err(error) => tracing::warn!(%error, "no uplink to central; the last configuration stays in force"),
            }
            tokio::time::sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    async fn stream(
        &self,
        latest: &watch::Sender<Option<Vec<ShardLsn>>>,
        wait: &mut Duration,
    ) -> Result<std::convert::Infallible, Broken> {
        let (to_central, frames) = mpsc::channel(4);
        let hello = RegionFrame { frame: Some(ToCentral::Gateway(self.hello.clone())) };
        to_central.try_send(hello).expect("the channel is new and has room for four");
        let broken = |status| Broken::Status(Box::new(status));
        let mut from_central = self.dial.open(frames).await.map_err(broken)?;
        while let Some(frame) = from_central.next().await.transpose().map_err(broken)? {
            match frame.frame {
                Some(FromCentral::Configuration(configuration)) => {
                    *wait = RETRY_MIN;
                    self.take(&configuration, latest);
                }
                Some(FromCentral::Refusal(refusal)) => return Err(Broken::Refused(refusal.message)),
                _ => {} // for aggregators, or of a later version
            }
        }
        drop(to_central); // until here: central ends a stream whose other half is closed
        Err(Broken::Closed)
    }

    fn take(&self, configuration: &Configuration, latest: &watch::Sender<Option<Vec<ShardLsn>>>) {
        match self.ingest.sites.replace(configuration) {
            Ok(()) => {
                if let Err(error) = write_durably(&self.cache, &configuration.encode_to_vec()) {
                    tracing::warn!(%error, "the configuration could not be kept; a start without central would fail");
                }
                latest.send_replace(Some(configuration.known.clone()));
            }
            Err(error) => {
                self.metrics.bad_configurations.inc();
                tracing::error!(%error, "central sent a configuration that cannot be used; the last one stays in force");
            }
        }
    }
}

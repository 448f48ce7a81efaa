//! Whose address is a data centre's: programs live there, visitors do not. The operator keeps the list, since the networks of
//! providers change by the week and each publishes its own; a VPN's exit may be in one, so nobody is on it by default.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::door::address::{self, NotANetwork};
use crate::door::networks::Networks;
use crate::metrics::Metrics;
use crate::watched_file::{Unreadable, WatchedFile};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The large providers together have some 2 MiB.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The list in force, and the file it comes from.
#[derive(Default)]
pub struct DataCentres {
    networks: RwLock<Arc<Networks>>,
    file: Option<WatchedFile>,
}

/// A list that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the networks in {}: {wrong}", file.display())]
pub struct BadList {
    /// As the setting `data_centres` names it.
    pub file: PathBuf,
    /// Why.
    pub wrong: WrongList,
}

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
pub enum WrongList {
    /// The file.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// A line.
    #[error("line {line}: {wrong}; write one network a line, and remarks behind a #")]
    Line {
        /// The first is 1.
        line: usize,
        /// What is on it.
        wrong: NotANetwork,
    },
}

impl DataCentres {
    /// With the networks of this file, one a line; without a file nobody is in one.
    pub fn try_new(file: Option<&Path>) -> Result<Self, BadList> {
        let file = file.map(|path| WatchedFile::new(path, BYTES_MAX));
        let data_centres = Self { networks: RwLock::default(), file };
        data_centres.look()?;
        Ok(data_centres)
    }

    /// Whether this address is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.networks.read().unwrap_or_else(PoisonError::into_inner).contain(address.to_canonical())
    }

    /// Takes the file again whenever it has changed, for as long as this runs. A file that cannot be used changes nothing.
    pub async fn follow(self: Arc<Self>, metrics: Arc<Metrics>) {
        while self.file.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
            let this = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || this.look()).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(networks))) => tracing::info!(networks, "the changed list of data centres is in force"),
                Ok(Err(error)) => {
                    metrics.data_centres_reload_failures.inc();
                    tracing::warn!(%error, "the changed list of data centres cannot be used; the last one stays in force");
                }
                Err(error) => tracing::error!(%error, "the list of data centres could not be looked at"),
            }
        }
    }

    /// Puts the file's networks in force if it has changed since it was last read, and says how many lines name one.
    fn look(&self) -> Result<Option<usize>, BadList> {
        let Some((file, changed)) = self.file.as_ref().and_then(|file| Some((file, file.changed()?))) else {
            return Ok(None);
        };
        let read = changed.map_err(WrongList::from).and_then(|text| parse(&text));
        let networks = read.map_err(|wrong| BadList { file: file.path().to_owned(), wrong })?;
        let count = networks.len();
        *self.networks.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Networks::new(&networks));
        Ok(Some(count))
    }
}

fn parse(text: &str) -> Result<Vec<ipnet::IpNet>, WrongList> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let named = (1..).zip(lines).filter(|(_, network)| !network.is_empty());
    named.map(|(line, network)| address::network(network).map_err(|wrong| WrongList::Line { line, wrong })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_network_a_line_and_a_wrong_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data-centres.txt");
        std::fs::write(&file, "# of a provider\n192.0.2.0/24\n\n 2001:db8::/32 # and another\n198.51.100.7\n").unwrap();
        let list = DataCentres::try_new(Some(&file)).unwrap();
        for (address, inside) in [
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.1", true),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("198.51.100.7", true),
            ("198.51.100.8", false),
        ] {
            assert_eq!(list.contain(address.parse().unwrap()), inside, "{address}");
        }

        std::fs::write(&file, "192.0.2.0/24\nexample.com\n").unwrap();
        let error = list.look().unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("example.com"), "{error}");
        assert!(list.contain("198.51.100.7".parse().unwrap()), "the last list stays in force");
        assert_eq!(list.look().unwrap(), None, "it is told of once");
        std::fs::write(&file, "").unwrap();
        assert_eq!(list.look().unwrap(), Some(0));
        assert!(!list.contain("198.51.100.7".parse().unwrap()));
    }

    #[test]
    fn without_a_file_nobody_is_in_one_and_a_missing_file_is_an_error() {
        assert!(!DataCentres::try_new(None).unwrap().contain([192, 0, 2, 1].into()));
        let error = DataCentres::try_new(Some(Path::new("/nowhere/list"))).err().unwrap().to_string();
        assert!(error.starts_with("the networks in /nowhere/list: cannot be read"), "{error}");
    }
}

//! A certificate for this machine: what browsers take for WebTransport when a page names its hash. They take none that is valid for
//! more than two weeks, so it is made anew before it ends.

use std::fs::{OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::folder::DataFolder;

/// From the day before it is made, so that no timezone's clock is too early for it: ten days in all.
const VALID_DAYS_AFTER: i64 = 9;
/// Half of its life is left for pages that were loaded with its hash.
const RENEW_AFTER: Duration = Duration::from_secs(4 * 24 * 60 * 60);
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// The certificate in force, with its key in the same file, so that the gateway never reads one without the other.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    file: PathBuf,
    /// Hexadecimal SHA-256.
    hash: Arc<RwLock<String>>,
}

impl OwnCertificate {
    /// Makes one. Every start does: what a page has loaded before is loaded again.
    pub fn make(folder: &DataFolder) -> anyhow::Result<Self> {
        let file = folder.run("certificate.pem");
        let hash = write(&file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file, hash: Arc::new(RwLock::new(hash)) })
    }

    /// Certificate and key.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// As a page names it.
    pub fn hash(&self) -> String {
        self.hash.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a new one in time, until `stop`. The gateway takes it from the file.
    pub async fn renew(self, stop: CancellationToken) {
        // By the wall clock: a steady one stands still while a machine sleeps, and the certificate's end does not wait for it.
        let mut made = SystemTime::now();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            if made.elapsed().is_ok_and(|age| age < RENEW_AFTER) {
                continue;
            }
            match write(&self.file) {
                Ok(hash) => {
                    *self.hash.write().unwrap_or_else(PoisonError::into_inner) = hash;
                    made = SystemTime::now();
                }
                Err(error) => warn!(%error, "the certificate could not be renewed; this is tried again"),
            }
        }
    }
}

/// A new certificate and its key; its hash.
fn write(file: &Path) -> anyhow::Result<String> {
    let (pem, hash) = make(Timestamp::now().to_zoned(TimeZone::UTC).date())?;
    let new = file.with_extension("pem.new");
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    written.set_permissions(Permissions::from_mode(0o600))?; // a file that was there keeps the mode it has
    written.write_all(pem.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    Ok(hash)
}

fn make(today: Date) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?; // ECDSA on P-256
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = CertificateParams::new(names)?;
    let day = |date: Date| date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    params.not_before = day(today.checked_sub(1.day())?);
    params.not_after = day(today.checked_add(VALID_DAYS_AFTER.days())?);
    let certificate = params.self_signed(&key)?;
    let hash = Sha256::digest(certificate.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((certificate.pem() + &key.serialize_pem(), hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_and_key_are_in_one_file_that_only_this_user_reads() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificate.pem");
        let first = write(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("BEGIN CERTIFICATE") && text.contains("BEGIN PRIVATE KEY"));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.len() == 64 && first.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(write(&file).unwrap(), first, "a new one has a new hash");
    }

    #[test]
    fn a_month_may_end_meanwhile() {
        make(jiff::civil::date(2027, 2, 27)).unwrap();
        make(jiff::civil::date(2027, 1, 1)).unwrap();
    }
}

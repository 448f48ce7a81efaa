//! The gateway's certificate, as TLS and QUIC show it; a new one from the moment that its files hold it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at. Whoever renews certificates does so weeks ahead.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// HTTP/2, as a handshake names it.
pub const HTTP2: &[u8] = b"h2";
/// By TCP, the better one first.
const ALPN_TCP: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// By QUIC.
const ALPN_QUIC: &[u8] = b"h3";

/// A certificate that cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("`tls.{setting}`: {} cannot be read: {source}", path.display())]
    Unreadable {
        /// `certificate` or `key`.
        setting: &'static str,
        /// What was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("`tls.{setting}`: {} holds no {wanted} in PEM form ({problem})", path.display())]
    NotPem {
        /// `certificate` or `key`.
        setting: &'static str,
        /// What was named.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
        /// What was found wrong.
        problem: String,
    },
    /// They do not belong together, or no client would take them.
    #[error("`tls`: certificate {} and key {} cannot be used together: {source}", certificate.display(), key.display())]
    Unusable {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
    /// The library refuses its own defaults.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The certificate in force, shared by all listeners.
#[derive(Debug)]
pub struct Certificates {
    chain: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    /// Of both files: whether they have changed since.
    bytes: (Vec<u8>, Vec<u8>),
    certified: Arc<CertifiedKey>,
}

impl Certificates {
    /// Reads both files: a chain, the server's own certificate first, and its private key.
    pub fn open(chain: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let current = RwLock::new(load(chain, key, &provider)?);
        Ok(Arc::new(Self { chain: chain.to_owned(), key: key.to_owned(), provider, current }))
    }

    /// Looks at the files for as long as it is polled. What cannot be used leaves the certificate that is in force, and is said
    /// once.
    pub async fn follow(self: Arc<Self>) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let looking = Arc::clone(&self);
            let Ok(looked) = tokio::task::spawn_blocking(move || looking.reload()).await else { continue };
            match looked {
                Ok(true) => tracing::info!(certificate = %self.chain.display(), "new certificate in force"),
                Ok(false) => said.clear(),
                Err(error) if error.to_string() != said => {
                    said = error.to_string();
                    tracing::warn!(%error, "the certificate in force stays");
                }
                Err(_) => {}
            }
        }
    }

    /// Takes what the files hold now; whether that is something else. Connections that are open are not touched.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let bytes = (read("certificate", &self.chain)?, read("key", &self.key)?);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).bytes == bytes {
            return Ok(false);
        }
        let new = load(&self.chain, &self.key, &self.provider)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// For TCP. Tickets resume a session with any of the cores.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let mut config = self.config(&[&version::TLS13, &version::TLS12])?;
        config.alpn_protocols = ALPN_TCP.map(<[u8]>::to_vec).to_vec();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For QUIC, which takes TLS 1.3 alone. Nothing is taken before the handshake is done: whoever has recorded early data could
    /// send it again.
    pub fn quic(self: &Arc<Self>) -> Result<QuicServerConfig, TlsError> {
        let mut config = self.config(&[&version::TLS13])?;
        config.alpn_protocols = vec![ALPN_QUIC.to_vec()];
        QuicServerConfig::try_from(config).map_err(|error| TlsError::Setup(error.to_string()))
    }

    fn config(
        self: &Arc<Self>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ServerConfig, TlsError> {
        let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)
            .map_err(setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.ticketer = ring::Ticketer::new().map_err(setup)?;
        config.send_tls13_tickets = 1;
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).certified))
    }
}

fn load(chain: &Path, key: &Path, provider: &CryptoProvider) -> Result<Current, TlsError> {
    let bytes = (read("certificate", chain)?, read("key", key)?);
    let not_pem = |setting, path: &Path, wanted, problem: String| TlsError::NotPem {
        setting,
        path: path.to_owned(),
        wanted,
        problem,
    };
    let certificates = CertificateDer::pem_slice_iter(&bytes.0)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| not_pem("certificate", chain, "certificate", error.to_string()))?;
    if certificates.is_empty() {
        return Err(not_pem("certificate", chain, "certificate", "no section CERTIFICATE".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes.1)
        .map_err(|error| not_pem("key", key, "private key", error.to_string()))?;
    let certified = CertifiedKey::from_der(certificates, private, provider).map_err(|source| TlsError::Unusable {
        certificate: chain.to_owned(),
        key: key.to_owned(),
        source,
    })?;
    Ok(Current { bytes, certified: Arc::new(certified) })
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { setting, path: path.to_owned(), source })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A certificate of this machine and its key, each in a file of this name.
    pub fn write(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (chain, key)
    }

    #[test]
    fn new_files_are_shown_and_broken_ones_leave_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = write(folder.path(), "first");
        let certificates = Certificates::open(&chain, &key).unwrap();
        let shown = || certificates.current.read().unwrap().certified.cert.clone();
        let first = shown();
        assert!(!certificates.reload().unwrap(), "the same files");

        let (second_chain, second_key) = write(folder.path(), "second");
        std::fs::copy(&second_chain, &chain).unwrap();
        let error = certificates.reload().unwrap_err().to_string();
        assert!(error.contains("cannot be used together"), "a chain without its key: {error}");
        assert_eq!(shown(), first);
        std::fs::copy(&second_key, &key).unwrap();
        assert!(certificates.reload().unwrap());
        assert_ne!(shown(), first);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = write(folder.path(), "good");
        let said = |chain: &Path, key: &Path| Certificates::open(chain, key).unwrap_err().to_string();
        assert!(said(&folder.path().join("none"), &key).starts_with("`tls.certificate`: "));
        assert!(said(&key, &key).contains("holds no certificate"));
        assert!(said(&chain, &chain).contains("`tls.key`") && said(&chain, &chain).contains("holds no private key"));
    }

    #[test]
    fn both_kinds_of_listener_can_be_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = write(folder.path(), "good");
        let certificates = Certificates::open(&chain, &key).unwrap();
        assert!(certificates.acceptor().is_ok() && certificates.quic().is_ok());
    }
}

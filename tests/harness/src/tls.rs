//! Both ends' TLS: the certificate that a gateway shows, and a client that trusts it alone.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// A certificate for this machine with its key, in one file.
pub fn write_certificate(file: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = rcgen::CertificateParams::new(names).and_then(|params| params.self_signed(&key)).unwrap();
    std::fs::write(file, certificate.pem() + &key.serialize_pem()).unwrap();
}

/// Of a client that trusts the certificate in this file, and speaks this protocol.
pub fn client(certificate: &Path, protocol: &[u8]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

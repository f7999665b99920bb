//! Fresh certificates for local TLS servers.

use std::{io, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

/// ALPN protocols of HTTPS servers.
pub const HTTPS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A certificate for `localhost` and `127.0.0.1`, and its CA in PEM. `protocols` are offered by ALPN (RFC 7301).
///
/// # Errors
/// If no key or certificate can be made.
pub fn localhost(protocols: &[&[u8]]) -> io::Result<(TlsAcceptor, String)> {
    let made = || -> Result<_, rcgen::Error> {
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = KeyPair::generate()?;
        let root_certificate = root.self_signed(&root_key)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?
            .signed_by(&key, &Issuer::new(root, root_key))?;
        Ok((root_certificate.pem(), certificate.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let (ca_pem, certificate, key) = made().map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key.into()))
        .map_err(io::Error::other)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok((TlsAcceptor::from(Arc::new(config)), ca_pem))
}

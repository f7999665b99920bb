use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::channels::SettingsError;

/// Protocols that a server may choose from (ALPN, RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// TLS of a channel: trusts the machine's roots, and those of the PEM file that this variable names. Clones share roots
/// and sessions.
///
/// # Errors
/// The file is unreadable or malformed, or there is no root at all.
pub fn tls(variable: &'static str, file: Option<&Path>) -> Result<ClientConfig, SettingsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = file {
        add(&mut roots, variable, file)?;
    }
    if roots.is_empty() {
        let what = "should name a PEM file of root certificates: this machine has none of its own (or install its \
                    `ca-certificates`)";
        return Err(SettingsError::new(variable, what));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let versions = builder.with_safe_default_protocol_versions();
    let builder = versions.map_err(|_| SettingsError::new(variable, "cannot be used: TLS is not available"))?;
    let mut tls = builder.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(tls)
}

fn add(roots: &mut RootCertStore, variable: &'static str, file: &Path) -> Result<(), SettingsError> {
    let error = |why: &str| {
        let file = file.display();
        SettingsError::new(variable, format!("should name a PEM file of root certificates, but {file} {why}"))
    };
    let pem = fs::read(file).map_err(|_| error("cannot be read"))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| error("is malformed"))?;
        roots.add(certificate).map_err(|_| error("is malformed"))?;
        count += 1;
    }
    if count == 0 { Err(error("holds no certificate")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_names_its_variable() {
        let directory = tempfile::tempdir().unwrap();
        let make = |file: &Path| tls("WEB_PUSH_CA_FILE", Some(file)).unwrap_err();
        assert!(make(&directory.path().join("none.pem")).to_string().contains("cannot be read"));
        let empty = directory.path().join("empty.pem");
        fs::write(&empty, "").unwrap();
        let broken = directory.path().join("broken.pem");
        fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        for (file, why) in [(&empty, "holds no certificate"), (&broken, "is malformed")] {
            let error = make(file);
            assert_eq!(error.variable(), "WEB_PUSH_CA_FILE");
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}

//! The TLS of the REST API: a certificate that clients pin, or one that an authority signed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads the certificate chain and its private key, both PEM. TLS 1.2 and 1.3.
pub fn server_config(certificate: &Path, key: &Path, alpn: &[&[u8]]) -> Result<ServerConfig, RestTlsError> {
    let chain =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(
            |source| RestTlsError::Read { what: "certificate", path: certificate.to_owned(), source },
        )?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|source| RestTlsError::Read {
        what: "private key",
        path: key.to_owned(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mismatch = |source| RestTlsError::Unusable { path: certificate.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(mismatch)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum RestTlsError {
    /// A file is missing or no PEM.
    #[error("could not read the {what} of the REST API from {path}: a PEM file of it is needed", path = path.display())]
    Read {
        /// Which of the two.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// The two do not fit together, or the library refuses them.
    #[error("the REST API's certificate {path} cannot be used with its private key", path = path.display())]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_dir::{Setup, StateDir};

    #[test]
    fn the_own_certificate_serves_and_others_are_refused_with_the_reason() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [one, other] = [0, 1].map(|i| {
            let state = StateDir::new(&dirs[i].path().join("state"));
            let setup = Setup { cluster: "lab".to_owned(), advertise: vec!["controller.example".to_owned()] };
            state.create(&setup).unwrap();
            state
        });
        let config = server_config(&one.certificate(), &one.certificate_key(), &[b"h2"]).unwrap();
        assert_eq!(config.alpn_protocols, [b"h2"]);
        let error = server_config(&one.certificate(), &other.certificate_key(), &[]).unwrap_err();
        assert!(error.to_string().contains("cannot be used"), "{error}");
        let error = server_config(&one.cluster_key(), &one.certificate_key(), &[]).unwrap_err();
        assert!(error.to_string().contains("certificate") || error.to_string().contains("PEM"), "{error}");
        let error = server_config(Path::new("/no/such"), &one.certificate_key(), &[]).unwrap_err();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }
}

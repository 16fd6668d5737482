//! TLS for the connections that this program makes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use crate::config::Tls;
use crate::files;

/// A file that cannot be used for TLS.
#[derive(Debug)]
pub struct TlsError {
    path: Option<PathBuf>,
    message: String,
}

impl TlsError {
    fn of(path: &Path, message: impl ToString) -> Self {
        Self { path: Some(path.to_owned()), message: message.to_string() }
    }
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}: {}", path.display(), self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for TlsError {}

/// A client's TLS settings: it trusts the authorities of `ca_file`, else the system's, and presents its certificate
/// if there is one.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, TlsError> {
    let builder = builder()?.with_root_certificates(roots(tls.ca_file.as_deref())?);
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| TlsError::of(cert, error)),
        _ => Ok(builder.with_no_client_auth()),
    }
}

/// A client's TLS settings that trust nobody, for a client that makes no TLS connections.
pub fn without_trust() -> Result<ClientConfig, TlsError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, TlsError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError { path: None, message: error.to_string() })
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate).map_err(|error| TlsError::of(path, error))?;
            }
        }
        None => {
            // The library would read it even if it is not a regular file.
            if let Some(path) = std::env::var_os("SSL_CERT_FILE") {
                read(Path::new(&path))?;
            }
            // If some of the system's certificates cannot be read, the others are still used.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            // Reported here with a hint; otherwise each connection would fail with an unknown issuer.
            if store.is_empty() {
                return Err(TlsError {
                    path: None,
                    message:
                        "this system has no certificate authorities to trust\nhint: install them (Debian's \
                              ca-certificates), or name a file with some in ca_file or SSL_CERT_FILE"
                            .into(),
                });
            }
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::of(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::of(path, "holds no PEM certificate"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| TlsError::of(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    files::read(path).map_err(|error| {
        TlsError::of(path, format!("cannot be read: {error}\nhint: name a PEM file that this user may read"))
    })
}

//! TLS as the web configuration file has it, made into what rustls wants.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::config::{ClientAuth, Pem, ServerTls, Version};
use crate::files;

/// What a server does with connections. Errors name the file.
pub(super) fn server_config(tls: &ServerTls) -> Result<ServerConfig, String> {
    let mut provider = rustls::crypto::ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        // Those of TLS 1.3 cannot be chosen, as in Go.
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || tls.cipher_suites.contains(&suite.suite()));
        let place = |suite| tls.cipher_suites.iter().position(|chosen| *chosen == suite);
        provider.cipher_suites.sort_by_key(|suite| place(suite.suite()));
    }
    if !tls.curve_preferences.is_empty() {
        provider.kx_groups.retain(|group| tls.curve_preferences.contains(&group.name()));
        provider
            .kx_groups
            .sort_by_key(|group| tls.curve_preferences.iter().position(|curve| *curve == group.name()));
    }
    let provider = Arc::new(provider);
    let versions: Vec<_> =
        [(Version::Tls12, &rustls::version::TLS12), (Version::Tls13, &rustls::version::TLS13)]
            .into_iter()
            .filter(|(version, _)| (tls.min_version..=tls.max_version).contains(version))
            .map(|(_, version)| version)
            .collect();
    let certificates = certificates(&tls.certificate, "cert")?;
    let key = private_key(&tls.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| format!("tls_server_config: {error}"))?;
    let mut config = match client_verifier(tls, &provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_single_cert(certificates, key)
    .map_err(|error| format!("{}: {error}", named(&tls.certificate, "cert")))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ignore_client_order = tls.prefer_server_cipher_suites;
    // Clients keep their connections; sessions to come back to would only take memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn named(pem: &Pem, key: &str) -> String {
    match pem {
        Pem::File(path) => path.display().to_string(),
        Pem::Inline(_) => format!("tls_server_config.{key}"),
    }
}

fn read(pem: &Pem) -> Result<Vec<u8>, String> {
    match pem {
        Pem::File(path) => {
            let hint = "name a PEM file that this user may read";
            files::read(path)
                .map_err(|error| format!("{}: cannot be read: {error}\nhint: {hint}", path.display()))
        }
        Pem::Inline(text) => Ok(text.clone().into_bytes()),
    }
}

fn certificates(pem: &Pem, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = read(pem)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", named(pem, key)))?;
    if certificates.is_empty() {
        return Err(format!("{}: holds no PEM certificate", named(pem, key)));
    }
    Ok(certificates)
}

fn private_key(pem: &Pem) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(pem)?)
        .map_err(|error| format!("{}: holds no PEM private key: {error}", named(pem, "key")))
}

fn client_verifier(
    tls: &ServerTls,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let is_mandatory = tls.client_auth.is_mandatory();
    let verifier: Arc<dyn ClientCertVerifier> = match (tls.client_auth, &tls.client_ca) {
        (ClientAuth::NoClientCert, _) => return Ok(None),
        (auth, Some(authority)) if auth.verifies() => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(authority, "client_ca")? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("{}: {error}", named(authority, "client_ca")))?;
            }
            let mut builder =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
            if !is_mandatory {
                builder = builder.allow_unauthenticated();
            }
            builder.build().map_err(|error| format!("{}: {error}", named(authority, "client_ca")))?
        }
        _ => Arc::new(AnyCertificate { is_mandatory, provider: Arc::clone(provider) }),
    };
    if tls.client_allowed_sans.is_empty() {
        return Ok(Some(verifier));
    }
    Ok(Some(Arc::new(AllowedNames { verifier, allowed: tls.client_allowed_sans.clone() })))
}

/// Asks for a certificate, and takes whichever is shown with its key.
#[derive(Debug)]
struct AnyCertificate {
    is_mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Takes only those of the certificates that another verifier takes which have one of the names.
#[derive(Debug)]
struct AllowedNames {
    verifier: Arc<dyn ClientCertVerifier>,
    allowed: Vec<String>,
}

impl ClientCertVerifier for AllowedNames {
    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(certificate, intermediates, now)?;
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let is_allowed = |allowed: &String| match ServerName::try_from(allowed.as_str()) {
            // Not as a server's name is compared: a wildcard in the certificate is not a licence to all names.
            Ok(ServerName::DnsName(_)) => parsed.valid_dns_names().any(|name| name == allowed),
            Ok(address) => parsed.verify_is_valid_for_subject_name(&address).is_ok(),
            Err(_) => parsed.valid_uri_names().any(|name| name == allowed),
        };
        if self.allowed.iter().any(is_allowed) {
            Ok(verified)
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

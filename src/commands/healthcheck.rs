//! Asks a running exporter whether it is well, for a container's `HEALTHCHECK` in an image without a shell.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Less than the 30 s that Docker gives a probe.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Succeeds if `url` is answered with 200; otherwise says why not.
///
/// With `https` the server's certificate is not verified: it may be for another name than the probe's address, and
/// the probe sends nothing secret. A server that does not speak TLS is asked by plain HTTP. A server that requires a
/// client's certificate, which the probe does not have, is well: it answers.
pub async fn check(url: &Url) -> Result<(), String> {
    match tokio::time::timeout(TIMEOUT, ask(url)).await {
        Ok(Ok(StatusCode::OK)) => Ok(()),
        Ok(Ok(status)) => Err(format!("{url}: {status}")),
        Ok(Err(why)) => {
            Err(format!("{url}: {why}\nhint: is the exporter running, with the same configuration?"))
        }
        Err(_) => Err(format!("{url}: no answer within {TIMEOUT:?}")),
    }
}

async fn ask(url: &Url) -> Result<StatusCode, String> {
    let host = url.host_str().unwrap_or_default();
    let address = (host.trim_matches(['[', ']']), url.port_or_known_default().unwrap_or_default());
    let connect = || async { TcpStream::connect(address).await.map_err(|error| error.to_string()) };
    if url.scheme() != "https" {
        return request(connect().await?, url).await.map_err(|error| chain(&*error));
    }
    let name = ServerName::try_from(address.0.to_owned()).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(trusting()?));
    let answer = match connector.connect(name, connect().await?).await {
        Ok(stream) => request(stream, url).await,
        Err(error) => Err(error.into()),
    };
    match answer {
        Ok(status) => Ok(status),
        Err(error) => match tls_error(&*error) {
            Some(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)) => Ok(StatusCode::OK),
            // The server's answer is not TLS.
            Some(rustls::Error::InvalidMessage(_)) => {
                request(connect().await?, url).await.map_err(|error| chain(&*error))
            }
            _ => Err(chain(&*error)),
        },
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn request<S>(stream: S, url: &Url) -> Result<StatusCode, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request =
        Request::get(url.path()).header(header::HOST, url.authority()).body(Empty::<Bytes>::new())?;
    // The connection ends with the answer, which also reports its errors.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.status())
}

/// The error with all its sources.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}

fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        // The `source` of an I/O error is not the error that it wraps, but that error's source.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = held.and_then(|held| held.downcast_ref()).or_else(|| error.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn trusting() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        .with_no_client_auth();
    Ok(config)
}

/// Accepts any server's certificate, if the server has its private key.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

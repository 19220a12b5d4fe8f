//! Whom a verb believes under TLS: those who signed for the names of servers, or one certificate that is known.
//!
//! A server that was named is believed when its certificate holds for that name and is one of the given file or was
//! signed by one of them; without a file, when one that the system trusts signed it. A server that was found through the `LOCK` file of a directory is believed when it
//! shows the very certificate whose hash stands there: whoever can write that file owns the store anyway.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};

use crate::access::fingerprint;
use crate::error::{Error, Result};

/// Whom to believe, and what to show.
#[derive(Clone, Debug, Default)]
pub struct ServerTrust {
    /// Certificates of who is believed instead of those that the system trusts, in PEM.
    pub ca: Option<PathBuf>,
    /// Certificate to show to a server that asks for one, and its key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// SHA-256 of the only certificate believed, in hexadecimal, whatever its names.
    pub pinned: Option<String>,
}

fn cannot(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{what} {}: {error}", path.display())).with_hint("TLS takes PEM files")
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<CertificateDer<'static>> = found.map_err(|error| cannot(what, path, &error))?;
    if found.is_empty() {
        return Err(cannot(what, path, &"it holds no certificate"));
    }
    Ok(found)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl ServerTrust {
    /// The settings of a client that believes nobody, for one that never speaks TLS.
    pub fn nobody() -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }

    /// The settings of a client.
    ///
    /// # Errors
    /// `invalid_argument` naming the file that cannot be read or does not fit.
    pub fn config(&self) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        let believed = match (&self.pinned, &self.ca) {
            (Some(sha256), _) => TrustAnchors::Pinned(sha256.clone()),
            (None, Some(path)) => {
                let given = certificates("--ca", path)?;
                let mut roots = RootCertStore::empty();
                for certificate in &given {
                    roots.add(certificate.clone()).map_err(|error| cannot("--ca", path, &error))?;
                }
                let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                TrustAnchors::Given { signed: signed.map_err(|error| cannot("--ca", path, &error))?, given }
            }
            (None, None) => return self.identified(builder.with_root_certificates(system_roots()?)),
        };
        let verifier = CertificateVerifier { believed, provider: provider() };
        self.identified(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
    }

    /// Adds the certificate to show.
    fn identified(&self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<ClientConfig> {
        let Some((cert, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates("--cert", cert)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot("--key", key, &error))?;
        builder.with_client_auth_cert(chain, secret).map_err(|error| cannot("--key", key, &error))
    }
}

/// What this system trusts.
fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Some that cannot be read are no reason to believe nobody.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::invalid("this system has no certificates of who is to be believed")
            .with_hint("--ca FILE (or FASTK_CA) names them"));
    }
    Ok(roots)
}

/// Which certificates of servers are believed.
#[derive(Debug)]
enum TrustAnchors {
    /// Those that given certificates signed, and the given ones themselves. The usual self-signed certificate is both: it
    /// says of itself that it may sign for others, and `webpki` takes no such certificate as that of a server.
    /// `curl --cacert` does.
    Given { signed: Arc<WebPkiServerVerifier>, given: Vec<CertificateDer<'static>> },
    /// The one of this SHA-256, in hexadecimal.
    Pinned(String),
}

/// Verifies the certificates of servers.
#[derive(Debug)]
struct CertificateVerifier {
    believed: TrustAnchors,
    provider: Arc<CryptoProvider>,
}

/// Whether the only objection is that the certificate may sign others. It is raised after those to its validity.
fn may_sign(error: &TlsError) -> bool {
    matches!(error, TlsError::InvalidCertificate(CertificateError::Other(other)) if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

impl ServerCertVerifier for CertificateVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, TlsError> {
        match &self.believed {
            TrustAnchors::Given { signed, given } => {
                match signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
                    Err(error) if may_sign(&error) && given.iter().any(|given| given == certificate) => {
                        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                        Ok(ServerCertVerified::assertion())
                    }
                    verified => verified,
                }
            }
            TrustAnchors::Pinned(sha256) if fingerprint(certificate) == *sha256 => Ok(ServerCertVerified::assertion()),
            TrustAnchors::Pinned(_) => {
                Err(TlsError::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

//! Which server certificates a command accepts under TLS: those of trusted issuers, or one pinned certificate.
//!
//! The certificate of a server given by `--server` is accepted when it is valid for the host name and is in the CA
//! file, or was issued by a certificate in it; without a CA file, when a root of the system issued it. A server found
//! through the `LOCK` file of a directory is accepted when its certificate has the SHA-256 in that file: a process that
//! can write `LOCK` owns the store anyway.

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

/// Which servers to trust, and the certificate of the client.
#[derive(Clone, Debug, Default)]
pub struct ServerTrust {
    /// PEM file with the trusted certificates, instead of the roots of the system.
    pub ca: Option<PathBuf>,
    /// PEM files with the client certificate and its key, for servers that request one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// SHA-256 of the only accepted certificate, in hexadecimal; its names are ignored.
    pub pinned: Option<String>,
}

fn file_error(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{what} {}: {error}", path.display())).with_hint("TLS needs PEM files")
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<CertificateDer<'static>> = found.map_err(|error| file_error(what, path, &error))?;
    if found.is_empty() {
        return Err(file_error(what, path, &"the file has no certificate"));
    }
    Ok(found)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl ServerTrust {
    /// The settings of a client that accepts no certificate, for plain HTTP.
    pub fn trust_none() -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }

    /// The settings of a client.
    ///
    /// # Errors
    /// `invalid_argument` naming the file that cannot be read or is not valid.
    pub fn config(&self) -> Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        let trusted = match (&self.pinned, &self.ca) {
            (Some(sha256), _) => TrustAnchors::Pinned(sha256.clone()),
            (None, Some(path)) => {
                let listed = certificates("--ca", path)?;
                let mut roots = RootCertStore::empty();
                for certificate in &listed {
                    roots.add(certificate.clone()).map_err(|error| file_error("--ca", path, &error))?;
                }
                let signed = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
                TrustAnchors::Listed { signed: signed.map_err(|error| file_error("--ca", path, &error))?, listed }
            }
            (None, None) => return self.with_identity(builder.with_root_certificates(system_roots()?)),
        };
        let verifier = CertificateVerifier { trusted, provider: provider() };
        self.with_identity(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
    }

    /// Adds the client certificate.
    fn with_identity(&self, builder: ConfigBuilder<ClientConfig, WantsClientCert>) -> Result<ClientConfig> {
        let Some((cert, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates("--cert", cert)?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error("--key", key, &error))?;
        builder.with_client_auth_cert(chain, secret).map_err(|error| file_error("--key", key, &error))
    }
}

/// The root certificates of the system.
fn system_roots() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // The readable ones are used even where others cannot be read.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(
            Error::invalid("this system has no trusted root certificates").with_hint("set --ca FILE (or FASTK_CA)")
        );
    }
    Ok(roots)
}

/// Which certificates of servers are accepted.
#[derive(Debug)]
enum TrustAnchors {
    /// Certificates issued by the given ones, and the given ones themselves. A usual self-signed certificate
    /// is a CA certificate, which `webpki` refuses as that of a server; `curl --cacert` accepts it.
    Listed { signed: Arc<WebPkiServerVerifier>, listed: Vec<CertificateDer<'static>> },
    /// The certificate with this SHA-256, in hexadecimal.
    Pinned(String),
}

/// Verifies the certificates of servers.
#[derive(Debug)]
struct CertificateVerifier {
    trusted: TrustAnchors,
    provider: Arc<CryptoProvider>,
}

/// Whether the only error is that this is a CA certificate; `webpki` raises it after its other checks.
fn is_ca_error(error: &TlsError) -> bool {
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
        match &self.trusted {
            TrustAnchors::Listed { signed, listed } => {
                match signed.verify_server_cert(certificate, intermediates, name, ocsp_response, now) {
                    Err(error) if is_ca_error(&error) && listed.iter().any(|listed| listed == certificate) => {
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

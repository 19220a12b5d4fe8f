//! The byte stream of a connection, plain or TLS, and the TLS identity of a listener, reloaded when its files change.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::disk::local::FileState;
use crate::error::{Error, Result};
use crate::settings::settings;

settings! {
    /// Section `[tls]`.
    pub struct TlsSettings {
        /// PEM file with the certificate chain of the server. Both listeners then speak TLS 1.2 and 1.3; "" for no TLS.
        cert: PathBuf = PathBuf::new();
        /// PEM file with the private key of the certificate.
        key: PathBuf = PathBuf::new();
        /// PEM file with the authorities that sign client certificates: every client then needs a certificate; "" when
        /// clients need none.
        client_ca: PathBuf = PathBuf::new();
    }
}

impl TlsSettings {
    /// The identities of the REST and the Flight listener.
    ///
    /// # Errors
    /// Those of [`Tls::load`].
    pub fn load(&self) -> Result<(Tls, Tls)> {
        if self.cert.as_os_str().is_empty() {
            return Ok((Tls::off(), Tls::off()));
        }
        let client_ca = (!self.client_ca.as_os_str().is_empty()).then_some(self.client_ca.as_path());
        let load = |protocols: &[&str]| Tls::load(&self.cert, &self.key, client_ca, protocols);
        Ok((load(&["h2", "http/1.1"])?, load(&["h2"])?))
    }
}

/// TLS settings of a listener; `None` inside for plain connections. Clones share the certificate and its renewal.
#[derive(Clone, Default)]
pub struct Tls(Option<Arc<TlsState>>);

struct TlsState {
    files: TlsFiles,
    /// Identity of new connections.
    current: ArcSwap<TlsIdentity>,
    file_states: Mutex<TlsFileStates>,
}

/// Paths of certificate and key, all PEM.
struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// Protocols offered through ALPN.
    protocols: Vec<Vec<u8>>,
}

/// A certificate and key loaded together.
struct TlsIdentity {
    acceptor: TlsAcceptor,
    /// The leaf certificate of the server.
    certificate: CertificateDer<'static>,
}

/// States of the files: the one `current` was loaded from, and the last one that could not be loaded.
#[derive(Default)]
struct TlsFileStates {
    loaded: Option<FileStates>,
    rejected: Option<FileStates>,
}

/// State of each of the files.
type FileStates = Vec<Option<FileState>>;

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Tls" } else { "plain" })
    }
}

impl TlsFiles {
    fn state(&self) -> FileStates {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        paths.into_iter().flatten().map(|path| FileState::of(path)).collect()
    }

    /// Reads the files. A key that does not belong to the certificate is rejected.
    fn load(&self) -> Result<TlsIdentity> {
        let Self { cert, key, client_ca, protocols } = self;
        let invalid = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            Error::invalid(format!("{what} {}: {error}", path.display())).with_hint("the files must be PEM")
        };
        let certificates = |what: &'static str, path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let found: Vec<CertificateDer<'static>> = found.map_err(|error| invalid(what, path, &error))?;
            if found.is_empty() {
                return Err(invalid(what, path, &"no certificate found"));
            }
            Ok(found)
        };
        let chain = certificates("tls.cert", cert)?;
        let certificate = chain.first().cloned().ok_or_else(|| invalid("tls.cert", cert, &"no certificate found"))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| invalid("tls.key", key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls.client_ca", path)? {
                    roots.add(certificate).map_err(|error| invalid("tls.client_ca", path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| invalid("tls.client_ca", path, &error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| invalid("tls.key", key, &error))?;
        config.alpn_protocols.clone_from(protocols);
        Ok(TlsIdentity { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }
}

impl Tls {
    /// Plain connections.
    pub fn off() -> Self {
        Self(None)
    }

    /// TLS 1.2 and 1.3 with the certificate and key in these PEM files. With `client_ca` every client needs a
    /// certificate signed by one of the authorities in that file.
    ///
    /// # Errors
    /// `invalid_argument` naming the file that cannot be read or does not match.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>, protocols: &[&str]) -> Result<Self> {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = TlsFiles { cert: cert.into(), key: key.into(), client_ca: client_ca.map(PathBuf::from), protocols };
        // Read before the files: a change in between is noticed by the next renewal.
        let loaded = Some(files.state());
        let current = ArcSwap::from_pointee(files.load()?);
        Ok(Self(Some(Arc::new(TlsState {
            files,
            current,
            file_states: Mutex::new(TlsFileStates { loaded, rejected: None }),
        }))))
    }

    /// Reloads the files when they changed; new connections use them. Files that cannot be read, or do not match
    /// because they are being replaced one after the other, change nothing: a warning is logged once, and the next call
    /// retries. Returns whether the certificate changed.
    pub fn renew(&self) -> bool {
        let Some(state) = &self.0 else { return false };
        let mut file_states = state.file_states.lock().unwrap_or_else(PoisonError::into_inner);
        let files = Some(state.files.state());
        if files == file_states.loaded {
            file_states.rejected = None;
            return false;
        }
        match state.files.load() {
            Ok(identity) => {
                let differs = identity.certificate != state.current.load().certificate;
                state.current.store(Arc::new(identity));
                *file_states = TlsFileStates { loaded: files, rejected: None };
                tracing::info!(cert = %state.files.cert.display(), "TLS files reloaded");
                differs
            }
            Err(error) => {
                if files != file_states.rejected {
                    tracing::warn!(%error, "cannot reload the TLS files; the previous certificate stays in use");
                }
                file_states.rejected = files;
                false
            }
        }
    }

    /// The certificate of the server in DER, under TLS.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.0.as_ref().map(|state| state.current.load().certificate.to_vec())
    }

    /// Whether connections use TLS.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Accepts a connection, with its TLS handshake, which must finish within `timeout`.
    pub(super) async fn accept(&self, stream: TcpStream, timeout: Duration) -> io::Result<ServerStream> {
        match &self.0 {
            None => Ok(ServerStream::Plain(stream)),
            Some(state) => {
                let acceptor = state.current.load().acceptor.clone();
                match tokio::time::timeout(timeout, acceptor.accept(stream)).await {
                    Ok(stream) => Ok(ServerStream::Tls(Box::new(stream?))),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) enum ServerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Counts sent bytes.
fn count(written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        metrics::counter!("fastk_sent_bytes_total").increment(*bytes as u64);
    }
    written
}

impl AsyncRead for ServerStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            ServerStream::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buffer),
        };
        metrics::counter!("fastk_received_bytes_total").increment((buffer.filled().len() - before) as u64);
        read
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        count(match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            ServerStream::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        count(match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            ServerStream::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            ServerStream::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ServerStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            ServerStream::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

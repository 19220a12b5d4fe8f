//! The bytes of a connection, plain or under TLS, and the certificates it is secured with, renewed when their files change.

use std::io;
use std::os::unix::fs::MetadataExt;
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

use crate::error::{Error, Result};

/// What a listener needs to speak TLS; `None` inside for one that does not. Clones share the certificate, and its renewal.
#[derive(Clone, Default)]
pub struct Tls(Option<Arc<TlsState>>);

struct TlsState {
    files: TlsFiles,
    /// What new connections are secured with.
    current: ArcSwap<TlsIdentity>,
    looked: Mutex<TlsFileStates>,
}

/// Where certificates and key are, all PEM.
struct TlsFiles {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    /// Protocols offered, by their names in ALPN.
    protocols: Vec<Vec<u8>>,
}

/// Certificate and key as they were loaded together.
struct TlsIdentity {
    acceptor: TlsAcceptor,
    /// The certificate clients are shown first: that of the server itself.
    certificate: CertificateDer<'static>,
}

/// States of the files: that which `current` was loaded from, and the last one that could not be loaded.
#[derive(Default)]
struct TlsFileStates {
    loaded: Option<State>,
    refused: Option<State>,
}

/// What tells one state of the files from another: inode, size, and times of content and inode of each.
type State = Vec<Option<(u64, u64, i64, i64, i64, i64)>>;

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Tls" } else { "plain" })
    }
}

impl TlsFiles {
    fn state(&self) -> State {
        let of = |path: &Path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
        };
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        paths.into_iter().flatten().map(|path| of(path)).collect()
    }

    /// Reads the files. A key that is not the one of the certificate is refused.
    fn load(&self) -> Result<TlsIdentity> {
        let Self { cert, key, client_ca, protocols } = self;
        let cannot = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
            Error::invalid(format!("{what} {}: {error}", path.display())).with_hint("TLS takes PEM files")
        };
        let certificates = |what: &'static str, path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let found: Vec<CertificateDer<'static>> = found.map_err(|error| cannot(what, path, &error))?;
            if found.is_empty() {
                return Err(cannot(what, path, &"it holds no certificate"));
            }
            Ok(found)
        };
        let chain = certificates("tls.cert", cert)?;
        let certificate = chain.first().cloned().ok_or_else(|| cannot("tls.cert", cert, &"it holds no certificate"))?;
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| cannot("tls.key", key, &error))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format!("TLS: {error}")))?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("tls.client_ca", path)? {
                    roots.add(certificate).map_err(|error| cannot("tls.client_ca", path, &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| cannot("tls.client_ca", path, &error))?)
            }
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| cannot("tls.key", key, &error))?;
        config.alpn_protocols.clone_from(protocols);
        Ok(TlsIdentity { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }
}

impl Tls {
    /// Plain connections.
    pub fn off() -> Self {
        Self(None)
    }

    /// TLS 1.2 and 1.3 with the certificates and the key in these PEM files. With `client_ca` every client has to show a
    /// certificate that one of those in this file signed.
    ///
    /// # Errors
    /// `invalid_argument` naming the file that cannot be read or does not fit.
    pub fn load(cert: &Path, key: &Path, client_ca: Option<&Path>, protocols: &[&str]) -> Result<Self> {
        let protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let files = TlsFiles { cert: cert.into(), key: key.into(), client_ca: client_ca.map(PathBuf::from), protocols };
        // Taken before the files are read: what changes meanwhile is noticed by the next renewal.
        let loaded = Some(files.state());
        let current = ArcSwap::from_pointee(files.load()?);
        Ok(Self(Some(Arc::new(TlsState {
            files,
            current,
            looked: Mutex::new(TlsFileStates { loaded, refused: None }),
        }))))
    }

    /// Reads the files again when they changed; connections that begin from then on are secured with what they hold.
    /// Files that cannot be read, or do not fit together since they are being replaced one after the other, change
    /// nothing: the log says so once, and the next call tries again. Whether there is another certificate.
    pub fn renew(&self) -> bool {
        let Some(secured) = &self.0 else { return false };
        let mut looked = secured.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let state = Some(secured.files.state());
        if state == looked.loaded {
            looked.refused = None;
            return false;
        }
        match secured.files.load() {
            Ok(identity) => {
                let differs = identity.certificate != secured.current.load().certificate;
                secured.current.store(Arc::new(identity));
                *looked = TlsFileStates { loaded: state, refused: None };
                tracing::info!(cert = %secured.files.cert.display(), "the TLS files changed and are in use");
                differs
            }
            Err(error) => {
                if state != looked.refused {
                    tracing::warn!(%error, "the TLS files changed and cannot be used: the certificate of before stays in use");
                }
                looked.refused = state;
                false
            }
        }
    }

    /// The certificate of the server in DER, where there is one.
    pub fn certificate(&self) -> Option<Vec<u8>> {
        self.0.as_ref().map(|secured| secured.current.load().certificate.to_vec())
    }

    /// Whether a connection has to be secured before it can be used.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The connection, once both sides agreed how it is secured. A client that does not within `patience` is gone.
    pub(super) async fn accept(&self, stream: TcpStream, patience: Duration) -> io::Result<ServerStream> {
        match &self.0 {
            None => Ok(ServerStream::Plain(stream)),
            Some(secured) => {
                let acceptor = secured.current.load().acceptor.clone();
                match tokio::time::timeout(patience, acceptor.accept(stream)).await {
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

/// Counts what was sent.
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

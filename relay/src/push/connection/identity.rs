//! The certificate that the relay shows to a push service (mutual TLS), and the service's objection to it: a TLS alert (RFC 8446 §6), which in TLS 1.3 arrives
//! after the client has completed the handshake.
//!
//! Invariant: the key's text is wiped once it is read. An alert is kept as one of our own words alone.

use std::error::Error;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

use crate::push::jwt;
use crate::push::setup::Problem;
use crate::regular_file::without_byte_order_mark;

/// The certificates of the file, the app's first.
///
/// # Errors
/// [`Problem`] when it cannot be read or holds none.
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    chain_in(path, &jwt::read_key_file(path)?)
}

fn chain_in(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_byte_order_mark(text)).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| Problem::Certificate { path: path.into() })
}

/// The certificate of the file and its key, which belong together.
pub(super) fn read(path: &Path) -> Result<CertifiedKey, Problem> {
    let unfit = || Problem::Certificate { path: path.into() };
    let text = jwt::read_key_file(path)?;
    let chain = chain_in(path, &text)?;
    let mut key = PrivateKeyDer::from_pem_slice(without_byte_order_mark(&text)).map_err(|_| unfit())?;
    let signing = any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, signing.map_err(|_| unfit())?);
    certified.keys_match().map_err(|_| unfit())?;
    Ok(certified)
}

/// Why the service ended TLS, when it was for our certificate; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Objection(Arc<OnceLock<&'static str>>);

impl Objection {
    /// The reason: one of the words of [`crate::push::health::reasons`].
    pub(super) fn reason(&self) -> Option<&'static str> {
        self.0.get().copied()
    }

    fn note(&self, error: &io::Error) {
        if let Some(reason) = objection(error) {
            // The first says why; what follows is its echo.
            let _ = self.0.set(reason);
        }
    }
}

/// The objection to our certificate in an error of TLS.
pub(super) fn objection(error: &io::Error) -> Option<&'static str> {
    let inner = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    let Some(rustls::Error::AlertReceived(alert)) = inner?.downcast_ref() else { return None };
    match alert {
        AlertDescription::CertificateExpired => Some("CertificateExpired"),
        AlertDescription::CertificateRevoked => Some("CertificateRevoked"),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
        | AlertDescription::CertificateRequired => Some("CertificateRefused"),
        _ => None,
    }
}

/// What has come of the first HTTP/2 frame of a peer (RFC 9113 §4.1).
#[derive(Default)]
struct FirstFrame {
    length: [u8; 3],
    came: usize,
}

impl FirstFrame {
    /// The length, the type, the flags and the stream.
    const HEAD: usize = 9;

    /// Takes what comes next; whether the frame is whole then.
    fn take(&mut self, bytes: &[u8]) -> bool {
        for (place, byte) in self.length.iter_mut().skip(self.came).zip(bytes) {
            *place = *byte;
        }
        self.came += bytes.len();
        let length = self.length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.came >= Self::HEAD + length
    }
}

/// A stream of HTTP/2 that keeps in mind what its peer objects to, and whether its first frame has come.
pub(super) struct ObservedStream<S> {
    stream: S,
    objection: Objection,
    /// Told when the first frame has come whole.
    has_spoken: Arc<AtomicBool>,
    /// Until then.
    first: Option<FirstFrame>,
    /// The error of a write, kept until all earlier input is read.
    unwritable: Option<io::Error>,
}

impl<S> ObservedStream<S> {
    pub(super) fn new(stream: S, objection: Objection) -> Self {
        Self { stream, objection, has_spoken: Arc::default(), first: Some(FirstFrame::default()), unwritable: None }
    }

    /// Becomes true when the peer's first frame has come whole.
    pub(super) fn has_spoken(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_spoken)
    }

    fn noted<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome {
            self.objection.note(error);
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> ObservedStream<S> {
    /// A peer that has closed takes nothing more; why it closed is still to be read, and may not be there yet.
    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Err(error)) => {
                self.objection.note(&error);
                self.unwritable = Some(error);
                self.last_words(context).map(Err)
            }
            outcome => outcome,
        }
    }

    /// Reads what is left of a stream that takes nothing more, to its end; the error of the write.
    fn last_words(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            let mut spare = [0; 512];
            let mut read = ReadBuf::new(&mut spare);
            let outcome = std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut read));
            if let Err(error) = &outcome {
                self.objection.note(error);
            }
            if outcome.is_err() || read.filled().is_empty() {
                return Poll::Ready(self.unwritable.take().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(context, into);
        if this.first.as_mut().is_some_and(|first| first.take(&into.filled()[before..])) {
            this.first = None;
            this.has_spoken.store(true, Ordering::Release);
        }
        this.noted(outcome)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unwritable.is_some() {
            return this.last_words(context).map(Err);
        }
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.written(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unwritable.is_some() {
            return this.last_words(context).map(Err);
        }
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unwritable.is_some() {
            return this.last_words(context).map(Err);
        }
        let outcome = Pin::new(&mut this.stream).poll_flush(context);
        this.written(context, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_with_its_last_byte_however_it_comes() {
        // SETTINGS with two parameters, and a PING behind it.
        let mut bytes = vec![0, 0, 12, 4, 0, 0, 0, 0, 0];
        bytes.extend([0, 3, 0, 0, 0, 100, 0, 4, 0, 1, 0, 0, 0, 0, 8, 6, 0]);
        for piece in 1..=bytes.len() {
            let mut first = FirstFrame::default();
            let whole = bytes.chunks(piece).map(|piece| first.take(piece)).take_while(|whole| !whole).count();
            assert_eq!(whole, 20 / piece, "in pieces of {piece}");
        }
    }

    #[test]
    fn an_alert_says_what_the_service_has_against_the_certificate() {
        let alert = |alert| objection(&io::Error::other(rustls::Error::AlertReceived(alert)));
        assert_eq!(alert(AlertDescription::CertificateExpired), Some("CertificateExpired"));
        assert_eq!(alert(AlertDescription::CertificateRevoked), Some("CertificateRevoked"));
        assert_eq!(alert(AlertDescription::UnknownCA), Some("CertificateRefused"));
        assert_eq!(alert(AlertDescription::HandshakeFailure), None);
        assert_eq!(objection(&io::ErrorKind::BrokenPipe.into()), None);
    }
}

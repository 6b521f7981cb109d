//! Why TLS with another side fails, in words that can be told to anybody.
//!
//! Invariant: a fault repeats nothing that the other side has sent, no name either.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// A reason why another side and the relay cannot speak TLS.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFault {
    /// Its certificate is over.
    #[error("its certificate has expired")]
    Expired,
    /// Its certificate begins later, or the relay's clock is behind.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// Its certificate names other hosts.
    #[error("its certificate is for another name")]
    OtherName,
    /// Its certificate leads to no root that the relay trusts.
    #[error("no CA that is trusted here vouches for its certificate")]
    UnknownCa,
    /// Its certificate is a CA's, as one is that `openssl req -x509` makes.
    #[error("its certificate is a CA's, which is no server's")]
    IsCa,
    /// Its certificate cannot be used for another reason.
    #[error("its certificate cannot be used")]
    Certificate,
    /// The other side wants a certificate of the relay, or another one.
    #[error("it does not take the relay's certificate, or wants one")]
    OursRefused,
    /// The other side does not speak TLS at this port, or no version or cipher that the relay speaks.
    #[error("it does not speak TLS there, or none that is spoken here")]
    NoCommonTls,
}

impl TlsFault {
    /// The TLS fault within a stream's error, if TLS is the cause.
    pub fn within(error: &io::Error) -> Option<Self> {
        Some(Self::of(error.get_ref()?.downcast_ref::<Error>()?))
    }

    /// The meaning of the library's error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
                CertificateError::UnknownIssuer => Self::UnknownCa,
                CertificateError::Other(other) if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) => {
                    Self::IsCa
                }
                _ => Self::Certificate,
            },
            Error::AlertReceived(
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::CertificateRequired,
            ) => Self::OursRefused,
            _ => Self::NoCommonTls,
        }
    }
}

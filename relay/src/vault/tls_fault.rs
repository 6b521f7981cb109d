//! Why TLS with a store fails: told to an operator with its remedy.
//!
//! Invariant: a fault repeats nothing that the other side has sent, no name either.

use rustls::{AlertDescription, CertificateError, Error};

/// What keeps a store and the relay from speaking TLS.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsFault {
    /// The store's certificate is over.
    #[error("its certificate has expired")]
    Expired,
    /// The store's certificate begins later, or the relay's clock is behind.
    #[error("its certificate is not valid yet")]
    NotYetValid,
    /// The store's certificate names other hosts.
    #[error("its certificate is for another name")]
    OtherName,
    /// The store's certificate leads to no root that the relay trusts.
    #[error("no CA that is trusted here vouches for its certificate")]
    UnknownCa,
    /// The store's certificate cannot be used for another reason.
    #[error("its certificate cannot be used")]
    Certificate,
    /// The store wants a certificate of the relay, or another one.
    #[error("it does not take the relay's certificate, or wants one")]
    OursRefused,
    /// The store does not speak TLS at this port, or no version or cipher that the relay speaks.
    #[error("it does not speak TLS there, or none that is spoken here")]
    NoCommonTls,
}

impl TlsFault {
    /// What the library's error means.
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
                CertificateError::UnknownIssuer => Self::UnknownCa,
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

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Expired => "renew the store's certificate, and have the store load it",
            Self::NotYetValid => "set the clock of this machine, or renew the store's certificate",
            Self::OtherName => "write in store.url a name that the store's certificate has, or issue one for this name",
            Self::UnknownCa => "name the CA of the store's certificate in store.ca_file",
            Self::Certificate => "issue another certificate for the store",
            Self::OursRefused => "name in store.client_certificate and store.client_key what the store's CA has issued",
            Self::NoCommonTls => {
                "write redis for rediss, or name the store's TLS port; it is to speak TLS 1.2 or later"
            }
        }
    }
}

//! The tests' certificate authority, as the relay's own TLS loads what it issues.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, SanType};
use relay::net::tls::{ClientTls, ServerTls};
use tests::authority::Authority as Issuer;
use tests::scratch::Scratch;

pub const DAY: Duration = Duration::from_secs(86_400);

/// The authority, and where it writes.
pub struct Authority {
    pub scratch: Scratch,
    issuer: Issuer,
    pub ca: PathBuf,
}

/// What is unusual about a certificate.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Usual,
    Expired,
    AuthorityAsLeaf,
}

impl Authority {
    pub fn new() -> Self {
        let (scratch, issuer) = (Scratch::new(), Issuer::new());
        let ca = issuer.ca_file();
        Self { scratch, issuer, ca }
    }

    /// A certificate for `names`, and its key, in PEM.
    pub fn issue(&self, names: &[&str], kind: Kind, expires: SystemTime) -> (String, String) {
        let issued = self.issuer.issue_with(names, |params| {
            params.not_before = (SystemTime::now() - 30 * DAY).into();
            params.not_after = expires.into();
            match kind {
                Kind::Usual => {}
                Kind::Expired => params.not_after = (SystemTime::now() - DAY).into(),
                Kind::AuthorityAsLeaf => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            }
        });
        let read = |path| std::fs::read_to_string(path).unwrap();
        (read(&issued.certificate_file), read(&issued.key_file))
    }

    /// Writes `relay.pem` and `relay.key` for `names`.
    pub fn write(&self, names: &[&str], kind: Kind) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue(names, kind, SystemTime::now() + 90 * DAY);
        (self.scratch.file("relay.pem", certificate), self.scratch.file("relay.key", key))
    }

    /// A server's side with these subject alternative names, and what else `change` says.
    pub fn server_named(&self, names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerTls> {
        let issued = self.issuer.issue_with(&[], |params| {
            params.subject_alt_names = names;
            params.not_before = (SystemTime::now() - 30 * DAY).into();
            params.not_after = (SystemTime::now() + 90 * DAY).into();
            change(params);
        });
        ServerTls::load(&issued.certificate_file, &issued.key_file).unwrap()
    }

    /// A server's side for `names`.
    pub fn server(&self, names: &[&str], kind: Kind) -> Arc<ServerTls> {
        let (certificate, key) = self.write(names, kind);
        ServerTls::load(&certificate, &key).unwrap()
    }

    /// A client's side of HTTPS that trusts this authority.
    pub fn web_client(&self) -> ClientTls {
        ClientTls::web(Some(&self.ca)).unwrap()
    }

    /// A client's side that trusts this authority.
    pub fn client(&self) -> ClientTls {
        ClientTls::new(Some(&self.ca)).unwrap()
    }
}

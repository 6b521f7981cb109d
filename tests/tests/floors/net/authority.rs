//! A certificate authority for these tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use relay::net::tls::{ClientTls, ServerTls};
use tests::scratch::Scratch;

pub const DAY: Duration = Duration::from_secs(86_400);

/// The authority, and where it writes.
pub struct Authority {
    pub scratch: Scratch,
    issuer: Issuer<'static, KeyPair>,
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
        let scratch = Scratch::new();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = scratch.file("ca.pem", params.self_signed(&key).unwrap().pem());
        Self { scratch, issuer: Issuer::new(params, key), ca }
    }

    /// A certificate for `names`, and its key, in PEM.
    pub fn issue(&self, names: &[&str], kind: Kind, expires: SystemTime) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = expires.into();
        match kind {
            Kind::Usual => {}
            Kind::Expired => params.not_after = (SystemTime::now() - DAY).into(),
            Kind::AuthorityAsLeaf => params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Writes `relay.pem` and `relay.key` for `names`.
    pub fn write(&self, names: &[&str], kind: Kind) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.issue(names, kind, SystemTime::now() + 90 * DAY);
        (self.scratch.file("relay.pem", certificate), self.scratch.file("relay.key", key))
    }

    /// A server's side with these subject alternative names, and what else `change` says.
    pub fn server_named(&self, names: Vec<SanType>, change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerTls> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.not_before = (SystemTime::now() - 30 * DAY).into();
        params.not_after = (SystemTime::now() + 90 * DAY).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (certificate, key) =
            (self.scratch.file("named.pem", certificate.pem()), self.scratch.file("named.key", key.serialize_pem()));
        ServerTls::load(&certificate, &key).unwrap()
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

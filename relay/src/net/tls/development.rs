//! A certificate for trying the relay on one machine.
//!
//! Invariant: it names loopback alone, and the key of the CA that vouches for it never leaves this function.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::{TlsError, certified};

/// How long it is valid.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// How far back it is valid, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// The certificate and its CA's PEM.
pub(super) fn certificate() -> Result<(CertifiedKey, String), TlsError> {
    make().map_err(TlsError::Development)
}

fn make() -> Result<(CertifiedKey, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let ca_key = KeyPair::generate().map_err(text)?;
    let mut ca = params("sipwake development CA", &[])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key).map_err(text)?.pem();

    let key = KeyPair::generate().map_err(text)?;
    let mut leaf = params("sipwake development", &["localhost", "127.0.0.1", "::1"])?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(text)?;

    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let certified = certified(vec![leaf.der().clone()], key).map_err(|error| error.to_string())?;
    Ok((certified, ca_pem))
}

fn params(name: &str, hosts: &[&str]) -> Result<CertificateParams, String> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).map_err(|error| error.to_string())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + LIFETIME).into();
    Ok(params)
}

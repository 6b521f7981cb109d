//! A certificate for trying the relay on one machine.
//!
//! Invariant: it names loopback, and what SIP servers call this relay by, alone. A CA whose key nobody keeps is gone with the function that made it; one that is kept has
//! the same name and key each time, so that who trusts an earlier certificate of it trusts the next one.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use zeroize::Zeroizing;

use super::{TlsError, certified};
use crate::secret::SecretText;

/// How long it is valid, and its CA.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);
const CA_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How far back it is valid, for clocks that are behind.
const BACKDATED: Duration = Duration::from_secs(3_600);

/// The certificate and its CA's PEM; it names these addresses, too, as far as they are of loopback, and the host by which SIP servers find the relay.
pub(super) fn certificate(
    ca_key: Option<&SecretText>,
    addresses: &[IpAddr],
    public_host: &str,
) -> Result<(CertifiedKey, String), TlsError> {
    make(ca_key, addresses, public_host).map_err(TlsError::Development)
}

/// A key for a CA that is to be kept, in PEM.
///
/// # Errors
/// When it cannot be made.
pub fn new_ca_key() -> Result<Zeroizing<String>, TlsError> {
    let key = KeyPair::generate().map_err(|error| TlsError::Development(error.to_string()))?;
    Ok(Zeroizing::new(key.serialize_pem()))
}

/// Whether this is a key that [`new_ca_key`] could have made.
pub fn is_ca_key(pem: &str) -> bool {
    KeyPair::from_pem(pem).is_ok()
}

fn make(
    ca_key: Option<&SecretText>,
    addresses: &[IpAddr],
    public_host: &str,
) -> Result<(CertifiedKey, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let kept = ca_key.is_some();
    let ca_key = match ca_key {
        Some(key) => KeyPair::from_pem(key.expose()).map_err(text)?,
        None => KeyPair::generate().map_err(text)?,
    };
    let mut ca = params("sipwake development CA", Vec::new(), if kept { CA_LIFETIME } else { LIFETIME })?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key).map_err(text)?.pem();

    let key = KeyPair::generate().map_err(text)?;
    let mut hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    let public_host = public_host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let of_loopback = addresses.iter().filter(|address| address.is_loopback()).map(ToString::to_string);
    for host in of_loopback.chain([public_host]) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    let mut leaf = params("sipwake development", hosts, LIFETIME)?;
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(text)?;

    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let certified = certified(vec![leaf.der().clone()], key).map_err(|error| error.to_string())?;
    Ok((certified, ca_pem))
}

fn params(name: &str, hosts: Vec<String>, lifetime: Duration) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::new(hosts).map_err(|error| error.to_string())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    Ok(params)
}

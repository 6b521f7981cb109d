//! Doubts about the relay's certificate: reasons for its clients to refuse it, found before they do.
//!
//! Invariant: it looks and changes nothing. Whether a phone trusts the CA is the phone's to say; a fault that no client can accept
//! is [`Doubt::is_fatal`].

use std::fmt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{TlsError, certificates, server_name, validity};

/// A certificate that ends within this many seconds is said: 14 days; one of a short life within a [`SOON_PART`] of that.
const SOON_S: u64 = 14 * 86_400;
/// The part of its life in which a certificate ends soon. Who renews by ACME does so before: in the last third, or half of a few days.
const SOON_PART: u64 = 5;
/// The names that are repeated when none fits.
const NAMES_SHOWN: usize = 5;

/// A fault of a certificate, present or to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The certificate has ended; the date, and its place in the chain counted from 1.
    Ended(String, usize),
    /// Its time has not come.
    NotYet(String, usize),
    /// The certificate [ends soon](ends_soon).
    EndsSoon(String),
    /// The certificate does not name this host, but others.
    DoesNotName(String, Vec<String>),
    /// The certificate is a CA's own.
    IsCa,
    /// The certificate is a CA's own, which nobody but itself vouches for.
    IsItsOwnCa,
    /// The certificate is not for servers.
    NotForServers,
    /// No root of this machine vouches for it.
    NobodyVouches,
    /// The certificate names this host by a wildcard alone.
    ByWildcard(String),
    /// The certificate is signed with SHA-1 or MD5.
    WeakSignature,
}

impl Doubt {
    /// Whether a certificate's time is not now.
    pub fn is_untimely(&self) -> bool {
        matches!(self, Self::Ended(..) | Self::NotYet(..))
    }

    /// Whether no client can take it; else it is worth saying.
    pub fn is_fatal(&self) -> bool {
        !matches!(
            self,
            Self::EndsSoon(_) | Self::NobodyVouches | Self::ByWildcard(_) | Self::WeakSignature | Self::IsItsOwnCa
        )
    }

    /// The remedy.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Ended(..) | Self::EndsSoon(_) => "renew it; the relay takes the new files within 5 s",
            Self::NotYet(..) => "wait, or look at this machine's clock",
            Self::DoesNotName(..) => "have one issued for this name, or write the name that it has",
            Self::IsCa => "put the relay's own certificate first, and name its key",
            Self::IsItsOwnCa => "have one issued with the basic constraint CA:FALSE",
            Self::NotForServers => "have one issued with the extended key usage serverAuth",
            Self::ByWildcard(_) => {
                "have one issued for this name, where a SIP server refuses the relay's connections or certificate"
            }
            Self::WeakSignature => "have one issued that is signed with SHA-256",
            Self::NobodyVouches => {
                "add the intermediate certificates behind the leaf, or see that phones, apps and SIP servers trust its CA"
            }
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = |place: &usize| match place {
            1 => "the certificate".to_owned(),
            place => format!("certificate {place} of the chain"),
        };
        match self {
            Self::Ended(when, place) => write!(f, "{} has expired: it ended on {when}", which(place)),
            Self::NotYet(when, place) => write!(f, "{} is not valid before {when}", which(place)),
            Self::EndsSoon(when) => write!(f, "the certificate ends soon, on {when}"),
            Self::DoesNotName(host, names) if names.is_empty() => {
                write!(f, "the certificate does not name {host}; it names nobody")
            }
            Self::DoesNotName(host, names) => {
                write!(f, "the certificate does not name {host}; it names {}", names.join(", "))
            }
            Self::IsCa => f.write_str("the first certificate is a CA's"),
            Self::IsItsOwnCa => f.write_str(
                "the certificate is a CA's that has signed itself, which some clients take where they trust it by itself, and others never do",
            ),
            Self::NotForServers => f.write_str("the certificate is not for servers"),
            Self::NobodyVouches => f.write_str("no root of this machine vouches for the certificate"),
            Self::WeakSignature => {
                f.write_str("the certificate is signed with SHA-1 or MD5, which iOS, Android and OpenSSL 3 refuse")
            }
            Self::ByWildcard(host) => write!(
                f,
                "the certificate names {host} by a wildcard alone, which phones and apps take, and a SIP server that goes by RFC 5922 does not"
            ),
        }
    }
}

/// The doubts about the chain in the file, as [`doubts_of`] tells them.
///
/// # Errors
/// [`TlsError`] when the file holds no certificate.
pub fn doubts(chain: &Path, hosts: &[&str], ca_file: Option<&Path>, now: u64) -> Result<Vec<Doubt>, TlsError> {
    Ok(doubts_of(&certificates(chain)?, hosts, ca_file, now))
}

/// The doubts about a chain (leaf first) at `now`, in seconds since 1970, for a client that connects to one of `hosts` (bracketed when IPv6).
/// `ca_file` is trusted beside the system's roots.
pub fn doubts_of(chain: &[CertificateDer<'_>], hosts: &[&str], ca_file: Option<&Path>, now: u64) -> Vec<Doubt> {
    let mut doubts = dated(chain, now);
    doubts.extend(chain.first().filter(|leaf| validity::is_signed_weakly(leaf)).map(|_| Doubt::WeakSignature));
    if let Some(leaf) = chain.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok()) {
        doubts.extend(hosts.iter().filter_map(|host| does_not_name(&leaf, host)));
        let untimely = doubts.iter().any(Doubt::is_untimely);
        doubts.extend(if untimely { None } else { unvouched(&leaf, &chain[1..], ca_file, now) });
    }
    doubts
}

/// Why every client refuses this leaf at `now`, one that connects to `host` where there is one; whoever has issued it. No root is asked.
pub(super) fn fatal(leaf: &CertificateDer<'_>, host: Option<&str>, now: u64) -> Option<Doubt> {
    let by_date = dated(std::slice::from_ref(leaf), now).into_iter().find(Doubt::is_fatal);
    by_date.or_else(|| {
        let leaf = EndEntityCert::try_from(leaf).ok()?;
        let error = verify(&leaf, &[], &RootCertStore::empty(), now).err();
        let by_kind = error.and_then(|error| by_kind(&leaf, &error)).filter(Doubt::is_fatal);
        by_kind.or_else(|| does_not_name(&leaf, host?))
    })
}

fn does_not_name(leaf: &EndEntityCert<'_>, host: &str) -> Option<Doubt> {
    let fits = |name| leaf.verify_is_valid_for_subject_name(&name).is_ok();
    (!server_name(host).is_some_and(fits)).then(|| Doubt::DoesNotName(host.to_owned(), names(leaf)))
}

/// The doubt about what a certificate is for, whoever vouches for it.
fn by_kind(leaf: &EndEntityCert<'_>, error: &webpki::Error) -> Option<Doubt> {
    match error {
        // OpenSSL and Go take such a leaf where it is pinned; webpki does not.
        webpki::Error::CaUsedAsEndEntity if leaf.issuer() == leaf.subject() => Some(Doubt::IsItsOwnCa),
        webpki::Error::CaUsedAsEndEntity => Some(Doubt::IsCa),
        webpki::Error::RequiredEkuNotFoundContext(_) => Some(Doubt::NotForServers),
        _ => None,
    }
}

/// The doubt that the leaf of the chain in the file names a host by a wildcard alone: no SIP server has to take that (RFC 5922 §7.2).
///
/// # Errors
/// [`TlsError`] when the file holds no certificate.
pub fn by_wildcard(chain: &Path, host: &str) -> Result<Option<Doubt>, TlsError> {
    let chain = certificates(chain)?;
    let Some(leaf) = chain.first().and_then(|leaf| EndEntityCert::try_from(leaf).ok()) else { return Ok(None) };
    let is_named = server_name(host).is_some_and(|name| leaf.verify_is_valid_for_subject_name(&name).is_ok());
    let is_numeric = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    let by_itself = leaf.valid_dns_names().any(|name| name.eq_ignore_ascii_case(host.trim_end_matches('.')));
    Ok((is_named && !is_numeric && !by_itself).then(|| Doubt::ByWildcard(host.to_owned())))
}

/// The doubts about the dates of a chain (leaf first) at `now`, in seconds since 1970.
pub fn dated(chain: &[CertificateDer<'_>], now: u64) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    for (index, certificate) in chain.iter().enumerate() {
        let Some((not_before, not_after)) = validity::period(certificate) else { continue };
        let day = |at: u64| crate::clock::rfc3339(at);
        if not_after <= now {
            doubts.push(Doubt::Ended(day(not_after), index + 1));
        } else if not_before > now {
            doubts.push(Doubt::NotYet(day(not_before), index + 1));
        } else if index == 0 && ends_soon(not_after - now, not_after - not_before) {
            doubts.push(Doubt::EndsSoon(day(not_after)));
        }
    }
    doubts
}

/// Whether a certificate with so many seconds left of its whole life is to be renewed by now.
pub fn ends_soon(left_s: u64, life_s: u64) -> bool {
    left_s < SOON_S.min(life_s / SOON_PART)
}

/// The first names of a certificate.
fn names(leaf: &EndEntityCert<'_>) -> Vec<String> {
    let names = leaf.valid_dns_names().chain(leaf.valid_uri_names());
    names.take(NAMES_SHOWN).map(str::to_owned).collect()
}

/// Whether a root of this machine, or one in `ca_file`, vouches for a chain (leaf first) as it is sent; for a leaf whose time is not now, at the moment of its
/// time that is nearest.
pub fn is_vouched_for(chain: &[CertificateDer<'_>], ca_file: Option<&Path>, now: u64) -> bool {
    let Some((leaf, sent)) = chain.split_first() else { return false };
    let at = validity::period(leaf).map_or(now, |(begin, end)| now.min(end.saturating_sub(1)).max(begin));
    EndEntityCert::try_from(leaf).is_ok_and(|leaf| verify(&leaf, sent, &trusted(ca_file), at).is_ok())
}

/// The roots of this machine and those in `ca_file`.
fn trusted(ca_file: Option<&Path>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(ca_file.and_then(|file| certificates(file).ok()).unwrap_or_default());
    roots
}

fn verify(
    leaf: &EndEntityCert<'_>,
    sent: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: u64,
) -> Result<(), webpki::Error> {
    let algorithms = default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    leaf.verify_for_usage(algorithms, &roots.roots, sent, now, KeyUsage::server_auth(), None, None).map(drop)
}

/// Why no path leads from the leaf to a root of this machine, or to a certificate that is sent along.
fn unvouched(leaf: &EndEntityCert<'_>, sent: &[CertificateDer<'_>], ca_file: Option<&Path>, now: u64) -> Option<Doubt> {
    let mut roots = trusted(ca_file);
    roots
        .roots
        .extend(sent.iter().filter_map(|certificate| Some(anchor_from_trusted_cert(certificate).ok()?.to_owned())));
    verify(leaf, sent, &roots, now).err().map(|error| by_kind(leaf, &error).unwrap_or(Doubt::NobodyVouches))
}

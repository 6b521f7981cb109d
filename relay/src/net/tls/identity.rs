//! The identities in a certificate, as RFC 5922 §7.1 finds them, compared as §7.2 says.
//!
//! | in the certificate | counts |
//! | --- | --- |
//! | subjectAltName URI `sip:example.com` | as that domain; then no DNS name counts |
//! | a URI of another scheme, or with a user (`sip:alice@example.com`) | never |
//! | subjectAltName DNS `example.com` | as that domain, where no `sip:` URI names any |
//! | subjectAltName IP | as that address, for an account whose host is numeric |
//! | a wildcard | as itself, and so for nobody |
//! | the subject's common name | never: §7.1 allows it where there is no subjectAltName at all, and no CA issues such a one any more |
//!
//! The identities are compared with the host that the account names, never with a name that DNS gave for it: an attacker who answers for DNS
//! must not be able to send an account elsewhere.
//!
//! Invariant: the chain, its dates, its purposes (serverAuth, or SIP's own of RFC 5924) and the handshake's signature are
//! webpki's to judge, and each must be right; a CA's certificate is nobody's.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

/// id-kp-sipDomain, 1.3.6.1.5.5.7.3.20 (RFC 5924 §4).
const SIP_DOMAIN: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 20];

/// Verifies the certificates of SIP servers.
#[derive(Debug)]
pub(super) struct SipIdentity {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SipIdentity {
    /// Trusts what one of `roots` vouches for.
    pub(super) fn new(roots: RootCertStore, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots: Arc::new(roots), algorithms }
    }

    /// Whether a root vouches for it, for a purpose that is SIP's.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let all = self.algorithms.all;
        let usual = verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, all);
        let other_purpose = matches!(
            &usual,
            Err(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
            ))
        );
        if !other_purpose {
            return usual;
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| CertificateError::BadEncoding)?;
        let usage = KeyUsage::required(SIP_DOMAIN);
        leaf.verify_for_usage(all, &self.roots.roots, intermediates, now, usage, None, None).map(drop).or(usual)
    }
}

impl ServerCertVerifier for SipIdentity {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify_chain(end_entity, intermediates, now)?;
        let leaf = EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if names(&leaf, server_name) {
            return Ok(ServerCertVerified::assertion());
        }
        let presented = leaf.valid_uri_names().chain(leaf.valid_dns_names()).map(str::to_owned).collect();
        Err(CertificateError::NotValidForNameContext { expected: server_name.to_owned(), presented }.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a certificate that is to be trusted names this domain or address.
fn names(leaf: &EndEntityCert<'_>, wanted: &ServerName<'_>) -> bool {
    let sip: Vec<&str> = leaf.valid_uri_names().filter_map(sip_domain).collect();
    match wanted {
        ServerName::DnsName(name) => {
            let name = name.as_ref();
            if sip.is_empty() {
                leaf.valid_dns_names().any(|presented| same(presented, name))
            } else {
                sip.iter().any(|presented| same(presented, name))
            }
        }
        ServerName::IpAddress(address) => {
            let address = IpAddr::from(*address);
            let numeric = |text: &&str| text.trim_matches(['[', ']']).parse() == Ok(address);
            sip.iter().any(numeric) || leaf.verify_is_valid_for_subject_name(wanted).is_ok()
        }
        _ => false,
    }
}

/// The domain that a `sip:` URI without a user names (RFC 5922 §7.1); brackets stay on an IPv6 address.
fn sip_domain(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    let host = rest.split([';', '?']).next()?;
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    Some(&host[..end]).filter(|host| !host.is_empty())
}

/// In their entirety, whatever the case, and with no wildcard (RFC 5922 §7.2); a final dot makes no difference.
fn same(presented: &str, wanted: &str) -> bool {
    let bare = |name: &'_ str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    bare(presented) == bare(wanted)
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::crypto::aws_lc_rs::default_provider;

    use super::*;
    use crate::net::tls_fault::TlsFault;

    #[test]
    fn a_certificate_that_has_signed_itself_is_trusted_where_it_is_known_unless_it_is_a_cas() {
        let ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for (is_ca, fault) in [(IsCa::NoCa, None), (IsCa::ExplicitNoCa, None), (ca, Some(TlsFault::IsCa))] {
            let mut params = CertificateParams::new(["pbx.example".to_owned()]).unwrap();
            params.is_ca = is_ca;
            let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(leaf.der().clone()).unwrap();
            let identity = SipIdentity::new(roots, default_provider().signature_verification_algorithms);
            let name = ServerName::try_from("pbx.example").unwrap();
            let verified = identity.verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now());
            assert_eq!(verified.err().map(|error| TlsFault::of(&error)), fault);
        }
    }

    #[test]
    fn a_sip_uri_without_a_user_names_its_domain() {
        for (uri, domain) in [
            ("sip:example.com", Some("example.com")),
            ("SIP:Example.com", Some("Example.com")),
            ("sip:example.com:5061;transport=tls", Some("example.com")),
            ("sip:[2001:db8::1]:5061", Some("[2001:db8::1]")),
            ("sip:192.0.2.1", Some("192.0.2.1")),
            ("sip:alice@example.com", None),
            ("sips:example.com", None),
            ("https:example.com", None),
            ("sip:", None),
            ("example.com", None),
        ] {
            assert_eq!(sip_domain(uri), domain, "{uri}");
        }
    }

    #[test]
    fn names_are_the_same_in_their_entirety_alone() {
        assert!(same("Example.COM", "example.com") && same("example.com.", "example.com"));
        for other in ["*.example.com", "*.com", ".example.com", "a.example.com", "example.com.evil"] {
            assert!(!same(other, "example.com") && !same(other, "sip.example.com"), "{other}");
        }
    }
}

//! `[acme]`, which takes the place of `[tls]`.
//!
//! Invariant: as for the other sections: every key is read, and every problem found.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::reader::Reader;
use super::values;
use super::{Acme, AcmeChallenge, Api, Edge, Store, Upstream};

/// Let's Encrypt's.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Names in one certificate, and addresses to write to; more is refused.
const MAX_NAMES: usize = 100;
const MAX_CONTACTS: usize = 10;
/// The port at which every CA looks for TLS-ALPN-01 (RFC 8737 §3).
const HTTPS_PORT: u16 = 443;

pub(super) fn acme(root: &mut Reader<'_>, edge: &Edge, api: &Api, upstream: &Upstream, store: &Store) -> Option<Acme> {
    let is_there = root.has("acme");
    let mut section = root.section_or_empty("acme");
    let directory_url = section.parsed("directory_url", "an https URL without a user", https_url, DIRECTORY.into());
    let agrees = section.flag("agree_to_terms", false);
    if is_there && !agrees {
        section.problem("agree_to_terms", "is not true", "read the CA's terms, and agree to them by writing true");
    }
    let contact = contact(&mut section);
    let beside = || store.keyring.as_deref().and_then(|keyring| keyring.parent()).map(|folder| folder.join("acme"));
    let state = section.path("state").or_else(beside).unwrap_or_else(|| PathBuf::from("acme"));
    let kind = |text: &str| match text {
        "tls-alpn-01" => Some(AcmeChallenge::TlsAlpn01),
        "http-01" => Some(AcmeChallenge::Http01),
        _ => None,
    };
    let wanted = "\"tls-alpn-01\" or \"http-01\"";
    let challenge = section.parsed("challenge", wanted, kind, AcmeChallenge::TlsAlpn01);
    let address = "an address and a port, like \"0.0.0.0:80\"";
    let listen = section.optional("listen", address, values::socket_address);
    let everywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 80);
    let listen = listen.or_else(|| (challenge == AcmeChallenge::Http01).then_some(everywhere));
    if is_there && listen.is_none() && ![HTTPS_PORT, 0].contains(&api.listen.port()) {
        let what = "is \"tls-alpn-01\": the CA connects to port 443, and api.listen has another one";
        section.caution(
            "challenge",
            what,
            "forward port 443 to it, or name an address for the CA alone in acme.listen",
        );
    }
    let names = names(&mut section, edge, upstream, is_there);
    let ca_file = section.file("ca_file");
    section.finish();
    is_there.then_some(Acme { directory_url, contact, state, challenge, listen, names, ca_file })
}

/// An HTTPS URL without user information: the URL appears in messages about the CA, and a name before an `@` must not.
fn https_url(text: &str) -> Option<Box<str>> {
    let uri: hyper::Uri = text.parse().ok()?;
    let authority = uri.authority()?.as_str();
    (uri.scheme_str() == Some("https") && !authority.contains('@')).then(|| text.into())
}

fn contact(section: &mut Reader<'_>) -> Vec<Box<str>> {
    let entries = section.list("contact").unwrap_or_default();
    if entries.len() > MAX_CONTACTS {
        section.problem("contact", format!("has {} entries", entries.len()), format!("keep it to {MAX_CONTACTS}"));
    }
    let is_mail = |entry: &String| entry.strip_prefix("mailto:").is_some_and(|mail| mail.contains('@'));
    if !entries.iter().all(is_mail) {
        let remedy = "write \"mailto:ops@example.net\"";
        section.problem("contact", "holds what is no address to write to", remedy);
    }
    entries.into_iter().map(Into::into).collect()
}

/// The configured names, else the hosts that devices, apps and SIP servers reach this relay by.
fn names(section: &mut Reader<'_>, edge: &Edge, upstream: &Upstream, is_there: bool) -> Vec<String> {
    let sip_host =
        (upstream.transports.tls && upstream.public_host != edge.public.host).then_some(&upstream.public_host);
    let known_by = || std::iter::once(&edge.public.host).chain(sip_host);
    let listed = section.list("names").unwrap_or_default();
    let names = if listed.is_empty() { known_by().map(ToString::to_string).collect() } else { listed };
    if names.len() > MAX_NAMES {
        section.problem("names", format!("has {} entries", names.len()), format!("keep it to {MAX_NAMES}"));
    }
    let mut hosts = Vec::new();
    for name in &names {
        match values::host(name).filter(|host| is_certifiable(host)) {
            Some(host) => hosts.push(host.to_string()),
            None if is_there => section.problem(
                "names",
                format!("holds {name:?}, which is no name that a CA vouches for"),
                "write DNS names such as \"relay1.example.net\"; where none is listed, those of edge.public and \
                 upstream.public_host are taken",
            ),
            None => {}
        }
    }
    for left_out in
        known_by().filter(|host| is_there && is_certifiable(host) && !hosts.iter().any(|it| **it == ***host))
    {
        let what = format!("leaves out {left_out}: who connects by that name refuses the certificate");
        section.caution("names", what, "list it as well: what is listed takes the place of the usual names");
    }
    hosts
}

/// Whether a CA vouches for a host: a name, and none of this network alone.
fn is_certifiable(host: &str) -> bool {
    let is_numeric = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    !is_numeric && host.contains('.')
}

#[cfg(test)]
mod tests {
    use super::super::reader::repeated;
    use super::*;

    #[test]
    fn names_that_leave_out_one_that_the_relay_is_known_by_are_told_of() {
        let told = |public: &str, names: &[&str]| {
            let text = format!(
                "[edge]\npublic = \"{public}\"\n[upstream]\npublic_host = \"sip.example.net\"\n\
                 [acme]\nagree_to_terms = true\nnames = {names:?}\n"
            );
            let profile = crate::config::sections::Profile::Development;
            let read = crate::config::sections::read(&text, std::path::Path::new("/nowhere"), [], profile);
            let cautions = read.expect("a configuration").cautions;
            let of_names = cautions.into_iter().filter(|caution| caution.place == "acme.names");
            of_names.map(|caution| (caution.what, caution.line)).collect::<Vec<_>>()
        };
        let left_out = told("Relay1.example.net", &["api.example.net"]);
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(left_out[0].0.contains("relay1.example.net") && left_out[1].0.contains("sip.example.net"));
        assert!(left_out.iter().all(|(_, line)| *line == Some(7)), "{left_out:?}");
        for (public, names) in [
            ("relay1.example.net", &[][..]),
            ("relay1.example.net", &["api.example.net", "SIP.example.net", "relay1.example.net"]),
            // No CA vouches for the address.
            ("192.0.2.1:5061", &["api.example.net", "sip.example.net"]),
        ] {
            assert_eq!(told(public, names), [], "{public} {names:?}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_repeated_nowhere() {
        for (text, is_one) in [
            (DIRECTORY, true),
            ("https://ca.example:14000/dir", true),
            ("https://user:pw@ca.example/dir", false),
            ("http://ca.example/dir", false),
            ("https://", false),
        ] {
            assert_eq!(https_url(text).is_some(), is_one, "{text}");
            assert!(!repeated(text).contains("pw"), "{text}");
        }
        for text in ["https://user:pw@collector:4318", "user:pw@collector:4318", "https://x.example/@pw"] {
            assert!(!repeated(text).contains("pw"), "{text}");
        }
        assert_eq!(repeated("mailto:ops"), "\"mailto:ops\"");
        assert_eq!(repeated("https//ca"), "\"https//ca\"");
    }
}

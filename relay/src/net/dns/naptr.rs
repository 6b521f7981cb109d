//! The services that a domain's NAPTR records offer (RFC 3263 §4.1, RFC 3403).
//!
//! Invariant: the same records give the same order, whatever order DNS gave them in; a record that is not as RFC 3263 has
//! it (another flag than `s`, a regular expression, a service that is not known) says nothing.

use hickory_resolver::proto::rr::Name;
use hickory_resolver::proto::rr::rdata::NAPTR;

use crate::net::Transport;

/// One service of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    /// How it is spoken.
    pub transport: Transport,
    /// The owner of its SRV records.
    pub replacement: Name,
}

/// The services that are known here, by order and preference, each once.
pub(crate) fn services(mut records: Vec<NAPTR>) -> Vec<Service> {
    records.sort_by(|a, b| (a.order, a.preference, &a.services).cmp(&(b.order, b.preference, &b.services)));
    let mut services: Vec<Service> = Vec::new();
    for record in records {
        let Some(transport) = transport(&record.services) else { continue };
        if !is_known(&record) {
            continue;
        }
        let mut replacement = record.replacement;
        replacement.set_fqdn(true);
        let service = Service { transport, replacement };
        if !services.contains(&service) {
            services.push(service);
        }
    }
    services
}

/// Whether a record says something here.
pub(super) fn is_known(record: &NAPTR) -> bool {
    transport(&record.services).is_some()
        && record.flags.eq_ignore_ascii_case(b"s")
        && record.regexp.is_empty()
        && !record.replacement.is_root()
}

/// The transport of a service (RFC 3263 §4.1, whatever the case).
fn transport(service: &[u8]) -> Option<Transport> {
    let is = |known: &[u8]| service.eq_ignore_ascii_case(known);
    match () {
        () if is(b"SIPS+D2T") => Some(Transport::Tls),
        () if is(b"SIP+D2T") => Some(Transport::Tcp),
        () if is(b"SIP+D2U") => Some(Transport::Udp),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(order: u16, preference: u16, flags: &str, service: &str, regexp: &str, replacement: &str) -> NAPTR {
        let bytes = |text: &str| text.as_bytes().into();
        let replacement = Name::from_ascii(replacement).unwrap();
        NAPTR::new(order, preference, bytes(flags), bytes(service), bytes(regexp), replacement)
    }

    fn texts(records: Vec<NAPTR>) -> Vec<String> {
        services(records).iter().map(|it| format!("{} {}", it.transport, it.replacement)).collect()
    }

    #[test]
    fn services_come_by_order_then_preference() {
        // RFC 3263 §4.1, its example, and one more of the same order.
        let mut records = vec![
            record(100, 50, "S", "SIP+D2U", "", "_sip._udp.example.com."),
            record(50, 50, "s", "SIPS+D2T", "", "_sips._tcp.example.com."),
            record(90, 50, "s", "SIP+D2T", "", "_sip._tcp.example.com."),
            record(90, 10, "s", "sip+d2u", "", "_first._udp.example.com"),
        ];
        let wanted = [
            "tls _sips._tcp.example.com.",
            "udp _first._udp.example.com.",
            "tcp _sip._tcp.example.com.",
            "udp _sip._udp.example.com.",
        ];
        assert_eq!(texts(records.clone()), wanted);
        records.reverse();
        assert_eq!(texts(records), wanted);
    }

    #[test]
    fn what_rfc_3263_does_not_have_says_nothing() {
        let odd = vec![
            record(1, 1, "u", "E2U+sip", "!^.*$!sip:info@example.com!", "."),
            record(1, 1, "s", "SIP+D2S", "", "_sip._sctp.example.com."),
            record(1, 1, "s", "SIPS+D2W", "", "_sips._wss.example.com."),
            record(1, 1, "a", "SIP+D2U", "", "host.example.com."),
            record(1, 1, "s", "SIP+D2U", "!.*!x!", "_sip._udp.example.com."),
            record(1, 1, "s", "SIP+D2U", "", "."),
        ];
        assert_eq!(texts(odd), Vec::<String>::new());
        let twice = vec![record(1, 1, "s", "SIP+D2U", "", "_sip._udp.example.com."); 3];
        assert_eq!(texts(twice).len(), 1);
    }
}

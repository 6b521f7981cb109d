//! Values that no two sections may share: an id, a key, a listener.
//!
//! Invariant: as in `sections.rs`. No problem repeats a key.

use std::net::IpAddr;

use super::Config;
use super::reader::Reader;
use crate::secret::ApiKey;

/// Reports an id or a key that an earlier section has: a key tells who is calling.
pub(super) fn distinct<'a>(
    section: &Reader<'_>,
    id: &str,
    key: &ApiKey,
    taken: impl Iterator<Item = (&'a str, &'a ApiKey)>,
    key_setting: &str,
) {
    for (other_id, other_key) in taken {
        if id == other_id && !id.is_empty() {
            section.problem("id", format!("{id:?} is there twice"), "give each its own id");
        }
        if key == other_key && !key.expose().is_empty() {
            section.problem(key_setting, format!("holds the key that {other_id:?} has"), "give each its own key");
        }
    }
}

/// Reports a key that opens two kinds of doors: the operator's, an app's, a SIP server's.
pub(super) fn distinct_keys(config: &Config, root: &Reader<'_>) {
    let set = |key: &ApiKey| !key.expose().is_empty();
    let remedy = "give each its own, for example from: openssl rand -hex 32";
    let operator = &config.operator.token;
    for (index, app) in config.apps.iter().enumerate() {
        if set(operator) && app.api_key == *operator {
            root.problem(&format!("app[{index}].api_key_file"), "holds the operator's token", remedy);
        }
    }
    for (index, server) in config.sip_servers.iter().enumerate() {
        let place = format!("sip_server[{index}].key_file");
        if set(operator) && server.key == *operator {
            root.problem(&place, "holds the operator's token", remedy);
        } else if let Some(app) = config.apps.iter().find(|app| set(&app.api_key) && app.api_key == server.key) {
            root.problem(&place, format!("holds the key of the app {:?}", app.id), remedy);
        }
    }
}

/// Reports two listeners of one protocol that want the same port on overlapping addresses.
pub(super) fn distinct_listeners(config: &Config, root: &Reader<'_>) {
    let upstream = &config.upstream;
    let streams = [
        ("edge.listen", Some(config.edge.listen)),
        ("edge.websocket", config.edge.websocket),
        ("api.listen", Some(config.api.listen)),
        ("operator.listen", Some(config.operator.listen)),
        ("upstream.tcp_listen", upstream.transports.tcp.then_some(upstream.tcp_listen)),
        ("upstream.tls_listen", upstream.transports.tls.then_some(upstream.tls_listen)),
        ("acme.listen", config.acme.as_ref().and_then(|acme| acme.listen)),
    ];
    let streams: Vec<_> = streams.into_iter().filter_map(|(place, address)| Some((place, address?))).collect();
    for (index, (place, address)) in streams.iter().enumerate() {
        for (other_place, other) in &streams[..index] {
            if address.port() != 0 && address.port() == other.port() && overlap(address.ip(), other.ip()) {
                root.problem(place, format!("{address} is taken by {other_place}"), "give each listener its own port");
            }
        }
    }
}

/// Whether a listener at one address takes what comes to the other: they are the same, or one is the wildcard of the other's family, or the
/// one of IPv6, which takes IPv4, too.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let takes = |wide: IpAddr, narrow: IpAddr| match wide {
        IpAddr::V4(wide) => wide.is_unspecified() && narrow.is_ipv4(),
        IpAddr::V6(wide) => wide.is_unspecified(),
    };
    let (one, other) = (one.to_canonical(), other.to_canonical());
    one == other || takes(one, other) || takes(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_the_system_would_not_open_both() {
        for (one, other, expected) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "0.0.0.0", true),
            ("0.0.0.0", "2001:db8::1", false),
            ("0.0.0.0", "::1", false),
            ("0.0.0.0", "::", true),
            ("::", "192.0.2.1", true),
            ("::", "2001:db8::1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("0.0.0.0", "::ffff:192.0.2.1", true),
            ("::ffff:0.0.0.0", "192.0.2.1", true),
            ("::ffff:0.0.0.0", "2001:db8::1", false),
            ("127.0.0.1", "::1", false),
        ] {
            let (a, b): (IpAddr, IpAddr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{one} {other}");
        }
    }
}

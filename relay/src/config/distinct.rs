//! What no two sections may share: an id, a key, a listener.
//!
//! Invariant: as in `sections.rs`. No problem repeats a key.

use super::Config;
use super::reader::Reader;
use crate::secret::ApiKey;

/// Reports an id or a key that an earlier section has: a key tells who is calling.
pub(super) fn distinct<'a>(
    section: &Reader<'_>,
    (id, key): (&str, &ApiKey),
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
            let same_ip = address.ip() == other.ip() || address.ip().is_unspecified() || other.ip().is_unspecified();
            if address.port() != 0 && address.port() == other.port() && same_ip {
                root.problem(place, format!("{address} is taken by {other_place}"), "give each listener its own port");
            }
        }
    }
}

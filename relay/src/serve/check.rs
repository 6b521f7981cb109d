//! Whether a relay could start: everything that `serve` needs, tried and given back.
//!
//! Invariant: nothing is sent to anyone but the store, which is examined with keys of the examination's own; every problem is found, not only
//! the first. (A keyring that does not exist yet is made, as `serve` would.)

use std::net::SocketAddr;

use tokio::net::{TcpListener, UdpSocket};

use super::{open_vault, push_settings};
use crate::config::{Config, Problem, Tls};
use crate::net::tls::{ClientTls, ServerTls};
use crate::push;
use crate::vault::{Keyring, StoreError};

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What a start with this configuration would meet; empty: nothing.
    pub problems: Vec<Problem>,
    /// What does not keep it from starting, and should be mended.
    pub cautions: Vec<Problem>,
}

/// Tries everything that this configuration names.
pub async fn check(config: &Config) -> Findings {
    let (mut problems, mut cautions) = (Vec::new(), Vec::new());
    check_tls(config, &mut problems);
    for app in &config.apps {
        for error in push::check(&app.id, &push_settings(app)) {
            let remedy = "name the file and the ids as the push service gave them";
            let what = format!("{}: {}", error.service, error.problem);
            problems.push(Problem::new(&format!("app {}", error.app), what, remedy));
        }
    }
    check_store(config, &mut problems, &mut cautions).await;
    check_listeners(config, &mut problems).await;
    Findings { problems, cautions }
}

fn check_tls(config: &Config, problems: &mut Vec<Problem>) {
    if let Tls::Files { certificate, key } = &config.tls
        && let Err(error) = ServerTls::load(certificate, key)
    {
        let remedy = "name a PEM chain (leaf first) and the leaf's private key";
        problems.push(Problem::new("tls", error.to_string(), remedy));
    }
    if let Err(error) = ClientTls::new(config.upstream.ca_file.as_deref()) {
        problems.push(Problem::new("upstream.ca_file", error.to_string(), "name a PEM file of CA certificates"));
    }
}

async fn check_store(config: &Config, problems: &mut Vec<Problem>, cautions: &mut Vec<Problem>) {
    let keyring = match config.store.keyring.as_deref().map(Keyring::open) {
        None => Keyring::ephemeral(),
        Some(Ok(keyring)) => keyring,
        Some(Err(error)) => {
            let remedy = "make the file readable and writable for the relay's user alone";
            return problems.push(Problem::new("store.keyring", error.to_string(), remedy));
        }
    };
    let answer = match open_vault(&config.store, keyring, &config.edge.public.to_string()) {
        Ok(vault) => vault.examine().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(faults) => {
            for fault in faults {
                let is_required = config.store.require_ephemeral && fault.is_persistence();
                let list = if fault.is_grave() || is_required { &mut *problems } else { &mut *cautions };
                let place = if is_required { "store.require_ephemeral" } else { "store.url" };
                list.push(Problem::new(place, fault.to_string(), fault.remedy()));
            }
        }
        Err(StoreError::Tls(what)) => problems.push(Problem::new("store", what, "name the PEM files")),
        Err(error) => {
            problems.push(Problem::new("store.url", error.to_string(), "start the store, or correct its address"));
        }
    }
}

async fn check_listeners(config: &Config, problems: &mut Vec<Problem>) {
    let transports = config.upstream.transports;
    let streams = [
        ("edge.listen", config.edge.listen, true),
        ("edge.websocket", config.edge.websocket.unwrap_or(config.edge.listen), config.edge.websocket.is_some()),
        ("api.listen", config.api.listen, true),
        ("operator.listen", config.operator.listen, true),
        ("upstream.tls_listen", config.upstream.tls_listen, transports.tls),
        ("upstream.tcp_listen", config.upstream.tcp_listen, transports.tcp),
    ];
    // Held until all are tried, so that two settings with one address are found.
    let mut held = Vec::new();
    for (setting, address, used) in streams {
        if used {
            match TcpListener::bind(address).await {
                Ok(listener) => held.push(listener),
                Err(error) => problems.push(cannot_listen(setting, address, &error)),
            }
        }
    }
    if transports.udp
        && let Err(error) = UdpSocket::bind(config.upstream.udp_listen).await
    {
        problems.push(cannot_listen("upstream.udp_listen", config.upstream.udp_listen, &error));
    }
}

fn cannot_listen(setting: &str, address: SocketAddr, error: &std::io::Error) -> Problem {
    let what = format!("{address} cannot be listened on: {error}");
    Problem::new(setting, what, "stop what uses it, or name another address")
}

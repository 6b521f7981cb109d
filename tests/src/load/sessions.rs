//! The TLS sessions that phones remember, for `--resume`.
//!
//! Every device of a run goes to one edge, and rustls keeps a handful of tickets for one server; here are as many as came.
//!
//! Invariant: a ticket is used once (RFC 8446 §C.4).

use std::sync::{Mutex, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

/// Tickets kept at most; past it they are thrown away.
const MAX: usize = 100_000;

/// The tickets of all devices.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<(Option<NamedGroup>, Vec<Tls13ClientSessionValue>)>);

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let tickets = &mut self.0.lock().unwrap_or_else(PoisonError::into_inner).1;
        if tickets.len() < MAX {
            tickets.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.pop()
    }
}

//! TLS sessions of SIP servers, so that the next connection to one goes on with what was verified (RFC 8446 §2.2, RFC 5077).
//!
//! | a session, or a hint, of a server | is kept |
//! | --- | --- |
//! | that an account leads to | until its last account is gone, the roots in use are others, or [`SERVERS_MAX`] others have come since |
//! | that no account leads to, for any request | never |
//!
//! Invariant: nothing here has the name of a server longer than an account leads there.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls_pki_types::ServerName;

use crate::lock::Mutex;

/// Servers whose sessions are kept; past it the oldest makes a full handshake again.
const SERVERS_MAX: usize = 4_096;
/// Tickets of one server; the oldest gives way.
const TICKETS_MAX: usize = 8;

/// The sessions of one relay; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// How many accounts, or routes of theirs, lead to each server.
    wanted: HashMap<ServerName<'static>, usize>,
    kept: HashMap<ServerName<'static>, Kept>,
    /// The same servers, in the order in which they came.
    order: VecDeque<ServerName<'static>>,
    /// The roots in use, and the latest that were read.
    roots: u64,
    latest: u64,
}

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

/// The sessions of handshakes that trust certain roots.
#[derive(Debug)]
struct ByRoots {
    sessions: Sessions,
    roots: u64,
}

impl Sessions {
    /// The store of a configuration with roots of its own; it is empty until they are [in use](Self::begin). Also their number.
    pub(super) fn by_new_roots(&self) -> (Arc<dyn ClientSessionStore>, u64) {
        let mut state = self.lock();
        state.latest += 1;
        let roots = state.latest;
        (Arc::new(ByRoots { sessions: self.clone(), roots }), roots)
    }

    /// These roots are in use from now on: sessions verified by others are resumed no more.
    pub(super) fn begin(&self, roots: u64) {
        let mut state = self.lock();
        state.roots = roots;
        state.kept.clear();
        state.order.clear();
    }

    /// Counts an account that leads to a server.
    pub(super) fn want(&self, server: ServerName<'static>) {
        *self.lock().wanted.entry(server).or_default() += 1;
    }

    /// Counts one less.
    pub(super) fn leave(&self, server: &ServerName<'static>) {
        let mut state = self.lock();
        let Some(count) = state.wanted.get_mut(server) else { return };
        *count -= 1;
        if *count == 0 {
            state.wanted.remove(server);
            if state.kept.remove(server).is_some() {
                state.order.retain(|other| other != server);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

impl ByRoots {
    fn change(&self, server: ServerName<'static>, change: impl FnOnce(&mut Kept)) {
        let state = &mut *self.sessions.lock();
        if state.roots != self.roots || !state.wanted.contains_key(&server) {
            return;
        }
        if !state.kept.contains_key(&server) {
            state.order.push_back(server.clone());
            if state.order.len() > SERVERS_MAX
                && let Some(oldest) = state.order.pop_front()
            {
                state.kept.remove(&oldest);
            }
        }
        change(state.kept.entry(server).or_default());
    }

    fn look<T>(&self, server: &ServerName<'_>, look: impl FnOnce(&mut Kept) -> Option<T>) -> Option<T> {
        let state = &mut *self.sessions.lock();
        let kept = state.kept.get_mut(&server.to_owned()).filter(|_| state.roots == self.roots);
        kept.and_then(look)
    }
}

impl ClientSessionStore for ByRoots {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.change(server, |kept| kept.group = Some(group));
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        self.look(server, |kept| kept.group)
    }

    fn set_tls12_session(&self, server: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.change(server, |kept| kept.tls12 = Some(value));
    }

    fn tls12_session(&self, server: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.look(server, |kept| kept.tls12.clone())
    }

    fn remove_tls12_session(&self, server: &ServerName<'static>) {
        self.look(server, |kept| kept.tls12.take());
    }

    fn insert_tls13_ticket(&self, server: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.change(server, |kept| {
            if kept.tickets.len() >= TICKETS_MAX {
                kept.tickets.pop_front();
            }
            kept.tickets.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.look(server, |kept| kept.tickets.pop_back())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> ServerName<'static> {
        ServerName::try_from(name.to_owned()).unwrap()
    }

    fn names(sessions: &Sessions) -> String {
        format!("{sessions:?}")
    }

    #[test]
    fn a_server_is_known_as_long_as_an_account_leads_there_and_no_other_one_is() {
        let sessions = Sessions::default();
        let (store, roots) = sessions.by_new_roots();
        sessions.begin(roots);
        let family = server("smith-family.example");
        store.set_kx_hint(family.clone(), NamedGroup::X25519);
        assert!(store.kx_hint(&family).is_none() && !names(&sessions).contains("smith"), "somebody has asked it");
        sessions.want(family.clone());
        sessions.want(family.clone());
        store.set_kx_hint(family.clone(), NamedGroup::X25519);
        sessions.leave(&family);
        assert_eq!(store.kx_hint(&family), Some(NamedGroup::X25519), "another account does");
        sessions.leave(&family);
        assert!(store.kx_hint(&family).is_none() && !names(&sessions).contains("smith"));
        // A connection that is about to end brings a last ticket.
        store.set_kx_hint(family, NamedGroup::X25519);
        assert!(!names(&sessions).contains("smith"));
    }

    #[test]
    fn what_other_roots_have_verified_is_gone_on_with_no_more() {
        let sessions = Sessions::default();
        let ((first, one), (second, two)) = (sessions.by_new_roots(), sessions.by_new_roots());
        let known = server("example.com");
        sessions.want(known.clone());
        sessions.begin(one);
        first.set_kx_hint(known.clone(), NamedGroup::X25519);
        assert_eq!((first.kx_hint(&known), second.kx_hint(&known)), (Some(NamedGroup::X25519), None));
        sessions.begin(two);
        first.set_kx_hint(known.clone(), NamedGroup::X25519);
        assert!(second.kx_hint(&known).is_none() && first.kx_hint(&known).is_none());
        second.set_kx_hint(known.clone(), NamedGroup::secp256r1);
        assert_eq!(second.kx_hint(&known), Some(NamedGroup::secp256r1));
    }

    #[test]
    fn of_more_servers_than_are_kept_the_oldest_goes() {
        let sessions = Sessions::default();
        let (store, roots) = sessions.by_new_roots();
        sessions.begin(roots);
        let of = |number| server(&format!("s{number}.example"));
        for number in 0..=SERVERS_MAX {
            sessions.want(of(number));
            store.set_kx_hint(of(number), NamedGroup::X25519);
        }
        assert!(store.kx_hint(&of(0)).is_none() && store.kx_hint(&of(1)).is_some());
        let state = sessions.lock();
        assert_eq!((state.kept.len(), state.order.len()), (SERVERS_MAX, SERVERS_MAX));
    }
}

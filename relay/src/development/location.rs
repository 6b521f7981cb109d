//! The location service of the SIP server that comes with a relay without a configuration (RFC 3261 §10.3, RFC 5626 §6).
//!
//! Invariant: a REGISTER without the right digest changes nothing; a nonce is taken with growing counts alone. Bounded: as many
//! users as there are accounts, [`CONTACTS`] each, and [`NONCES`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sip::auth::{Credentials, Ha1, Hash, challenge_value};
use sip::message::{Message, Name, NameAddr, unquote};

use super::hop::Hop;
use crate::random;
use crate::secret::Password;

/// Contacts of a user; a further one takes the oldest one's place.
const CONTACTS: usize = 8;
/// Nonces that are remembered; who comes with an older one is challenged again.
const NONCES: usize = 256;
/// The longest registration, in seconds.
const LONGEST: u32 = 3_600;

/// The accounts, and where they are.
pub(super) struct Location {
    realm: &'static str,
    accounts: Vec<(Account, Vec<Contact>)>,
    /// With the highest count that each was used with.
    nonces: VecDeque<(String, u32)>,
}

/// An account that may register.
pub struct Account {
    /// The user of the AOR, and of the digest.
    pub user: &'static str,
    /// The password.
    pub password: Password,
}

/// The place of a user.
#[derive(Clone)]
pub(super) struct Contact {
    pub(super) uri: String,
    pub(super) path: Vec<String>,
    /// The source of the REGISTER: requests go back there.
    pub(super) hop: Hop,
    instance: Option<(String, String)>,
    ends: Instant,
}

/// The answer to a REGISTER.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(Name, String)>,
}

impl Location {
    pub(super) fn new(realm: &'static str, accounts: Vec<Account>) -> Self {
        let accounts = accounts.into_iter().map(|account| (account, Vec::new())).collect();
        Self { realm, accounts, nonces: VecDeque::new() }
    }

    pub(super) fn knows(&self, user: &str) -> bool {
        self.accounts.iter().any(|(account, _)| account.user == user)
    }

    /// The newest Contact of a user: this server does not fork.
    pub(super) fn newest(&self, user: &str, now: Instant) -> Option<&Contact> {
        let (_, contacts) = self.accounts.iter().find(|(account, _)| account.user == user)?;
        contacts.iter().rfind(|contact| contact.ends > now)
    }

    pub(super) fn register(&mut self, request: &Message, from: Hop, now: Instant) -> Answer {
        let user = request.to().and_then(|to| to.user().map(str::to_owned)).unwrap_or_default();
        let Some(index) = self.accounts.iter().position(|(account, _)| account.user == user) else {
            return Answer { status: 404, headers: Vec::new() };
        };
        if !self.is_proven(request, index) {
            return self.challenge();
        }
        let contacts = &mut self.accounts[index].1;
        contacts.retain(|contact| contact.ends > now);
        let header = request.number(Name::Expires);
        for element in request.elements(Name::Contact) {
            if element.trim() == "*" {
                contacts.clear();
                break;
            }
            let Some(contact) = NameAddr::parse(element) else { continue };
            let text = |name: &str| contact.params.value(name).map(|value| unquote(value).into_owned());
            let instance = text("+sip.instance").zip(text("reg-id"));
            let asked = contact.params.value("expires").and_then(|value| value.parse().ok()).or(header);
            let granted = asked.unwrap_or(LONGEST).min(LONGEST);
            contacts.retain(|known| match &instance {
                Some(_) => known.instance != instance,
                None => known.uri != contact.uri.text,
            });
            if granted > 0 {
                let path = request.elements(Name::Path).map(str::to_owned).collect();
                let ends = now + Duration::from_secs(granted.into());
                contacts.push(Contact { uri: contact.uri.text.to_owned(), path, hop: from, instance, ends });
            }
        }
        let excess = contacts.len().saturating_sub(CONTACTS);
        contacts.drain(..excess);
        let mut headers: Vec<_> = request.elements(Name::Path).map(|path| (Name::Path, path.to_owned())).collect();
        headers.push((Name::Supported, "path, outbound".to_owned()));
        if contacts.iter().any(|contact| contact.instance.is_some()) {
            headers.push((Name::Require, "outbound".to_owned()));
        }
        headers.extend(contacts.iter().map(|contact| (Name::Contact, contact.listed(now))));
        Answer { status: 200, headers }
    }

    fn challenge(&mut self) -> Answer {
        let nonce = format!("{:032x}", u128::from_ne_bytes(random::bytes()));
        self.nonces.truncate(NONCES - 1);
        self.nonces.push_front((nonce.clone(), 0));
        let offer = |hash: Hash| (Name::WwwAuthenticate, challenge_value(self.realm, &nonce, hash, false));
        // There are clients that give up when they are offered anything beside it (RFC 8760 §2.4), and this is loopback.
        Answer { status: 401, headers: vec![offer(Hash::Md5)] }
    }

    fn is_proven(&mut self, request: &Message, index: usize) -> bool {
        let (account, _) = &self.accounts[index];
        let shown = request.values(Name::Authorization).filter_map(|value| std::str::from_utf8(value).ok());
        let Some(shown) = shown.filter_map(Credentials::parse).find(|shown| *shown.realm == *self.realm) else {
            return false;
        };
        let Some((_, used)) = self.nonces.iter_mut().find(|(nonce, _)| **nonce == *shown.nonce) else { return false };
        let Some(count) = shown.nc.filter(|count| count > used) else { return false };
        let ha1 = Ha1::compute(shown.algorithm.hash, account.user, self.realm, account.password.expose());
        let proven = *shown.username == *account.user && shown.verify(&ha1, "REGISTER", request.body());
        if proven {
            *used = count;
        }
        proven
    }
}

impl Contact {
    fn listed(&self, now: Instant) -> String {
        let mut text = format!("<{}>;expires={}", self.uri, self.ends.saturating_duration_since(now).as_secs());
        if let Some((instance, reg_id)) = &self.instance {
            text += &format!(";+sip.instance=\"{instance}\";reg-id={reg_id}");
        }
        text
    }
}

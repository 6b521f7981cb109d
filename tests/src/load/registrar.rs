//! The registrar: it challenges, verifies and grants, from nothing but the account's number.
//!
//! Invariant: a REGISTER is granted only with a right digest for a nonce that this registrar gave that account; while
//! [`Registrar::challenge_each`] is on, a nonce is good for one grant (`stale` tells the relay that its password is not at
//! fault).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use sip::message::{Composer, Message, Name};

use super::accounts::{self, Accounts, Contact};
use super::exchange::Way;
use super::measure::Count;
use super::plan::Hash;
use crate::digest::{Algorithm, Fields};

/// The realm of all accounts.
pub const REALM: &str = "load";

/// The registrar.
pub struct Registrar {
    accounts: Accounts,
    algorithm: Algorithm,
    grant: AtomicU32,
    challenge_each: AtomicBool,
    /// The counts of its work.
    pub done: Done,
}

/// The counts of a registrar's work.
#[derive(Debug, Default)]
pub struct Done {
    /// 401, to a REGISTER without a digest or with an old nonce.
    pub challenged: Count,
    /// 200, to a REGISTER that registers.
    pub granted: Count,
    /// 200, to a REGISTER that unregisters.
    pub removed: Count,
    /// 403, to a wrong digest, and 404 to an unknown user.
    pub refused: Count,
}

impl Registrar {
    /// A registrar of these accounts that grants `grant` seconds.
    pub fn new(accounts: Accounts, hash: Hash, grant: u32) -> Self {
        let algorithm = match hash {
            Hash::Md5 => Algorithm::Md5,
            Hash::Sha256 => Algorithm::Sha256,
        };
        let (grant, challenge_each) = (AtomicU32::new(grant), AtomicBool::new(false));
        Self { accounts, algorithm, grant, challenge_each, done: Done::default() }
    }

    /// Grants so many seconds from now on.
    pub fn grant(&self, seconds: u32) {
        self.grant.store(seconds, Ordering::Relaxed);
    }

    /// Challenges every REGISTER from now on, or only those without a nonce.
    pub fn challenge_each(&self, each: bool) {
        self.challenge_each.store(each, Ordering::Relaxed);
    }

    /// The answer to a REGISTER.
    pub fn answer(&self, register: &Message, way: &Way) -> Bytes {
        let user = register.to().and_then(|to| to.user().and_then(accounts::of_user));
        let Some(number) = user.filter(|number| (*number as usize) < self.accounts.len()) else {
            self.done.refused.add();
            return respond(register, 404).finish();
        };
        let account = &self.accounts[number as usize];
        let answer = register.text(Name::Authorization).and_then(Fields::parse);
        let nonce = account.nonce.load(Ordering::Relaxed);
        let Some(answer) = answer.filter(|answer| nonce > 0 && answer.get("nonce") == Some(&nonce_text(number, nonce)))
        else {
            return self.challenge(register, number);
        };
        let spent = !account.fresh.swap(false, Ordering::Relaxed);
        if spent && self.challenge_each.load(Ordering::Relaxed) {
            return self.challenge(register, number);
        }
        if !self.is_right(number, &answer) {
            self.done.refused.add();
            return respond(register, 403).finish();
        }
        self.bind(register, number, way)
    }

    fn challenge(&self, register: &Message, number: u32) -> Bytes {
        let stale = register.has(Name::Authorization);
        let account = &self.accounts[number as usize];
        let nonce = nonce_text(number, account.nonce.fetch_add(1, Ordering::Relaxed) + 1);
        account.fresh.store(true, Ordering::Relaxed);
        self.done.challenged.add();
        let value = format!(
            "Digest realm=\"{REALM}\", nonce=\"{nonce}\", algorithm={}, qop=\"auth\"{}",
            self.algorithm.name(),
            if stale { ", stale=true" } else { "" }
        );
        respond(register, 401).header(Name::WwwAuthenticate, value).finish()
    }

    fn is_right(&self, number: u32, answer: &Fields) -> bool {
        let field = |name| answer.get(name).unwrap_or_default();
        let ha1 = self.algorithm.ha1(&accounts::user(number), REALM, &accounts::password(number));
        let qop = Some((field("nc"), field("cnonce")));
        field("response") == self.algorithm.response(&ha1, "REGISTER", field("uri"), field("nonce"), qop)
    }

    fn bind(&self, register: &Message, number: u32, way: &Way) -> Bytes {
        let contacts = register.contacts();
        let contact = contacts.first();
        let expires = contact.and_then(|contact| contact.params.value("expires")?.parse().ok());
        let expires = expires.or_else(|| register.number(Name::Expires)).unwrap_or(0);
        let account = &self.accounts[number as usize];
        match contact.filter(|_| expires > 0) {
            None => {
                account.register(None);
                self.done.removed.add();
                respond(register, 200).finish()
            }
            Some(contact) => {
                let uri = contact.target().unwrap_or_default().to_owned();
                let granted = self.grant.load(Ordering::Relaxed);
                let line = format!("<{uri}>;expires={granted}");
                account.register(Some(Contact { uri, way: way.clone() }));
                self.done.granted.add();
                respond(register, 200).header(Name::Contact, line).finish()
            }
        }
    }
}

fn nonce_text(number: u32, nonce: u64) -> String {
    format!("{number:08x}{nonce:016x}")
}

fn respond(register: &Message, status: u16) -> Composer {
    Composer::response(register, status, Composer::reason(status), Some("load"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::{Lines, parse};
    use tokio::sync::mpsc;

    fn register(authorization: Option<&str>) -> Message {
        let lines = Lines::request("REGISTER", "sip:load.test")
            .line("Via", "SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK1")
            .line("From", "<sip:u3@load.test>;tag=1")
            .line("To", "<sip:u3@load.test>")
            .line("Call-ID", "a")
            .line("CSeq", "1 REGISTER")
            .line("Contact", "<sip:b1@127.0.0.1:5070>;expires=600");
        let lines = authorization.map_or(lines.clone(), |value| lines.line("Authorization", value));
        parse(&lines.finish())
    }

    #[test]
    fn it_challenges_once_and_then_grants_what_it_was_told_to() {
        let accounts = accounts::accounts(4);
        let registrar = Registrar::new(accounts.clone(), Hash::Sha256, 77);
        let way = Way::Stream(mpsc::unbounded_channel().0);
        let challenge = parse(&registrar.answer(&register(None), &way));
        assert_eq!(challenge.status(), Some(401));
        let fields = Fields::parse(challenge.text(Name::WwwAuthenticate).unwrap()).unwrap();
        let answer = |password| crate::digest::answer(&fields, "u3", password, "REGISTER", "sip:load.test", 1).unwrap();
        assert_eq!(parse(&registrar.answer(&register(Some(&answer("wrong"))), &way)).status(), Some(403));
        let right = answer(&accounts::password(3));
        for _ in 0..2 {
            let granted = parse(&registrar.answer(&register(Some(&right)), &way));
            assert_eq!(granted.text(Name::Contact), Some("<sip:b1@127.0.0.1:5070>;expires=77"));
        }
        registrar.challenge_each(true);
        let stale = parse(&registrar.answer(&register(Some(&right)), &way));
        assert!(stale.text(Name::WwwAuthenticate).unwrap().ends_with("stale=true"));
        assert_eq!(accounts[3].contact().unwrap().uri, "sip:b1@127.0.0.1:5070");
    }
}

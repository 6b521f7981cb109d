//! The accounts of a run: who they are to the SIP server, to the push services and to the relay.
//!
//! Invariant: everything about an account follows from its number, so that a REGISTER, a push or an INVITE leads to it
//! without a search. No account has two calls at once.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::exchange::Way;

/// The SIP domain of all accounts.
pub const DOMAIN: &str = "load.test";
/// A domain that the relay is not told to serve.
pub const FOREIGN_DOMAIN: &str = "elsewhere.test";

/// The state of an account in a run.
#[derive(Default)]
pub struct Account {
    /// Where the SIP server reaches it.
    contact: Mutex<Option<Arc<Contact>>>,
    /// The registrar's nonce for it: a number, 0 before the first.
    pub nonce: AtomicU64,
    /// Whether that nonce was not yet used.
    pub fresh: AtomicBool,
    /// Its call, as its number and one; 0 when there is none.
    pub call: AtomicU32,
    /// Its push instance.
    pub enabled: OnceLock<Enabled>,
}

/// Where the SIP server reaches an account.
pub struct Contact {
    /// The URI that the relay registered.
    pub uri: String,
    /// The flow that it was registered on.
    pub way: Way,
}

/// A push instance.
pub struct Enabled {
    /// `pi_…`
    pub id: Box<str>,
    /// Its secret.
    pub secret: Box<str>,
}

impl Account {
    /// Where it is reached; `None` while it is not registered.
    pub fn contact(&self) -> Option<Arc<Contact>> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers where it is reached.
    pub fn register(&self, contact: Option<Contact>) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = contact.map(Arc::new);
    }
}

/// All accounts.
pub type Accounts = Arc<[Account]>;

/// This many new accounts.
pub fn accounts(count: u32) -> Accounts {
    (0..count).map(|_| Account::default()).collect()
}

/// The user of an account's AOR.
pub fn user(number: u32) -> String {
    format!("u{number}")
}

/// The account of a user name.
pub fn of_user(user: &str) -> Option<u32> {
    user.strip_prefix('u')?.parse().ok()
}

/// An account's password.
pub fn password(number: u32) -> String {
    format!("correct horse {number}")
}

/// An APNs device token.
pub fn apns_token(number: u32) -> String {
    format!("{:048x}{number:016x}", 0x51b_4a7e)
}

/// An FCM registration token.
pub fn fcm_token(number: u32) -> String {
    format!("load-test:{number:016x}")
}

/// The account of a push token of either kind.
pub fn of_token(token: &str) -> Option<u32> {
    u32::from_str_radix(token.get(token.len().checked_sub(16)?..)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_and_a_user_lead_back_to_their_account() {
        for number in [0, 7, 199_999] {
            assert_eq!(of_token(&apns_token(number)), Some(number));
            assert_eq!(of_token(&fcm_token(number)), Some(number));
            assert_eq!(of_user(&user(number)), Some(number));
        }
        assert_eq!(apns_token(1).len(), 64);
        assert_eq!(of_token("short"), None);
    }
}

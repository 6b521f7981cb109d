//! Types that cannot print and are wiped on drop.
//!
//! Invariant: no type here shows its content through `Debug` or `Display`, none is serialised except where sealing
//! happens (`vault/record.rs`), and each wipes its bytes when it is dropped. Comparison takes the same time whatever
//! differs. Reading the content is an explicit call, [`SecretText::expose`], that a reviewer can search for.

mod clean_stack;
mod wipe_allocator;

use std::fmt;

pub use clean_stack::{WIPED_STACK, with_clean_stack};
pub use wipe_allocator::ZeroOnFree;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret text that fits its allocation exactly, so that wiping it leaves nothing behind.
#[derive(Clone)]
pub struct SecretText(Zeroizing<Box<str>>);

impl SecretText {
    /// Takes a copy of `text`; wiping the original is the caller's part.
    pub fn new(text: &str) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The content. Each use is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for SecretText {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for SecretText {}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name(SecretText);

        impl $name {
            /// Takes a copy of `text`; wiping the original is the caller's part.
            pub fn new(text: &str) -> Self {
                Self(SecretText::new(text))
            }

            /// The content. Each use is a place to review.
            pub fn expose(&self) -> &str {
                self.0.expose()
            }
        }
    };
}

secret!(
    /// A SIP account's password.
    Password
);
secret!(
    /// One HA1 (RFC 7616 §3.4.2) in lower-case hex: as good as the password within its realm.
    Ha1Text
);
secret!(
    /// An address of record, with its scheme: `sip:alice@example.com`.
    Aor
);
secret!(
    /// A device's token at APNs or FCM.
    PushToken
);
secret!(
    /// The secret by which a device proves itself, at the API and at the edge.
    InstanceSecret
);
/// The longest [`ApiKey`] that is looked at, in characters.
pub const MAX_KEY: usize = 512;

secret!(
    /// A key that an app, a SIP server or an operator shows at the HTTPS API.
    ApiKey
);

/// A key of 32 bytes that stays in one place of the heap, so that moving its owner copies nothing.
#[derive(Clone)]
pub struct SecretKey(Box<Zeroizing<[u8; SecretKey::LEN]>>);

impl SecretKey {
    /// A key's length, in bytes.
    pub const LEN: usize = 32;

    /// Lets `fill` write the key straight to its place.
    pub fn filled_by<E>(fill: impl FnOnce(&mut [u8; Self::LEN]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new(Zeroizing::new([0; Self::LEN])));
        fill(&mut key.0)?;
        Ok(key)
    }

    /// The content. Each use is a place to review.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

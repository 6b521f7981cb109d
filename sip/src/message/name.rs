//! Header names that this crate has a use for, with their compact forms (RFC 3261 §7.3.3, §20).
//!
//! Invariant: names are compared without case; a name that is not listed is [`Name::Other`] and keeps its bytes in the
//! message.

use std::fmt;

macro_rules! names {
    ($($name:ident $text:literal $($compact:literal)?,)*) => {
        /// A header name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Name {
            $(#[doc = $text] $name,)*
            /// Any other header; found by its written name.
            Other,
        }

        impl Name {
            /// The long form; `?` for [`Name::Other`].
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other => "?",
                }
            }
        }

        /// Each name in its long form, and in its compact form where it has one.
        const ALL: &[(&[u8], Name)] = &[
            $(($text.as_bytes(), Name::$name), $(($compact, Name::$name),)?)*
        ];
    };
}

names! {
    Via "Via" b"v",
    From "From" b"f",
    To "To" b"t",
    CallId "Call-ID" b"i",
    CSeq "CSeq",
    Contact "Contact" b"m",
    MaxForwards "Max-Forwards",
    ContentLength "Content-Length" b"l",
    ContentType "Content-Type" b"c",
    Route "Route",
    RecordRoute "Record-Route",
    Allow "Allow",
    Supported "Supported" b"k",
    Require "Require",
    ProxyRequire "Proxy-Require",
    Unsupported "Unsupported",
    Expires "Expires",
    MinExpires "Min-Expires",
    RetryAfter "Retry-After",
    Authorization "Authorization",
    ProxyAuthorization "Proxy-Authorization",
    WwwAuthenticate "WWW-Authenticate",
    ProxyAuthenticate "Proxy-Authenticate",
    AuthenticationInfo "Authentication-Info",
    PAssertedIdentity "P-Asserted-Identity",
    PPreferredIdentity "P-Preferred-Identity",
    RemotePartyId "Remote-Party-ID",
    Privacy "Privacy",
    Reason "Reason",
    Path "Path",
    ServiceRoute "Service-Route",
    PAssociatedUri "P-Associated-URI",
    FlowTimer "Flow-Timer",
    FeatureCaps "Feature-Caps",
    Event "Event" b"o",
    SubscriptionState "Subscription-State",
    UserAgent "User-Agent",
    Server "Server",
    Date "Date",
    Warning "Warning",
    Accept "Accept",
    Timestamp "Timestamp",
    SessionExpires "Session-Expires" b"x",
    MinSe "Min-SE",
    Replaces "Replaces",
    SipwakeCall "Sipwake-Call",
}

impl Name {
    /// Reads a name, in its long or compact form.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match slot(bytes).map(|slot| SLOTS[slot]) {
            // Nearly all names come in the usual spelling, and telling that is quicker.
            Some(Some((text, name))) if bytes == text || bytes.eq_ignore_ascii_case(text) => name,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a name stands in [`SLOTS`]: by its length, its first and its last letter. The factors were searched for, so that
/// no two names meet; when a new name meets another one, [`slots`] fails to compile, and other factors do.
const fn slot(name: &[u8]) -> Option<usize> {
    let (Some(first), Some(last)) = (name.first(), name.last()) else {
        return None;
    };
    let (first, last) = (first.to_ascii_lowercase() as usize, last.to_ascii_lowercase() as usize);
    Some((name.len() + first * 24 + last * 51) % SLOT_COUNT)
}

const SLOT_COUNT: usize = 256;

static SLOTS: [Option<(&[u8], Name)>; SLOT_COUNT] = slots();

const fn slots() -> [Option<(&'static [u8], Name)>; SLOT_COUNT] {
    let mut slots = [None; SLOT_COUNT];
    let mut at = 0;
    while at < ALL.len() {
        if let Some(slot) = slot(ALL[at].0) {
            assert!(slots[slot].is_none(), "two names share a slot: choose other factors in `slot`");
            slots[slot] = Some(ALL[at]);
        }
        at += 1;
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_in_any_case_and_in_its_compact_form() {
        for (text, name) in ALL {
            assert_eq!(Name::from_bytes(text), *name);
            assert_eq!(Name::from_bytes(&text.to_ascii_uppercase()), *name);
            assert_eq!(Name::from_bytes(&text.to_ascii_lowercase()), *name);
            assert!(name.as_str().as_bytes().eq_ignore_ascii_case(text) || text.len() == 1);
        }
        for other in [&b""[..], b"s", b"Subject", b"Content-Lengths", b"To ", b"T\xf4", b"Frim", b"\xff"] {
            assert_eq!(Name::from_bytes(other), Name::Other, "{other:?}");
        }
    }
}

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
            /// Reads a name, in its long or compact form.
            pub fn from_bytes(bytes: &[u8]) -> Self {
                $(
                    if bytes.eq_ignore_ascii_case($text.as_bytes()) $(|| bytes.eq_ignore_ascii_case($compact))? {
                        return Self::$name;
                    }
                )*
                Self::Other
            }

            /// The long form; `?` for [`Name::Other`].
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other => "?",
                }
            }
        }
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
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

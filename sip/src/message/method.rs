//! Methods (RFC 3261 §7.1 and its extensions).
//!
//! Invariant: methods are compared with case, as the RFC says; one that is not listed is [`Method::Other`] and keeps its
//! text in the message.

use std::fmt;

macro_rules! methods {
    ($($name:ident $text:literal,)*) => {
        /// A SIP method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method {
            $(#[doc = $text] $name,)*
            /// A method that this crate does not know; it is forwarded in a dialog and refused outside one.
            Other,
        }

        impl Method {
            /// Reads a method.
            pub fn from_bytes(bytes: &[u8]) -> Self {
                match bytes {
                    $(b if b == $text.as_bytes() => Self::$name,)*
                    _ => Self::Other,
                }
            }

            /// The method's text; `?` for [`Method::Other`], whose text is in its message.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other => "?",
                }
            }
        }
    };
}

methods! {
    Invite "INVITE",
    Ack "ACK",
    Bye "BYE",
    Cancel "CANCEL",
    Register "REGISTER",
    Options "OPTIONS",
    Message "MESSAGE",
    Notify "NOTIFY",
    Subscribe "SUBSCRIBE",
    Refer "REFER",
    Info "INFO",
    Update "UPDATE",
    Prack "PRACK",
    Publish "PUBLISH",
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! Without lending any credential: phones that register at their own SIP server through the real binary (RFC 8599).

#[path = "push_proxy/calls.rs"]
mod calls;

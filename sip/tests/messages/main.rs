//! Messages as bytes: the torture tests of the RFCs, and what holds of every message.

mod properties;
mod rfc4475;
mod rfc5118;

//! Messages as bytes: the torture tests of the RFCs, the oddities of the field, and what holds of every message.

mod field;
mod properties;
mod rfc4475;
mod rfc5118;

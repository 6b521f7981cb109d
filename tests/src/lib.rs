//! tests

pub mod dns;
pub mod scratch;

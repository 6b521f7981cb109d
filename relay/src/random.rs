//! Random bytes from the system.
//!
//! Invariant: every random byte of the relay comes from here. AWS-LC aborts the process by itself when the system has no
//! randomness to give, so no caller meets an error.

/// Fills `bytes`.
pub(crate) fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("AWS-LC aborts by itself when the system has no randomness to give");
}

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

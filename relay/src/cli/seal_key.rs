//! The key of a device that pushes are sealed to, in a file, and the pushes that are opened with it.
//!
//! Invariant: the file is made for its owner alone, never written over, and its private key is never printed.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;

use super::{CommandError, secret_file};
use crate::hpke::PrivateKey;
use crate::push::payload::sealed;

/// The private key in `file`, in base64url; a new one, when there is no such file.
pub(super) fn read_or_make(file: &Path) -> Result<PrivateKey, CommandError> {
    let fault = |why| CommandError::File { file: file.to_owned(), why };
    secret_file::warn_if_others_can_read(file);
    match secret_file::text(file) {
        Ok(text) => PrivateKey::read(text.trim()).ok_or_else(|| CommandError::NoSealKey(file.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = PrivateKey::generate().ok_or_else(|| fault(ErrorKind::Other.into()))?;
            let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(fault)?;
            made.write_all(key.expose().as_bytes()).and_then(|()| made.write_all(b"\n")).map_err(fault)?;
            Ok(key)
        }
        Err(error) => Err(fault(error)),
    }
}

/// The push in this line with what is sealed in it in its place. APNs has it beside `aps`, FCM as a JSON string: each form is
/// taken.
pub(super) fn opened(key: &PrivateKey, line: &str) -> Result<Value, CommandError> {
    let mut push: Value = serde_json::from_str(line).map_err(|_| CommandError::NotAPush)?;
    if push.get("sipwake").is_some() {
        push = push["sipwake"].take();
    }
    if let Value::String(text) = &push {
        push = serde_json::from_str(text).map_err(|_| CommandError::NotAPush)?;
    }
    if !push.is_object() {
        return Err(CommandError::NotAPush);
    }
    sealed::opened(key, &push).ok_or(CommandError::SealedToAnother)
}

//! A Web Push subscription in a file, as a browser or a UnifiedPush distributor gives it.
//!
//! Invariant: no part of it stands among the arguments or in an error: with its keys a push can be written.

use std::path::Path;

use serde_json::{Value, json};

use super::{CommandError, secret_file};

/// Reads it: what `PushSubscription.toJSON()` gives, or the same without `keys` around the two keys. It comes back as `call_push` of
/// an enabling names it; whether the keys are any is the relay's to say.
pub(super) fn read(file: &Path) -> Result<Value, CommandError> {
    let text = secret_file::text(file).map_err(|why| CommandError::File { file: file.to_owned(), why })?;
    target(&text).ok_or_else(|| CommandError::NotASubscription(file.to_owned()))
}

fn target(text: &str) -> Option<Value> {
    let subscription: Value = serde_json::from_str(text).ok()?;
    let keys = subscription.get("keys").unwrap_or(&subscription);
    let (endpoint, p256dh, auth) =
        (subscription["endpoint"].as_str()?, keys["p256dh"].as_str()?, keys["auth"].as_str()?);
    Some(json!({"provider": "webpush", "endpoint": endpoint, "p256dh": p256dh, "auth": auth}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_writes_and_what_the_api_takes_are_the_same_subscription() {
        let wanted = json!({"provider": "webpush", "endpoint": "https://push.example/1", "p256dh": "B", "auth": "a"});
        let browser =
            r#"{"endpoint": "https://push.example/1", "expirationTime": null, "keys": {"p256dh": "B", "auth": "a"}}"#;
        assert_eq!(target(browser), Some(wanted.clone()));
        assert_eq!(target(&wanted.to_string()), Some(wanted));
        for other in ["", "[]", "{}", r#"{"endpoint": "https://push.example/1", "keys": {"auth": "a"}}"#] {
            assert_eq!(target(other), None, "{other}");
        }
    }
}

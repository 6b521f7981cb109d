//! The parts of a relay's answer, in the shape that is asked for.
//!
//! Invariant: what is no relay's (a proxy's empty 200, another service's JSON) is told as that, whatever its status; nothing is made of it.

use serde_json::Value;

use super::CommandError;

/// The list under `member`.
pub(super) fn list<'a>(answer: &'a Value, member: &str) -> Result<&'a Vec<Value>, CommandError> {
    answer[member].as_array().ok_or(CommandError::NotARelay)
}

/// The text under `member`.
pub(super) fn text<'a>(answer: &'a Value, member: &str) -> Result<&'a str, CommandError> {
    answer[member].as_str().ok_or(CommandError::NotARelay)
}

/// Checks that an answer is about an instance.
pub(super) fn of_instance(answer: Value) -> Result<Value, CommandError> {
    text(&answer, "instance")?;
    Ok(answer)
}

/// Checks that an answer is about a wipe: a receipt, which is signed once nothing is left, or that the wipe is on its way.
pub(super) fn of_wipe(answer: Value) -> Result<Value, CommandError> {
    if is_receipt(&answer) || answer["state"] == "wiping" { Ok(answer) } else { Err(CommandError::NotARelay) }
}

/// Whether nothing is left of an instance.
pub(super) fn is_receipt(answer: &Value) -> bool {
    answer["signature"].is_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_another_service_answers_is_no_relays() {
        for other in [
            json!(null),
            json!([]),
            json!({}),
            json!("instances"),
            json!({"instances": 7, "state": [], "instance": null}),
        ] {
            assert!(matches!(list(&other, "instances"), Err(CommandError::NotARelay)), "{other}");
            assert!(matches!(text(&other, "state"), Err(CommandError::NotARelay)), "{other}");
            assert!(of_instance(other.clone()).is_err() && of_wipe(other.clone()).is_err(), "{other}");
        }
        let told = json!({"instances": [], "state": "wiping", "instance": "pi_a"});
        assert!(list(&told, "instances").unwrap().is_empty());
        assert_eq!(text(&told, "state").unwrap(), "wiping");
        assert!(of_instance(told.clone()).is_ok() && of_wipe(told).is_ok());
        assert!(of_wipe(json!({"signature": "s"})).is_ok());
    }
}

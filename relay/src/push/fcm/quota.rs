//! Attribution of an exhausted FCM quota: to the device of the message, or to the project, which all devices share.
//!
//! | the answer (429) | the quota is |
//! | --- | --- |
//! | an `ErrorInfo` that names the consumer, or a `QuotaFailure` whose subject is a project | the project's |
//! | the message, or the description of a `QuotaFailure`, speaks of a device | the device's |
//! | neither | not known: the device's, until [`SEVERAL`] devices are told so and none is pushed to meanwhile |
//!
//! Invariant: a word counts where Google writes words, and not within a name: a project may be called anything.

use serde_json::Value;

use crate::push::connection::answer_body::{list, text};
use crate::push::health::since_taken::{DistinctDevices, SinceTaken};

/// Devices that are told so before the project is taken to be meant.
const SEVERAL: usize = 8;

/// Devices that were told of an exhausted quota whose holder is unknown: [`SEVERAL`] of them mean the project.
pub(super) type UnattributedQuotas = SinceTaken<DistinctDevices<SEVERAL>>;

/// The holder of the quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaHolder {
    Project,
    Device,
    Unknown,
}

/// The holder of the quota that `error` (the `error` of an answer) speaks of.
pub(super) fn whose(error: &Value) -> QuotaHolder {
    let details = list(error, "details");
    let consumers = details.iter().map(|detail| text(&detail["metadata"], "consumer"));
    let violations = || details.iter().flat_map(|detail| list(detail, "violations"));
    let subjects = violations().map(|violation| text(violation, "subject"));
    if consumers.chain(subjects).any(|whose| whose.starts_with("project")) {
        return QuotaHolder::Project;
    }
    let descriptions = violations().flat_map(|it| [text(it, "subject"), text(it, "description")]);
    if descriptions.chain([text(error, "message")]).any(speaks_of_a_device) {
        QuotaHolder::Device
    } else {
        QuotaHolder::Unknown
    }
}

/// Whether it is said of a device, as a word by itself.
fn speaks_of_a_device(words: &str) -> bool {
    let is_of_a_name = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_' | '.' | '/');
    let mut words = words.split(|character| !is_of_a_name(character)).map(|word| word.trim_end_matches('.'));
    words.any(|word| word.eq_ignore_ascii_case("device"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_is_whose_google_says_and_a_name_says_nothing() {
        let failure = |subject: &str, description: &str| {
            json!({"message": "Resource has been exhausted", "details": [
                {"@type": "type.googleapis.com/google.rpc.QuotaFailure",
                 "violations": [{"subject": subject, "description": description}]},
                {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "QUOTA_EXCEEDED"}]})
        };
        let info = |consumer: &str| {
            json!({"message": "Quota exceeded for quota metric 'Send requests' of a device", "details": [
                {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "RATE_LIMIT_EXCEEDED",
                 "metadata": {"consumer": consumer, "quota_limit": "SendRequestsPerMinutePerProject"}}]})
        };
        for (error, expected) in [
            (json!({"message": "Device message rate exceeded."}), QuotaHolder::Device),
            (json!({"message": "The message rate of this device."}), QuotaHolder::Device),
            (failure("DEVICE", "too many"), QuotaHolder::Device),
            (failure("token", "Message rate to a particular device exceeded"), QuotaHolder::Device),
            (failure("", "quota of projects/my-device-app exceeded"), QuotaHolder::Unknown),
            (json!({"message": "my-device-app, my.device.app and a-device are over quota"}), QuotaHolder::Unknown),
            (failure("project:my-device-app", "a device quota"), QuotaHolder::Project),
            (info("projects/123456"), QuotaHolder::Project),
            (
                json!({"message": "Quota exceeded.", "details": [null, {"violations": null}, {"metadata": 1}]}),
                QuotaHolder::Unknown,
            ),
            (Value::Null, QuotaHolder::Unknown),
        ] {
            assert_eq!(whose(&error), expected, "{error}");
        }
    }

    #[test]
    fn one_device_that_is_told_so_again_and_again_is_no_project() {
        let told = UnattributedQuotas::default();
        let note = |whom| told.note(|devices| devices.add(whom));
        assert!((0..100).all(|_| !note(1)));
        assert!((2..8).all(|whom| !note(whom)) && note(8) && note(1));
        told.clear();
        assert!(!note(8));
    }
}

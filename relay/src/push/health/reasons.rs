//! The words of push services for what they refuse, and what an operator should do about each.
//!
//! Invariant: a reason is one of the words here, so that no log, metric or answer repeats what a peer has sent.

/// The service offers no HTTP/2; a channel that speaks HTTP/1.1 as well uses that.
pub(crate) const NOT_HTTP2: &str = "NotHttp2";
/// A device's endpoint leads to an address that the relay must not contact.
pub(crate) const NOT_ALLOWED: &str = "EndpointNotAllowed";

/// The service takes no more for one device now, which says nothing about its health.
pub(crate) const TOO_MANY_REQUESTS: &str = "TooManyRequests";

/// A reason that is not known.
pub(crate) const OTHER: &str = "OtherReason";

/// The reasons for which APNs refuses a push; an unknown one is reported as [`OTHER`].
const APNS: &[&str] = &[
    "BadCertificate",
    "BadCertificateEnvironment",
    "BadCollapseId",
    "BadEnvironmentKeyIdInToken",
    "BadExpirationDate",
    "BadMessageId",
    "BadPath",
    "BadPriority",
    "BadTopic",
    "DeviceTokenNotForTopic",
    "DuplicateHeaders",
    "Forbidden",
    "InvalidProviderToken",
    "InvalidPushType",
    "MethodNotAllowed",
    "MissingDeviceToken",
    "MissingProviderToken",
    "MissingTopic",
    "PayloadEmpty",
    "PayloadTooLarge",
    "TopicDisallowed",
    "UnrelatedKeyIdInToken",
];

/// A known reason of APNs.
pub(crate) fn of_apns(reason: &str) -> &'static str {
    APNS.iter().find(|known| **known == reason).copied().unwrap_or(OTHER)
}

/// The meaning of a reason for an operator, and its remedy.
pub(crate) fn words(reason: &str) -> &'static str {
    match reason {
        "BadCertificate" | "BadCertificateEnvironment" => {
            "the certificate is not for this app or environment, or has ended: get a new one from Apple"
        }
        "CertificateExpired" => {
            "the service says that the certificate has ended: get a new one from Apple, then reload"
        }
        "CertificateRevoked" => {
            "the service says that the certificate was revoked: get a new one from Apple, then reload"
        }
        "CertificateRefused" => {
            "the service takes no connection with this certificate: name the one that Apple gave for this app"
        }
        "BadEnvironmentKeyIdInToken" => {
            "the key is for the other environment: name one that is for both, or for this one"
        }
        "InvalidProviderToken" | "MissingProviderToken" | "Forbidden" => {
            "Apple does not take the provider token: key_file, key_id and team_id do not belong together, the key was revoked, or this \
             machine's clock is ahead"
        }
        "UnrelatedKeyIdInToken" => "Apple knows the key, but not as this team's: check key_id and team_id",
        "ExpiredProviderToken" => "Apple calls fresh provider tokens expired: check this machine's clock",
        "TooManyProviderTokenUpdates" => {
            "Apple sees too many provider tokens of one key: give each relay that is not of this cluster a key of its own"
        }
        "BadTopic" | "MissingTopic" | "TopicDisallowed" => {
            "the key or certificate may not push to this app: app.id must be the app's bundle id, with the VoIP capability; a VoIP \
             Services certificate is for calls alone"
        }
        "DeviceTokenNotForTopic" => {
            "the tokens are another app's: app.id must be the bundle id of the app that enables push"
        }
        "BadDeviceToken" => {
            "the tokens are of the other environment, or of another app: look what the app sends as environment"
        }
        "CannotSign" => "this system cannot sign: the key file may be damaged",
        "THIRD_PARTY_AUTH_ERROR" => {
            "FCM cannot reach the app's platform: its own APNs or Web Push credentials are wrong"
        }
        "SENDER_ID_MISMATCH" => {
            "the tokens are of another Firebase project: the app and the service account must be of one"
        }
        "UNAUTHENTICATED" => {
            "FCM does not take fresh access tokens: the service account may be disabled, or this machine's clock wrong"
        }
        "PERMISSION_DENIED" => {
            "the service account may not send: enable the Firebase Cloud Messaging API, and give it the role \
             cloudmessaging.messages.create"
        }
        "NOT_FOUND" => "there is no such Firebase project: check project_id in the service account's file",
        "ServiceAccountRefused" => {
            "Google refuses the service account: its key was revoked or deleted, or this machine's clock is wrong"
        }
        "VapidRefused" => {
            "the push service does not take the app's VAPID key: the app must subscribe with the key of [app.webpush], and this machine's \
             clock be right"
        }
        "GoneWithoutReason" => {
            "it says 410 in another form than Apple, or the answer broke off: no token is wiped for that; look what stands between"
        }
        "ManyNotFound" => {
            "it knows none of many subscriptions (404): nobody is wiped for that; look what stands before it, if it is yours"
        }
        TOO_MANY_REQUESTS | "QUOTA_EXCEEDED" => "it takes no more pushes now: ask again later",
        "Redirected" => "it sends pushes elsewhere, and none is followed",
        "BadPath" => "Apple's service is not at this endpoint: check app.apns.endpoint",
        NOT_ALLOWED => "the endpoint leads to an address that upstream.allow_addresses does not list",
        "TokenEndpointAway" => "the service's token endpoint gives no access token",
        "Unreachable" => "no connection can be made",
        "Silent" => "it does not answer",
        "Unanswered" => "it takes pushes and does not answer them",
        "ConnectionLost" => "its connections break while pushes are under way",
        "ServerError" => "it answers with errors of its own",
        "AskedToWait" => "it asks to wait",
        "NotInTime" => "calls were not taken before their callers gave up",
        _ => "it refuses pushes; the reason is in its documentation",
    }
}

/// A trouble with a token endpoint, and its detail. If its connections fail, the endpoint is at fault, and not the service.
pub(super) fn at_token_endpoint<'a>(reason: &'static str, detail: &'a str) -> (&'static str, &'a str) {
    match reason {
        "Silent" | "Unanswered" => ("TokenEndpointAway", "it does not answer"),
        "ConnectionLost" => ("TokenEndpointAway", "its connections break"),
        "Unreachable" => ("TokenEndpointAway", if detail.is_empty() { "no connection can be made" } else { detail }),
        "ServerError" | "AskedToWait" => ("TokenEndpointAway", detail),
        reason => (reason, detail),
    }
}

/// Whether a push is refused for a mistake in the configuration, here or at the service: of the key, the topic, the project. Once that is corrected, the
/// same push is taken.
pub(crate) fn is_of_configuration(reason: &str) -> bool {
    matches!(
        reason,
        "BadCertificate"
            | "BadCertificateEnvironment"
            | "CertificateExpired"
            | "CertificateRevoked"
            | "CertificateRefused"
            | "BadEnvironmentKeyIdInToken"
            | "InvalidProviderToken"
            | "MissingProviderToken"
            | "Forbidden"
            | "UnrelatedKeyIdInToken"
            | "ExpiredProviderToken"
            | "BadTopic"
            | "MissingTopic"
            | "TopicDisallowed"
            | "BadPath"
            | "CannotSign"
            | "PERMISSION_DENIED"
            | "NOT_FOUND"
            | "UNAUTHENTICATED"
            | "ServiceAccountRefused"
            | "VapidRefused"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_not_known_is_not_repeated() {
        assert_eq!(of_apns("BadTopic"), "BadTopic");
        assert_eq!(of_apns("<script>"), "OtherReason");
        assert!(!words("<script>").contains('<'));
    }
}

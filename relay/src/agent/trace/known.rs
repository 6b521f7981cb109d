//! Words of SIP that name nobody: what a trace keeps of a header's value, beside numbers.
//!
//! Invariant: each comes from a registry of the IANA, or from a widely used SIP server; whatever else a message says may be of a person.

/// Methods.
pub(super) const METHODS: &[&str] = &[
    "INVITE",
    "ACK",
    "BYE",
    "CANCEL",
    "REGISTER",
    "OPTIONS",
    "PRACK",
    "UPDATE",
    "INFO",
    "SUBSCRIBE",
    "NOTIFY",
    "REFER",
    "MESSAGE",
    "PUBLISH",
];
/// Option tags.
pub(super) const OPTION_TAGS: &[&str] = &[
    "100rel",
    "199",
    "answermode",
    "early-session",
    "eventlist",
    "explicitsub",
    "from-change",
    "geolocation-http",
    "geolocation-sip",
    "gin",
    "gruu",
    "histinfo",
    "ice",
    "join",
    "multiple-refer",
    "norefersub",
    "nosub",
    "outbound",
    "path",
    "policy",
    "precondition",
    "pref",
    "privacy",
    "record-aware",
    "recipient-list-invite",
    "recipient-list-message",
    "recipient-list-subscribe",
    "replaces",
    "resource-priority",
    "sdp-anat",
    "sec-agree",
    "siprec",
    "tdialog",
    "timer",
    "trickle-ice",
    "uui",
    "callerid",
    "replaces-to",
];
/// Event packages.
pub(super) const EVENTS: &[&str] = &[
    "message-summary",
    "presence",
    "presence.winfo",
    "dialog",
    "reg",
    "refer",
    "conference",
    "kpml",
    "ua-profile",
    "xcap-diff",
    "poc-settings",
    "vq-rtcpxr",
    "call-completion",
    "call-info",
    "line-seize",
    "as-feature-event",
    "check-sync",
    "keep-alive",
    "talk",
    "hold",
    "http-monitor",
];
/// Media types.
pub(super) const MEDIA_TYPES: &[&str] = &[
    "application/sdp",
    "application/simple-message-summary",
    "application/pidf+xml",
    "application/dialog-info+xml",
    "application/reginfo+xml",
    "application/dtmf-relay",
    "application/dtmf",
    "application/media_control+xml",
    "application/resource-lists+xml",
    "application/isup",
    "application/im-iscomposing+xml",
    "application/rlmi+xml",
    "application/watcherinfo+xml",
    "application/conference-info+xml",
    "application/trickle-ice-sdpfrag",
    "application/cpim-pidf+xml",
    "application/xml",
    "application/json",
    "application/octet-stream",
    "message/sip",
    "message/sipfrag",
    "message/cpim",
    "message/imdn+xml",
    "multipart/mixed",
    "multipart/alternative",
    "multipart/related",
    "multipart/*",
    "text/plain",
    "text/html",
    "text/*",
    "application/*",
    "message/*",
    "*/*",
];
/// The purposes of a body, and the handling when one is not understood.
pub(super) const DISPOSITIONS: &[&str] = &[
    "render",
    "session",
    "early-session",
    "icon",
    "alert",
    "by-reference",
    "info-package",
    "recipient-list",
    "signal",
    "aib",
];
/// States of a subscription.
pub(super) const SUBSCRIPTION_STATES: &[&str] = &["active", "pending", "terminated"];
/// The kinds of privacy that may be asked for.
pub(super) const PRIVACY: &[&str] = &["none", "header", "session", "user", "critical", "id", "history"];
/// Early media.
pub(super) const EARLY_MEDIA: &[&str] = &["supported", "sendrecv", "sendonly", "recvonly", "inactive", "gated"];
/// Protocols whose causes a Reason gives.
pub(super) const REASONS: &[&str] = &["SIP", "Q.850", "Preemption", "STUN", "emm"];
/// The first character of a Feature-Caps value.
pub(super) const ANY: &[&str] = &["*"];
/// Schemes of URIs.
pub(super) const URI_SCHEMES: &[&str] = &["sip", "sips", "tel", "urn"];
/// Schemes of authentication.
pub(super) const CHALLENGES: &[&str] = &["Digest", "Bearer", "Basic"];
/// Words of a challenge beside its realm.
pub(super) const CHALLENGE_WORDS: &[&str] = &[
    "MD5",
    "MD5-sess",
    "SHA-256",
    "SHA-256-sess",
    "SHA-512-256",
    "SHA-512-256-sess",
    "AKAv1-MD5",
    "AKAv2-MD5",
    "auth",
    "auth-int",
    "true",
    "false",
];
/// SIP servers that name themselves without a version.
pub(super) const PRODUCTS: &[&str] = &["kamailio", "opensips", "openser", "asterisk", "freeswitch", "sipwake"];
/// Kinds of media.
pub(super) const MEDIA: &[&str] = &["audio", "video", "text", "application", "message", "image"];
/// Transports of media.
pub(super) const MEDIA_TRANSPORTS: &[&str] = &[
    "RTP/AVP",
    "RTP/SAVP",
    "RTP/AVPF",
    "RTP/SAVPF",
    "UDP/TLS/RTP/SAVP",
    "UDP/TLS/RTP/SAVPF",
    "TCP/TLS/RTP/SAVPF",
    "UDP",
    "TCP",
    "udptl",
    "TCP/MSRP",
    "TCP/TLS/MSRP",
    "UDP/DTLS/SCTP",
    "TCP/DTLS/SCTP",
    "DTLS/SCTP",
    "TCP/BFCP",
];
/// The parts of a date (RFC 3261 §20.17) that are no numbers.
pub(super) const DATE_WORDS: &[&str] = &[
    "Mon,", "Tue,", "Wed,", "Thu,", "Fri,", "Sat,", "Sun,", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug",
    "Sep", "Oct", "Nov", "Dec", "GMT",
];
/// Parameters whose names are kept.
pub(super) const PARAMETERS: &[&str] = &[
    "transport",
    "lr",
    "ob",
    "user",
    "maddr",
    "ttl",
    "method",
    "gr",
    "comp",
    "pn-provider",
    "pn-param",
    "pn-prid",
    "pn-purr",
    "tag",
    "to-tag",
    "from-tag",
    "early-only",
    "expires",
    "reg-id",
    "q",
    "refresher",
    "methods",
    "audio",
    "video",
    "isfocus",
    "+sip.instance",
    "+sip.ice",
    "+sip.pns",
    "+sip.pnsreg",
    "+sip.pnspurr",
    "+sip.vapid",
    "branch",
    "received",
    "rport",
    "alias",
    "keep",
    "cause",
    "text",
    "id",
    "reason",
    "retry-after",
    "duration",
    "handling",
    "boundary",
    "charset",
];
/// Parameters whose values are kept when they are numbers.
pub(super) const NUMBERS: &[&str] = &["expires", "reg-id", "q", "ttl", "rport", "cause", "retry-after", "duration"];
/// Parameters whose values are kept when they are one of [`VALUES`].
pub(super) const WORDS: &[&str] =
    &["transport", "user", "pn-provider", "+sip.pns", "refresher", "reason", "handling", "comp"];
/// Values of those parameters.
pub(super) const VALUES: &[&str] = &[
    "udp",
    "tcp",
    "tls",
    "ws",
    "wss",
    "sctp",
    "phone",
    "ip",
    "dialog",
    "apns",
    "fcm",
    "webpush",
    "uac",
    "uas",
    "deactivated",
    "probation",
    "rejected",
    "timeout",
    "giveup",
    "noresource",
    "invariant",
    "required",
    "optional",
    "sigcomp",
];

/// Whether `word` is one of them, compared without case.
pub(super) fn is_one_of(word: &str, known: &[&str]) -> bool {
    known.iter().any(|one| word.eq_ignore_ascii_case(one))
}

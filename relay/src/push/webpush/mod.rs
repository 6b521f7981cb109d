//! Web Push (RFC 8030, 8291, 8292): browsers, and phones whose pushes come by UnifiedPush, from whichever service they have
//! subscribed at.
//!
//! | answer | what follows |
//! | --- | --- |
//! | 2xx | it was taken |
//! | 410 | the subscription is gone |
//! | 404 | likewise, unless it is said of more than eight, one after the other (`unknown.rs`): then a call is refused, and what is no call tried again |
//! | 413, 400 | this push is refused |
//! | 429, 406 | this subscription is left alone as long as Retry-After says, or for growing pauses, and the push tried again (`limits.rs`) |
//! | 503 with Retry-After | this service is left alone so long, and the push tried again; where that is longer than 10 s, one call, or the end of one, asks every 2 s |
//! | 408, 421, 425, 5xx | it is tried again; of a call at most two copies go out |
//! | 401, 403 | the service does not take our key, or the subscription is for another one; the next push to it takes its turn (`refusals.rs`) |
//! | 3xx | refused: nothing is followed |
//!
//! | room | what it is |
//! | --- | --- |
//! | `origins` | the services that devices have chosen |
//! | `encryption`, `vapid` | the content, and the App's signature |
//! | `limits`, `unknown` | the 429 of a subscription, and whether a 404 is believed |
//! | `pacing`, `refusals` | the pace of connections to services that have failed and taken nothing, and of pushes to subscriptions that were refused |
//! | `http1`, `http1_limits`, `turns` | services that speak HTTP/1.1 alone |
//!
//! Invariant: each push is encrypted for the device, whatever the service; no endpoint is in any log. A service is reached by
//! TLS alone, at an address that the operator allows.

mod encryption;
mod http1;
mod http1_limits;
mod limits;
mod origins;
mod pacing;
mod refusals;
mod turns;
mod unknown;
mod vapid;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use ipnet::IpNet;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::Instant;

use self::encryption::{PLAINTEXT_MAX, encrypted};
use self::limits::Left;
use self::origins::{Origin, Origins};
pub(super) use self::vapid::Vapid;
pub use self::vapid::public_key;
use super::connection::answer::{Answer, Bearing};
use super::connection::answer_timeout::{Patience, Renewed, TryTimes, WhenSilent};
use super::connection::attempt::Attempt;
use super::connection::departure::Departure;
use super::connection::endpoint::trust;
use super::connection::http2::{Channel, Failure, Request};
use super::connection::network::Network;
use super::health::device_faults::name_of;
use super::health::reasons::{self, NOT_HTTP2, TOO_MANY_REQUESTS, is_of_configuration};
use super::health::{Note, Record, Trouble};
use super::payload::collapse;
use super::recipient::Recipient;
use super::setup::Problem;
use super::{Event, Push, Verdict, payload};
use crate::hpke::PublicKey;
use crate::net::address_policy::Reach;
use crate::net::https_port::https_port;
use crate::push::connection::urgency::Urgency;
use crate::secret::PushToken;
use crate::vault::record::{PushTarget, WebPushKeys};

/// How soon a push is tried again that has found no place among those under way by HTTP/1.1.
const WITHOUT_PLACE: Duration = Duration::from_secs(1);
/// The longest `TTL` that is asked for, in seconds: four weeks.
const LONGEST_TTL: u64 = 28 * 24 * 3_600;

/// How to push for one App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The App's VAPID key: P-256, PKCS #8 in PEM.
    pub key_file: PathBuf,
    /// The contact that push services tell of trouble: `mailto:` or `https:`.
    pub subject: Box<str>,
    /// CA certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Networks that endpoints may be in although they are not public.
    pub allow_addresses: Vec<IpNet>,
}

impl Settings {
    /// The files that they name.
    pub(super) fn files(&self) -> Vec<&Path> {
        [Some(&*self.key_file), self.ca_file.as_deref()].into_iter().flatten().collect()
    }
}

/// Web Push for one App.
pub(crate) struct WebPush {
    vapid: Vapid,
    origins: Origins,
}

/// A push, ready to be tried.
#[derive(Clone)]
pub(super) struct PreparedPush {
    origin: Arc<Origin>,
    request: Request,
    /// Whether it asks a service that rests.
    urgency: Urgency,
    is_call: bool,
}

/// Whether `text` can be an endpoint: an `https` URL with a host, no user and no fragment. Those that are stored are judged so.
pub fn endpoint(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?.as_str();
    let whole = uri.scheme_str() == Some("https") && !authority.contains('@') && !text.contains('#');
    (whole && host(&uri).is_some() && https_port(&uri).is_some()).then_some(uri)
}

fn host(uri: &Uri) -> Option<ServerName<'_>> {
    ServerName::try_from(uri.host()?.trim_matches(['[', ']'])).ok()
}

/// An endpoint as it is kept: however its scheme, host and port are spelled, it is one (RFC 3986 §6.2.2.1 and §6.2.3). What follows them is the
/// service's, and stays as it is. `None` as of [`endpoint`], and of what no URI has (RFC 3986 §2), though some parsers take it.
pub fn canonical_endpoint(text: &str) -> Option<String> {
    if text.contains(['"', '<', '>', '\\', '^', '`', '{', '|', '}']) {
        return None;
    }
    let uri = endpoint(text)?;
    let host = match host(&uri)? {
        // A name that ends in a dot is the same name.
        ServerName::DnsName(name) => name.as_ref().trim_end_matches('.').to_ascii_lowercase(),
        ServerName::IpAddress(address) => match IpAddr::from(address) {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        },
        _ => return None,
    };
    let port = match https_port(&uri)? {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let rest = text.get("https://".len() + uri.authority()?.as_str().len()..)?;
    let root = if rest.starts_with('/') { "" } else { "/" };
    Some(format!("https://{host}{port}{root}{rest}"))
}

/// The service of this target, as the push service of that app.
pub(crate) fn service_of(app: &str, target: &PushTarget) -> Option<String> {
    let url = endpoint(PushToken::expose(&target.token))?;
    Some(format!("{app} {}", origins::origin_of(&url)?))
}

/// Whether something can be encrypted for a device with this key (`p256dh`, uncompressed).
pub fn is_key(p256dh: &[u8]) -> bool {
    encryption::is_point(p256dh)
}

impl WebPush {
    /// Reads the key; nothing is dialled before the first push.
    pub(super) fn new(
        app: &str,
        settings: &Settings,
        network: &Arc<dyn Network>,
        record: Arc<Record>,
    ) -> Result<Self, Problem> {
        let vapid = Vapid::new(&settings.key_file, &settings.subject)?;
        let mut tls = ClientConfig::clone(&*trust(settings.ca_file.as_deref(), None)?);
        tls.alpn_protocols.push(b"http/1.1".to_vec());
        let reach = Reach::new(&settings.allow_addresses);
        Ok(Self { vapid, origins: Origins::new(app, Arc::new(tls), Arc::clone(network), reach, record) })
    }

    /// How it stands.
    pub(super) fn record(&self) -> &Arc<Record> {
        self.origins.record()
    }

    /// The reason why its key would show no push as the App's.
    pub(super) fn trial(&self) -> Option<(&'static str, Box<str>)> {
        let signed = self.vapid.token("https://push.example.net", std::time::SystemTime::now());
        signed.is_none().then(|| ("CannotSign", reasons::words("CannotSign").into()))
    }

    /// Puts a push into the form of a request; the verdict when it cannot be one.
    pub(super) fn prepared(&self, target: &PushTarget, push: &Push) -> Result<PreparedPush, Verdict> {
        let refused = |reason| Verdict::Refused { reason };
        let url = endpoint(PushToken::expose(&target.token)).ok_or(refused("BadEndpoint"))?;
        let keys = target.web.as_deref().ok_or(refused("BadEndpoint"))?;
        let body = body(push, target.public_key.as_deref(), keys).map_err(refused)?;
        let origin = self.origins.of(&url).ok_or(refused("BadEndpoint"))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let (whom, headers) = (Some(name_of(&path)), headers(push, &origin.host));
        let request = Request { whom, path, headers, body: Bytes::from(body) };
        let (urgency, is_call) = (Urgency::when(push.event.is_of_a_call()), push.event == Event::Call);
        Ok(PreparedPush { origin, request, urgency, is_call })
    }

    /// Tries once.
    pub(super) async fn attempt(
        &self,
        PreparedPush { origin, request, urgency, is_call }: &mut PreparedPush,
        deadline: Instant,
        (departure, recipient): (&Departure, &dyn Recipient),
        renewed: Renewed<'_>,
    ) -> Attempt {
        let times = TryTimes::new(*is_call, deadline);
        // A push that was told no time has growing pauses of its own; one of a call is tried although another push was told so.
        if let Some(left) = origin.limits.left(&request.path, *urgency) {
            departure.say(TOO_MANY_REQUESTS);
            return Attempt::Limited { after: left.named() };
        }
        if let Err(reason) = origin.turn(&request.path, *urgency, times.leaves_until).await {
            return match reason.filter(|reason| urgency.is_urgent() || is_of_configuration(reason)) {
                Some(reason) => Attempt::Done(Verdict::Refused { reason }),
                None => {
                    departure.say(reason.unwrap_or("ServerError"));
                    Attempt::Limited { after: None }
                }
            };
        }
        let Some(authorization) = origin.authorization(&self.vapid) else {
            self.record().trouble(Trouble::grave("CannotSign"), "");
            return Attempt::Done(Verdict::Refused { reason: "CannotSign" });
        };
        request.headers.insert(AUTHORIZATION, authorization);
        let when_silent = WhenSilent::Leaves;
        let patience = Patience { times, when_silent, urgency: *urgency, departure, renewed };
        match sent(origin, request, patience).await {
            Ok(attempt) => {
                let attempt = match attempt {
                    Attempt::Done(Verdict::BadToken) => {
                        let is_gone = if origin.unknown.is_believed(&request.path) {
                            let is_gone = recipient.is_gone().await;
                            if is_gone == Some(false) {
                                origin.unknown.doubt();
                            }
                            is_gone
                        } else {
                            Some(false)
                        };
                        origin.not_found(is_gone, *urgency)
                    }
                    attempt => attempt,
                };
                origin.note(&request.path, &attempt);
                if matches!(attempt, Attempt::Limited { .. }) {
                    departure.say(TOO_MANY_REQUESTS);
                }
                match attempt {
                    Attempt::Limited { after: None } => Attempt::Limited {
                        after: origin.limits.left(&request.path, Urgency::Urgent).and_then(Left::named),
                    },
                    attempt => attempt,
                }
            }
            Err(failure) => failure.into(),
        }
    }
}

impl PreparedPush {
    /// How the service stands that it goes to.
    pub(super) fn record(&self) -> &Arc<Record> {
        self.channel().record()
    }

    /// The way there.
    pub(super) fn channel(&self) -> &Channel {
        &self.origin.channel
    }
}

/// Sends it by what the service speaks, or once more by the other when it no longer does.
async fn sent(origin: &Origin, request: &Request, patience: Patience<'_>) -> Result<Attempt, Failure> {
    for _ in 0..2 {
        if !origin.speaks_http1() {
            match origin.channel.send(request, patience, classify).await {
                Err(Failure::ShutOut { reason: NOT_HTTP2 }) => origin.note_http1(true),
                sent => return sent,
            }
        } else {
            match by_http1(origin, request, patience).await {
                Err(Failure::Unsent { after: None }) => origin.note_http1(false),
                Err(Failure::Unconfirmed) => {
                    // The bytes it sent were perhaps no HTTP/1.1.
                    origin.note_http1(false);
                    return Err(Failure::Unconfirmed);
                }
                sent => return sent,
            }
        }
    }
    Err(Failure::Unsent { after: None })
}

async fn by_http1(origin: &Origin, request: &Request, patience: Patience<'_>) -> Result<Attempt, Failure> {
    let channel = &origin.channel;
    let _probe = channel.leave(patience).await?;
    let place = origin.place(patience.urgency, patience.times.leaves_until).await;
    let _place = place.ok_or(Failure::NoPlace { after: Some(WITHOUT_PLACE) })?;
    let answer = http1::post(channel, request, patience).await;
    match answer {
        Ok(answer) => {
            let (attempt, bearing) = classify(&answer);
            patience.departure.say_of(&bearing);
            channel.apply_bearing(bearing);
            Ok(attempt)
        }
        Err(failure) => {
            if !matches!(failure, Failure::ShutOut { .. } | Failure::NoPlace { .. }) {
                channel.record().trouble(Trouble::light("Unreachable"), "");
            }
            Err(failure)
        }
    }
}

/// The request's body, or what the push is refused for.
pub(super) fn body(push: &Push, key: Option<&PublicKey>, keys: &WebPushKeys) -> Result<Vec<u8>, &'static str> {
    let object = payload::object(push, key, PLAINTEXT_MAX).map_err(|payload::Oversized| "PayloadTooLarge")?;
    encrypted(keys, &object).ok_or("CannotEncrypt")
}

/// The body of a call's push that has waited, as it is said now.
pub(super) fn renewed_body(of: Option<(&Push, &PushTarget)>) -> Option<Bytes> {
    let (push, target) = of?;
    body(&push.renewed()?, target.public_key.as_deref(), target.web.as_deref()?).ok().map(Bytes::from)
}

/// The request's headers to this host, all but the VAPID token. A call is for now or never; a push that is only for the app need not wake
/// the radio (RFC 8030 §5.3).
fn headers(push: &Push, host: &str) -> HeaderMap {
    let (ttl, urgency) = match push.event {
        Event::Call => (0, "high"),
        _ => {
            let ttl = push.life_s().min(LONGEST_TTL);
            (ttl, if push.is_silent() { "low" } else { "normal" })
        }
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(HeaderName::from_static("ttl"), HeaderValue::from(ttl));
    headers.insert(HeaderName::from_static("urgency"), HeaderValue::from_static(urgency));
    if let Some(key) = collapse::key(push) {
        headers.insert(HeaderName::from_static("topic"), key);
    }
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("aes128gcm"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if is_microsofts(host) {
        // Without it that service stores a push, and answers 400 to a `TTL` of 0.
        let policy = if ttl == 0 { "no-cache" } else { "cache" };
        headers.insert(HeaderName::from_static("x-wns-cache-policy"), HeaderValue::from_static(policy));
    }
    headers
}

/// Whether it is the service that Edge subscribes at on Windows (WNS), which asks for a header of its own.
fn is_microsofts(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.strip_suffix("notify.windows.com").is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The meaning of an answer for its push and for the service.
fn classify(answer: &Answer) -> (Attempt, Bearing) {
    let refused = |reason| Attempt::Done(Verdict::Refused { reason });
    let attempt = match answer.status.as_u16() {
        200..=299 => Attempt::Done(Verdict::Accepted),
        // Whether it is believed is judged where others of this service are known.
        404 => Attempt::Done(Verdict::BadToken),
        410 => Attempt::Done(Verdict::Gone { since: None }),
        // Microsoft's service says 406 of one that had too many.
        406 | 429 => Attempt::Limited { after: answer.retry_after() },
        408 | 421 | 425 | 500..=599 => Attempt::Again { after: answer.retry_after() },
        300..=399 => refused("Redirected"),
        401 | 403 => refused("VapidRefused"),
        413 => refused("PayloadTooLarge"),
        _ => refused("OtherReason"),
    };
    let bearing = answer.bearing();
    let bearing = match answer.status.as_u16() {
        410 => Bearing { note: Note::Well, ..bearing },
        401 | 403 => Bearing { note: Note::Trouble(Trouble::light("VapidRefused")), ..bearing },
        300..=399 => Bearing { note: Note::Trouble(Trouble::light("Redirected")), ..bearing },
        _ => bearing,
    };
    (attempt, bearing)
}

#[cfg(test)]
mod tests {
    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;

    #[test]
    fn microsofts_service_is_told_whether_to_store_a_push_and_no_other_is() {
        let push = |event, deadline| Push {
            event,
            instance: InstanceId::new(1, ShardTag(0)),
            call: Some(CallId::new(1, ShardTag(0))),
            from: None,
            name: None,
            edge: "relay1.example.net:5061".into(),
            sent_at: 1_795_000_000,
            deadline,
            made_at: crate::clock::now(),
            extra: Vec::new(),
        };
        let call = push(Event::Call, 1_795_000_030);
        let (message, late) = (push(Event::Message, 1_795_003_600), push(Event::Message, 1_795_000_000));
        for (host, push, ttl, policy) in [
            ("wns2-sg2p.notify.windows.com", &call, "0", Some("no-cache")),
            ("notify.windows.com.", &call, "0", Some("no-cache")),
            ("wns2-sg2p.notify.windows.com", &message, "3600", Some("cache")),
            ("wns2-sg2p.notify.windows.com", &late, "0", Some("no-cache")),
            ("fcm.googleapis.com", &call, "0", None),
            ("notify.windows.com.example.net", &call, "0", None),
            ("evilnotify.windows.com", &message, "3600", None),
        ] {
            let headers = headers(push, host);
            let value = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().expect("ASCII"));
            assert_eq!((value("ttl"), value("x-wns-cache-policy")), (Some(ttl), policy), "{host}");
        }
    }

    #[test]
    fn an_endpoint_is_an_https_url_without_user_and_fragment() {
        for good in
            ["https://push.example.net/a?b=c", "https://[2001:db8::1]:8443/x", "https://192.0.2.1/", "https://h"]
        {
            assert!(endpoint(good).is_some(), "{good}");
        }
        for bad in [
            "http://push.example.net/a",
            "https://user@push.example.net/",
            "https://h/#x",
            "https://",
            "",
            "/a",
            "https://h:0/",
            "https://h:99999/",
            "wss://h/",
        ] {
            assert!(endpoint(bad).is_none() && canonical_endpoint(bad).is_none(), "{bad}");
        }
        for bad in ["https://h/\"a\"", "https://h/a\\b", "https://h/{a}", "https://h/a|b"] {
            assert!(canonical_endpoint(bad).is_none(), "{bad}");
        }
        assert!(endpoint("https://h/a|b").is_some(), "one that was enabled before");
    }
}

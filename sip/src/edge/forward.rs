//! The changes that a proxy makes in a request (RFC 3261 §16.3, §16.6; RFC 3581; RFC 5658).
//!
//! Invariant: Via, Record-Route, Route, Max-Forwards and the Request-URI are all that changes, and `Sipwake-Call` toward a device; every other
//! header and the body leave byte for byte as they came.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::cell::LazyCell;

use super::CallState;
use crate::flow::{DialogKey, FlowToken, Side, Source, TokenKey, Transport};
use crate::id::{BindingId, BranchId, CallId};
use crate::message::{Composer, Edit, Limits, Message, Method, Name, NameAddr, Params, Party, Uri};

/// How a name of this relay is written in one direction.
#[derive(Clone, Copy, Debug)]
pub struct SentBy<'a> {
    /// `host:port`.
    pub host: &'a str,
    /// The transport of that direction.
    pub transport: Transport,
}

impl SentBy<'_> {
    /// The Contact of a binding here, without parameters of its own.
    pub fn contact(&self, binding: BindingId) -> String {
        match self.transport {
            Transport::Udp => format!("<sip:{binding}@{}>", self.host),
            other => format!("<sip:{binding}@{};transport={}>", self.host, other.param()),
        }
    }
}

/// Reason why a request is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// 482: it has been here before, with the same Request-URI and Route.
    Loop,
    /// 483: Max-Forwards is zero.
    TooManyHops,
    /// 420: it requires of proxies what this one cannot (RFC 3261 §16.3.5).
    Extension,
}

impl Stop {
    /// The status of the response.
    pub fn status(self) -> u16 {
        match self {
            Self::Loop => 482,
            Self::TooManyHops => 483,
            Self::Extension => 420,
        }
    }
}

/// Checks a request before it is forwarded (RFC 3261 §16.3).
///
/// # Errors
/// The reason for which the request is answered instead.
pub fn check(request: &Message, own: &[&str]) -> Result<(), Stop> {
    if request.max_forwards() == Some(0) {
        return Err(Stop::TooManyHops);
    }
    if unknown_to_proxies(request).next().is_some() {
        return Err(Stop::Extension);
    }
    let mark = LazyCell::new(|| loop_mark(request));
    let looped = request.elements(Name::Via).filter_map(crate::message::Via::parse).any(|via| {
        let seen = via.branch().and_then(|branch| branch.split_once('.')).map(|(_, seen)| seen);
        // Few Vias have a mark, which is found sooner than whose they are.
        seen.is_some_and(|seen| {
            seen.len() == MARK_LEN && own.iter().any(|sent_by| via.is_sent_by(sent_by)) && seen == *mark
        })
    });
    if looped { Err(Stop::Loop) } else { Ok(()) }
}

/// The options of Proxy-Require that this proxy does not support. `privacy` (RFC 3323 §5) is supported: the relay shows such a caller as anonymous in
/// all its own messages, and gateways put the option into every call.
pub fn unknown_to_proxies(request: &Message) -> impl Iterator<Item = &str> {
    request.elements(Name::ProxyRequire).filter(|option| !option.eq_ignore_ascii_case("privacy"))
}

/// The options of Require that this element does not understand (RFC 3261 §8.2.2.3).
pub fn not_understood<'a>(request: &'a Message, understood: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let is_known = |option: &&str| understood.iter().any(|known| known.eq_ignore_ascii_case(option));
    request.elements(Name::Require).filter(move |option| !is_known(option))
}

/// Begins the forwarded copy of a request: one hop less, our Via on top.
pub fn forward_request<'a>(request: &'a Message, sent_by: SentBy<'_>, branch: BranchId) -> Edit<'a> {
    let hops = request.max_forwards().unwrap_or(70).saturating_sub(1);
    let mark = loop_mark(request);
    let rport = if sent_by.transport == Transport::Udp { ";rport" } else { "" };
    let via = format!("SIP/2.0/{} {};branch={branch}.{mark}{rport}", sent_by.transport.via(), sent_by.host);
    request.edit().set(Name::MaxForwards, hops.to_string()).prepend(Name::Via, via)
}

/// Names the call in its INVITE to a device, as its pushes name it. The relay alone says it there: what a caller has sent is left out.
pub fn name_call(edit: Edit<'_>, call: CallId) -> Edit<'_> {
    edit.set(Name::SipwakeCall, call.to_string())
}

/// The two Record-Routes of a call, the device's on top: each side sees a name that it can reach (RFC 5658). Both are `sips:` where the request
/// goes on to a `sips:` URI (RFC 3261 §16.6 step 4) and neither side is in the clear.
pub fn record_route<'a>(edit: Edit<'a>, token: &str, device: SentBy<'_>, upstream: SentBy<'_>) -> Edit<'a> {
    let keeps = |sent_by: SentBy<'_>| matches!(sent_by.transport, Transport::Tls | Transport::Wss);
    let secure = keeps(device) && keeps(upstream) && edit.target().is_some_and(is_secure);
    let route = |sent_by: SentBy<'_>| match sent_by.transport {
        Transport::Udp => format!("<sip:{token}@{};lr>", sent_by.host),
        // `sips:` is TLS by itself (RFC 3261 §26.2.2).
        Transport::Tls if secure => format!("<sips:{token}@{};lr>", sent_by.host),
        other if secure => format!("<sips:{token}@{};transport={};lr>", sent_by.host, other.param()),
        other => format!("<sip:{token}@{};transport={};lr>", sent_by.host, other.param()),
    };
    edit.prepend(Name::RecordRoute, route(upstream)).prepend(Name::RecordRoute, route(device))
}

/// The signed Route of a request that this relay has put there.
#[derive(Clone, Copy, Debug)]
pub struct OwnRoute {
    /// The token of the topmost value.
    pub token: FlowToken,
    /// The number of its values that are ours.
    pub values: usize,
}

/// Our own Route of a request that came from a side; `None` unless it was signed for the dialog that the request is of.
pub fn own_route(request: &Message, key: &TokenKey, from: Side) -> Option<OwnRoute> {
    let topmost = request.route_user(0)?;
    let token = open_token(request, key, topmost, from)?;
    // Both Record-Routes of a request have had the same token.
    let is_signed = |user: &str| user == topmost || open_token(request, key, user, from).is_some();
    Some(OwnRoute { token, values: 1 + usize::from(request.route_user(1).is_some_and(is_signed)) })
}

/// Reads a token for the dialog that a request of a side is of.
fn open_token(request: &Message, key: &TokenKey, text: &str, from: Side) -> Option<FlowToken> {
    let tag_of = |side: Side| {
        let party = if side == from { request.from() } else { request.to() };
        party.and_then(|party| party.tag()).unwrap_or_default()
    };
    key.open(text, request.call_id()?, tag_of)
}

/// The text of a token for the dialogs that a request begins, which came from a side.
pub fn token_for(request: &Message, key: &TokenKey, from: Side, token: &FlowToken) -> String {
    let call_id = request.call_id().unwrap_or_default();
    let caller = request.from();
    let tag = caller.and_then(|from| from.tag()).unwrap_or_default();
    key.sign(token, &DialogKey { call_id, begun_by: from, tag })
}

/// A device's request without the Route values that name this relay's address alone and stand in front of a signed one: its outbound proxy, which
/// is this relay, is left out by the first hop (RFC 3261 §16.4). `named`: how many of the topmost values name this relay. `None`: there are none.
pub fn past_outbound_proxy(request: &Message, key: &TokenKey, named: impl FnOnce() -> usize) -> Option<Message> {
    let is_plain = |index| request.route(index).is_some_and(|route| route.uri.user.is_none());
    if !is_plain(0) {
        return None;
    }
    let is_signed = |index: usize| {
        request.route_user(index).is_some_and(|user| open_token(request, key, user, Side::Device).is_some())
    };
    let ahead = (1..=named()).find(|index| !is_plain(*index)).filter(|index| is_signed(*index))?;
    past_routes(request, ahead)
}

/// A request without its `count` topmost Routes. `None`: that is as it is.
pub fn past_routes(request: &Message, count: usize) -> Option<Message> {
    let popped = |count: usize| (0..count).fold(request.edit(), |edit, _| edit.pop(Name::Route)).finish();
    (count > 0).then(|| popped(count)).and_then(|bytes| Message::parse(&bytes, &Limits::COMPOSED).ok())
}

/// Takes our `ours` values off the Route of a request that is forwarded. Where a strict router comes next, one without `lr`,
/// its URI becomes the Request-URI, and the Request-URI the last value of Route (RFC 3261 §16.6 step 6).
pub fn take_route<'a>(edit: Edit<'a>, request: &'a Message, ours: usize) -> Edit<'a> {
    let edit = (0..ours).fold(edit, |edit, _| edit.pop(Name::Route));
    let Some(next) = request.route(ours).filter(NameAddr::is_strict_router) else { return edit };
    let target = format!("<{}>", request.request_uri().unwrap_or_default());
    edit.pop(Name::Route).request_uri(next.request_uri()).append(Name::Route, target)
}

/// Gives a request that is forwarded this Route in the place of its own; where it begins with a strict router, as [`take_route`] does.
pub fn put_route<'a>(edit: Edit<'a>, request: &Message, routes: &'a [Box<str>]) -> Edit<'a> {
    let strict = routes.first().and_then(|route| NameAddr::parse(route)).filter(NameAddr::is_strict_router);
    let behind = routes.iter().skip(usize::from(strict.is_some()));
    let edit = behind.fold(edit.remove(Name::Route), |edit, route| edit.append(Name::Route, &**route));
    let Some(next) = strict else { return edit };
    let target = format!("<{}>", request.request_uri().unwrap_or_default());
    edit.request_uri(next.request_uri()).append(Name::Route, target)
}

/// A request that a strict router has sent, as a loose one would have: its Request-URI is what this relay put into
/// Record-Route, and its target is the last value of Route (RFC 3261 §16.4). `None`: it is none.
pub fn from_strict_router(request: &Message, key: &TokenKey, from: Side) -> Option<Message> {
    request.to()?.tag()?;
    let own = request.request_uri()?;
    open_token(request, key, Uri::parse(own)?.user?, from)?;
    let mut routes: Vec<&str> = request.elements(Name::Route).collect();
    let target = Party::read(routes.pop()?.as_bytes()).target()?.split('?').next()?;
    let edit = request.edit().request_uri(target).remove(Name::Route);
    let edit = edit.append(Name::Route, format!("<{own}>"));
    let bytes = routes.into_iter().fold(edit, |edit, route| edit.append(Name::Route, route)).finish();
    Message::parse(&bytes, &Limits::COMPOSED).ok()
}

/// Removes the identity that a device asserts: only its SIP server may assert one (RFC 3325 §5). Remote-Party-ID says the same in older words
/// (draft-ietf-sip-privacy-04), and Asterisk and FreeSWITCH read it. P-Preferred-Identity passes, for the SIP server to judge.
pub fn strip_asserted_identity(edit: Edit<'_>, from: Side) -> Edit<'_> {
    match from {
        Side::Device => edit.remove(Name::PAssertedIdentity).remove(Name::RemotePartyId),
        Side::Upstream => edit,
    }
}

/// Adds `received` and `rport` to the topmost Via where the sender's address is another than it says (RFC 3261 §18.2.1,
/// RFC 3581 §4). `None`: nothing to add.
pub fn add_received(request: &Message, source: &Source) -> Option<Message> {
    request.received_from(source.peer)
}

/// ACK and BYE for a 2xx that comes when the call is over (RFC 3261 §16.7: it must not be left unanswered). One that names no Contact, as
/// it must, is ended at its To, by the same flow.
pub fn end_late_answer(answer: &Message, sent_by: SentBy<'_>, ack: BranchId, bye: BranchId) -> Option<(Bytes, Bytes)> {
    let (contacts, to) = (answer.contacts(), answer.to());
    let target = Uri::request_uri_of(contacts.first().or(to.as_ref())?.target()?);
    let (number, _) = answer.cseq()?;
    let compose = |method: Method, branch, number| {
        let via = format!("SIP/2.0/{} {};branch={branch}", sent_by.transport.via(), sent_by.host);
        Composer::request(method, &target)
            .header(Name::Via, via)
            .header(Name::MaxForwards, 70)
            .copy(Name::From, answer)
            .copy(Name::To, answer)
            .copy(Name::CallId, answer)
            .header(Name::CSeq, format_args!("{number} {method}"))
            .finish()
    };
    Some((compose(Method::Ack, ack, number), compose(Method::Bye, bye, number.saturating_add(1))))
}

/// ACK or BYE of the end that has called, in the dialog that a 2xx to its INVITE confirms (RFC 3261 §12.1.2, §12.2.1.1).
pub fn of_caller(answer: &Message, method: Method) -> Option<Message> {
    let (contacts, (number, _)) = (answer.contacts(), answer.cseq()?);
    let target = Uri::request_uri_of(contacts.first()?.target()?);
    let number = if method == Method::Ack { number } else { number.saturating_add(1) };
    let mut routes: Vec<&str> = answer.elements(Name::RecordRoute).collect();
    routes.reverse();
    let request = Composer::request(method, &target);
    let request = routes.into_iter().fold(request, |request, route| request.header(Name::Route, route));
    let request = request.header(Name::MaxForwards, 70).copy(Name::From, answer).copy(Name::To, answer);
    let request = request.copy(Name::CallId, answer).header(Name::CSeq, format_args!("{number} {method}"));
    Message::parse(&request.finish(), &Limits::COMPOSED).ok()
}

/// Whether it is a `sips:` URI, whose every hop is TLS (RFC 3261 §26.2.2).
pub fn is_secure(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("sips"))
}

/// The Reason of a CANCEL (RFC 3326), for the CANCEL that passes it on.
pub fn reason(cancel: &Message) -> Option<String> {
    let reasons: Vec<&str> = cancel.elements(Name::Reason).collect();
    (!reasons.is_empty()).then(|| reasons.join(", "))
}

/// The causes of a CANCEL whose callee has declined on another device, for all of them (RFC 3261 §21.6.1, §21.6.2, RFC 8197 §4).
const DECLINED: [&str; 3] = ["600", "603", "607"];

/// The end of a call as its CANCEL tells it (RFC 3326 §2, protocol `SIP`): another device has answered (cause 200) or declined; else the caller gave up.
pub fn end_told_by(cancel: &Message) -> CallState {
    let says = |causes: &[&str]| {
        cancel.elements(Name::Reason).any(|reason| {
            let (protocol, params) = reason.split_at(reason.find(';').unwrap_or(reason.len()));
            let cause = Params::loose(params).value("cause");
            protocol.trim().eq_ignore_ascii_case("SIP") && cause.is_some_and(|cause| causes.contains(&cause))
        })
    };
    match () {
        () if says(&["200"]) => CallState::AnsweredElsewhere,
        () if says(&DECLINED) => CallState::Declined,
        () => CallState::Cancelled,
    }
}

/// Digits of a loop detection mark.
const MARK_LEN: usize = 8;

/// The loop detection mark (RFC 3261 §16.6.8): hexadecimal digits of a hash over the Request-URI and Route.
fn loop_mark(request: &Message) -> String {
    let mut hash = Sha256::new();
    hash.update(request.request_uri().unwrap_or_default());
    for route in request.values(Name::Route) {
        hash.update(b"\n");
        hash.update(route);
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    format!("{:0MARK_LEN$x}", u32::from_be_bytes([a, b, c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{FlowId, ShardTag};

    #[test]
    fn a_request_that_has_been_here_with_the_same_target_loops_and_no_other() {
        let own = ["relay.example.net:5061", "[2001:db8::1]:5060", "relay.example.net"];
        let with = |via: &str| {
            let text =
                format!("INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n{via}CSeq: 1 INVITE\r\n\r\n");
            Message::parse(&Bytes::from(text), &Limits::default()).expect("a request")
        };
        let mark = loop_mark(&with(""));
        let checked = |sent_by: &str, mark: &str| {
            check(&with(&format!("Via: SIP/2.0/TLS {sent_by};branch=z9hG4bK2.{mark}\r\n")), &own)
        };
        for ours in own {
            assert_eq!(checked(ours, &mark), Err(Stop::Loop), "{ours}");
            assert_eq!(checked(ours, "00000000"), Ok(()), "{ours}: another target");
        }
        for other in ["relay.example.net:5062", "relay", "relay:5061", "[2001:db8::1]", "[2001:db8::1]:5061", "h"] {
            assert_eq!(checked(other, &mark), Ok(()), "{other}");
        }
    }

    #[test]
    fn a_cancel_says_in_its_cause_alone_that_another_device_answered_or_declined() {
        let told = |reasons: &str| {
            let text = format!("CANCEL sip:a@b SIP/2.0\r\nCSeq: 1 CANCEL\r\n{reasons}\r\n\r\n");
            end_told_by(&Message::parse(&Bytes::from(text), &Limits::default()).expect("a request"))
        };
        for elsewhere in [
            "Reason: SIP;cause=200;text=\"Call completed elsewhere\"",
            "reason: sip ; CAUSE = 200",
            "Reason: Q.850;cause=26;text=\"a, b;c\", SIP;cause=200",
            "Reason: Q.850;cause=26\r\nReason: SIP;text=\"a;b, \\\"c\";cause=200",
        ] {
            assert_eq!(told(elsewhere), CallState::AnsweredElsewhere, "{elsewhere}");
        }
        for declined in [
            "Reason: SIP;cause=603",
            "Reason: SIP ;cause=603 ;text=\"Decline\"",
            "Reason: SIP;text=\"x\\\";cause=200;y\";cause=603",
            "Reason: SIP;cause=600, Q.850;cause=200",
            "Reason: Q.850;cause=21\r\nReason: sip;CAUSE=607",
        ] {
            assert_eq!(told(declined), CallState::Declined, "{declined}");
        }
        for other in [
            "Reason: SIP;cause=487;text=\"x;cause=200;y\"",
            "Reason: SIP;text=\"x;cause=200;y\"",
            "Reason: SIP;text=\"a, SIP;cause=200, b\";cause=480",
            "Reason: SIP;text=\"open;cause=200",
            "Reason: SIP;cause=604",
            "Reason: SIP;cause=486",
            "Reason: Q.850;cause=603",
            "Reason: SIP;cause=6030",
            "Reason: SIP;text=\"603\";cause=0603",
            "Reason: SIP",
            "Subject: none",
        ] {
            assert_eq!(told(other), CallState::Cancelled, "{other}");
        }
    }

    #[test]
    fn a_late_answer_is_ended_at_its_contact_or_at_its_to() {
        let flow = SentBy { host: "relay.test:5061", transport: Transport::Tls };
        let (ack, bye) = (BranchId::new(1 << 64, ShardTag(0)), BranchId::new(2 << 64, ShardTag(0)));
        for (contact, target) in [("Contact: <sip:phone@h>\r\n", "sip:phone@h"), ("", "sip:alice@example.com")] {
            let text = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nFrom: <sip:b@h>;tag=1\r\nTo: <sip:alice@example.com>;tag=2\r\n\
                 Call-ID: c\r\nCSeq: 7 INVITE\r\n{contact}\r\n"
            );
            let answer = Message::parse(&Bytes::from(text), &Limits::default()).expect("a response");
            let (ack, bye) = end_late_answer(&answer, flow, ack, bye).expect("it is ended");
            assert!(ack.starts_with(format!("ACK {target} SIP/2.0\r\n").as_bytes()), "{ack:?}");
            assert!(bye.starts_with(format!("BYE {target} SIP/2.0\r\n").as_bytes()), "{bye:?}");
        }
    }

    #[test]
    fn a_via_says_where_its_request_came_from_however_it_is_written() {
        let peer = "198.51.100.7:5070".parse().expect("an address");
        let source = Source {
            flow: FlowId::Datagram(peer),
            side: Side::Upstream,
            transport: Transport::Udp,
            peer,
            split: false,
        };
        let marked = |via: &str| {
            let text = format!("BYE sip:a@b SIP/2.0\r\nTo: x\r\n{via}\r\nCSeq: 1 BYE\r\n\r\n");
            let request = Message::parse(&Bytes::from(text), &Limits::default()).expect("a request");
            let marked = add_received(&request, &source).map(|marked| marked.to_bytes());
            marked.map(|bytes| Message::parse(&bytes, &Limits::default()).expect("a request"))
        };
        let shown = |via: &str| marked(via).and_then(|it| it.via().map(|via| via.text.to_owned()));
        let seen = "received=198.51.100.7";
        assert_eq!(shown("Via: SIP/2.0/UDP h:9;branch=z"), Some(format!("SIP/2.0/UDP h:9;branch=z;{seen}")));
        assert_eq!(
            shown("v: SIP/2.0/UDP h;rport ;received=x, SIP/2.0/UDP i"),
            Some(format!("SIP/2.0/UDP h;{seen};rport=5070"))
        );
        for folded in ["Via: SIP/2.0/UDP\r\n h;branch=z;rport", "Via:\r\n\tSIP / 2.0 / UDP\th ;branch=z\r\n ;rport"] {
            let via = shown(folded).expect("marked");
            assert!(via.contains(";branch=z") && via.ends_with(&format!(";{seen};rport=5070")), "{folded:?}: {via:?}");
        }
        let two = marked("v: SIP/2.0/UDP h;rport, SIP/2.0/UDP i;branch=y").expect("marked");
        assert_eq!(two.elements(Name::Via).nth(1), Some("SIP/2.0/UDP i;branch=y"));
        assert!(marked("Via: SIP/2.0/UDP 198.51.100.7;branch=z").is_none(), "it says so itself");
    }
}

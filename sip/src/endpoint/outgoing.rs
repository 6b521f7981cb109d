//! Requests that a device begins: the relay is the outbound proxy of a device that has registered through it (RFC 3261 §16,
//! RFC 5626 §5.3, RFC 8599).
//!
//! | the request | goes |
//! | --- | --- |
//! | INVITE, MESSAGE, SUBSCRIBE, PUBLISH, OPTIONS, REFER of a domain that is registered by the same flow, whatever its target | by the flow of that registration, along its Service-Route (RFC 3608) |
//! | one whose From names nobody (RFC 3323 §4.1.1.3) or is a number | likewise: by the registration that P-Preferred-Identity names (RFC 3325 §9.2), else by that of the one account that is registered by the same flow, on any shard |
//! | one whose From is an identity that the SIP server of a registration of the same flow has given it (P-Associated-URI, RFC 7315 §4.1) | likewise, by that registration |
//! | another From, Route or method, or nothing is registered by this flow | nowhere: 403, and a Warning says why |
//! | more than the device's or its address's [budget](super::budgets) | nowhere: 503 with Retry-After |
//! | a proof of another user than the registration's own, which the shell does not let pass ([`carried_proofs`](super::carried_proofs)) | nowhere: 503 with Retry-After |
//! | an emergency call (RFC 5031), while its device has one of its own for these left | as any other, whatever the other budgets |
//! | a `sips:` target, and the SIP server is reached in the clear | nowhere: 480 with Warning 380 (RFC 5630 §5.3) |
//! | an INVITE, when the process is about to end | nowhere: 503 with Retry-After |
//! | no flow is up to the SIP server | by the next one, which is dialled now, soon where the last dial failed; 503 when none can be had ([`super::parked`]) |
//!
//! The SIP server asks for credentials (401, 407), judges the target and routes, as if the device had come by itself: a transfer or a redirection
//! names another one's Contact, seldom of the same domain, and the relay resolves no target. Requests of the dialogs
//! that begin so are in [`super::dialogs`].
//!
//! Invariant: the next hop is the flow of a registration that the device itself has just now on this connection, and no
//! address that a message names: neither its target nor its Route leads elsewhere. No request goes by the registration of an account that this
//! connection has not registered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dialogs::NextHop;
use super::{ClientOwner, Endpoint, Event, RequestRefusal, ServerOwner, Side, Source};
use crate::bucket::{Bucket, Rate, counted_as};
use crate::edge::own_proof::{self, Sender};
use crate::edge::{forward, push_proxy};
use crate::flow::{FlowToken, Transport};
use crate::id::{BranchId, FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name, Uri};
use crate::transaction::{Reply, ServerId};

/// Requests that the devices behind one address (IPv6: one /64) may begin beyond what each has of its own, on one shard; a further one is
/// answered 503.
const PER_ADDRESS: Rate = Rate { burst: 100, interval: Duration::from_millis(100) };
/// Addresses whose requests are counted at once; what is to be counted of a further one is answered 503.
pub const ADDRESSES_MAX: usize = 10_000;
/// The Retry-After of a device that sends too many, in seconds.
const RETRY_AFTER_S: u32 = 10;

/// How much the devices behind each address have sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    addresses: BTreeMap<IpAddr, Bucket>,
}

/// Reason why a request is not forwarded; each is a 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The device's account is lent: the relay is called for it and calls nobody.
    Lent,
    NotRegistered,
    From,
    /// From names nobody, and nothing else says which account is meant.
    Nobody,
    Route,
    Method,
    /// The request has a To tag, and names no dialog that this relay has carried.
    InDialog,
}

impl Refusal {
    /// The reason for a developer, in the text of a Warning.
    fn text(self) -> &'static str {
        match self {
            Self::Lent => {
                "this account is lent: the relay takes its calls; to call out, register at your own SIP server and send there"
            }
            Self::NotRegistered => {
                "register through this relay first, by this connection, and by no other one since; with pn-provider (RFC 8599), unless its operator lets the domain register without"
            }
            Self::From => {
                "the domain of From is not one that is registered by this connection, nor From an identity that a SIP server has given here"
            }
            Self::Nobody => {
                "From names nobody, and several accounts are registered by this connection: name one of them in P-Preferred-Identity"
            }
            Self::Route => "the Route behind this relay is not the Service-Route of the registration",
            Self::Method => "this method begins nothing here",
            Self::InDialog => {
                "a request in a call passes by the Route that the Record-Routes of its INVITE or of the 2xx gave, whole and in their order"
            }
        }
    }
}

impl Outgoing {
    fn spend(&mut self, now: Instant, address: IpAddr) -> bool {
        if self.addresses.len() >= ADDRESSES_MAX && !self.addresses.contains_key(&address) {
            self.addresses.retain(|_, bucket| !bucket.is_full(now));
            if self.addresses.len() >= ADDRESSES_MAX {
                return false;
            }
        }
        self.addresses.entry(address).or_insert_with(|| Bucket::full(now)).take(now, PER_ADDRESS).is_ok()
    }
}

/// The two transactions of a forwarded request: with its device, and with its SIP server.
#[derive(Clone, Copy)]
pub(super) struct Transactions {
    pub(super) server: ServerId,
    pub(super) branch: BranchId,
}

impl Endpoint {
    /// A request of a device outside a dialog of ours.
    pub(super) fn on_outgoing(&mut self, now: Instant, source: Source, reply: Reply<'_>, request: &Message) {
        let own_routes = self.own_routes(request);
        let instance = match self.judge_outgoing(&source, request, own_routes) {
            Ok(judged) => judged,
            Err(why) => return self.refuse_outgoing(now, reply, request, why),
        };
        if let Err(stop) = forward::check(request, &self.core.settings.own_addresses()) {
            return self.refuse(now, reply, request, stop.status());
        }
        if self.calls.refused.is_some() && request.method() == Some(Method::Invite) && !is_emergency(request) {
            return self.refuse_at_end(&source, request);
        }
        if self.awaits_word(now, source, reply, request, instance) {
            return;
        }
        let granted = self.may_begin(now, &source, instance, request);
        let upstream = self.devices.binding_of(instance).and_then(|binding| self.upstream_of(binding));
        match upstream.and_then(|upstream| self.hop_to_server(upstream, instance)).filter(|_| granted) {
            Some(hop) if in_the_clear(request, hop.transport) => self.refuse_sips(now, reply, request),
            Some(hop) => self.send_outgoing(now, &source, reply, request, hop),
            None if let Some(upstream) = upstream.filter(|_| granted) => {
                self.park_begun(now, source, reply, request, (instance, upstream));
            }
            None => {
                let response = self.try_later(request);
                self.respond_once(now, reply, request, 503, response);
            }
        }
    }

    /// The 503 of a request that its device may try again later, or by another relay.
    pub(super) fn try_later(&mut self, request: &Message) -> Bytes {
        let tag = self.core.random.tag();
        let response = Composer::response(request, 503, Composer::reason(503), Some(&tag));
        response.header(Name::RetryAfter, RETRY_AFTER_S).finish()
    }

    /// Whether the budgets of a device and of its address have room for one more request.
    fn may_begin(&mut self, now: Instant, source: &Source, instance: InstanceId, request: &Message) -> bool {
        let method = request.method().unwrap_or(Method::Other);
        let Self { devices, outgoing, .. } = self;
        let address = || outgoing.spend(now, counted_as(source.peer.ip()));
        is_emergency(request) && devices.spend_emergency(now, instance)
            || devices.spend_begun(now, instance, method, address)
    }

    fn send_outgoing(&mut self, now: Instant, source: &Source, reply: Reply<'_>, request: &Message, hop: NextHop) {
        let branch = self.core.branch();
        let (owner, status) = (ServerOwner::Forwarded(branch), status_of_silence(request));
        if let Some(server) = self.open_forwarded(now, reply, request, owner, hop.device, status) {
            self.send_to_server(now, source, Transactions { server, branch }, request, hop);
        }
    }

    /// A flow is up to the SIP server of a request that has waited for one. Its device may have left meanwhile.
    pub(super) fn send_begun(
        &mut self,
        now: Instant,
        source: &Source,
        Transactions { server, branch }: Transactions,
        request: &Message,
        hop: NextHop,
    ) {
        let is_there = self.push_bindings.knows(hop.device) && self.attachments.carries(source.flow, hop.device);
        if !is_there || in_the_clear(request, hop.transport) {
            return self.on_forwarded_silence(now, server);
        }
        let (status, tag) = (status_of_silence(request), self.core.random.tag());
        let failure = Composer::response(request, status, Composer::reason(status), Some(&tag)).finish();
        self.dialogs.fail_with(server, (status, failure));
        self.send_to_server(now, source, Transactions { server, branch }, request, hop);
    }

    fn send_to_server(
        &mut self,
        now: Instant,
        source: &Source,
        Transactions { server, branch }: Transactions,
        request: &Message,
        hop: NextHop,
    ) {
        let method = request.method().unwrap_or(Method::Other);
        let (device, upstream) = (
            self.core.settings.sent_by(Side::Device, source.transport),
            self.core.settings.sent_by(Side::Upstream, hop.transport),
        );
        let routes = self.push_bindings.routes_of(hop.device);
        let mut edit = forward::forward_request(request, upstream, branch);
        edit = forward::strip_asserted_identity(edit, Side::Device);
        edit = forward::put_route(own_proof::take(edit, request, Sender::Passing), request, &routes);
        if matches!(method, Method::Invite | Method::Subscribe | Method::Refer) {
            let token = FlowToken { instance: hop.device, upstream: hop.flow };
            let token = forward::token_for(request, &self.core.token_key, Side::Device, &token);
            // The side that the request goes to has its name on top.
            edit = forward::record_route(edit, &token, upstream, device);
        }
        let bytes = own_proof::withheld(edit.finish(), request.body().len());
        let owner = ClientOwner::Forwarded(server, self.server_behind(&hop));
        if self.core.transactions.send(now, branch, method, bytes, hop.flow, owner).is_err() {
            return self.on_forwarded_silence(now, server);
        }
        self.note_asked_of_server(hop.flow, branch);
        if method == Method::Invite {
            self.asked.note_placed(source.flow, server, branch);
        }
    }

    /// The instance whose registration a request uses; the request goes along its Service-Route.
    fn judge_outgoing(&self, source: &Source, request: &Message, own_routes: usize) -> Result<InstanceId, Refusal> {
        if request.to().is_some_and(|to| to.tag().is_some()) {
            return Err(Refusal::InDialog);
        }
        let attached = self.attachments.attached_by(source.flow);
        let registered = || attached.iter().copied().filter(|instance| self.push_bindings.knows(*instance));
        if registered().next().is_none() {
            return Err(if attached.is_empty() { Refusal::NotRegistered } else { Refusal::Lent });
        }
        let begins = matches!(
            request.method(),
            Some(
                Method::Invite
                    | Method::Message
                    | Method::Subscribe
                    | Method::Publish
                    | Method::Options
                    | Method::Refer
            )
        );
        if !begins {
            return Err(Refusal::Method);
        }
        let instance = self.sender_of(source.split, request, &registered().collect::<Vec<_>>())?;
        let routes = self.push_bindings.routes_of(instance);
        let named: Vec<Option<String>> = (own_routes..)
            .map_while(|index| request.route(index))
            .map(|route| push_proxy::spelling(route.uri.text))
            .collect();
        let all = request.elements(Name::Route).count() == own_routes + named.len();
        // A device need not repeat known Routes; the proxy that it has registered by may stand in front of them, or in their place.
        let proxy = self.push_bindings.proxy_of(instance).and_then(push_proxy::spelling);
        let by_proxy = proxy.is_some() && named.first() == Some(&proxy);
        let same = same_routes(&named, &routes) || by_proxy && (named.len() == 1 || same_routes(&named[1..], &routes));
        let fits = named.is_empty() || all && same;
        if fits && all { Ok(instance) } else { Err(Refusal::Route) }
    }

    /// The instance that has begun a request on a device's flow, if its registration passes through.
    pub(super) fn sender_by(&self, flow: FlowId, request: &Message) -> Option<InstanceId> {
        let attached = self.attachments.attached_by(flow);
        let registered: Vec<_> = attached.iter().copied().filter(|it| self.push_bindings.knows(*it)).collect();
        self.sender_of(true, request, &registered).ok()
    }

    /// The instance that sent a request, among the registrations of its flow; `split`: its device may have others on other shards.
    fn sender_of(&self, split: bool, request: &Message, registered: &[InstanceId]) -> Result<InstanceId, Refusal> {
        let aor_of = |instance: &InstanceId| self.push_bindings.aor_of(*instance);
        let named = |uri: &Uri<'_>| {
            let address = push_proxy::address_of(uri)?;
            let same_host =
                |aor: Option<&str>| aor.is_some_and(|aor| host_of(aor).eq_ignore_ascii_case(host_of(&address)));
            let exact = registered.iter().find(|instance| aor_of(instance) == Some(&*address));
            // An account may call by another of its names; which, its SIP server judges.
            let of_domain = || registered.iter().find(|instance| same_host(aor_of(instance)));
            // A domain that is registered here is that one's: another account's SIP server gives nobody a name of it.
            let given = || registered.iter().find(|instance| self.push_bindings.has_identity(**instance, &address));
            exact.or_else(of_domain).or_else(given).copied()
        };
        let from = request.from().and_then(|from| from.uri()).ok_or(Refusal::From)?;
        let sender = named(&from);
        if sender.is_some() || !push_proxy::names_nobody(&from) {
            return sender.ok_or(Refusal::From);
        }
        let (first, others) = registered.split_first().ok_or(Refusal::NotRegistered)?;
        let is_one_account = !split && others.iter().all(|other| aor_of(other) == aor_of(first));
        let preferred = push_proxy::preferred(request).find_map(|uri| named(&uri));
        preferred.or(is_one_account.then_some(*first)).ok_or(Refusal::Nobody)
    }

    fn refuse_sips(&mut self, now: Instant, reply: Reply<'_>, request: &Message) {
        let tag = self.core.random.tag();
        let response = Composer::response(request, 480, Composer::reason(480), Some(&tag));
        let warning =
            format!("380 {} \"SIPS Not Allowed: your SIP server is reached without TLS\"", self.core.settings.edge);
        self.respond_once(now, reply, request, 480, response.header(Name::Warning, warning).finish());
    }

    fn refuse_outgoing(&mut self, now: Instant, reply: Reply<'_>, request: &Message, why: Refusal) {
        self.core.event(Event::RequestRefused(RequestRefusal::Method));
        self.refuse_with_warning(now, reply, request, 403, why.text());
    }
}

/// The answer to a request that its SIP server leaves unanswered: only INVITE is ever answered 408 (RFC 4320 §4.2).
fn status_of_silence(request: &Message) -> u16 {
    if request.method() == Some(Method::Invite) { 408 } else { 480 }
}

/// Whether a request whose every hop is to be TLS would leave by another transport.
fn in_the_clear(request: &Message, transport: Transport) -> bool {
    transport != Transport::Tls && request.request_uri().is_some_and(forward::is_secure)
}

/// Whether the Routes of a request, each in one spelling, are these.
fn same_routes(named: &[Option<String>], routes: &[Box<str>]) -> bool {
    let uri = |route: &str| push_proxy::spelling(route.trim_start_matches('<').split('>').next().unwrap_or_default());
    named.len() == routes.len()
        && named.iter().zip(routes).all(|(named, route)| named.is_some() && *named == uri(route))
}

/// Whether a request calls an emergency service: `urn:service:sos`, or one within (RFC 5031 §4.2).
pub(super) fn is_emergency(request: &Message) -> bool {
    if request.method() != Some(Method::Invite) {
        return false;
    }
    let mut parts = request.request_uri().unwrap_or_default().splitn(3, ':');
    let mut is = |word: &str| parts.next().is_some_and(|part| part.eq_ignore_ascii_case(word));
    let is_service = is("urn") && is("service");
    let service = parts.next().and_then(|service| service.split('.').next());
    is_service && service.is_some_and(|service| service.eq_ignore_ascii_case("sos"))
}

/// The host of an address of record.
fn host_of(aor: &str) -> &str {
    aor.rsplit_once('@').map_or(aor, |(_, host)| host)
}

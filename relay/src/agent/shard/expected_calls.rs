//! Waking the devices of an account for a call that its SIP server holds back (`POST /v1/wake`). The devices have lent the account, or have registered through
//! the edge (RFC 8599).
//!
//! | a device that a requester waits for | the requester |
//! | --- | --- |
//! | attaches | is told |
//! | declines, no longer wants calls, has its push refused, or the call's time is over | is released: the device cannot come any more |
//!
//! Only devices that are attached or waited for are counted. Not counted are an app in the foreground, which registers by itself, and a device that gets no
//! calls now.
//!
//! Invariant: a requester is released by the call that it waits for, and by no other. A call that nobody waits for is expected no longer than its INVITE may
//! take. The account is named by its keyed hash alone. A device is woken only if the AOR's domain or the operator vouches for the SIP server that it is
//! registered at, by the name of the account's next hop or by the address of its flow. A registrar behind that next hop must be vouched for as well.

use std::net::SocketAddr;

use sip::endpoint::Input;
use sip::id::{CallId, InstanceId, UpstreamId};
use sip::message::Uri;
use tokio::sync::mpsc;

use super::Shard;
use crate::agent::ShardInput;
use crate::agent::request::{Arrival, DevicesFound, Servers, WakeRequester};
use crate::clock;
use crate::push::Event;
use crate::vault::AorKey;

/// A requester that waited for devices has hung up.
pub(crate) struct RequesterGone {
    /// The channel by which it was told of arrivals.
    arrivals: mpsc::WeakUnboundedSender<Arrival>,
    /// The devices, and the calls that they were woken for.
    waited: Vec<(InstanceId, CallId)>,
}

/// A call that its SIP server has announced, and holds back.
#[derive(Clone, Copy)]
pub(crate) struct AnnouncedCall<'a> {
    /// The caller.
    pub(crate) from: &'a str,
    /// The caller's display name.
    pub(crate) name: Option<&'a str>,
    /// The requester that waits for the devices.
    pub(crate) requester: &'a WakeRequester,
}

impl Shard {
    /// Wakes each device of an account that is not attached, unless it was woken for this call before. Without a `call` the devices are only counted.
    pub(crate) fn expect_call(
        &mut self,
        aor: AorKey,
        servers: &Servers,
        call: Option<AnnouncedCall<'_>>,
    ) -> DevicesFound {
        let mut waited = Vec::new();
        let mut found = DevicesFound::default();
        let lent = self.instances.of_account(aor).into_iter().filter_map(|instance| {
            let row = self.instances.get(instance).filter(|row| row.ending.is_none())?;
            Some((instance, row.upstream))
        });
        let passed = self.push_bindings.of_account(aor).into_iter();
        let passed = passed.filter_map(|instance| Some((instance, self.endpoint.push_binding_upstream(instance)?)));
        for (instance, upstream) in lent.chain(passed).collect::<Vec<_>>() {
            match self.is_served(upstream, servers) {
                Some(true) => {}
                Some(false) => continue,
                None => {
                    found.undecided += 1;
                    continue;
                }
            }
            let is_attached = self.attached.contains(instance);
            let may_come = is_attached || self.target_of(instance, Event::Call).is_some();
            if !may_come || !self.endpoint.is_announced_to(instance) {
                found.silent += 1;
                continue;
            }
            if is_attached {
                found.known += 1;
                found.attached += 1;
                continue;
            }
            let Some(AnnouncedCall { from, name, requester }) = call else {
                found.known += 1;
                continue;
            };
            let (now, wait) = (clock::now(), requester.wait);
            self.drive(now, Input::ExpectCall { instance, from: from.into(), name: name.map(Into::into), wait });
            if let Some((call, until)) = self.endpoint.expected_call(now, instance, from) {
                if let Some(known) = self.calls.get_mut(call, instance) {
                    known.expect_until(until);
                }
                let waiting = self.arrivals.entry((instance, call)).or_default();
                waiting.retain(|other| !other.is_closed());
                waiting.push(requester.arrivals.clone());
                waited.push((instance, call));
                found.known += 1;
            } else {
                found.silent += 1;
            }
        }
        if let Some(call) = call.filter(|_| !waited.is_empty()) {
            self.watch(call.requester, waited);
        }
        found
    }

    /// Watches for a requester that hangs up before its answer.
    fn watch(&self, requester: &WakeRequester, waited: Vec<(InstanceId, CallId)>) {
        let (shared, shard) = (self.shared.clone(), self.index);
        let (mut answered, arrivals) = (requester.answered.clone(), requester.arrivals.downgrade());
        tokio::spawn(async move {
            // An error means that the requester is gone.
            if answered.wait_for(|answered| *answered).await.is_err() {
                shared.shards.send(shard, ShardInput::RequesterGone(RequesterGone { arrivals, waited })).await;
            }
        });
    }

    /// A requester has hung up: a call that nobody else waits for is expected no longer than its INVITE may take.
    pub(crate) fn on_requester_gone(&mut self, RequesterGone { arrivals, waited }: &RequesterGone) {
        let gone = arrivals.upgrade();
        let mut calls: Vec<CallId> = waited.iter().map(|(_, call)| *call).collect();
        for (instance, call) in waited {
            let key = (self.endpoint.current(*instance), *call);
            let Some(waiting) = self.arrivals.get_mut(&key) else { continue };
            waiting.retain(|it| !it.is_closed() && !gone.as_ref().is_some_and(|gone| gone.same_channel(it)));
            if waiting.is_empty() {
                self.arrivals.remove(&key);
            } else {
                calls.retain(|other| other != call);
            }
        }
        calls.dedup();
        for call in calls {
            self.drive(clock::now(), Input::StopExpecting(call));
        }
    }

    /// A device's app has come to the foreground, or wants no more calls: its requesters are released.
    pub(crate) fn want_no_calls(&mut self, instance: InstanceId) {
        self.tell_askers(instance, Arrival::Unwanted);
        self.drive(clock::now(), Input::LeaveExpected(instance));
    }

    /// Whether these servers vouch for the SIP server of a registration, as far as this pass can decide.
    fn is_served(&self, upstream: UpstreamId, servers: &Servers) -> Option<bool> {
        let Some(route) = self.shared.upstreams.route(upstream) else { return Some(false) };
        let is_next_hop = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(route.verified_domain());
        let names = |is: &dyn Fn(&str) -> bool| is(&servers.domain) || servers.registrars.iter().any(|host| is(host));
        // A proxy that forwards to any server does not vouch for the servers behind it.
        let registrar = Uri::parse(route.registrar()).map(|uri| uri.host.trim_end_matches('.').to_owned());
        let registrar = registrar.filter(|host| !is_next_hop(host)).unwrap_or_default();
        let is_registrar = |host: &str| host.trim_end_matches('.').eq_ignore_ascii_case(&registrar);
        let is_registrar_named = registrar.is_empty() || names(&is_registrar);
        let by_name = names(&is_next_hop) && is_registrar_named;
        let Some(addresses) = &servers.addresses else { return by_name.then_some(true) };
        let peer = self.endpoint.flow_to(upstream).and_then(|flow| self.outgoing.peer_of(flow));
        let is_at = |peer: SocketAddr| addresses.iter().any(|known| known.to_canonical() == peer.ip().to_canonical());
        // Instances that a name decides about were woken in the earlier pass.
        let literal = registrar.trim_matches(['[', ']']).parse().ok().map(|ip| SocketAddr::new(ip, 0));
        let may_be = is_registrar_named || literal.is_some_and(is_at);
        Some(!by_name && may_be && (names(&is_next_hop) || peer.is_some_and(is_at)))
    }

    /// A device has attached: its requesters are told.
    pub(crate) fn tell_arrivals(&mut self, instance: InstanceId) {
        self.tell_askers(instance, Arrival::Came);
    }

    fn tell_askers(&mut self, instance: InstanceId, arrival: Arrival) {
        for waiting in self.take_arrivals(instance).into_iter().flat_map(|(_, waiting)| waiting) {
            // An error means that nobody waits any more.
            let _ = waiting.send(arrival);
        }
    }

    /// Takes out the requesters that wait for this device, with their calls.
    pub(crate) fn take_arrivals(&mut self, device: InstanceId) -> Vec<(CallId, Vec<mpsc::UnboundedSender<Arrival>>)> {
        let (first, last) = (CallId::from_bytes([0; 16]), CallId::from_bytes([0xff; 16]));
        let theirs = self.arrivals.extract_if((device, first)..=(device, last), |_, _| true);
        theirs.map(|((_, call), waiting)| (call, waiting)).collect()
    }
}

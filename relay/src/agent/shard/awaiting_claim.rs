//! Requests that wait for the claim of their instance. While this node claims instances, a SIP server may send a request for one that is on its way here. The
//! request waits, an INVITE with a 100, and its instance is claimed and opened next. The request is handed in when the instance has arrived, or when no more
//! instances are to come. A call waits as long as a phone could still be woken for it, also while the store does not answer.
//!
//! | a request waits for | until |
//! | --- | --- |
//! | a binding | it is bound; the vault claims it next |
//! | the addresses of its SIP server | they are known |
//!
//! Invariant: at most [`STRANGERS_MAX`] requests of [`STRANGERS_BYTES`] wait in a shard, or [`SERVERS_MAX`] of [`SERVERS_BYTES`] with those of known SIP
//! servers; at most [`OF_BINDING_MAX`] wait for one binding, beside their CANCELs. A request waits for [`REQUEST_WAIT`]. A call waits until [`LEAST_RING`]
//! before the end of its time to ring, and no longer than its CANCEL. The requests for one binding keep their order. No Contact is reported as unknown while it
//! may be on its way. An input that can end no wait does not examine the waiting requests.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use sip::endpoint::calls::CALLS_PER_INSTANCE;
use sip::endpoint::{Input, Missing};
use sip::id::{BindingId, UpstreamId};
use sip::message::Method;

use super::Shard;
use super::waiting::{Cancelled, bytes_of, ends, ends_one, is_first_cancel, is_same, say_waiting};

/// Requests that may wait in one shard; a further one is refused with 503, unless it comes from a SIP server at which an account is registered here.
const STRANGERS_MAX: usize = 1_000;
/// Requests that may wait in one shard with those of such SIP servers; a further one is refused with 503.
const SERVERS_MAX: usize = 4_000;
/// The bytes of the requests that may wait, without and with those of such SIP servers; likewise.
const STRANGERS_BYTES: usize = 8 << 20;
const SERVERS_BYTES: usize = 64 << 20;
/// Requests that may wait for one binding: as many as it may have calls. A further one is refused with 503.
const OF_BINDING_MAX: usize = CALLS_PER_INSTANCE;
/// How long a request other than a call waits; then it is refused with 503, and its sender may try another node. Its transaction ends after 32 s
/// (RFC 3261 §17.1.2.2).
const REQUEST_WAIT: Duration = Duration::from_secs(10);
/// The part of a call's time to ring that must be left when it is handed in, or a quarter of that time if it is less: a later push would wake the phone
/// in vain.
const LEAST_RING: Duration = Duration::from_secs(3);
/// The `Retry-After` for a request that has waited in vain, in seconds: the store is asked all the time.
pub(super) const RETRY_AFTER_S: u32 = 2;
/// The interval at which all waiting requests are examined: their instance may have come in another way, or must be wanted again.
const SWEEP: Duration = Duration::from_secs(1);

/// The requests that wait.
#[derive(Default)]
pub(crate) struct AwaitingClaim {
    /// The requests by their binding, each with its time of arrival.
    waiting: HashMap<BindingId, Vec<(Instant, Input)>>,
    /// The number of the requests, and their bytes.
    count: usize,
    bytes: usize,
    /// The times of arrival, oldest first, of calls and of others apart, because calls wait longer. Some of these requests do not wait any more.
    order: [VecDeque<(Instant, BindingId)>; 2],
    /// Bindings that have arrived since the last examination.
    bound: Vec<BindingId>,
    /// Bindings that are here, and whose SIP server's addresses are not known yet.
    unserved: BTreeMap<UpstreamId, BTreeSet<BindingId>>,
    swept_at: Option<Instant>,
}

impl AwaitingClaim {
    /// The time of the next examination.
    pub(crate) fn due(&self) -> Option<Instant> {
        // Each wait is longer than a sweep, or ends with the next one.
        let oldest = self.order.iter().filter_map(|order| order.front()).map(|(at, _)| *at).min()?;
        Some(self.swept_at.unwrap_or(oldest) + SWEEP)
    }

    /// A binding is here now.
    pub(crate) fn note_bound(&mut self, binding: BindingId) {
        if self.waiting.contains_key(&binding) {
            self.bound.push(binding);
        }
    }

    /// Whether the same request waits.
    fn has(&self, binding: BindingId, request: &Input) -> bool {
        let waits = |requests: &Vec<(Instant, Input)>| requests.iter().any(|(_, other)| is_same(request, other));
        self.waiting.get(&binding).is_some_and(waits)
    }

    /// Whether a request is the CANCEL of a call that waits.
    fn ends_one(&self, binding: BindingId, request: &Input) -> bool {
        let waiting = self.waiting.get(&binding);
        waiting.is_some_and(|requests| ends_one(request, requests.iter().map(|(_, other)| other)))
    }

    /// Whether one more request may wait for a binding, from a known SIP server or from anybody.
    fn has_room(&self, binding: BindingId, request: &Input, is_of_server: impl FnOnce() -> bool) -> bool {
        let bytes = self.bytes + bytes_of(request);
        let fits = |count, most| self.count < count && bytes <= most;
        let has_place = |requests: &Vec<(Instant, Input)>| {
            requests.len() < OF_BINDING_MAX || is_first_cancel(request, requests.iter().map(|(_, other)| other))
        };
        self.waiting.get(&binding).is_none_or(has_place)
            && (fits(STRANGERS_MAX, STRANGERS_BYTES) || fits(SERVERS_MAX, SERVERS_BYTES) && is_of_server())
    }

    fn add(&mut self, at: Instant, binding: BindingId, request: Input) {
        self.bytes += bytes_of(&request);
        self.order[usize::from(begins_call(&request))].push_back((at, binding));
        self.waiting.entry(binding).or_default().push((at, request));
        self.count += 1;
    }

    /// Takes the requests that wait for a binding.
    fn take(&mut self, binding: BindingId) -> Vec<(Instant, Input)> {
        let taken = self.waiting.remove(&binding).unwrap_or_default();
        self.count -= taken.len();
        self.bytes -= taken.iter().map(|(_, request)| bytes_of(request)).sum::<usize>();
        taken
    }

    pub(super) fn take_all(&mut self) -> Vec<(Instant, Input)> {
        std::mem::take(self).waiting.into_values().flatten().collect()
    }

    /// Takes the requests that have waited long enough; a call may ring for `ring_timeout`. A call that has ended comes before that, with its CANCEL.
    fn take_old(&mut self, now: Instant, ring_timeout: Duration) -> Vec<Input> {
        let mut old = Vec::new();
        for (is_call, wait) in [(false, REQUEST_WAIT), (true, ring_timeout - LEAST_RING.min(ring_timeout / 4))] {
            while let Some((at, binding)) = self.order[usize::from(is_call)].front().copied() {
                let requests = self.waiting.get_mut(&binding);
                let place = requests.as_ref().and_then(|requests| {
                    requests.iter().position(|(came_at, request)| *came_at <= at && begins_call(request) == is_call)
                });
                let (Some(requests), Some(place)) = (requests, place) else {
                    self.order[usize::from(is_call)].pop_front();
                    continue;
                };
                if now.saturating_duration_since(at) < wait {
                    break;
                }
                let (_, request) = requests.remove(place);
                let ended = requests.iter().position(|(_, other)| ends(&request, other));
                for request in ended.map(|place| requests.remove(place).1).into_iter().chain([request]) {
                    self.bytes -= bytes_of(&request);
                    self.count -= 1;
                    old.push(request);
                }
                if requests.is_empty() {
                    self.waiting.remove(&binding);
                }
            }
        }
        old
    }
}

fn begins_call(request: &Input) -> bool {
    matches!(request, Input::Received { message, .. } if message.method() == Some(Method::Invite))
}

impl Shard {
    /// Keeps a request back while its instance may be claimed; gives back any other input.
    pub(crate) fn keep_for_claim(&mut self, at: Instant, input: Input) -> Option<Input> {
        if !self.shared.ownership.is_claiming() {
            return Some(input);
        }
        let Input::Received { source, message } = &input else { return Some(input) };
        let Some(binding) = self.endpoint.unclaimed_contact(source, message) else { return Some(input) };
        if self.refuses_calls && message.method() == Some(Method::Invite) {
            self.endpoint.refuse_at_end(source, message);
        } else if self.awaiting_claim.has(binding, &input) {
            // The request was sent again, before the 100 came.
            let ends_one = self.awaiting_claim.ends_one(binding, &input);
            say_waiting(&mut self.endpoint, &input, ends_one);
        } else if self.awaiting_claim.has_room(binding, &input, || self.endpoint.is_sip_server(source)) {
            let ends_one = self.awaiting_claim.ends_one(binding, &input);
            say_waiting(&mut self.endpoint, &input, ends_one);
            self.shared.vault.want(binding.tag());
            self.awaiting_claim.add(at, binding, input);
            if self.endpoint.missing(binding) != Some(Missing::Binding) {
                self.awaiting_claim.note_bound(binding);
            }
        } else {
            self.endpoint.refuse_unclaimed(source, message, None);
        }
        self.drain(at);
        None
    }

    /// Hands in the requests whose instance has come, or for which none comes any more.
    pub(crate) fn judge_claimed(&mut self, now: Instant) {
        if self.awaiting_claim.count == 0 {
            return;
        }
        let mut ready = Vec::new();
        if self.shared.ownership.is_claiming() {
            if self.awaiting_claim.swept_at.is_none_or(|at| now.saturating_duration_since(at) >= SWEEP) {
                self.awaiting_claim.swept_at = Some(now);
                self.awaiting_claim.bound = self.awaiting_claim.waiting.keys().copied().collect();
                for binding in &self.awaiting_claim.bound {
                    self.shared.vault.want(binding.tag());
                }
            }
            ready = self.sort_bound();
            let served = self.awaiting_claim.unserved.keys().filter(|upstream| self.endpoint.is_served(**upstream));
            for upstream in served.copied().collect::<Vec<_>>() {
                for binding in self.awaiting_claim.unserved.remove(&upstream).unwrap_or_default() {
                    ready.extend(self.awaiting_claim.take(binding));
                }
            }
            for input in self.awaiting_claim.take_old(now, self.shared.ring_timeout) {
                let Input::Received { source, message } = &input else { continue };
                self.endpoint.refuse_unclaimed(source, message, Some(RETRY_AFTER_S));
                self.drain(now);
            }
        } else {
            ready.extend(self.awaiting_claim.take_all());
        }
        if self.awaiting_claim.count == 0 {
            self.awaiting_claim = AwaitingClaim::default();
        }
        ready.sort_by_key(|(at, _)| *at);
        let cancelled = Cancelled::among(ready.iter().map(|(_, input)| input));
        for (at, input) in ready {
            if let Some(input) = self.look_up_path(at, input) {
                self.hand_in(at, input, &cancelled);
            }
        }
    }

    /// Examines the bindings that have arrived. Returns the requests for those that miss nothing more.
    fn sort_bound(&mut self) -> Vec<(Instant, Input)> {
        let mut ready = Vec::new();
        for binding in std::mem::take(&mut self.awaiting_claim.bound) {
            match self.endpoint.missing(binding) {
                Some(Missing::Binding) => {}
                Some(Missing::Addresses(upstream)) => {
                    self.awaiting_claim.unserved.entry(upstream).or_default().insert(binding);
                }
                None => ready.extend(self.awaiting_claim.take(binding)),
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use sip::endpoint::{Side, Source, Transport};
    use sip::id::{FlowId, ShardTag};
    use sip::message::{Limits, Message};

    use super::*;

    const RING: Duration = Duration::from_secs(30);

    fn request(number: usize, bytes: usize) -> Input {
        request_of("INVITE", number, bytes)
    }

    fn request_of(method: &str, number: usize, bytes: usize) -> Input {
        let text = format!(
            "{method} sip:a@h SIP/2.0\r\nVia: SIP/2.0/TLS pbx.example;branch=z9hG4bK{number}\r\nFrom: <sip:b@h>;tag=1\r\nTo: <sip:a@h>\r\nCall-ID: {number}\r\nCSeq: 1 {method}\r\n\r\n{}",
            "x".repeat(bytes)
        );
        let peer = "192.0.2.1:5060".parse().unwrap();
        let source =
            Source { flow: FlowId::Stream(1), side: Side::Upstream, transport: Transport::Tls, peer, split: false };
        Input::Received { source, message: Message::parse(&text.into(), &Limits::COMPOSED).unwrap() }
    }

    fn binding(number: usize) -> BindingId {
        BindingId::new((number as u128 + 1) << 16, ShardTag(0))
    }

    /// The number of requests that are kept, of `of` requests for as many bindings.
    fn kept(waiting: &mut AwaitingClaim, of: usize, bytes: usize, is_of_server: bool) -> usize {
        for number in 0..of {
            let request = request(number, bytes);
            if waiting.has_room(binding(number), &request, || is_of_server) {
                waiting.add(Instant::now(), binding(number), request);
            }
        }
        waiting.count
    }

    #[test]
    fn large_requests_of_strangers_are_few_and_leave_room_for_those_of_servers() {
        let mut waiting = AwaitingClaim::default();
        let large = kept(&mut waiting, 1_000, 60_000, false);
        assert!((100..200).contains(&large) && waiting.bytes <= STRANGERS_BYTES, "{large}");
        assert!(kept(&mut waiting, 1_000, 1_000, true) >= 1_000);
        assert_eq!(kept(&mut AwaitingClaim::default(), 2_000, 1_000, false), STRANGERS_MAX);
        for number in 0..1_000 {
            waiting.take(binding(number));
        }
        assert_eq!((waiting.count, waiting.bytes), (0, 0));
    }

    #[test]
    fn few_requests_wait_for_one_binding() {
        let (mut waiting, now) = (AwaitingClaim::default(), Instant::now());
        for number in 0..OF_BINDING_MAX {
            assert!(waiting.has_room(binding(0), &request(number, 10), || true));
            waiting.add(now, binding(0), request(number, 10));
        }
        assert!(!waiting.has_room(binding(0), &request(99, 10), || true));
        assert!(waiting.has_room(binding(1), &request(99, 10), || false));
        assert!(waiting.take_old(now + REQUEST_WAIT, RING).is_empty(), "a phone can still be woken");
        assert_eq!(waiting.take_old(now + RING - LEAST_RING, RING).len(), OF_BINDING_MAX);
        assert_eq!((waiting.count, waiting.bytes), (0, 0));
    }

    #[test]
    fn a_call_waits_while_a_phone_can_be_woken_and_behind_its_cancel_as_long_as_another_request() {
        let (mut waiting, now) = (AwaitingClaim::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let methods = |old: Vec<Input>| -> Vec<Method> {
            let method = |input: &Input| match input {
                Input::Received { message, .. } => message.method(),
                _ => None,
            };
            old.iter().filter_map(method).collect()
        };
        for (second, method, call) in
            [(0, "MESSAGE", 0), (1, "INVITE", 1), (1, "INVITE", 2), (2, "CANCEL", 2), (3, "OPTIONS", 3)]
        {
            waiting.add(at(second), binding(0), request_of(method, call, 10));
        }
        assert_eq!(waiting.due(), Some(at(1)));
        assert!(waiting.take_old(at(9), RING).is_empty());
        assert_eq!(methods(waiting.take_old(at(11), RING)), [Method::Message]);
        assert_eq!(methods(waiting.take_old(at(12), RING)), [Method::Invite, Method::Cancel]);
        assert_eq!(methods(waiting.take_old(at(20), RING)), [Method::Options]);
        assert_eq!(methods(waiting.take_old(at(28), RING)), [Method::Invite]);
        assert_eq!((waiting.count, waiting.bytes, waiting.due()), (0, 0, None));
    }
}

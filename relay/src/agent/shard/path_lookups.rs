//! Requests that wait for a lookup: in the store, which node owns their instance; or in DNS, whether their source is the instance's SIP server.
//!
//! - A request comes by our Path (RFC 8599), or by our Record-Route in a dialog, for a registration that is not here.
//! - A request comes likewise, or for the Contact of a lent account, from an address that DNS has not named as the SIP server's yet.
//! - A device sends a request in a dialog of an account that is not here.
//!
//! | answer | the waiting requests |
//! | --- | --- |
//! | the registration is here or in the store, and DNS has named all addresses of its SIP server, or the source of the request | are handed in |
//! | another node owns the account of the dialog | are handed in, and forwarded or kept, or the device is challenged (`super::elsewhere`) |
//! | the store has no such registration; for a request of a device: none that another node owns | are handed in, and refused as unknown |
//! | none for [`LOOK_EVERY`] | wait on, an INVITE with a 100, its CANCEL with a 200 |
//! | the store or DNS cannot answer | likewise, and the question is asked again |
//! | some addresses of the SIP server, and no others for [`PART_WAIT`] | are handed in, and judged by those |
//! | the record does not open here, or this node owns an account that has not arrived yet | are refused with 503 |
//!
//! | limit | of |
//! | --- | --- |
//! | [`WAIT`] and [`LOOK_EVERY`] | the wait of a request; then it is refused with 503, or judged by the known addresses |
//! | [`WAITING_MAX`], beside their CANCELs | the requests for one registration |
//! | [`LOOKUPS_MAX`], [`BYTES_MAX`] | the registrations and the bytes of a shard |
//! | [`OF_DNS_MAX`], [`OF_SERVER_MAX`] | the registrations that wait for DNS, in all and for one SIP server: a slow DNS leaves room for lookups in the store |
//!
//! Invariant: a registration is reported as unknown only when the store has said so, because a registrar then drops its Contact. A peer is told that it is not
//! the SIP server of a registration only when DNS has had [`PART_WAIT`] to name all addresses of that server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use sip::endpoint::{Input, KnownElsewhere, Missing, Side, Source};
use sip::id::{BindingId, FlowId, InstanceId, UpstreamId};
use sip::message::{Message, Method};
use tokio::time::{MissedTickBehavior, interval_at, sleep};

use super::Shard;
use super::awaiting_claim::RETRY_AFTER_S;
use super::elsewhere::known_elsewhere;
use super::waiting::{Cancelled, bytes_of, ends_one, is_first_cancel, is_same, say_waiting};
use crate::agent::request::KnownPushBinding;
use crate::agent::transport::trusted::Believed;
use crate::agent::{ShardInput, Shared};
use crate::clock;
use crate::metrics::labels::StoreOperation;
use crate::vault::{Fence, SealError, StoreError, Stored};

/// Registrations that one shard may look up at once; a request for a further one is refused with 503.
const LOOKUPS_MAX: usize = 256;
/// The part of them that may wait for DNS.
const OF_DNS_MAX: usize = LOOKUPS_MAX / 2;
/// The part of them that may wait for the addresses of one SIP server.
const OF_SERVER_MAX: usize = LOOKUPS_MAX / 8;
/// Requests that may wait for one of them; likewise.
const WAITING_MAX: usize = 32;
/// The bytes of all waiting requests; likewise.
const BYTES_MAX: usize = 16 << 20;
/// How long a request waits for a store, or a DNS, that does not answer.
const WAIT: Duration = Duration::from_secs(10);
/// How long a request waits for DNS once that has named some addresses of the SIP server.
const PART_WAIT: Duration = Duration::from_secs(4);
/// The pause before the store and DNS are asked again.
const AGAIN: Duration = Duration::from_millis(250);
/// The interval at which requests that wait for an answer are examined. It is also the time after which an INVITE gets its 100 (RFC 3261 §17.2.1).
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The registration or account that a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LookupSubject {
    /// A push binding, by our Path.
    Path(InstanceId),
    /// A lent account, by its Contact.
    Contact(BindingId),
    /// An account that another node may own, by a dialog that its device continues here.
    Dialog(InstanceId),
}

/// Requests that wait for an answer of the store, or of DNS, about the registration that they name.
#[derive(Default)]
pub(crate) struct PathLookups {
    all: BTreeMap<LookupSubject, PathLookup>,
    bytes: usize,
}

struct PathLookup {
    waiting: Vec<Waiting>,
    /// The SIP server, if only its addresses are missing.
    server: Option<UpstreamId>,
    /// Whether the store, or DNS, has not answered at once.
    is_slow: bool,
    /// Whether the registration has ended, or was released, since the store was asked: its answer may be older.
    is_stale: bool,
}

/// A request that waits.
struct Waiting {
    at: Instant,
    request: Input,
    /// Whether its sender has got a 100.
    has_heard: bool,
}

/// The outcome of a look-up for requests that name a registration.
pub(crate) enum LookedUp {
    /// The store has the registration. Holds the trusted sources of its SIP server, as far as they are known.
    Known(Box<KnownPushBinding>, Believed),
    /// The store has an account by this name, which another node owns. Holds the same.
    Elsewhere(Box<KnownElsewhere>, Believed),
    /// The registration was here. Holds the trusted sources of its SIP server.
    Served(UpstreamId, Believed),
    /// Likewise, and the source in question may be the SIP server as well.
    Undecided(UpstreamId, Believed),
    /// There is no answer yet.
    Pending,
    /// The store has none.
    Unknown,
    /// The store, or DNS, cannot answer.
    Away,
    /// The store has a registration that does not open here, or that is on its way here.
    Unready,
}

impl PathLookups {
    fn has_room(&self, id: LookupSubject, missing: Missing, request: &Input) -> bool {
        let has_place = match self.all.get(&id) {
            Some(PathLookup { waiting, .. }) => {
                waiting.len() < WAITING_MAX || is_first_cancel(request, waiting.iter().map(|other| &other.request))
            }
            None => self.all.len() < LOOKUPS_MAX && self.has_share(server_of(missing)),
        };
        has_place && self.bytes + bytes_of(request) <= BYTES_MAX
    }

    /// Whether one more request may wait for the addresses of this SIP server.
    fn has_share(&self, server: Option<UpstreamId>) -> bool {
        let Some(server) = server else { return true };
        let servers = self.all.values().filter_map(|lookup| lookup.server);
        let (all, its) = servers.fold((0, 0), |(all, its), other| (all + 1, its + usize::from(other == server)));
        all < OF_DNS_MAX && its < OF_SERVER_MAX
    }

    fn add(&mut self, id: LookupSubject, missing: Missing, waiting: Waiting) {
        self.bytes += bytes_of(&waiting.request);
        let server = server_of(missing);
        let fresh = || PathLookup { waiting: Vec::new(), server, is_slow: false, is_stale: false };
        self.all.entry(id).or_insert_with(fresh).waiting.push(waiting);
    }

    /// Takes the requests that wait for a registration.
    fn take(&mut self, id: LookupSubject) -> Vec<Waiting> {
        let taken = self.all.remove(&id).map(|lookup| lookup.waiting).unwrap_or_default();
        self.bytes -= taken.iter().map(|it| bytes_of(&it.request)).sum::<usize>();
        taken
    }

    /// Takes all waiting requests.
    pub(super) fn take_all(&mut self) -> Vec<Input> {
        std::mem::take(self).all.into_values().flat_map(|lookup| lookup.waiting).map(|it| it.request).collect()
    }

    /// Takes the requests that have waited for so long. The others wait on for the answer.
    fn take_old(&mut self, id: LookupSubject, now: Instant, wait: Duration) -> Vec<Waiting> {
        let Some(lookup) = self.all.get_mut(&id) else { return Vec::new() };
        let is_old = |it: &mut Waiting| now.saturating_duration_since(it.at) >= wait;
        let old: Vec<_> = lookup.waiting.extract_if(.., is_old).collect();
        self.bytes -= old.iter().map(|it| bytes_of(&it.request)).sum::<usize>();
        old
    }

    /// A registration has ended, or another node owns it: a question under way about it is asked again.
    pub(super) fn doubt(&mut self, id: InstanceId) {
        if let Some(lookup) = self.all.get_mut(&LookupSubject::Path(id)) {
            lookup.is_stale = true;
        }
    }

    /// A device's connection has ended: nobody waits for the answers to its requests.
    pub(super) fn forget_flow(&mut self, ended: FlowId) {
        for lookup in
            self.all.iter_mut().filter(|(id, _)| matches!(id, LookupSubject::Dialog(_))).map(|(_, lookup)| lookup)
        {
            let is_by =
                |it: &mut Waiting| matches!(&it.request, Input::Received { source, .. } if source.flow == ended);
            let gone = lookup.waiting.extract_if(.., is_by);
            self.bytes -= gone.map(|it| bytes_of(&it.request)).sum::<usize>();
        }
    }

    fn is_stale(&self, id: LookupSubject) -> bool {
        self.all.get(&id).is_some_and(|lookup| lookup.is_stale)
    }

    /// Whether a request is the CANCEL of a call that waits.
    fn ends_one(&self, id: LookupSubject, request: &Input) -> bool {
        self.all.get(&id).is_some_and(|lookup| ends_one(request, lookup.waiting.iter().map(|other| &other.request)))
    }

    /// Whether the same request waits.
    fn has(&self, id: LookupSubject, request: &Input) -> bool {
        let waits = |lookup: &PathLookup| lookup.waiting.iter().any(|other| is_same(request, &other.request));
        self.all.get(&id).is_some_and(waits)
    }
}

impl Shard {
    /// Keeps a request waiting if it names, by our Path, a registration that another node or an earlier run may know (the store is asked), or if it comes
    /// from an address that may be the SIP server's (DNS is asked). Gives back a request that needs no question.
    pub(crate) fn look_up_path(&mut self, at: Instant, input: Input) -> Option<Input> {
        let Input::Received { source, message } = &input else { return Some(input) };
        let Some((id, missing)) = self.missing(source, message) else { return Some(input) };
        if self.refuses_calls && message.method() == Some(Method::Invite) {
            self.endpoint.refuse_at_end(source, message);
            self.drain(at);
            return None;
        }
        let under_way = self.path_lookups.all.get(&id).map(|lookup| lookup.is_slow);
        // A retransmission, before the 100 came: the request has its place.
        let has_place = self.path_lookups.has(id, &input);
        if !has_place && !self.path_lookups.has_room(id, missing, &input) {
            if self.can_judge(missing) {
                return Some(input);
            }
            self.refuse_for_now(at, &input, None);
            return None;
        }
        // Only a request that has its place is answered: after its 200 a CANCEL does not come again.
        let has_heard = under_way == Some(true) || has_place;
        if has_heard {
            let ends_one = self.path_lookups.ends_one(id, &input);
            say_waiting(&mut self.endpoint, &input, ends_one);
            self.drain(at);
        }
        if has_place {
            return None;
        }
        let source = source.peer.ip().to_canonical();
        self.path_lookups.add(id, missing, Waiting { at, request: input, has_heard });
        if under_way.is_none() {
            self.begin_look_up(id, missing, source, Duration::ZERO);
        }
        None
    }

    /// The registration that a request names, and the fact that is missing to handle it.
    fn missing(&self, source: &Source, message: &Message) -> Option<(LookupSubject, Missing)> {
        if source.side == Side::Device {
            let id = self.endpoint.missing_by_device(clock::now(), source, message)?;
            return Some((LookupSubject::Dialog(id), Missing::Binding));
        }
        if let Some((id, missing)) = self.endpoint.missing_by_path(clock::now(), source, message) {
            return Some((LookupSubject::Path(id), missing));
        }
        let (binding, upstream) = self.endpoint.unserved(source, message)?;
        Some((LookupSubject::Contact(binding), Missing::Addresses(upstream)))
    }

    fn begin_look_up(&self, id: LookupSubject, missing: Missing, source: IpAddr, pause: Duration) {
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let mut asked = pin!(async {
                match (missing, id) {
                    (Missing::Binding, LookupSubject::Path(id)) => look_up(&shared, id).await,
                    (Missing::Binding, LookupSubject::Contact(_)) => LookedUp::Unknown,
                    (Missing::Binding, LookupSubject::Dialog(id)) => look_up_account(&shared, id).await,
                    (Missing::Addresses(upstream), _) => match shared.dialler.addresses(upstream, source).await {
                        believed if believed.judges(source) => LookedUp::Served(upstream, believed),
                        believed => LookedUp::Undecided(upstream, believed),
                    },
                }
            });
            let mut looks = interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let found = tokio::select! {
                    biased;
                    found = &mut asked => found,
                    _ = looks.tick() => LookedUp::Pending,
                };
                let is_pending = matches!(found, LookedUp::Pending);
                shared.shards.send(shard, ShardInput::PathLookedUp(Box::new((id, found)))).await;
                if !is_pending {
                    return;
                }
            }
        });
    }

    /// Handles the outcome of a look-up that requests by our Path wait for.
    pub(crate) fn on_path_looked_up(&mut self, id: LookupSubject, found: LookedUp) {
        let served = match found {
            LookedUp::Known(new, _) if self.path_lookups.is_stale(id) => {
                self.shared.upstreams.release(new.upstream);
                return self.wait_for_answer(id);
            }
            LookedUp::Known(new, believed) => {
                let upstream = new.upstream;
                self.adopt(*new);
                Some((upstream, believed))
            }
            LookedUp::Elsewhere(known, believed) => {
                let upstream = known.upstream;
                self.next.push_back(Input::KnownElsewhere(known));
                Some((upstream, believed))
            }
            LookedUp::Served(upstream, believed) => Some((upstream, believed)),
            LookedUp::Undecided(upstream, believed) => {
                self.believe(upstream, believed);
                return self.wait_for_answer(id);
            }
            LookedUp::Unknown => None,
            LookedUp::Pending => return self.look_at_waiting(id),
            LookedUp::Away => return self.wait_for_answer(id),
            LookedUp::Unready => {
                for Waiting { at, request, .. } in self.path_lookups.take(id) {
                    self.refuse_for_now(at, &request, None);
                }
                return;
            }
        };
        // The addresses of an adopted registration may still be missing: that is one more lookup.
        let is_known = served.is_some();
        match served {
            Some((upstream, believed)) => self.believe(upstream, believed),
            None => self.settle(clock::now()),
        }
        let waiting = self.path_lookups.take(id);
        let cancelled = Cancelled::among(waiting.iter().map(|it| &it.request));
        for Waiting { at, request, .. } in waiting {
            let may_miss_more = match id {
                LookupSubject::Path(id) => is_known && self.push_bindings.knows(id),
                LookupSubject::Contact(_) => is_known,
                LookupSubject::Dialog(_) => false,
            };
            let input = if may_miss_more { self.look_up_path(at, request) } else { Some(request) };
            if let Some(input) = input {
                self.hand_in(at, input, &cancelled);
            }
        }
    }

    /// Believes requests of a SIP server from these addresses.
    fn believe(&mut self, upstream: UpstreamId, believed: Believed) {
        let Believed { addresses, is_whole } = believed;
        if !addresses.is_empty() {
            self.next.push_back(Input::Addresses { upstream, addresses, is_whole });
        }
        self.settle(clock::now());
    }

    /// The store, or DNS, is slow: each INVITE gets its 100, and requests that have waited long enough are refused.
    fn look_at_waiting(&mut self, id: LookupSubject) {
        let now = clock::now();
        let server = self.path_lookups.all.get(&id).and_then(|lookup| lookup.server);
        let wait = server.map_or(WAIT, |server| self.wait_for(Missing::Addresses(server)));
        let old = self.path_lookups.take_old(id, now, wait);
        let cancelled = Cancelled::among(old.iter().map(|it| &it.request));
        for Waiting { at, request, .. } in old {
            self.judge_or_refuse(at, request, &cancelled);
        }
        let Some(lookup) = self.path_lookups.all.get_mut(&id) else { return };
        lookup.is_slow = true;
        for (waiting, ends_one) in lookup.waiting.iter().zip(ends_others(&lookup.waiting)) {
            if !waiting.has_heard {
                say_waiting(&mut self.endpoint, &waiting.request, ends_one);
            }
        }
        lookup.waiting.iter_mut().for_each(|waiting| waiting.has_heard = true);
        self.drain(now);
    }

    /// The store, or DNS, cannot answer: requests that have waited long enough are refused, the others wait on.
    fn wait_for_answer(&mut self, id: LookupSubject) {
        let now = clock::now();
        let mut again = None;
        let waiting = self.path_lookups.take(id);
        let cancelled = Cancelled::among(waiting.iter().map(|it| &it.request));
        let ends_others = ends_others(&waiting);
        for (Waiting { at, request, has_heard }, ends_one) in waiting.into_iter().zip(ends_others) {
            let Input::Received { source, message } = &request else { continue };
            let Some((_, missing)) = self.missing(source, message) else {
                // The registration has arrived meanwhile.
                self.hand_in(at, request, &cancelled);
                continue;
            };
            if now.saturating_duration_since(at) >= self.wait_for(missing) {
                self.judge_or_refuse(at, request, &cancelled);
                continue;
            }
            if !has_heard {
                say_waiting(&mut self.endpoint, &request, ends_one);
                self.drain(at);
            }
            again.get_or_insert((missing, source.peer.ip().to_canonical()));
            if !self.path_lookups.has(id, &request) {
                self.path_lookups.add(id, missing, Waiting { at, request, has_heard: true });
            }
        }
        if let (Some((missing, source)), Some(lookup)) = (again, self.path_lookups.all.get_mut(&id)) {
            lookup.is_slow = true;
            self.begin_look_up(id, missing, source, AGAIN);
        }
    }

    /// Whether the addresses that DNS has named so far decide about the source of a request.
    fn can_judge(&self, missing: Missing) -> bool {
        server_of(missing).is_some_and(|server| self.endpoint.is_served(server))
    }

    fn wait_for(&self, missing: Missing) -> Duration {
        if self.can_judge(missing) { PART_WAIT } else { WAIT }
    }

    /// Handles a request that has waited long enough by the known addresses, or refuses it.
    fn judge_or_refuse(&mut self, at: Instant, request: Input, cancelled: &Cancelled) {
        let Input::Received { source, message } = &request else { return };
        match self.missing(source, message) {
            Some((_, missing)) if !self.can_judge(missing) => self.refuse_for_now(at, &request, Some(RETRY_AFTER_S)),
            _ => self.hand_in(at, request, cancelled),
        }
    }

    /// Refuses a request whose registration cannot be looked up now: its sender may try again, or at another node.
    fn refuse_for_now(&mut self, at: Instant, input: &Input, retry_after_s: Option<u32>) {
        if let Input::Received { source, message } = input {
            self.endpoint.refuse_unclaimed(source, message, retry_after_s);
            self.drain(at);
        }
    }
}

/// For each of these requests whether it is the CANCEL of one of them.
fn ends_others(waiting: &[Waiting]) -> Vec<bool> {
    let requests = || waiting.iter().map(|it| &it.request);
    requests().map(|request| ends_one(request, requests())).collect()
}

/// The SIP server, if only its addresses are missing.
fn server_of(missing: Missing) -> Option<UpstreamId> {
    match missing {
        Missing::Binding => None,
        Missing::Addresses(server) => Some(server),
    }
}

/// Looks up a registration of another node, or of an earlier run, in the store. It does not wait for DNS: that is another lookup, in the share of the SIP
/// server.
async fn look_up(shared: &Shared, id: InstanceId) -> LookedUp {
    let stored = match load(shared, id).await {
        Ok(stored) => stored,
        Err(found) => return found,
    };
    if let Some(known) = account_elsewhere(shared, &stored).ok().flatten() {
        let believed = told_of(shared, known.upstream);
        return LookedUp::Elsewhere(Box::new(known), believed);
    }
    // Another owner's fence is of no use: the next refresh makes the record this node's.
    let fence = if stored.owned { stored.fence } else { Fence::NEW };
    let sealed = stored.sealed;
    let new = shared.vault.open_record(id, &sealed, |record| {
        KnownPushBinding::of(id, sealed.clone(), fence, record.push_binding()?, &shared.upstreams)
    });
    match new {
        Ok(Some(new)) => {
            let believed = told_of(shared, new.upstream);
            LookedUp::Known(Box::new(new), believed)
        }
        // The registration is over, or leads nowhere.
        Ok(None) => LookedUp::Unknown,
        Err(_) => LookedUp::Unready,
    }
}

/// Looks up whether another node owns a lent account. Nothing else helps a device that continues a call here.
async fn look_up_account(shared: &Shared, id: InstanceId) -> LookedUp {
    let stored = match load(shared, id).await {
        Ok(stored) => stored,
        Err(found) => return found,
    };
    if stored.owned && shared.vault.tombstones().bars(id, Some(stored.fence)).is_none() {
        // This node owns it: it may be here in a moment.
        return LookedUp::Unready;
    }
    match account_elsewhere(shared, &stored) {
        Ok(Some(known)) => {
            let believed = told_of(shared, known.upstream);
            LookedUp::Elsewhere(Box::new(known), believed)
        }
        Ok(None) => LookedUp::Unknown,
        Err(_) => LookedUp::Unready,
    }
}

/// The record in the store. An error: there is none, or no answer.
async fn load(shared: &Shared, id: InstanceId) -> Result<Stored, LookedUp> {
    let began = clock::now();
    let stored = match shared.vault.load(id).await {
        Ok(Some(stored)) => stored,
        // A malformed record counts as none.
        Ok(None) | Err(StoreError::Malformed) => return Err(LookedUp::Unknown),
        Err(_) => {
            shared.metrics.store_error(StoreOperation::Load);
            return Err(LookedUp::Away);
        }
    };
    shared.metrics.store_answered(began.elapsed());
    Ok(stored)
}

/// A lent account of another node. An error: its record does not open here.
fn account_elsewhere(shared: &Shared, stored: &Stored) -> Result<Option<KnownElsewhere>, SealError> {
    if stored.owned || shared.vault.tombstones().bars(stored.id, Some(stored.fence)).is_some() {
        return Ok(None);
    }
    known_elsewhere(shared, stored, |_| true)
}

/// The trusted sources of a SIP server, if DNS has named them.
fn told_of(shared: &Shared, upstream: UpstreamId) -> Believed {
    let (believed, is_told) = shared.upstreams.believed(upstream);
    if is_told { believed } else { Believed::default() }
}

#[cfg(test)]
mod tests {
    use sip::endpoint::{Source, Transport};
    use sip::id::ShardTag;
    use sip::message::Limits;

    use super::*;

    #[test]
    fn what_waits_for_the_store_is_bounded_in_number_and_in_bytes() {
        let request = |number: usize, bytes: usize| {
            let text = format!("INVITE sip:a@h SIP/2.0\r\nCall-ID: {number}\r\n\r\n{}", "x".repeat(bytes));
            let peer = "192.0.2.1:5060".parse().unwrap();
            let source =
                Source { flow: FlowId::Stream(1), side: Side::Upstream, transport: Transport::Tls, peer, split: false };
            Input::Received { source, message: Message::parse(&text.into(), &Limits::COMPOSED).unwrap() }
        };
        let id = |number: usize| LookupSubject::Path(InstanceId::new((number as u128 + 1) << 16, ShardTag(0)));
        let kept = |of: usize, same: bool, bytes: usize| {
            let mut lookups = PathLookups::default();
            for number in 0..of {
                let (id, request) = (id(if same { 0 } else { number }), request(number, bytes));
                if lookups.has_room(id, Missing::Binding, &request) {
                    lookups.add(id, Missing::Binding, Waiting { at: Instant::now(), request, has_heard: false });
                }
            }
            let count = lookups.all.values().map(|lookup| lookup.waiting.len()).sum::<usize>();
            assert!(lookups.bytes <= BYTES_MAX);
            (0..of).for_each(|number| drop(lookups.take(id(number))));
            assert_eq!((lookups.all.len(), lookups.bytes), (0, 0));
            count
        };
        assert_eq!((kept(1_000, true, 10), kept(1_000, false, 10)), (WAITING_MAX, LOOKUPS_MAX));
        assert!(kept(LOOKUPS_MAX, false, 100_000) < LOOKUPS_MAX);
        // Waits for DNS leave room for waits for the store, and those of one SIP server for those of others.
        let mut lookups = PathLookups::default();
        let mut kept = |numbers: std::ops::Range<usize>, missing: Missing| {
            let fits = |number: &usize| {
                let (id, request) = (id(*number), request(*number, 10));
                let has_room = lookups.has_room(id, missing, &request);
                if has_room {
                    lookups.add(id, missing, Waiting { at: Instant::now(), request, has_heard: false });
                }
                has_room
            };
            numbers.filter(fits).count()
        };
        assert_eq!(kept(0..1_000, Missing::Addresses(UpstreamId(1))), OF_SERVER_MAX);
        assert_eq!(kept(1_000..1_001, Missing::Addresses(UpstreamId(2))), 1);
        assert_eq!(
            (2..20)
                .map(|number| kept(number * 1_000..(number + 1) * 1_000, Missing::Addresses(UpstreamId(number as _))))
                .sum::<usize>(),
            OF_DNS_MAX - OF_SERVER_MAX - 1
        );
        assert_eq!(kept(100_000..101_000, Missing::Binding), LOOKUPS_MAX - OF_DNS_MAX);
    }

    #[test]
    fn what_a_device_has_sent_waits_no_longer_than_its_connection_is_open() {
        let mut lookups = PathLookups::default();
        let (device, server) = (
            LookupSubject::Dialog(InstanceId::new(1, ShardTag(0))),
            LookupSubject::Path(InstanceId::new(1, ShardTag(0))),
        );
        for (id, flow) in [(device, 1), (device, 2), (server, 1)] {
            let message = Message::parse(&"BYE sip:a@h SIP/2.0\r\n\r\n".into(), &Limits::COMPOSED).unwrap();
            let peer = "192.0.2.1:5060".parse().unwrap();
            let (flow, side) = (FlowId::Stream(flow), if id == device { Side::Device } else { Side::Upstream });
            let source = Source { flow, side, transport: Transport::Tls, peer, split: false };
            let request = Input::Received { source, message };
            lookups.add(id, Missing::Binding, Waiting { at: Instant::now(), request, has_heard: false });
        }
        lookups.forget_flow(FlowId::Stream(1));
        assert_eq!([device, server].map(|id| lookups.take(id).len()), [1, 1]);
        assert_eq!(lookups.bytes, 0);
    }
}

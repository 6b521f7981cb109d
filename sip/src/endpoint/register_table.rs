//! The REGISTERs under way, and the remaining quotas of the connections that they came by.
//!
//! Invariant: those of one connection, of one source, of one account or to one SIP server are found without examining all others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Source;
use super::pushed::{ForwardedRegisterId, RegisterRoute};
use super::register_turns::Stage;
use super::upstreams::Destination;
use crate::bucket::{Bucket, Rate, counted_as};
use crate::edge::push_proxy::{Reach, RegisterIntent, names_device};
use crate::id::{FlowId, InstanceId, UpstreamId};
use crate::message::Message;
use crate::transaction::ServerId;

/// REGISTERs of one flow that may be under way; a further one is answered 503.
pub const REGISTERS_PER_FLOW: u8 = 8;
/// REGISTERs that one flow may send; a further one is answered 503.
pub const REGISTERS: Rate = Rate { burst: 40, interval: Duration::from_secs(2) };
/// The number of such 503 answers until the flow is closed.
pub const QUOTA_VIOLATIONS_MAX: u8 = 40;
/// REGISTERs under way from one source (an IPv4 address or an IPv6 /64): a source whose REGISTERs go to a silent server takes no room from the
/// others.
pub const REGISTERS_PER_SOURCE: u32 = 500;
/// Failures of addresses after which one REGISTER goes on no further; a refusal counts for two.
const FAILED_MAX: usize = 16;

/// One REGISTER.
pub(super) struct ForwardedRegister {
    pub(super) source: Source,
    pub(super) server: ServerId,
    pub(super) request: Box<Message>,
    pub(super) intent: RegisterIntent,
    /// The registration that it asks for, which takes an HMAC to name.
    pub(super) asks_for: Option<(InstanceId, Reach)>,
    /// It shows a secret of a registration that is known here: its push token, or its own connection.
    pub(super) is_familiar: bool,
    pub(super) registrar: Box<str>,
    pub(super) proxy: Option<Box<str>>,
    /// How many of its Routes are ours.
    pub(super) own_routes: usize,
    /// Written by [`ForwardedRegisters::set_route`] alone.
    pub(super) route: Option<RegisterRoute>,
    pub(super) stage: Stage,
    /// When it was sent on.
    pub(super) sent: Option<Sent>,
    /// Until when it may be sent on to another address.
    pub(super) until: Instant,
    /// The refusal of the last address that has answered: it goes to the device if no other address answers.
    pub(super) refused: Option<Box<Message>>,
    /// The addresses that have refused it, twice each, and those whose flow has ended before they answered.
    pub(super) failed_at: Vec<Destination>,
    /// A REGISTER that was sent later, and accepted before it, has registered or removed the same: this one registers nothing any more.
    pub(super) is_overtaken: bool,
}

/// When a REGISTER was sent on. SIP servers answer in any order, and what stands is what was asked last (RFC 3261 §10.3 step 7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Its number among all that were sent on, from 1.
    pub(super) order: u64,
    pub(super) at: Instant,
    /// The flow that it went by, and where that led.
    pub(super) by: FlowId,
    pub(super) place: Destination,
}

impl ForwardedRegister {
    /// Its number among those that were sent on.
    pub(super) fn order(&self) -> u64 {
        self.sent.map_or(0, |sent| sent.order)
    }

    /// Whether it may go on to another address than those that have failed it.
    pub(super) fn may_go_on(&self, now: Instant) -> bool {
        now < self.until && self.failed_at.len() < FAILED_MAX
    }

    /// Whether its flow has ended, and no address has refused it.
    pub(super) fn has_lost_its_flow(&self) -> bool {
        self.refused.is_none() && !self.failed_at.is_empty()
    }

    /// Whether it was sent more than once: its proof may be for another address than the one that has it now.
    pub(super) fn was_sent_again(&self) -> bool {
        self.refused.is_some() || !self.failed_at.is_empty()
    }

    /// Whether it may be sent to an address: to none that has refused it, and once more where its flow has ended.
    pub(super) fn may_be_asked_at(&self, place: Destination) -> bool {
        self.failed_at.iter().filter(|it| **it == place).count() < 2
    }

    /// Whether one with the same Contact may be of the same device: two behind a NAT each may have the same address, but not the same pushes.
    fn may_be_device_of(&self, other: &Self) -> bool {
        let are_two = match (self.asks_for, other.asks_for) {
            (Some((one, Reach::Pushed)), Some((two, Reach::Pushed))) => one != two,
            _ => false,
        };
        !are_two || self.source.flow == other.source.flow || names_device(&self.intent.contact)
    }

    fn account(&self) -> Account {
        (self.intent.server.clone(), self.intent.aor.clone())
    }

    /// The registration that it asks for and may have, and how that is reached.
    pub(super) fn registration(&self) -> Option<(InstanceId, Reach)> {
        let by_flow = self.route.as_ref().is_some_and(|route| route.by_flow);
        self.asks_for.filter(|(_, reach)| *reach == Reach::Pushed || by_flow)
    }

    /// The destination, once it is known.
    pub(super) fn upstream(&self) -> Option<UpstreamId> {
        self.route.as_ref().map(|route| route.upstream)
    }
}

/// The REGISTERs that are under way.
#[derive(Default)]
pub(super) struct ForwardedRegisters {
    rows: BTreeMap<ForwardedRegisterId, ForwardedRegister>,
    next: u64,
    quotas: HashMap<FlowId, FlowQuota>,
    by_flow: Index<FlowId>,
    by_source: Index<IpAddr>,
    by_upstream: Index<UpstreamId>,
    by_account: Index<Account>,
    /// How many were sent on.
    sent: u64,
}

/// A SIP server and an AOR.
type Account = (Box<str>, Box<str>);

impl fmt::Debug for ForwardedRegisters {
    /// Shows nothing of who registers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardedRegisters").field("under_way", &self.len()).finish_non_exhaustive()
    }
}

impl ForwardedRegisters {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn ids(&self) -> Vec<ForwardedRegisterId> {
        self.rows.keys().copied().collect()
    }

    pub(super) fn get(&self, id: ForwardedRegisterId) -> Option<&ForwardedRegister> {
        self.rows.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ForwardedRegisterId) -> Option<&mut ForwardedRegister> {
        self.rows.get_mut(&id)
    }

    /// Whether a REGISTER is under way.
    pub(super) fn knows(&self, register: ForwardedRegisterId) -> bool {
        self.rows.contains_key(&register)
    }

    /// The name of the next one.
    pub(super) fn next_id(&mut self) -> ForwardedRegisterId {
        self.next += 1;
        ForwardedRegisterId(self.next - 1)
    }

    /// A REGISTER is under way.
    pub(super) fn add(&mut self, id: ForwardedRegisterId, register: ForwardedRegister) {
        self.by_flow.add(register.source.flow, id);
        self.by_source.add(counted_as(register.source.peer.ip()), id);
        self.by_account.add(register.account(), id);
        self.rows.insert(id, register);
    }

    /// The route of a REGISTER is known.
    pub(super) fn set_route(&mut self, id: ForwardedRegisterId, route: RegisterRoute) {
        let Some(register) = self.rows.get_mut(&id) else { return };
        if let Some(earlier) = register.upstream() {
            self.by_upstream.remove(&earlier, id);
        }
        self.by_upstream.add(route.upstream, id);
        register.route = Some(route);
    }

    /// A REGISTER is sent on.
    pub(super) fn note_sent(&mut self, now: Instant, id: ForwardedRegisterId, (by, place): (FlowId, Destination)) {
        self.sent += 1;
        if let Some(register) = self.rows.get_mut(&id) {
            register.sent = Some(Sent { order: self.sent, at: now, by, place });
        }
    }

    /// A REGISTER was accepted: those of its account that were sent before it, and are about the same, are overtaken.
    pub(super) fn overtake(&mut self, later: &ForwardedRegister, is_same: impl Fn(&ForwardedRegister) -> bool) {
        for id in self.by_account.of(later.account()) {
            let is_earlier = |it: &&mut ForwardedRegister| !it.is_overtaken && (1..later.order()).contains(&it.order());
            if let Some(earlier) = self.rows.get_mut(&id).filter(is_earlier).filter(|it| is_same(it)) {
                earlier.is_overtaken = true;
            }
        }
    }

    /// Whether another REGISTER of the same device, or of all of its account, has come after this one and was sent or accepted. Sent again behind that one,
    /// this one would undo it: where the registration is gone, its registrar compares no CSeq (RFC 3261 §10.3 step 7).
    pub(super) fn is_superseded(&self, id: ForwardedRegisterId) -> bool {
        let Some(register) = self.rows.get(&id) else { return false };
        let is_of_it = |it: &ForwardedRegister| {
            it.intent.contact.is_empty()
                || it.intent.contact == register.intent.contact && it.may_be_device_of(register)
        };
        let later = self.by_account.of(register.account()).filter(|other| *other > id);
        let mut sent = later.filter_map(|other| self.rows.get(&other)).filter(|it| it.sent.is_some());
        register.is_overtaken || sent.any(|it| !it.intent.is_question && is_of_it(it))
    }

    /// Whether one that would be sent again is superseded: its device may send another one while it waits.
    pub(super) fn is_superseded_before_again(&self, id: ForwardedRegisterId) -> bool {
        self.get(id).is_some_and(ForwardedRegister::was_sent_again) && self.is_superseded(id)
    }

    /// A REGISTER has ended.
    pub(super) fn take(&mut self, id: ForwardedRegisterId) -> Option<ForwardedRegister> {
        let register = self.rows.remove(&id)?;
        self.by_flow.remove(&register.source.flow, id);
        self.by_source.remove(&counted_as(register.source.peer.ip()), id);
        self.by_account.remove(&register.account(), id);
        if let Some(upstream) = register.upstream() {
            self.by_upstream.remove(&upstream, id);
        }
        Some(register)
    }

    /// The REGISTERs that came by a flow, the earliest first.
    pub(super) fn of_flow(&self, flow: FlowId) -> impl Iterator<Item = (ForwardedRegisterId, &ForwardedRegister)> {
        self.by_flow.of(flow).filter_map(|id| Some((id, self.rows.get(&id)?)))
    }

    /// The REGISTERs of a source (an IPv4 address or an IPv6 /64), the earliest first.
    pub(super) fn of_source(&self, source: IpAddr) -> impl Iterator<Item = (ForwardedRegisterId, &ForwardedRegister)> {
        self.by_source.of(counted_as(source)).filter_map(|id| Some((id, self.rows.get(&id)?)))
    }

    /// The REGISTERs that go to a SIP server, the earliest first.
    pub(super) fn to(&self, upstream: UpstreamId) -> impl Iterator<Item = (ForwardedRegisterId, &ForwardedRegister)> {
        self.by_upstream.of(upstream).filter_map(|id| Some((id, self.rows.get(&id)?)))
    }

    /// How many go to a SIP server.
    pub(super) fn count_to(&self, upstream: UpstreamId) -> usize {
        self.by_upstream.count(&upstream)
    }

    /// How many came by a flow.
    pub(super) fn count_of_flow(&self, flow: FlowId) -> usize {
        self.by_flow.count(&flow)
    }

    /// Whether a source has as many as it may have.
    pub(super) fn is_crowded(&self, source: IpAddr) -> bool {
        self.by_source.count(&counted_as(source)) >= REGISTERS_PER_SOURCE as usize
    }

    /// How many of the account of this one are under way that show a secret of a registration that is known here.
    pub(super) fn familiar_of(&self, intent: &RegisterIntent) -> usize {
        let familiar = |id: &ForwardedRegisterId| self.get(*id).is_some_and(|register| register.is_familiar);
        self.by_account.of((intent.server.clone(), intent.aor.clone())).filter(familiar).count()
    }

    /// Takes one REGISTER from a flow's budget; whether there was one.
    pub(super) fn spend_quota(&mut self, now: Instant, flow: FlowId) -> bool {
        let has_room = self.count_of_flow(flow) < usize::from(REGISTERS_PER_FLOW);
        let fresh = || FlowQuota { budget: Bucket::full(now), violations: 0, failed: Vec::new() };
        let quota = self.quotas.entry(flow).or_insert_with(fresh);
        let granted = quota.budget.take(now, REGISTERS).is_ok() && has_room;
        quota.violations = if granted { quota.violations } else { quota.violations.saturating_add(1) };
        granted
    }

    /// Whether a flow has sent so many without a budget that it is closed.
    pub(super) fn is_unruly(&self, flow: FlowId) -> bool {
        self.quotas.get(&flow).is_some_and(|quota| quota.violations >= QUOTA_VIOLATIONS_MAX)
    }

    /// A failed proof for this AOR at this SIP server is counted against a flow.
    pub(super) fn note_failure(&mut self, flow: FlowId, server: &str, aor: &str) {
        if let Some(quota) = self.quotas.get_mut(&flow) {
            quota.failed.push((server.into(), aor.into()));
        }
    }

    /// A proof for this AOR was right there: how many failures are forgiven, for they were an old nonce's that was not called stale.
    pub(super) fn forgive(&mut self, flow: FlowId, server: &str, aor: &str) -> u8 {
        let Some(quota) = self.quotas.get_mut(&flow) else { return 0 };
        let before = quota.failed.len();
        quota.failed.retain(|(at, of)| **at != *server || **of != *aor);
        u8::try_from(before - quota.failed.len()).unwrap_or(u8::MAX)
    }

    /// A flow has ended; a REGISTER that was sent on goes on, and its answer reaches nobody.
    pub(super) fn forget_quota(&mut self, flow: FlowId) {
        self.quotas.remove(&flow);
    }
}

/// The quota of one flow that REGISTERs came by.
struct FlowQuota {
    budget: Bucket,
    violations: u8,
    /// The SIP servers and AORs of the failed proofs that were counted against it: at most as many as close a flow.
    failed: Vec<(Box<str>, Box<str>)>,
}

/// The REGISTERs that have something in common.
struct Index<K>(HashMap<K, BTreeSet<ForwardedRegisterId>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Index<K> {
    fn add(&mut self, key: K, id: ForwardedRegisterId) {
        self.0.entry(key).or_default().insert(id);
    }

    fn remove(&mut self, key: &K, id: ForwardedRegisterId) {
        if let Some(ids) = self.0.get_mut(key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn of(&self, key: K) -> impl Iterator<Item = ForwardedRegisterId> {
        self.0.get(&key).into_iter().flatten().copied()
    }

    fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Side, Transport};
    use crate::message::Limits;
    use crate::transaction::{Reply, RequestKey, Table, Timing};

    fn register(flow: u64, address: &str) -> ForwardedRegister {
        let text = "REGISTER sip:h SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:a@h>\r\n\
                    Call-ID: i\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@b>\r\n\r\n";
        let request = Message::parse(&text.into(), &Limits::default()).unwrap();
        let (flow, peer) = (FlowId::Stream(flow), address.parse().unwrap());
        let source = Source { flow, side: Side::Device, transport: Transport::Tls, peer, split: false };
        let key = RequestKey::of(&request, request.via().as_ref(), source.side);
        let reply = Reply { flow, side: source.side, key: &key };
        let server = Table::<(), ()>::new(1, Timing::default(), false).open(&request, reply, ()).unwrap();
        let intent = crate::edge::push_proxy::read(&request, 0).unwrap();
        ForwardedRegister {
            source,
            server,
            request: Box::new(request),
            intent,
            asks_for: None,
            is_familiar: false,
            registrar: "sip:h".into(),
            proxy: None,
            own_routes: 0,
            route: None,
            stage: Stage::Route,
            sent: None,
            until: Instant::now(),
            refused: None,
            failed_at: Vec::new(),
            is_overtaken: false,
        }
    }

    fn route(upstream: u32) -> RegisterRoute {
        RegisterRoute {
            upstream: UpstreamId(upstream),
            registrar: "sip:h".into(),
            services: Vec::new(),
            by_flow: true,
            kept_first: false,
        }
    }

    #[test]
    fn what_was_overtaken_is_not_looked_at_again() {
        let mut registers = ForwardedRegisters::default();
        let all = [0; 20].map(|_| registers.next_id());
        for id in all {
            registers.add(id, register(1, "192.0.2.1:9"));
            registers.note_sent(Instant::now(), id, (FlowId::Stream(9), Destination::Unknown(FlowId::Stream(9))));
        }
        let looked = std::cell::Cell::new(0);
        for id in all.into_iter().rev() {
            let later = registers.take(id).unwrap();
            assert_eq!(later.is_overtaken, id != all[19]);
            registers.overtake(&later, |_| {
                looked.set(looked.get() + 1);
                true
            });
        }
        assert_eq!(looked.get(), 19);
    }

    #[test]
    fn those_of_one_flow_source_and_server_are_found_among_their_own_and_leave_nothing() {
        let mut registers = ForwardedRegisters::default();
        let mut all = Vec::new();
        for number in 0..60 {
            let id = registers.next_id();
            registers.add(id, register(number % 20, &format!("192.0.2.{}:9", number % 10)));
            registers.set_route(id, route(9_000));
            registers.set_route(id, route(number as u32 % 5));
            all.push(id);
        }
        let of_flow: Vec<_> = registers.of_flow(FlowId::Stream(7)).map(|(id, _)| id.0).collect();
        let of_source: Vec<_> = registers.of_source("192.0.2.7".parse().unwrap()).map(|(id, _)| id.0).collect();
        let to: Vec<_> = registers.to(UpstreamId(2)).map(|(id, _)| id.0).collect();
        assert_eq!(of_flow, [7, 27, 47]);
        assert_eq!(of_source, [7, 17, 27, 37, 47, 57]);
        assert_eq!(to, (0..60).filter(|number| number % 5 == 2).collect::<Vec<_>>());
        assert_eq!((registers.to(UpstreamId(9_000)).count(), registers.count_of_flow(FlowId::Stream(7))), (0, 3));
        for id in all {
            assert!(registers.take(id).is_some() && registers.take(id).is_none());
        }
        let left = (registers.by_flow.0.len(), registers.by_source.0.len(), registers.by_upstream.0.len());
        assert_eq!((registers.len(), left, registers.by_account.0.len()), (0, (0, 0, 0), 0));
    }
}

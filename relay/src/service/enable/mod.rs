//! Enabling: prove the credentials, seal, store; or keep nothing.
//!
//! ```text
//! domain, transport, address ─ earlier one? ─ seal ─ register ─┬─ refused ── 422, nothing is kept
//!                                    (store away: 503)         ├─ accepted ─ store ─ 201 ─┐
//!                                                              └─ slow ───── store ─ 202 ─┴─ wipe the earlier one, now or later (`succession`)
//! ```
//!
//! A second enabling of the same device does not wait for the first to end: the first one is answered 202 at once, and makes room. Likewise a node that is
//! told to end: what it enables is stored before the other nodes claim what it has.
//!
//! | room | contents |
//! | --- | --- |
//! | [`first_registration`] | the registration that proves the credentials |
//! | [`hang_up`] | an app that hangs up meanwhile has enabled nothing |
//! | [`in_call`] | a device for which another node has a call is enabled there |
//! | [`registered_elsewhere`] | so is one whose account another node has registered for another device |
//! | [`interrupted_replacement`] | a replacement that a crash has interrupted |
//! | [`succession`] | which of two instances of a device stands, and from when |
//!
//! A device joins an account that this relay already serves for another device of the same app: the existing binding registers again, with the new device's
//! credentials.
//!
//! Invariant: the store is known to answer before the account's server is contacted. An instance that cannot be stored is unregistered again, and has a
//! tombstone, because the store may have it all the same. An earlier instance of the same app, AOR and push token ends only when the new one is stored and its
//! app has its answer; an instance that gets calls ends only when the new one gets them. If an instance was enabled later at another node while the SIP server
//! had not answered here, that one stays, and the one begun here is released.

mod first_registration;
pub(super) mod hang_up;
mod in_call;
mod interrupted_replacement;
mod registered_elsewhere;
pub(super) mod succession;

use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sip::endpoint::{EDGE_REALM, NewBinding, SECRET_MARK};
use sip::id::InstanceId;
use sip::message::Uri;
use tokio::sync::oneshot;
use tokio::time::timeout;
use zeroize::Zeroizing;

use self::hang_up::{HangUp, Replaced};
use self::succession::Succession;
use super::Inner;
use super::apps::{Enable, EnableError, Enabled};
use super::nodes::drain_messages::NodeMessage;
use super::status;
use super::views::{EdgeAddress, Registration, RegistrationState};
use crate::agent::request::{EndKind, LeaseExpiry, NewInstance, Principal, Request};
use crate::agent::tables::lease;
use crate::agent::transport::upstreams::{NoRoute, Route};
use crate::agent::{Asked, give_up_password};
use crate::audit::{Act, AuditSubject};
use crate::clock::{self, latest_now};
use crate::domain::{InstanceState, WipeReason};
use crate::limits::InstanceOf;
use crate::limits::guesses::{Attempt, Permit};
use crate::limits::holdings::Holding;
use crate::metrics::labels::{Limit, StoreOperation};
use crate::net::dns::resolve::ResolveError;
use crate::random;
use crate::secret::{InstanceSecret, with_clean_stack};
use crate::vault::record::{Account, Presence, Record};
use crate::vault::{
    AorKey, AwayReason, Fence, Lookup, Placed, RecordToWrite, SealError, Sealed, StoreError, Tombstone, WRITE_LIMIT,
};

/// A new instance that the store does not have yet.
struct Newcomer {
    id: InstanceId,
    sealed: Sealed,
    account: AorKey,
    lookup: Lookup,
    /// In seconds since 1970.
    enabled_at: u64,
    /// In seconds since 1970.
    expires_at: u64,
    /// The device's instance when this enabling began.
    before: Option<InstanceId>,
}

/// The device's earlier instance, if there is one, and what becomes of it.
struct Predecessor {
    instance: Option<InstanceId>,
    succession: Succession,
}

impl Inner {
    pub(super) async fn enable(
        self: Arc<Self>,
        app: Box<str>,
        source: IpAddr,
        request: Enable,
        mut hang_up: HangUp,
    ) -> Result<(Enabled, Replaced), EnableError> {
        if self.is_leaving() {
            return Err(EnableError::Draining);
        }
        let (route, addresses) = self.route(&app, &request.account, source).await?;
        let permit = self.admit_password(&request.account, &route, &addresses, source)?;
        let lookup = self.lookup_of(&app, &request);
        let turn = tokio::select! {
            turn = self.enabling.lock_key(lookup) => turn,
            () = hang_up.happens() => return Err(EnableError::HungUp),
        };
        // This also shows that the store answers, before anything is done that would have to be undone.
        self.dependencies.vault.takes_new().await?;
        let before = self.find_earlier(&lookup).await?;
        let under_way = self.begin_enabling().ok_or(EnableError::Draining)?;
        let place = self.place_instance(&app, &request.account, &route, source, before.is_some())?;
        let (instance, secret) = self.new_instance(app.clone(), source, request, route, place);
        let new = self.newcomer(&instance, lookup, before);
        // The sender is dropped when the enabling ends, whatever its outcome.
        let (_enabling, is_over) = oneshot::channel();
        let (registration, asked) = self.prove(instance, &turn, permit, is_over).await?;
        let earlier = self.decide_succession(&new, &registration).await?;
        let is_vouched = earlier.succession == Succession::Vouched;
        let is_proven = registration.state == RegistrationState::Registered || is_vouched;
        let changed = self.changed_record(&new, is_proven, &asked);
        if hang_up.has_happened() {
            tracing::info!(event = "enabling-given-up", instance = %new.id, "an app hung up before its instance was stored; nothing is kept");
            self.unregister(new.id).await;
            return Err(EnableError::HungUp);
        }
        let placed = self.store(&new, changed.as_ref(), earlier.succession).await?;
        self.hand_to_shard(&new, changed, placed.fence, is_vouched).await?;
        drop(under_way);
        let replaced = self.announce(&new, &earlier, placed.displaced, &hang_up).await;
        tracing::info!(event = "enabled", instance = %new.id, state = registration.state.word(), "enabled");
        self.dependencies.audit.note(Act::Enabled, || AuditSubject {
            instance: Some(new.id),
            account: Some(new.account),
            app: Some(app),
        });
        let (expires_at, edge) = (new.expires_at, self.edge_of(new.id));
        Ok((Enabled { instance: new.id, secret, expires_at, registration, edge }, replaced))
    }

    fn lookup_of(&self, app: &str, request: &Enable) -> Lookup {
        self.dependencies.vault.lookup(app, &request.account.aor, &request.device.call_push.token)
    }

    fn newcomer(&self, new: &NewInstance, lookup: Lookup, before: Option<InstanceId>) -> Newcomer {
        let created_at = self.dependencies.vault.open_lent(new.id, &new.sealed, |record| record.created_at);
        Newcomer {
            id: new.id,
            sealed: new.sealed.clone(),
            account: new.aor,
            lookup,
            enabled_at: created_at.unwrap_or(u64::MAX),
            expires_at: new.lease.expires_at,
            before,
        }
    }

    /// Decides the fate of the device's earlier instance, which another node may have enabled meanwhile.
    async fn decide_succession(
        self: &Arc<Self>,
        new: &Newcomer,
        registration: &Registration,
    ) -> Result<Predecessor, EnableError> {
        let instance = self.find_earlier(&new.lookup).await.unwrap_or(new.before);
        if self.give_way_to_later(new, instance).await.is_some() {
            return Err(EnableError::Overtaken);
        }
        let succession = match instance {
            Some(earlier) => self.succession(new.id, &new.sealed, earlier, registration).await,
            None => Succession::AtOnce,
        };
        Ok(Predecessor { instance, succession })
    }

    /// Gives way to an instance that another node has enabled for the device later, and returns it. The instance that was there when this enabling began is
    /// the earlier one, whatever the clocks say.
    async fn give_way_to_later(self: &Arc<Self>, new: &Newcomer, other: Option<InstanceId>) -> Option<InstanceId> {
        let later = other.filter(|other| Some(*other) != new.before)?;
        if !self.is_later(later, new.enabled_at).await {
            return None;
        }
        tracing::info!(event = "enabling-overtaken", instance = %new.id, later = %later, "a device was enabled later by another node, while the SIP server had not answered here; that one stands");
        self.give_way(new.id, ready(Some(later))).await;
        Some(later)
    }

    /// The record to store, if it differs from the registered one.
    fn changed_record(&self, new: &Newcomer, is_proven: bool, asked: &[Asked]) -> Option<Sealed> {
        if !is_proven {
            Some(self.unproven(new.id, &new.sealed))
        } else if !asked.is_empty() {
            self.without_password(new.id, &new.sealed, asked)
        } else {
            None
        }
    }

    /// Stores the instance, unless a later one has replaced it.
    async fn store(
        self: &Arc<Self>,
        new: &Newcomer,
        changed: Option<&Sealed>,
        succession: Succession,
    ) -> Result<Placed, EnableError> {
        let (sealed, lookup) = (changed.unwrap_or(&new.sealed), &new.lookup);
        let record = RecordToWrite { id: new.id, sealed, expires_at: new.expires_at, lookup, fence: Fence::NEW };
        let placed = match self.put_new(record, succession).await {
            Ok(placed) => placed,
            Err(error) => {
                self.unregister(new.id).await;
                // The store may have taken it, and only its answer was lost.
                self.leave_nothing(new).await;
                return Err(error.into());
            }
        };
        if let Some(later) = self.give_way_to_later(new, placed.displaced).await {
            self.leave_nothing(new).await;
            self.clone().name_later(later, new.id, *lookup);
            return Err(EnableError::Overtaken);
        }
        Ok(placed)
    }

    /// Tells the shard that its instance is stored.
    ///
    /// # Errors
    /// [`EnableError::Ended`] when the instance ended while it was being stored; [`EnableError::Draining`] when this process ends.
    async fn hand_to_shard(
        &self,
        new: &Newcomer,
        changed: Option<Sealed>,
        fence: Fence,
        vouched: bool,
    ) -> Result<(), EnableError> {
        let stored = |reply| Request::Stored { id: new.id, sealed: changed, fence, vouched, reply };
        let error = match self.dependencies.agent.ask(new.id, stored).await {
            Some(true) => return Ok(()),
            Some(false) => EnableError::Ended { reason: self.reason_of_end(new.id) },
            None => EnableError::Draining,
        };
        self.leave_nothing(new).await;
        Err(error)
    }

    /// The reason of an instance's wipe, if it was wiped.
    fn reason_of_end(&self, id: InstanceId) -> Option<WipeReason> {
        self.dependencies.vault.tombstones().look(id).map(|tombstone| tombstone.reason)
    }

    /// Finds the instances that end for the new one, and tells leaving nodes about them.
    async fn announce(
        self: &Arc<Self>,
        new: &Newcomer,
        earlier: &Predecessor,
        displaced: Option<InstanceId>,
        hang_up: &HangUp,
    ) -> Replaced {
        let (id, lookup) = (new.id, new.lookup);
        let kept = earlier.instance.filter(|_| earlier.succession == Succession::WhenProven);
        if let Some(kept) = kept {
            tracing::info!(event = "earlier-kept", instance = %id, earlier = %kept, "a new instance is not proven yet; the earlier one stands until it is");
        }
        let others = self.others_of(id, new.account, lookup).await.into_iter().map(|(other, _)| other);
        let ended = others.chain(earlier.instance).chain(displaced).filter(|other| Some(*other) != kept);
        let replaced = Replaced { earlier: ended.collect(), lookup };
        for earlier in replaced.earlier.iter().copied() {
            // They are told before the app has its answer, because it may come for a call that waits there. After a hang-up the earlier instances stay.
            if !hang_up.has_happened() {
                self.tell_leavers(NodeMessage::Succeeded { earlier, later: id }).await;
            }
        }
        replaced
    }

    /// The app's earlier instance of this device.
    async fn find_earlier(&self, lookup: &Lookup) -> Result<Option<InstanceId>, StoreError> {
        self.timed(StoreOperation::Load, self.dependencies.vault.find(lookup)).await
    }

    /// Whether an instance, of whatever node, was enabled after this moment (seconds since 1970), and has not ended.
    async fn is_later(&self, other: InstanceId, enabled_at: u64) -> bool {
        let vault = &self.dependencies.vault;
        let status = match self.look_as_relay(other).await {
            Ok(status) => Some(status).filter(|status| status.state != InstanceState::Ending),
            Err(_) => vault.load(other).await.ok().flatten().map(status::by_record),
        };
        let stands = status.filter(|status| vault.tombstones().forbids(other, Some(status.fence)).is_none());
        stands.and_then(|status| self.place_of(&status)).is_some_and(|place| place.enabled_at > enabled_at)
    }

    /// Has the store name an instance again that this one had replaced when it was stored.
    fn name_later(self: Arc<Self>, later: InstanceId, id: InstanceId, lookup: Lookup) {
        tokio::spawn(async move { self.name_again(later, id, &lookup).await });
    }

    /// Unregisters an instance that was not enabled after all.
    async fn unregister(&self, id: InstanceId) {
        let end = Request::End { id, who: Principal::Relay, kind: EndKind::NeverOurs, reply: None };
        self.dependencies.agent.tell(id, end).await;
    }

    /// Has the store forget an instance that was not enabled after all, even if this process dies before that: its app is told that nothing was changed, and
    /// could not end it.
    async fn leave_nothing(&self, new: &Newcomer) {
        let (id, lookup) = (new.id, new.lookup);
        let tombstones = self.dependencies.vault.tombstones();
        if tombstones.look(id).is_none() {
            // Nobody can ask for the reason, because the secret was never handed out.
            let tombstone = Tombstone::new(Some(lookup), new.expires_at, WipeReason::Disabled, None);
            // Without room on the disk the tombstone is honoured as long as this run lives.
            let _ = timeout(WRITE_LIMIT, tombstones.raise(id, tombstone)).await;
        }
        self.dependencies.agent.erase(id, lookup);
    }

    /// The address at which a device connects.
    pub(super) fn edge_of(&self, id: InstanceId) -> EdgeAddress {
        let proxy = format!("sip:{};transport=tls", self.dependencies.edge).into();
        let websocket = self.dependencies.websocket.as_ref().map(|host| format!("wss://{host}/").into());
        EdgeAddress { proxy, websocket, username: id, realm: EDGE_REALM }
    }

    /// Permits a password to be tried at its SIP server, unless too many wrong ones were tried.
    fn admit_password(
        &self,
        account: &Account,
        route: &Route,
        addresses: &[SocketAddr],
        source: IpAddr,
    ) -> Result<Permit, EnableError> {
        let (aor, usernames) = (account.aor.expose(), std::slice::from_ref(&account.auth_username));
        let attempt = Attempt { aor, usernames, server: &route.server(), addresses, source, renews: false };
        let permit = self.dependencies.quotas.try_password(&attempt);
        permit.map_err(|wait| EnableError::TooManyFailures { retry_after_s: wait.seconds() })
    }

    /// Takes a place for one more instance. One that replaces an earlier instance always has it.
    fn place_instance(
        &self,
        app: &str,
        account: &Account,
        route: &Route,
        source: IpAddr,
        replaces: bool,
    ) -> Result<Holding, EnableError> {
        let instance = InstanceOf { app, aor: account.aor.expose(), server: &route.server() };
        if replaces {
            return Ok(self.dependencies.quotas.count_instance(&instance));
        }
        self.dependencies.quotas.place_instance(&instance, source).map_err(|limit| match limit {
            Limit::InstancesNode => EnableError::TooMany,
            Limit::InstancesAccount => EnableError::TooManyOfAccount,
            _ => EnableError::TooManyOfAppOrSource,
        })
    }

    /// The place of an instance that was stored.
    pub(super) fn count_instance(&self, record: &Record, route: &Route) -> Holding {
        let (app, aor) = (&*record.app, record.account.aor.expose());
        self.dependencies.quotas.count_instance(&InstanceOf { app, aor, server: &route.server() })
    }

    /// The binding of an instance for the endpoint. `asked_by`: the source that asks for it; `None`: it was stored.
    pub(super) fn binding_of(
        &self,
        id: InstanceId,
        record: &Record,
        route: Route,
        asked_by: Option<IpAddr>,
    ) -> NewBinding {
        let registrar = route.registrar().into();
        let upstreams = self.dependencies.agent.upstreams();
        NewBinding {
            binding: record.binding,
            instance: id,
            aor: record.account.aor.expose().into(),
            registrar,
            upstream: match asked_by {
                Some(source) => upstreams.acquire_for(source, route),
                None if record.proven => upstreams.acquire(route),
                None => upstreams.acquire_kept(route),
            },
            sip_instance: record.sip_instance,
            presence: record.presence,
            proven: record.proven,
            same_as: None,
            taken_from: Vec::new(),
        }
    }

    /// Waits for the store, and counts how it answered.
    pub(super) async fn timed<T>(
        &self,
        operation: StoreOperation,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = clock::now();
        let answer = work.await;
        match &answer {
            Err(StoreError::Away(_)) => self.dependencies.metrics.store_error(operation),
            _ => self.dependencies.metrics.store_answered(began.elapsed()),
        }
        answer
    }

    /// The way to the account's server, once it is known to be allowed, and its addresses. A server that cannot be found *now*
    /// is tried again later: that is no reason to refuse.
    async fn route(
        &self,
        app: &str,
        account: &Account,
        source: IpAddr,
    ) -> Result<(Route, Vec<SocketAddr>), EnableError> {
        let aor = Uri::parse(account.aor.expose()).ok_or(EnableError::UpstreamNotFound)?;
        if !self.dependencies.domains.allow(aor.host) {
            return Err(EnableError::DomainNotAllowed);
        }
        let mut foreign = false;
        for uri in [&account.registrar, &account.outbound_proxy].into_iter().flatten() {
            let uri = Uri::parse(uri).ok_or(EnableError::UpstreamNotFound)?;
            // An inside address is the operator's to list by itself, under upstream.allow_addresses.
            foreign |= !is_inside(uri.host) && !self.dependencies.domains.allow(uri.host);
        }
        let route = Route::of(account)?;
        let names = self.dependencies.resolver.asked_by_app(app, source);
        let found = names.resolve(&route.target(), 0).await;
        match found {
            Err(ResolveError::NotAllowed(_)) => Err(EnableError::AddressNotAllowed),
            _ if foreign => Err(EnableError::DomainNotAllowed),
            Ok(found) => {
                let found = names.sendable(found).map_err(|_| EnableError::NotSendable)?;
                Ok((route, found.addresses()))
            }
            Err(ResolveError::Timeout | ResolveError::Unavailable) => Ok((route, Vec::new())),
            Err(ResolveError::NoUsableTransport) => Err(EnableError::TransportNotAllowed),
            Err(ResolveError::NotAHost | ResolveError::NoSuchDomain) => Err(EnableError::UpstreamNotFound),
        }
    }

    fn new_instance(
        &self,
        app: Box<str>,
        source: IpAddr,
        request: Enable,
        route: Route,
        place: Holding,
    ) -> (NewInstance, InstanceSecret) {
        let now = latest_now();
        // Devices of one account live on one shard.
        let group = self.dependencies.vault.group(&app, &request.account);
        let id = InstanceId::new(u128::from_be_bytes(random::bytes()), group.tag());
        let secret = new_secret();
        let record = Record {
            app,
            account: request.account,
            device: request.device,
            wake_for: request.wake_for,
            secret: secret.clone(),
            binding: group.binding(),
            sip_instance: self.dependencies.vault.sip_instance(group),
            // As it is stored when the SIP server has accepted it.
            proven: true,
            created_at: now,
            expires_at: now + request.lifetime_s,
            presence: Presence::Background,
            reminded: lease::skipped(now + request.lifetime_s, now),
            told_failing: false,
        };
        let (lease, fence) = (LeaseExpiry::of(&record), Fence::NEW);
        let sealed: Sealed = self.dependencies.vault.seal(id, &record);
        let binding = NewBinding { proven: false, ..self.binding_of(id, &record, route, Some(source)) };
        let aor = self.dependencies.vault.aor_key(&record.account.aor);
        (NewInstance { id, sealed, lease, aor, fence, told_failing: false, binding, place }, secret)
    }

    /// The same record with credentials that the SIP server has not accepted yet.
    fn unproven(&self, id: InstanceId, sealed: &Sealed) -> Sealed {
        let unproven = self.dependencies.vault.reseal(id, sealed, |record| {
            record.proven = false;
            Ok::<_, SealError>(())
        });
        unproven.map_or_else(|_| sealed.clone(), |(unproven, ())| unproven)
    }

    /// The same record with HA1s in place of the password, which is never stored then.
    fn without_password(&self, id: InstanceId, sealed: &Sealed, asked: &[Asked]) -> Option<Sealed> {
        let given_up = |record: &mut Record| Ok::<_, SealError>(give_up_password(record, asked));
        let (changed, gave_way) = self.dependencies.vault.reseal(id, sealed, given_up).ok()?;
        gave_way.then_some(changed)
    }
}

impl From<StoreError> for EnableError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(AwayReason::MayPersist) => Self::StoreMayPersist,
            _ => Self::StoreAway,
        }
    }
}

impl From<NoRoute> for EnableError {
    fn from(error: NoRoute) -> Self {
        match error {
            NoRoute::NotSip => Self::UpstreamNotFound,
            NoRoute::UnknownTransport => Self::TransportNotAllowed,
        }
    }
}

/// Whether a host is written as an address that nobody reaches from outside: private, loopback or link-local.
fn is_inside(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V4(ip)) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Err(_) => false,
    }
}

/// 256 random bits in base64url behind [`SECRET_MARK`]: what a device proves itself with.
fn new_secret() -> InstanceSecret {
    with_clean_stack(|| {
        let bytes = Zeroizing::new(random::bytes::<32>());
        // Its room is asked for once: a buffer that is moved leaves a copy behind.
        let mut text = Zeroizing::new(String::with_capacity(SECRET_MARK.len() + bytes.len() * 4 / 3 + 1));
        text.push_str(SECRET_MARK);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        InstanceSecret::new(&text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_how_it_begins_and_has_256_random_bits_behind_that() {
        let (one, other) = (new_secret(), new_secret());
        let bits = |secret: &InstanceSecret| {
            URL_SAFE_NO_PAD.decode(secret.expose().strip_prefix(SECRET_MARK).unwrap()).unwrap()
        };
        assert_eq!((bits(&one).len(), bits(&other).len()), (32, 32));
        assert!(one != other && SECRET_MARK == "pis_");
    }
}

//! How instances and calls look from outside.
//!
//! Invariant: a record is unsealed for the moment that a view is made of it; no view holds a secret.

use sip::endpoint::{CallState, Mailbox};
use sip::id::{CallId, InstanceId};

use super::Inner;
use super::devices::{AccessError, CallError};
use super::operators::{Export, InstanceKind, Listed, OperatorError, Page, Which};
use crate::agent::Call;
use crate::agent::request::{CallDenied, CallRequest, Denied, InstanceStatus, Principal, Request};
use crate::audit::{Act, Reading};
use crate::clock::unix_now;
use crate::domain::{InstanceState, WipeReason};
use crate::hpke::PublicKey;
use crate::secret::{Aor, InstanceSecret};
use crate::vault::items::Counts;
use crate::vault::record::{Device, Presence, Provider, Record, StoredRecord, WakeFor};
use crate::vault::{AorHash, Stored};

/// How the registration of an account stands at its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The state.
    pub state: RegistrationState,
    /// The SIP status of the last answer, 100 to 699; `None` before the first.
    pub status: Option<u16>,
    /// How many seconds the server will keep it; `None` unless registered.
    pub expires_in_s: Option<u32>,
    /// Since when it has been lost, in seconds since 1970, once the user was told.
    pub failing_since: Option<u64>,
}

/// The states of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// The registration stands.
    Registered,
    /// The first answer has not come yet.
    Registering,
    /// The registration failed and will be tried again.
    Retrying,
    /// A registration is not wanted: the app is in the foreground, or the instance is ending.
    Unregistered,
}

impl RegistrationState {
    /// The word of the API for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Registering => "registering",
            Self::Retrying => "retrying",
            Self::Unregistered => "unregistered",
        }
    }
}

/// The edge as a device needs it; the password is the instance secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeAddress {
    /// The outbound proxy to set: `sip:relay1.example.net:5061;transport=tls`.
    pub proxy: Box<str>,
    /// For a device that speaks SIP over WebSocket: `wss://relay1.example.net:7443/`, where the operator opened it.
    pub websocket: Option<Box<str>>,
    /// The digest user name: the instance id.
    pub username: InstanceId,
    /// The digest realm.
    pub realm: &'static str,
}

/// Whether an instance works for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceStatusView {
    /// The relay registers, or tries to.
    Active,
    /// The app registers by itself.
    Foreground,
    /// The instance is being unregistered and wiped.
    Ending,
}

/// An instance as its device sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The instance's id.
    pub instance: InstanceId,
    /// Whether it works.
    pub state: InstanceStatusView,
    /// How its registration stands.
    pub registration: Registration,
    /// When it was enabled, in seconds since 1970.
    pub created_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The user's name for the device.
    pub label: Option<Box<str>>,
    /// The push service for calls.
    pub call_push: Provider,
    /// The push service for everything else.
    pub alert_push: Option<Provider>,
    /// The key that what names a person is sealed to.
    pub public_key: Option<PublicKey>,
    /// The events that wake the device.
    pub wake_for: WakeFor,
    /// Whether the app registers by itself.
    pub presence: Presence,
    /// The address at which the device connects.
    pub edge: EdgeAddress,
    /// How its mailbox stands, once the SIP server has told.
    pub voicemail: Option<Voicemail>,
    /// The number of kept items; `None` while the store does not answer.
    pub kept: Option<Counts>,
}

/// How a mailbox stands (RFC 3842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voicemail {
    /// Whether anything waits.
    pub waiting: bool,
    /// Messages not heard yet, where the SIP server tells.
    pub new: Option<u32>,
    /// Messages heard.
    pub old: Option<u32>,
    /// The number of new messages that are urgent.
    pub urgent: Option<u32>,
}

/// The proof of a wipe, signed by the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptView {
    /// The wiped instance.
    pub instance: InstanceId,
    /// When, in seconds since 1970.
    pub wiped_at: u64,
    /// Why.
    pub reason: WipeReason,
    /// Whether the SIP server confirmed the unregistration.
    pub unregistered: bool,
    /// The signature over the other members (Ed25519, base64url).
    pub signature: Box<str>,
}

/// A call as its device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallView {
    /// How it stands.
    pub state: CallStatus,
    /// When the relay gives up waiting, in seconds since 1970; the state can be asked until then at least.
    pub deadline: u64,
}

/// The states of a call; the last five are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// The push is on its way, the device is not attached.
    Waking,
    /// The device rings.
    Ringing,
    /// The device answered.
    Answered,
    /// The caller gave up.
    Cancelled,
    /// Another device answered.
    AnsweredElsewhere,
    /// The device declined.
    Declined,
    /// The SIP server did not answer in time.
    TimedOut,
}

/// How a wipe stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wiped {
    /// Nothing is left.
    Done(ReceiptView),
    /// Memory is wiped and the SIP server was told; the store is away, and what it holds is erased as soon as it is back, or the wipe could not be
    /// written down yet.
    Wiping,
}

impl Inner {
    /// How an instance stands, for who has its secret.
    pub(super) async fn look(&self, id: InstanceId, proof: &InstanceSecret) -> Result<InstanceStatus, AccessError> {
        let who = Principal::Device(proof.clone());
        match self.dependencies.agent.ask(id, |reply| Request::Look { id, who, reply }).await {
            Some(Ok(status)) => Ok(status),
            Some(Err(denied)) => Err(self.denied(id, denied, proof).await),
            None => Err(AccessError::StoreAway),
        }
    }

    /// The same from its record alone, while nobody can say how its registration stands: its owner is gone, or it is on its way here.
    pub(super) async fn look_at_record(&self, id: InstanceId, proof: &InstanceSecret) -> Option<InstanceStatus> {
        self.kept_elsewhere(id, proof).await.map(by_record)
    }

    /// How an instance stands, for an operator; of one whose owner is gone, or that is on its way here, what its record says.
    pub(super) async fn look_or_read(&self, id: InstanceId) -> Result<InstanceStatus, OperatorError> {
        match self.look_as_relay(id).await {
            Err(OperatorError::Unknown) => self.record_elsewhere(id).await.map(by_record).ok_or(OperatorError::Unknown),
            looked => looked,
        }
    }

    pub(super) async fn look_as_relay(&self, id: InstanceId) -> Result<InstanceStatus, OperatorError> {
        let answer = self.dependencies.agent.ask(id, |reply| Request::Look { id, who: Principal::Relay, reply }).await;
        answer.ok_or(OperatorError::StoreAway)?.map_err(|_| OperatorError::Unknown)
    }

    /// The answer to a denied request. An instance that is not here may be another node's, or on its way here after a restart: then the answer is not
    /// that there is none.
    pub(super) async fn denied(
        &self,
        id: InstanceId,
        denied: Denied,
        proof: impl Into<Option<&InstanceSecret>>,
    ) -> AccessError {
        match denied {
            Denied::Forbidden => AccessError::Forbidden,
            // The instance was wiped; a record that an unreachable store still holds does not count.
            Denied::Unknown if self.dependencies.vault.tombstones().look(id).is_some() => AccessError::Unknown,
            Denied::Unknown => match self.load_or_seek(id).await {
                Ok(None) => AccessError::Unknown,
                // A record that does not open here says nothing of a secret.
                Ok(Some(stored)) => match proof.into().map(|proof| self.is_secret_of(&stored, proof)) {
                    Some(Some(false)) => AccessError::Forbidden,
                    None | Some(None | Some(true)) => AccessError::OwnerAway,
                },
                Err(error) => error,
            },
        }
    }

    /// The record of an instance from the store, or from another node that writes it again.
    pub(super) async fn load_or_seek(&self, id: InstanceId) -> Result<Option<Stored>, AccessError> {
        match self.dependencies.vault.load(id).await.map_err(|_| AccessError::StoreAway)? {
            None => self.seek(id, None).await,
            stored => Ok(stored),
        }
    }

    pub(super) fn view(&self, status: &InstanceStatus) -> Option<View> {
        self.with_record(status, |record| View {
            instance: status.id,
            state: state(status),
            registration: registration(status),
            created_at: record.created_at,
            expires_at: status.expires_at,
            label: record.device.label.clone(),
            call_push: record.device.call_push.provider,
            alert_push: record.device.alert_push.as_ref().map(|target| target.provider),
            public_key: record.device.public_key(),
            wake_for: record.wake_for,
            presence: record.presence,
            edge: self.edge_of(status.id),
            voicemail: status.mailbox.as_deref().map(voicemail),
            kept: None,
        })
    }

    pub(super) fn listed(&self, status: &InstanceStatus) -> Option<Listed> {
        self.listed_if(status, &Which::default())
    }

    /// The same, when it is one of those.
    fn listed_if(&self, status: &InstanceStatus, which: &Which) -> Option<Listed> {
        let look = |record: &StoredRecord| is_one_of(which, record).then(|| listed(status, record));
        self.dependencies.vault.open_record(status.id, &status.sealed, look).ok().flatten()
    }

    /// The instances of an account on this node.
    pub(super) async fn find(&self, aor: AorHash) -> Vec<Listed> {
        let aor = self.dependencies.vault.aor_key_of(aor);
        let answers = self.dependencies.agent.ask_all(|reply| Request::OfAccount { aor, reply }).await;
        answers.iter().flatten().filter_map(|status| self.listed(status)).collect()
    }

    pub(super) async fn list(&self, after: Option<InstanceId>, limit: usize, which: &Which) -> Page {
        // One more than asked for tells whether a further page follows.
        let asked = limit + 1;
        let answers = self.dependencies.agent.ask_all(|reply| Request::List { after, limit: asked, reply }).await;
        let mut standings: Vec<InstanceStatus> = answers.into_iter().flatten().collect();
        standings.sort_unstable_by_key(|status| status.id);
        let more = standings.len() > limit;
        standings.truncate(limit);
        let next = standings.last().map(|last| last.id).filter(|_| more);
        Page { instances: standings.iter().filter_map(|status| self.listed_if(status, which)).collect(), next }
    }

    pub(super) async fn export(&self, id: InstanceId) -> Result<Export, OperatorError> {
        let status = self.look_or_read(id).await?;
        self.audit(Act::Read(Reading::Export), &status);
        let calls = self.dependencies.agent.ask(id, |reply| Request::Calls { id, reply }).await.unwrap_or_default();
        let calls: Vec<(CallId, CallView)> = calls.iter().map(|(id, call)| (*id, call_view(call))).collect();
        let stories = self.stories_of(id).await.map_err(|_| OperatorError::StoreAway)?;
        let export = self.dependencies.vault.open_record(id, &status.sealed, |record| Export {
            listed: listed(&status, record),
            preferences: record.lent().map(|record| (record.wake_for, record.presence)),
            public_key: record.lent().and_then(|record| record.device.public_key()),
            calls,
            stories,
        });
        export.map_err(|_| OperatorError::Unknown)
    }

    pub(super) async fn call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
        request: CallRequest,
    ) -> Result<CallView, CallError> {
        let who = Principal::Device(proof.clone());
        match self.dependencies.agent.ask(id, |reply| Request::Call { id, who, call, request, reply }).await {
            Some(Ok(call)) => Ok(call_view(&call)),
            Some(Err(CallDenied::Denied(denied))) => Err(self.denied(id, denied, proof).await.into()),
            Some(Err(CallDenied::UnknownCall)) => Err(CallError::UnknownCall),
            Some(Err(CallDenied::Over(state))) => Err(CallError::Over(call_state(state))),
            None => Err(AccessError::StoreAway.into()),
        }
    }

    pub(super) fn with_record<T>(&self, status: &InstanceStatus, work: impl FnOnce(&Record) -> T) -> Option<T> {
        self.dependencies.vault.open_lent(status.id, &status.sealed, work).ok()
    }
}

pub(super) fn by_record(stored: Stored) -> InstanceStatus {
    InstanceStatus {
        id: stored.id,
        sealed: stored.sealed,
        fence: stored.fence,
        state: InstanceState::Retrying,
        status: None,
        registered_until: 0,
        failing_since: None,
        expires_at: stored.expires_at,
        reminded: None,
        mailbox: None,
    }
}

fn voicemail(mailbox: &Mailbox) -> Voicemail {
    let Mailbox { waiting, new, old, urgent, .. } = *mailbox;
    Voicemail { waiting, new, old, urgent }
}

fn listed(status: &InstanceStatus, record: &StoredRecord) -> Listed {
    let (kind, app, created_at, call_push, alert_push) = match record {
        StoredRecord::Lent(record) => {
            let Device { call_push, alert_push, .. } = &record.device;
            let alert_push = alert_push.as_ref().map(|target| target.provider);
            (InstanceKind::Lent, &record.app, record.created_at, call_push.provider, alert_push)
        }
        StoredRecord::PushBinding(record) => {
            let provider = match &*record.provider {
                "fcm" => Provider::Fcm,
                "apns.dev" => Provider::ApnsSandbox,
                _ => Provider::ApnsProduction,
            };
            (InstanceKind::Passed, &record.app, record.confirmed_at_ms / 1_000, provider, None)
        }
    };
    Listed {
        instance: status.id,
        kind,
        app: app.clone(),
        state: state(status),
        registration: registration(status),
        created_at,
        expires_at: status.expires_at,
        call_push,
        alert_push,
    }
}

fn is_one_of(which: &Which, record: &StoredRecord) -> bool {
    let (app, aor) = match record {
        StoredRecord::Lent(record) => (&record.app, &record.account.aor),
        StoredRecord::PushBinding(record) => (&record.app, &record.aor),
    };
    let domain = |aor: &Aor| {
        let host = aor.expose().rsplit_once('@').map_or("", |(_, host)| host);
        let end = match host.strip_prefix('[') {
            Some(_) => host.find(']').map_or(host.len(), |end| end + 1),
            None => host.find([':', ';', '?', '>']).unwrap_or(host.len()),
        };
        host[..end].to_ascii_lowercase()
    };
    which.app.as_ref().is_none_or(|wanted| wanted == app)
        && which.domain.as_ref().is_none_or(|wanted| **wanted == *domain(aor))
}

fn state(status: &InstanceStatus) -> InstanceStatusView {
    match status.state {
        InstanceState::Foreground => InstanceStatusView::Foreground,
        InstanceState::Ending => InstanceStatusView::Ending,
        InstanceState::Registered | InstanceState::Registering | InstanceState::Retrying => InstanceStatusView::Active,
    }
}

fn registration(status: &InstanceStatus) -> Registration {
    let state = match status.state {
        InstanceState::Registered => RegistrationState::Registered,
        InstanceState::Registering => RegistrationState::Registering,
        InstanceState::Retrying => RegistrationState::Retrying,
        InstanceState::Foreground | InstanceState::Ending => RegistrationState::Unregistered,
    };
    let left = status.registered_until.saturating_sub(unix_now());
    let expires_in_s = u32::try_from(left).ok().filter(|_| state == RegistrationState::Registered);
    Registration { state, status: status.status, expires_in_s, failing_since: status.failing_since }
}

pub(super) fn call_view(call: &Call) -> CallView {
    CallView { state: call_state(call.told()), deadline: call.deadline.unix }
}

fn call_state(state: CallState) -> CallStatus {
    match state {
        CallState::Waking => CallStatus::Waking,
        CallState::Ringing => CallStatus::Ringing,
        CallState::Answered => CallStatus::Answered,
        CallState::Cancelled => CallStatus::Cancelled,
        CallState::AnsweredElsewhere => CallStatus::AnsweredElsewhere,
        CallState::Declined => CallStatus::Declined,
        CallState::TimedOut => CallStatus::TimedOut,
    }
}

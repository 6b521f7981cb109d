//! The views of the state of instances and calls.
//!
//! Invariant: a record is unsealed only while a view is made from it. No view holds a secret.

use sip::endpoint::{CallState, Mailbox};
use sip::id::{CallId, InstanceId};

use super::Inner;
use super::devices::{AccessError, CallError};
use super::operators::{Export, InstanceKind, Listed, OperatorError, Page, Which};
use super::views::{CallStatus, CallView, InstanceStatusView, Registration, RegistrationState, View, Voicemail};
use crate::agent::Call;
use crate::agent::request::{CallDenied, CallRequest, Denied, InstanceStatus, Principal, Request};
use crate::audit::{Act, Reading};
use crate::clock::unix_now;
use crate::domain::InstanceState;
use crate::secret::{Aor, InstanceSecret};
use crate::vault::record::{Device, Provider, Record, StoredRecord};
use crate::vault::{AorHash, StoreError, Stored};

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
        self.denied_with_record(id, denied, proof).await.0
    }

    /// The same, with the record of an instance that is answered as unknown since its record does not open.
    pub(super) async fn denied_with_record(
        &self,
        id: InstanceId,
        denied: Denied,
        proof: impl Into<Option<&InstanceSecret>>,
    ) -> (AccessError, Option<Stored>) {
        let error = match denied {
            Denied::Forbidden => AccessError::Forbidden,
            // The instance was wiped; a record that an unreachable store still holds does not count.
            Denied::Unknown if self.dependencies.vault.tombstones().look(id).is_some() => AccessError::Unknown,
            Denied::Unknown => match self.load_or_seek(id).await {
                Ok(None) => AccessError::Unknown,
                Ok(Some(stored)) => match proof.into().map(|proof| self.is_secret_of(&stored, proof)) {
                    Some(Some(false)) => AccessError::Forbidden,
                    // A damaged record is as good as none, unless another node has the instance and writes it again.
                    Some(None) if self.dependencies.vault.is_damaged(id, &stored.sealed) => {
                        match self.seek(id, None).await {
                            Ok(None) => return (AccessError::Unknown, Some(stored)),
                            Ok(Some(_)) => AccessError::OwnerAway,
                            Err(error) => error,
                        }
                    }
                    // A record of another keyring says nothing of a secret.
                    None | Some(None | Some(true)) => AccessError::OwnerAway,
                },
                Err(error) => error,
            },
        };
        (error, None)
    }

    /// The record of an instance from the store, or from another node that writes it again.
    pub(super) async fn load_or_seek(&self, id: InstanceId) -> Result<Option<Stored>, AccessError> {
        match self.dependencies.vault.load(id).await {
            // A damaged record is as good as none.
            Ok(None) | Err(StoreError::Malformed) => self.seek(id, None).await,
            stored => stored.map_err(|_| AccessError::StoreAway),
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
        // One instance more than asked for tells whether a further page follows.
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
        is_replacing: false,
    }
}

pub(super) fn voicemail(mailbox: &Mailbox) -> Voicemail {
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
    CallView { state: call_state(call.reported_state()), deadline: call.deadline.unix }
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

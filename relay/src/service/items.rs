//! The items of a device other than calls: kept messages and missed calls, the timeline, the export, the test push.
//!
//! Invariant: kept items are unsealed only for a requester that has shown the instance's secret, and for that answer alone.

use sip::id::{CallId, InstanceId, MessageId};

use super::Inner;
use super::devices::{AccessError, OwnCredential, OwnExport, Step, TestError, Tested, Timeline};
use super::status::{call_view, voicemail};
use super::views::View;
use crate::agent::request::{InstanceStatus, Principal, Request, TestDenied};
use crate::secret::InstanceSecret;
use crate::vault::items::{Message, MissedCall};
use crate::vault::record::{Proof, Record};

impl Inner {
    /// An instance with what is kept for it.
    pub(super) async fn whole_view(&self, status: &InstanceStatus) -> Option<View> {
        let vault = &self.dependencies.vault;
        let mailbox = async {
            // Told by its SIP server before this run had it.
            if status.mailbox.is_some() { None } else { vault.mailbox(status.id).await.ok().flatten() }
        };
        let (kept, mailbox) = tokio::join!(vault.item_counts(status.id), mailbox);
        self.view(status).map(|view| View {
            kept: kept.ok(),
            voicemail: view.voicemail.or_else(|| mailbox.as_ref().map(voicemail)),
            ..view
        })
    }

    /// When an instance ends, in seconds since 1970, for a requester that may see the items kept for it, whichever node owns it: its shard or its
    /// record tells. Where neither has shown that the secret is right, nobody may: the record may not open here, or be lost while another node has
    /// the instance.
    async fn admit(&self, id: InstanceId, proof: &InstanceSecret) -> Result<u64, AccessError> {
        match self.look(id, proof).await {
            Ok(status) => Ok(status.expires_at),
            Err(AccessError::OwnerAway) => {
                let view = self.look_at_record(id, proof).await.ok_or(AccessError::OwnerAway)?;
                Ok(view.expires_at)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn messages(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<Message>, AccessError> {
        let ends_at = self.admit(id, proof).await?;
        self.messages_until(id, ends_at).await
    }

    /// The messages of an instance that ends then, in seconds since 1970.
    async fn messages_until(&self, id: InstanceId, ends_at: u64) -> Result<Vec<Message>, AccessError> {
        let mut all = self.dependencies.vault.messages(id).await.map_err(|_| self.away())?;
        for message in &mut all {
            message.expires_at = message.expires_at.min(ends_at);
        }
        Ok(all)
    }

    pub(super) async fn forget_message(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        message: MessageId,
    ) -> Result<bool, AccessError> {
        self.admit(id, proof).await?;
        self.dependencies.vault.remove_message(id, message).await.map_err(|_| self.away())
    }

    pub(super) async fn missed_calls(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> Result<Vec<MissedCall>, AccessError> {
        let ends_at = self.admit(id, proof).await?;
        self.missed_calls_until(id, ends_at).await
    }

    /// Likewise the missed calls.
    async fn missed_calls_until(&self, id: InstanceId, ends_at: u64) -> Result<Vec<MissedCall>, AccessError> {
        let mut all = self.dependencies.vault.missed_calls(id).await.map_err(|_| self.away())?;
        for missed in &mut all {
            missed.expires_at = missed.expires_at.min(ends_at);
        }
        Ok(all)
    }

    pub(super) async fn forget_missed_call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> Result<bool, AccessError> {
        self.admit(id, proof).await?;
        self.dependencies.vault.remove_missed_call(id, call).await.map_err(|_| self.away())
    }

    pub(super) async fn timeline(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Timeline, AccessError> {
        let status = self.look(id, proof).await?;
        let steps = self.steps(id, proof).await?;
        let enabled_at_ms =
            self.with_record(&status, |record| enabled_at_ms(record, &steps)).ok_or(AccessError::Unknown)?;
        Ok(Timeline { enabled_at_ms, steps })
    }

    pub(super) async fn own_export(&self, id: InstanceId, proof: &InstanceSecret) -> Result<OwnExport, AccessError> {
        let status = self.look(id, proof).await?;
        let steps = self.steps(id, proof).await?;
        let calls = self.dependencies.agent.ask(id, |reply| Request::Calls { id, reply }).await.unwrap_or_default();
        let messages = self.messages_until(id, status.expires_at).await?;
        let missed_calls = self.missed_calls_until(id, status.expires_at).await?;
        let stories = self.stories_of(id).await.map_err(|_| self.away())?;
        let view = self.whole_view(&status).await.ok_or(AccessError::Unknown)?;
        let export = self.with_record(&status, |record| OwnExport {
            app: record.app.clone(),
            aor: record.account.aor.clone(),
            auth_username: record.account.auth_username.clone(),
            credential: match record.account.proof {
                Proof::Password(_) => OwnCredential::Password,
                Proof::Ha1(_) | Proof::Derived(_) => OwnCredential::Ha1,
            },
            registrar: record.account.registrar.clone(),
            outbound_proxy: record.account.outbound_proxy.clone(),
            calls: calls.iter().map(|(id, call)| (*id, call_view(call))).collect(),
            timeline: Timeline { enabled_at_ms: enabled_at_ms(record, &steps), steps },
            view,
            messages,
            missed_calls,
            stories,
        });
        export.ok_or(AccessError::Unknown)
    }

    pub(super) async fn test(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Tested, TestError> {
        let who = Principal::Device(proof.clone());
        match self.dependencies.agent.ask(id, |reply| Request::Test { id, who, reply }).await {
            Some(Ok(tested)) => Ok(tested),
            Some(Err(TestDenied::Denied(denied))) => Err(self.denied(id, denied, proof).await.into()),
            Some(Err(TestDenied::NoTarget)) => Err(TestError::NoTarget),
            Some(Err(TestDenied::TooSoon { wait_s })) => Err(TestError::TooSoon { wait_s }),
            None => Err(AccessError::StoreAway.into()),
        }
    }

    async fn steps(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<Step>, AccessError> {
        let who = Principal::Device(proof.clone());
        match self.dependencies.agent.ask(id, |reply| Request::Timeline { id, who, reply }).await {
            Some(Ok(steps)) => Ok(steps),
            Some(Err(denied)) => Err(self.denied(id, denied, proof).await),
            None => Err(AccessError::StoreAway),
        }
    }
}

/// When an instance was enabled, in milliseconds since 1970, and before its first step: to the second where another push token was given since.
fn enabled_at_ms(record: &Record, steps: &[Step]) -> u64 {
    let (second, confirmed) = (record.created_at, record.device.call_push.confirmed_at_ms);
    let enabled = if confirmed / 1_000 == second { confirmed } else { second.saturating_mul(1_000) };
    steps.first().map_or(enabled, |step| enabled.min(step.at_ms))
}

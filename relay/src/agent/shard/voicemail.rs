//! The state of a mailbox, as its SIP server notifies it (RFC 3842).
//!
//! The store keeps the state, sealed, beside the instance's record. The next run with the instance, here or at another node, compares the first notice with it.
//!
//! Invariant: a push is sent only when the state differs from the last one that any run was notified of, as far as the store knows it. Without a known state,
//! the mailbox counts as empty. The last write wins: a later write, or the end of the instance, aborts one that is under way.

use std::time::Duration;

use sip::endpoint::Mailbox;
use sip::id::InstanceId;

use tokio::time::sleep;

use super::Shard;
use super::alerts::{AlertContent, kept_life_s};
use crate::agent::ShardInput;
use crate::agent::late_notes::keep;
use crate::agent::tables::timeline::TimelineEvent;
use crate::metrics::labels::MwiNotify;
use crate::push::Event;

/// The pause after the store did not take the state, or had no record yet, because an account is registered before it is stored. It doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Shard {
    /// The SIP server notifies the state of the mailbox.
    pub(crate) fn on_mailbox(&mut self, instance: InstanceId, mailbox: Box<Mailbox>) {
        if self.instances.get(instance).is_none_or(|row| row.ending.is_some()) {
            return;
        }
        match self.mailboxes.get_mut(&instance) {
            Some(None) => return self.judge_mailbox(instance, mailbox),
            // The latest notice counts.
            Some(Some(told)) => {
                *told = mailbox;
                return;
            }
            None => drop(self.mailboxes.insert(instance, Some(mailbox))),
        }
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            // A store that is away knows nothing: then the user may be told twice.
            let known = shared.vault.mailbox(instance).await.ok().flatten();
            shared.shards.send(shard, ShardInput::MailboxRead(Box::new((instance, known)))).await;
        });
    }

    /// Handles the store's answer: the state of the mailbox before this run.
    pub(crate) fn on_mailbox_read(&mut self, instance: InstanceId, known: Option<Mailbox>) {
        let Some(told) = self.mailboxes.get_mut(&instance).and_then(Option::take) else { return };
        if let Some(known) = known
            && let Some(activity) = self.activity(instance)
        {
            activity.mailbox = Some(Box::new(known));
        }
        self.judge_mailbox(instance, told);
    }

    fn judge_mailbox(&mut self, instance: InstanceId, mailbox: Box<Mailbox>) {
        let known = self.instances.get(instance).and_then(|row| row.activity.as_ref()?.mailbox.as_deref());
        let holds = mailbox.waiting || mailbox.new.is_some_and(|new| new > 0);
        let is_known = known == Some(&*mailbox);
        let changed = known.map_or(holds, |_| !is_known);
        self.shared.metrics.mwi_notify(if changed { MwiNotify::Changed } else { MwiNotify::Unchanged });
        if known.is_none() && !changed && mailbox.old.unwrap_or(0) == 0 {
            // Without a known state the mailbox counts as empty.
            return;
        }
        let Mailbox { waiting, new, old, urgent, ref account } = *mailbox;
        let account = account.clone();
        if !is_known {
            self.keep_mailbox(instance, &mailbox);
        }
        let Some(activity) = self.activity(instance) else { return };
        activity.mailbox = Some(mailbox);
        if !changed {
            return;
        }
        self.note(instance, None, TimelineEvent::Voicemail { new, old });
        let mut extra = vec![("waiting", waiting.into())];
        extra.extend(new.map(|new| ("new", new.into())));
        extra.extend(old.map(|old| ("old", old.into())));
        extra.extend(urgent.map(|urgent| ("urgent", urgent.into())));
        extra.extend(account.map(|account| ("account", serde_json::Value::from(&*account))));
        let content = AlertContent { extra, ..AlertContent::default() };
        let life_s = self.instances.get(instance).map_or(0, |row| kept_life_s(row.expires_at()));
        let _ = self.send_alert(instance, Event::Voicemail, life_s, content, |wake_for| wake_for.voicemail);
    }

    /// Writes the state to the store, for the next run that has the instance.
    fn keep_mailbox(&mut self, instance: InstanceId, mailbox: &Mailbox) {
        let shared = self.shared.clone();
        let item = shared.vault.seal_mailbox(instance, mailbox);
        let Some(activity) = self.activity(instance) else { return };
        activity.mailbox_write.abort_all();
        activity.mailbox_write.spawn(async move {
            let mut pause = PAUSE_MIN;
            while keep(&shared.vault, &shared.metrics, instance, &item).await.is_err() {
                sleep(pause).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
        });
    }
}

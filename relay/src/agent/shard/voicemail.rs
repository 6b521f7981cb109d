//! The state of a mailbox, as its SIP server notifies it (RFC 3842).
//!
//! Invariant: a push goes out only when the state has changed; an unknown mailbox counts as an empty one.

use sip::endpoint::Mailbox;
use sip::id::InstanceId;

use super::Shard;
use super::alerts::{AlertContent, kept_life_s};
use crate::agent::tables::timeline::TimelineEvent;
use crate::metrics::labels::MwiNotify;
use crate::push::Event;

impl Shard {
    /// The SIP server says how the mailbox stands.
    pub(crate) fn on_mailbox(&mut self, instance: InstanceId, mailbox: Box<Mailbox>) {
        let known = self.instances.get(instance).and_then(|row| row.activity.as_ref()?.mailbox.as_deref());
        let holds = mailbox.waiting || mailbox.new.is_some_and(|new| new > 0);
        let changed = known.map_or(holds, |known| *known != *mailbox);
        self.shared.metrics.mwi_notify(if changed { MwiNotify::Changed } else { MwiNotify::Unchanged });
        if known.is_none() && !changed && mailbox.old.unwrap_or(0) == 0 {
            // An empty mailbox is what nothing known means.
            return;
        }
        let Mailbox { waiting, new, old, urgent, ref account } = *mailbox;
        let account = account.clone();
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
}

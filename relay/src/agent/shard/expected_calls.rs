//! Waking the devices of an account for a call that its SIP server holds itself.
//!
//! Invariant: whoever waits for a device is told when it attaches, or let go when it cannot come any more: it declined, its
//! push was refused, or the call's time is over. The account is named by its keyed hash alone.

use std::time::Instant;

use sip::endpoint::Input;
use sip::id::InstanceId;
use tokio::sync::mpsc;

use super::Shard;
use crate::agent::request::DevicesFound;
use crate::vault::AorKey;

impl Shard {
    /// Wakes each device of an account that is not attached, unless it was woken for this call before.
    pub(crate) fn expect_call(
        &mut self,
        aor: AorKey,
        from: &str,
        name: Option<&str>,
        arrivals: &mpsc::UnboundedSender<InstanceId>,
    ) -> DevicesFound {
        let mut found = DevicesFound::default();
        for instance in self.instances.of_account(aor) {
            if self.instances.get(instance).is_none_or(|row| row.ending.is_some()) {
                continue;
            }
            found.known += 1;
            if self.attached.contains(&instance) {
                found.attached += 1;
                continue;
            }
            self.drive(Instant::now(), Input::ExpectCall { instance, from: from.into(), name: name.map(Into::into) });
            if self.endpoint.expects_call(instance) {
                let waiting = self.arrivals.entry(instance).or_default();
                waiting.retain(|other| !other.is_closed());
                waiting.push(arrivals.clone());
            }
        }
        found
    }

    /// A device has come.
    pub(crate) fn tell_arrivals(&mut self, instance: InstanceId) {
        for waiting in self.arrivals.remove(&instance).into_iter().flatten() {
            // An error means that nobody waits any more.
            let _ = waiting.send(instance);
        }
    }
}

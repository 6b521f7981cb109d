//! The test push that a device asks for.
//!
//! Invariant: a test push goes to the alert target, and never to a VoIP token.

use std::time::Duration;

use sip::bucket::{Bucket, Rate};
use sip::id::InstanceId;

use super::Shard;
use super::alerts::AlertContent;
use crate::agent::request::{Denied, TestDenied, Tested};
use crate::clock;
use crate::push::Event;

/// How long a test push is tried, in seconds.
const TEST_LIFE_S: u64 = 30;
/// Test pushes that a device may ask for; a further one is refused, with the wait until the next.
const TESTS: Rate = Rate { burst: 3, interval: Duration::from_secs(10) };

impl Shard {
    /// The device asks for a push.
    pub(crate) fn test(&mut self, instance: InstanceId) -> Result<Tested, TestDenied> {
        // An instance that is being wiped gets no more pushes.
        let unknown = TestDenied::Denied(Denied::Unknown);
        if self.is_ending(instance) {
            return Err(unknown);
        }
        let target = self.with_record(instance, |record| {
            let alert = record.device.alert_push.is_some();
            record.device.alert_target().map(|target| Tested { alert, provider: target.provider })
        });
        let tested = target.ok_or(unknown)?.ok_or(TestDenied::NoTarget)?;
        let now = clock::now();
        let activity = self.activity(instance).ok_or(unknown)?;
        let tests = activity.tests.get_or_insert_with(|| Bucket::full(now));
        tests
            .take(now, TESTS)
            .map_err(|wait| TestDenied::TooSoon { wait_s: wait.as_millis().div_ceil(1000) as u64 })?;
        let _ = self.send_alert(instance, Event::Test, TEST_LIFE_S, AlertContent::default(), |_| true);
        Ok(tested)
    }
}

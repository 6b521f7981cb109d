//! The test push that a device asks for.
//!
//! Invariant: a test push goes where alerts go, and never to a VoIP token.

use sip::id::InstanceId;

use super::Shard;
use super::alerts::AlertContent;
use crate::agent::request::{TestDenied, Tested};
use crate::clock::unix_now;
use crate::push::Event;

/// How long a test push is tried, in seconds.
const TEST_LIFE_S: u64 = 30;
/// Test pushes that a device may ask for at once; a further one is refused.
const TESTS_BURST: u8 = 3;
/// How soon one more may be asked for, in seconds.
const TEST_EVERY_S: u64 = 10;

impl Shard {
    /// The device asks for a push.
    pub(crate) fn test(&mut self, instance: InstanceId) -> Result<Tested, TestDenied> {
        let target = self.with_record(instance, |record| {
            let alert = record.device.alert_push.is_some();
            record.device.alert_target().map(|target| Tested { alert, provider: target.provider })
        });
        let tested = target.flatten().ok_or(TestDenied::NoTarget)?;
        let now = unix_now();
        let activity = self.activity(instance).ok_or(TestDenied::NoTarget)?;
        let (left, since) = activity.tests.unwrap_or((TESTS_BURST, now));
        let earned = now.saturating_sub(since) / TEST_EVERY_S;
        let left = u64::from(left).saturating_add(earned).min(u64::from(TESTS_BURST)) as u8;
        let since = if earned > 0 { now } else { since };
        let Some(rest) = left.checked_sub(1) else {
            activity.tests = Some((left, since));
            return Err(TestDenied::TooSoon { wait_s: TEST_EVERY_S.saturating_sub(now.saturating_sub(since)).max(1) });
        };
        activity.tests = Some((rest, since));
        self.send_alert(instance, Event::Test, TEST_LIFE_S, AlertContent::default(), |_| true);
        Ok(tested)
    }
}

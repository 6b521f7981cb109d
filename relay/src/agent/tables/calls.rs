//! The calls that a shard has told devices of. A device that wakes late asks here for the state of its call.
//!
//! | limit | at the limit |
//! | --- | --- |
//! | [`KEPT`] after a call's deadline, once the call is over for the device | the call is forgotten |
//! | [`CALLS`] at once | the device with the most calls loses its oldest, preferably one that no longer waits: many calls of one account displace none of another |
//!
//! Invariant: nothing here tells who called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sip::endpoint::{CallState, InviteMark};
use sip::id::{CallId, InstanceId};

use super::woken_elsewhere::Woken;
use crate::clock::{self, Moment};
use crate::metrics::labels::InviteOutcome;
use crate::vault::record::Provider;

/// How long a call's state can be asked after its deadline, at the least.
const KEPT: Duration = Duration::from_secs(60);
/// Calls known to one shard, each counted for each of its devices.
const CALLS: usize = 50_000;
/// Calls of one device of which none is forgotten while another device has more.
const FEW: usize = 4;
/// Calls of one device among which one is sought that waits for nobody.
const LOOKED_AT: usize = 64;

/// State of one call for one of its devices.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// How it stands.
    pub state: CallState,
    /// Its caller has given up, and so it ends unless the device has just answered.
    pub given_up: Option<CallState>,
    /// When the relay gives up waiting.
    pub deadline: Moment,
    /// When its caller does, where its INVITE says so.
    pub valid_until: Option<Moment>,
    /// The service that was asked to wake the device, if one was.
    pub pushed: Option<Provider>,
    /// The call waits for its device, and counts in the metric of waiting calls.
    pub waiting: bool,
    /// The push could not be delivered.
    pub unreachable: bool,
    /// The device has shown since it was pushed that it lives: it came, rang, declined or asked how the call stands.
    pub sign: bool,
    /// The device has said that it rings.
    pub rings: bool,
    /// The device has asked how the call stands, or said something of it: a push would tell it nothing.
    pub knows: bool,
    /// The device does not miss it: another node had taken the instance over when the call came, and wakes it and tells it what it
    /// missed; or the call takes the place of one that the device is not in.
    pub is_of_others: bool,
    /// The push service has taken its push.
    pub accepted: bool,
    /// The mark that its INVITE has in common with its copies, once it has come.
    pub mark: Option<InviteMark>,
    /// Until when it waits for its device.
    pub waits_until: Instant,
}

impl Call {
    /// A call that has just come, for which the device is to be woken.
    pub(crate) fn waking(wait: Duration, valid_until: Option<Moment>, mark: Option<InviteMark>) -> Self {
        Self {
            state: CallState::Waking,
            given_up: None,
            deadline: Moment::after(wait),
            valid_until,
            pushed: None,
            waiting: false,
            unreachable: false,
            sign: false,
            rings: false,
            knows: false,
            is_of_others: false,
            accepted: false,
            mark,
            waits_until: clock::now() + wait,
        }
    }

    /// How it stands, as its device is told.
    pub fn reported_state(&self) -> CallState {
        if self.state.is_final() { self.state } else { self.given_up.unwrap_or(self.state) }
    }

    /// Whether it waits for a device that has given no sign.
    pub(crate) fn awaits_sign(&self) -> bool {
        self.waiting && !self.sign && !self.reported_state().is_final()
    }

    /// Whether its device knows nothing of it, and it can still be answered.
    pub(crate) fn may_still_be_pushed(&self) -> bool {
        !self.knows && !self.rings && !self.reported_state().is_final()
    }

    /// The relay gives up waiting at this time, or when its caller does.
    pub(crate) fn wait_until(&mut self, deadline: Moment) {
        self.deadline = self.valid_until.map_or(deadline, |until| until.min(deadline));
    }

    /// Its INVITE is expected until this moment: its caller was announced once more.
    pub(crate) fn expect_until(&mut self, until: Instant) {
        self.deadline = Moment::after(until.saturating_duration_since(clock::now()));
        self.waits_until = until;
    }

    /// The device is pushed for it. An announced call of which an earlier push told it nothing begins anew.
    pub(crate) fn wake_again(&mut self, wait: Duration) {
        if self.state.is_final() && self.mark.is_none() {
            (self.state, self.given_up) = (CallState::Waking, None);
            (self.unreachable, self.sign, self.rings, self.accepted) = (false, false, false, false);
            self.knows = false;
            self.expect_until(clock::now() + wait);
        }
    }

    /// The device as one that was woken for this call.
    pub(crate) fn woken(&self, instance: InstanceId) -> Option<Woken> {
        let mark = self.mark.filter(|_| self.accepted)?;
        Some(Woken { instance, mark, until: self.waits_until })
    }
}

type Key = (CallId, InstanceId);

/// The calls of one shard.
#[derive(Default)]
pub(crate) struct Calls {
    known: BTreeMap<Key, Row>,
    /// The moments to look whether to forget one.
    order: BTreeSet<(Instant, Key)>,
    /// The calls of each device, in their order of arrival.
    of_device: BTreeMap<(InstanceId, u64), CallId>,
    /// How many each device has.
    counts: BTreeMap<InstanceId, usize>,
    by_count: BTreeSet<(usize, InstanceId)>,
    /// How many came so far.
    came: u64,
}

struct Row {
    call: Call,
    /// Its place in `order`.
    look_at: Instant,
    /// Its place in `of_device`.
    number: u64,
}

impl Calls {
    /// Remembers a call of a device, or what is new of one that is known.
    pub(crate) fn remember(&mut self, id: CallId, instance: InstanceId, call: Call) {
        let key = (id, instance);
        if let Some(known) = self.known.get_mut(&key) {
            known.call = call;
            return;
        }
        let (look_at, number) = (call.deadline.at + KEPT, self.came);
        self.came += 1;
        self.known.insert(key, Row { call, look_at, number });
        self.order.insert((look_at, key));
        self.of_device.insert((instance, number), id);
        self.recount(instance, |count| count + 1);
        if self.known.len() > CALLS
            && let Some(key) = self.least_wanted()
        {
            self.forget(key);
        }
    }

    /// The call to forget first.
    fn least_wanted(&self) -> Option<Key> {
        let (count, instance) = *self.by_count.last()?;
        if count <= FEW {
            return self.order.first().map(|(_, key)| *key);
        }
        let theirs = || self.of_device.range((instance, 0)..=(instance, u64::MAX)).map(|(_, id)| (*id, instance));
        let waits = |key: &Key| self.known.get(key).is_some_and(|known| known.call.waiting);
        theirs().take(LOOKED_AT).find(|key| !waits(key)).or_else(|| theirs().next())
    }

    fn forget(&mut self, key: Key) -> Option<Call> {
        let Row { call, look_at, number } = self.known.remove(&key)?;
        self.order.remove(&(look_at, key));
        self.of_device.remove(&(key.1, number));
        self.recount(key.1, |count| count.saturating_sub(1));
        Some(call)
    }

    fn recount(&mut self, instance: InstanceId, change: impl FnOnce(usize) -> usize) {
        let before = self.counts.get(&instance).copied().unwrap_or(0);
        let after = change(before);
        self.by_count.remove(&(before, instance));
        if after == 0 {
            self.counts.remove(&instance);
        } else {
            self.counts.insert(instance, after);
            self.by_count.insert((after, instance));
        }
    }

    /// A call of one instance is that of its successor.
    pub(crate) fn succeed(&mut self, id: CallId, earlier: InstanceId, successor: InstanceId) {
        let Some(mut call) = self.forget((id, earlier)) else { return };
        if let Some(Row { call: other, .. }) = self.known.get(&(id, successor)) {
            call.pushed = call.pushed.or(other.pushed);
            call.waiting |= other.waiting;
            call.unreachable &= other.unreachable;
            call.sign |= other.sign;
            call.rings |= other.rings;
            call.knows |= other.knows;
            call.accepted |= other.accepted;
            call.given_up = call.given_up.or(other.given_up);
        }
        self.remember(id, successor, call);
    }

    /// The state of a call of this instance.
    pub(crate) fn get_mut(&mut self, id: CallId, instance: InstanceId) -> Option<&mut Call> {
        self.known.get_mut(&(id, instance)).map(|known| &mut known.call)
    }

    /// A call of this instance.
    pub(crate) fn of(&self, instance: InstanceId, id: CallId) -> Option<&Call> {
        self.known.get(&(id, instance)).map(|known| &known.call)
    }

    /// All calls of this instance, by id.
    pub(crate) fn all_of(&self, instance: InstanceId) -> Vec<(CallId, Call)> {
        let theirs = self.of_device.range((instance, 0)..=(instance, u64::MAX));
        let mut calls: Vec<_> = theirs.filter_map(|(_, id)| Some((*id, *self.of(instance, *id)?))).collect();
        calls.sort_unstable_by_key(|(id, _)| *id);
        calls
    }

    /// The devices that were woken for a call that waits, or would wait still.
    pub(crate) fn woken(&self, now: Instant) -> impl Iterator<Item = Woken> {
        let woken = self.known.iter().filter_map(|((_, instance), known)| known.call.woken(*instance));
        woken.filter(move |woken| woken.until > now)
    }

    /// Whether a call waits for one of its devices.
    pub(crate) fn is_waiting(&self, id: CallId) -> bool {
        self.devices_of(id).any(|call| call.waiting)
    }

    /// Whether no push reached any device of a call.
    pub(crate) fn are_unreachable(&self, id: CallId) -> bool {
        let mut devices = self.devices_of(id).peekable();
        devices.peek().is_some() && devices.all(|call| call.unreachable)
    }

    /// The end of a call that its devices refused: by a user, or by a SIP stack of which no user knows. What rang before its stack gave up was not answered in
    /// time.
    pub(crate) fn end_of_refused(&self, id: CallId) -> InviteOutcome {
        let mut is_known = false;
        let mut rang = false;
        for call in self.devices_of(id) {
            if call.state == CallState::Declined {
                return InviteOutcome::Declined;
            }
            (is_known, rang) = (true, rang || call.rings);
        }
        match (is_known, rang) {
            (false, _) => InviteOutcome::Declined,
            (true, true) => InviteOutcome::TimedOut,
            (true, false) => InviteOutcome::RefusedByDevice,
        }
    }

    /// Forgets what is over.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.order.first()
            && until <= now
        {
            // A device came, and rings: then the deadline has moved, or another one rings. Each device is told the end of its call.
            let next_look = |known: &Row| {
                let behind = known.call.deadline.at + KEPT;
                if known.call.state.is_final() { behind } else { behind.max(now + KEPT) }
            };
            match self.known.get_mut(&key).filter(|known| next_look(known) > now) {
                Some(known) => {
                    known.look_at = next_look(known);
                    self.order.remove(&(until, key));
                    self.order.insert((known.look_at, key));
                }
                None => drop(self.forget(key)),
            }
        }
    }

    fn devices_of(&self, id: CallId) -> impl Iterator<Item = &Call> {
        let (first, last) = (InstanceId::from_bytes([0; 16]), InstanceId::from_bytes([0xff; 16]));
        self.known.range((id, first)..=(id, last)).map(|(_, known)| &known.call)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    /// A moment of this table's own time, in seconds.
    fn moment(seconds: u64) -> Moment {
        static BEGUN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        Moment { unix: seconds, at: *BEGUN.get_or_init(Instant::now) + Duration::from_secs(seconds) }
    }

    fn call(deadline: u64) -> Call {
        let call = Call::waking(Duration::from_secs(30), None, None);
        Call { deadline: moment(deadline), waiting: true, ..call }
    }

    #[test]
    fn an_announced_call_that_no_push_brought_begins_anew_with_the_next_one_and_one_whose_invite_came_does_not() {
        let over = Call { state: CallState::TimedOut, unreachable: true, waiting: false, ..call(1) };
        let mut again = over;
        again.wake_again(Duration::from_secs(30));
        assert_eq!((again.reported_state(), again.unreachable), (CallState::Waking, false));
        assert!(again.deadline.at > Instant::now() + Duration::from_secs(20));
        let mut arrived = Call { mark: Some(InviteMark::from_bytes([7; 16])), ..over };
        arrived.wake_again(Duration::from_secs(30));
        assert_eq!(arrived.reported_state(), CallState::TimedOut);
    }

    #[test]
    fn a_call_that_devices_refuse_ends_by_their_users_or_by_their_stacks_and_one_that_rang_was_not_answered() {
        use InviteOutcome::{Declined, RefusedByDevice};
        let declined = Call { state: CallState::Declined, ..call(30) };
        let refused = Call { state: CallState::TimedOut, ..call(30) };
        let rang = Call { rings: true, ..refused };
        let cases = [
            (vec![], Declined),
            (vec![declined], Declined),
            (vec![refused], RefusedByDevice),
            (vec![refused, refused], RefusedByDevice),
            (vec![refused, declined], Declined),
            (vec![refused, rang], InviteOutcome::TimedOut),
        ];
        for (devices, expected) in cases {
            let (mut calls, id) = (Calls::default(), CallId::new(3 << 16, ShardTag(0)));
            for (at, call) in devices.iter().enumerate() {
                calls.remember(id, InstanceId::new((at as u128 + 1) << 32, ShardTag(0)), *call);
            }
            assert_eq!(calls.end_of_refused(id), expected, "{devices:?}");
        }
    }

    #[test]
    fn a_device_was_woken_for_a_call_when_a_push_service_has_taken_its_push_and_as_long_as_the_call_waits() {
        let (mine, id) = (InstanceId::new(1 << 16, ShardTag(0)), CallId::new(3 << 16, ShardTag(0)));
        let (mark, now) = (Some(InviteMark::from_bytes([7; 16])), Instant::now());
        let mut calls = Calls::default();
        let mut woken = |call: Call, at| {
            calls.remember(id, mine, call);
            calls.woken(at).count()
        };
        let accepted = Call { mark, accepted: true, ..call(1_000) };
        assert_eq!(woken(Call { accepted: false, ..accepted }, now), 0);
        assert_eq!(woken(Call { mark: None, ..accepted }, now), 0, "its INVITE is still to come");
        assert_eq!(woken(Call { state: CallState::Cancelled, ..accepted }, now), 1, "also when it is over");
        assert_eq!(woken(accepted, accepted.waits_until), 0);
    }

    #[test]
    fn a_call_whose_caller_has_given_up_is_told_as_over_until_its_device_has_answered_all_the_same() {
        let mut crossing = Call { state: CallState::Ringing, ..call(30) };
        assert_eq!(crossing.reported_state(), CallState::Ringing);
        crossing.given_up = Some(CallState::Cancelled);
        assert_eq!(crossing.reported_state(), CallState::Cancelled);
        crossing.state = CallState::Answered;
        assert_eq!(crossing.reported_state(), CallState::Answered);
    }

    #[test]
    fn a_call_that_its_caller_limits_does_not_wait_longer_for_a_device_that_came() {
        let mut limited = Call { valid_until: Some(moment(40)), ..call(30) };
        limited.wait_until(moment(130));
        assert_eq!(limited.deadline.unix, 40);
        limited.wait_until(moment(35));
        assert_eq!(limited.deadline.unix, 35);
        let mut unlimited = call(30);
        unlimited.wait_until(moment(130));
        assert_eq!(unlimited.deadline.unix, 130);
    }

    #[test]
    fn a_call_can_be_asked_until_a_minute_after_its_deadline_and_by_its_own_instance() {
        let (mine, other) = (InstanceId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let id = CallId::new(3 << 16, ShardTag(0));
        let mut calls = Calls::default();
        calls.remember(id, mine, Call { state: CallState::TimedOut, ..call(1_000) });
        calls.forget_old(moment(1_059).at);
        assert!(calls.of(mine, id).is_some() && calls.of(other, id).is_none());
        calls.forget_old(moment(1_060).at);
        assert!(calls.of(mine, id).is_none());
    }

    #[test]
    fn a_call_that_goes_on_is_known_to_each_device_until_a_minute_after_its_end_at_the_most() {
        let (mine, other) = (InstanceId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let id = CallId::new(3 << 16, ShardTag(0));
        let mut calls = Calls::default();
        // One device rings, and the other one, which was pushed, has not come.
        calls.remember(id, mine, Call { state: CallState::Ringing, waiting: false, ..call(1_120) });
        calls.remember(id, other, call(1_030));
        for seconds in [1_090, 1_119, 1_151] {
            calls.forget_old(moment(seconds).at);
            assert!(calls.of(other, id).is_some() && calls.is_waiting(id), "{seconds}");
        }
        for device in [mine, other] {
            let known = calls.get_mut(id, device).unwrap();
            (known.state, known.waiting) = (CallState::TimedOut, false);
        }
        calls.forget_old(moment(1_211).at);
        assert_eq!((calls.known.len(), calls.order.len()), (0, 0));
    }

    #[test]
    fn the_number_of_calls_known_is_bounded() {
        let instance = InstanceId::new(1 << 16, ShardTag(0));
        let mut calls = Calls::default();
        for number in 0..CALLS as u128 + 10 {
            calls.remember(CallId::new(number << 16, ShardTag(0)), instance, call(1_000));
        }
        assert_eq!(calls.known.len(), CALLS);
        assert!(calls.of(instance, CallId::new(0, ShardTag(0))).is_none(), "the oldest went first");
    }

    #[test]
    fn many_calls_of_some_devices_have_none_forgotten_of_another() {
        let instance = |number: u128| InstanceId::new((number + 1) << 16, ShardTag(0));
        let id = |number: u128| CallId::new(number << 16, ShardTag(0));
        let mut calls = Calls::default();
        // Rings, and is the oldest.
        calls.remember(id(0), instance(0), Call { waiting: false, ..call(900) });
        for number in 1..=60_000 {
            let waiting = number > 55_000;
            let over = Call { state: CallState::TimedOut, ..call(1_000) };
            calls.remember(id(number), instance(1 + number % 1_000), Call { waiting, ..over });
        }
        assert_eq!(calls.known.len(), CALLS);
        assert!(calls.of(instance(0), id(0)).is_some());
        assert_eq!(calls.all_of(instance(7)).len(), 50);
        assert!((55_001..=60_000).all(|number| calls.of(instance(1 + number % 1_000), id(number)).is_some()));
        let of_one = calls.all_of(instance(7));
        assert!(of_one.is_sorted_by_key(|(id, _)| *id) && of_one.iter().all(|(_, known)| known.deadline.unix == 1_000));

        calls.succeed(id(60_000), instance(1), instance(5_000));
        assert!(calls.of(instance(1), id(60_000)).is_none() && calls.of(instance(5_000), id(60_000)).is_some());
        calls.get_mut(id(0), instance(0)).unwrap().state = CallState::Answered;
        calls.forget_old(moment(1_060).at);
        let rest = (calls.order.len(), calls.of_device.len(), calls.counts.len(), calls.by_count.len());
        assert_eq!((calls.known.len(), rest), (0, (0, 0, 0, 0)));
    }

    #[test]
    fn what_waits_for_its_device_is_forgotten_last() {
        let (instance, id) = (InstanceId::new(1 << 16, ShardTag(0)), |n: u128| CallId::new(n << 16, ShardTag(0)));
        let mut calls = Calls::default();
        for number in 0..CALLS as u128 + 10 {
            calls.remember(id(number), instance, Call { waiting: number < 16, ..call(1_000) });
        }
        assert!((0..16).all(|number| calls.of(instance, id(number)).is_some()));
        assert!((16..26).all(|number| calls.of(instance, id(number)).is_none()));
    }
}

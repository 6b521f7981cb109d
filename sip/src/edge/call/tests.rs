//! A call walks the rows of its table, one device and several.

use crate::edge::caller_key::CallerKeys;
use crate::flow::{Side, Source, Transport};
use crate::id::ShardTag;
use crate::message::Limits;
use crate::transaction::{Reply, RequestKey, Table, Timing};

use super::*;

const NO_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(4);
const RING: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(120);

fn device(number: u128) -> InstanceId {
    InstanceId::new(number << 16, ShardTag(0))
}

fn waiting(now: Instant) -> Call {
    waiting_for(now, &[device(1)])
}

fn waiting_for(now: Instant, instances: &[InstanceId]) -> Call {
    let text = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\nFrom: <sip:bob@example.com>;tag=1\r\n\
                To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n";
    let invite = Message::parse(&text.into(), &Limits::default()).unwrap();
    let flow = FlowId::Datagram("192.0.2.1:5060".parse().unwrap());
    let source = Source {
        flow,
        side: Side::Upstream,
        transport: Transport::Udp,
        peer: "192.0.2.1:5060".parse().unwrap(),
        split: false,
    };
    let key = RequestKey::of(&invite, invite.via().as_ref(), source.side);
    let reply = Reply { flow, side: source.side, key: &key };
    let server = Table::<(), ()>::new(1, Timing::default(), false).open(&invite, reply, ()).unwrap();
    let tag = ShardTag(0);
    let (call, binding) = (CallId::new(1, tag), BindingId::new(1, tag));
    let timing = EdgeTiming::default();
    let caller = crate::edge::caller::caller(&invite);
    let key = CallerKeys::default().of(&caller.0);
    let mut waiting = Call::expected(now, timing, RING, call, binding, key);
    let mark = InviteMark::of(&invite);
    let invite = Invite::new(now, timing, server, source, (invite, mark, None), "tag".into());
    waiting.arrive(now, RING, instances, invite, caller);
    waiting
}

fn branch(number: u64) -> BranchId {
    BranchId::new(u128::from(number) << 16, ShardTag(0))
}

fn response(status: u16) -> Message {
    let text = format!(
        "SIP/2.0 {status} x\r\nVia: SIP/2.0/TLS r;branch=z9hG4bK2\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\n\
         From: <sip:bob@example.com>;tag=1\r\nTo: <sip:a@b>;tag=2\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n"
    );
    Message::parse(&text.into(), &Limits::default()).unwrap()
}

/// A call with a leg on each of these flows that is still forked to the last alone.
fn forked(now: Instant, flows: &[u64]) -> Call {
    let mut pending = waiting(now);
    for flow in flows {
        pending.forked(branch(*flow), device(1), FlowId::Stream(*flow));
    }
    pending
}

/// The three states of a call that waits, and each final one.
fn in_state(now: Instant, state: CallState) -> Call {
    let mut pending = forked(now, &[1]);
    match state {
        CallState::Waking => {}
        CallState::Ringing => assert_eq!(pending.on_response(now, branch(1), &response(180), ANSWER), Outcome::Pass),
        CallState::Answered => assert_eq!(pending.on_response(now, branch(1), &response(200), ANSWER), Outcome::Answer),
        CallState::Cancelled => assert_eq!(pending.cancel(now, CallState::Cancelled), (vec![branch(1)], true)),
        CallState::AnsweredElsewhere => {
            assert_eq!(pending.cancel(now, CallState::AnsweredElsewhere), (vec![branch(1)], true))
        }
        ended => assert_eq!(pending.end(ended), Some(vec![branch(1)])),
    }
    if state.is_final() {
        pending.close();
    }
    assert_eq!(pending.state(), state);
    pending
}

const FINAL: [CallState; 5] =
    [CallState::Answered, CallState::Cancelled, CallState::AnsweredElsewhere, CallState::Declined, CallState::TimedOut];

#[test]
fn a_call_walks_every_row_of_its_table() {
    use CallState::{Answered, Declined, Ringing, Waking};
    let now = Instant::now();
    for (from, status, outcome, to) in [
        (Waking, 100, Outcome::Ignore, Waking),
        (Waking, 180, Outcome::Pass, Ringing),
        (Waking, 199, Outcome::Tell, Waking),
        (Waking, 200, Outcome::Answer, Answered),
        (Waking, 486, Outcome::Fail, Declined),
        (Waking, 603, Outcome::Fail, Declined),
        (Waking, 482, Outcome::Fail, Declined),
        (Ringing, 100, Outcome::Ignore, Ringing),
        (Ringing, 183, Outcome::Pass, Ringing),
        (Ringing, 199, Outcome::Tell, Ringing),
        (Ringing, 202, Outcome::Answer, Answered),
        (Ringing, 302, Outcome::Fail, Declined),
        (Ringing, 603, Outcome::Fail, Declined),
        (Ringing, 482, Outcome::Fail, Declined),
    ] {
        let mut pending = in_state(now, from);
        assert_eq!(pending.on_response(now, branch(1), &response(status), ANSWER), outcome, "{from:?} {status}");
        assert_eq!(pending.state(), to, "{from:?} {status}");
    }
    for state in FINAL {
        for (status, outcome) in
            [(180, Outcome::Ignore), (199, Outcome::Ignore), (486, Outcome::Ignore), (200, Outcome::TooLate)]
        {
            // A winner's 2xx that comes again passes again: its ACK was lost (RFC 6026).
            let again = state == Answered && status == 200;
            let expected = if again { Outcome::Answer } else { outcome };
            let mut pending = in_state(now, state);
            assert_eq!(pending.on_response(now, branch(1), &response(status), ANSWER), expected, "{state:?} {status}");
            assert_eq!((pending.state(), pending.is_closed()), (state, true));
        }
    }
}

#[test]
fn a_final_state_is_left_by_nothing() {
    let now = Instant::now();
    for state in FINAL {
        let mut pending = in_state(now, state);
        assert!(!pending.wants(device(1), FlowId::Stream(9)) && !pending.wake(device(1)) && !pending.ring(device(1)));
        assert_eq!(pending.cancel(now, CallState::Cancelled), (vec![], false));
        assert_eq!(pending.end(CallState::TimedOut), None);
        assert_eq!(pending.on_leg_lost(branch(1)), Outcome::Ignore);
        assert_eq!((pending.deadline(now), pending.on_deadline(now + ANSWER)), (None, None));
        assert_eq!((pending.state(), pending.invite().is_none()), (state, true));
    }
}

#[test]
fn a_deadline_is_480_when_none_came_and_408_when_a_device_rang() {
    let now = Instant::now();
    let mut none = waiting(now);
    none.wake(device(1));
    assert_eq!(none.deadline(now), Some(now + RING));
    assert_eq!(none.on_deadline(now + RING - Duration::from_millis(1)), None);
    assert_eq!(none.on_deadline(now + RING), Some(480));
    assert!(none.ring(device(1)) && !none.ring(device(1)), "the caller hears the push's ringing once");
    assert_eq!(none.on_deadline(now + RING), Some(480), "a push that rang is no device");
    let rang = in_state(now, CallState::Ringing);
    assert_eq!(rang.on_deadline(now + RING), None, "an answering device has its own time");
    assert_eq!(rang.on_deadline(now + ANSWER), Some(408));
}

#[test]
fn no_leg_of_a_call_that_is_over_may_be_answered_but_the_winner_s() {
    let now = Instant::now();
    let three = || {
        let mut pending = waiting_for(now, &[device(1), device(2), device(3)]);
        for number in 1..=3 {
            pending.forked(branch(number), device(number.into()), FlowId::Stream(number));
        }
        pending.on_response(now, branch(1), &response(180), ANSWER);
        pending.on_flow_left(device(1), FlowId::Stream(1));
        pending.on_response(now, branch(2), &response(486), ANSWER);
        pending
    };
    assert_eq!(three().close(), [branch(1), branch(3)]);
    let mut answered = three();
    assert_eq!(answered.on_response(now, branch(3), &response(200), ANSWER), Outcome::Answer);
    assert_eq!((answered.close(), answered.close()), (vec![branch(1)], vec![]));
}

#[test]
fn each_device_that_rings_has_its_time_whatever_has_rung_before_it() {
    let now = Instant::now();
    let mut pending = waiting_for(now, &[device(1), device(2)]);
    pending.forked(branch(1), device(1), FlowId::Stream(1));
    assert_eq!(pending.on_response(now, branch(1), &response(100), ANSWER), Outcome::Ignore);
    assert!(pending.ring(device(2)), "its push was accepted");
    assert_eq!(pending.until(), now + RING, "nobody rings by SIP");
    assert_eq!(pending.on_response(now + RING / 2, branch(1), &response(180), ANSWER), Outcome::Pass);
    assert_eq!(pending.until(), now + RING / 2 + ANSWER);
    pending.on_response(now + RING / 2 + ANSWER / 2, branch(1), &response(183), ANSWER);
    assert_eq!(pending.until(), now + RING / 2 + ANSWER, "once for each leg");
    pending.forked(branch(2), device(2), FlowId::Stream(2));
    pending.on_response(now + ANSWER, branch(2), &response(180), ANSWER);
    assert_eq!(pending.until(), now + RING + ANSWER, "the longest that a call may take");
}

#[test]
fn what_a_device_refuses_by_itself_its_user_has_missed() {
    use CallState::{Declined, TimedOut};
    let now = Instant::now();
    for (status, unheard, heard) in [
        (302, Declined, Declined),
        (486, Declined, Declined),
        (603, Declined, Declined),
        (482, Declined, Declined),
        (400, TimedOut, Declined),
        (404, TimedOut, Declined),
        (415, TimedOut, Declined),
        (420, TimedOut, Declined),
        (480, TimedOut, Declined),
        (488, TimedOut, Declined),
        (408, TimedOut, TimedOut),
        (487, TimedOut, TimedOut),
        (500, TimedOut, TimedOut),
        (503, TimedOut, TimedOut),
    ] {
        for (rings, state) in [(false, unheard), (true, heard)] {
            let mut pending = if rings { in_state(now, CallState::Ringing) } else { forked(now, &[1]) };
            pending.take_changes();
            assert_eq!(pending.on_response(now, branch(1), &response(status), ANSWER), Outcome::Fail);
            assert_eq!(pending.take_changes(), [(device(1), state)], "{status}, rings: {rings}");
            assert_eq!(pending.state(), Declined, "the caller's server was refused");
            pending.close();
            assert_eq!(pending.missed_by(device(1)), (state == TimedOut).then_some(TimedOut), "{status}");
        }
    }
    for (status, missed) in [(486, None), (500, Some(TimedOut))] {
        let mut pending = waiting_for(now, &[device(1), device(2)]);
        for number in [1, 2] {
            pending.forked(branch(number), device(number.into()), FlowId::Stream(number));
        }
        assert_eq!(pending.on_response(now, branch(1), &response(488), ANSWER), Outcome::Ignore);
        assert_eq!(pending.on_response(now, branch(2), &response(status), ANSWER), Outcome::Fail);
        pending.close();
        assert_eq!(pending.missed_by(device(1)), missed, "the user of both has declined, or not: {status}");
    }
}

#[test]
fn a_cancel_waits_for_the_legs_that_live_and_not_for_longer_than_its_time() {
    let now = Instant::now();
    let mut unanswered = forked(now, &[1]);
    assert_eq!(unanswered.cancel(now, CallState::Cancelled), (vec![branch(1)], true), "no response yet: 487 at once");
    let mut alive = in_state(now, CallState::Ringing);
    assert_eq!(alive.cancel(now, CallState::Cancelled), (vec![branch(1)], false));
    assert_eq!(alive.deadline(now), Some(now + NO_RESPONSE_TIMEOUT), "a deadline comes early rather than never");
    assert_eq!(alive.on_deadline(now + CANCEL_TIMEOUT), Some(487));
    assert_eq!(alive.on_response(now, branch(1), &response(487), ANSWER), Outcome::Terminated);
    let mut crossed = in_state(now, CallState::Ringing);
    crossed.cancel(now, CallState::Cancelled);
    assert_eq!(crossed.on_response(now, branch(1), &response(200), ANSWER), Outcome::Answer, "RFC 3261 §9.1");
    let mut lost = in_state(now, CallState::Ringing);
    lost.cancel(now, CallState::Cancelled);
    assert_eq!(lost.on_leg_lost(branch(1)), Outcome::Terminated);
}

#[test]
fn a_flow_gets_one_leg_and_a_device_that_moved_gets_another() {
    let now = Instant::now();
    let mut pending = waiting(now);
    assert!(pending.wants(device(1), FlowId::Stream(1)));
    assert_eq!(pending.forked(branch(1), device(1), FlowId::Stream(1)), []);
    assert!(!pending.wants(device(1), FlowId::Stream(1)) && pending.wants(device(1), FlowId::Stream(2)));
    assert_eq!(pending.forked(branch(2), device(1), FlowId::Stream(2)), [], "it may ring by the first one");
    assert_eq!(pending.on_response(now, branch(1), &response(487), ANSWER), Outcome::Ignore);
    assert_eq!(pending.state(), CallState::Waking);
    assert_eq!(pending.on_response(now, branch(2), &response(200), ANSWER), Outcome::Answer);
    assert_eq!(
        pending.on_response(now, branch(1), &response(200), ANSWER),
        Outcome::TooLate,
        "a second answer is ended"
    );
    assert_eq!(pending.on_response(now, branch(7), &response(200), ANSWER), Outcome::Ignore, "no leg of this call");
}

#[test]
fn of_a_device_that_says_nothing_by_many_flows_the_oldest_leg_is_over() {
    let now = Instant::now();
    let mut pending = waiting_for(now, &[device(1), device(2)]);
    pending.forked(branch(9), device(2), FlowId::Stream(9));
    for number in 1..=4 {
        assert_eq!(pending.forked(branch(number), device(1), FlowId::Stream(number)), []);
    }
    assert_eq!(pending.forked(branch(5), device(1), FlowId::Stream(5)), [branch(1)]);
    assert_eq!(pending.forked(branch(6), device(1), FlowId::Stream(6)), [branch(2)]);
    pending.on_response(now, branch(3), &response(100), ANSWER);
    assert_eq!(pending.forked(branch(7), device(1), FlowId::Stream(7)), [], "one has spoken");
}

/// A device has said nothing by its first leg, and refuses its second one so.
fn refused_unheard(now: Instant, status: u16) -> (Call, Outcome) {
    let mut pending = forked(now, &[1, 2]);
    let outcome = pending.on_response(now, branch(2), &response(status), ANSWER);
    (pending, outcome)
}

#[test]
fn a_refusal_beside_a_leg_of_which_nothing_was_heard_counts_when_nothing_is_heard_of_it_in_its_time() {
    let now = Instant::now();
    let due = now + EdgeTiming::default().first_sign;
    let (mut silent, outcome) = refused_unheard(now, 486);
    assert_eq!(
        (outcome, silent.silent(now + NO_RESPONSE_TIMEOUT).len()),
        (Outcome::Ignore, 0),
        "no push for a refusal"
    );
    assert_eq!((silent.refusal_due(), silent.deadline(now + NO_RESPONSE_TIMEOUT)), (Some(due), Some(due)));
    assert!(silent.settle_refusal(due - Duration::from_millis(1)).is_none());
    assert_eq!(silent.settle_refusal(due), Some((vec![branch(1)], Outcome::Fail)));
    assert_eq!((silent.state(), silent.settle_refusal(due)), (CallState::Declined, None));
    for status in [100, 180] {
        let (mut rings, _) = refused_unheard(now, 486);
        rings.on_response(now, branch(1), &response(status), ANSWER);
        assert_eq!((rings.refusal_due(), rings.settle_refusal(due)), (None, None), "{status}");
        assert_eq!(rings.on_response(now, branch(1), &response(200), ANSWER), Outcome::Answer);
    }
    let (mut both, _) = refused_unheard(now, 486);
    assert_eq!(both.on_response(now, branch(1), &response(486), ANSWER), Outcome::Fail, "it has refused all");
    let (mut first, _) = refused_unheard(now, 486);
    first.forked(branch(3), device(1), FlowId::Stream(3));
    assert_eq!(first.on_response(now, branch(1), &response(486), ANSWER), Outcome::Ignore);
    assert_eq!(first.on_response(now, branch(3), &response(482), ANSWER), Outcome::Fail, "a copy of what it refused");
    assert_eq!(refused_unheard(now, 603).1, Outcome::Fail, "it refuses for all");
    let (mut cancelled, _) = refused_unheard(now, 486);
    cancelled.cancel(now, CallState::Cancelled);
    assert_eq!((cancelled.refusal_due(), cancelled.settle_refusal(due)), (None, None));
}

#[test]
fn a_device_whose_refusal_may_count_gets_no_further_leg_and_no_push() {
    let now = Instant::now();
    let mut refused = forked(now, &[1]);
    refused.on_flow_left(device(1), FlowId::Stream(1));
    assert_eq!(refused.on_flow_found(device(1), FlowId::Stream(2)), [branch(1)]);
    refused.forked(branch(2), device(1), FlowId::Stream(2));
    assert_eq!(refused.on_response(now, branch(2), &response(486), ANSWER), Outcome::Ignore);
    assert_eq!(refused.on_flow_left(device(1), FlowId::Stream(2)), Some(Outcome::Ignore));
    assert!(!refused.wake(device(1)), "its user has declined");
    assert_eq!(refused.on_flow_found(device(1), FlowId::Stream(3)), [branch(1)]);
    assert!(!refused.wants(device(1), FlowId::Stream(3)), "it would ring anew");
    refused.on_response(now, branch(1), &response(180), ANSWER);
    assert!(refused.wants(device(1), FlowId::Stream(4)), "it rings by the first, and may lose that again");
}

#[test]
fn a_leg_of_which_a_device_says_that_another_one_is_a_copy_is_alive() {
    let now = Instant::now();
    let mut pending = forked(now, &[1, 2]);
    assert_eq!(pending.confirmed_by(branch(1)), []);
    assert_eq!(pending.confirmed_by(branch(2)), [branch(1)]);
    assert_eq!(pending.on_response(now, branch(2), &response(482), ANSWER), Outcome::Ignore);
    assert_eq!((pending.silent(now + NO_RESPONSE_TIMEOUT), pending.state()), (vec![], CallState::Waking));
    assert_eq!(pending.cancel(now, CallState::Cancelled), (vec![branch(1)], false), "its 200 may cross");
}

#[test]
fn a_caller_that_gives_up_ends_the_call_at_once_for_whoever_has_said_nothing() {
    let now = Instant::now();
    for state in [CallState::Cancelled, CallState::AnsweredElsewhere, CallState::Declined] {
        let given_up = || {
            let mut pending = waiting_for(now, &[device(1), device(2), device(3)]);
            pending.forked(branch(1), device(1), FlowId::Stream(1));
            pending.forked(branch(2), device(2), FlowId::Stream(2));
            pending.on_response(now, branch(1), &response(180), ANSWER);
            pending.take_changes();
            assert_eq!(pending.cancel(now, state), (vec![branch(1), branch(2)], false));
            assert_eq!(pending.take_changes(), [(device(2), state), (device(3), state)]);
            assert_eq!(pending.crossing(), [device(1)]);
            pending
        };
        let mut late = given_up();
        assert_eq!(late.on_response(now, branch(2), &response(200), ANSWER), Outcome::TooLate);
        assert_eq!(
            late.on_response(now, branch(1), &response(487), ANSWER),
            Outcome::Terminated,
            "nobody else is waited for"
        );
        late.close();
        assert_eq!((late.take_changes(), late.crossing()), (vec![(device(1), state)], vec![]));
        let mut crossed = given_up();
        assert_eq!(crossed.on_response(now, branch(1), &response(200), ANSWER), Outcome::Answer, "RFC 3261 §9.1");
        crossed.close();
        assert_eq!(crossed.take_changes(), [(device(1), CallState::Answered)]);
    }
}

/// A device that rang has come by another flow, and has got the INVITE there.
fn moved(now: Instant) -> Call {
    let mut pending = in_state(now, CallState::Ringing);
    assert_eq!(pending.on_flow_left(device(1), FlowId::Stream(2)), None, "nothing was there");
    assert_eq!(pending.on_flow_left(device(1), FlowId::Stream(1)), Some(Outcome::Ignore));
    assert!(!pending.has_live_leg(device(1)) && !pending.wants(device(1), FlowId::Stream(1)));
    assert_eq!(pending.on_flow_found(device(1), FlowId::Stream(2)), [branch(1)]);
    assert!(pending.has_live_leg(device(1)));
    assert!(
        pending.wants(device(1), FlowId::Stream(2)),
        "it has begun on another flow, and gets a leg of its own beside"
    );
    assert_eq!(pending.forked(branch(2), device(1), FlowId::Stream(2)), [], "the leg that rang goes on");
    pending
}

#[test]
fn what_a_device_that_rings_says_to_its_second_leg_is_no_answer_of_the_call() {
    let now = Instant::now();
    for status in [482, 486, 500] {
        let mut refused = moved(now);
        assert_eq!(refused.on_response(now, branch(2), &response(status), ANSWER), Outcome::Ignore, "{status}");
        assert_eq!(refused.on_response(now, branch(1), &response(486), ANSWER), Outcome::Fail, "{status}");
        let mut answered = moved(now);
        assert_eq!(answered.on_response(now, branch(2), &response(status), ANSWER), Outcome::Ignore, "{status}");
        assert_eq!(answered.on_response(now, branch(1), &response(200), ANSWER), Outcome::Answer, "{status}");
    }
    assert_eq!(moved(now).on_response(now, branch(2), &response(603), ANSWER), Outcome::Fail, "it refuses for all");
}

#[test]
fn a_device_that_rings_by_its_second_leg_has_it_in_place_of_the_first() {
    let now = Instant::now();
    let mut again = moved(now);
    assert_eq!(again.on_response(now, branch(2), &response(180), ANSWER), Outcome::Pass);
    assert_eq!(again.replaced_by(branch(2)), [branch(1)]);
    assert_eq!(again.replaced_by(branch(2)), []);
    assert_eq!(again.on_response(now, branch(2), &response(486), ANSWER), Outcome::Fail);
    let mut first = moved(now);
    assert_eq!(first.on_response(now, branch(1), &response(180), ANSWER), Outcome::Pass);
    assert_eq!(first.replaced_by(branch(1)), [], "not the other way round");
}

#[test]
fn a_cancel_finds_a_leg_whose_flow_is_lost_and_its_caller_waits_for_nobody() {
    let now = Instant::now();
    let mut lost = in_state(now, CallState::Ringing);
    assert_eq!(lost.on_flow_left(device(1), FlowId::Stream(1)), Some(Outcome::Ignore));
    assert_eq!(lost.cancel(now, CallState::Cancelled), (vec![branch(1)], true));
    let mut cancelled = in_state(now, CallState::Ringing);
    cancelled.cancel(now, CallState::Cancelled);
    assert_eq!(cancelled.on_flow_left(device(1), FlowId::Stream(1)), Some(Outcome::Terminated));
}

#[test]
fn a_lost_leg_leaves_the_call_waiting_and_a_silent_one_has_the_device_woken() {
    let now = Instant::now();
    let mut pending = in_state(now, CallState::Ringing);
    assert_eq!(pending.on_leg_lost(branch(1)), Outcome::Ignore);
    assert!(
        !pending.has_live_leg(device(1))
            && pending.wants(device(1), FlowId::Stream(2))
            && !pending.wants(device(1), FlowId::Stream(1))
    );
    assert_eq!(pending.state(), CallState::Ringing);
    assert_eq!(pending.on_deadline(now + ANSWER), Some(480), "it rang, but is gone");
    let mut silent = forked(now, &[1]);
    assert_eq!(silent.silent(now + NO_RESPONSE_TIMEOUT - Duration::from_millis(1)), []);
    assert_eq!(silent.silent(now + NO_RESPONSE_TIMEOUT), [device(1)]);
    assert!(silent.wake(device(1)) && !silent.wake(device(1)), "once");
    let mut alive = forked(now, &[1]);
    alive.on_response(now, branch(1), &response(100), ANSWER);
    assert_eq!(alive.silent(now + NO_RESPONSE_TIMEOUT), []);
}

#[test]
fn the_time_from_invite_to_device_is_told_once() {
    let now = Instant::now();
    let mut pending = waiting(now);
    assert_eq!(pending.note_attached(now + Duration::from_secs(3), device(1)), Some(Duration::from_secs(3)));
    assert_eq!(pending.note_attached(now + Duration::from_secs(4), device(1)), None);
}

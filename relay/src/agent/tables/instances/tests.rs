//! Rows, leases and reminders of the table.

use sip::id::ShardTag;

use super::*;
use crate::clock::later;
use crate::limits::holdings::Holdings;
use crate::secret::InstanceSecret;

const END: u64 = 1_795_000_000;

fn instances(lease: LeaseExpiry) -> (Instances, InstanceId) {
    let id = InstanceId::new(1 << 16, ShardTag(0));
    let mut instances = Instances::default();
    let sealed = Sealed::from_bytes(InstanceSecret::new("not opened here").expose().as_bytes().to_vec());
    let place = Holdings::default().count(&[]);
    instances.insert(Row::new(id, sealed, UpstreamId(1), Fence::NEW, lease, AorKey::FIRST, place));
    (instances, id)
}

#[test]
fn a_clock_that_jumps_over_the_whole_lease_ends_it_without_a_reminder() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    assert_eq!(instances.pop_due(END - 90_000), None);
    assert_eq!(instances.pop_due(END), Some((id, Due::End)));
    assert_eq!(instances.pop_due(END), None, "an end is told once");
    assert!(instances.remove(id).is_some());
}

#[test]
fn a_registration_that_is_lost_for_long_is_told_once_and_one_that_comes_back_in_time_is_not() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    let begun = END - 200_000;
    instances.set_lost(id, begun, begun + 600);
    instances.set_lost(id, begun + 30, begun + 630);
    assert!(!instances.set_not_lost(id), "nobody was told");
    assert_eq!(instances.pop_due(begun + 700), None);
    assert_eq!(instances.get(id).map(|row| row.lost_for(begun + 700)), Some(0));
    instances.set_lost(id, begun + 1_000, begun + 1_600);
    assert_eq!(instances.get(id).map(|row| row.lost_for(begun + 1_060)), Some(60));
    assert_eq!(instances.next_moment(), Some(begun + 1_600));
    assert_eq!(instances.pop_due(begun + 1_600), Some((id, Due::Lost { since: begun + 1_000 })));
    assert_eq!(instances.take_told(id, Event::RegistrationFailing), Some(Notice::Lost));
    assert_eq!(instances.pop_due(begun + 5_000), None, "once");
    assert_eq!(instances.get(id).and_then(Row::failing_since), Some(begun + 1_000));
    assert!(instances.set_not_lost(id));
    assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))), "the lease goes on");
}

#[test]
fn a_reminder_that_no_service_takes_is_due_again_and_counts_once_it_is_taken() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    let begun = END - 86_400;
    assert_eq!(instances.pop_due(begun), Some((id, Due::Reminder(Reminder::Renew))));
    assert_eq!(instances.get(id).and_then(Row::reminded), None, "no service has taken it");
    assert_eq!(instances.pop_due(begun + 3_600), None);
    assert_eq!(instances.pop_due(begun + 7_200), Some((id, Due::Repeat(RepeatedNotice::Reminder(Reminder::Renew)))));
    instances.hasten_pending_notices(begun + 8_000);
    assert_eq!(instances.pop_due(begun + 8_000), Some((id, Due::Repeat(RepeatedNotice::Reminder(Reminder::Renew)))));
    assert_eq!(instances.take_told(id, Event::Expiring), None, "that is another push");
    assert_eq!(instances.take_told(id, Event::Renew), Some(Notice::Reminder(Reminder::Renew)));
    assert_eq!(instances.get(id).and_then(Row::reminded), Some(Reminder::Renew));
    assert!(!instances.has_pending_notices());
    assert_eq!(instances.pop_due(END - 43_201), None);
    assert_eq!(instances.pop_due(END - 43_200), Some((id, Due::Reminder(Reminder::Soon))));
    instances.set_lease(id, LeaseExpiry { expires_at: END + 259_200, reminded: None }, Frame::of_grants());
    assert!(!instances.has_pending_notices(), "what was said of the earlier end");
}

#[test]
fn a_loss_that_no_service_takes_is_due_again_and_one_that_an_earlier_run_told_is_told_no_more() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    let begun = END - 300_000;
    instances.set_lost(id, begun, begun + 600);
    assert_eq!(instances.pop_due(begun + 600), Some((id, Due::Lost { since: begun })));
    assert_eq!(instances.pop_due(begun + 7_800), Some((id, Due::Repeat(RepeatedNotice::Lost(begun)))));
    assert!(instances.set_not_lost(id), "it may have been taken");
    assert!(!instances.has_pending_notices());
    instances.set_restored(id, begun + 8_000);
    assert_eq!(instances.take_told(id, Event::RegistrationFailing), None);
    assert_eq!(instances.take_told(id, Event::RegistrationRestored), Some(Notice::Restored));
    instances.set_told_lost(id, begun + 9_000);
    instances.set_lost(id, begun + 9_001, begun + 9_601);
    assert_eq!(instances.pop_due(begun + 20_000), None, "an earlier run has told it");
    assert!(instances.set_not_lost(id));
}

#[test]
fn a_lease_that_a_clock_granted_which_was_ahead_ends_like_any_other() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END + 30 * 86_400, reminded: None });
    instances.cut_leases(END);
    assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))));
    assert_eq!(instances.pop_due(END), Some((id, Due::End)));
    instances.cut_leases(END);
    assert_eq!(instances.pop_due(END), None, "and once");
}

#[test]
fn a_lease_lasts_as_long_as_it_was_granted_whichever_clock_is_trusted_then() {
    const JUMP: u64 = 864_000;
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: Some(Reminder::Renew) });
    let ends_at = |instances: &Instances| instances.get(id).map(Row::expires_at);
    let before = Frame::of_grants();
    instances.set_lease_clock(id, before);
    assert_eq!(instances.move_ends_to(before), []);
    for (by_s, end) in [(JUMP as i64, END + JUMP), (0, END)] {
        let frame = later(before, by_s);
        assert_eq!(instances.move_ends_to(frame), [id]);
        assert_eq!(ends_at(&instances), Some(end));
        assert_eq!(instances.move_ends_to(frame), [], "once");
    }
    assert_eq!(instances.move_ends_to(later(before, JUMP as i64)), [id]);
    assert_eq!(instances.pop_due(END + JUMP - 43_201), None);
    assert_eq!(instances.pop_due(END + JUMP - 43_200), Some((id, Due::Reminder(Reminder::Soon))), "the next one");
    // The right clock grants.
    instances.set_lease(id, LeaseExpiry { expires_at: END + 5, reminded: None }, Frame::of_grants());
    assert_eq!(instances.move_ends_to(before), []);
    assert_eq!(instances.pop_due(END + 5), Some((id, Due::End)));
    assert_eq!(instances.move_ends_to(later(before, JUMP as i64)), [], "its end was told");
}

#[test]
fn an_end_that_was_told_is_not_told_again_by_a_loss_and_is_by_a_new_lease() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: Some(Reminder::VerySoon) });
    assert_eq!(instances.pop_due(END), Some((id, Due::End)));
    instances.set_lost(id, END, END + 600);
    instances.set_not_lost(id);
    assert_eq!(instances.pop_due(END + 1_000), None);
    instances.set_lease(
        id,
        LeaseExpiry { expires_at: END + 2_000, reminded: Some(Reminder::VerySoon) },
        Frame::of_grants(),
    );
    assert_eq!(instances.pop_due(END + 2_000), Some((id, Due::End)));
}

#[test]
fn a_lease_is_cut_that_ends_more_than_an_hour_late_and_no_other() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END + 3_600, reminded: None });
    instances.cut_leases(END);
    assert_eq!(instances.get(id).map(Row::expires_at), Some(END + 3_600));
    instances.set_lease(id, LeaseExpiry { expires_at: END + 3_601, reminded: None }, Frame::of_grants());
    instances.cut_leases(END);
    assert_eq!(instances.get(id).map(Row::expires_at), Some(END));
    // The clock was set back.
    instances.cut_leases(END - 10_000);
    assert_eq!(instances.get(id).map(Row::expires_at), Some(END - 10_000));
    // More changes than rows, while the clock is not believed.
    for _ in 0..5 {
        instances.set_lease(id, LeaseExpiry { expires_at: END + 100_000, reminded: None }, Frame::of_grants());
    }
    assert!(instances.ahead.len() <= 1);
    instances.cut_leases(END - 10_000);
    assert_eq!(instances.get(id).map(Row::expires_at), Some(END - 10_000));
    assert!(instances.remove(id).is_some());
    instances.cut_leases(END - 20_000);
    assert_eq!(instances.pop_due(END), None);
}

#[test]
fn a_row_is_found_by_its_own_id_and_account_whatever_else_has_their_hash() {
    let mut instances = Instances::default();
    let lease = LeaseExpiry { expires_at: END, reminded: None };
    let place = || Holdings::default().count(&[]);
    for number in 1..=300_u128 {
        let id = InstanceId::new(number << 16, ShardTag(0));
        let sealed = Sealed::from_bytes(vec![0; 60]);
        instances.insert(Row::new(
            id,
            sealed,
            UpstreamId(1),
            Fence::NEW,
            lease,
            AorKey::of_number(number / 3),
            place(),
        ));
    }
    // All have the hash of the first.
    for slot in 1..300 {
        let (id, aor) = instances.row(slot).map(|row| (row.id, row.aor)).unwrap();
        instances.ids.remove(instances.hasher.hash_one(id), slot);
        instances.accounts.remove(instances.hasher.hash_one(aor), slot);
    }
    let asked = InstanceId::new(1 << 16, ShardTag(0));
    for slot in 1..300 {
        instances.ids.insert(instances.hasher.hash_one(asked), slot);
        instances.accounts.insert(instances.hasher.hash_one(AorKey::of_number(0)), slot);
    }
    assert_eq!(instances.get(asked).map(|row| row.id), Some(asked));
    assert_eq!(instances.of_account(AorKey::of_number(0)).len(), 2, "the first two of the three");
}

#[test]
fn a_row_that_is_put_again_is_one() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    let (sealed, place) = (Sealed::from_bytes(vec![0; 60]), Holdings::default().count(&[]));
    let lease = LeaseExpiry { expires_at: END + 500, reminded: Some(Reminder::VerySoon) };
    instances.insert(Row::new(id, sealed, UpstreamId(2), Fence::NEW, lease, AorKey::FIRST, place));
    assert_eq!((instances.ids_after(None, 9), instances.of_account(AorKey::FIRST)), (vec![id], vec![id]));
    assert_eq!(instances.pop_due(END), None);
    assert_eq!(instances.pop_due(END + 500), Some((id, Due::End)));
}

#[test]
fn a_row_that_goes_leaves_nothing_behind_for_the_next_one_in_its_slot() {
    let (mut instances, gone) = instances(LeaseExpiry { expires_at: END, reminded: None });
    assert!(instances.remove(gone).is_some());
    assert!(instances.get(gone).is_none());
    assert!(instances.of_account(AorKey::FIRST).is_empty());
    let next = InstanceId::new(2 << 16, ShardTag(0));
    let lease = LeaseExpiry { expires_at: END + 1_000, reminded: None };
    let (sealed, place) = (Sealed::from_bytes(vec![0; 60]), Holdings::default().count(&[]));
    instances.insert(Row::new(next, sealed, UpstreamId(1), Fence::NEW, lease, AorKey::FIRST, place));
    assert_eq!(instances.of_account(AorKey::FIRST), [next]);
    assert_eq!(instances.ids_after(None, 9), [next]);
    assert_eq!(instances.pop_due(END - 86_400), None, "that was the reminder of the one that is gone");
    assert_eq!(instances.pop_due(END - 85_400), Some((next, Due::Reminder(Reminder::Renew))));
}

/// Sizes from the table of memory in `docs/performance.md`; the allocator has blocks of 112 and of 128.
#[test]
fn a_row_fits_its_block() {
    assert!(size_of::<Row>() <= 128, "{}", size_of::<Row>());
}

#[test]
fn a_renewed_lease_reminds_before_its_new_end_and_not_before_its_old_one() {
    let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
    assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))));
    assert!(instances.take_told(id, Event::Renew).is_some());
    assert_eq!(instances.pop_due(END - 50_000), None, "once");
    instances.set_lease(id, LeaseExpiry { expires_at: END + 259_200, reminded: None }, Frame::of_grants());
    assert_eq!(instances.pop_due(END), None);
    assert_eq!(instances.next_moment(), Some(END + 259_200 - 86_400));
    assert_eq!(instances.pop_due(END + 259_200 - 3_000), Some((id, Due::Reminder(Reminder::VerySoon))));
    assert_eq!(instances.pop_due(END + 259_200), Some((id, Due::End)));
}

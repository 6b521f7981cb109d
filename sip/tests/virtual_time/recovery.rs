//! A SIP server that serves again, or bears less than it is asked, in virtual time: who begins early, how many at once, and who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::Name;

use crate::world::{World, seconds, server_address};

const STREAM: FlowId = FlowId::Stream(81);
const NEXT: FlowId = FlowId::Stream(82);

fn udp() -> FlowId {
    FlowId::Datagram(server_address())
}

fn next_udp() -> FlowId {
    FlowId::Datagram("192.0.2.12:5060".parse().unwrap())
}

fn binding(number: u128) -> BindingId {
    BindingId::new(number << 64, ShardTag(0))
}

/// A SIP server's reaction to a REGISTER.
enum Answer {
    Grant(u32),
    Status(u16),
    Silence,
}
use Answer::{Grant, Silence, Status};

/// Accounts of one SIP server, and what it was asked.
struct Crowd {
    world: World,
    accounts: u128,
    numbers: BTreeMap<String, u128>,
    /// REGISTERs of each account.
    asked: BTreeMap<u128, usize>,
}

impl Crowd {
    /// A crowd of so many accounts, each granted for so long.
    fn granted(flow: FlowId, accounts: u128, expires: u32) -> Self {
        let world = World::new(flow);
        let numbers = (1..=accounts).map(|number| (binding(number).to_string(), number)).collect();
        let mut crowd = Self { world, accounts, numbers, asked: BTreeMap::new() };
        for number in 1..=accounts {
            crowd.world.bind_another(binding(number), InstanceId::new(number << 80, ShardTag(0)));
        }
        crowd.serve(seconds(5), |_, _, _| Grant(expires));
        assert_eq!(crowd.registered(), accounts as usize);
        crowd.asked.clear();
        crowd
    }

    /// For so long the server answers as told, by the account, the flow that it asked by and the time.
    fn serve(&mut self, time: Duration, mut answer: impl FnMut(u128, FlowId, Instant) -> Answer) {
        let until = self.world.now + time;
        while self.world.now < until {
            // The next REGISTER may follow an answer at once, as on a fast network.
            while self.answer_all(&mut answer) {}
            self.world.advance(Duration::from_millis(10));
        }
    }

    fn answer_all(&mut self, answer: &mut impl FnMut(u128, FlowId, Instant) -> Answer) -> bool {
        let sent = std::mem::take(&mut self.world.sent);
        let registers: Vec<_> = sent.iter().filter(|it| it.message.method_text() == Some("REGISTER")).collect();
        for sent in &registers {
            let contact = sent.message.contacts()[0].uri().unwrap().user.unwrap().to_owned();
            let number = self.numbers[&contact];
            *self.asked.entry(number).or_default() += 1;
            let source = Source { flow: sent.flow, ..self.world.upstream };
            match answer(number, sent.flow, self.world.now) {
                Grant(expires) => {
                    self.world.reply(source, &sent.message, 200, &[("Expires", &expires.to_string())], "");
                }
                Status(status) => self.world.reply(source, &sent.message, status, &[], ""),
                Silence => {}
            }
        }
        !registers.is_empty()
    }

    fn registered(&self) -> usize {
        (1..=self.accounts).filter(|number| self.world.endpoint.is_registered(binding(*number))).count()
    }

    fn asked(&self) -> usize {
        self.asked.values().sum()
    }

    fn closes(&mut self, flow: FlowId, next: FlowId) {
        self.world.upstream.flow = next;
        self.world.input(Input::Closed(flow));
    }
}

/// A server that grants so many in a second.
fn limited(per_second: f64, mut beyond: impl FnMut() -> Answer) -> impl FnMut(u128, FlowId, Instant) -> Answer {
    let (mut tokens, mut last) = (per_second, None);
    move |_, _, now| {
        let before = last.replace(now).unwrap_or(now);
        tokens = (tokens + (now - before).as_secs_f64() * per_second).min(per_second);
        if tokens < 1.0 {
            return beyond();
        }
        tokens -= 1.0;
        Grant(3600)
    }
}

#[test]
fn a_server_that_refuses_what_is_too_much_for_it_is_not_stormed_and_has_all_accounts_soon() {
    let mut crowd = Crowd::granted(STREAM, 200, 3600);
    crowd.closes(STREAM, NEXT);
    crowd.world.sent.clear();
    let mut server = limited(20.0, || Status(503));
    crowd.serve(seconds(5), &mut server);
    assert!(crowd.asked() < 450, "{} REGISTERs in 5 s", crowd.asked());
    let mut passed = 5;
    while crowd.registered() < 200 {
        crowd.serve(seconds(1), &mut server);
        passed += 1;
        assert!(passed < 90, "{} registered", crowd.registered());
    }
    assert!(crowd.asked() < 900, "{} REGISTERs until all were registered", crowd.asked());
}

#[test]
fn a_server_that_drops_what_is_too_much_for_it_has_all_accounts_after_few_rounds() {
    let mut crowd = Crowd::granted(STREAM, 100, 3600);
    crowd.closes(STREAM, NEXT);
    crowd.world.sent.clear();
    let mut server = limited(20.0, || Silence);
    let mut each = Vec::new();
    for _ in 0..3 {
        crowd.serve(seconds(37), &mut server);
        each.push((crowd.registered(), crowd.asked()));
    }
    assert!(each[1].0 >= 95 && each[2].0 == 100 && each[2].1 < 240, "{each:?}");
}

#[test]
fn accounts_that_a_server_refuses_for_good_wait_as_long_as_they_should_while_others_are_granted() {
    for (flow, status) in [(STREAM, 503), (udp(), 430)] {
        let mut crowd = Crowd::granted(flow, 100, 12);
        crowd.serve(seconds(60), |number, _, _| if number <= 20 { Status(status) } else { Grant(12) });
        let most = (1..=20).filter_map(|number| crowd.asked.get(&number)).max().unwrap();
        // Each waits 3 to 6 s, half of what is granted, and is begun early once between.
        assert!(*most < 30, "{status}: {:?}", crowd.asked);
        assert_eq!(crowd.registered(), 80, "{status}: the others stand");
    }
}

#[test]
fn an_account_that_is_granted_seconds_has_no_other_one_asked_for_sooner() {
    let mut crowd = Crowd::granted(STREAM, 5, 600);
    crowd.serve(seconds(2_400), |number, _, _| if number == 1 { Grant(10) } else { Status(503) });
    let others: Vec<_> = (2..=5).map(|number| crowd.asked[&number]).collect();
    // After half a minute, twice that and so on, to half of what each was granted.
    assert!(others.iter().all(|asked| *asked <= 25), "{others:?}");
    crowd.serve(seconds(310), |number, _, _| Grant(if number == 1 { 10 } else { 600 }));
    assert_eq!(crowd.registered(), 5, "all are back within half of it");
}

#[test]
fn after_an_outage_a_few_begin_and_all_are_back_after_some_round_trips() {
    let mut crowd = Crowd::granted(udp(), 400, 120);
    crowd.serve(seconds(600), |_, _, _| Status(503));
    assert_eq!(crowd.registered(), 0);
    crowd.asked.clear();
    let mut first = None;
    while crowd.asked.is_empty() {
        crowd.serve(Duration::from_millis(10), |number, _, _| {
            if *first.get_or_insert(number) == number { Grant(3600) } else { Silence }
        });
    }
    crowd.serve(Duration::from_millis(500), |_, _, _| Silence);
    assert!((5..=8).contains(&crowd.asked.len()), "a few: {:?}", crowd.asked);
    crowd.serve(seconds(20), |_, _, _| Grant(3600));
    assert!(crowd.registered() >= 390, "{} registered", crowd.registered());
}

#[test]
fn after_an_outage_that_was_told_by_any_status_all_are_back_soon() {
    for status in [408, 480, 500, 504] {
        let mut crowd = Crowd::granted(udp(), 300, 600);
        crowd.serve(seconds(1200), |_, _, _| Status(status));
        assert_eq!(crowd.registered(), 0);
        crowd.serve(seconds(30), |_, _, _| Grant(600));
        assert_eq!(crowd.registered(), 300, "{status}");
    }
}

#[test]
fn two_accounts_that_fail_by_themselves_move_nobody_and_are_asked_for_as_rarely_as_ever() {
    for status in [408, 500] {
        let mut crowd = Crowd::granted(udp(), 8, 600);
        (crowd.world.upstream.flow, crowd.world.elsewhere) = (next_udp(), true);
        let (mut moved, mut dialled) = (0, crowd.world.dialled);
        for _ in 0..60 {
            crowd.serve(seconds(60), |number, flow, _| {
                moved += usize::from(flow == next_udp());
                if number <= 2 { Status(status) } else { Grant(600) }
            });
            dialled = dialled.max(crowd.world.dialled);
        }
        assert_eq!(crowd.registered(), 6, "{status}");
        // Both may begin to fail while nobody else is due; that is once.
        assert!(dialled <= 2, "{status}: {dialled} dials, {moved} REGISTERs by the next address");
        let most = (1..=2).map(|number| crowd.asked[&number]).max().unwrap();
        assert!(most < 30, "{status}: {most} REGISTERs in an hour");
    }
}

#[test]
fn an_address_that_fails_all_with_any_status_is_left_for_one_that_serves() {
    for (flow, next) in [(udp(), next_udp()), (STREAM, NEXT)] {
        for status in [408, 480, 500, 504] {
            let mut crowd = Crowd::granted(flow, 20, 120);
            (crowd.world.upstream.flow, crowd.world.elsewhere) = (next, true);
            let serve = |_, by, _| if by == next { Grant(120) } else { Status(status) };
            crowd.serve(seconds(240), serve);
            assert_eq!(crowd.registered(), 20, "{status} by {flow:?}");
        }
    }
}

#[test]
fn a_few_accounts_that_fail_by_themselves_keep_no_others_waiting_after_an_outage() {
    let mut crowd = Crowd::granted(udp(), 300, 600);
    crowd.serve(seconds(1200), |_, _, _| Status(503));
    assert_eq!(crowd.registered(), 0);
    // One in ten is refused on.
    crowd.serve(seconds(60), |number, _, _| if number % 10 == 0 { Status(503) } else { Grant(600) });
    assert_eq!(crowd.registered(), 270);
}

#[test]
fn those_that_stand_by_an_address_that_was_silent_by_udp_follow_to_the_next() {
    let mut crowd = Crowd::granted(udp(), 10, 3600);
    // One is refreshed soon, and finds out.
    crowd.world.input(Input::Suspend(InstanceId::new(1 << 80, ShardTag(0))));
    crowd.serve(seconds(1), |_, _, _| Grant(0));
    (crowd.world.upstream.flow, crowd.world.elsewhere) = (next_udp(), true);
    crowd.world.input(Input::Resume(InstanceId::new(1 << 80, ShardTag(0))));
    let mut moved = BTreeSet::new();
    crowd.serve(seconds(31), |_, _, _| Silence);
    crowd.serve(seconds(3), |number, flow, _| {
        if flow != next_udp() {
            return Silence;
        }
        moved.insert(number);
        Grant(3600)
    });
    assert_eq!((moved.len(), crowd.registered(), crowd.world.dialled), (10, 10, 2));
}

#[test]
fn those_that_stand_by_a_stream_that_was_silent_follow_by_the_next() {
    let mut crowd = Crowd::granted(STREAM, 50, 3600);
    crowd.world.input(Input::Suspend(InstanceId::new(1 << 80, ShardTag(0))));
    crowd.serve(seconds(1), |_, _, _| Grant(0));
    crowd.world.upstream.flow = NEXT;
    crowd.world.input(Input::Resume(InstanceId::new(1 << 80, ShardTag(0))));
    crowd.serve(Duration::from_millis(32_500), |_, flow, _| if flow == NEXT { Grant(3600) } else { Silence });
    crowd.serve(seconds(5), |_, flow, _| if flow == NEXT { Grant(3600) } else { Silence });
    // Also where the next one leads to the same address: the stream itself may have been dead.
    assert_eq!((crowd.asked.len(), crowd.registered(), crowd.world.dialled), (50, 50, 2));
}

/// The flow that each dial so far was to avoid.
fn avoided(world: &World) -> Vec<Option<FlowId>> {
    world.avoided.clone()
}

#[test]
fn a_stream_that_ends_before_it_grants_anything_is_not_dialled_again_while_there_is_another() {
    let mut crowd = Crowd::granted(STREAM, 3, 3600);
    crowd.world.advance(seconds(300));
    // The server had served: it may be back at once. The next stream is accepted, and closed.
    crowd.closes(STREAM, FlowId::Stream(90));
    crowd.closes(FlowId::Stream(90), FlowId::Stream(91));
    assert_eq!(avoided(&crowd.world), [None, None, Some(FlowId::Stream(90))]);
    crowd.serve(seconds(1), |_, flow, _| if flow == FlowId::Stream(91) { Grant(3600) } else { Silence });
    assert_eq!(crowd.registered(), 3, "at once");
}

#[test]
fn streams_that_soon_end_are_dialled_after_1_2_4_and_8_seconds_each_at_the_next_address() {
    let mut crowd = Crowd::granted(STREAM, 3, 3600);
    crowd.world.advance(seconds(300));
    crowd.closes(STREAM, FlowId::Stream(100));
    let mut waits = Vec::new();
    for number in 100..107 {
        let (start, dialled) = (crowd.world.now, crowd.world.dialled);
        crowd.closes(FlowId::Stream(number), FlowId::Stream(number + 1));
        while crowd.world.dialled == dialled {
            crowd.world.advance(Duration::from_millis(100));
        }
        waits.push((crowd.world.now - start).as_secs());
        assert_eq!(crowd.world.avoided.last(), Some(&Some(FlowId::Stream(number))));
    }
    assert!(waits[0] == 0 && waits[1] == 1 && waits[2] == 2, "{waits:?}");
    assert!((4..=5).contains(&waits[3]) && (8..=10).contains(&waits[4]) && waits[6] >= 15, "{waits:?}");
}

#[test]
fn whoever_ends_a_stream_that_has_settled_is_dialled_again() {
    let mut crowd = Crowd::granted(STREAM, 3, 3600);
    for number in 0..4 {
        crowd.world.advance(seconds(150));
        let flow = crowd.world.upstream.flow;
        crowd.closes(flow, FlowId::Stream(110 + number));
        crowd.serve(seconds(1), |_, _, _| Grant(3600));
    }
    assert_eq!(avoided(&crowd.world), [None; 5]);
}

#[test]
fn a_registration_that_is_granted_for_seconds_is_refreshed_within_them() {
    let mut crowd = Crowd::granted(udp(), 1, 3);
    let start = crowd.world.now;
    for _ in 0..200 {
        crowd.serve(Duration::from_millis(50), |_, _, _| Grant(3));
    }
    let asked = crowd.asked();
    let took = (crowd.world.now - start).as_secs_f64();
    // 70 % to 85 % of 3 s.
    assert!(asked as f64 >= took / 2.6 - 1.0 && asked as f64 <= took / 2.0, "{asked} in {took} s");
    // However short it is, it is no storm.
    crowd.asked.clear();
    crowd.serve(seconds(20), |_, _, _| Grant(1));
    assert!((15..=21).contains(&crowd.asked()), "{}", crowd.asked());
}

#[test]
fn a_lifetime_of_days_that_a_server_insists_on_is_asked_for_and_refreshed_within_one() {
    let mut world = World::new(udp());
    world.bind();
    world.respond(423, &[("Min-Expires", "90000")]);
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(90_000));
    world.grant(90_000);
    assert!(world.endpoint.is_registered(world.binding));
    world.sent.clear();
    world.advance(seconds(24 * 3600));
    assert!(world.count("REGISTER") > 0);
}

#[test]
fn a_binding_that_registered_again_before_its_refresh_was_due_is_still_refreshed() {
    for broken in [false, true] {
        let mut world = World::new(if broken { FlowId::Stream(7) } else { FlowId::Datagram(server_address()) });
        world.bind();
        world.grant(600);
        world.advance(seconds(100));
        let instance = world.instance;
        if broken {
            world.upstream.flow = FlowId::Stream(8);
            world.input(Input::Closed(FlowId::Stream(7)));
        } else {
            world.input(Input::Suspend(instance));
            world.grant(0);
            world.input(Input::Resume(instance));
        }
        world.grant(600);
        world.sent.clear();
        world.advance(seconds(600));
        assert!(world.count("REGISTER") > 0, "the timer of the first registration is not the one that counts");
    }
}

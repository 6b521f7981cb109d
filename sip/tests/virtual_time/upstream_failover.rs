//! A SIP server that serves badly in virtual time: the bindings that it turns away, those that go to its next address, and those that stay (RFC 3263
//! §4.3).

use std::net::SocketAddr;
use std::time::Duration;

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::{Message, Name};

use crate::world::{REGISTRAR, World, seconds, server_address};

/// The stream to the first address, and those that are dialled after it.
const FIRST: FlowId = FlowId::Stream(71);
const NEXT: FlowId = FlowId::Stream(72);
const CONTACT: (&str, &str) = ("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>");

fn udp() -> FlowId {
    FlowId::Datagram(server_address())
}

fn next_udp() -> FlowId {
    FlowId::Datagram("192.0.2.11:5060".parse().unwrap())
}

fn binding(number: u128) -> BindingId {
    BindingId::new(number << 64, ShardTag(0))
}

fn instance_of(number: u128) -> InstanceId {
    InstanceId::new(number << 80, ShardTag(0))
}

impl World {
    fn bind_account(&mut self, number: u128) {
        self.bind_another(binding(number), instance_of(number));
    }

    /// REGISTERs of this account that went by this flow.
    fn asked(&self, number: u128, flow: FlowId) -> Vec<Message> {
        let contact = binding(number).to_string();
        let named = |message: &Message| message.text(Name::Contact).is_some_and(|it| it.contains(&contact));
        let sent = self.sent.iter().filter(|sent| sent.flow == flow && sent.message.method_text() == Some("REGISTER"));
        sent.filter(|sent| named(&sent.message)).map(|sent| sent.message.clone()).collect()
    }

    /// The SIP server behind a flow.
    fn server_at(&self, flow: FlowId) -> Source {
        let peer = if let FlowId::Datagram(peer) = flow { peer } else { self.upstream.peer };
        Source { flow, peer, ..self.upstream }
    }

    /// The SIP server behind a flow answers the last REGISTER of an account there.
    fn answer_account(&mut self, number: u128, flow: FlowId, status: u16, headers: &[(&str, &str)]) {
        let register = self.asked(number, flow).pop().expect("it is asked for");
        let source = self.server_at(flow);
        self.reply(source, &register, status, headers, "");
    }

    fn grant_account(&mut self, number: u128, flow: FlowId, expires: u32) {
        self.answer_account(number, flow, 200, &[("Expires", &expires.to_string())]);
    }

    fn is_registered(&self, number: u128) -> bool {
        self.endpoint.is_registered(binding(number))
    }

    /// For so long the server behind a flow answers each REGISTER as `status` says, 200 with a grant of `expires`; returns the accounts that it did
    /// not grant, in order.
    fn serve(&mut self, time: Duration, flow: FlowId, expires: u32, status: impl Fn(u128) -> u16) -> Vec<u128> {
        let (until, mut refused) = (self.now + time, Vec::new());
        while self.now < until {
            self.advance(Duration::from_millis(100));
            for number in 1..=ACCOUNTS {
                if self.asked(number, flow).is_empty() {
                    continue;
                }
                match status(number) {
                    200 => self.grant_account(number, flow, expires),
                    status => {
                        refused.push(number);
                        self.answer_account(number, flow, status, &[]);
                    }
                }
            }
            self.sent.retain(|sent| sent.flow != flow || sent.message.method_text() != Some("REGISTER"));
        }
        refused
    }
}

/// Accounts have numbers from 1 to this.
const ACCOUNTS: u128 = 100;

/// A world whose `accounts` are granted by a flow for so long; the next dial that is to avoid it leads elsewhere, by `next`.
fn granted(flow: FlowId, next: FlowId, accounts: u128, expires: u32) -> World {
    let mut world = World::new(flow);
    for number in 1..=accounts {
        world.bind_account(number);
        world.grant_account(number, flow, expires);
        world.advance(seconds(1));
    }
    world.upstream.flow = next;
    world.elsewhere = true;
    world.sent.clear();
    world
}

/// By which flows answers of this kind went, in order.
fn by(world: &World, what: &str) -> Vec<FlowId> {
    let sent = world.sent.iter().zip(world.descriptions()).filter(|(_, said)| said == what);
    sent.map(|(sent, _)| sent.flow).collect()
}

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Refuses,
    IsSilent,
    /// The app stays in the foreground, and another account is refused.
    RefusesAnother,
}

#[test]
fn a_call_is_answered_by_the_stream_that_it_came_by_after_its_server_was_left() {
    for trouble in [Trouble::Refuses, Trouble::IsSilent, Trouble::RefusesAnother] {
        let mut world = World::registered_with(FIRST, |_| {});
        world.invite("call-1");
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, 180, &[], "");
        let first = world.upstream;
        (world.upstream.flow, world.elsewhere) = (NEXT, true);
        world.input(Input::Suspend(world.instance));
        let gone = world.last("REGISTER");
        world.reply(first, &gone, 200, &[], "");
        match trouble {
            Trouble::RefusesAnother => world.bind_account(5),
            _ => world.input(Input::Resume(world.instance)),
        }
        let register = world.last("REGISTER");
        match trouble {
            Trouble::IsSilent => world.advance(seconds(33)),
            _ => world.reply(first, &register, 503, &[], ""),
        }
        assert_eq!((world.dialled, world.closed.len()), (2, 0), "{trouble:?}");
        assert!(world.sent.iter().any(|sent| sent.flow == NEXT), "{trouble:?}");
        world.sent.clear();
        world.reply(device, &invite, 200, &[CONTACT], "");
        assert_eq!(by(&world, "INVITE 200"), [FIRST], "{trouble:?}");
        // Its server is still believed by that stream; and when no call can be left on it, it is closed.
        let stray = Source { peer: "203.0.113.77:5061".parse().unwrap(), ..first };
        let text = world.invite_text("call-2");
        world.receive(stray, &text);
        assert_eq!(world.count("INVITE 403"), 0, "{trouble:?}");
        world.advance(seconds(200));
        assert!(world.closed.contains(&FIRST), "{trouble:?}");
    }
}

#[test]
fn two_accounts_that_a_server_had_accepted_and_refuses_go_on_to_the_next_and_the_others_follow() {
    let mut world = granted(FIRST, NEXT, 6, 600);
    // One account alone moves nobody, however often it is refused.
    let refused = world.serve(seconds(3600), FIRST, 600, |number| if number == 1 { 503 } else { 200 });
    assert_eq!((refused.len() > 5, world.dialled), (true, 1), "{refused:?}");
    world.serve(seconds(600), FIRST, 600, |_| 200);
    let mut refused = Vec::new();
    while world.dialled == 1 {
        refused.extend(world.serve(Duration::from_millis(100), FIRST, 600, |_| 503));
    }
    refused.dedup();
    assert_eq!((refused.len(), world.avoided.last()), (2, Some(&Some(FIRST))), "{refused:?}");
    world.advance(Duration::from_millis(100));
    let asked = |world: &World| (1..=6).filter(|number| !world.asked(*number, NEXT).is_empty()).collect::<Vec<_>>();
    assert!(refused.iter().all(|number| asked(&world).contains(number)), "at once");
    assert!(asked(&world).len() <= 3, "those that stand stay: {:?}", asked(&world));
    assert_eq!(world.closed, [], "and are heard by the one that was left");
    // The next one serves: all follow, in their turn.
    world.grant_account(refused[0], NEXT, 600);
    world.advance(seconds(1));
    assert_eq!(asked(&world).len(), 6);
    world.serve(seconds(200), NEXT, 600, |_| 200);
    assert_eq!((world.closed.as_slice(), world.dialled), (&[FIRST][..], 2));
    assert!((1..=6).all(|number| world.is_registered(number)));
}

#[test]
fn accounts_that_a_server_does_not_know_any_more_move_nobody() {
    for status in [404, 604] {
        let mut world = granted(FIRST, NEXT, 6, 120);
        world.serve(seconds(150), FIRST, 120, |_| status);
        assert_eq!((world.dialled, world.closed.len()), (1, 0), "{status}");
        // Nor does a single one have its flow dialled anew.
        let mut world = granted(FIRST, NEXT, 1, 60);
        world.serve(seconds(90), FIRST, 60, |_| status);
        assert_eq!((world.dialled, world.closed.len()), (1, 0), "{status}");
    }
}

/// Other shards may be served well by an address that fails one account for that account's own reason.
#[test]
fn an_address_is_left_for_a_single_account_alone_unless_it_says_itself_that_it_does_not_serve() {
    for (status, for_one) in [(480, 1), (500, 1), (600, 1), (503, 0), (430, 0)] {
        let mut world = granted(FIRST, NEXT, 1, 60);
        world.serve(seconds(60), FIRST, 60, |_| status);
        assert_eq!((world.avoided.last(), world.for_one), (Some(&Some(FIRST)), for_one), "{status}");
    }
    // By now its turn is several ones'.
    let mut world = granted(FIRST, NEXT, 2, 60);
    world.elsewhere = false;
    world.upstream.flow = FIRST;
    world.serve(seconds(300), FIRST, 60, |_| 500);
    assert!(world.avoided.iter().flatten().count() > world.for_one, "several are not served");
}

/// A server refuses two accounts of six that it had accepted, and another address is being dialled.
fn looking() -> World {
    let mut world = granted(FIRST, NEXT, 6, 600);
    world.input(Input::LeadsTo { flow: FIRST, address: server_address() });
    world.dial = false;
    while world.dialled == 1 {
        world.serve(Duration::from_millis(100), FIRST, 600, |_| 503);
    }
    world
}

/// The dial leads to another address.
fn find(world: &mut World) {
    world.input(Input::UpstreamAddressChanged(REGISTRAR));
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    world.advance(Duration::from_millis(100));
}

/// Waits until one of those that stand is to be granted anew by the server that refuses others: which.
fn due(world: &mut World) -> u128 {
    loop {
        world.advance(Duration::from_millis(100));
        let mut standing = (1..=6).filter(|number| world.is_registered(*number));
        if let Some(number) = standing.find(|number| !world.asked(*number, FIRST).is_empty()) {
            return number;
        }
    }
}

fn asked_by(world: &World, flow: FlowId) -> usize {
    (1..=6).filter(|number| !world.asked(*number, flow).is_empty()).count()
}

#[test]
fn a_server_that_serves_again_before_another_address_is_found_is_not_left() {
    let mut world = looking();
    let number = due(&mut world);
    world.grant_account(number, FIRST, 600);
    find(&mut world);
    assert_eq!((world.closed.as_slice(), world.endpoint.flow_to(REGISTRAR)), (&[NEXT][..], Some(FIRST)));
    assert_eq!(world.settled.last(), Some(&(NEXT, FlowOutcome::NotWanted)));
    assert_eq!(asked_by(&world, NEXT), 0);
}

#[test]
fn those_that_stand_follow_what_the_server_in_use_grants_and_not_what_the_one_that_was_left_does() {
    let mut world = looking();
    let number = due(&mut world);
    find(&mut world);
    let turned_away = asked_by(&world, NEXT);
    world.grant_account(number, FIRST, 600);
    world.advance(seconds(1));
    assert_eq!((turned_away, asked_by(&world, NEXT)), (1, 1), "a late answer");
    let asks = (1..=6).find(|number| !world.asked(*number, NEXT).is_empty()).unwrap();
    world.grant_account(asks, NEXT, 600);
    let standing: Vec<_> = (1..=6).filter(|number| world.is_registered(*number)).collect();
    world.advance(seconds(2));
    assert!(
        standing.len() >= 4 && standing.iter().all(|number| !world.asked(*number, NEXT).is_empty()),
        "{standing:?}"
    );
}

#[test]
fn whom_a_stream_that_was_left_grants_in_time_when_the_others_have_followed_follows_as_well() {
    let mut world = looking();
    let number = due(&mut world);
    find(&mut world);
    let asks = (1..=6).find(|number| !world.asked(*number, NEXT).is_empty()).unwrap();
    world.grant_account(asks, NEXT, 600);
    world.advance(seconds(1));
    assert!(world.asked(number, NEXT).is_empty(), "its answer is awaited");
    world.grant_account(number, FIRST, 600);
    world.advance(seconds(1));
    assert_eq!(world.asked(number, NEXT).len(), 1);
}

/// A world whose `accounts` stand by a flow; it leaves the REGISTER of a new one, [`LATE`], unanswered, and another address is being dialled.
fn silent(flow: FlowId, next: FlowId, accounts: u128) -> World {
    let mut world = granted(flow, next, accounts, 3600);
    world.dial = false;
    world.bind_account(LATE);
    world.advance(seconds(33));
    assert_eq!((world.dialled, world.asked(LATE, flow).is_empty(), world.is_registered(LATE)), (2, false, false));
    world
}

/// The account whose REGISTER is given up.
const LATE: u128 = 99;

#[test]
fn what_is_granted_late_by_a_flow_that_was_left_stands_and_registers_by_the_next_one() {
    for (flow, next) in [(FIRST, NEXT), (udp(), next_udp())] {
        // While the next one is dialled.
        let mut world = silent(flow, next, 10);
        world.grant_account(LATE, flow, 3600);
        assert!(world.is_registered(LATE));
        world.advance(seconds(1));
        let transport = if next.is_reliable() { Transport::Tls } else { Transport::Udp };
        world.input(Input::Dialled { upstream: REGISTRAR, flow: next, transport });
        world.advance(seconds(1));
        assert!(!world.asked(LATE, next).is_empty(), "{flow:?}");
        let asked = (1..=10).filter(|number| !world.asked(*number, next).is_empty()).count();
        assert!(asked <= 4, "{asked} others ask before the next one has granted anybody");
        // Once: it stands there then.
        world.grant_account(LATE, next, 3600);
        let once = world.asked(LATE, next).len();
        world.advance(seconds(60));
        assert_eq!(world.asked(LATE, next).len(), once, "{flow:?}");
        assert!(world.is_registered(LATE));
    }
}

#[test]
fn what_is_granted_late_by_a_flow_that_was_left_keeps_its_turn_on_the_next_one() {
    // Many have their turn before it, once the next one has granted somebody.
    let mut world = silent(FIRST, NEXT, 60);
    find(&mut world);
    let asks = (1..=60).find(|number| !world.asked(*number, NEXT).is_empty()).unwrap();
    world.grant_account(asks, NEXT, 3600);
    assert!(world.asked(LATE, NEXT).is_empty(), "it waits");
    world.grant_account(LATE, FIRST, 3600);
    assert!(world.is_registered(LATE));
    let refused = world.serve(seconds(20), NEXT, 3600, |number| if number == LATE { 403 } else { 200 });
    assert_eq!(refused, [LATE], "asked once");
}

const NONCE: (&str, &str) = ("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"first\"");

/// Tells where two streams lead; the second one is open.
fn lead(world: &mut World, to: [&str; 2]) {
    for (flow, address) in [FIRST, NEXT].into_iter().zip(to) {
        world.input(Input::LeadsTo { flow, address: SocketAddr::new(address.parse().unwrap(), 5060) });
    }
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
}

#[test]
fn a_late_challenge_is_answered_where_its_nonce_is_known_alone() {
    for (to, answered) in [(["192.0.2.10", "192.0.2.11"], false), (["192.0.2.10", "192.0.2.10"], true)] {
        let mut world = silent(FIRST, NEXT, 3);
        lead(&mut world, to);
        world.answer_account(LATE, FIRST, 401, &[NONCE]);
        world.advance(seconds(1));
        let shown = world.asked(LATE, NEXT).iter().any(|it| it.has(Name::Authorization));
        assert_eq!(shown, answered, "{to:?}");
        // Its turn comes all the same, and its own credentials do.
        world.advance(seconds(30));
        world.answer_account(LATE, NEXT, 401, &[("WWW-Authenticate", &NONCE.1.replace("first", "next"))]);
        if !answered {
            assert!(world.asked(LATE, NEXT).pop().unwrap().has(Name::Authorization));
            world.grant_account(LATE, NEXT, 3600);
            assert!(world.is_registered(LATE));
        }
    }
    // Before the next one is there, by datagrams, and where nobody knows where a stream leads.
    for (flow, next) in [(FIRST, NEXT), (udp(), next_udp())] {
        let mut world = silent(flow, next, 3);
        world.answer_account(LATE, flow, 401, &[NONCE]);
        let transport = if next.is_reliable() { Transport::Tls } else { Transport::Udp };
        world.input(Input::Dialled { upstream: REGISTRAR, flow: next, transport });
        world.answer_account(LATE, flow, 401, &[NONCE]);
        world.advance(seconds(1));
        assert!(!world.asked(LATE, next).iter().any(|it| it.has(Name::Authorization)), "{flow:?}");
    }
}

#[test]
fn a_challenge_of_an_address_that_was_left_is_not_answered_at_the_next() {
    // By a stream, beside which another address was found; by datagrams, whose server has refused another account.
    let mut world = looking();
    let number = due(&mut world);
    world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5060".parse().unwrap() });
    find(&mut world);
    let mut by_datagrams = World::new(udp());
    (1..=2).for_each(|number| by_datagrams.bind_account(number));
    (by_datagrams.upstream.flow, by_datagrams.elsewhere) = (next_udp(), true);
    by_datagrams.answer_account(2, udp(), 503, &[]);
    for (mut world, number, flow, next) in [(world, number, FIRST, NEXT), (by_datagrams, 1, udp(), next_udp())] {
        assert!(world.asked(number, next).is_empty());
        world.answer_account(number, flow, 401, &[NONCE]);
        world.advance(seconds(1));
        let asked = world.asked(number, next);
        assert!(!asked.is_empty() && !asked.iter().any(|it| it.has(Name::Authorization)), "{flow:?}");
        world.answer_account(number, next, 401, &[("WWW-Authenticate", &NONCE.1.replace("first", "next"))]);
        world.grant_account(number, next, 3600);
        let failed = |event: &Event| match event {
            Event::RegistrationFailed { instance, .. } => *instance == instance_of(number),
            _ => false,
        };
        assert!(world.is_registered(number) && !world.events.iter().any(failed), "{flow:?}");
    }
}

#[test]
fn those_that_stand_by_a_stream_that_was_left_register_anew_when_it_ends() {
    let mut world = looking();
    find(&mut world);
    world.serve(seconds(2), NEXT, 600, |_| 503);
    // Nor does a third address.
    world.input(Input::DialFailed(REGISTRAR));
    assert_eq!((1..=6).filter(|number| world.is_registered(*number)).count(), 4);
    world.sent.clear();
    world.input(Input::Closed(FIRST));
    world.advance(seconds(2));
    assert_eq!((asked_by(&world, NEXT), world.dialled), (4, 3));
    // Once: nobody stands by it any more.
    world.serve(seconds(2), NEXT, 600, |_| 200);
    world.sent.clear();
    world.input(Input::Closed(FIRST));
    world.advance(seconds(2));
    assert_eq!(asked_by(&world, NEXT), 0);
}

#[test]
fn by_udp_the_others_ask_the_next_server_when_their_refresh_is_due() {
    let mut world = granted(udp(), next_udp(), 10, 40);
    let mut lost = Duration::ZERO;
    for _ in 0..600 {
        world.serve(Duration::from_millis(100), udp(), 40, |_| 503);
        world.serve(Duration::from_millis(1), next_udp(), 40, |_| 200);
        lost += Duration::from_millis(100) * (1..=10).filter(|number| !world.is_registered(*number)).count() as u32;
    }
    assert_eq!(world.dialled, 2);
    assert!(lost < seconds(15), "accounts were without their server for {lost:?} together");
}

#[test]
fn where_there_is_no_other_address_nothing_moves_and_the_flow_that_was_dialled_is_closed() {
    // All refreshes of a server that is out of order; its accounts stand meanwhile.
    let out_of_order = |set: fn(&mut World)| {
        let mut world = granted(FIRST, NEXT, 5, 600);
        set(&mut world);
        while world.dialled == 1 {
            world.serve(Duration::from_millis(100), FIRST, 600, |_| 503);
        }
        world
    };
    let world = out_of_order(|world| world.elsewhere = false);
    assert_eq!((world.closed.as_slice(), world.endpoint.flow_to(REGISTRAR)), (&[NEXT][..], Some(FIRST)));
    assert_eq!(world.settled.last(), Some(&(NEXT, FlowOutcome::NotWanted)));
    assert_eq!((1..=5).filter(|number| world.is_registered(*number)).count(), 3);
    assert!((1..=5).all(|number| world.asked(number, NEXT).is_empty()));
    // Nor where none can be dialled.
    let mut world = out_of_order(|world| world.dial = false);
    world.input(Input::DialFailed(REGISTRAR));
    assert_eq!((world.dialled, world.endpoint.flow_to(REGISTRAR)), (2, Some(FIRST)));
    // The flow ends while another is dialled: that one is waited for.
    let mut world = out_of_order(|world| world.dial = false);
    world.input(Input::Closed(FIRST));
    world.sent.clear();
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    assert_eq!((world.dialled, world.count("REGISTER")), (2, 3), "those that stood; the two wait as they would");
}

#[test]
fn accounts_that_a_server_never_accepted_move_nobody_by_two_and_by_four_they_do() {
    let mut world = granted(FIRST, NEXT, 2, 3600);
    for number in 11..=13 {
        world.bind_account(number);
        world.answer_account(number, FIRST, 503, &[]);
    }
    assert_eq!(world.dialled, 1);
    world.bind_account(14);
    world.answer_account(14, FIRST, 503, &[]);
    assert_eq!(world.dialled, 2);
    world.advance(Duration::from_millis(100));
    assert!((11..=14).all(|number| world.asked(number, NEXT).len() == 1), "they ask the next server at once");
    // Between grants they never do.
    let mut world = granted(FIRST, NEXT, 2, 3600);
    for number in 11..=30 {
        world.bind_account(number);
        world.advance(Duration::from_millis(10));
        match number % 3 {
            0 => world.grant_account(number, FIRST, 3600),
            _ => world.answer_account(number, FIRST, 503, &[]),
        }
    }
    assert_eq!(world.dialled, 1);
}

#[test]
fn whom_the_server_that_was_left_turns_away_late_asks_the_next_at_once() {
    let mut world = World::new(udp());
    for number in 1..=3 {
        world.bind_account(number);
    }
    (world.upstream.flow, world.elsewhere) = (next_udp(), true);
    world.answer_account(1, udp(), 503, &[]);
    assert_eq!(world.asked(1, next_udp()).len(), 1);
    for number in [2, 3] {
        world.answer_account(number, udp(), 503, &[("Retry-After", "600")]);
        assert_eq!(world.asked(number, next_udp()).len(), 1, "{number}");
    }
    // Where that one turns them away as well, and there is no other, each waits.
    world.upstream.flow = udp();
    for number in 1..=3 {
        world.answer_account(number, next_udp(), 503, &[]);
    }
    assert_eq!((world.asked(1, udp()).len(), world.dialled), (2, 3), "the last dial led back");
    world.answer_account(1, udp(), 503, &[]);
    world.sent.clear();
    world.advance(seconds(14));
    assert_eq!((world.count("REGISTER"), world.dialled), (0, 3));
}

#[test]
fn where_every_address_turns_all_away_each_account_waits_as_long_as_it_should() {
    let mut world = World::new(udp());
    world.elsewhere = true;
    for number in 1..=50 {
        world.bind_account(number);
    }
    let (mut asked, start) = (0, world.now);
    while world.now < start + seconds(1800) {
        for sent in std::mem::take(&mut world.sent) {
            asked += 1;
            let at_next = sent.flow == next_udp();
            world.upstream.flow = if at_next { udp() } else { next_udp() };
            let source = world.server_at(sent.flow);
            world.reply(source, &sent.message, 503, &[], "");
        }
        world.advance(Duration::from_millis(50));
    }
    // Some seven back-offs in half an hour, the second try at the next address, and one of them at each move.
    assert!(asked < 50 * 9 + 60, "{asked} REGISTERs");
}

#[test]
fn when_a_server_that_refused_grants_again_the_others_wait_no_longer() {
    for status in [503, 430, 500] {
        let mut world = World::new(udp());
        for number in 1..=20 {
            world.bind_account(number);
            let told: &[_] = if number == 20 { &[("Retry-After", "900")] } else { &[] };
            world.answer_account(number, udp(), status, told);
            world.advance(Duration::from_millis(10));
        }
        world.sent.clear();
        world.advance(seconds(1));
        world.bind_account(30);
        assert_eq!(world.count("REGISTER"), 1);
        world.grant_account(30, udp(), 3600);
        world.advance(Duration::from_millis(100));
        assert_eq!(world.count("REGISTER"), 5, "{status}: a few first");
        let mut waiting: Vec<_> = (1..=20).collect();
        for _ in 0..10 {
            world.advance(Duration::from_millis(100));
            for number in waiting.extract_if(.., |number| !world.asked(*number, udp()).is_empty()).collect::<Vec<_>>() {
                world.grant_account(number, udp(), 3600);
            }
        }
        assert_eq!(waiting, [20], "{status}: all but the one that was told to wait");
        assert_eq!(world.asked(20, udp()).len(), 0);
    }
}

#[test]
fn an_account_that_fails_by_itself_is_not_hurried_by_what_others_are_granted() {
    let mut world = granted(udp(), next_udp(), 60, 600);
    world.bind_account(99);
    let failed = world.serve(seconds(3600), udp(), 600, |number| if number == 99 { 500 } else { 200 }).len();
    // The account waits half of what is granted, at the longest, and half of that at the least.
    assert!((10..30).contains(&failed), "{failed} times in an hour");
    assert_eq!(world.dialled, 1);
}

#[test]
fn a_better_address_that_registers_one_alone_is_left_again_at_once() {
    let mut world = granted(udp(), next_udp(), 5, 600);
    while world.dialled == 1 {
        world.serve(Duration::from_millis(100), udp(), 600, |_| 503);
    }
    world.serve(seconds(10), next_udp(), 600, |_| 200);
    world.input(Input::FailbackDialled { upstream: REGISTRAR, flow: udp(), transport: Transport::Udp });
    let (first, ask) = (Source { flow: udp(), ..world.upstream }, world.last("OPTIONS"));
    world.reply(first, &ask, 200, &[], "");
    // One is registered there, and then nobody any more.
    let asked = (1..=5).filter(|number| !world.asked(*number, udp()).is_empty()).collect::<Vec<_>>();
    assert_eq!(asked.len(), 1);
    world.grant_account(asked[0], udp(), 600);
    world.serve(seconds(1), udp(), 600, |number| if number == asked[0] { 200 } else { 503 });
    world.serve(seconds(1), next_udp(), 600, |_| 200);
    assert_eq!(world.dialled, 3);
    assert!((1..=5).all(|number| world.is_registered(number)));
}

#[test]
fn what_another_endpoint_is_granted_hurries_whoever_has_failed_once() {
    let mut world = World::new(udp());
    world.bind_account(1);
    world.input(Input::UpstreamServes(REGISTRAR));
    for (failures, asked) in [(1, 1), (2, 0)] {
        world.answer_account(1, udp(), 503, &[]);
        world.sent.clear();
        world.input(Input::UpstreamServes(REGISTRAR));
        assert_eq!(world.asked(1, udp()).len(), asked, "failed {failures} times");
    }
}

/// Two addresses of three refuse: the first to the account, or two of several, that go on along the list.
#[test]
fn an_account_asks_each_address_of_the_list_at_once() {
    const THIRD: FlowId = FlowId::Stream(73);
    for (accounts, status) in [(1, 503), (1, 500), (4, 503)] {
        let mut world = granted(FIRST, NEXT, accounts, 60);
        let mut lost = Duration::ZERO;
        for _ in 0..900 {
            world.upstream.flow = NEXT;
            world.serve(Duration::from_millis(50), FIRST, 60, |_| status);
            world.upstream.flow = THIRD;
            world.serve(Duration::from_millis(50), NEXT, 60, |_| status);
            world.serve(Duration::from_millis(1), THIRD, 60, |_| 200);
            let unserved = (1..=accounts).filter(|number| !world.is_registered(*number)).count();
            lost += Duration::from_millis(100) * unserved as u32;
        }
        assert!(lost < seconds(2), "{accounts} {status}: accounts were without their server for {lost:?} together");
        assert_eq!(world.endpoint.flow_to(REGISTRAR), Some(THIRD), "{accounts} {status}");
    }
}

/// A server may drop what one account sends, and leave the others nothing to tell that from an outage by.
#[test]
fn accounts_whose_registers_are_dropped_move_others_when_they_are_several_while_keep_alives_are_answered() {
    // So many are registered there, and so many of them, or a new one, are dropped.
    for (accounts, dropped, moved) in [(4, 1..=1, false), (4, 1..=2, true), (1, 1..=1, true), (4, LATE..=LATE, false)] {
        let mut world = granted(FIRST, NEXT, accounts, 3600);
        world.advance(seconds(60));
        for number in dropped.clone() {
            if number == LATE {
                world.bind_account(number);
            } else {
                world.input(Input::RegisterAgain(instance_of(number)));
            }
        }
        for _ in 0..40 {
            world.advance(seconds(1));
            world.input(Input::Pong(FIRST));
        }
        let flow = if moved { NEXT } else { FIRST };
        assert_eq!(world.endpoint.flow_to(REGISTRAR), Some(flow), "{accounts} {dropped:?}");
        assert!(!world.asked(*dropped.start(), FIRST).is_empty(), "{accounts} {dropped:?}");
    }
}

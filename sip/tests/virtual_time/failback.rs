//! Going back to a better address of a SIP server in virtual time (RFC 3263 §4.3).

use sip::auth::Hash;
use sip::endpoint::*;
use sip::id::{FlowId, UpstreamId};
use sip::message::{Message, Name};

use crate::flows::registered;
use crate::world::{REGISTRAR, World, seconds, server_address};

const STREAM: FlowId = FlowId::Stream(1);
const BETTER: FlowId = FlowId::Stream(2);

/// Opens a flow to a better address; the request that is sent on it.
fn try_better(world: &mut World, flow: FlowId) -> Message {
    let transport = if flow.is_reliable() { Transport::Tls } else { Transport::Udp };
    world.sent.clear();
    world.input(Input::FailbackDialled { upstream: REGISTRAR, flow, transport });
    assert_eq!(world.count("REGISTER"), 0, "nothing is asked of it before somebody has answered");
    let ask = world.sent.iter().find(|sent| sent.flow == flow).expect("it is asked");
    assert_eq!((ask.message.method_text(), ask.message.request_uri()), (Some("OPTIONS"), Some("sip:example.com")));
    ask.message.clone()
}

fn by(world: &World, flow: FlowId) -> Source {
    match flow {
        FlowId::Datagram(peer) => Source { flow, transport: Transport::Udp, peer, ..world.upstream },
        _ => Source { flow, transport: Transport::Tls, ..world.upstream },
    }
}

/// REGISTERs that went by a flow.
fn registers(world: &World, flow: FlowId) -> Vec<Message> {
    let by_flow = world.sent.iter().filter(|sent| sent.flow == flow && sent.message.method_text() == Some("REGISTER"));
    by_flow.map(|sent| sent.message.clone()).collect()
}

/// Answers the last REGISTER that went by a flow.
fn answer(world: &mut World, flow: FlowId, status: u16, headers: &[(&str, &str)]) {
    let (source, register) = (by(world, flow), registers(world, flow).pop().expect("it is asked"));
    world.reply(source, &register, status, headers, "");
}

/// A world whose registration is on trial at the better address.
fn on_trial(flow: FlowId, better: FlowId) -> World {
    let mut world = registered(flow, &[]);
    world.settled.clear();
    let ask = try_better(&mut world, better);
    let source = by(&world, better);
    world.reply(source, &ask, 200, &[], "");
    assert_eq!((registers(&world, better).len(), outcomes(&world)), (1, vec![]));
    world
}

fn outcomes(world: &World) -> Vec<FlowOutcome> {
    world.settled.iter().map(|(_, outcome)| *outcome).collect()
}

fn failures(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::RegistrationFailed { .. })).count()
}

const CHALLENGE: (&str, &str) = ("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"better\"");

#[test]
fn a_better_address_that_registers_one_takes_over_and_no_call_is_lost_on_the_way() {
    for status in [200, 401, 404, 405, 483] {
        let mut world = registered(STREAM, &[]);
        world.bind_more(7);
        world.respond(200, &[("Expires", "3600")]);
        world.settled.clear();
        let (old, better) = (world.upstream, by(&world, BETTER));
        let ask = try_better(&mut world, BETTER);
        world.reply(better, &ask, status, &[], "");
        assert_eq!((registers(&world, BETTER).len(), outcomes(&world)), (1, vec![]), "{status}: one alone");
        answer(&mut world, BETTER, 401, &[CHALLENGE]);
        assert!(registers(&world, BETTER)[1].has(Name::Authorization));
        assert_eq!((registers(&world, BETTER).len(), world.closed.len()), (2, 0));
        // The member on trial may be called by the better flow before the answer, from an address that DNS does not name.
        let stray: std::net::SocketAddr = "203.0.113.77:5061".parse().unwrap();
        let text = world.invite_text("early");
        world.receive(Source { peer: stray, ..better }, &text);
        answer(&mut world, BETTER, 200, &[("Expires", "3600")]);
        assert_eq!(outcomes(&world), [FlowOutcome::Taken]);
        assert_eq!(registers(&world, BETTER).len(), 3, "the other one registers again by the better flow");
        // A call that comes by the old flow meanwhile.
        let text = world.invite_text("on-the-way");
        world.receive(Source { peer: stray, ..old }, &text);
        assert_eq!(world.events.iter().filter(|event| matches!(event, Event::RequestRefused(_))).count(), 0);
        world.upstream = better;
        answer(&mut world, BETTER, 200, &[("Expires", "3600")]);
        // Its answers leave by the flow that it came by; then that is closed, and nothing follows from its end.
        world.sent.clear();
        world.advance(seconds(30));
        assert!(world.sent.iter().any(|sent| sent.flow == STREAM && sent.message.status() == Some(480)));
        world.advance(seconds(200));
        assert!(world.closed.contains(&STREAM) && !world.closed.contains(&BETTER));
        world.input(Input::Closed(STREAM));
        assert_eq!((world.dialled, world.count("REGISTER"), failures(&world)), (1, 0, 0));
    }
}

#[test]
fn whoever_would_lapse_while_nobody_answers_tries_no_better_address() {
    let mut world = registered(STREAM, &[]);
    let mut short = Vec::new();
    for number in 7..15 {
        world.bind_more(number);
        short.push(world.last("REGISTER").call_id().map(str::to_owned));
        world.respond(200, &[("Expires", "60")]);
    }
    let ask = try_better(&mut world, BETTER);
    let source = by(&world, BETTER);
    world.reply(source, &ask, 200, &[], "");
    let tried = registers(&world, BETTER);
    assert_eq!(tried.len(), 1);
    assert!(!short.contains(&tried[0].call_id().map(str::to_owned)));
}

#[test]
fn a_better_address_that_answers_options_badly_or_not_at_all_changes_nothing() {
    for status in [503, 500, 408, 430] {
        let mut world = registered(STREAM, &[]);
        world.settled.clear();
        let ask = try_better(&mut world, BETTER);
        let better = by(&world, BETTER);
        world.reply(better, &ask, status, &[], "");
        assert_eq!((outcomes(&world), &world.closed), (vec![FlowOutcome::DoesNotServe], &vec![BETTER]), "{status}");
        assert_eq!(world.count("REGISTER"), 0);
    }
    // Silence, by a stream and by datagrams.
    for flow in [BETTER, FlowId::Datagram("192.0.2.99:5060".parse().unwrap())] {
        let mut world = registered(FlowId::Datagram(server_address()), &[]);
        world.settled.clear();
        try_better(&mut world, flow);
        world.advance(seconds(33));
        assert_eq!(
            (outcomes(&world), world.closed.contains(&BETTER)),
            (vec![FlowOutcome::DoesNotServe], flow == BETTER)
        );
        assert_eq!((world.count("REGISTER"), world.dialled), (0, 1));
    }
    // The better flow breaks; it comes when another is on trial; it comes when nothing is wanted.
    let mut world = registered(STREAM, &[]);
    world.settled.clear();
    try_better(&mut world, BETTER);
    let third = FlowId::Stream(3);
    world.input(Input::FailbackDialled { upstream: REGISTRAR, flow: third, transport: Transport::Tls });
    assert_eq!((outcomes(&world), &world.closed), (vec![FlowOutcome::NotWanted], &vec![third]));
    world.input(Input::Closed(BETTER));
    let told = vec![FlowOutcome::NotWanted, FlowOutcome::DoesNotServe];
    assert_eq!((outcomes(&world), world.dialled, world.count("REGISTER")), (told, 1, 0));
    world.advance(seconds(40));
    assert_eq!(outcomes(&world).len(), 2);
    world.input(Input::FailbackDialled {
        upstream: UpstreamId(99),
        flow: FlowId::Stream(4),
        transport: Transport::Tls,
    });
    assert!(world.closed.contains(&FlowId::Stream(4)));
}

#[test]
fn a_better_address_that_answers_options_and_does_not_register_moves_nobody_and_refuses_nobody() {
    let udp = FlowId::Datagram("192.0.2.99:5060".parse().unwrap());
    for better in [BETTER, udp] {
        // Refused three times anywhere else, an account is ended.
        for (statuses, hashes) in [
            (&[500][..], true),
            (&[503], true),
            (&[504], true),
            (&[480], true),
            (&[403], true),
            (&[404], true),
            (&[604], true),
            (&[401, 401], true),
            (&[401], false),
        ] {
            let mut world = registered(STREAM, &[]);
            world.bind_more(7);
            world.respond(200, &[("Expires", "3600")]);
            for _ in 0..5 {
                world.events.clear();
                world.settled.clear();
                world.closed.clear();
                let ask = try_better(&mut world, better);
                let source = by(&world, better);
                world.reply(source, &ask, 404, &[], "");
                if !hashes {
                    world.hashes = vec![Hash::Sha512_256];
                }
                for status in statuses {
                    answer(&mut world, better, *status, &[CHALLENGE, ("Retry-After", "3000")]);
                    if better == udp && matches!(status, 403 | 404 | 604) {
                        // The server may refuse the Contact by the other transport: it is asked without.
                        answer(&mut world, better, *status, &[]);
                    }
                }
                world.hashes = vec![Hash::Md5];
                assert_eq!(outcomes(&world), [FlowOutcome::DoesNotServe], "{statuses:?}");
                assert_eq!(world.closed.contains(&BETTER), better == BETTER);
                // The binding registers again by its present flow, with that server's challenge.
                assert_eq!(registers(&world, STREAM).len(), 1, "{statuses:?}");
                answer(&mut world, STREAM, 401, &[("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"own\"")]);
                answer(&mut world, STREAM, 200, &[("Expires", "3600")]);
                assert_eq!((failures(&world), world.dialled), (0, 1), "{statuses:?}");
                assert_eq!(world.endpoint.flow_to(REGISTRAR), Some(STREAM));
                world.advance(seconds(60));
            }
        }
    }
}

#[test]
fn a_better_address_that_leaves_a_register_unanswered_or_breaks_moves_nobody() {
    let udp = FlowId::Datagram("192.0.2.99:5060".parse().unwrap());
    for better in [BETTER, udp] {
        let mut world = on_trial(STREAM, better);
        world.advance(seconds(33));
        assert_eq!((outcomes(&world), registers(&world, STREAM).len()), (vec![FlowOutcome::DoesNotServe], 1));
        answer(&mut world, STREAM, 200, &[("Expires", "3600")]);
        assert_eq!((failures(&world), world.dialled), (0, 1));
    }
    let mut world = on_trial(STREAM, BETTER);
    world.input(Input::Closed(BETTER));
    assert_eq!((outcomes(&world), registers(&world, STREAM).len()), (vec![FlowOutcome::DoesNotServe], 1));
    // The one in use breaks meanwhile: that says nothing of the better one.
    let mut world = on_trial(STREAM, BETTER);
    let third = FlowId::Stream(3);
    world.upstream.flow = third;
    world.input(Input::Closed(STREAM));
    assert_eq!((outcomes(&world), &world.closed), (vec![FlowOutcome::NotWanted, FlowOutcome::Taken], &vec![BETTER]));
    assert_eq!(registers(&world, third).len(), 1);
}

/// By UDP a better address is gone back to while another one is dialled, because the one in use was silent.
fn back_while_dialling() -> World {
    let udp = FlowId::Datagram(server_address());
    let mut world = registered(udp, &[]);
    world.advance(seconds(5));
    world.dial = false;
    world.bind_more(7);
    world.advance(seconds(20));
    world.settled.clear();
    let ask = try_better(&mut world, BETTER);
    let source = by(&world, BETTER);
    world.reply(source, &ask, 200, &[], "");
    world.advance(seconds(13));
    assert_eq!((world.dialled, world.endpoint.flow_to(REGISTRAR)), (2, None));
    world.events.clear();
    answer(&mut world, BETTER, 200, &[("Expires", "3600")]);
    assert_eq!((outcomes(&world), world.endpoint.flow_to(REGISTRAR)), (vec![FlowOutcome::Taken], Some(BETTER)));
    world
}

#[test]
fn a_dial_that_ends_after_a_better_address_was_gone_back_to_changes_nothing() {
    let mut world = back_while_dialling();
    world.input(Input::DialFailed(REGISTRAR));
    world.advance(seconds(5));
    assert_eq!((world.endpoint.flow_to(REGISTRAR), world.dialled, failures(&world)), (Some(BETTER), 2, 0));
    assert_eq!(registers(&world, BETTER).len(), 2, "the one that was left unanswered asks there");
    answer(&mut world, BETTER, 200, &[("Expires", "3600")]);
    let third = FlowId::Stream(3);
    let dialled = |world: &mut World| {
        world.input(Input::Dialled { upstream: REGISTRAR, flow: third, transport: Transport::Tls });
    };
    let mut world = back_while_dialling();
    dialled(&mut world);
    assert_eq!((world.endpoint.flow_to(REGISTRAR), &world.closed), (Some(BETTER), &vec![third]));
    // The better one breaks before: what is dialled takes its place, and nothing else is.
    let mut world = back_while_dialling();
    world.input(Input::Closed(BETTER));
    assert_eq!((world.endpoint.flow_to(REGISTRAR), world.dialled), (None, 2));
    dialled(&mut world);
    assert_eq!((world.endpoint.flow_to(REGISTRAR), world.dialled), (Some(third), 2));
}

#[test]
fn another_one_is_on_trial_each_time() {
    let mut world = registered(STREAM, &[]);
    for number in 2..=6 {
        world.bind_more(number);
        world.respond(200, &[("Expires", "3600")]);
    }
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let ask = try_better(&mut world, BETTER);
        let better = by(&world, BETTER);
        world.reply(better, &ask, 200, &[], "");
        world.advance(seconds(1));
        tried.insert(registers(&world, BETTER)[0].text(Name::Contact).unwrap().to_owned());
        answer(&mut world, BETTER, 403, &[]);
        world.advance(seconds(1));
        answer(&mut world, STREAM, 200, &[("Expires", "3600")]);
    }
    assert_eq!(tried.len(), 6, "one account's fault keeps nobody away for good");
}

#[test]
fn what_is_wanted_of_the_one_on_trial_meanwhile_is_done_where_it_stands() {
    // Its device comes to the foreground.
    for (status, flow, outcome) in [(200, BETTER, FlowOutcome::Taken), (500, STREAM, FlowOutcome::DoesNotServe)] {
        let mut world = on_trial(STREAM, BETTER);
        world.input(Input::Suspend(world.instance));
        answer(&mut world, BETTER, status, &[("Expires", "3600")]);
        assert_eq!(outcomes(&world), [outcome], "{status}");
        let last = registers(&world, flow).pop().expect("it is unregistered");
        assert!(last.text(Name::Contact).unwrap().contains("expires=0"), "{status}");
        assert_eq!(failures(&world), 0);
    }
    // Its account ends.
    let mut world = on_trial(STREAM, BETTER);
    world.bind_more(7);
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(5) });
    assert_eq!((outcomes(&world), &world.closed), (vec![FlowOutcome::NotWanted], &vec![BETTER]));
    assert!(registers(&world, STREAM).iter().any(|it| it.text(Name::Contact).unwrap().contains("expires=0")));
}

#[test]
fn a_binding_that_ends_while_a_better_address_is_tried_leaves_nothing_behind() {
    for trial in [false, true] {
        let mut world = registered(STREAM, &[]);
        let ask = try_better(&mut world, BETTER);
        if trial {
            let better = by(&world, BETTER);
            world.reply(better, &ask, 200, &[], "");
        }
        world.input(Input::Release(world.instance));
        assert_eq!(world.closed, [BETTER], "the registration's own stream may carry a call that is on its way");
        world.invite("crossing");
        assert_eq!(world.count("INVITE 404"), 1, "its server may try elsewhere");
        world.advance(seconds(5));
        assert_eq!(world.closed, [BETTER, STREAM]);
        for flow in [STREAM, BETTER] {
            world.input(Input::Closed(flow));
        }
        let idle = |event: &Event| matches!(event, Event::UpstreamIdle { upstream: REGISTRAR, forgotten: true });
        assert!(world.events.iter().any(idle));
        world.advance(seconds(400));
        let counts = world.endpoint.counts();
        assert_eq!((counts.upstreams, counts.flows, counts.transactions), (0, 0, 0), "{counts:?}");
    }
}

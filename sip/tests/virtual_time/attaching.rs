//! Which of a device's REGISTERs attach it, and which detach it (RFC 3261 §10.3).

use sip::endpoint::Input;
use sip::endpoint::early_proofs::EARLY_PER_FLOW;
use sip::id::{BindingId, InstanceId, ShardTag};
use sip::message::Name;

use crate::world::{SECRET, World, seconds};

fn attached(world: &World) -> usize {
    world.endpoint.counts().attached
}

#[test]
fn a_phone_that_removes_its_old_contact_beside_the_new_one_is_attached_with_the_new_one() {
    for lines in [
        "Contact: <sip:p@10.0.0.5:9999>;expires=0, <sip:p@172.16.0.9:7777>;expires=600\r\n",
        "Contact: <sip:p@10.0.0.5:9999>;expires=0\r\nm: <sip:p@172.16.0.9:7777>\r\nExpires: 600\r\n",
        "Contact: <sip:p@172.16.0.9:7777>;expires=600, <sip:p@10.0.0.5:9999>;expires=0\r\n",
    ] {
        let mut world = World::registered();
        world.register(1, 1, "Contact: <sip:p@10.0.0.5:9999>\r\nExpires: 600\r\n");
        let answer = world.register(2, 1, lines);
        assert_eq!(answer.text(Name::Contact), Some("<sip:p@172.16.0.9:7777>;expires=600"), "{lines}");
        world.invite("call-1");
        let invite = world.sent.last().expect("the call");
        assert_eq!((invite.flow, world.wakes().len()), (world.device(2).flow, 0), "{lines}");
        assert_eq!(invite.message.request_uri(), Some("sip:p@172.16.0.9:7777"), "{lines}");
    }
}

#[test]
fn the_removal_of_another_contact_detaches_nobody_and_is_told_what_stands() {
    let mut world = World::registered();
    world.register(1, 1, "Contact: <sip:p@10.0.0.5:9999;transport=tls>;expires=600\r\n");
    world.advance(seconds(10));
    let answer = world.register(1, 2, "Contact: <sip:p@172.16.0.9>;expires=0, <sip:q@h>;expires=0\r\n");
    let stands = Some("<sip:p@10.0.0.5:9999;transport=tls>;expires=590");
    assert_eq!((answer.status(), answer.text(Name::Contact)), (Some(200), stands));
    assert_eq!(attached(&world), 1);
    let answer = world.register(1, 3, "Contact: <SIP:%70@10.0.0.5:9999;Transport=TLS>;expires=0\r\n");
    assert_eq!((answer.status(), answer.has(Name::Contact)), (Some(200), false));
    assert_eq!(attached(&world), 0, "it is the same Contact, however it is spelt");
}

#[test]
fn a_flow_that_the_phone_has_left_does_not_detach_it() {
    // The same private address in both networks, and one Contact for all flows (RFC 5626 §4.2).
    for contact in ["<sip:p@192.168.1.2:5061>", "<sip:p@h>;reg-id=1;+sip.instance=\"<urn:uuid:1>\""] {
        for removal in [format!("Contact: {contact}\r\nExpires: 0\r\n"), "Contact: *\r\nExpires: 0\r\n".to_owned()] {
            let mut world = World::registered();
            let binds = format!("Contact: {contact}\r\nExpires: 600\r\n");
            world.register(1, 1, &binds);
            world.register(2, 1, &binds);
            let answer = world.register(1, 2, &removal);
            assert_eq!((answer.status(), answer.has(Name::Contact)), (Some(200), true), "{removal}");
            assert_eq!(attached(&world), 1, "{removal}");
            // One that it has opened since may: the earlier one may be dead without either side knowing.
            world.register(3, 1, &removal);
            assert_eq!(attached(&world), 0, "{removal}");
        }
    }
}

#[test]
fn a_flow_that_the_phone_has_left_is_closed_when_the_later_one_ends_so_that_it_registers_anew() {
    let binds = "Contact: <sip:p@192.168.1.2:5061>\r\nExpires: 600\r\n";
    let flow = |world: &World, number| world.device(number).flow;
    let mut world = World::registered();
    for number in 1..=3 {
        world.register(number, 1, binds);
    }
    assert_eq!(
        (attached(&world), world.closed.len()),
        (1, 0),
        "two clients of one account would close each other's for ever"
    );
    // The first has ended before.
    let (first, second, third) = (flow(&world, 1), flow(&world, 2), flow(&world, 3));
    world.input(Input::Closed(first));
    world.input(Input::Closed(third));
    assert_eq!((&world.closed[..], attached(&world)), (&[second][..], 0));
    world.input(Input::Closed(second));
    world.register(4, 1, binds);
    world.invite("call-1");
    assert_eq!((world.sent.last().unwrap().flow, world.wakes().len()), (flow(&world, 4), 0));
}

#[test]
fn a_flow_that_the_phone_has_left_stays_for_another_device_and_where_the_later_one_is_left_in_good_manners() {
    let binds = "Contact: <sip:p@192.168.1.2:5061>\r\nExpires: 600\r\n";
    let mut world = World::registered();
    // It has come back to the first before the second ends.
    for number in [1, 2, 1] {
        world.register(number, number as u32 + world.sent.len() as u32, binds);
    }
    let second = world.device(2).flow;
    world.input(Input::Closed(second));
    assert_eq!((world.closed.len(), attached(&world)), (0, 1));
    world.register(3, 1, binds);
    world.register(3, 2, "Contact: *\r\nExpires: 0\r\n");
    let third = world.device(3).flow;
    world.input(Input::Closed(third));
    assert_eq!((world.closed.len(), attached(&world)), (0, 0), "it is away by its own word");
    // Another account of the phone is by the first.
    let other = InstanceId::new(77 << 64, ShardTag(0));
    world.bind_another(BindingId::new(77 << 64, ShardTag(0)), other);
    let mine = std::mem::replace(&mut world.instance, other);
    world.register(1, 90, binds);
    world.instance = mine;
    world.register(1, 91, binds);
    world.register(4, 1, binds);
    let fourth = world.device(4).flow;
    world.input(Input::Closed(fourth));
    assert_eq!((world.closed.len(), attached(&world)), (0, 1), "the other account's");
}

#[test]
fn a_registration_with_a_reg_id_is_removed_by_it_whatever_its_address_is_now() {
    let mut world = World::registered();
    let outbound = |host: &str, reg_id: u8, expires: u32| {
        format!("Contact: <sip:p@{host}>;reg-id={reg_id};+sip.instance=\"<urn:uuid:1>\";expires={expires}\r\n")
    };
    world.register(1, 1, &outbound("10.0.0.5", 1, 600));
    world.register(1, 2, &outbound("10.0.0.5", 2, 0));
    assert_eq!(attached(&world), 1, "another flow of the same phone");
    world.register(1, 3, &outbound("172.16.0.9", 1, 0));
    assert_eq!(attached(&world), 0);
}

#[test]
fn a_star_beside_another_contact_or_one_that_lasts_is_400_and_changes_nothing() {
    let mut world = World::registered();
    world.register(1, 1, "Contact: <sip:p@10.0.0.5>;expires=600\r\n");
    for (cseq, lines) in (2..).zip(["Contact: *\r\n", "Contact: *, <sip:p@10.0.0.5>\r\nExpires: 0\r\n"]) {
        assert_eq!(world.register(1, cseq, lines).status(), Some(400), "{lines}");
        assert_eq!(attached(&world), 1, "{lines}");
    }
}

#[test]
fn a_register_that_requires_what_is_not_understood_is_420_before_a_proof_is_asked_for() {
    // RFC 3261 §8.2.2.3, §10.3 step 2.
    let mut world = World::registered();
    let answer = world.register(1, 1, "Contact: <sip:p@h>\r\nRequire: foo, path\r\nRequire: sec-agree\r\n");
    assert_eq!((answer.status(), attached(&world)), (Some(420), 0));
    assert_eq!(answer.elements(Name::Unsupported).collect::<Vec<_>>(), ["foo", "sec-agree"]);
    let answer = world.register(1, 2, "Contact: <sip:p@h>\r\nRequire: Path, outbound\r\n");
    assert_eq!((answer.status(), attached(&world)), (Some(200), 1));
    let unproved = "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKr\r\nFrom: <sip:DEVICE@relay.test>;tag=d\r\n\
                    To: <sip:DEVICE@relay.test>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\nRequire: foo\r\nContent-Length: 0\r\n\r\n";
    world.receive(world.device(2), &unproved.replace("DEVICE", &world.instance.to_string()));
    assert_eq!((world.count("REGISTER 401"), world.count("REGISTER 420")), (0, 2));
}

#[test]
fn options_that_requires_what_is_not_understood_is_420_whoever_is_asked() {
    let mut world = World::registered();
    let bound = format!("sip:{}@relay.test:5070", world.binding);
    for (cseq, (uri, option, status)) in (1..).zip([
        (&*bound, "foo", 420),
        (&*bound, "path", 200),
        ("sip:relay.test", "foo", 420),
        ("sip:relay.test", "", 200),
    ]) {
        let require = if option.is_empty() { String::new() } else { format!("Require: {option}\r\n") };
        let head = world.head("options", "OPTIONS", cseq, "");
        world.receive(world.upstream, &format!("OPTIONS {uri} SIP/2.0\r\n{head}{require}Content-Length: 0\r\n\r\n"));
        let answer = &world.sent.last().unwrap().message;
        assert_eq!(answer.status(), Some(status), "{uri} {option}");
        assert_eq!(answer.text(Name::Unsupported), (status == 420).then_some(option), "{uri} {option}");
    }
}

#[test]
fn while_instances_are_on_their_way_no_proof_is_final_and_nobody_learns_which_are_here() {
    let mut world = World::registered();
    let (here, unknown) = (world.instance, InstanceId::new(0x3333 << 64, ShardTag(0)));
    let ask = |world: &mut World, instance: InstanceId, flow: u64, cseq: u32, secret: &str| {
        world.instance = instance;
        let text = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bK{flow}.{cseq}\r\n\
             From: <sip:{instance}@relay.test>;tag=d\r\nTo: <sip:{instance}@relay.test>\r\nCall-ID: r{flow}\r\n\
             CSeq: {cseq} REGISTER\r\nContact: <sip:p@10.0.0.5:9999>\r\nAuthorization: Bearer {secret}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        world.receive(world.device(flow), &text);
        let answer = &world.sent.last().expect("an answer").message;
        (answer.status(), answer.text(Name::RetryAfter).map(str::to_owned))
    };
    world.endpoint.expect_instances(true);
    let early = (Some(503), Some("2".to_owned()));
    for (instance, flow) in [(here, 1), (unknown, 2)] {
        for cseq in 1..u32::from(EARLY_PER_FLOW) {
            assert_eq!(ask(&mut world, instance, flow, cseq, "wrong"), early);
        }
        assert!(world.closed.is_empty(), "{flow}");
    }
    let right = SECRET.replace(' ', "-");
    assert_eq!(ask(&mut world, unknown, 2, 100, &right), early);
    assert_eq!(world.closed, [world.device(2).flow], "one flow asks no more often than that");
    assert_eq!(ask(&mut world, here, 1, 100, &right).0, Some(200));
    assert_eq!(attached(&world), 1);
    // They are all here.
    world.endpoint.expect_instances(false);
    for (instance, flow) in [(here, 3), (unknown, 4)] {
        for cseq in 1..=5 {
            assert!(!world.closed.contains(&world.device(flow).flow));
            assert_eq!(ask(&mut world, instance, flow, cseq, "wrong"), (Some(403), None));
        }
        assert!(world.closed.contains(&world.device(flow).flow));
    }
}

/// RFC 3261 §10.3 step 7
#[test]
fn a_register_that_a_later_one_of_its_connection_has_overtaken_changes_nothing() {
    let binds = "Contact: <sip:p@10.0.0.5:9999>\r\nExpires: 600\r\n";
    let removals = ["Contact: <sip:p@10.0.0.5:9999>\r\nExpires: 0\r\n", "Contact: *\r\nExpires: 0\r\n"];
    for late in removals.into_iter().chain(["Contact: <sip:q@h>\r\nExpires: 60\r\n"]) {
        let mut world = World::registered();
        world.register(1, 7, binds);
        let answer = world.register(1, 6, late);
        assert_eq!((answer.status(), attached(&world)), (Some(500), 1), "{late}");
        let stands = world.register(1, 5, "");
        let contact = stands.text(Name::Contact).unwrap_or_default();
        assert!(stands.status() == Some(200) && contact.starts_with("<sip:p@10.0.0.5:9999>"), "a question: {contact}");
        // A client that does not count, and one that has started again.
        assert_eq!(world.register(1, 7, binds).status(), Some(200));
        assert_eq!(world.register(2, 1, binds).status(), Some(200));
        assert_eq!((world.register(2, 2, late).status(), late.contains(": 0")), (Some(200), attached(&world) == 0));
    }
}

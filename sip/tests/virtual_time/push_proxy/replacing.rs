//! A registration whose device registers anew, with another Contact or another push token, while a call waits, rings or stands; and two phones
//! that look alike.

use sip::endpoint::push_bindings::CONTACTS_PER_AOR;
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::outgoing::{flow_of, in_dialog};
use super::through::{PN, Register, Through, values};

/// Alice's phone with the push token that it gets later.
const LATER: &str =
    "<sip:alice@10.0.0.5:1;pn-provider=fcm;pn-param=project;pn-prid=later>;+sip.instance=\"<urn:uuid:1>\"";
const ANSWER: (&str, &str) = ("Contact", "<sip:alice@10.0.0.5:9>");

fn close(through: &mut Through, flow: u64) {
    through.world.input(Input::Closed(FlowId::Stream(flow)));
}

/// Nobody has cancelled or refused the call.
fn goes_on(through: &Through) -> bool {
    let refused = |sent: &String| sent.starts_with("INVITE 4") && sent != "INVITE 482";
    through.world.count("CANCEL") == 0 && !through.world.descriptions().iter().any(refused)
}

fn path_of(register: &Message) -> String {
    register.text(Name::Path).unwrap().to_owned()
}

/// A BYE of the phone, which it sends by this flow, of the call that it has got as `invite`; and one of the other side.
fn hangs_up(through: &mut Through, invite: &Message, flow: u64) {
    let (alice, bob) = ("<sip:alice@example.com>;tag=peer", "<sip:bob@example.com>;tag=bob");
    let mut routes = values(invite, Name::RecordRoute);
    let call_id = format!("Call-ID: {}", invite.call_id().unwrap());
    let of_call = |text: String| text.replace("Call-ID: out", &call_id);
    let (device, server) = (through.world.device(flow), through.world.upstream);
    let world = &mut through.world;
    world.sent.clear();
    world.receive(device, &of_call(in_dialog("BYE", "sip:bob@192.0.2.77", &routes, alice, bob, "10.0.0.5:9")));
    assert_eq!((world.count("BYE"), flow_of(world, "BYE")), (1, server.flow), "{:?}", world.descriptions());
    routes.truncate(2);
    routes.reverse();
    // Its server has another socket by now.
    let source = Source { flow: FlowId::Datagram("192.0.2.10:5999".parse().unwrap()), ..server };
    world.sent.clear();
    world.receive(source, &of_call(in_dialog("BYE", "sip:alice@10.0.0.5:9", &routes, bob, alice, "192.0.2.10")));
    assert_eq!((world.count("BYE"), flow_of(world, "BYE")), (1, device.flow), "{:?}", world.descriptions());
}

/// A REGISTER as pjsip sends it after its network has changed, or when it has learned its address from its first 200.
#[test]
fn a_register_that_takes_the_old_contact_away_ends_neither_its_registration_nor_the_call_that_it_came_for() {
    let (old, new) = (format!("<sip:alice@10.0.0.5:1{PN}>"), format!("<sip:alice@198.51.100.7:4711{PN}>"));
    for both in [format!("{new}, {old};expires=0"), format!("{old};expires=0, {new}")] {
        for rings in [true, false] {
            let mut through = Through::new();
            let path = path_of(&through.registered(&Register::by(1).contact(&old)));
            close(&mut through, 1);
            through.call("c1", &path);
            if rings {
                through.registered(&Register::by(2).contact(&old));
                let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
                through.world.reply(device, &invite, 180, &[], "");
            }
            let again = through.registered(&Register::by(2).contact(&both));
            assert_eq!((path_of(&again), through.ends()), (path, vec![]), "{both}");
            assert!(goes_on(&through), "{both}: {:?}", through.world.descriptions());
            let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
            through.world.reply(device, &invite, 200, &[ANSWER], "");
            assert_eq!(through.world.final_states(), [CallState::Answered]);
            assert_eq!((through.world.count("INVITE"), through.world.wakes().len()), (1, 1));
            through.registered(&Register::by(2).contact(&new).expires(0));
            assert_eq!(through.ends(), [PushBindingEnd::Unregistered]);
        }
    }
}

/// Its flow alone leads to it, so that it has another name with its other address.
#[test]
fn a_call_that_rings_goes_on_for_a_new_contact_of_the_same_connection() {
    let (old, new) = ("<sip:alice@10.0.0.5:9;transport=tls>", "<sip:alice@198.51.100.7:4711;transport=tls>");
    let mut through = Through::new();
    through.by_flow = true;
    let path = path_of(&through.registered(&Register::by(1).contact(old)));
    through.call("c1", &path);
    let (device, invite) = (through.world.device(1), through.world.last("INVITE"));
    through.world.reply(device, &invite, 180, &[], "");
    through.registered(&Register::by(1).contact(&format!("{new}, {old};expires=0")));
    assert!(goes_on(&through), "{:?}", through.world.descriptions());
    through.world.reply(device, &invite, 200, &[ANSWER], "");
    assert_eq!((through.world.final_states(), through.world.count("INVITE")), (vec![CallState::Answered], 1));
    // Another network: the old connection is gone, and the Contact is another one again.
    close(&mut through, 1);
    let third = "<sip:alice@203.0.113.80:5070;transport=tls>";
    through.registered(&Register::by(2).contact(&format!("{third}, {new};expires=0")));
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
    hangs_up(&mut through, &invite, 2);
}

/// RFC 8599 §4.1.1: a device that gets another push token registers again.
#[test]
fn a_phone_whose_push_token_changes_while_it_rings_rings_on_and_hangs_up_by_its_next_connection() {
    let (mut through, _) = Through::asleep();
    let path = path_of(&through.registered(&Register::by(2)));
    close(&mut through, 2);
    through.call("c1", &path);
    through.registered(&Register::by(3));
    let earlier = through.instance();
    let (device, invite) = (through.world.device(3), through.world.last("INVITE"));
    through.world.reply(device, &invite, 180, &[], "");
    through.registered(&Register::by(3).contact(LATER));
    assert_eq!((through.ends(), through.world.endpoint.counts().push_bindings), (vec![PushBindingEnd::Replaced], 1));
    assert!(goes_on(&through), "{:?}", through.world.descriptions());
    let told = |event: &Event| {
        matches!(event, Event::PushBindingSucceeded(it)
            if it.earlier == earlier && it.successor == through.instance() && it.calls.len() == 1)
    };
    assert_eq!(through.world.events.iter().filter(|event| told(event)).count(), 1);
    through.world.reply(device, &invite, 200, &[ANSWER], "");
    assert_eq!((through.world.final_states(), through.world.count("INVITE")), (vec![CallState::Answered], 1));
    close(&mut through, 3);
    through.registered(&Register::by(4).contact(LATER));
    hangs_up(&mut through, &invite, 4);
    close(&mut through, 4);
    assert_eq!(through.world.endpoint.counts().attached, 0);
}

#[test]
fn a_call_that_waits_goes_to_its_phone_with_another_push_token_and_is_not_pushed_again() {
    for comes_by in [2, 1] {
        let mut through = Through::new();
        let path = path_of(&through.registered(&Register::by(1)));
        close(&mut through, 1);
        through.call("c1", &path);
        if comes_by == 1 {
            // The phone comes with the old Contact first.
            through.registered(&Register::by(1));
        }
        through.registered(&Register::by(comes_by).contact(LATER));
        assert!(goes_on(&through), "{:?}", through.world.descriptions());
        let (device, invite) = (through.world.device(comes_by), through.world.last("INVITE"));
        through.world.reply(device, &invite, 200, &[ANSWER], "");
        assert_eq!((through.world.count("INVITE 200"), through.world.wakes().len()), (1, 1));
        // A proxy that has the Contact by its new Path sends the same INVITE there: it is no second call.
        let later = path_of(&through.world.last("REGISTER"));
        let copy = through.request("INVITE", "c1", &later).replace("c1.1.INVITE", "c1.2.INVITE");
        through.world.receive(through.world.upstream, &copy);
        assert_eq!(through.world.count("INVITE"), 1, "{:?}", through.world.descriptions());
    }
}

/// The next one goes by the Path that its server has by then.
#[test]
fn a_call_that_is_on_its_way_by_the_path_of_the_earlier_token_finds_its_phone() {
    let (mut through, path) = Through::asleep();
    through.registered(&Register::by(2).contact(LATER));
    through.call("c1", &path);
    assert_eq!((through.world.count("INVITE"), flow_of(&through.world, "INVITE")), (1, FlowId::Stream(2)));
    through.advance(6);
    through.call("c2", &path);
    assert_eq!((through.world.count("INVITE"), through.world.count("INVITE 404")), (1, 1));
}

#[test]
fn a_phone_that_has_its_earlier_token_again_stands_in_its_own_name() {
    let (mut through, path) = Through::asleep();
    through.registered(&Register::by(2).contact(LATER));
    let later = path_of(&through.registered(&Register::by(2).contact(LATER)));
    assert_eq!(path_of(&through.registered(&Register::by(2))), path);
    assert_eq!((through.ends(), through.world.endpoint.counts().push_bindings), (vec![PushBindingEnd::Replaced; 2], 1));
    through.advance(6);
    through.call("c1", &path);
    through.call("c2", &later);
    assert_eq!((through.world.count("INVITE"), through.world.count("INVITE 404")), (1, 1));
}

/// A phone that changes its token is sent no more for that.
#[test]
fn what_a_device_may_be_sent_begins_anew_by_no_other_token() {
    let mut through = Through::new();
    let (mut passed, tokens) = (0, [Register::by(1).contact(LATER), Register::by(1)]);
    for turn in 0..8 {
        let path = path_of(&through.registered(&tokens[turn % 2]));
        for number in 0..20 {
            let text = through.request("MESSAGE", &format!("m{turn}.{number}"), &path);
            through.world.receive(through.world.upstream, &text);
        }
        passed = through.world.count("MESSAGE");
    }
    let begun = |through: &mut Through, number| {
        super::outgoing::Begun { call_id: format!("b{number}"), ..super::outgoing::Begun::new("MESSAGE") }
            .send(&mut through.world);
        through.world.count("MESSAGE 503")
    };
    assert!(passed > 0);
    let mut refused = 0;
    for number in 0..40 {
        if number % 10 == 0 {
            through.registered(&tokens[number / 10 % 2]);
        }
        refused = begun(&mut through, number);
    }
    assert_eq!(refused, 10);
}

/// RFC 3261 §19.1.4: for their registrar they are two Contacts.
#[test]
fn two_phones_without_an_instance_id_that_have_one_address_are_both_called() {
    let of = |token: &str| format!("<sip:alice@192.168.178.20:5061;pn-provider=fcm;pn-param=project;pn-prid={token}>");
    let mut through = Through::new();
    let paths = [1, 2].map(|flow| {
        let path = path_of(&through.registered(&Register::by(flow).contact(&of(&format!("t{flow}")))));
        close(&mut through, flow);
        path
    });
    assert_eq!((through.ends(), through.world.endpoint.counts().push_bindings), (vec![], 2));
    through.call("c1", &paths[0]);
    through.call("c2", &paths[1]);
    assert_eq!(through.world.wakes().len(), 2);
    through.registered(&Register::by(3).contact(&of("t2")).expires(0));
    assert_eq!(through.ends(), [PushBindingEnd::Unregistered], "one signs out");
    through.call("c3", &paths[0]);
    assert_eq!(through.world.wakes().len(), 3, "and the other one is called");
    through.registered(&Register::by(4).contact(&of("none")).expires(0));
    assert_eq!(through.ends().len(), 1, "nor is it taken back by a token that nobody has here");
    // By one connection it is one phone.
    through.registered(&Register::by(5).contact(&of("t1")));
    through.registered(&Register::by(5).contact(&of("t3")));
    assert_eq!(through.ends()[1..], [PushBindingEnd::Replaced]);
    let plain = "<sip:alice@192.168.178.20:5061>";
    through.registered(&Register::by(6).contact(&of("t4")));
    through.registered(&Register::by(6).contact(plain).expires(0));
    assert_eq!(through.ends()[2..], [PushBindingEnd::Unregistered], "its own, by its connection");
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

/// As a client writes it that quotes each value.
#[test]
fn a_device_that_signs_out_in_quotes_has_signed_out() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    let contact = format!("<sip:alice@10.0.0.5:1{PN}>;expires=\"0\";+sip.instance=\"<urn:uuid:1>\"");
    through.register(&Register::by(1).contact(&contact));
    assert!(!through.world.last("REGISTER").has(Name::Path), "it registers nothing");
    through.accept(0);
    assert_eq!(
        (through.ends(), through.world.endpoint.counts().push_bindings),
        (vec![PushBindingEnd::Unregistered], 0)
    );
}

#[test]
fn phones_with_one_address_are_no_more_than_an_account_may_have() {
    let mut through = Through::new();
    for flow in 1..=CONTACTS_PER_AOR as u64 + 4 {
        let contact = format!("<sip:alice@192.0.0.4:5061;pn-provider=fcm;pn-prid=t{flow}>");
        through.registered(&Register::by(flow).contact(&contact).expires(600 + flow as u32));
    }
    assert_eq!(through.world.endpoint.counts().push_bindings, CONTACTS_PER_AOR);
    assert_eq!((through.ends().len(), through.world.count("REGISTER 403")), (4, 0));
}

/// RFC 3261 §10.3 step 8: a 2xx lists what stands. A device that has registered from another address, or with another push token, may remove its earlier
/// Contact afterwards.
#[test]
fn a_contact_that_is_removed_after_the_next_one_was_registered_ends_neither_that_one_nor_the_call_that_it_came_for() {
    const MOVED: &str = "<sip:alice@198.51.100.7:2;pn-provider=fcm;pn-param=project;pn-prid=token>;expires=590";
    const TOKEN: &str = "<sip:alice@10.0.0.5:1;pn-provider=fcm;pn-param=project;pn-prid=later>;expires=589";
    const LOST: &str = "<sip:alice@10.0.0.9:9;pn-provider=fcm;pn-param=project;pn-prid=token>;expires=500";
    let instance = ";+sip.instance=\"<urn:uuid:1>\"";
    let (old, plain) = (format!("<sip:alice@10.0.0.5:1{PN}>{instance}"), format!("<sip:alice@10.0.0.5:1>{instance}"));
    let moved = format!("<sip:alice@198.51.100.7:2{PN}>{instance}");
    for (new, listed, signs_out) in [(LATER, TOKEN, LATER), (&*moved, MOVED, &*moved), (&moved, MOVED, &plain)] {
        let mut through = Through::new();
        through.registered(&Register::by(1).contact(&old));
        close(&mut through, 1);
        let path = path_of(&through.registered(&Register::by(2).contact(new)));
        through.call("c1", &path);
        let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
        through.world.reply(device, &invite, 180, &[], "");
        through.advance(10);
        let ended = through.ends().len();
        through.says = vec![("Contact", LOST), ("Contact", listed)];
        through.registered(&Register::by(2).contact(&old).expires(0));
        assert_eq!((through.ends().len(), through.world.endpoint.counts().push_bindings), (ended, 1), "{new}");
        assert!(goes_on(&through), "{new}: {:?}", through.world.descriptions());
        through.world.reply(device, &invite, 200, &[ANSWER], "");
        assert_eq!(through.world.final_states(), [CallState::Answered], "{new}");
        // A phone that signs out is pushed no more, whatever it has left behind elsewhere, or if its stack forgets the parameters.
        through.says = vec![("Contact", if signs_out == plain { listed } else { LOST })];
        through.registered(&Register::by(2).contact(signs_out).expires(0));
        assert_eq!(through.world.endpoint.counts().push_bindings, 0, "{signs_out}");
    }
}

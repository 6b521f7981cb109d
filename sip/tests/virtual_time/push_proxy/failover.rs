//! A SIP server of several addresses, the best of which serves no phone that registers through the endpoint (RFC 3263 §4.3).

use sip::endpoint::*;
use sip::id::FlowId;

use super::through::{Register, Through};

const FIRST: FlowId = FlowId::Stream(71);
const NEXT: FlowId = FlowId::Stream(72);

/// Phones that are registered by the first address; the next dial that is to avoid it leads to the next one.
fn registered(phones: u64) -> Through {
    let mut through = Through::over(FIRST);
    for phone in 1..=phones {
        through.registered(&of(phone));
    }
    through.world.upstream.flow = NEXT;
    through.world.elsewhere = true;
    through.world.avoided.clear();
    through.world.sent.clear();
    through
}

/// A REGISTER of a phone, each with a push token of its own.
fn of(phone: u64) -> Register {
    let contact = format!("<sip:alice@10.0.0.5:{phone};pn-provider=fcm;pn-param=project;pn-prid=token{phone}>");
    Register::by(phone).contact(&format!("{contact};+sip.instance=\"<urn:uuid:{phone}>\""))
}

/// The server behind the first address answers the last REGISTER that went there.
fn refuse(through: &mut Through, status: u16) {
    let register = asked(through, FIRST).pop().expect("it is asked");
    let source = Source { flow: FIRST, ..through.world.upstream };
    through.world.reply(source, &register, status, &[("Retry-After", "5")], "");
}

fn asked(through: &Through, flow: FlowId) -> Vec<sip::message::Message> {
    let sent = through.world.sent.iter().filter(|sent| sent.flow == flow);
    sent.filter(|sent| sent.message.method_text() == Some("REGISTER")).map(|sent| sent.message.clone()).collect()
}

#[test]
fn a_phone_that_is_alone_there_is_registered_by_the_next_address_and_hears_of_no_refusal() {
    for (known, status) in [(true, 503), (true, 430), (true, 500), (true, 504), (false, 503), (false, 430)] {
        let mut through = if known { registered(1) } else { registered(0) };
        if !known {
            // Its first REGISTER has the first address dialled.
            through.world.upstream.flow = FIRST;
        }
        through.register(&of(1));
        through.world.upstream.flow = NEXT;
        refuse(&mut through, status);
        let (next, said) = (asked(&through, NEXT).len(), through.world.count(&format!("REGISTER {status}")));
        assert_eq!((next, said), (1, 0), "{known} {status}");
        assert_eq!(through.world.avoided.last(), Some(&Some(FIRST)));
        through.accept(600);
        assert_eq!(through.world.count("REGISTER 200"), 1, "{known} {status}");
        through.register(&of(1));
        assert_eq!(asked(&through, NEXT).len(), 2, "and it stays there");
    }
}

#[test]
fn a_refusal_goes_to_the_phone_when_every_address_refuses_it_and_when_there_is_no_other() {
    let mut through = registered(1);
    through.register(&of(1));
    refuse(&mut through, 503);
    let (register, source) = (through.world.last("REGISTER"), through.world.upstream);
    through.world.reply(source, &register, 503, &[("Retry-After", "7")], "");
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 1));
    let mut through = registered(1);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(through.world.count("REGISTER 503"), 0, "it waits");
    let upstream = through.server;
    through.world.input(Input::DialFailed(upstream));
    let said = through.world.last("REGISTER 503");
    assert_eq!(said.text(sip::message::Name::RetryAfter), Some("5"), "its server's own");
}

#[test]
fn two_phones_that_are_refused_have_another_address_sought_and_one_moves_nobody() {
    let mut through = registered(3);
    through.advance(10);
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((through.world.avoided.len(), through.world.count("REGISTER 503")), (0, 1));
    through.register(&of(2));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 1));
    through.accept(600);
    // The first one tries again, and the third comes.
    for phone in [1, 3] {
        through.registered(&of(phone));
    }
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 200")), (3, 3));
    // A stranger's that its server refuses counts for nothing.
    let mut through = registered(3);
    for phone in 4..=8 {
        through.register(&of(phone));
        refuse(&mut through, 503);
    }
    assert_eq!((through.world.avoided.len(), through.world.count("REGISTER 503")), (0, 5));
}

#[test]
fn one_phone_is_enough_where_nobody_was_granted_for_long() {
    let mut through = registered(3);
    through.advance(33);
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0));
    // Several that are answered otherwise count alike, and wait for it.
    let mut through = registered(3);
    through.advance(33);
    through.register(&of(1));
    refuse(&mut through, 500);
    assert_eq!((through.world.avoided.len(), through.world.count("REGISTER 500")), (0, 1));
    through.register(&of(2));
    refuse(&mut through, 500);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 500")), (1, 1));
}

#[test]
fn a_look_in_vain_leaves_the_flow_in_use_and_hands_on_the_refusal() {
    let mut through = registered(3);
    through.advance(33);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(through.world.count("REGISTER 503"), 0, "it waits");
    let upstream = through.server;
    through.world.input(Input::DialFailed(upstream));
    assert_eq!(through.world.count("REGISTER 503"), 1);
    through.register(&of(2));
    assert_eq!(asked(&through, FIRST).len(), 2, "others are asked for there");
}

#[test]
fn an_address_that_is_silent_is_left() {
    for phones in [0, 1, 3] {
        let mut through = registered(phones);
        if phones == 0 {
            through.world.upstream.flow = FIRST;
        }
        through.advance(40);
        through.register(&of(1));
        through.world.upstream.flow = NEXT;
        through.advance(33);
        assert_eq!(through.world.avoided.last(), Some(&Some(FIRST)), "{phones} phones");
        through.register(&of(1));
        assert_eq!(asked(&through, NEXT).len(), 1, "{phones} phones");
    }
}

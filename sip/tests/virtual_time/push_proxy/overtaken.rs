//! A SIP server answers in another order than it was asked: its answer to an earlier REGISTER undoes nothing of a later one (RFC 3261 §10.3).

use sip::endpoint::{Event, PushBindingEnd};
use sip::message::{Message, Name};

use crate::push_proxy::through::{Register, Through};

const ANOTHER: &str = "<sip:alice@h;pn-provider=fcm;pn-prid=new>;+sip.instance=\"<urn:uuid:1>\"";

/// The SIP server gets both, and accepts the second first; how it answers the first one.
fn reversed(through: &mut Through, first: &Register, second: &Register, status: u16) {
    through.register(first);
    let earlier = through.world.last("REGISTER");
    through.register(second);
    through.accept(second.expires);
    answer(through, &earlier, first.expires, status);
    assert_eq!(through.world.count(&format!("REGISTER {status}")), if status == 200 { 2 } else { 1 });
}

fn answer(through: &mut Through, register: &Message, expires: u32, status: u16) {
    match status {
        200 => through.accept_this(register, expires),
        _ => through.world.reply(through.world.upstream, register, status, &[], ""),
    }
}

#[test]
fn a_late_answer_to_an_earlier_register_leaves_what_a_later_one_has_registered() {
    let own = Register::by(1);
    let plain = own.clone().contact("<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\"");
    let [gone, all, plainly] = [own.clone().expires(0), own.clone().contact("*").expires(0), plain.expires(0)];
    for (first, second) in [
        (&gone, own.clone()),
        (&all, own.clone()),
        (&plainly, own.clone()),
        // By the next connection, which is the one that stands.
        (&gone, Register::by(2)),
        (&all, Register::by(2)),
        (&all, own.clone().contact(ANOTHER)),
        (&plainly, own.clone().contact(ANOTHER)),
    ] {
        for knows in [true, false] {
            let mut through = Through::new();
            if knows {
                through.registered(&own);
            }
            through.world.sent.clear();
            let replaced = usize::from(knows && second.contact == ANOTHER);
            reversed(&mut through, first, &second, 200);
            assert_eq!(through.ends().len(), replaced, "{} {}", first.contact, second.contact);
            assert_eq!(through.world.endpoint.counts().push_bindings, 1);
            assert_eq!(
                through.left(),
                1 + usize::from(knows),
                "each way is given back but that of the one that stands"
            );
        }
    }
}

#[test]
fn in_the_order_in_which_they_were_asked_the_last_one_stands_too() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    let earlier = through.world.last("REGISTER");
    through.register(&Register::by(1).expires(0));
    let later = through.world.last("REGISTER");
    through.accept_this(&earlier, 600);
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
    through.accept_this(&later, 0);
    assert_eq!((through.ends(), through.left()), (vec![PushBindingEnd::Unregistered], 2));
}

#[test]
fn what_a_later_one_has_removed_or_replaced_does_not_come_back() {
    let own = Register::by(1);
    let gone = own.clone().expires(0);
    let another_phone = "<sip:alice@10.0.0.6;pn-provider=fcm;pn-prid=b>;+sip.instance=\"<urn:uuid:2>\"";
    for (second, stays) in [
        (gone.clone(), 0),
        (own.clone().contact("*").expires(0), 0),
        // Its token of before.
        (gone.clone().contact(ANOTHER), 0),
        (own.clone().contact(ANOTHER), 1),
        // Another phone of the account is none of it.
        (own.clone().contact(another_phone), 2),
        (gone.contact(another_phone), 1),
    ] {
        let mut through = Through::new();
        reversed(&mut through, &own, &second, 200);
        assert_eq!(through.world.endpoint.counts().push_bindings, stays, "{}", second.contact);
        let token = through.world.events.iter().rev().find_map(|event| match event {
            Event::PushBindingAccepted(it) => Some(it.push.prid.to_string()),
            _ => None,
        });
        let last = (second.contact == ANOTHER && second.expires > 0).then_some("new");
        assert!(last.is_none_or(|last| token.as_deref() == Some(last)), "its newest token is pushed");
    }
}

#[test]
fn all_other_phones_of_an_account_go_with_a_late_answer_and_the_one_that_has_come_since_stays() {
    let mut through = Through::new();
    through.registered(
        &Register::by(3).contact("<sip:alice@10.0.0.6;pn-provider=fcm;pn-prid=b>;+sip.instance=\"<urn:uuid:2>\""),
    );
    through.registered(&Register::by(1));
    through.world.sent.clear();
    reversed(&mut through, &Register::by(1).contact("*").expires(0), &Register::by(1), 200);
    assert_eq!(through.ends(), [PushBindingEnd::Unregistered]);
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

#[test]
fn a_call_rings_on_when_the_answer_to_an_earlier_removal_comes() {
    let (mut through, path) = Through::asleep();
    through.register(&Register::by(2).expires(0));
    let earlier = through.world.last("REGISTER");
    let again = through.registered(&Register::by(2));
    assert_eq!(again.text(Name::Path), Some(&*path));
    through.call("c1", &path);
    assert_eq!(through.world.count("INVITE"), 1);
    through.accept_this(&earlier, 0);
    assert_eq!((through.world.count("INVITE 480"), through.world.count("CANCEL")), (0, 0));
}

#[test]
fn a_late_refusal_of_an_earlier_register_ends_nothing_either() {
    for status in [403, 404, 410, 604] {
        let mut through = Through::new();
        through.registered(&Register::by(1));
        through.world.sent.clear();
        reversed(&mut through, &Register::by(1), &Register::by(1), status);
        assert_eq!(through.ends(), [], "{status}");
    }
}

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

/// A REGISTER of a phone, each of an account and with a push token of its own.
fn of(phone: u64) -> Register {
    const ACCOUNTS: [&str; 4] =
        ["sip:alice@example.com", "sip:carol@example.com", "sip:dave@example.com", "sip:erin@example.com"];
    Register { to: ACCOUNTS[(phone as usize - 1) % 4], ..of_alice(phone) }
}

/// Likewise of a phone of Alice's.
fn of_alice(phone: u64) -> Register {
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
    let server = through.server;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.endpoint.flow_to(server)), (1, Some(FIRST)), "it alone");
    through.accept(600);
    through.register(&of(2));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.endpoint.flow_to(server)), (2, Some(NEXT)));
    through.accept(600);
    // The first one comes again, and the third comes.
    for phone in [1, 3] {
        through.registered(&of(phone));
    }
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 200")), (4, 4));
    assert_eq!(through.world.count("REGISTER 503"), 0);
    // A stranger's that its server refuses counts for nothing.
    let mut through = registered(3);
    for phone in 4..=8 {
        through.register(&of(phone));
        refuse(&mut through, 503);
    }
    let server = through.server;
    assert_eq!((through.world.avoided.len(), through.world.endpoint.flow_to(server)), (1, Some(FIRST)));
    assert_eq!((through.world.for_one, asked(&through, NEXT).len()), (1, 5));
}

#[test]
fn several_accounts_that_are_answered_otherwise_count_once_nobody_was_granted_for_long() {
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
fn one_account_with_many_phones_moves_nobody_else() {
    for status in [503, 430, 500, 504] {
        let mut through = registered(0);
        through.world.upstream.flow = FIRST;
        through.registered(&of(2));
        let of_alice = |phone| match phone {
            // The same account by the other scheme.
            12 => Register { to: "sips:alice@example.com", ..of_alice(phone) },
            // By other spellings, which its SIP server takes for the same.
            13 => Register { to: "sip:%61lic%65@example.com", ..of_alice(phone) },
            14 => Register { to: "sip:Alice@example.com", ..of_alice(phone) },
            _ => of_alice(phone),
        };
        for phone in 11..=14 {
            through.registered(&of_alice(phone));
        }
        through.world.avoided.clear();
        through.world.upstream.flow = NEXT;
        through.advance(33);
        for phone in 11..=14 {
            through.register(&of_alice(phone));
            refuse(&mut through, status);
        }
        // Those that are refused by 503 and 430 are asked for at the next address, and they alone.
        let (server, asks) = (through.server, if matches!(status, 503 | 430) { 4 } else { 0 });
        assert_eq!(
            (asked(&through, NEXT).len(), through.world.endpoint.flow_to(server)),
            (asks, Some(FIRST)),
            "{status}"
        );
        assert_eq!(through.world.avoided.len(), through.world.for_one, "{status}");
        assert_eq!(through.world.count(&format!("REGISTER {status}")), 4 - asks);
        through.register(&of(2));
        refuse(&mut through, status);
        assert_eq!(through.world.endpoint.flow_to(server), Some(NEXT), "{status}: another account is refused, too");
    }
}

#[test]
fn the_phones_of_one_account_move_where_nobody_else_is() {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    for phone in [11, 12] {
        through.registered(&of_alice(phone));
    }
    through.world.upstream.flow = NEXT;
    through.register(&of_alice(11));
    through.register(&of_alice(12));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0));
}

#[test]
fn an_account_that_is_gone_counts_no_more() {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    for (phone, expires) in [(1, 100), (2, 3600), (3, 3600)] {
        through.registered(&of(phone).expires(expires));
    }
    through.world.avoided.clear();
    through.advance(90);
    through.register(&of(1));
    refuse(&mut through, 500);
    through.advance(20);
    assert_eq!(through.ends(), [PushBindingEnd::Expired]);
    through.register(&of(2));
    refuse(&mut through, 500);
    assert_eq!((through.world.avoided.len(), through.world.count("REGISTER 500")), (0, 2));
    through.register(&of(3));
    refuse(&mut through, 500);
    assert_eq!(through.world.avoided.len(), 1);
}

#[test]
fn an_account_that_is_left_with_another_phone_is_still_the_one_that_failed_alone() {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.registered(&of_alice(11).expires(100));
    through.registered(&of_alice(12));
    through.registered(&of(3));
    through.registered(&of(2));
    through.world.avoided.clear();
    through.advance(60);
    through.register(&of_alice(12));
    refuse(&mut through, 500);
    // Others are served meanwhile, so it is the account's own.
    through.registered(&of(3));
    through.advance(45);
    assert_eq!(through.ends(), [PushBindingEnd::Expired]);
    for phone in [of_alice(12), of(2)] {
        through.register(&phone);
        refuse(&mut through, 500);
    }
    assert_eq!(through.world.avoided.len(), 0, "one that fails alone, and one more");
}

#[test]
fn a_proof_for_the_address_that_was_left_is_not_a_wrong_one_at_the_next() {
    const PROOF: &str = "Authorization: Digest username=\"alice\", realm=\"r\", nonce=\"n\", uri=\"sip:example.com\", \
                         response=\"0123456789abcdef0123456789abcdef\"";
    const CHALLENGE: &str = "Digest realm=\"r\", nonce=\"m\"";
    for (proves, stale, heard) in [(true, "", 503), (true, ", stale=true", 401), (false, "", 401)] {
        let mut through = registered(1);
        let register = if proves { of(1).header(PROOF) } else { of(1) };
        through.register(&register);
        refuse(&mut through, 503);
        through.world.events.clear();
        let (register, source) = (through.world.last("REGISTER"), through.world.upstream);
        through.world.reply(source, &register, 401, &[("WWW-Authenticate", &format!("{CHALLENGE}{stale}"))], "");
        let said = (through.world.count("REGISTER 503"), through.world.count("REGISTER 401"));
        assert_eq!(said, if heard == 503 { (1, 0) } else { (0, 1) }, "{proves} {stale}");
        let is_doubted = |event: &Event| matches!(event, Event::RegisterEnded { proof: Some(_), .. });
        assert!(!through.world.events.iter().any(is_doubted), "{proves} {stale}");
    }
}

#[test]
fn a_look_in_vain_leaves_the_flow_in_use_and_hands_on_the_refusal() {
    let mut through = registered(3);
    through.advance(33);
    through.world.dial = false;
    for phone in [1, 2] {
        through.register(&of(phone));
        refuse(&mut through, 503);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.avoided.len()), (0, 1), "both wait, for one dial");
    let upstream = through.server;
    through.world.input(Input::DialFailed(upstream));
    assert_eq!(through.world.count("REGISTER 503"), 2);
    through.register(&of(3));
    assert_eq!(asked(&through, FIRST).len(), 3, "others are asked for there");
}

#[test]
fn an_address_that_is_silent_is_left_by_a_phone_that_is_alone_and_by_two_accounts() {
    for (registered_there, silent) in [(0, 1..=1), (1, 1..=1), (3, 1..=2)] {
        let mut through = registered(registered_there);
        if registered_there == 0 {
            through.world.upstream.flow = FIRST;
        }
        through.advance(40);
        for phone in silent {
            assert!(through.world.avoided.is_empty());
            through.register(&of(phone));
            through.world.upstream.flow = NEXT;
            through.advance(33);
        }
        assert_eq!(through.world.avoided.last(), Some(&Some(FIRST)), "{registered_there} phones");
        through.register(&of(1));
        assert_eq!(asked(&through, NEXT).len(), 1, "{registered_there} phones");
    }
}

#[test]
fn a_server_that_drops_the_registers_of_one_account_is_left_by_nobody() {
    for lends in [false, true] {
        let mut through = registered(0);
        through.world.upstream.flow = FIRST;
        for phone in [11, 12] {
            through.registered(&of_alice(phone));
        }
        if lends {
            through.world.bind();
            through.world.grant(3600);
        } else {
            through.registered(&of(2));
        }
        through.world.avoided.clear();
        through.world.upstream.flow = NEXT;
        through.advance(40);
        for phone in [11, 12, 11] {
            through.register(&of_alice(phone).header("User-Agent: friendly-scanner"));
            through.advance(33);
        }
        // A stranger's likewise.
        through.register(&of(4));
        through.advance(33);
        assert_eq!((through.world.avoided.len(), asked(&through, NEXT).len()), (0, 0), "{lends}");
    }
}

/// The server behind a flow answers the last REGISTER that went there; the next dial leads by `next`.
fn answer_by(through: &mut Through, flow: FlowId, status: u16, next: FlowId) {
    through.world.upstream.flow = next;
    let register = asked(through, flow).pop().expect("it is asked");
    let peer = if let FlowId::Datagram(peer) = flow { peer } else { through.world.upstream.peer };
    let source = Source { flow, peer, ..through.world.upstream };
    through.world.reply(source, &register, status, &[], "");
}

const THIRD: FlowId = FlowId::Stream(73);

#[test]
fn a_register_goes_along_the_list_until_an_address_serves_it() {
    for (known, status) in [(true, 503), (true, 500), (false, 503)] {
        let mut through = registered(u64::from(known));
        through.world.upstream.flow = FIRST;
        through.register(&of(1));
        answer_by(&mut through, FIRST, status, NEXT);
        answer_by(&mut through, NEXT, status, THIRD);
        let said = through.world.count(&format!("REGISTER {status}"));
        assert_eq!((asked(&through, THIRD).len(), said), (1, 0), "{known} {status}");
        through.accept(600);
        assert_eq!(through.world.count("REGISTER 200"), 1, "{known} {status}");
        // The one that serves now fails, and the first one is well again.
        through.advance(2);
        through.register(&of(1));
        answer_by(&mut through, THIRD, status, FIRST);
        assert!(asked(&through, FIRST).len() > 1, "{known} {status}: it is asked at once");
    }
}

#[test]
fn the_pause_begins_when_the_whole_list_has_been_asked() {
    let mut through = registered(1);
    through.register(&of(1));
    answer_by(&mut through, FIRST, 503, NEXT);
    answer_by(&mut through, NEXT, 503, FIRST);
    assert_eq!((through.world.avoided.len(), asked(&through, FIRST).len()), (2, 1), "it has refused it before");
    assert_eq!(through.world.count("REGISTER 503"), 1);
    for _ in 0..20 {
        through.advance(1);
        through.register(&of(1));
        answer_by(&mut through, FIRST, 503, NEXT);
    }
    assert_eq!((through.world.avoided.len(), asked(&through, NEXT).len()), (2, 1));
    through.advance(12);
    through.register(&of(1));
    answer_by(&mut through, FIRST, 503, NEXT);
    assert_eq!((through.world.avoided.len(), asked(&through, NEXT).len()), (3, 2));
}

#[test]
fn phones_that_are_not_registered_yet_are_served_by_the_next_address_while_the_first_is_silent() {
    // One that writes a REGISTER each second, each five, and one that is patient; and several of them.
    for (phones, pause) in [(1, 1), (1, 5), (3, 7), (1, 60), (2, 90)] {
        for flow in [FIRST, FlowId::Datagram(crate::world::server_address())] {
            let mut through = registered(0);
            through.world.upstream.flow = flow;
            for _ in 0..200 / pause {
                (1..=phones).for_each(|phone| through.register(&of(phone)));
                through.world.upstream.flow = NEXT;
                through.advance(pause);
            }
            assert!(!asked(&through, NEXT).is_empty(), "{phones} {pause}");
        }
    }
}

#[test]
fn what_was_under_way_at_a_silent_address_goes_to_the_next_one() {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.register(&of(1));
    through.world.upstream.flow = NEXT;
    through.advance(20);
    through.register(&of(1));
    through.advance(13);
    assert_eq!((asked(&through, FIRST).len(), asked(&through, NEXT).len()), (2, 1));
    through.accept(600);
    assert_eq!(through.world.count("REGISTER 200"), 1);
}

#[test]
fn what_is_known_of_the_addresses_is_kept_for_some_minutes_and_given_back() {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.register(&of(1));
    through.world.upstream.flow = NEXT;
    through.advance(33);
    let kept =
        |through: &Through| through.world.events.iter().filter(|it| matches!(it, Event::UpstreamKept(_))).count();
    assert_eq!((kept(&through), through.left(), through.world.endpoint.counts().upstreams), (1, 1, 1));
    through.advance(601);
    assert_eq!((kept(&through), through.left(), through.world.endpoint.counts().upstreams), (1, 2, 0));
}

#[test]
fn answers_to_keep_alives_are_no_sign_that_registers_are_answered() {
    let mut through = registered(1);
    through.register(&of(1));
    for _ in 0..33 {
        through.advance(1);
        through.world.input(Input::Pong(FIRST));
    }
    assert_eq!(through.world.avoided.last(), Some(&Some(FIRST)));
    // A message is one.
    let mut through = registered(1);
    through.register(&of(1));
    through.advance(31);
    let (source, text) =
        (Source { flow: FIRST, ..through.world.upstream }, through.request("OPTIONS", "o", "<sip:x;lr>"));
    through.world.receive(source, &text);
    through.advance(2);
    assert_eq!(through.world.avoided, []);
}

#[test]
fn a_phone_that_leaves_is_unregistered_at_the_next_address_where_the_first_refuses_that() {
    for (contact, expires) in [(None, 0), (Some("*"), 0)] {
        let mut through = registered(1);
        let leaves = of(1).expires(expires);
        through.register(&match contact {
            Some(contact) => leaves.contact(contact),
            None => leaves,
        });
        refuse(&mut through, 503);
        assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0), "{contact:?}");
        through.accept(0);
        assert_eq!(through.world.count("REGISTER 200"), 1);
    }
}

/// A lent account and phones are registered by the first address; their dials lead to the next one.
fn beside_a_lent_account(phones: u64) -> Through {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.world.bind();
    through.world.grant(3600);
    (1..=phones).for_each(|phone| drop(through.registered(&of(phone))));
    through.world.upstream.flow = NEXT;
    through.world.avoided.clear();
    through.world.sent.clear();
    through
}

#[test]
fn a_phone_beside_others_that_its_server_refuses_is_registered_by_a_further_address_and_nobody_moves() {
    for (phones, phone, status) in [(1, 1, 503), (1, 1, 430), (0, 1, 503), (2, 3, 503)] {
        let mut through = beside_a_lent_account(phones);
        let server = through.server;
        for round in 1..=3 {
            through.register(&of(phone));
            refuse(&mut through, status);
            assert_eq!(asked(&through, NEXT).len(), round, "{phones} {status}");
            let (register, next) = (asked(&through, NEXT).pop().unwrap(), through.world.upstream);
            through.accept_this(&register, 600);
            assert_eq!(next.flow, NEXT);
            assert_eq!(through.world.count("REGISTER 200"), round);
            through.advance(5);
        }
        assert_eq!(
            (through.world.count(&format!("REGISTER {status}")), through.world.dialled),
            (0, 2),
            "{phones} {status}"
        );
        assert_eq!(through.world.for_one, 1, "no other shard takes the address for a bad one");
        assert_eq!(through.world.endpoint.flow_to(server), Some(FIRST));
        assert!(through.world.endpoint.is_registered(through.world.binding) && through.world.closed.is_empty());
        // Its flow is closed when no call by it can need an answer any more.
        through.advance(400);
        assert_eq!(through.world.closed, [NEXT]);
    }
}

#[test]
fn a_refusal_by_a_further_address_too_or_without_any_goes_to_the_phone_and_none_is_dialled_for_a_while() {
    let mut through = beside_a_lent_account(1);
    for _ in 0..10 {
        through.register(&of(1));
        refuse(&mut through, 503);
        let (register, next) = (asked(&through, NEXT).pop().unwrap(), through.world.upstream);
        through.world.reply(next, &register, 503, &[("Retry-After", "7")], "");
        through.advance(1);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.dialled), (10, 2));
    // None is there.
    let mut through = beside_a_lent_account(1);
    through.world.elsewhere = false;
    for _ in 0..10 {
        through.register(&of(1));
        refuse(&mut through, 503);
        through.advance(1);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.dialled), (10, 2));
    assert_eq!((through.world.closed.as_slice(), asked(&through, NEXT).len()), (&[NEXT][..], 0));
    // None can be dialled.
    let mut through = beside_a_lent_account(1);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(through.world.count("REGISTER 503"), 0);
    let server = through.server;
    through.world.input(Input::DialFailed(server));
    assert_eq!(through.world.count("REGISTER 503"), 1);
}

#[test]
fn a_flow_to_a_further_address_that_ends_hands_on_the_refusal_and_is_dialled_anew() {
    let mut through = beside_a_lent_account(1);
    through.register(&of(1));
    refuse(&mut through, 503);
    through.world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5061".parse().unwrap() });
    through.world.input(Input::Closed(NEXT));
    assert_eq!(through.world.count("REGISTER 503"), 1);
    assert_eq!(asked(&through, FIRST).len(), 1, "those that stand there are not disturbed");
    through.advance(33);
    through.world.upstream.flow = THIRD;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(asked(&through, THIRD).len(), 1);
}

#[test]
fn several_phones_go_along_the_list_together() {
    for status in [503, 500] {
        let mut through = registered(3);
        let server = through.server;
        through.advance(33);
        for _ in 0..3 {
            for phone in 1..=3 {
                through.register(&of(phone));
                for (flow, next) in [(FIRST, NEXT), (NEXT, THIRD)] {
                    let at = through.world.sent.last().filter(|sent| sent.flow == flow);
                    if at.is_some_and(|sent| sent.message.is_request()) {
                        answer_by(&mut through, flow, status, next);
                    }
                }
                if asked(&through, THIRD).len() > through.world.count("REGISTER 200") {
                    through.accept(600);
                }
            }
            through.advance(1);
        }
        assert_eq!(through.world.endpoint.flow_to(server), Some(THIRD), "{status}");
        let said = (through.world.count("REGISTER 200"), through.world.count(&format!("REGISTER {status}")));
        assert!(said.0 >= 6, "{status}: {said:?}");
    }
}

//! A SIP server of several addresses, the best of which serves no phone that registers through the endpoint (RFC 3263 §4.3).

use sip::endpoint::*;
use sip::id::FlowId;

use super::through::{Register, Through};

pub(super) const FIRST: FlowId = FlowId::Stream(71);
pub(super) const NEXT: FlowId = FlowId::Stream(72);

/// Phones that are registered by the first address; the next dial that is to avoid it leads to the next one.
pub(super) fn registered(phones: u64) -> Through {
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
pub(super) fn of(phone: u64) -> Register {
    const ACCOUNTS: [&str; 4] =
        ["sip:alice@example.com", "sip:carol@example.com", "sip:dave@example.com", "sip:erin@example.com"];
    Register { to: ACCOUNTS[(phone as usize - 1) % 4], ..of_alice(phone) }
}

/// Likewise of a phone of Alice's.
pub(super) fn of_alice(phone: u64) -> Register {
    let contact = format!("<sip:alice@10.0.0.5:{phone};pn-provider=fcm;pn-param=project;pn-prid=token{phone}>");
    Register::by(phone).contact(&format!("{contact};+sip.instance=\"<urn:uuid:{phone}>\""))
}

/// The server behind the first address answers the last REGISTER that went there.
pub(super) fn refuse(through: &mut Through, status: u16) {
    let register = asked(through, FIRST).pop().expect("it is asked");
    let source = Source { flow: FIRST, ..through.world.upstream };
    through.world.reply(source, &register, status, &[("Retry-After", "5")], "");
}

pub(super) fn asked(through: &Through, flow: FlowId) -> Vec<sip::message::Message> {
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
    for to in ["sip:alice@example.com", "sip:Alice@example.com", "sips:alice@example.com"] {
        let mut through = registered(0);
        through.world.upstream.flow = FIRST;
        let other = Register { to, ..of_alice(12) };
        for phone in [&of_alice(11), &other] {
            through.registered(phone);
        }
        through.world.upstream.flow = NEXT;
        through.register(&of_alice(11));
        through.register(&other);
        refuse(&mut through, 503);
        let server = through.server;
        assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0), "{to}");
        assert_eq!(through.world.endpoint.flow_to(server), Some(NEXT), "{to}");
    }
}

#[test]
fn a_register_that_its_device_has_followed_up_is_not_sent_again() {
    let mut through = registered(2);
    through.register(&of(1));
    through.register(&of(1).expires(0));
    // Another device's is no follow-up.
    through.register(&of(2));
    through.world.input(Input::Closed(FIRST));
    let next = asked(&through, NEXT);
    let expires: Vec<_> = next.iter().map(|it| it.text(sip::message::Name::Expires).unwrap()).collect();
    assert_eq!((expires, through.world.count("REGISTER 504")), (vec!["0", "600"], 1));
    // Likewise one that is refused after the other one.
    let mut through = registered(1);
    through.register(&of(1));
    let first = through.world.last("REGISTER");
    through.register(&of(1).expires(0));
    let source = Source { flow: FIRST, ..through.world.upstream };
    through.world.reply(source, &first, 503, &[("Retry-After", "5")], "");
    assert_eq!(through.world.count("REGISTER 503"), 1);
    assert!(asked(&through, NEXT).iter().all(|it| it.text(sip::message::Name::Expires) == Some("0")));
    // Two phones that have the same address, each behind a NAT of its own.
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    for phone in [1, 2] {
        let contact = "<sip:alice@192.168.1.10:5060;pn-provider=fcm;pn-param=project;pn-prid=";
        through.register(&Register::by(phone).contact(&format!("{contact}token{phone}>")));
    }
    through.world.upstream.flow = NEXT;
    through.world.input(Input::Closed(FIRST));
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 504")), (2, 0));
}

#[test]
fn a_register_that_waits_for_another_address_when_the_process_ends_may_come_again_at_once() {
    let mut through = registered(1);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    through.world.input(Input::EndCalls(Failover::OtherNode));
    assert_eq!(through.world.last("REGISTER 503").text(sip::message::Name::RetryAfter), Some("1"));
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
    for to in ["sip:alice@example.com", "sip:Alice@example.com", "sips:alice@example.com"] {
        is_left_with_another_phone(to);
    }
}

fn is_left_with_another_phone(to: &'static str) {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.registered(&Register { to, ..of_alice(11) }.expires(100));
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
    assert_eq!(through.world.avoided.len(), 0, "one that fails alone, and one more: {to}");
}

/// The proof of a phone for this nonce.
pub(super) fn proof(nonce: &str) -> String {
    format!(
        "Authorization: Digest username=\"alice\", realm=\"r\", nonce=\"{nonce}\", uri=\"sip:example.com\", \
         response=\"0123456789abcdef0123456789abcdef\""
    )
}

/// The server behind a flow challenges the last REGISTER that went there.
pub(super) fn challenge_by(through: &mut Through, flow: FlowId, nonce: &str) {
    let register = asked(through, flow).pop().expect("it is asked");
    let source = Source { flow, ..through.world.upstream };
    let challenge = format!("Digest realm=\"r\", nonce=\"{nonce}\"");
    through.world.reply(source, &register, 401, &[("WWW-Authenticate", &challenge)], "");
}

/// What the shell was told of proofs since.
pub(super) fn judged(through: &mut Through) -> Vec<bool> {
    let told = |event| match event {
        Event::RegisterEnded { proof, .. } => proof,
        _ => None,
    };
    through.world.events.drain(..).filter_map(told).collect()
}

#[test]
fn a_proof_for_the_address_that_was_left_is_not_a_wrong_one_at_the_next() {
    for (proves, stale) in [(true, ""), (true, "\", stale=\"true"), (false, "")] {
        let mut through = registered(1);
        let register = if proves { of(1).header(&proof("n")) } else { of(1) };
        through.register(&register);
        refuse(&mut through, 503);
        judged(&mut through);
        challenge_by(&mut through, NEXT, &format!("m{stale}"));
        assert_eq!(
            (through.world.count("REGISTER 503"), through.world.count("REGISTER 401")),
            (0, 1),
            "{proves} {stale}"
        );
        assert_eq!(judged(&mut through), [], "{proves} {stale}");
    }
}

#[test]
fn a_proof_that_is_sent_again_because_its_flow_ended_is_not_a_wrong_one() {
    // To another address, and to the same one, behind which the server has begun anew.
    for next in ["192.0.2.11:5061", "192.0.2.10:5061"] {
        let mut through = registered(0);
        through.world.upstream.flow = FIRST;
        through.world.input(Input::LeadsTo { flow: FIRST, address: "192.0.2.10:5061".parse().unwrap() });
        through.register(&of(1));
        challenge_by(&mut through, FIRST, "n");
        through.registered(&of(1).header(&proof("n")));
        judged(&mut through);
        through.register(&of(1).header(&proof("n")));
        through.world.input(Input::LeadsTo { flow: NEXT, address: next.parse().unwrap() });
        through.world.upstream.flow = NEXT;
        through.world.input(Input::Closed(FIRST));
        challenge_by(&mut through, NEXT, "m");
        assert_eq!((judged(&mut through), through.world.count("REGISTER 401")), (vec![], 2), "{next}");
        // What it proves with that nonce counts.
        through.register(&of(1).header(&proof("m")));
        challenge_by(&mut through, NEXT, "m");
        assert_eq!(judged(&mut through), [false], "{next}");
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

pub(super) const THIRD: FlowId = FlowId::Stream(73);

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

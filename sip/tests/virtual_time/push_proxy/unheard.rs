//! A phone whose app is suspended while its connection stands: what it is sent is taken, and never answered.

use std::time::Duration;

use sip::endpoint::Input;
use sip::id::FlowId;
use sip::message::Name;

use super::through::{Register, Through};

/// Alice's phone has registered by flow 1, and is suspended.
fn suspended() -> (Through, String) {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    through.world.sent.clear();
    (through, path)
}

fn ask(through: &mut Through, path: &str, method: &str, call_id: &str) {
    let (source, text) = (through.world.upstream, through.request(method, call_id, path));
    through.world.receive(source, &text);
}

/// Asterisk calls nobody whose `qualify` is not answered within 3 s.
#[test]
fn options_that_a_suspended_phone_leaves_unanswered_are_answered_for_it_and_it_is_asked_no_more() {
    let (mut through, path) = suspended();
    ask(&mut through, &path, "OPTIONS", "o1");
    through.world.advance(Duration::from_millis(999));
    assert_eq!(through.world.descriptions(), ["OPTIONS"], "the phone may answer itself");
    through.world.advance(Duration::from_millis(1));
    assert_eq!(through.world.descriptions(), ["OPTIONS", "OPTIONS 200"]);
    assert!(through.world.last("OPTIONS 200").has(Name::Allow));
    let (device, first) = (through.world.device(1), through.world.last("OPTIONS"));
    // Each minute: its radio has rest.
    through.world.sent.clear();
    for call_id in ["o2", "o3"] {
        through.advance(60);
        ask(&mut through, &path, "OPTIONS", call_id);
    }
    assert_eq!(through.world.descriptions(), ["OPTIONS 200", "OPTIONS 200"]);
    // The phone is there again, and answers a request that was answered for it.
    through.world.sent.clear();
    through.world.reply(device, &first, 200, &[], "");
    assert_eq!(through.world.descriptions(), [] as [&str; 0]);
    ask(&mut through, &path, "OPTIONS", "o4");
    let asked = through.world.last("OPTIONS");
    through.world.reply(device, &asked, 200, &[("Allow", "INVITE, X")], "");
    assert_eq!(through.world.last("OPTIONS 200").text(Name::Allow), Some("INVITE, X"), "its own answer passes");
    through.advance(40);
    assert_eq!((through.world.descriptions(), through.refreshes()), (vec!["OPTIONS".into(), "OPTIONS 200".into()], 0));
    let counts = through.world.endpoint.counts();
    assert_eq!((counts.transactions, counts.waiting), (0, 0));
}

#[test]
fn a_keep_alive_of_the_phone_says_that_it_may_be_asked_again() {
    let (mut through, path) = suspended();
    ask(&mut through, &path, "OPTIONS", "o1");
    through.advance(1);
    through.world.sent.clear();
    ask(&mut through, &path, "OPTIONS", "o2");
    assert_eq!(through.world.descriptions(), ["OPTIONS 200"]);
    let device = through.world.device(1);
    through.world.input(Input::Ping(device));
    ask(&mut through, &path, "OPTIONS", "o3");
    assert_eq!(through.world.descriptions(), ["OPTIONS 200", "OPTIONS"]);
    // Its next connection is another one.
    through.advance(1);
    through.registered(&Register::by(2));
    through.world.sent.clear();
    ask(&mut through, &path, "OPTIONS", "o4");
    assert_eq!(through.world.sent[0].flow, FlowId::Stream(2));
}

#[test]
fn options_for_one_that_its_flow_alone_leads_to_are_answered_by_nobody_else() {
    let mut through = Through::new();
    through.by_flow = true;
    let register = Register::by(1).contact("<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\"");
    let path = through.registered(&register).text(Name::Path).unwrap().to_owned();
    through.world.sent.clear();
    for method in ["OPTIONS", "MESSAGE"] {
        ask(&mut through, &path, method, method);
    }
    through.advance(24);
    assert_eq!((through.world.descriptions(), through.refreshes()), (vec!["OPTIONS".into(), "MESSAGE".into()], 0));
}

#[test]
fn what_a_suspended_phone_leaves_without_any_response_wakes_it_and_goes_to_its_next_connection() {
    for method in ["MESSAGE", "SUBSCRIBE", "NOTIFY", "REFER"] {
        let (mut through, path) = suspended();
        ask(&mut through, &path, method, "m1");
        through.world.advance(Duration::from_millis(1_999));
        assert_eq!(through.refreshes(), 0, "{method}");
        through.world.advance(Duration::from_millis(1));
        assert_eq!((through.refreshes(), through.world.descriptions()), (1, vec![method.to_owned()]));
        through.registered(&Register::by(2));
        assert_eq!(through.world.sent.last().map(|sent| sent.flow), Some(FlowId::Stream(2)), "{method}");
        let (device, passed) = (through.world.device(2), through.world.last(method));
        through.world.reply(device, &passed, 202, &[("Contact", "<sip:alice@10.0.0.5:1>")], "");
        assert_eq!(through.world.count(&format!("{method} 202")), 1);
        through.advance(40);
        assert_eq!(through.refreshes(), 1, "{method}");
    }
}

#[test]
fn what_a_phone_answers_in_time_wakes_nobody() {
    let (mut through, path) = suspended();
    let device = through.world.device(1);
    for (status, call_id) in [(200, "m1"), (100, "m2"), (486, "m3")] {
        ask(&mut through, &path, "MESSAGE", call_id);
        let asked = through.world.last("MESSAGE");
        through.world.reply(device, &asked, status, &[], "");
    }
    through.advance(10);
    assert_eq!(through.refreshes(), 0);
}

//! Requests other than a new call: inside a dialog by PURR (RFC 8599 §6.2.3), and standing alone.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::outgoing;
use super::through::{Register, Through, values};

/// A dialog whose device has gone to sleep: the world, the INVITE as the device got it.
fn in_dialog() -> (Through, Message) {
    let (mut through, invite) = in_open_dialog();
    through.world.input(Input::Closed(FlowId::Stream(1)));
    through.world.sent.clear();
    (through, invite)
}

/// A dialog whose device has its connection.
fn in_open_dialog() -> (Through, Message) {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    through.call("c1", &path);
    let (device, invite) = (through.world.device(1), through.world.last("INVITE"));
    through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:1>")], "");
    through.world.sent.clear();
    (through, invite)
}

fn bye(through: &Through, invite: &Message, purr: &str) -> String {
    let routes: Vec<&str> = invite.elements(Name::RecordRoute).collect();
    let routes: Vec<&str> = routes.into_iter().rev().skip(1).collect();
    let head = through.world.head("c1", "BYE", 2, ";tag=peer").replace("Record-Route: <sip:192.0.2.10;lr>\r\n", "");
    format!("BYE sip:alice@10.0.0.5:1{purr} SIP/2.0\r\nRoute: {}\r\n{head}Content-Length: 0\r\n\r\n", routes.join(", "))
}

#[test]
fn a_request_in_a_dialog_wakes_the_device_that_its_purr_names() {
    let (mut through, invite) = in_dialog();
    let purr = format!(";pn-purr={}", through.instance());
    let (source, text) = (through.world.upstream, bye(&through, &invite, &purr));
    through.world.receive(source, &text);
    assert_eq!((through.refreshes(), through.world.descriptions().len()), (1, 0), "it waits");
    through.registered(&Register::by(2));
    let passed = through.world.last("BYE");
    assert_eq!(passed.request_uri(), Some(&*format!("sip:alice@10.0.0.5:1{purr}")));
    let device = through.world.device(2);
    through.world.reply(device, &passed, 200, &[], "");
    assert_eq!(through.world.count("BYE 200"), 1);
}

#[test]
fn a_bye_that_waits_for_a_device_which_is_another_nodes_by_now_reaches_it_when_it_comes_back() {
    let (mut through, invite) = in_dialog();
    let (source, text) = (through.world.upstream, bye(&through, &invite, ""));
    through.world.receive(source, &text);
    let instance = through.instance();
    through.world.input(Input::ReleasePushBinding { instance, to: NewOwner::Chosen });
    assert_eq!(through.world.count("BYE 480"), 1, "its sender knows");
    through.advance(60);
    through.registered(&Register::by(2));
    assert_eq!(through.world.count("BYE"), 1);
    let (device, passed) = (through.world.device(2), through.world.last("BYE"));
    through.world.reply(device, &passed, 200, &[], "");
    through.world.sent.clear();
    through.advance(1_000);
    assert_eq!(through.world.count("BYE 200"), 0, "nobody waits for its answer");
}

/// The call was an earlier run's, or its device is at another node by now; the store may tell.
#[test]
fn a_request_in_a_dialog_of_a_device_that_is_not_known_here_is_asked_for_and_waits_like_any_other() {
    let (before, invite) = in_dialog();
    let instance = before.instance();
    for purr in ["".to_owned(), format!(";pn-purr={instance}")] {
        let text = bye(&before, &invite, &purr);
        let parsed = |text: &str| Message::parse(&text.to_owned().into(), &Default::default()).unwrap();
        let mut through = Through::new();
        let source = through.world.upstream;
        let missing = |through: &Through, text: &str| {
            through.world.endpoint.missing_by_path(through.world.now, &source, &parsed(text)).map(|it| it.0)
        };
        assert_eq!(missing(&through, &text), Some(instance));
        assert_eq!(missing(&through, &text.replace("c1", "c2")), None, "of another dialog");
        let device = through.world.device(1);
        assert_eq!(through.world.endpoint.missing_by_path(through.world.now, &device, &parsed(&text)), None);
        through.registered(&Register::by(1));
        through.world.input(Input::Closed(FlowId::Stream(1)));
        through.world.sent.clear();
        assert_eq!(missing(&through, &text), None);
        through.world.receive(source, &text);
        assert_eq!((through.refreshes(), through.world.descriptions().len()), (usize::from(!purr.is_empty()), 0));
        through.registered(&Register::by(2));
        assert_eq!(through.world.count("BYE"), 1);
    }
}

/// Its other party hangs up; the store may be away, and has nothing of a device that has just gone.
#[test]
fn a_bye_for_a_device_that_has_just_gone_goes_down_its_open_flow_without_a_word_from_the_store() {
    let (mut through, invite) = in_open_dialog();
    let (instance, source, text) = (through.instance(), through.world.upstream, bye(&through, &invite, ""));
    through.world.input(Input::RemovePushBinding(instance));
    let parsed = Message::parse(&text.clone().into(), &Default::default()).unwrap();
    let missing =
        |through: &Through, source| through.world.endpoint.missing_by_path(through.world.now, &source, &parsed);
    assert_eq!(missing(&through, source), None);
    let elsewhere = Source { flow: FlowId::Stream(77), ..source };
    assert_eq!(
        missing(&through, elsewhere),
        Some((instance, Missing::Binding)),
        "of a stranger, as far as is known here"
    );
    through.world.sent.clear();
    through.world.receive(source, &text);
    assert_eq!(through.world.descriptions(), ["BYE"]);
    through.world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!(missing(&through, source), Some((instance, Missing::Binding)), "nothing is left of it here");
}

#[test]
fn a_request_in_a_dialog_that_a_suspended_device_leaves_unanswered_wakes_it_by_its_purr() {
    for (purr, refreshes) in [(true, 1), (false, 0)] {
        let (mut through, invite) = in_open_dialog();
        let purr = if purr { format!(";pn-purr={}", through.instance()) } else { String::new() };
        let (source, text) = (through.world.upstream, bye(&through, &invite, &purr));
        through.world.receive(source, &text);
        through.advance(2);
        assert_eq!((through.refreshes(), through.world.descriptions()), (refreshes, vec!["BYE".to_owned()]));
        through.registered(&Register::by(2));
        let (device, passed) = (through.world.device(2), through.world.last("BYE"));
        through.world.reply(device, &passed, 200, &[], "");
        assert_eq!(through.world.count("BYE 200"), 1);
    }
}

#[test]
fn a_request_in_a_dialog_without_a_purr_or_with_anothers_pushes_nobody() {
    for purr in ["", ";pn-purr=pi_aaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let (mut through, invite) = in_dialog();
        let (source, text) = (through.world.upstream, bye(&through, &invite, purr));
        through.world.receive(source, &text);
        assert_eq!(through.refreshes(), 0, "{purr}");
        through.advance(32);
        assert_eq!(through.world.count("BYE 480"), 1, "before its sender gives up by itself");
    }
}

#[test]
fn a_message_wakes_the_device_and_follows_it() {
    let (mut through, path) = Through::asleep();
    let (source, text) = (through.world.upstream, through.request("MESSAGE", "m1", &path));
    through.world.receive(source, &text);
    assert_eq!((through.refreshes(), through.world.descriptions().len()), (1, 0));
    let text = through.request("MESSAGE", "m2", &path);
    through.world.receive(source, &text);
    assert_eq!(through.refreshes(), 1, "one push for both");
    through.registered(&Register::by(2));
    assert_eq!(through.world.count("MESSAGE"), 2);
    assert!(!through.world.last("MESSAGE").has(Name::Route));
}

#[test]
fn what_means_something_in_a_dialog_alone_wakes_nobody_and_is_told_that_there_is_none() {
    for method in ["BYE", "INFO", "PRACK", "UPDATE"] {
        let (mut through, path) = Through::asleep();
        let (source, text) = (through.world.upstream, through.request(method, "c9", &path));
        through.world.receive(source, &text);
        assert_eq!((through.refreshes(), through.world.descriptions()), (0, vec![format!("{method} 481")]));
    }
}

/// A registrar that asks each minute whether its Contact is there must not wake the phone each minute.
#[test]
fn options_is_answered_for_a_sleeping_device_and_passes_to_one_that_is_awake() {
    let (mut through, path) = Through::asleep();
    let (source, text) = (through.world.upstream, through.request("OPTIONS", "o1", &path));
    through.world.receive(source, &text);
    assert_eq!((through.world.count("OPTIONS 200"), through.refreshes()), (1, 0));
    through.registered(&Register::by(2));
    let text = through.request("OPTIONS", "o2", &path);
    through.world.receive(source, &text);
    assert_eq!(through.world.count("OPTIONS"), 1);
}

/// RFC 6665 §4.1, RFC 3515 §2.4.4: what begins a dialog is record-routed, so that the device's NOTIFYs find their way.
#[test]
fn the_notifys_of_a_subscription_and_of_a_refer_that_came_by_path_go_back_the_same_way() {
    for method in ["SUBSCRIBE", "REFER"] {
        for asleep in [true, false] {
            let (mut through, path) = Through::asleep();
            if !asleep {
                through.registered(&Register::by(2));
            }
            let (source, text) = (through.world.upstream, through.request(method, "s1", &path));
            through.world.receive(source, &text);
            if asleep {
                through.registered(&Register::by(2));
            }
            let (device, asked) = (through.world.device(2), through.world.last(method));
            let recorded: Vec<_> = values(&asked, Name::RecordRoute);
            assert_eq!(recorded.len(), 3, "{method}: two of ours, and the SIP server's");
            through.world.reply(device, &asked, 202, &[("Contact", "<sip:alice@10.0.0.5:1>")], "");
            let notify = format!(
                "NOTIFY sip:bob@192.0.2.77 SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:1;branch=z9hG4bKn\r\nRoute: {}\r\n\
                 Max-Forwards: 70\r\nFrom: {};tag=peer\r\nTo: {}\r\nCall-ID: s1\r\nCSeq: 1 NOTIFY\r\nEvent: x\r\n\
                 Subscription-State: active\r\nContent-Length: 0\r\n\r\n",
                recorded.join(", "),
                asked.text(Name::To).unwrap(),
                asked.text(Name::From).unwrap(),
            );
            through.world.receive(device, &notify);
            let passed = through.world.sent.last().unwrap();
            assert_eq!((passed.message.method_text(), passed.flow), (Some("NOTIFY"), source.flow), "{method}");
            assert_eq!(values(&passed.message, Name::Route), ["<sip:192.0.2.10;lr>"]);
            let passed = passed.message.clone();
            through.world.reply(source, &passed, 200, &[], "");
            assert_eq!(through.world.count("NOTIFY 200"), 1);
        }
    }
    let (mut through, path) = Through::asleep();
    through.registered(&Register::by(2));
    let (source, text) = (through.world.upstream, through.request("MESSAGE", "m1", &path));
    through.world.receive(source, &text);
    assert_eq!(values(&through.world.last("MESSAGE"), Name::RecordRoute), ["<sip:192.0.2.10;lr>"], "it begins none");
}

/// RFC 6665 §4.3, §4.4.1: the NOTIFY makes the dialog, one for each notifier, and some clients take their route set from it alone.
#[test]
fn the_notifys_that_a_phones_subscription_has_give_it_a_route_for_each_notifier() {
    for method in ["SUBSCRIBE", "REFER"] {
        let mut through = outgoing::registered(&[]);
        let world = &mut through.world;
        outgoing::Begun::new(method).send(world);
        let (device, server, asked) = (world.device(1), world.upstream, world.last(method));
        let routes = values(&asked, Name::RecordRoute);
        world.reply(server, &asked, 202, &[("Contact", "<sip:bob@192.0.2.77>")], "");
        let alice = "<sip:alice@example.com>;tag=a";
        for notifier in ["peer", "second"] {
            let (bob, via) = (format!("<sip:bob@example.com>;tag={notifier}"), format!("192.0.2.10;x={notifier}"));
            let notify = outgoing::in_dialog("NOTIFY", "sip:alice@10.0.0.5:9", &routes, &bob, alice, &via);
            let notify = notify.replacen("in.NOTIFY", &format!("{notifier}.NOTIFY"), 1);
            world.receive(server, &notify.replacen("CSeq", "Record-Route: <sip:192.0.2.10;lr>\r\nCSeq", 1));
            let passed = world.last("NOTIFY");
            let recorded = values(&passed, Name::RecordRoute);
            assert_eq!((recorded.len(), recorded[2].as_str()), (3, "<sip:192.0.2.10;lr>"), "{method}");
            assert!(
                recorded[0].contains("@relay.test:5061;") && recorded[1].contains("@relay.test:5071;"),
                "{recorded:?}"
            );
            world.reply(device, &passed, 200, &[], "");
            assert_eq!(values(&world.last("NOTIFY 200"), Name::RecordRoute).len(), 3);
            let refresh = outgoing::in_dialog("SUBSCRIBE", "sip:bob@192.0.2.77", &recorded, alice, &bob, "10.0.0.5:9");
            world.receive(device, &refresh.replacen("in.SUBSCRIBE", &format!("{notifier}.SUBSCRIBE"), 1));
            let passed = world.sent.last().unwrap();
            assert_eq!(
                (passed.message.method_text(), passed.flow),
                (Some("SUBSCRIBE"), server.flow),
                "{method} {notifier}"
            );
            assert_eq!(values(&passed.message, Name::Route), ["<sip:192.0.2.10;lr>"]);
        }
    }
}

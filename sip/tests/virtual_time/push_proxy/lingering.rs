//! A registration runs out, or goes to another node, while a caller waits for its device.

use sip::endpoint::{CallState, Event, Input, Missing, NewOwner, PushBindingEnd, RestoredPushBinding};
use sip::id::FlowId;
use sip::message::Message;

use super::through::{PN, Register, Through};
use crate::world::REGISTRAR;

const ANSWER: &[(&str, &str)] = &[("Contact", "<sip:alice@10.0.0.5:1>")];

/// A phone whose registration lasts 12 s has a call 2 s before the end; it is asleep, or has a connection.
fn called_at_the_end(asleep: bool) -> (Through, String) {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1).expires(12)).text(sip::message::Name::Path).unwrap().to_owned();
    if asleep {
        through.world.input(Input::Closed(FlowId::Stream(1)));
    }
    through.advance(10);
    through.world.sent.clear();
    through.call("c1", &path);
    (through, path)
}

fn registrations(through: &Through) -> usize {
    through.world.endpoint.counts().push_bindings
}

fn says(through: &mut Through, invite: &Message, status: u16) {
    let device = through.world.device(1);
    through.world.reply(device, invite, status, if status == 200 { ANSWER } else { &[] }, "");
}

#[test]
fn a_call_that_waits_when_the_registration_runs_out_finds_the_device_that_comes_in_its_time() {
    let (mut through, path) = called_at_the_end(true);
    through.advance(4);
    assert_eq!((through.world.count("INVITE 480"), through.ends().len()), (0, 0));
    through.call("c2", &path);
    assert_eq!(through.world.count("INVITE 404"), 1, "what comes later is refused as unknown");
    through.registered(&Register::by(1));
    let invite = through.world.last("INVITE");
    assert_eq!(invite.call_id(), Some("c1"));
    says(&mut through, &invite, 200);
    assert_eq!((through.world.count("INVITE 200"), through.refreshes()), (1, 1));
    through.advance(300);
    assert_eq!(registrations(&through), 1, "it has a life again");
}

#[test]
fn a_registration_that_has_run_out_ends_with_the_last_call_that_waited_or_when_its_device_removes_it() {
    let (mut through, _) = called_at_the_end(true);
    through.advance(40);
    assert!(through.world.count("INVITE 480") >= 1);
    assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Expired], 0));
    let (mut through, _) = called_at_the_end(true);
    through.advance(4);
    through.registered(&Register::by(2).expires(0));
    assert_eq!((through.world.count("INVITE 480"), through.ends()), (1, vec![PushBindingEnd::Unregistered]));
}

#[test]
fn a_phone_that_rings_when_its_registration_runs_out_rings_on_and_is_answered() {
    let (mut through, _) = called_at_the_end(false);
    let invite = through.world.last("INVITE");
    says(&mut through, &invite, 180);
    through.advance(20);
    assert_eq!((through.world.count("INVITE 480"), through.world.count("CANCEL")), (0, 0));
    says(&mut through, &invite, 200);
    assert_eq!(through.world.count("INVITE 200"), 1);
    through.advance(300);
    assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Expired], 0));
}

/// A phone has a connection, and says this of a call; then another node has its registration.
fn let_go(said: Option<u16>) -> (Through, Message) {
    let (through, invite, _) = let_go_of(said);
    (through, invite)
}

/// Likewise, with its Path.
fn let_go_of(said: Option<u16>) -> (Through, Message, String) {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1)).text(sip::message::Name::Path).unwrap().to_owned();
    through.world.sent.clear();
    through.call("c1", &path);
    let invite = through.world.last("INVITE");
    if let Some(said) = said {
        says(&mut through, &invite, said);
    }
    let instance = through.instance();
    through.world.input(Input::ReleasePushBinding { instance, to: NewOwner::Chosen });
    (through, invite, path)
}

#[test]
fn a_phone_that_has_heard_a_call_here_and_is_another_nodes_meanwhile_is_heard_out() {
    for said in [100, 180] {
        let (mut through, invite) = let_go(Some(said));
        assert_eq!((through.world.count("INVITE 480"), through.world.count("CANCEL")), (0, 0));
        says(&mut through, &invite, 200);
        assert_eq!(through.world.count("INVITE 200"), 1);
        through.advance(300);
        assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Removed], 0));
    }
}

/// The call alone is this node's: for all else the store says where the registration is.
#[test]
fn what_comes_for_a_phone_that_is_another_nodes_and_rings_here_is_not_known_here() {
    let (mut through, _, path) = let_go_of(Some(180));
    let (instance, source) = (through.instance(), through.world.upstream);
    let of = |through: &Through, method: &str, call_id: &str| {
        let text = through.request(method, call_id, &path);
        text.replace(&format!("{call_id}.1.CANCEL"), &format!("{call_id}.1.INVITE"))
    };
    let missing = |through: &Through, method: &str, call_id: &str| {
        let request = Message::parse(&of(through, method, call_id).into(), &Default::default()).unwrap();
        through.world.endpoint.missing_by_path(through.world.now, &source, &request)
    };
    for method in ["INVITE", "CANCEL"] {
        assert_eq!(missing(&through, method, "c1"), None, "the call that rings");
        assert_eq!(missing(&through, method, "c2"), Some((instance, Missing::Binding)));
    }
    // As when the store has none.
    through.call("c2", &path);
    assert_eq!(through.world.count("INVITE 404"), 1);
    let cancel = of(&through, "CANCEL", "c1");
    through.world.receive(source, &cancel);
    assert_eq!((through.world.count("CANCEL 200"), through.world.count("CANCEL")), (1, 1), "it rings no more");
}

/// The record in the store is the other node's, and goes.
#[test]
fn a_phone_that_is_another_nodes_and_unregisters_here_while_it_rings_is_told_of() {
    let (mut through, _) = let_go(Some(180));
    through.registered(&Register::by(1).expires(0));
    assert_eq!(through.contacts_removed(), [("<urn:uuid:1>".to_owned(), true)]);
    assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Unregistered], 0));
    let (mut through, _) = let_go(Some(180));
    through.registered(&Register::by(1).expires(0).contact("<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\""));
    assert_eq!(through.contacts_removed(), [("<urn:uuid:1>".to_owned(), false)]);
}

/// A phone that is asleep has a call, and registers at another node meanwhile.
fn called_asleep_and_let_go() -> Through {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1)).text(sip::message::Name::Path).unwrap().to_owned();
    through.world.input(Input::Closed(FlowId::Stream(1)));
    through.world.sent.clear();
    through.call("c1", &path);
    let instance = through.instance();
    through.world.input(Input::ReleasePushBinding { instance, to: NewOwner::Chosen });
    through
}

/// The phone has this one way to the call: the edge that its push names.
#[test]
fn a_call_that_waits_for_a_phone_which_is_another_nodes_by_now_is_its_own_when_it_comes_here_all_the_same() {
    let mut through = called_asleep_and_let_go();
    through.advance(5);
    assert_eq!((through.world.count("INVITE 480"), registrations(&through), through.world.wakes().len()), (0, 1, 1));
    through.registered(&Register::by(2));
    let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
    through.world.reply(device, &invite, 200, ANSWER, "");
    assert_eq!(through.world.count("INVITE 200"), 1);
    through.advance(300);
    assert_eq!((through.ends(), registrations(&through)), (vec![], 1), "it is registered here again");
}

/// The other node has died since, and its registrations are taken over.
#[test]
fn a_registration_that_is_taken_over_takes_the_place_of_an_earlier_one_that_stays_for_a_call() {
    let renamed = Register::by(2)
        .contact("<sip:alice@10.0.0.5:2;pn-provider=fcm;pn-param=project;pn-prid=new>;+sip.instance=\"<urn:uuid:1>\"");
    let mut there = Through::new();
    there.registered(&renamed);
    let later = there.world.events.iter().find_map(|event| match event {
        Event::PushBindingAccepted(registration) => Some((**registration).clone()),
        _ => None,
    });
    let mut through = called_asleep_and_let_go();
    let (earlier, later) = (through.instance(), later.unwrap());
    assert_ne!(earlier, later.instance);
    let upstream_registrar = "sip:example.com".into();
    let restored =
        RestoredPushBinding { registration: later, upstream: REGISTRAR, upstream_registrar, confirmed_at_ms: 1 };
    through.world.input(Input::RestorePushBinding(Box::new(restored)));
    let ended = through.world.events.iter().find_map(|event| match event {
        Event::PushBindingEnded { instance, end } => Some((*instance, *end)),
        _ => None,
    });
    assert_eq!((ended, registrations(&through)), (Some((earlier, PushBindingEnd::Replaced)), 1));
    through.registered(&renamed);
    let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
    through.world.reply(device, &invite, 200, ANSWER, "");
    assert_eq!((through.world.count("INVITE 200"), through.world.count("INVITE 480")), (1, 0));
}

#[test]
fn a_call_for_a_phone_that_is_another_nodes_and_does_not_come_here_ends_in_its_own_time_and_nothing_stays() {
    let mut through = called_asleep_and_let_go();
    through.advance(100);
    assert!(through.world.count("INVITE 480") >= 1);
    let ended = through.world.events.iter().position(|it| matches!(it, Event::Call { state: CallState::TimedOut, .. }));
    let let_go = through.world.events.iter().position(|it| matches!(it, Event::PushBindingEnded { .. }));
    assert!(ended.is_some() && ended < let_go, "its device is told by what is known of it");
    assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Removed], 0));
}

/// A phone at the other node, with another flow of the same instance there, and a SIP server that says that it goes by flows (RFC 5626 §6).
#[test]
fn a_server_that_goes_by_flows_tries_the_next_one_at_once_and_any_other_waits() {
    let contact = format!("<sip:alice@10.0.0.5:1{PN}>;+sip.instance=\"<urn:uuid:1>\"");
    for (reg_id, says, to, refused) in [
        (";reg-id=1", vec![("Require", "outbound")], NewOwner::Chosen, 1),
        // Its Path leads here alone.
        (";reg-id=1", vec![("Require", "outbound")], NewOwner::Successor, 0),
        (";reg-id=1", vec![], NewOwner::Chosen, 0),
        ("", vec![("Require", "outbound")], NewOwner::Chosen, 0),
    ] {
        let mut through = Through::new();
        through.says = says;
        let register = through.registered(&Register::by(1).contact(&format!("{contact}{reg_id}")));
        through.world.input(Input::Closed(FlowId::Stream(1)));
        through.call("c1", register.text(sip::message::Name::Path).unwrap());
        let instance = through.instance();
        through.world.input(Input::ReleasePushBinding { instance, to });
        assert_eq!((through.world.count("INVITE 430"), through.world.count("INVITE 480")), (refused, 0), "{reg_id}");
        assert_eq!(registrations(&through), 1 - refused);
    }
}

/// No phone rings for a call that has ended.
#[test]
fn it_rings_no_longer_than_its_caller_waits() {
    let (mut through, _) = let_go(Some(180));
    through.advance(400);
    assert!(through.world.count("INVITE 408") >= 1 && through.world.count("CANCEL") >= 1);
    assert_eq!(through.world.count("INVITE 480"), 0);
    assert_eq!(registrations(&through), 0);

    // It is pushed to come here again.
    let (mut through, _) = let_go(Some(180));
    through.world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!((through.world.count("INVITE 480"), through.world.wakes().len(), registrations(&through)), (0, 1, 1));
    through.registered(&Register::by(2));
    assert_eq!(through.world.last("INVITE").call_id(), Some("c1"));
    let (mut through, _) = let_go(Some(180));
    through.world.input(Input::Closed(FlowId::Stream(1)));
    through.advance(400);
    assert_eq!((through.world.count("INVITE 200"), registrations(&through)), (0, 0));

    let (mut through, _) = let_go(Some(180));
    let instance = through.instance();
    through.world.input(Input::RemovePushBinding(instance));
    assert_eq!((through.world.count("INVITE 480"), through.world.count("CANCEL")), (1, 1), "its token is dead");
}

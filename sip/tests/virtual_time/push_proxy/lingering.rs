//! A registration runs out, or goes to another node, while a caller waits for its device.

use sip::endpoint::{Input, Missing, PushBindingEnd};
use sip::id::FlowId;
use sip::message::Message;

use super::through::{Register, Through};

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
    through.world.input(Input::LetGoOfPushBinding(instance));
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
    assert_eq!(through.taken_back(), [("<urn:uuid:1>".to_owned(), true)]);
    assert_eq!((through.ends(), registrations(&through)), (vec![PushBindingEnd::Unregistered], 0));
    let (mut through, _) = let_go(Some(180));
    through.registered(&Register::by(1).expires(0).contact("<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\""));
    assert_eq!(through.taken_back(), [("<urn:uuid:1>".to_owned(), false)]);
}

#[test]
fn of_a_phone_that_is_another_nodes_and_has_said_nothing_the_call_ends_at_once() {
    let (through, _) = let_go(None);
    assert_eq!((through.world.count("INVITE 480"), registrations(&through)), (1, 0));
}

/// No phone rings for a call that has ended.
#[test]
fn it_rings_no_longer_than_its_caller_waits_and_its_flow_stands() {
    let (mut through, _) = let_go(Some(180));
    through.advance(400);
    assert!(through.world.count("INVITE 408") >= 1 && through.world.count("CANCEL") >= 1);
    assert_eq!(through.world.count("INVITE 480"), 0);
    assert_eq!(registrations(&through), 0);

    let (mut through, _) = let_go(Some(180));
    through.world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!((through.world.count("INVITE 480"), registrations(&through)), (1, 0));

    let (mut through, _) = let_go(Some(180));
    let instance = through.instance();
    through.world.input(Input::RemovePushBinding(instance));
    assert_eq!((through.world.count("INVITE 480"), through.world.count("CANCEL")), (1, 1), "its token is dead");
}

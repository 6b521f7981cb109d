//! The name of a call in its INVITE to a device: the one that its pushes carry, so that a phone can tell two calls apart.

use sip::endpoint::*;
use sip::id::CallId;
use sip::message::{Message, Method, Name};

use crate::in_call::leg::{CONTACT, Dialog, End};
use crate::world::{SDP, World};

/// What a caller writes who wants to be taken for another call.
const FORGED: &str = "Sipwake-Call: c_aaaaaaaaaaaaaaaaaaaaaaaaaa\r\nsipwake-call : c_b,\r\n c_c\r\nSIPWAKE-CALL:\r\n";

fn named(request: &Message) -> Vec<String> {
    request.values(Name::SipwakeCall).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

fn forged(world: &mut World, call_id: &str) {
    let (source, text) = (world.upstream, world.invite_text(call_id));
    world.receive(source, &text.replace("X-Odd:", &format!("{FORGED}X-Odd:")));
}

#[test]
fn each_invite_names_its_call_as_its_push_did_whatever_its_caller_has_written() {
    let mut world = World::registered();
    world.invite("one");
    forged(&mut world, "two");
    let pushed: Vec<(CallId, String)> = world.wakes().iter().map(|wake| (wake.call, wake.call.to_string())).collect();
    assert_eq!(pushed.len(), 2);
    world.attach(1);
    let invites = world.sent.iter().map(|sent| &sent.message).filter(|it| it.method() == Some(Method::Invite));
    let mut told: Vec<_> = invites.map(|it| (it.call_id().unwrap_or_default().to_owned(), named(it))).collect();
    told.sort();
    let expected = [("one", &pushed[0].1), ("two", &pushed[1].1)].map(|(id, call)| (id.to_owned(), vec![call.clone()]));
    assert_eq!(told, expected);
}

#[test]
fn a_call_without_a_push_is_named_as_the_shell_is_told_of_it() {
    let mut world = World::registered();
    world.attach(1);
    forged(&mut world, "one");
    let told = world.events.iter().find_map(|event| match event {
        Event::Call { call, .. } => Some(call.to_string()),
        _ => None,
    });
    assert_eq!(Some(named(&world.last("INVITE"))), told.map(|call| vec![call]));
}

#[test]
fn no_request_of_its_dialog_names_a_call_to_the_device() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "one", 200, &[]);
    assert_eq!(named(&dialog.invite).len(), 1);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    let again = dialog.request(End::Caller, "INVITE", 2, FORGED, SDP.as_bytes());
    let source = world.upstream;
    world.receive_bytes(source, &again);
    let again = world.last("INVITE");
    assert_eq!((again.cseq().map(|(number, _)| number), named(&again)), (Some(2), Vec::new()));
    let device = world.device(1);
    world.reply(device, &again, 200, &[CONTACT], "");
    assert_eq!(world.count("INVITE 200"), 2);
}

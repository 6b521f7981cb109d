//! A device that is new here has its 200 when its registration is kept, so that another node finds it when this one dies.

use sip::endpoint::held_answers::HELD_MAX;
use sip::endpoint::*;
use sip::message::Name;

use super::through::{Register, Through};

fn waits() -> Through {
    let mut through = Through::new();
    through.kept_first = true;
    through.registered(&Register::by(1));
    assert_eq!(through.world.count("REGISTER 200"), 0);
    through
}

#[test]
fn a_new_device_has_its_answer_when_its_registration_is_kept_and_a_refresh_is_answered_at_once() {
    let mut through = waits();
    let instance = through.instance();
    through.world.input(Input::PushBindingKept(instance));
    assert_eq!(through.world.count("REGISTER 200"), 1);
    through.world.input(Input::PushBindingKept(instance));
    through.world.advance(HELD_MAX);
    assert_eq!(through.world.count("REGISTER 200"), 1, "once");
    through.registered(&Register::by(1));
    assert_eq!(through.world.count("REGISTER 200"), 2);
    let renamed = format!("<sip:alice@10.0.0.5:1{};pn-prid=new>;+sip.instance=\"<urn:uuid:1>\"", ";pn-provider=fcm");
    through.registered(&Register::by(1).contact(&renamed));
    assert_eq!(through.world.count("REGISTER 200"), 3, "calls of the one before may wait for it");
    through.registered(&Register::by(1).contact(&renamed).expires(0));
    assert_eq!(through.world.count("REGISTER 200"), 4);
}

#[test]
fn a_store_that_says_nothing_delays_an_answer_for_a_bounded_time() {
    let mut through = waits();
    through.world.advance(HELD_MAX / 2);
    assert_eq!(through.world.count("REGISTER 200"), 0);
    through.world.advance(HELD_MAX / 2);
    assert_eq!(through.world.count("REGISTER 200"), 1);
}

#[test]
fn a_call_that_comes_meanwhile_follows_the_answer() {
    let mut through = waits();
    let path = through.world.last("REGISTER").text(Name::Path).unwrap().to_owned();
    through.call("c1", &path);
    assert_eq!((through.world.count("REGISTER 200"), through.world.count("INVITE")), (1, 1));
}

#[test]
fn a_registration_that_ends_meanwhile_was_answered() {
    let mut through = waits();
    let instance = through.instance();
    through.world.input(Input::RemovePushBinding(instance));
    assert_eq!(through.world.count("REGISTER 200"), 1);
}

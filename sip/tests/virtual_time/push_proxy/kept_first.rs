//! A device that is new here has its 200 when its registration is kept, so that another node finds it when this one dies.

use sip::endpoint::held_answers::HELD_MAX;
use sip::endpoint::*;
use sip::id::FlowId;
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
}

/// With another push token it is another registration, and the one before is gone.
const RENAMED: &str = "<sip:alice@10.0.0.5:1;pn-provider=fcm;pn-prid=new>;+sip.instance=\"<urn:uuid:1>\"";

#[test]
fn a_device_with_another_push_token_has_its_answer_when_that_is_kept() {
    let mut through = waits();
    let earlier = through.instance();
    through.world.input(Input::PushBindingKept(earlier));
    through.registered(&Register::by(1).contact(RENAMED));
    assert_eq!(through.world.count("REGISTER 200"), 1);
    let later = through.instance();
    assert_ne!(earlier, later);
    through.world.input(Input::PushBindingKept(earlier));
    assert_eq!(through.world.count("REGISTER 200"), 1);
    through.world.input(Input::PushBindingKept(later));
    assert_eq!(through.world.count("REGISTER 200"), 2);
    through.registered(&Register::by(1).contact(RENAMED).expires(0));
    assert_eq!(through.world.count("REGISTER 200"), 3);
}

#[test]
fn a_device_with_another_push_token_that_a_call_waits_for_has_its_answer_and_the_call() {
    let mut through = waits();
    through.world.input(Input::PushBindingKept(through.instance()));
    let path = through.world.last("REGISTER").text(Name::Path).unwrap().to_owned();
    through.world.input(Input::Closed(FlowId::Stream(1)));
    through.call("c1", &path);
    assert_eq!(through.world.count("INVITE"), 0);
    through.registered(&Register::by(2).contact(RENAMED));
    assert_eq!((through.world.count("REGISTER 200"), through.world.count("INVITE")), (2, 1));
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

#[test]
fn an_answer_that_waits_when_the_process_ends_goes() {
    let mut through = waits();
    assert_eq!(through.world.endpoint.registers_under_way(), 1);
    through.world.input(Input::EndCalls(Failover::OtherNode));
    assert_eq!((through.world.count("REGISTER 200"), through.world.endpoint.registers_under_way()), (1, 0));
}

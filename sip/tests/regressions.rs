//! What the simulation found, each told again by hand.

mod world;

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;
use world::{World, server_address};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_register_under_way_is_not_repeated_once_the_binding_is_to_be_silent_or_gone() {
    for end in [true, false] {
        let mut world = World::new(FlowId::Datagram(server_address()));
        world.bind();
        assert_eq!(world.count("REGISTER"), 1);
        let binding = world.binding;
        world.input(match end {
            true => Input::Unbind { binding, deadline: seconds(3) },
            false => Input::Suspend(binding),
        });
        world.sent.clear();
        world.advance(seconds(60));
        assert!(world.count("REGISTER") > 0);
        let again = world.sent.iter().filter(|sent| sent.message.number(Name::Expires) != Some(0)).count();
        assert_eq!(again, 0, "the registration that nobody wants any more");
    }
}

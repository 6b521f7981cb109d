//! The ringing that the relay tells a caller of itself.

use sip::endpoint::Input;
use sip::id::FlowId;
use sip::message::Name;

use crate::world::{World, server_address};

/// RFC 3261 §12.1.1: what makes a dialog names its other end.
#[test]
fn the_ringing_that_the_relay_tells_of_itself_names_where_the_call_waits() {
    for (upstream, contact) in
        [(FlowId::Datagram(server_address()), "relay.test:5070"), (FlowId::Stream(9), "relay.test:5071;transport=tls")]
    {
        let mut world = World::registered_with(upstream, |_| {});
        world.invite("call-1");
        let (call, instance) = (world.wakes()[0].call, world.instance);
        world.input(Input::Ring { call, instance });
        let ringing = world.last("INVITE 180");
        assert_eq!(ringing.text(Name::Contact), Some(&*format!("<sip:{}@{contact}>", world.binding)));
        // A request that the server sends to that Contact is in no dialog here.
        let text = world.head("call-1", "UPDATE", 2, &format!(";tag={}", ringing.to().unwrap().tag().unwrap()));
        let text = format!("UPDATE sip:{}@relay.test:5070 SIP/2.0\r\n{text}Content-Length: 0\r\n\r\n", world.binding);
        world.receive(world.upstream, &text);
        assert_eq!(world.count("UPDATE 481"), 1);
    }
}

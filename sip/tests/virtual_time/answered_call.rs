//! A call to a sleeping device, from its INVITE to the end of its last transaction: what is counted (`instructions.rs`) and what is
//! measured (`sip/benches/calls.rs`) is one and the same.

use std::time::Duration;

use sip::endpoint::Input;
use sip::message::Name;

use crate::world::{SDP, SECRET, World};

/// The call of this number; nothing of it is left at the endpoint.
pub fn answered_call(world: &mut World, number: u64) {
    let (server, phone, call_id) = (world.upstream, world.device(number), format!("call{number}"));
    world.invite(&call_id);
    let (call, instance) = (world.wakes()[0].call, world.instance);
    world.input(Input::Ring { call, instance });
    assert_eq!(world.descriptions(), ["INVITE 100", "INVITE 180"]);
    let register = format!(
        "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKreg{number};rport\r\n\
         From: <sip:{instance}@relay.test>;tag=d\r\nTo: <sip:{instance}@relay.test>\r\nCall-ID: reg{number}\r\n\
         CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:phone@10.0.0.5:9999;transport=tls>\r\nExpires: 300\r\n\
         Authorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
        SECRET.replace(' ', "-")
    );
    world.receive(phone, &register);
    let invite = world.last("INVITE");
    world.reply(phone, &invite, 200, &[("Contact", "<sip:phone@10.0.0.5:9999;transport=tls>")], SDP);
    let answered = world.last("INVITE 200");
    let ours = answered.elements(Name::RecordRoute).filter(|route| !route.contains("192.0.2.10"));
    let mut routes: Vec<_> = ours.map(|route| format!("Route: {route}\r\n")).collect();
    routes.reverse();
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let head = world.head(&call_id, method, cseq, ";tag=peer");
        // The ACK of an answer is a transaction of its own.
        let head = head.replace("Record-Route: <sip:192.0.2.10;lr>\r\n", "").replace(".1.INVITE", ".1.ACK");
        let uri = "sip:phone@10.0.0.5:9999;transport=tls";
        world.receive(server, &format!("{method} {uri} SIP/2.0\r\n{}{head}Content-Length: 0\r\n\r\n", routes.concat()));
    }
    let bye = world.last("BYE");
    world.reply(phone, &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
    world.input(Input::Closed(phone.flow));
    // Every transaction is over.
    world.advance(Duration::from_secs(60));
}

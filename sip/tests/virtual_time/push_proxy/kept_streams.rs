//! The streams of calls whose phones are registered no more: a dialog depends on no registration (RFC 3261 §12).

use sip::endpoint::*;
use sip::id::{FlowId, UpstreamId};
use sip::message::{Message, Name};

use super::outgoing::{flow_of, in_dialog};
use super::through::{Register, Through, values};
use crate::world::{REGISTRAR, seconds};

const CONTACT: &str = "<sip:alice@10.0.0.5:9;transport=tls>";
/// The stream that the call goes by, and the one that the next dial leads to.
const STREAM: FlowId = FlowId::Stream(99);
const NEXT: FlowId = FlowId::Stream(900);

fn register(flow: u64) -> Register {
    Register::by(flow).contact(CONTACT)
}

fn of_bob(flow: u64) -> Register {
    Register { to: "sip:bob@example.com", ..register(flow) }
}

/// Alice's client is in a call by flow 1, registered for 600 s; the INVITE as it got it.
fn talking() -> (Through, Message) {
    let mut through = Through::over(STREAM);
    through.by_flow = true;
    let path = through.registered(&register(1)).text(Name::Path).unwrap().to_owned();
    through.call("out", &path);
    let (device, invite) = (through.world.device(1), through.world.last("INVITE"));
    through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
    (through, invite)
}

/// The SIP server hangs up by the stream of the call, after some time.
fn is_hung_up(through: &mut Through, invite: &Message) {
    through.advance(200);
    assert!(!through.world.closed.contains(&STREAM), "the call needs it");
    let mut routes = values(invite, Name::RecordRoute);
    routes.truncate(2);
    routes.reverse();
    let (own, others) = ("<sip:bob@example.com>;tag=bob", "<sip:alice@example.com>;tag=peer");
    let bye = in_dialog("BYE", "sip:alice@10.0.0.5:9", &routes, own, others, "192.0.2.10");
    through.world.receive(Source { flow: STREAM, ..through.world.upstream }, &bye);
    assert_eq!((through.world.count("BYE"), flow_of(&through.world, "BYE")), (1, FlowId::Stream(1)));
}

fn close(through: &mut Through, flow: FlowId) {
    through.world.input(Input::Closed(flow));
}

/// Nothing is left once Alice's connection has ended, and each reference was given back once.
fn nothing_is_left(through: &mut Through, given: usize) {
    close(through, FlowId::Stream(1));
    through.advance(400);
    assert!(through.world.closed.contains(&STREAM));
    let counts = through.world.endpoint.counts();
    assert_eq!((counts.push_bindings, counts.devices, counts.attached, counts.upstreams), (0, 0, 0, 0));
    assert_eq!(through.left(), given + kept(through));
}

fn kept(through: &Through) -> usize {
    through.world.events.iter().filter(|event| matches!(event, Event::UpstreamKept(_))).count()
}

#[test]
fn a_phone_that_registers_again_goes_by_the_stream_of_its_call() {
    for by in [1, 2] {
        let (mut through, invite) = talking();
        through.world.upstream.flow = NEXT;
        through.advance(660);
        assert_eq!(through.by_flow(), (1, 1));
        through.world.upstream.flow = STREAM;
        through.registered(&register(1));
        assert_eq!(flow_of(&through.world, "REGISTER"), STREAM);
        if by == 2 {
            // What is left of it is of no more use.
            through.registered(&register(1).expires(0));
        }
        is_hung_up(&mut through, &invite);
        assert_eq!(through.world.dialled, 1);
        nothing_is_left(&mut through, 1 + by);
    }
}

#[test]
fn a_phone_that_registers_and_leaves_again_and_again_opens_no_stream() {
    let (mut through, invite) = talking();
    for _ in 0..4 {
        through.registered(&register(1).expires(0));
        through.advance(70);
        through.registered(&register(1));
    }
    through.registered(&register(1).expires(0));
    is_hung_up(&mut through, &invite);
    assert_eq!((through.world.dialled, through.world.closed.len(), kept(&through)), (1, 0, 5));
    nothing_is_left(&mut through, 10);
    assert_eq!(through.world.closed, [STREAM]);
}

#[test]
fn another_phone_of_the_same_server_that_leaves_last_hangs_up_on_nobody() {
    for has_flow in [true, false] {
        let (mut through, invite) = talking();
        through.advance(300);
        through.registered(&of_bob(2));
        through.advance(301);
        assert_eq!(through.by_flow(), (2, 1));
        if !has_flow {
            close(&mut through, FlowId::Stream(2));
        }
        through.advance(300);
        assert_eq!(through.by_flow(), (2, 2));
        if has_flow {
            close(&mut through, FlowId::Stream(2));
        }
        is_hung_up(&mut through, &invite);
        nothing_is_left(&mut through, 2);
    }
}

#[test]
fn an_account_of_the_same_server_that_is_wiped_hangs_up_on_nobody() {
    let (mut through, invite) = talking();
    through.world.bind();
    through.world.grant(3_600);
    through.registered(&register(1).expires(0));
    let instance = through.world.instance;
    through.world.input(Input::Unbind { instance, deadline: seconds(5) });
    through.world.grant(0);
    through.world.advance(seconds(10));
    assert!(through.world.events.iter().any(|event| matches!(event, Event::Unbound { .. })));
    is_hung_up(&mut through, &invite);
    nothing_is_left(&mut through, 2);
}

#[test]
fn a_stream_that_a_better_one_has_replaced_stays_for_the_call() {
    let (mut through, invite) = talking();
    through.registered(&of_bob(2));
    through.registered(&register(1).expires(0));
    through.world.input(Input::FailbackDialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    let ask = through.world.last("OPTIONS");
    through.world.reply(Source { flow: NEXT, ..through.world.upstream }, &ask, 200, &[], "");
    assert_eq!(through.world.endpoint.flow_to(REGISTRAR), Some(NEXT));
    is_hung_up(&mut through, &invite);
    close(&mut through, FlowId::Stream(1));
    through.advance(300);
    assert_eq!(through.world.closed, [STREAM], "the call is over");
    close(&mut through, FlowId::Stream(2));
    through.advance(400);
    nothing_is_left(&mut through, 3);
}

#[test]
fn a_stream_that_its_server_ends_is_not_dialled_anew() {
    let (mut through, _) = talking();
    through.registered(&register(1).expires(0));
    assert_eq!((through.world.endpoint.counts().upstreams, through.left()), (1, 2));
    close(&mut through, STREAM);
    assert_eq!((through.world.endpoint.counts().upstreams, through.left(), through.world.dialled), (0, 3, 1));
    close(&mut through, FlowId::Stream(1));
    assert_eq!((through.left(), kept(&through)), (3, 1));
}

#[test]
fn a_connection_keeps_so_many_streams_at_most() {
    let mut through = Through::over(STREAM);
    through.by_flow = true;
    let streams = |number: u32| FlowId::Stream(900 + u64::from(number));
    for number in 0..20 {
        (through.server, through.world.upstream.flow) = (UpstreamId(10 + number), streams(number));
        let to: &'static str = Box::leak(format!("sip:user{number}@example.com").into_boxed_str());
        let its = Register { to, ..register(1) };
        through.registered(&its);
        through.registered(&its.expires(0));
        through.advance(7);
    }
    assert_eq!(through.world.closed, (0..4).map(streams).collect::<Vec<_>>());
    assert_eq!(through.world.endpoint.counts().upstreams, 16);
    close(&mut through, FlowId::Stream(1));
    through.advance(7);
    assert_eq!((through.world.closed.len(), through.world.endpoint.counts().upstreams), (20, 0));
}

#[test]
fn a_stream_that_is_read_no_more_is_kept_no_more_once_it_has_ended() {
    let (mut through, _) = talking();
    through.registered(&register(1).expires(0));
    through.world.input(Input::Doubted(STREAM));
    while !through.world.closed.contains(&STREAM) {
        through.advance(10);
    }
    close(&mut through, STREAM);
    through.advance(10);
    assert_eq!((through.world.endpoint.counts().upstreams, through.left()), (0, 2 + kept(&through)));
}

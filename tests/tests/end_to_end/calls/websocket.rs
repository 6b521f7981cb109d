//! Devices that come by secure WebSocket (RFC 7118).

use sip::message::{Name, NameAddr};
use tests::phone::{Phone, Proof};
use tests::wire::Transport;
use tests::world::{SOON, World};

use super::Outcome;
use super::handover::each_side_hangs_up;

async fn over_wss(upstream: Transport) -> Result<World, tests::board::Missed> {
    let mut world = World::over(upstream).await?;
    world.edge = Transport::Wss;
    Ok(world)
}

async fn each_side_hangs_up_over(upstream: Transport) -> Outcome {
    each_side_hangs_up(over_wss(upstream).await?).await
}

plays! { each_side_hangs_up_over:
    fn a_phone_on_a_websocket_answers_and_either_side_hangs_up_with_udp_upstream(Transport::Udp);
    fn a_phone_on_a_websocket_answers_and_either_side_hangs_up_with_tls_upstream(Transport::Tls);
}

#[tokio::test]
async fn a_phone_on_a_websocket_sees_names_of_rfc_7118_and_the_server_none_of_them() -> Outcome {
    let world = over_wss(Transport::Tls).await?;
    let instance = world.enable().await?;
    let caller = world.call()?;
    let (phone, call) = world.wake_to_call(&instance).await?;
    let invite = call.invite();
    let own = format!("127.0.0.1:{}", world.relay.setup().ports.websocket);
    let via = invite.via().expect("a Via").text.to_owned();
    assert!(via.starts_with(&format!("SIP/2.0/WSS {own};")), "{via}");
    let route = invite.elements(Name::RecordRoute).next().and_then(NameAddr::parse).expect("a Record-Route");
    assert_eq!((route.uri.host, route.uri.transport()), ("127.0.0.1", Some("ws")));
    assert_eq!(route.uri.port, Some(world.relay.setup().ports.websocket));
    assert!(phone.contact().contains(".invalid;transport=ws"), "{}", phone.contact());
    assert_eq!(invite.request_uri(), Some(phone.contact()));
    world.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    world.content()
}

#[tokio::test]
async fn keep_alives_of_both_kinds_and_a_token_do_on_a_websocket_what_they_do_on_tls() -> Outcome {
    let world = over_wss(Transport::Tls).await?;
    let instance = world.enable().await?;
    let phone =
        Phone::registered(tests::phone::Settings { proof: Proof::Bearer, ..world.device(&instance) }, SOON).await?;
    for _ in 0..3 {
        phone.ping(SOON).await?;
    }
    // Half a minute without a message is no reason to close a phone that has shown who it is.
    let caller = world.call()?;
    phone.next_invite(SOON).await?.decline(603);
    caller.expect(603, SOON).await?;
    // A later flow of the same device, by TLS, takes its place.
    let moved = tests::phone::Settings { server: instance.edge_over(Transport::Tls), ..world.device(&instance) };
    let moved = Phone::registered(moved, SOON).await?;
    let caller = world.call()?;
    moved.next_invite(SOON).await?.decline(603);
    caller.expect(603, SOON).await?;
    assert_eq!(phone.invited(), 1);
    world.watch_phone(&phone);
    world.watch_phone(&moved);
    world.content()
}

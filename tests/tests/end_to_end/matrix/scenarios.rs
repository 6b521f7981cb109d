//! The calls of the matrix, each from a sleeping device to a sleeping device.
//!
//! Invariant: each leaves nothing behind: no call, no connection of the device, nobody with an objection.

use memchr::memmem;
use sip::message::Name;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::leg::Leg;
use tests::scene::SOON;

use super::Outcome;
use super::world::{Cell, World};

const HOLD: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\na=sendonly\r\n";
const RESUME: &str = "v=0\r\no=- 1 3 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\na=sendrecv\r\n";

macro_rules! play {
    ($world:expr; $($scenario:ident)*) => {
        $(
            $scenario(&$world).await.map_err(|missed| {
                Missed::new(format!("{} ({}, {})", missed.awaited, stringify!($scenario), $world.cell), missed.seen)
            })?;
        )*
    };
}

/// Plays every call over one combination.
pub async fn every_call(cell: Cell) -> Outcome {
    let world = World::start(cell).await?;
    let in_vain = world.call_nobody()?;
    world.pushed().await?;
    play! { world;
        answered_and_hung_up_by_the_caller
        answered_and_hung_up_by_the_device
        declined_by_the_device
        cancelled_while_the_device_sleeps
        cancelled_while_the_device_rings
        answered_elsewhere
        held_and_resumed
        with_large_bodies
        moved_in_a_call
        answered_by_one_of_two_devices
        a_second_call
    }
    nobody_comes(&world, &in_vain).await
}

async fn answered_and_hung_up_by_the_caller(world: &World) -> Outcome {
    let before = world.pushes();
    let caller = world.call()?;
    let push = world.pushed().await?;
    caller.expect(180, SOON).await?;
    let phone = world.wake().await?;
    let call = phone.next_invite(SOON).await?;
    world.scene.answer(&caller, &call).await?;
    world.told(&push, "answered").await?;
    world.scene.hang_up(&caller, &call).await?;
    assert_eq!((world.pushes() - before, phone.invited()), (1, 1), "one push and one INVITE for one call");
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn answered_and_hung_up_by_the_device(world: &World) -> Outcome {
    let (caller, _, phone, call) = world.talking().await?;
    world.scene.phone_hangs_up(&caller, &call).await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn declined_by_the_device(world: &World) -> Outcome {
    let (caller, push, phone, call) = world.rung().await?;
    call.ring();
    call.decline(603);
    caller.expect(603, SOON).await?;
    call.expect_ack(SOON).await?;
    world.told(&push, "declined").await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn cancelled_while_the_device_sleeps(world: &World) -> Outcome {
    let caller = world.call()?;
    let push = world.pushed().await?;
    world.scene.cancel(&caller).await?;
    world.told(&push, "cancelled").await?;
    ended(world, &[&caller])?;
    world.wakes_in_vain().await
}

async fn cancelled_while_the_device_rings(world: &World) -> Outcome {
    let (caller, push, phone, call) = world.rung().await?;
    call.ring();
    // The first 180 may be the relay's own.
    caller.expect(180, SOON).await?;
    caller.cancel().await?;
    call.expect_cancel(SOON).await?;
    caller.expect(487, SOON).await?;
    call.expect_ack(SOON).await?;
    world.told(&push, "cancelled").await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn answered_elsewhere(world: &World) -> Outcome {
    let (caller, push, phone, call) = world.rung().await?;
    call.ring();
    caller.expect(180, SOON).await?;
    caller.cancel_answered_elsewhere().await?;
    let cancel = call.expect_cancel(SOON).await?;
    assert_eq!(cancel.text(Name::Reason), Some("SIP;cause=200;text=\"Call completed elsewhere\""));
    caller.expect(487, SOON).await?;
    world.told(&push, "answered-elsewhere").await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn held_and_resumed(world: &World) -> Outcome {
    let (caller, _, phone, call) = world.talking().await?;
    for (from, to) in [(caller.leg(), call.leg()), (call.leg(), caller.leg())] {
        offered_anew(from, to, HOLD).await?;
        offered_anew(from, to, RESUME).await?;
    }
    world.scene.phone_hangs_up(&caller, &call).await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

/// A re-INVITE with this offer reaches the other side to the byte, as do its answer and the ACK.
async fn offered_anew(from: &Leg, to: &Leg, offer: &str) -> Outcome {
    let headers = [("X-Inside".to_owned(), "  as it came ;".to_owned())];
    let answer = from.ask("INVITE", &headers, Some(("application/sdp", offer)), SOON).await?;
    assert_eq!((answer.status(), &answer.body()[..]), (Some(200), tests::lines::sdp(2).as_bytes()));
    let request = to.expect_request("INVITE", SOON).await?;
    assert_eq!(&request.body()[..], offer.as_bytes());
    assert!(memmem::find(request.head(), b"\r\nX-Inside:   as it came ;\r\n").is_some());
    to.expect_request("ACK", SOON).await.map(drop)
}

/// An offer as a browser makes it: keys, fingerprints and a crowd of candidates, `bytes` long at least.
fn large(bytes: usize) -> String {
    let mut sdp = String::from(
        "v=0\r\no=- 4611733055 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=ice-options:trickle\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\n\
         a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n",
    );
    for number in 0.. {
        if sdp.len() >= bytes {
            break;
        }
        sdp += &format!(
            "a=candidate:{number} 1 udp 2113937151 2001:db8:{number:x}::7 {} typ host generation 0 ufrag x network-cost 999\r\n",
            40_000 + number
        );
    }
    sdp
}

async fn with_large_bodies(world: &World) -> Outcome {
    let (offer, answer) = (large(6_000), large(8_000));
    let options = CallOptions::default().body("application/sdp", &offer);
    let caller = world.scene.registrar.call(&world.scene.aor(), &options)?;
    world.pushed().await?;
    let phone = world.wake().await?;
    let call = phone.next_invite(SOON).await?;
    assert_eq!(&call.invite().body()[..], offer.as_bytes());
    call.leg().respond(200, &[], Some(("application/sdp", &answer)));
    assert_eq!(&caller.answered(SOON).await?.body()[..], answer.as_bytes());
    call.expect_ack(SOON).await?;
    offered_anew(caller.leg(), call.leg(), &large(4_000)).await?;
    offered_anew(call.leg(), caller.leg(), &large(8_000)).await?;
    world.scene.hang_up(&caller, &call).await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn moved_in_a_call(world: &World) -> Outcome {
    let (caller, _, before, earlier) = world.talking().await?;
    before.drop_connection();
    world.scene.await_metric("sipwake_edge_flows", 0.0).await?;
    let phone = world.wake_over(world.other_edge()).await?;
    let call = phone.take_over(&earlier);
    offered_anew(caller.leg(), call.leg(), HOLD).await?;
    offered_anew(call.leg(), caller.leg(), RESUME).await?;
    world.scene.hang_up(&caller, &call).await?;
    ended(world, &[&caller])?;
    world.sleep(phone).await
}

async fn answered_by_one_of_two_devices(world: &World) -> Outcome {
    // The SIP server itself forks to devices that lent nothing: to the relay these are calls of their own.
    let Some(other) = world.lend_by_another_device().await? else { return Ok(()) };
    let caller = world.call()?;
    world.pushed().await?;
    assert_eq!(world.scene.android_push().await?["event"], "call");
    let (phone, second) = (world.wake().await?, world.scene.wake(&other).await?);
    let (call, lost) = (phone.next_invite(SOON).await?, second.next_invite(SOON).await?);
    lost.ring();
    world.scene.answer(&caller, &call).await?;
    lost.expect_cancel(SOON).await?;
    lost.expect_ack(SOON).await?;
    world.scene.hang_up(&caller, &call).await?;
    ended(world, &[&caller])?;
    world.scene.content_with(&[], &[&second])?;
    second.drop_connection();
    assert_eq!(world.scene.api.disable(&other).await?.status, 200);
    world.sleep(phone).await
}

async fn a_second_call(world: &World) -> Outcome {
    let (first, _, phone, talking) = world.talking().await?;
    let before = world.pushes();
    let second = world.call()?;
    let waiting = phone.next_invite(SOON).await?;
    world.scene.answer(&second, &waiting).await?;
    first.bye(SOON).await?;
    talking.expect_bye(SOON).await?;
    world.scene.phone_hangs_up(&second, &waiting).await?;
    assert_eq!(world.pushes(), before, "the device was there");
    ended(world, &[&first, &second])?;
    world.sleep(phone).await
}

async fn nobody_comes(world: &World, caller: &Caller) -> Outcome {
    caller.expect(480, SOON * 3).await?;
    ended(world, &[caller])
}

/// The callers have nothing to object to.
fn ended(world: &World, callers: &[&Caller]) -> Outcome {
    world.scene.content_with(callers, &[])
}

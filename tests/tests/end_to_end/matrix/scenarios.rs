//! The calls of the matrix, each from a sleeping device to a sleeping device.
//!
//! Invariant: each leaves nothing behind: no call, no connection of the device, nobody with an objection.

use memchr::memmem;
use sip::message::Name;
use tests::board::Missed;
use tests::caller::Caller;
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

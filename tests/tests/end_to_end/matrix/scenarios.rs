//! The calls of the matrix, each from a sleeping device to a sleeping device.
//!
//! Invariant: each leaves nothing behind: no call, no connection of the device, nobody with an objection.

use memchr::memmem;
use sip::message::Name;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::leg::Leg;
use tests::world::{Outcome, Ringing, SOON};

use super::combination::{Cell, Combination};

const HOLD: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\na=sendonly\r\n";
const RESUME: &str = "v=0\r\no=- 1 3 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\na=sendrecv\r\n";

macro_rules! play {
    ($it:expr; $($scenario:ident)*) => {
        $(
            $scenario(&$it).await.map_err(|missed| {
                Missed::new(format!("{} ({}, {})", missed.awaited, stringify!($scenario), $it.cell), missed.seen)
            })?;
        )*
    };
}

/// Plays every call over one combination.
pub async fn every_call(cell: Cell) -> Outcome {
    let it = Combination::start(cell).await?;
    let in_vain = it.call_nobody()?;
    it.pushed().await?;
    play! { it;
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
    in_vain.expect(480, SOON * 3).await?;
    it.world.content()
}

async fn answered_and_hung_up_by_the_caller(it: &Combination) -> Outcome {
    let before = it.pushes();
    let caller = it.world.call()?;
    let push = it.pushed().await?;
    caller.expect(180, SOON).await?;
    let (phone, call) = it.world.wake_to_call(&it.alice).await?;
    it.world.answer(&caller, &call).await?;
    it.told(&push, "answered").await?;
    it.world.hang_up(&caller, &call).await?;
    assert_eq!((it.pushes() - before, phone.invited()), (1, 1), "one push and one INVITE for one call");
    it.sleep(phone).await
}

async fn answered_and_hung_up_by_the_device(it: &Combination) -> Outcome {
    let Ringing { caller, phone, call, .. } = it.answered().await?;
    it.world.phone_hangs_up(&caller, &call).await?;
    it.sleep(phone).await
}

async fn declined_by_the_device(it: &Combination) -> Outcome {
    let Ringing { caller, push, phone, call } = it.rings().await?;
    call.ring();
    it.world.refuse(&caller, &call, 603).await?;
    it.told(&push, "declined").await?;
    it.sleep(phone).await
}

async fn cancelled_while_the_device_sleeps(it: &Combination) -> Outcome {
    let caller = it.world.call()?;
    let push = it.pushed().await?;
    it.world.cancel(&caller).await?;
    it.told(&push, "cancelled").await?;
    it.sleep(it.world.wakes_in_vain(&it.alice).await?).await
}

async fn cancelled_while_the_device_rings(it: &Combination) -> Outcome {
    let Ringing { caller, push, phone, call } = it.rings().await?;
    // The first 180 may be the relay's own.
    it.world.ring(&caller, &call).await?;
    it.world.cancel_ringing(&caller, &call).await?;
    it.told(&push, "cancelled").await?;
    it.sleep(phone).await
}

async fn answered_elsewhere(it: &Combination) -> Outcome {
    let Ringing { caller, push, phone, call } = it.rings().await?;
    it.world.ring(&caller, &call).await?;
    caller.cancel_answered_elsewhere().await?;
    let cancel = call.expect_cancel(SOON).await?;
    assert_eq!(cancel.text(Name::Reason), Some("SIP;cause=200;text=\"Call completed elsewhere\""));
    caller.expect(487, SOON).await?;
    it.told(&push, "answered-elsewhere").await?;
    it.sleep(phone).await
}

async fn held_and_resumed(it: &Combination) -> Outcome {
    let Ringing { caller, phone, call, .. } = it.answered().await?;
    for (from, to) in [(caller.leg(), call.leg()), (call.leg(), caller.leg())] {
        offered_anew(from, to, HOLD).await?;
        offered_anew(from, to, RESUME).await?;
    }
    it.world.phone_hangs_up(&caller, &call).await?;
    it.sleep(phone).await
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

async fn with_large_bodies(it: &Combination) -> Outcome {
    let (offer, answer) = (large(6_000), large(8_000));
    let caller = it.world.call_with(&CallOptions::default().body("application/sdp", &offer))?;
    it.pushed().await?;
    let (phone, call) = it.world.wake_to_call(&it.alice).await?;
    assert_eq!(&call.invite().body()[..], offer.as_bytes());
    call.leg().respond(200, &[], Some(("application/sdp", &answer)));
    assert_eq!(&caller.answered(SOON).await?.body()[..], answer.as_bytes());
    call.expect_ack(SOON).await?;
    offered_anew(caller.leg(), call.leg(), &large(4_000)).await?;
    offered_anew(call.leg(), caller.leg(), &large(8_000)).await?;
    it.world.hang_up(&caller, &call).await?;
    it.sleep(phone).await
}

async fn moved_in_a_call(it: &Combination) -> Outcome {
    let Ringing { caller, phone: before, call: earlier, .. } = it.answered().await?;
    before.drop_connection();
    it.world.await_all_asleep().await?;
    let phone = it.wake_over(it.other_edge()).await?;
    let call = phone.take_over(&earlier);
    offered_anew(caller.leg(), call.leg(), HOLD).await?;
    offered_anew(call.leg(), caller.leg(), RESUME).await?;
    it.world.hang_up(&caller, &call).await?;
    it.sleep(phone).await
}

async fn answered_by_one_of_two_devices(it: &Combination) -> Outcome {
    // The SIP server itself forks to devices that lent nothing: to the relay these are calls of their own.
    let Some(other) = it.lend_by_another_device().await? else { return Ok(()) };
    let caller = it.world.call()?;
    it.pushed().await?;
    assert_eq!(it.world.android_push().await?["event"], "call");
    let (phone, second) = (it.world.wake(&it.alice).await?, it.world.wake(&other).await?);
    let (call, lost) = (phone.next_invite(SOON).await?, second.next_invite(SOON).await?);
    lost.ring();
    it.world.answer(&caller, &call).await?;
    lost.expect_cancel(SOON).await?;
    lost.expect_ack(SOON).await?;
    it.world.hang_up(&caller, &call).await?;
    it.world.content()?;
    second.drop_connection();
    it.world.disable(&other).await?;
    it.sleep(phone).await
}

async fn a_second_call(it: &Combination) -> Outcome {
    let Ringing { caller: first, phone, call: talking, .. } = it.answered().await?;
    let before = it.pushes();
    let (second, waiting) = it.world.answered_at(&phone).await?;
    it.world.hang_up(&first, &talking).await?;
    it.world.phone_hangs_up(&second, &waiting).await?;
    assert_eq!(it.pushes(), before, "the device was there");
    it.sleep(phone).await
}

//! A call wakes its device, is handed over and answered, and ends from either side.

use memchr::memmem;
use sip::message::Message;
use tests::caller::CallOptions;
use tests::wire::Transport;
use tests::world::{SOON, World};

use super::Outcome;

/// Calls of a sleeping device that each side ends once, over whatever the world has for transports.
pub async fn each_side_hangs_up(world: World) -> Outcome {
    let alice = world.enable().await?;
    for caller_ends in [true, false] {
        let caller = world.call()?;
        caller.expect(100, SOON).await?;
        let push = world.push().await?;
        caller.expect(180, SOON).await?;
        let (phone, call) = world.wake_to_call(&alice).await?;
        assert_eq!(phone.flow().transport(), world.edge);
        world.answer(&caller, &call).await?;
        world.await_state(&alice, &push, "answered").await?;
        for leg in [caller.leg(), call.leg()] {
            assert_eq!(leg.reinvite(SOON).await?.status(), Some(200));
        }
        world.end(caller_ends, &caller, &call).await?;
        phone.unregister(SOON).await?;
        world.content()?;
    }
    assert_eq!(world.apns.count(), 2, "one push for each call");
    Ok(())
}

async fn each_side_hangs_up_over(upstream: Transport) -> Outcome {
    each_side_hangs_up(World::over(upstream).await?).await
}

plays! { each_side_hangs_up_over:
    fn a_woken_phone_answers_and_either_side_hangs_up_over_udp(Transport::Udp);
    fn a_woken_phone_answers_and_either_side_hangs_up_over_tcp(Transport::Tcp);
    fn a_woken_phone_answers_and_either_side_hangs_up_over_tls(Transport::Tls);
}

/// SDP as no reader would write it back: odd attributes, bare line feeds, no end of line at the end.
const OFFER: &str = "v=0\r\no=Bob 7 7 IN IP4 192.0.2.7\r\ns=  \r\nc=IN IP4 192.0.2.7\nt=0 0\r\n\
    m=audio 49170 RTP/SAVPF 111 0\r\na=x-odd:  \u{fc}\u{1f4de} \r\na=candidate:1 1 UDP 1 10.0.0.1 9 typ host";
const ANSWER: &str = "v=0\no=- 9 9 IN IP6 2001:db8::9\ns=-\nt=0 0\nm=audio 5004 RTP/SAVPF 111\na=x-odd: kept ;\n\n";
/// Headers of nobody's, as they are to arrive.
const STRANGE: &[(&str, &str)] = &[
    ("X-Strange", "  kept ; as=\"it, is\" <> \u{fc}  "),
    ("X-Strange", "a second one, after the first"),
    ("x-FOLDED", "one\r\n\ttwo\r\n   three"),
    ("P-Charging-Vector", "icid-value=\"AyretyU0dm+6O2IrT5tAFrbHLso=\";icid-generated-at=192.0.2.1"),
    ("Identity", "eyJhbGciOiJFUzI1NiJ9..sig;info=<https://cert.example.org/passport.cer>;ppt=shaken"),
];

fn passed_unchanged(message: &Message) {
    let mut from = 0;
    for (name, value) in STRANGE {
        let line = format!("\r\n{name}: {value}\r\n");
        let found = memmem::find(&message.head()[from..], line.as_bytes());
        let head = String::from_utf8_lossy(message.head()).into_owned();
        // The next one follows: they keep their order.
        from += found.unwrap_or_else(|| panic!("{line:?} is not in its place in\n{head}"));
    }
}

#[tokio::test]
async fn media_and_headers_that_the_relay_does_not_know_pass_to_the_byte() -> Outcome {
    let (world, instance) = World::lent().await?;
    let mut options = CallOptions::default().body("application/sdp", OFFER);
    options.headers = STRANGE.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let caller = world.call_with(&options)?;
    world.push().await?;
    let (_phone, call) = world.wake_to_call(&instance).await?;
    assert_eq!(call.invite().body(), OFFER.as_bytes());
    passed_unchanged(call.invite());

    call.leg().respond(183, STRANGE, Some(("application/sdp", ANSWER)));
    let progress = caller.expect(183, SOON).await?;
    assert_eq!(progress.body(), ANSWER.as_bytes());
    passed_unchanged(&progress);
    call.leg().respond(200, STRANGE, Some(("application/sdp", ANSWER)));
    let answer = caller.answered(SOON).await?;
    assert_eq!(answer.body(), ANSWER.as_bytes());
    passed_unchanged(&answer);
    call.expect_ack(SOON).await?;
    caller.bye(SOON).await?;
    world.content()
}

#[tokio::test]
async fn a_body_that_is_no_sdp_passes_to_the_byte() -> Outcome {
    let (world, instance) = World::lent().await?;
    let body =
        "--x\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--x\r\nContent-Type: application/pidf+xml\r\n\r\n<a/>--x--";
    let options = CallOptions::default().body("multipart/mixed;boundary=x", body);
    let caller = world.call_with(&options)?;
    let (_phone, call) = world.wake_to_call(&instance).await?;
    assert_eq!(call.invite().body(), body.as_bytes());
    world.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    world.content()
}

#[tokio::test]
async fn a_phone_that_is_attached_gets_the_call_at_once_and_no_push() -> Outcome {
    let (world, instance) = World::lent().await?;
    let phone = world.wake(&instance).await?;
    for _ in 0..3 {
        let (caller, call) = world.rings_at(&phone).await?;
        world.ring(&caller, &call).await?;
        world.answer(&caller, &call).await?;
        caller.bye(SOON).await?;
        world.content()?;
    }
    assert_eq!(world.apns.requests(), 0);
    Ok(())
}

//! What passes inside a call, in both directions.

use tests::caller::Caller;
use tests::leg::Leg;
use tests::phone::{IncomingCall, Phone};
use tests::wire::Transport;
use tests::world::{Ringing, SOON, World};

use super::Outcome;

async fn in_a_call(world: &World) -> Result<(Caller, IncomingCall, Phone), tests::board::Missed> {
    let instance = world.enable().await?;
    let Ringing { caller, phone, call, .. } = world.answered(&instance).await?;
    Ok((caller, call, phone))
}

/// One side asks, the other has it to the byte, and the answer comes back.
async fn passes(from: &Leg, to: &Leg, method: &str, body: (&str, &str)) -> Outcome {
    let headers = [("X-Inside".to_owned(), "  as it came ;".to_owned())];
    let answer = from.ask(method, &headers, Some(body), SOON).await?;
    assert_eq!(answer.status(), Some(200), "{method}");
    let request = to.expect_request(method, SOON).await?;
    assert_eq!(request.body(), body.1.as_bytes());
    assert!(memchr::memmem::find(request.head(), b"\r\nX-Inside:   as it came ;\r\n").is_some());
    if method == "INVITE" {
        to.expect_request("ACK", SOON).await?;
    }
    Ok(())
}

async fn holds_and_resumes_over(transport: Transport) -> Outcome {
    let world = World::over(transport).await?;
    let (caller, call, _phone) = in_a_call(&world).await?;
    let hold = ("application/sdp", "v=0\r\nm=audio 49170 RTP/AVP 0\r\na=sendonly\r\n");
    let resume = ("application/sdp", "v=0\r\nm=audio 49170 RTP/AVP 0\r\na=sendrecv\r\n");
    let tone = ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n");
    for (from, to) in [(caller.leg(), call.leg()), (call.leg(), caller.leg())] {
        passes(from, to, "INVITE", hold).await?;
        passes(from, to, "INFO", tone).await?;
        passes(from, to, "INVITE", resume).await?;
        passes(from, to, "UPDATE", resume).await?;
        passes(from, to, "MESSAGE", ("text/plain", "hello, in the call")).await?;
        passes(from, to, "REFER", ("text/plain", "")).await?;
    }
    world.phone_hangs_up(&caller, &call).await?;
    world.content()
}

plays! { holds_and_resumes_over:
    fn hold_resume_and_info_pass_in_both_directions_over_tls(Transport::Tls);
    fn hold_resume_and_info_pass_in_both_directions_over_udp(Transport::Udp);
}

#[tokio::test]
async fn a_call_that_outlives_the_wipe_of_its_instance_can_still_be_hung_up() -> Outcome {
    let (world, instance) = World::lent().await?;
    let Ringing { caller, phone: _phone, call, .. } = world.answered(&instance).await?;
    world.disable(&instance).await?;
    world.phone_hangs_up(&caller, &call).await?;
    world.content()
}

#[tokio::test]
async fn a_phone_may_send_nothing_outside_its_own_calls() -> Outcome {
    let (world, instance) = World::lent().await?;
    let phone = world.wake(&instance).await?;
    for method in ["INVITE", "MESSAGE", "OPTIONS", "BYE", "SUBSCRIBE"] {
        let answer = phone.request(method, "sip:bob@example.test", SOON).await?;
        assert_eq!(answer.status(), Some(403), "{method}");
    }
    world.content()
}

/// A SIP server that starts again tells an attendant's console of each colleague, for one. The relay reads all of it in one turn here: it has stood still.
#[tokio::test]
async fn hundreds_of_requests_that_come_at_once_all_reach_the_phone_on_its_connection() -> Outcome {
    let world = World::start().await?;
    let (caller, call, _phone) = in_a_call(&world).await?;
    let text = "x".repeat(1_000);
    world.relay.freeze();
    let send = |_| caller.leg().send("INFO", &[], Some(("text/plain", &text)));
    let all: Vec<_> = (0..300).map(send).collect();
    // The SIP server writes them.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    world.relay.thaw();
    for one in &all {
        assert_eq!(caller.leg().final_response(one, SOON).await?.status(), Some(200));
    }
    world.phone_hangs_up(&caller, &call).await?;
    world.content()
}

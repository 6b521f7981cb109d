//! What passes inside a call, in both directions.

use tests::caller::Caller;
use tests::leg::Leg;
use tests::phone::{IncomingCall, Phone};
use tests::scene::{Ringing, SOON, Scene};
use tests::wire::Transport;

use super::Outcome;

async fn in_a_call(scene: &Scene) -> Result<(Caller, IncomingCall, Phone), tests::board::Missed> {
    let instance = scene.enable().await?;
    let Ringing { caller, phone, call, .. } = scene.answered(&instance).await?;
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
    let scene = Scene::over(transport).await?;
    let (caller, call, phone) = in_a_call(&scene).await?;
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
    call.hang_up(SOON).await?;
    caller.expect_bye(SOON).await?;
    scene.content_with(&[&caller], &[&phone])
}

plays! { holds_and_resumes_over:
    fn hold_resume_and_info_pass_in_both_directions_over_tls(Transport::Tls);
    fn hold_resume_and_info_pass_in_both_directions_over_udp(Transport::Udp);
}

#[tokio::test]
async fn a_call_that_outlives_the_wipe_of_its_instance_can_still_be_hung_up() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let phone = scene.wake(&instance).await?;
    let (caller, call) = scene.answered_at(&phone).await?;
    assert_eq!(scene.api.disable(&instance).await?.status, 200);
    scene.phone_hangs_up(&caller, &call).await?;
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_phone_may_send_nothing_outside_its_own_calls() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let phone = scene.wake(&instance).await?;
    for method in ["INVITE", "MESSAGE", "OPTIONS", "BYE", "SUBSCRIBE"] {
        let answer = phone.request(method, "sip:bob@example.test", SOON).await?;
        assert_eq!(answer.status(), Some(403), "{method}");
    }
    scene.content_with(&[], &[&phone])
}

//! A call to a phone that lent nothing: it sleeps, is pushed, refreshes its registration, and gets the call.

use tests::board::Missed;
use tests::push_phone::{PushPhone, Service, sleep};
use tests::scene::{FCM_TOKEN, SOON, Scene, text};

pub fn phone(scene: &Scene, service: &Service) -> PushPhone {
    let (edge, registrar) = (scene.relay.edge_address().to_string(), scene.registrar.uri(scene.transport));
    PushPhone::new(&edge, &registrar, &scene.aor(), ("alice", "wonderland"), &scene.authority).woken_by(service)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_wakes_a_phone_through_fcm_that_lent_nothing_and_each_side_ends_one() -> Result<(), Missed> {
    let scene = Scene::start().await?;
    let asleep = phone(&scene, &Service::Fcm(FCM_TOKEN.to_owned()));
    let learned = asleep.register_and_sleep(SOON).await?;
    assert_eq!((learned.services, learned.refresh_before_s), (vec!["fcm".to_owned()], None));
    for caller_ends in [true, false] {
        let caller = scene.call()?;
        let push = scene.android_push().await?;
        assert_eq!((text(&push["event"]), Some(text(&push["instance"]))), ("call".to_owned(), learned.purr.clone()));
        caller.expect(180, SOON).await?;
        let (device, _) = asleep.wake(SOON).await?;
        let call = device.next_invite(SOON).await?;
        call.ring();
        scene.answer(&caller, &call).await?;
        if caller_ends {
            caller.bye(SOON).await?;
            call.expect_bye(SOON).await?;
        } else {
            call.hang_up(SOON).await?;
            caller.expect_bye(SOON).await?;
        }
        scene.content_with(&[&caller], &[&device])?;
        sleep(device);
        scene.await_metric("sipwake_edge_flows", 0.0).await?;
    }
    assert_eq!(scene.fcm.count(), 2, "one push for one call");
    Ok(())
}

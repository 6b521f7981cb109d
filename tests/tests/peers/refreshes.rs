//! A registration that is kept: refreshed before it ends, as long as the SIP server wants it, and calls meanwhile.

use std::time::{Duration, Instant};

use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

plays! { calls_ring_during_refreshes:
    fn calls_ring_while_the_registration_is_refreshed_again_and_again_over_udp(Transport::Udp);
    fn calls_ring_while_the_registration_is_refreshed_again_and_again_over_tls(Transport::Tls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_finds_a_lifetime_too_brief_gets_the_one_it_wants() -> Outcome {
    let plan = Plan { register_expires: "3s", min_expires: 120, ..Plan::over(Transport::Udp) };
    let (world, instance) = World::real_and_lent(plan).await?;
    let contacts = world.location().await?;
    assert!((110..=120).contains(&contacts[0].expires_s), "{contacts:?}");
    world.farewell(&instance).await
}

async fn calls_ring_during_refreshes(transport: Transport) -> Outcome {
    let (world, instance) = World::real_and_lent(Plan { register_expires: "3s", ..Plan::over(transport) }).await?;
    let contact = world.location().await?[0].uri.clone();
    let phone = world.baresip(&instance).await?;
    let began = Instant::now();
    let mut calls = 0;
    // The relay lets a device be called only so often.
    let mut pace = tokio::time::interval(Duration::from_millis(400));
    // Long enough that the first registration, and the second, would have ended.
    while began.elapsed() < Duration::from_secs(7) {
        pace.tick().await;
        let caller = world.sipp_calls(Scenario::Refused(486))?;
        calls += 1;
        phone.await_rung(calls, SOON).await?;
        phone.hang_up().await?;
        world.finished(caller).await?;
    }
    let contacts = world.location().await?;
    assert_eq!(contacts.iter().map(|it| &it.uri).collect::<Vec<_>>(), [&contact], "a refresh is of the same Contact");
    assert_eq!((phone.rung(), world.pushes()), (calls, 0));
    world.farewell(&instance).await
}

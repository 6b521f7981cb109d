//! What happens beside answering and hanging up, over each transport: declined, cancelled while it rings, answered on
//! another phone, held and resumed by either side, a second call. Kamailio forks, SIPp and a second baresip are the others.

use tests::baresip::Baresip;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::desk_phone::{DeskPhone, closed};
use crate::{Outcome, World};

plays! { every_other_call:
    fn every_other_call_goes_its_way_over_udp(Transport::Udp);
    fn every_other_call_goes_its_way_over_tcp(Transport::Tcp);
    fn every_other_call_goes_its_way_over_tls(Transport::Tls);
}

async fn every_other_call(transport: Transport) -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(transport)).await?;
    // The SIP server forks to another phone of the account: the sleeping one is not rung when it wakes.
    let desk = DeskPhone::start(&world).await?;
    let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
    let push = world.next_call_push(&instance).await?;
    desk.takes(&world, 1, caller).await?;
    assert_eq!(world.state(&instance, &push).await?, "answered-elsewhere");

    // The one that rings stops ringing.
    let phone = world.baresip(&instance).await?;
    let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
    phone.await_rung(1, SOON).await?;
    desk.takes(&world, 2, caller).await?;
    phone.await_event("CALL_CLOSED", SOON).await?;
    assert!(phone.output().contains("Reason: SIP;cause=200"), "no missed call is shown: {}", phone.output());
    desk.leaves(&world).await?;

    declined(&world, &phone, 2).await?;
    cancelled(&world, &phone, 3).await?;
    held_by_the_caller(&world, &phone, 4).await?;
    held_by_the_phone(&world, &phone, 5).await?;
    a_second_call(&world, &phone, 6).await?;
    assert_eq!((phone.rung(), world.pushes()), (7, 1), "one push, for the call that found the phone asleep");
    world.farewell(&instance).await
}

async fn declined(world: &World, phone: &Baresip, rung: usize) -> Outcome {
    world.sipp_is_refused(phone, rung).await?;
    phone.await_event("CALL_CLOSED", SOON).await.map(drop)
}

async fn cancelled(world: &World, phone: &Baresip, rung: usize) -> Outcome {
    let caller = world.sipp_calls(Scenario::CallerCancels)?;
    phone.await_rung(rung, SOON).await?;
    closed(world, phone, caller).await
}

async fn held_by_the_caller(world: &World, phone: &Baresip, rung: usize) -> Outcome {
    let caller = world.sipp_calls(Scenario::CallerHolds)?;
    phone.answer(rung, SOON).await?;
    closed(world, phone, caller).await
}

async fn held_by_the_phone(world: &World, phone: &Baresip, rung: usize) -> Outcome {
    let caller = world.sipp_calls(Scenario::CallerIsHeld { reinvites: 2 })?;
    phone.answer(rung, SOON).await?;
    phone.command("hold", "").await?;
    phone.command("resume", "").await?;
    let wire = caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", phone.output()));
    assert!(wire.contains("a=sendonly") || wire.contains("a=inactive"), "no hold:\n{wire}");
    phone.await_event("CALL_CLOSED", SOON).await.map(drop)
}

/// A second call during the first: the phone holds the first and takes the second.
async fn a_second_call(world: &World, phone: &Baresip, rung: usize) -> Outcome {
    let first = world.sipp_calls(Scenario::CallerIsHeld { reinvites: 1 })?;
    phone.answer(rung, SOON).await?;
    let second = world.sipp_calls(Scenario::CalleeHangsUp)?;
    phone.await_rung(rung + 1, SOON).await?;
    phone.accept().await?;
    let established = phone.await_event("CALL_ESTABLISHED", SOON).await?;
    closed(world, phone, first).await?;
    // By itself baresip 1.1 has no current call any more where the 200 to its re-INVITE came behind the ACK of the second call.
    phone.command("callfind", established["id"].as_str().unwrap_or_default()).await?;
    phone.hang_up().await?;
    closed(world, phone, second).await
}

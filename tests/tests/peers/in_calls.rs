//! What happens beside answering and hanging up, over each transport: declined, cancelled while it rings, answered on
//! another phone, held and resumed by either side, a second call. Kamailio forks, SIPp and a second baresip are the others.

use tests::baresip::{Account, Baresip};
use tests::sipp::{Scenario, Sipp};
use tests::wire::Transport;

use crate::world::{Plan, SOON, World};

plays! { every_other_call:
    fn every_other_call_goes_its_way_over_udp(Transport::Udp);
    fn every_other_call_goes_its_way_over_tcp(Transport::Tcp);
    fn every_other_call_goes_its_way_over_tls(Transport::Tls);
}

async fn every_other_call(transport: Transport) {
    let mut world = World::start(Plan::over(transport)).await;
    let instance = world.enable().await;
    // The SIP server forks to another phone of the account: the sleeping one is not rung when it wakes.
    let desk = DeskPhone::start(&world).await;
    let caller = world.call(Scenario::CallerHangsUp);
    let call = world.next_call_push(&instance).await;
    desk.takes(&world, 1, caller).await;
    assert_eq!(world.call_state(&instance, &call).await, "answered-elsewhere");

    // The one that rings stops ringing.
    let phone = world.wake(&instance).await;
    let caller = world.call(Scenario::CallerHangsUp);
    phone.await_rung(1, SOON).await.unwrap();
    desk.takes(&world, 2, caller).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
    assert!(phone.output().contains("Reason: SIP;cause=200"), "no missed call is shown: {}", phone.output());
    desk.leaves(&world).await;

    declined(&world, &phone, 2).await;
    cancelled(&world, &phone, 3).await;
    held_by_the_caller(&world, &phone, 4).await;
    held_by_the_phone(&world, &phone, 5).await;
    a_second_call(&world, &phone, 6).await;
    assert_eq!((phone.rung(), world.pushes()), (7, 1), "one push, for the call that found the phone asleep");
    world.disable(&instance).await;
    world.end().await;
}

/// Another phone of the account, which registers at the SIP server itself.
struct DeskPhone(Baresip);

impl DeskPhone {
    async fn start(world: &World) -> Self {
        let proxy = world.kamailio.uri(Transport::Udp);
        let aor = world.kamailio.aor(&world.user);
        let account = Account { aor, outbound: false, ..Account::new(&proxy, &world.user, &world.password) };
        let desk = Baresip::start(&account, &world.authority).await.unwrap();
        desk.await_registered(SOON).await.unwrap();
        world.kamailio.await_location(&world.user, 2, SOON).await.unwrap();
        Self(desk)
    }

    /// It answers its n-th call, which the caller then ends.
    async fn takes(&self, world: &World, nth: usize, caller: Sipp) {
        self.0.await_rung(nth, SOON).await.unwrap();
        self.0.accept().await.unwrap();
        finish(world, caller).await;
        self.0.await_event("CALL_CLOSED", SOON).await.unwrap();
    }

    /// It unregisters.
    async fn leaves(self, world: &World) {
        self.0.command("quit", "").await.unwrap();
        world.kamailio.await_location(&world.user, 1, SOON).await.unwrap();
    }
}

async fn finish(world: &World, caller: Sipp) {
    if let Err(missed) = caller.finish(SOON).await {
        panic!("{missed}\n{}", world.relay.log());
    }
}

async fn declined(world: &World, phone: &Baresip, rung: usize) {
    let caller = world.call(Scenario::Refused(486));
    phone.await_rung(rung, SOON).await.unwrap();
    phone.hang_up().await.unwrap();
    finish(world, caller).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
}

async fn cancelled(world: &World, phone: &Baresip, rung: usize) {
    let caller = world.call(Scenario::CallerCancels);
    phone.await_rung(rung, SOON).await.unwrap();
    finish(world, caller).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
}

async fn answer(phone: &Baresip, rung: usize) {
    phone.await_rung(rung, SOON).await.unwrap();
    phone.accept().await.unwrap();
    phone.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
}

async fn held_by_the_caller(world: &World, phone: &Baresip, rung: usize) {
    let caller = world.call(Scenario::CallerHolds);
    answer(phone, rung).await;
    finish(world, caller).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
}

async fn held_by_the_phone(world: &World, phone: &Baresip, rung: usize) {
    let caller = world.call(Scenario::CallerIsHeld { reinvites: 2 });
    answer(phone, rung).await;
    phone.command("hold", "").await.unwrap();
    phone.command("resume", "").await.unwrap();
    let wire = caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", phone.output()));
    assert!(wire.contains("a=sendonly") || wire.contains("a=inactive"), "no hold:\n{wire}");
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
}

/// A second call during the first: the phone holds the first and takes the second.
async fn a_second_call(world: &World, phone: &Baresip, rung: usize) {
    let first = world.call(Scenario::CallerIsHeld { reinvites: 1 });
    answer(phone, rung).await;
    let second = world.call(Scenario::CalleeHangsUp);
    answer(phone, rung + 1).await;
    finish(world, first).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
    phone.hang_up().await.unwrap();
    finish(world, second).await;
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();
}

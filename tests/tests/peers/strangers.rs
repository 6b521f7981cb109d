//! Other stock programs: Linphone as the phone, sipsak as the one who asks whether the account is there.

use std::process::Command;

use tests::child::Child;
use tests::linphone::Linphone;
use tests::sipp::Scenario;
use tests::wire::Transport;

use crate::world::{Plan, SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn linphone_as_the_phone_is_woken_answers_and_hangs_up() {
    // Its TLS knows certificates for names alone, not for addresses.
    let mut world = World::start(Plan { edge_host: "localhost", ..Plan::over(Transport::Tls) }).await;
    let instance = world.enable().await;
    for (nth, scenario) in [Scenario::CalleeHangsUp, Scenario::CallerHangsUp].into_iter().enumerate() {
        let caller = world.call(scenario);
        let call = world.next_call_push(&instance).await;
        let phone = Linphone::start(&World::account(&instance), "sipwake", &world.authority).unwrap();
        phone.await_registered(SOON).await.unwrap();
        phone.await_incoming(SOON).await.unwrap();
        phone.accept().unwrap();
        phone.await_established(SOON).await.unwrap();
        if scenario == Scenario::CalleeHangsUp {
            phone.hang_up().unwrap();
        }
        if let Err(missed) = caller.finish(SOON).await {
            panic!("{missed}\n{}", phone.output());
        }
        assert_eq!(world.call_state(&instance, &call).await, "answered");
        assert_eq!(world.pushes(), nth as u64 + 1);
    }
    world.disable(&instance).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_account_for_its_options_is_answered_while_the_phone_sleeps() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut world = World::start(Plan::over(transport)).await;
        world.enable().await;
        let server = world.kamailio.address(Transport::Udp);
        let mut sipsak = Command::new("sipsak");
        sipsak.args(["-vvv", "-p", &server.to_string(), "-s", &world.kamailio.aor(&world.user)]);
        let sipsak = Child::spawn(sipsak, "sipsak").unwrap();
        sipsak.await_line("SIP/2.0 200", SOON).await.unwrap();
        let allow = sipsak.await_line("Allow:", SOON).await.unwrap();
        for method in ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "NOTIFY"] {
            assert!(allow.contains(method), "{allow}");
        }
        assert!(sipsak.exit(SOON).await.unwrap().success(), "{}", sipsak.output());
        assert_eq!(world.pushes(), 0, "nobody is woken for a question");
        world.end().await;
    }
}

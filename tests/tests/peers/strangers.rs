//! Other stock programs: Linphone as the phone, sipsak as the one who asks whether the account is there.

use std::process::Command;

use tests::child::Child;
use tests::linphone::Linphone;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

#[tokio::test(flavor = "multi_thread")]
async fn linphone_as_the_phone_is_woken_answers_and_hangs_up() -> Outcome {
    // Its TLS knows certificates for names alone, not for addresses.
    let (world, instance) = World::real_and_lent(Plan { edge_host: "localhost", ..Plan::over(Transport::Tls) }).await?;
    for (nth, scenario) in [Scenario::CalleeHangsUp, Scenario::CallerHangsUp].into_iter().enumerate() {
        let caller = world.sipp_calls(scenario)?;
        let push = world.next_call_push(&instance).await?;
        let phone = Linphone::start(&tests::world::stock::stock_account(&instance), "sipwake", &world.authority)?;
        phone.await_registered(SOON).await?;
        phone.await_incoming(SOON).await?;
        phone.accept().unwrap();
        phone.await_established(SOON).await?;
        if scenario == Scenario::CalleeHangsUp {
            phone.hang_up().unwrap();
        }
        if let Err(missed) = caller.finish(SOON).await {
            panic!("{missed}\n{}", phone.output());
        }
        assert_eq!(world.state(&instance, &push).await?, "answered");
        assert_eq!(world.pushes(), nth as u64 + 1);
    }
    world.farewell(&instance).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_account_for_its_options_is_answered_while_the_phone_sleeps() -> Outcome {
    for transport in [Transport::Udp, Transport::Tls] {
        let world = World::real(Plan::over(transport)).await?;
        world.lend_own().await?;
        let server = world.registrar.address(Transport::Udp);
        let mut sipsak = Command::new("sipsak");
        sipsak.args(["-vvv", "-p", &server.to_string(), "-s", &world.registrar.aor(&world.registrar.user)]);
        let sipsak = Child::spawn(sipsak, "sipsak").unwrap();
        sipsak.await_line("SIP/2.0 200", SOON).await?;
        let allow = sipsak.await_line("Allow:", SOON).await?;
        for method in ["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "NOTIFY"] {
            assert!(allow.contains(method), "{allow}");
        }
        assert!(sipsak.exit(SOON).await?.success(), "{}", sipsak.output());
        assert_eq!(world.pushes(), 0, "nobody is woken for a question");
        world.end().await?;
    }
    Ok(())
}

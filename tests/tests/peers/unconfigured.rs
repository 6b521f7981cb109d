//! The whole story for a newcomer without a SIP account: the relay without a configuration, its own SIP server, and two stock
//! clients, of which one sleeps.

use std::fs;
use std::path::Path;

use tests::baresip::{Account, Baresip};
use tests::board::Missed;
use tests::linphone::Linphone;
use tests::unconfigured::Unconfigured;
use tests::world::SOON;

use crate::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn two_stock_clients_ring_each_other_through_a_relay_without_a_configuration_while_one_sleeps() -> Outcome {
    let relay = Unconfigured::start().await?;
    let password = fs::read_to_string(relay.state.path().join("sip-password")).expect("a password");
    let ca = relay.state.path().join("ca.pem");
    let account = |user: &str| Account {
        aor: format!("sip:{user}@{}", relay.sip_server),
        ..Account::new(&format!("sip:{};transport=udp", relay.sip_server), user, &password)
    };
    // Alice lends her account, and no phone of hers is there.
    let accounts = relay.state.path().join("accounts");
    let line = relay.line("device --state").replace("--asleep", &format!("--stock {}", accounts.display()));
    let lent = relay.paste(&line)?;
    lent.await_line("the account of a stock client is in", SOON * 2).await?;
    let told = |missed: Missed| Missed::new(missed.awaited, format!("{}\n{}", missed.seen, relay.child.output()));

    // Bob has baresip, and calls her; the push is printed; she starts baresip.
    let bob = Baresip::start(&account("bob"), &tests::authority::Authority::new()).await?;
    bob.await_registered(SOON).await?;
    bob.command("dial", &format!("sip:alice@{}", relay.sip_server)).await?;
    relay.child.await_lines("\"event\":\"call\"", 1, SOON).await?;
    let alice = Baresip::start_with(&fs::read_to_string(&accounts).expect("an account"), &ca).await?;
    alice.answer(1, SOON).await.map_err(told)?;
    bob.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
    bob.hang_up().await?;
    alice.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    drop(alice);

    // Bob calls again, and she starts Linphone.
    bob.command("dial", &format!("sip:alice@{}", relay.sip_server)).await?;
    relay.child.await_lines("\"event\":\"call\"", 2, SOON * 2).await?;
    let alice = Linphone::start_trusting(&linphone_account(&accounts), "sipwake", &ca)?;
    alice.await_incoming(SOON).await.map_err(told)?;
    alice.accept()?;
    bob.await_event("CALL_ESTABLISHED", SOON).await.map_err(told)?;
    alice.await_established(SOON).await.map_err(told)?;
    alice.hang_up()?;
    bob.await_event("CALL_CLOSED", SOON).await.map_err(told)?;
    drop(alice);

    lent.signal(rustix::process::Signal::TERM);
    assert!(lent.exit(SOON).await?.success(), "{}", lent.output());
    assert!(lent.output().contains("unregistered: true"), "{}", lent.output());
    Ok(())
}

/// Linphone's TLS knows certificates for names alone, not for addresses.
fn linphone_account(accounts: &Path) -> Account {
    let text = fs::read_to_string(accounts).expect("an account");
    let part = |from: &str, to: char| {
        let rest = text.split_once(from).map(|(_, rest)| rest).unwrap_or_default();
        rest.split(to).next().unwrap_or_default().trim().to_owned()
    };
    let proxy = part("outbound=\"", '"').replace("127.0.0.1", "localhost");
    Account::new(&proxy, &part("auth_user=", ';'), &part("auth_pass=", ';'))
}

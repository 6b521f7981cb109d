//! `sipwake serve` without a configuration, as a newcomer tries it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tests::scratch::Scratch;
use tests::unconfigured::Unconfigured;
use tests::world::SOON;

use super::{said, sipwake};

type Outcome = tests::world::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_it_says_to_paste_ring_a_sleeping_phone_without_any_sip_server() -> Outcome {
    let relay = Unconfigured::start().await?;
    let phone = relay.paste(&relay.line("device --state"))?;
    phone.await_line("asleep: a call is pushed", SOON * 2).await?;
    let listed = relay.paste(&relay.line("instances list"))?;
    assert!(listed.exit(SOON).await?.success(), "{}", listed.output());
    assert!(listed.output().contains("pi_"), "{}", listed.output());
    let caller = relay.paste(&relay.line(" --call"))?;
    relay.child.await_line("printed instead of sent", SOON).await?;
    let push = relay.child.await_line("\"event\"", SOON).await?;
    let push: Value = serde_json::from_str(&push).expect("a push that can be read and copied");
    assert_eq!(push["event"], "call");
    caller.await_line("180 Ringing", SOON).await?;
    phone.say("")?;
    caller.await_line("answered", SOON * 2).await?;
    // Who has called for long enough presses Ctrl-C; the phone hangs up.
    phone.await_line("answered", SOON).await?;
    caller.signal(rustix::process::Signal::INT);
    phone.await_line("the caller hung up", SOON).await?;
    assert!(caller.exit(SOON).await?.success(), "{}", caller.output());
    assert!(phone.exit(SOON).await?.success(), "{}", phone.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_calling_leaves_no_phone_ringing() -> Outcome {
    let relay = Unconfigured::start().await?;
    let nobody = relay.paste(&relay.line(" --call"))?;
    nobody.await_line("480", SOON).await?;
    assert_eq!(nobody.exit(SOON).await?.code(), Some(1));
    let phone = relay.paste(&relay.line("device --state").replace("--asleep", "--ring 60"))?;
    phone.await_line("attached", SOON * 2).await?;
    let caller = relay.paste(&relay.line(" --call"))?;
    caller.await_line("180 Ringing", SOON).await?;
    caller.signal(rustix::process::Signal::INT);
    phone.await_line("the caller gave up", SOON).await?;
    assert!(caller.exit(SOON).await?.success(), "{}", caller.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_of_another_machine_is_told_what_this_relay_reaches_and_alice_is_reached_all_the_same() -> Outcome {
    let relay = Unconfigured::start_with(&[("UPSTREAM__ALLOW_ADDRESSES", "192.0.2.0/24")]).await?;
    relay.child.await_line("--public ADDRESS", SOON).await?;
    let alice = relay.line("device --state");
    let (command, _) = alice.split_once(" --asleep").expect("Alice's line");
    let password = relay.state.path().join("sip-password").display().to_string();
    let other = format!(
        "{command} --aor sip:you@192.0.2.1 --registrar 'sip:192.0.2.1;transport=udp' --password-file {password}"
    );
    let other = relay.paste(&other)?;
    assert_eq!(other.exit(SOON).await?.code(), Some(1));
    for told in ["note: this relay was started for SIP servers on its own machine", "403", "upstream.udp_listen"] {
        assert!(other.output().contains(told), "{told}: {}", other.output());
    }
    let phone = relay.paste(&alice)?;
    phone.await_line("asleep: a call is pushed", SOON * 2).await?;
    assert!(!phone.output().contains("note:"), "{}", phone.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn its_ca_and_its_keys_are_the_same_the_next_time_and_its_users_alone() -> Outcome {
    let relay = Unconfigured::start().await?;
    let ca = relay.state.path().join("ca.pem");
    let aside = Scratch::new();
    let first = aside.file("ca.pem", fs::read(&ca).expect("a CA"));
    let kept = |relay: &Unconfigured| -> BTreeMap<String, (u32, Vec<u8>)> {
        let entries = fs::read_dir(relay.state.path()).expect("a folder").flatten();
        let one = |entry: fs::DirEntry| {
            let mode = entry.metadata().expect("a file").permissions().mode() & 0o777;
            (entry.file_name().to_string_lossy().into_owned(), (mode, fs::read(entry.path()).expect("readable")))
        };
        entries.map(one).collect()
    };
    let before = kept(&relay);
    let token = format!("the token is in {}", relay.state.path().join("operator-token").display());
    assert!(relay.child.output().contains(&token), "{}", relay.child.output());
    let relay = relay.restart().await?;
    let after = kept(&relay);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, (mode, content)) in &after {
        assert_eq!(*mode, if name == "ca.pem" { 0o644 } else { 0o600 }, "{name}");
        assert!(name == "ca.pem" || before[name].1 == *content, "{name} is another one");
    }
    // Who trusts the first certificate of the CA trusts the second relay.
    let operator = relay.line("instances list").replace(&ca.display().to_string(), &first.display().to_string());
    let listed = relay.paste(&operator)?;
    assert!(listed.exit(SOON).await?.success(), "{}", listed.output());
    Ok(())
}

#[test]
fn what_belongs_to_trying_is_refused_beside_a_configuration() {
    for further in [&["--with-registrar"][..], &["--state", "/tmp"], &["--public", "192.0.2.9"]] {
        let arguments = [&["serve", "--config", "relay.toml"], further].concat();
        assert_eq!(sipwake(&arguments).status.code(), Some(2), "{further:?}");
    }
    let nobodys = sipwake(&["serve", "--state", "/dev/null/state", "--public", "127.0.0.1"]);
    assert!(nobodys.status.code() == Some(1) && said(&nobodys).contains("--public: 127.0.0.1"), "{}", said(&nobodys));
    let elsewhere = sipwake(&["serve", "--state", "/dev/null/state", "--with-registrar", "192.0.2.1:5060"]);
    assert_eq!(elsewhere.status.code(), Some(1));
    assert!(said(&elsewhere).contains("/dev/null/state"), "{}", said(&elsewhere));
}

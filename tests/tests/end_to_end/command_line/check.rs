//! `sipwake check`, before a start and beside a running relay.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rcgen::{CertificateParams, KeyPair};
use tests::authority::Authority;
use tests::relay_process::{RelayProcess, binary};
use tests::scratch::Scratch;

use super::{said, setup, sipwake};

fn check(file: &Path) -> Output {
    sipwake(&["check", "--config", file.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_every_problem_with_its_place_and_remedy() {
    let authority = Authority::new();
    let (mut setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let file = setup.write(&scratch);
    let right = check(&file);
    assert_eq!(right.status.code(), Some(0), "{}", said(&right));

    let taken = std::net::TcpListener::bind(("127.0.0.1", setup.ports.api)).unwrap();
    setup.store = "redis://127.0.0.1:1".to_owned();
    if let Some(apns) = &mut setup.apps[0].apns {
        apns.key_file = scratch.file("broken.p8", "-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n");
    }
    let file = setup.write(&scratch);
    let wrong = check(&file);
    assert_eq!(wrong.status.code(), Some(1));
    for place in ["api.listen", "store.url", "app com.example.phone"] {
        assert!(said(&wrong).contains(&format!("error: {place}: ")), "{place}: {}", said(&wrong));
    }
    assert!(said(&wrong).lines().filter(|line| line.starts_with("error: ")).all(|line| line.contains("(line ")));
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_looks_at_what_a_start_reads_besides() {
    let authority = Authority::new();
    let (mut setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let in_the_way = scratch.file("in-the-way", "no certificate, and no directory");
    setup.further += &format!(
        "\n[audit]\ndirectory = {in_the_way:?}\n\n[otlp]\nendpoint = \"https://127.0.0.1:4318\"\nca_file = {in_the_way:?}\n"
    );
    let file = setup.write(&scratch);
    let wrong = check(&file);
    assert_eq!(wrong.status.code(), Some(1));
    for place in ["audit.directory", "otlp.ca_file"] {
        assert!(said(&wrong).contains(&format!("error: {place}: ")), "{place}: {}", said(&wrong));
    }
}

/// A certificate and its key as files, valid from and to a number of days from now.
fn issued(scratch: &Scratch, hosts: &[&str], days: [i64; 2]) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>()).unwrap();
    let at = |days: i64| {
        let now = std::time::SystemTime::now();
        let span = std::time::Duration::from_secs(days.unsigned_abs() * 86_400);
        if days < 0 { now - span } else { now + span }
    };
    (params.not_before, params.not_after) = (at(days[0]).into(), at(days[1]).into());
    scratch.file("relay.key", key.serialize_pem());
    params.self_signed(&key).unwrap().pem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_no_peer_could_take_is_told_before_they_refuse_it() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let file = setup.write(&scratch);
    let text = std::fs::read_to_string(&file).unwrap();
    let section = format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\n",
        scratch.path().join("relay.pem"),
        scratch.path().join("relay.key")
    );
    let (before, after) = (text.split("[tls]").next().unwrap(), text.split("[upstream]").nth(1).unwrap());
    let file = scratch.file("own.toml", format!("{before}{section}[upstream]{after}"));
    let with = |certificate: &str| {
        scratch.file("relay.pem", certificate);
        check(&file)
    };
    let here = ["127.0.0.1"];

    let output = with(&issued(&scratch, &here, [-1, 90]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("note: tls.certificate: no root of this machine vouches"), "{}", said(&output));
    let output = with(&issued(&scratch, &here, [-80, 10]));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("note: tls.certificate: the certificate ends soon"), "{}", said(&output));
    let output = with(&issued(&scratch, &here, [-4, 2]));
    assert!(!said(&output).contains("ends soon"), "a third of its life is left: {}", said(&output));
    let output = with(&issued(&scratch, &here, [-5, 1]));
    assert!(said(&output).contains("note: tls.certificate: the certificate ends soon"), "{}", said(&output));
    for (hosts, days, told) in [
        (&here[..], [-90, -1], "tls.certificate: the certificate has expired: it ended on "),
        (&here, [1, 90], "tls.certificate: the certificate is not valid before "),
        (
            &["relay1.example.net", "*.example.org"],
            [-1, 90],
            "does not name 127.0.0.1; it names relay1.example.net, *.example.org",
        ),
        (&["127.0.0.2"], [-1, 90], "does not name 127.0.0.1"),
    ] {
        let output = with(&issued(&scratch, hosts, days));
        assert_eq!(output.status.code(), Some(1), "{hosts:?} {days:?}: {}", said(&output));
        assert!(said(&output).contains(told), "{told}: {}", said(&output));
        assert!(said(&output).contains("(line "), "{}", said(&output));
    }

    let leaf = issued(&scratch, &here, [-1, 90]);
    let output = with(&format!("{}{leaf}", authority.ca_pem()));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("the key is that of certificate 2 in the file; put that one first"),
        "{}",
        said(&output)
    );
    let output = with(authority.ca_pem());
    assert!(said(&output).contains("the key is another certificate's"), "{}", said(&output));
    assert!(!said(&output).contains("KeyMismatch"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_is_content_beside_the_relay_that_runs_and_not_beside_another_program() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let relay = RelayProcess::start(setup).await.unwrap();
    let beside = check(relay.config());
    assert_eq!(beside.status.code(), Some(0), "{}", said(&beside));
    assert!(said(&beside).contains("edge.listen") && said(&beside).contains("a relay with this certificate runs"));
    // Another program on one of its addresses is none of it.
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = std::fs::read_to_string(relay.config()).unwrap();
    let port = foreign.local_addr().unwrap().port();
    let text = text.replace(&format!(":{}\"\n", relay.setup().ports.api), &format!(":{port}\"\n"));
    let file = relay.directory().join("other.toml");
    std::fs::write(&file, text).unwrap();
    let beside = check(&file);
    assert_eq!(beside.status.code(), Some(1), "{}", said(&beside));
    assert!(said(&beside).contains("error: api.listen: ") && said(&beside).contains("in use by another program"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_variables_that_set_nothing_and_a_file_without_an_app() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let file = setup.write(&scratch);
    for name in ["SIPWAKE_TYPO", "SIPWAKE_EDGE_PUBLIC"] {
        let mut command = Command::new(binary().unwrap());
        command.args(["check", "--config"]).arg(&file).env(name, "1").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(said(&output).contains(&format!("error: {name}: ")), "{name}: {}", said(&output));
    }
    // What a variable has set is not looked for in the file.
    for (name, value, told) in [
        ("SIPWAKE_CALL__RING_TIMEOUT", OsStr::from_bytes(b"5s\xff"), "SIPWAKE_CALL__RING_TIMEOUT: is not UTF-8"),
        ("SIPWAKE_STORE__URL", OsStr::new("redis://127.0.0.1:1/"), "store.url (from SIPWAKE_STORE__URL): "),
    ] {
        let mut command = Command::new(binary().unwrap());
        command.args(["check", "--config"]).arg(&file).env(name, value).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        let line = said(&output).lines().find(|line| line.contains(told)).map(str::to_owned).unwrap_or_default();
        assert!(line.starts_with("error: ") && !line.contains("(line "), "{name}: {}", said(&output));
    }
    let empty = check(&scratch.file("empty.toml", ""));
    assert_eq!(empty.status.code(), Some(1));
    assert!(said(&empty).contains("error: app: is missing"), "{}", said(&empty));
    let mut without = setup;
    without.apps.clear();
    let output = check(&without.write(&scratch));
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("error: app: is missing"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_ends_with_1_and_a_word_when_nobody_reads_what_it_finds() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let file = setup.write(&scratch);
    for arguments in [&["check", "--config"][..], &["check", "--json", "--config"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(binary().unwrap());
        let output = command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("error: the output is closed"), "{}", said(&output));
    }
}

/// It holds what the relay holds: a core dump would write the keys to the disk.
#[tokio::test(flavor = "multi_thread")]
async fn check_leaves_no_core_dump_of_the_keys_that_it_holds() {
    let authority = Authority::new();
    let (mut setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    // A store that lets in and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    setup.store = format!("redis://{}", silent.local_addr().unwrap());
    let mut command = Command::new(binary().unwrap());
    command.args(["check", "--config"]).arg(setup.write(&scratch)).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Once it asks, the keyring is open.
    silent.accept().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(line.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{line}");
}

//! `sipwake doctor`, as somebody asks what is wrong with an account.

use std::process::{Command, Output, Stdio};

use serde_json::json;
use sip::auth::{Ha1, Hash};
use sip::message::Name;
use tests::api_client::Answer;
use tests::authority::Authority;
use tests::board::Missed;
use tests::dns::{Dns, Record};
use tests::ports;
use tests::registrar::{self, Behaviour, Registrar};
use tests::relay_process::binary;
use tests::relay_setup::Setup;
use tests::scratch::Scratch;
use tests::wire::Transport;
use tests::world::World;

type Outcome = tests::world::Outcome;

/// A configuration and a SIP server that it leads to.
struct Ward {
    scratch: Scratch,
    setup: Setup,
    registrar: Registrar,
}

impl Ward {
    async fn new(change: impl FnOnce(&mut registrar::Settings)) -> Result<Self, Missed> {
        let authority = Authority::new();
        let mut settings = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
        change(&mut settings);
        let (setup, _, _) = super::setup(&authority).await;
        Ok(Self { scratch: Scratch::new(), setup, registrar: Registrar::start(settings).await? })
    }

    fn ask(&self, password: Option<&str>, arguments: &[&str]) -> Result<Output, Missed> {
        let mut command = Command::new(binary()?);
        command.arg("doctor").arg("--config").arg(self.setup.write(&self.scratch)).args(arguments);
        if let Some(password) = password {
            command.arg("--password-file").arg(self.scratch.file("password", password));
        }
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// About Alice, at the SIP server itself.
    fn ask_about_alice(&self, transport: Transport, password: Option<&str>) -> Result<(Option<i32>, String), Missed> {
        let (aor, registrar) = (self.registrar.aor("alice"), self.registrar.uri(transport));
        let output = self.ask(password, &["--aor", &aor, "--registrar", &registrar])?;
        Ok((output.status.code(), text(&output)))
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_walked_to_its_end_over_every_transport_and_left_as_it_was() -> Outcome {
    let mut ward = Ward::new(|_| {}).await?;
    ward.setup.transports = vec![Transport::Tls, Transport::Tcp, Transport::Udp];
    for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
        let (code, report) = ward.ask_about_alice(transport, Some("wonderland"))?;
        says(&report, &["asks for credentials", "SHA-256", "credentials are accepted", "registered for", "keeps Path"]);
        says(&report, &["(RFC 5626)", &format!("connection  {} 127.0.0.1:", transport.param())]);
        assert!(!report.contains("BAD") && !report.contains("wonderland"), "{report}");
        assert_eq!(code, Some(0), "{report}");
        assert!(ward.registrar.contacts(&ward.registrar.aor("alice")).is_empty(), "its own Contact is gone");
    }
    let (aor, registrar) = (ward.registrar.aor("alice"), ward.registrar.uri(Transport::Tls));
    let realm = aor.split_once('@').map(|(_, domain)| domain).unwrap_or_default();
    let ha1 = json!({"realm": realm, "SHA-256": Ha1::compute(Hash::Sha256, "alice", realm, "wonderland").expose()});
    for (ha1, told) in [(ha1.to_string(), "credentials are accepted"), ("{}".to_owned(), "is no ha1")] {
        let file = ward.scratch.file("ha1", &ha1);
        let file = file.to_str().unwrap_or_default();
        let output = ward.ask(None, &["--aor", &aor, "--registrar", &registrar, "--ha1-file", file])?;
        says(&text(&output), &[told]);
    }
    let before = ward.registrar.register_count();
    let (code, report) = ward.ask_about_alice(Transport::Tls, None)?;
    says(&report, &["asks for credentials", "give the password"]);
    assert_eq!((code, ward.registrar.register_count() - before), (Some(0), 1), "up to the challenge, and no further");
    assert_eq!(ward.registrar.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_tried_once_and_what_a_server_refuses_is_told_with_its_remedy() -> Outcome {
    let ward = Ward::new(|_| {}).await?;
    let (code, report) = ward.ask_about_alice(Transport::Tls, Some("looking-glass"))?;
    says(&report, &["BAD  register", "REGISTER is answered 401", "the password is wrong"]);
    let aor = ward.registrar.aor("alice");
    let proofs = ward.registrar.registers(&aor).iter().filter(|it| it.request.has(Name::Authorization)).count();
    assert_eq!((code, proofs), (Some(1), 1));
    for (behaviour, told) in [
        (Behaviour::Refuse(403), "not allowed to register from here"),
        (Behaviour::MinExpires(1_000), "grants nothing below 1000 s"),
        (Behaviour::Grant(30), "registered for 30 s"),
        (Behaviour::Silence, "did not answer within"),
    ] {
        ward.registrar.behave(&aor, behaviour);
        says(&ward.ask_about_alice(Transport::Tls, Some("wonderland"))?.1, &[told]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_relay_from_its_server_is_told_before_anything_is_sent() -> Outcome {
    let mut ward = Ward::new(|settings| settings.certified = Some(vec!["other.test".to_owned()])).await?;
    let (code, report) = ward.ask_about_alice(Transport::Tls, None)?;
    says(
        &report,
        &["is not valid for 127.0.0.1", "issue a certificate with the subjectAltName 127.0.0.1", "BAD  connection"],
    );
    assert_eq!(code, Some(1));
    let closed = format!("sip:127.0.0.1:{};transport=tls", ports::free());
    let output = ward.ask(None, &["--aor", "sip:alice@example.test", "--registrar", &closed])?;
    says(&text(&output), &["nobody listens there", "BAD  connection"]);
    let output = ward.ask(None, &["--aor", "sip:alice@example.test", "--registrar", "sip:10.0.0.1"])?;
    says(&text(&output), &["BAD  dns", "upstream.allow_addresses"]);
    let output = ward.ask(None, &["--aor", "alice"])?;
    says(&text(&output), &["BAD  account", "sip:user@domain"]);
    ward.setup.domains = vec!["example.test".to_owned()];
    let output = ward.ask(None, &["--aor", "sip:alice@elsewhere.test"])?;
    says(&text(&output), &["BAD  account", "elsewhere.test", "upstream.domains"]);
    assert_eq!((output.status.code(), ward.registrar.register_count()), (Some(1), 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_told_no_name_and_no_address_of_a_network_that_the_relay_does_not_dial() -> Outcome {
    let dns = Dns::start(vec![
        Record::srv("_sip._tcp.example.test", 0, 0, 5060, "pbx-geheim.corp.test"),
        Record::srv("_sips._tcp.example.test", 0, 0, 5061, "sip.example.test"),
        Record::address("pbx-geheim.corp.test", "10.20.30.40"),
        Record::address("db-geheim.corp.test", "10.20.30.41"),
        Record::address("sip.example.test", "127.0.0.9"),
        Record::address("sip.example.test", "10.20.30.42"),
    ])
    .await?;
    let name_servers = format!("name_servers = [\"{}\"]\n", dns.address());
    let world = World::with(|setup| setup.upstream = name_servers).await?;
    let key = world.relay.setup().apps[0].api_key.clone();
    let ask = async |account: serde_json::Value| {
        world.api.json("POST", "/v1/doctor", Some(&key), Some(&json!({"account": account}))).await
    };
    let told = ask(json!({"aor": "sip:alice@example.test"})).await?.text();
    says(&told, &["SRV _sips._tcp.example.test: 0 0 port 5061 sip.example.test", "A sip.example.test: 127.0.0.9"]);
    says(&told, &["SRV _sip._tcp.example.test: leads to no address that this relay may dial"]);
    assert!(!told.contains("geheim") && !told.contains("10.20.30"), "{told}");
    for (registrar, told_as) in
        [("db-geheim.corp.test", "db-geheim.corp.test:"), ("db-none.corp.test", "db-none.corp.test:")]
    {
        let told = ask(json!({"aor": "sip:alice@example.test", "registrar": format!("sip:{registrar}")})).await?.text();
        says(&told, &[&format!("A {told_as} leads to no address that this relay may dial")]);
        assert!(!told.contains("10.20.30"), "{told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_on_the_way_to_a_domain_is_told_with_its_verdict() -> Outcome {
    let mut ward = Ward::new(|_| {}).await?;
    let port = ward.registrar.address(Transport::Tls).port();
    let dns = Dns::start(vec![
        Record::naptr("example.test", 10, 50, "SIPS+D2T", "_sips._tcp.provider.test"),
        Record::srv("_sips._tcp.provider.test", 0, 0, port, "one.provider.test"),
        Record::srv("_sips._tcp.provider.test", 1, 0, port, "two.provider.test"),
        Record::address("one.provider.test", "10.1.2.3"),
        Record::address("two.provider.test", "127.0.0.1"),
    ])
    .await?;
    ward.setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
    let output = ward.ask(Some("wonderland"), &["--aor", "sip:alice@example.test"])?;
    let report = text(&output);
    says(&report, &["NAPTR example.test: 10 50 SIPS+D2T _sips._tcp.provider.test", "SRV _sip._udp.example.test: none"]);
    says(&report, &["SRV _sips._tcp.provider.test: 0 0 port", "A one.provider.test: 10.1.2.3", "10.1.2.3: "]);
    says(&report, &["AAAA two.provider.test: none", &format!("dialled in this order: tls 127.0.0.1:{port}")]);
    says(&report, &["its certificate is valid for example.test", "credentials are accepted"]);
    assert_eq!(output.status.code(), Some(0), "{report}");
    let output = ward.ask(None, &["--aor", "sip:alice@nowhere.test", "--json"])?;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let last = json["findings"].as_array().and_then(|it| it.last()).cloned().unwrap_or_default();
    assert_eq!((&last["step"], &last["verdict"]), (&"dns".into(), &"bad".into()), "{json}");
    assert!(last["remedy"].as_str().is_some_and(|remedy| remedy.contains("SRV")), "{json}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_keeps_its_password_hears_whether_its_hashes_fit() -> Outcome {
    let world = World::start().await?;
    let key = world.relay.setup().apps[0].api_key.clone();
    let hash = |hash, realm: &str| Ha1::compute(hash, "alice", realm, "wonderland").expose().to_owned();
    let ask = async |ha1: serde_json::Value| {
        let (aor, registrar) = (world.aor(), world.registrar.uri(Transport::Tls));
        let body = json!({"account": {"aor": aor, "auth_username": "alice", "ha1": ha1, "registrar": registrar}});
        world
            .until("an examination", || async {
                let answer = world.api.json("POST", "/v1/doctor", Some(&key), Some(&body)).await.ok()?;
                (answer.status != 429).then_some(answer)
            })
            .await
    };
    let realm = world.aor().split_once('@').map(|(_, domain)| domain.to_owned()).unwrap_or_default();
    let (md5, sha256) = (hash(Hash::Md5, &realm), hash(Hash::Sha256, &realm));
    let told = ask(json!({"realm": realm, "MD5": md5, "SHA-256": sha256})).await?;
    assert_eq!((told.status, &told.json()["healthy"]), (200, &json!(true)), "{}", told.text());
    says(&told.text(), &["credentials are accepted", "registered for"]);
    let told = ask(json!({"realm": realm, "SHA-256": hash(Hash::Sha256, "another")})).await?;
    says(&told.text(), &["REGISTER is answered 401", "or what ha1 was made of"]);
    let before = world.registrar.register_count();
    for (ha1, told_as) in [
        (json!({"realm": "another", "SHA-256": hash(Hash::Sha256, "another")}), "ha1 is of another realm"),
        (json!({"realm": realm, "SHA-512-256": sha256}), "no hash for the algorithm"),
    ] {
        let told = ask(ha1).await?;
        assert_eq!(told.json()["healthy"], false);
        says(&told.text(), &[told_as]);
    }
    assert_eq!(world.registrar.register_count() - before, 2, "up to the challenge, and no further");
    assert!(world.contacts().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_lent_keeps_its_registration_where_the_server_takes_one_contact() -> Outcome {
    let world = World::between(|settings| settings.contacts = 1, |_| {}).await?;
    world.enable().await?;
    let lent = world.contacts();
    let key = world.relay.setup().apps[0].api_key.clone();
    let account = json!({
        "aor": world.aor(), "auth_username": "alice", "password": "wonderland",
        "registrar": world.registrar.uri(Transport::Tls),
    });
    let answer = world.api.json("POST", "/v1/doctor", Some(&key), Some(&json!({"account": account}))).await?;
    assert_eq!((answer.status, &answer.json()["healthy"]), (200, &json!(true)), "{}", answer.text());
    says(&answer.text(), &["credentials are accepted", "a relay has the account registered, for another "]);
    let asked = world.registrar.registers(&world.aor());
    let bind = |contact: &str| contact.contains("doctor-");
    assert!(!asked.iter().flat_map(|it| it.request.contacts()).any(|it| it.target().is_some_and(bind)));
    assert_eq!((lent.len(), world.contacts().len()), (1, 1));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_asks_the_relay_and_guesses_no_passwords_by_it() -> Outcome {
    let world = World::start().await?;
    let key = world.relay.setup().apps[0].api_key.clone();
    let ask = async |password: &str| {
        let account = json!({
            "aor": world.aor(), "auth_username": "alice", "password": password,
            "registrar": world.registrar.uri(Transport::Tls),
        });
        let body = json!({"account": account});
        // Its rate is another limit, which a test of its own has.
        world
            .until("an examination", || async {
                let answer = world.api.json("POST", "/v1/doctor", Some(&key), Some(&body)).await.ok()?;
                let too_often = answer.status == 429 && answer.text().contains("Come back");
                (!too_often).then_some(answer)
            })
            .await
    };
    let answer = ask("wonderland").await?;
    assert_eq!((answer.status, &answer.json()["healthy"]), (200, &json!(true)), "{}", answer.text());
    assert!(world.contacts().is_empty());
    let refused = |answer: &Answer| answer.status == 200 && answer.json()["healthy"] == false;
    let mut tried = 0;
    while refused(&ask("looking-glass").await?) {
        tried += 1;
        assert!(tried < 12, "guesses go on");
    }
    let proofs = world.registrar.registers(&world.aor());
    let wrong = proofs.iter().filter(|it| it.request.has(Name::Authorization) && !it.proven).count();
    assert_eq!(wrong, tried, "each was tried once");
    for secret in ["wonderland", "looking-glass"] {
        assert!(!world.relay.log().contains(secret));
    }
    world.content()
}

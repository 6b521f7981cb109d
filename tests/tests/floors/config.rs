//! The configuration: what is accepted, what is refused and how it is told.
//!
//! Invariant: each test reads text and files of its own; the process's environment plays no part.

mod secrets;

use std::time::Duration;

use relay::config::{Config, EarlyRinging, Problems, Tls};
use tests::scratch::Scratch;

const APNS_KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWFwbnM=\n-----END PRIVATE KEY-----\n";
const FCM_ACCOUNT: &str =
    r#"{"project_id": "p", "client_email": "e", "private_key": "secret-fcm", "token_uri": "https://t"}"#;

/// The documented example, as far as it is not a default.
const FULL: &str = r#"
[edge]
listen = "0.0.0.0:5061"
public = "Relay1.example.net:5061"
websocket = "0.0.0.0:7443"
[api]
listen = "0.0.0.0:8443"
origins = ["https://phone.example.com", "http://localhost:8000"]
[operator]
listen = "127.0.0.1:9443"
token_file = "operator-token"
[tls]
certificate = "relay.pem"
key = "relay.key"
[upstream]
transports = ["tls"]
udp_listen = "0.0.0.0:5070"
tcp_listen = "0.0.0.0:5070"
tls_listen = "0.0.0.0:5071"
public_host = "relay1.example.net"
ca_file = "relay.pem"
allow_addresses = []
domains = ["*"]
register_expires = "600s"
name_servers = []
failback_interval = "60s"
bare_lf_servers = []
allow_md5 = true
registrations_per_second = 2000
[store]
url = "redis://:secret-store@localhost/"
keyring = "keyring"
[lifetime]
min = "3d"
default = "5d"
max = "6d"
[call]
ring_timeout = "30s"
answer_timeout = "120s"
early_ringing = "after-push-accepted"
[[app]]
id = "com.example.phone"
api_key_file = "app-key"
  [app.apns]
  key_file = "AuthKey.p8"
  key_id = "ABC1234567"
  team_id = "DEF1234567"
  endpoint = "https://127.0.0.1:2197"
  ca_file = "relay.pem"
  [app.fcm]
  service_account_file = "fcm.json"
[[sip_server]]
id = "pbx-1"
key_file = "pbx-1"
domains = ["example.com"]
registrars = ["SIP1.example.net", "192.0.2.1", "2001:db8::1"]
"#;

/// Only what has no default, and no app.
const LEAST: &str = r#"
edge.public = "relay1.example.net"
operator.token_file = "operator-token"
tls = { certificate = "relay.pem", key = "relay.key" }
"#;

/// The same with an app.
const SMALL: &str = r#"
edge.public = "relay1.example.net"
operator.token_file = "operator-token"
tls = { certificate = "relay.pem", key = "relay.key" }
app = [{ id = "small", api_key_file = "small-key", fcm = { service_account_file = "fcm.json" } }]
"#;

fn files() -> Scratch {
    let scratch = Scratch::new();
    scratch.file("operator-token", "secret-operator-token\n");
    scratch.file("app-key", "secret-app-key-0123\r\n");
    scratch.file("small-key", "secret-of-the-small-app");
    scratch.file("pbx-1", "secret-pbx-key-0123");
    scratch.file("AuthKey.p8", APNS_KEY);
    scratch.file("fcm.json", FCM_ACCOUNT);
    scratch.file("relay.pem", "a certificate");
    scratch.file("relay.key", "a key");
    scratch
}

fn read_with(scratch: &Scratch, text: &str, variables: &[(&str, &str)]) -> Result<Config, Problems> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(text, scratch.path(), variables)
}

fn read(text: &str) -> Result<Config, Problems> {
    read_with(&files(), text, &[])
}

/// The places of all problems.
fn places(result: Result<Config, Problems>) -> Vec<String> {
    result.expect_err("there are problems").iter().map(|problem| problem.place.clone()).collect()
}

/// The single problem's text.
fn problem(result: Result<Config, Problems>) -> String {
    let problems = result.expect_err("there is a problem");
    assert_eq!(problems.iter().count(), 1, "{problems}");
    problems.to_string()
}

#[test]
fn the_contracts_example_is_read_as_it_stands() {
    let config = read(FULL).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.edge.public.to_string(), "relay1.example.net:5061");
    assert_eq!(config.edge.websocket, Some("0.0.0.0:7443".parse().unwrap()));
    assert_eq!(config.operator.token.expose(), "secret-operator-token");
    assert_eq!(config.apps[0].api_key.expose(), "secret-app-key-0123");
    assert_eq!(config.sip_servers[0].key.expose(), "secret-pbx-key-0123");
    let domains = &config.sip_servers[0].domains;
    assert!(domains.allow("example.com") && !domains.allow("example.org"));
    let registrars: Vec<_> = config.sip_servers[0].registrars.iter().map(|host| &**host).collect();
    assert_eq!(registrars, ["sip1.example.net", "192.0.2.1", "[2001:db8::1]"]);
    assert_eq!(config.store.url.expose(), "redis://:secret-store@localhost/");
    assert_eq!(config.lifetime.default, Duration::from_secs(432_000));
    assert_eq!(config.call.early_ringing, EarlyRinging::AfterPushAccepted);
    assert!(config.upstream.transports.tls && !config.upstream.transports.udp && !config.upstream.transports.tcp);
    assert_eq!(config.apps[0].apns.as_ref().unwrap().endpoint.as_deref(), Some("https://127.0.0.1:2197"));
    let account = &config.apps[0].fcm.as_ref().unwrap().service_account_file;
    assert!(account.is_absolute() && account.ends_with("fcm.json"), "{}", account.display());
    assert!(config.cautions.is_empty(), "{:?}", config.cautions);
}

#[test]
fn what_is_left_out_has_the_contracts_default() {
    let scratch = files();
    let config = read_with(&scratch, LEAST, &[]).unwrap_or_else(|problems| panic!("{problems}"));
    let listeners = [config.edge.listen, config.api.listen, config.operator.listen].map(|address| address.to_string());
    assert_eq!(listeners, ["0.0.0.0:5061", "0.0.0.0:8443", "127.0.0.1:9443"]);
    let upstream = &config.upstream;
    let listeners = [upstream.udp_listen, upstream.tcp_listen, upstream.tls_listen].map(|address| address.to_string());
    assert_eq!(listeners, ["0.0.0.0:5070", "0.0.0.0:5070", "0.0.0.0:5071"]);
    assert_eq!(config.edge.public.to_string(), "relay1.example.net:5061");
    assert_eq!(&*config.upstream.public_host, "relay1.example.net");
    assert_eq!(config.upstream.register_expires, Duration::from_secs(600));
    assert_eq!((config.upstream.allow_md5, config.upstream.registrations_per_second), (true, 2_000));
    assert!(config.upstream.domains.allow("any.example") && config.upstream.allow_addresses.is_empty());
    assert_eq!(config.store.url.expose(), "memory:");
    assert_eq!(config.store.keyring, Some(scratch.path().join("secrets/keyring")));
    assert_eq!(config.lifetime.min, Duration::from_secs(3 * 86_400));
    assert_eq!(config.lifetime.max, Duration::from_secs(6 * 86_400));
    assert_eq!(config.call.ring_timeout, Duration::from_secs(30));
    assert_eq!(config.call.answer_timeout, Duration::from_secs(120));
    assert!(config.apps.is_empty() && config.sip_servers.is_empty());
    assert_eq!(
        config.tls,
        Tls::Files { certificate: scratch.path().join("relay.pem"), key: scratch.path().join("relay.key") }
    );
}

/// What every REGISTER without push may pass to is the operator's own word, and nobody's by default.
#[test]
fn the_domains_that_need_no_push_are_none_unless_named_and_lie_within_those_that_are_served() {
    let with =
        |flow: &str, served: &str| read(&format!("{SMALL}edge.flow_domains = {flow}\nupstream.domains = {served}\n"));
    assert!(!read(SMALL).unwrap().edge.flow_domains.allow("example.com"));
    let config = with(r#"["a.example", "*.b.example"]"#, r#"["*"]"#).unwrap();
    let allowed = |domain| config.edge.flow_domains.allow(domain);
    assert!(allowed("A.Example.") && allowed("x.b.example") && !allowed("b.example") && !allowed("x.a.example"));
    let said = |flow: &str, served: &str| {
        let config = with(flow, served).unwrap();
        let cautions = config.cautions.iter().filter(|caution| !caution.place.starts_with("store."));
        cautions.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(said(r#"["*"]"#, r#"["*"]"#).contains("edge.flow_domains"));
    assert_eq!(said(r#"["a.example", "*.b.example"]"#, r#"["*"]"#), "");
    assert_eq!(said(r#"["a.example", "*.x.b.example"]"#, r#"["a.example", "*.b.example"]"#), "");
    for (flow, beyond) in [("b.example", "b.example"), ("*.a.example", "*.a.example"), ("c.example", "c.example")] {
        let told = said(&format!("[{flow:?}]"), r#"["a.example", "*.b.example"]"#);
        assert!(told.contains("upstream.domains") && told.contains(&format!("{beyond:?}")), "{told}");
    }
    assert_eq!(places(with(r#"["exa mple"]"#, r#"["*"]"#)), ["edge.flow_domains"]);
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = r#"
        [edge]
        listen = "everywhere"
        publik = "relay1.example.net:5061"
        [operator]
        token_file = "missing"
        [tls]
        certificate = 5
        [upstream]
        transports = ["tls", "carrier-pigeon"]
        allow_addresses = ["10.0.0.0/33", "10.0.0.0/8"]
        domains = ["exa mple.com"]
        register_expires = "25h"
        name_servers = ["dns.example"]
        failback_interval = "2h"
        bare_lf_servers = ["exa mple.com"]
        allow_md5 = "no"
        registrations_per_second = 0
        [store]
        url = "postgres://user:secret-store@db/"
        [lifetime]
        max = "7d"
        [call]
        ring_timeout = "181s"
        early_ringing = "never"
        [[app]]
        id = "com.example phone"
        api_key_file = "short"
          [app.apns]
          key_file = "pbx-1"
          key_id = "ABC"
          endpoint = "http://127.0.0.1"
        [[app]]
        id = "two"
        api_key_file = "app-key"
        [sip_server]
        id = "pbx"
        [unknown]
    "#;
    let scratch = files();
    scratch.file("short", "fifteen-charac.\n");
    let problems = read_with(&scratch, text, &[]).unwrap_err();
    let told = problems.to_string();
    let places: Vec<_> = problems.iter().map(|problem| &*problem.place).collect();
    let expected = [
        "edge.listen",
        "edge.public",
        "edge.publik",
        "operator.token_file",
        "tls.certificate",
        "tls.key",
        "upstream.transports",
        "upstream.allow_addresses",
        "upstream.domains",
        "upstream.register_expires",
        "upstream.name_servers",
        "upstream.failback_interval",
        "upstream.bare_lf_servers",
        "upstream.allow_md5",
        "upstream.registrations_per_second",
        "store.url",
        "lifetime.max",
        "call.ring_timeout",
        "call.early_ringing",
        "app[0].id",
        "app[0].api_key_file",
        "app[0].apns.key_file",
        "app[0].apns.key_id",
        "app[0].apns.team_id",
        "app[0].apns.endpoint",
        "app[1].apns",
        "sip_server",
        "unknown",
    ];
    for place in expected {
        assert!(places.contains(&place), "{place} is not in:\n{told}");
    }
    assert_eq!(places.len(), expected.len(), "{told}");
    assert!(!told.contains("secret-"), "{told}");
    assert!(told.contains("did you mean \"public\"?"), "{told}");
}

#[test]
fn the_environment_wins_over_the_file_and_is_named_when_it_is_wrong() {
    let scratch = files();
    scratch.file("pbx-2", "secret-other-pbx-key");
    let variables = [
        ("SIPWAKE_EDGE__LISTEN", "127.0.0.1:0"),
        ("SIPWAKE_UPSTREAM__TRANSPORTS", "tls, udp"),
        ("SIPWAKE_UPSTREAM__ALLOW_ADDRESSES", r#"["127.0.0.0/8", "::1"]"#),
        ("SIPWAKE_CALL__RING_TIMEOUT", "5s"),
        ("SIPWAKE_APP__0__ID", "com.example.other"),
        ("SIPWAKE_SIP_SERVER__1__ID", "pbx-2"),
        ("SIPWAKE_SIP_SERVER__1__KEY_FILE", "pbx-2"),
        ("SIPWAKE_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
    ];
    let config = read_with(&scratch, FULL, &variables).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.edge.listen.to_string(), "127.0.0.1:0");
    assert!(config.upstream.transports.tls && config.upstream.transports.udp && !config.upstream.transports.tcp);
    assert_eq!(config.upstream.allow_addresses.len(), 2);
    assert_eq!(config.call.ring_timeout, Duration::from_secs(5));
    assert_eq!(&*config.apps[0].id, "com.example.other");
    assert_eq!(&*config.sip_servers[1].id, "pbx-2");
    assert!(config.sip_servers[1].domains.allow("any.example"), "unless named");

    let wrong = [
        ("SIPWAKE_CALL__RING_TIMEOUT", "soon"),
        ("SIPWAKE_CALL__RINGTIMEOUT", "5s"),
        ("SIPWAKE_APP__7__ID", "x"),
        ("SIPWAKE_EDGE__LISTEN__DEEPER", "x"),
        ("SIPWAKE____", "x"),
    ];
    let places = places(read_with(&scratch, FULL, &wrong));
    let expected = [
        "SIPWAKE____",
        "SIPWAKE_APP__7__ID",
        "SIPWAKE_EDGE__LISTEN__DEEPER",
        "call.ring_timeout (from SIPWAKE_CALL__RING_TIMEOUT)",
        "call.ringtimeout (from SIPWAKE_CALL__RINGTIMEOUT)",
    ];
    assert_eq!(places, expected);
}

#[test]
fn numbers_and_flags_are_read_from_file_and_environment_and_have_bounds() {
    let scratch = files();
    let with = |line: &str, variables: &[(&str, &str)]| {
        read_with(&scratch, &format!("{SMALL}\n[upstream]\n{line}\n"), variables)
    };
    let servers = with("name_servers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]", &[]).unwrap().upstream.name_servers;
    assert_eq!(servers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.53:53", "[2001:db8::53]:5353"]);
    let config = with("allow_md5 = false\nregistrations_per_second = 50", &[]).unwrap();
    assert_eq!((config.upstream.allow_md5, config.upstream.registrations_per_second), (false, 50));
    let variables = [("SIPWAKE_UPSTREAM__ALLOW_MD5", "true"), ("SIPWAKE_UPSTREAM__REGISTRATIONS_PER_SECOND", "7")];
    let config = with("allow_md5 = false", &variables).unwrap();
    assert_eq!((config.upstream.allow_md5, config.upstream.registrations_per_second), (true, 7));
    for wrong in ["allow_md5 = \"true\"", "allow_md5 = 1"] {
        assert!(problem(with(wrong, &[])).contains("upstream.allow_md5"), "{wrong}");
    }
    for wrong in ["0", "-1", "1000001", "4294967297", "1.5", "\"50\""] {
        let line = format!("registrations_per_second = {wrong}");
        assert!(problem(with(&line, &[])).contains("upstream.registrations_per_second"), "{wrong}");
    }
    let variables = [("SIPWAKE_UPSTREAM__ALLOW_MD5", "maybe")];
    assert!(problem(with("", &variables)).contains("SIPWAKE_UPSTREAM__ALLOW_MD5"));
}

#[test]
fn durations_have_bounds_and_an_order() {
    let with = |extra: &str| read(&format!("{SMALL}\n{extra}"));
    for wrong in [
        "lifetime.max = \"7d\"",
        "lifetime.max = \"144h1m\"",
        "lifetime.min = \"500ms\"",
        "call.ring_timeout = \"0s\"",
        "call.answer_timeout = \"601s\"",
        "call.answer_timeout = \"29s\"",
        "upstream.register_expires = \"1441m\"",
        "call.ring_timeout = 30",
    ] {
        problem(with(wrong));
    }
    assert_eq!(
        places(with("lifetime = { min = \"5d\", default = \"4d\", max = \"3d\" }")),
        ["lifetime.default", "lifetime.max"]
    );
    let short =
        with("lifetime = { min = \"2s\", default = \"90m\", max = \"12h\" }\nupstream.register_expires = \"5s\"")
            .unwrap();
    assert_eq!(short.lifetime.min, Duration::from_secs(2));
    assert_eq!(short.lifetime.max, Duration::from_secs(43_200));
    let cautions: Vec<_> = short.cautions.iter().map(|caution| &*caution.place).collect();
    for place in ["lifetime.min", "upstream.register_expires", "store.url"] {
        assert!(cautions.contains(&place), "{cautions:?}");
    }
}

#[test]
fn two_listeners_never_share_a_port_and_port_zero_is_free_for_all() {
    let with = |extra: &str| read(&format!("{SMALL}\n{extra}"));
    assert_eq!(places(with("api.listen = \"127.0.0.1:5061\"")), ["api.listen"]);
    assert!(with("api.listen = \"127.0.0.1:5070\"").is_ok(), "5070 is for transports that are not enabled");
    assert!(with("api.listen = \"127.0.0.1:9443\"\noperator.listen = \"127.0.0.2:9443\"").is_ok());
    let free = "edge.listen = \"127.0.0.1:0\"\napi.listen = \"127.0.0.1:0\"\noperator.listen = \"127.0.0.1:0\"";
    assert!(with(free).is_ok());
    let public = SMALL.replace("relay1.example.net", "127.0.0.1:0");
    assert_eq!(places(read(&public)), ["edge.public"]);
    assert_eq!(read(&format!("{public}\nedge.listen = \"127.0.0.1:0\"")).unwrap().edge.public.port, 0);
}

#[test]
fn a_key_belongs_to_one_app_and_to_one_sip_server() {
    let twice = r#"
        [[app]]
        id = "one"
        api_key_file = "app-key"
        fcm.service_account_file = "fcm.json"
        [[app]]
        id = "one"
        api_key_file = "app-key"
        fcm.service_account_file = "fcm.json"
        [[sip_server]]
        id = "pbx"
        key_file = "pbx-1"
        [[sip_server]]
        id = "other"
        key_file = "pbx-1"
    "#;
    assert_eq!(
        places(read(&format!("{LEAST}\n{twice}"))),
        ["app[1].id", "app[1].api_key_file", "sip_server[1].key_file"]
    );
}

#[test]
fn a_variable_that_sets_nothing_is_told_and_what_a_cluster_adds_is_not() {
    let scratch = files();
    let with = |name: &str, value: &str| read_with(&scratch, FULL, &[(name, value)]);
    for (name, right) in [
        ("SIPWAKE_EDGE_PUBLIC", "SIPWAKE_EDGE__PUBLIC"),
        ("SIPWAKE_CALL_RING_TIMEOUT", "SIPWAKE_CALL__RING_TIMEOUT"),
        ("SIPWAKE_APP_0_API_KEY_FILE", "SIPWAKE_APP__0__API_KEY_FILE"),
    ] {
        let told = problem(with(name, "secret-value"));
        assert!(told.starts_with(&format!("{name}: sets nothing; write {right},")), "{told}");
        assert!(!told.contains("secret-value"), "{told}");
    }
    for name in ["SIPWAKE_TYPO", "SIPWAKE_", "SIPWAKE_PORT", "SIPWAKE_CALL"] {
        let config = with(name, "1").unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.faults.len(), 1, "{name}");
        assert_eq!(config.faults[0].place, name);
    }
    for (name, value) in [
        ("SIPWAKE_PORT", "tcp://10.0.0.1:5061"),
        ("SIPWAKE_SERVICE_HOST", "10.0.0.1"),
        ("SIPWAKE_SERVICE_PORT", "5061"),
        ("SIPWAKE_SERVICE_PORT_EDGE", "5061"),
        ("SIPWAKE_PORT_5061_TCP", "tcp://10.0.0.1:5061"),
        ("SIPWAKE_PORT_5061_TCP_PROTO", "tcp"),
        ("SIPWAKE_PORT_5061_TCP_ADDR", "10.0.0.1"),
        ("SIPWAKE_REDIS_PORT_6379_TCP_PORT", "6379"),
        ("SIPWAKE_TIMING", "1"),
        ("SIPWAKE_SIM_SEED", "1"),
        ("SIPWAK_TYPO", "1"),
    ] {
        assert!(with(name, value).unwrap().faults.is_empty(), "{name}");
    }
}

#[test]
fn a_problem_names_its_line_and_an_empty_file_is_told_all_that_is_missing() {
    let told = problem(read(&format!("{SMALL}\n[call]\n\nring_timeout = \"soon\"\n")));
    assert!(told.ends_with("(line 9)"), "{told}");
    let told = problem(read(&format!("{SMALL}\n[call]\n\nringtimeout = \"5s\"\n")));
    assert!(told.ends_with("(line 9)"), "{told}");
    let told = problem(read_with(&files(), SMALL, &[("SIPWAKE_CALL__RING_TIMEOUT", "soon")]));
    assert!(!told.contains("line"), "{told}");
    let empty = places(read(""));
    for place in ["edge.public", "operator.token_file", "tls.certificate", "tls.key", "app"] {
        assert!(empty.iter().any(|told| told == place), "{place}: {empty:?}");
    }
    let config = read(LEAST).unwrap();
    assert_eq!(config.faults.iter().map(|fault| &*fault.place).collect::<Vec<_>>(), ["app"]);
}

#[test]
fn a_missing_configuration_file_is_a_problem_with_a_remedy() {
    let told = problem(Config::load(std::path::Path::new("/nowhere/relay.toml")));
    assert!(told.contains("/nowhere/relay.toml: cannot be read") && told.contains("--config"), "{told}");
}

#[test]
fn development_needs_nothing_and_stays_on_loopback() {
    let config = Config::development().unwrap();
    let other = Config::development().unwrap();
    let upstream = &config.upstream;
    for address in [
        config.edge.listen,
        config.api.listen,
        config.operator.listen,
        upstream.udp_listen,
        upstream.tcp_listen,
        upstream.tls_listen,
    ] {
        assert!(address.ip().is_loopback(), "{address}");
    }
    assert_eq!(
        (config.tls, config.store.keyring, config.store.url.expose()),
        (Tls::Development { ca_key: None }, None, "memory:")
    );
    assert!(config.operator.token.expose().len() >= 32 && config.apps[0].api_key.expose().len() >= 32);
    assert!(config.operator.token != other.operator.token, "made on the spot");
}

#[test]
fn the_compositions_configuration_is_right() {
    let scratch = files();
    for directory in ["secrets", "certs"] {
        std::fs::create_dir(scratch.path().join(directory)).unwrap();
    }
    scratch.file("secrets/operator-token", "secret-operator-token");
    scratch.file("secrets/app-key", "secret-app-key-0123");
    scratch.file("secrets/fcm.json", FCM_ACCOUNT);
    scratch.file("certs/relay.pem", "a certificate");
    scratch.file("certs/relay.key", "a key");
    let config = read_with(&scratch, include_str!("../../../docker/relay.toml"), &[]);
    let config = config.unwrap_or_else(|problems| panic!("{problems}"));
    let said: Vec<_> = config.cautions.iter().map(|caution| &*caution.place).collect();
    assert_eq!(said, ["edge.public", "app[0].print_pushes"], "what makes it one for a trial, and nothing else");
    assert_eq!(config.store.keyring, Some("/var/lib/sipwake/keyring".into()));
}

#[test]
fn an_app_is_known_to_apple_by_a_key_or_by_a_certificate_and_not_by_both() {
    use relay::config::ApnsCredentials;
    let scratch = files();
    let pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nx\n";
    scratch.file("push.pem", pem);
    scratch.file("bare.pem", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n");
    let key =
        FULL.lines().filter(|line| ["key_file = \"AuthKey", "key_id"].iter().any(|it| line.trim().starts_with(it)));
    let key: Vec<&str> = key.collect();
    assert_eq!(key.len(), 2, "{key:?}");
    let by_certificate =
        |file: &str| FULL.replace(key[0], &format!("  certificate_file = \"{file}\"")).replace(key[1], "");
    let config = read_with(&scratch, &by_certificate("push.pem"), &[]).unwrap_or_else(|problems| panic!("{problems}"));
    let apns = config.apps[0].apns.as_ref().expect("it is there");
    assert!(matches!(&apns.credentials, ApnsCredentials::Certificate { team_id: Some(_), .. }), "{apns:?}");
    let told = read_with(&scratch, &by_certificate("bare.pem"), &[]).expect_err("no key").to_string();
    assert!(told.contains("app[0].apns.certificate_file") && told.contains("openssl"), "{told}");
    let both = by_certificate("push.pem").replace("  team_id =", &format!("{}\n{}\n  team_id =", key[0], key[1]));
    let told = read_with(&scratch, &both, &[]).expect_err("both").to_string();
    assert!(told.contains("app[0].apns.key_file") && told.contains("not both"), "{told}");
}

#[test]
fn an_app_may_have_web_push_alone_whose_subject_is_one_to_whom_services_can_write() {
    let scratch = files();
    scratch.file("webpush.pem", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n");
    scratch.file("sec1.pem", "-----BEGIN EC PRIVATE KEY-----\nx\n-----END EC PRIVATE KEY-----\n");
    let app = |file: &str, subject: &str| {
        let webpush = format!("webpush = {{ key_file = \"{file}\", subject = \"{subject}\" }}");
        format!("{LEAST}\n[[app]]\nid = \"one\"\napi_key_file = \"app-key\"\n{webpush}")
    };
    for subject in ["mailto:push@example.net", "https://example.net/push"] {
        let config = read_with(&scratch, &app("webpush.pem", subject), &[]).unwrap_or_else(|told| panic!("{told}"));
        let webpush = config.apps[0].webpush.as_ref().expect("it is there");
        assert!(&*webpush.subject == subject && webpush.key_file.ends_with("webpush.pem"), "{webpush:?}");
    }
    for (file, subject, place) in [
        ("webpush.pem", "push@example.net", "app[0].webpush.subject"),
        ("webpush.pem", "mailto:nobody", "app[0].webpush.subject"),
        ("webpush.pem", "", "app[0].webpush.subject"),
        ("sec1.pem", "mailto:push@example.net", "app[0].webpush.key_file"),
        ("absent.pem", "mailto:push@example.net", "app[0].webpush.key_file"),
    ] {
        assert_eq!(places(read_with(&scratch, &app(file, subject), &[])), [place], "{file} {subject}");
    }
}

#[test]
fn the_table_of_settings_names_every_setting() {
    let table = include_str!("../../../relay/src/config/settings.md");
    let mut section = String::new();
    for line in FULL.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix('[') {
            Some(name) => {
                let name = name.trim_matches(['[', ']']);
                section = match name {
                    "app" | "sip_server" => format!("{name}[]"),
                    _ => name.replace("app.", "app[]."),
                };
            }
            None => {
                let key = line.split(' ').next().unwrap();
                let known =
                    table.contains(&format!("`{section}.{key}`")) || (key == "team_id" && table.contains("`team_id`"));
                assert!(known, "{section}.{key}");
            }
        }
    }
}

#[test]
fn a_trial_needs_no_push_service_and_a_name_that_each_machine_has_for_itself_is_said() {
    let files = Scratch::new();
    for name in ["t", "k", "o", "operator-token", "key-1", "key-2"] {
        files.file(name, format!("0123456789abcdef-{name}"));
    }
    let read = |public: &str, listen: &str, apps: &str| {
        let text = format!(
            "[edge]\npublic = \"{public}\"\nlisten = \"{listen}\"\n[operator]\ntoken_file = \"operator-token\"\n\
             [tls]\ncertificate = \"t\"\nkey = \"k\"\n{apps}"
        );
        Config::read(&text, files.path(), [])
    };
    let app = |number: u8, more: &str| {
        format!("[[app]]\nid = \"com.example.{number}\"\napi_key_file = \"key-{number}\"\n{more}\n")
    };
    let trial = app(1, "print_pushes = true");
    let cautions = |config: Config| config.cautions.iter().map(|caution| caution.place.to_string()).collect::<Vec<_>>();
    let places = |public, listen| cautions(read(public, listen, &trial).expect("a configuration for a trial"));
    let has = |places: &[String], place: &str| places.iter().any(|known| known == place);
    for (public, listen, is_said) in [
        ("localhost", "0.0.0.0:5061", true),
        ("127.0.0.1:5061", "0.0.0.0:5061", true),
        ("[::1]:5061", "[::]:5061", true),
        ("localhost", "127.0.0.1:5061", false),
        ("relay1.example.net", "0.0.0.0:5061", false),
    ] {
        let places = places(public, listen);
        assert_eq!(has(&places, "edge.public"), is_said, "{public} at {listen}: {places:?}");
        assert!(has(&places, "app[0].print_pushes"), "{places:?}");
    }
    let fcm = "[app.fcm]\nservice_account_file = \"o\"";
    for (apps, place) in [
        (app(1, ""), "app[0].apns"),
        (app(1, &format!("print_pushes = true\n{fcm}")), "app[0].print_pushes"),
        (trial.clone() + &app(2, fcm), "app[1].print_pushes"),
    ] {
        let problems = read("relay1.example.net", "0.0.0.0:5061", &apps).expect_err("a problem");
        assert!(problems.iter().any(|problem| problem.place == place), "{problems}");
    }
}

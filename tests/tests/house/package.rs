//! What the relay is packaged with: the unit is as closed as it can be, and the files agree with each other.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use relay::config::Config;
use tests::scratch::Scratch;

fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../relay/package")
}

fn file(name: &str) -> String {
    let path = package().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The most that systemd may find against the unit, of 10.
const EXPOSURE_MAX: f64 = 2.0;

#[test]
fn systemd_finds_little_against_the_unit() {
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).current_dir(package()).output();
        let output = output.expect("systemd-analyze is missing: sudo apt-get install -y systemd");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told = analyze(&["security", "--offline=true", "--no-pager", "./sipwake.service"]);
    let line = told.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{told}"));
    let exposure = line.rsplit(": ").next().and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(exposure.is_some_and(|exposure| exposure <= EXPOSURE_MAX), "{line}");
    // The binary is not at its place here; everything else must be right.
    let told = analyze(&["verify", "--man=no", "./sipwake.service", "./sipwake.socket"]);
    let wrong: Vec<_> =
        told.lines().filter(|line| line.contains("sipwake") && !line.contains("/usr/bin/sipwake")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sockets_that_are_held_are_the_addresses_of_a_configuration_that_names_none() {
    let held: BTreeSet<String> = file("sipwake.socket")
        .lines()
        .filter_map(|line| line.strip_prefix("ListenStream="))
        .map(str::to_owned)
        .collect();
    let config = example("");
    let upstream = config.upstream.transports.tls.then_some(config.upstream.tls_listen);
    let served = [Some(config.edge.listen), Some(config.api.listen), upstream];
    // A port alone is of all addresses of both families, and serves whichever of them a setting names.
    assert_eq!(held, served.iter().flatten().map(|address| address.port().to_string()).collect());
    assert!(file("sipwake.socket").contains("\nBindIPv6Only=both\n"), "whatever the system's own choice is");
}

#[test]
fn the_unit_never_gives_up_to_start_what_may_come_about_a_minute_later() {
    let unit = file("sipwake.service");
    for line in ["StartLimitIntervalSec=0", "Restart=on-failure", "RestartSec=5"] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
}

#[test]
fn the_packaged_configuration_is_right_and_its_secrets_are_those_that_are_made_and_handed_over() {
    let config = example("");
    let cautions: Vec<_> = config.cautions.iter().map(|caution| &*caution.place).collect();
    assert_eq!(cautions, ["app[0].print_pushes"], "what makes it one for a trial");
    let (unit, made) = (file("sipwake.service"), file("debian/postinst"));
    for name in ["operator-token", "app-key"] {
        assert!(file("relay.toml").contains(&format!("\"secrets/{name}\"")), "{name}");
        assert!(
            unit.contains(&format!("LoadCredential={name}:/etc/sipwake/secrets/{name}\n")),
            "{name} is handed over"
        );
        assert!(made.contains(name), "{name} is made");
    }
    // What a service manager hands over goes before the file, which the relay's user cannot read.
    let handed_over = Scratch::new();
    handed_over.file("operator-token", "handed-over-0123456789");
    let config = example(&handed_over.path().display().to_string());
    assert_eq!(config.operator.token.expose(), "handed-over-0123456789");
}

/// The example with its files, as it is installed; `credentials`: where those are that a service manager hands over.
fn example(credentials: &str) -> Config {
    let scratch = Scratch::new();
    for folder in ["secrets", "certs"] {
        fs::create_dir(scratch.path().join(folder)).expect("a folder");
    }
    for name in ["secrets/operator-token", "secrets/app-key", "certs/relay.pem", "certs/relay.key"] {
        scratch.file(name, format!("0123456789-0123456789 {name}"));
    }
    let environment = [("CREDENTIALS_DIRECTORY".to_owned(), credentials.to_owned())];
    let read = Config::read(&file("relay.toml"), scratch.path(), environment);
    read.unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_package_is_for_each_c_library_that_its_binary_runs_with_and_lies_where_systemd_is_looked_for() {
    let scratch = Scratch::new();
    let program =
        "#!/bin/sh\n# GLIBC_2.34 GLIBC_2.9 GLIBC_2.4 GLIBC_PRIVATE\n[ \"$1\" = --version ] && echo sipwake 1.2.3\n";
    let binary = scratch.file("sipwake", program);
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("a program");
    let made = Command::new(package().join("deb")).arg(&binary).arg(scratch.path()).output().expect("a package");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let told = |question: &str| {
        let mut ask = Command::new("dpkg-deb");
        ask.arg(question).arg(String::from_utf8_lossy(&made.stdout).trim());
        String::from_utf8_lossy(&ask.output().expect("dpkg-deb").stdout).into_owned()
    };
    let fields = told("--field");
    assert!(fields.contains("\nDepends: libc6 (>= 2.34), "), "{fields}");
    let files = told("--contents");
    assert!(files.contains(" ./usr/lib/systemd/system/sipwake.service\n") && !files.contains(" ./lib/"), "{files}");
}

/// The digest in a name of an image.
fn digest(name: &str) -> Option<&str> {
    let digest = name.split_whitespace().next()?.split_once("@sha256:")?.1;
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(digest)
}

#[test]
fn composition_and_image_publish_what_peers_need_and_hold_no_password_that_everybody_knows() {
    let docker = |name: &str| fs::read_to_string(package().join("../../docker").join(name)).expect("a file");
    let (compose, image) = (docker("compose.yaml"), docker("Dockerfile"));
    for port in ["5061:5061", "5071:5071", "8443:8443", "127.0.0.1:9443:9443"] {
        assert!(compose.contains(&format!("\"{port}\"")), "{port} is not published");
    }
    assert!(compose.contains("GF_SECURITY_ADMIN_PASSWORD__FILE") && !compose.contains("PASSWORD: admin"));
    let services = compose.matches("\n    image: ").count() + compose.matches("\n    build: ").count();
    for limit in ["mem_limit", "pids_limit", "no-new-privileges", "cap_drop: [ALL]"] {
        assert_eq!(compose.matches(limit).count(), services, "{limit} of each service");
    }
    let values = |limit: &str| -> Vec<String> {
        let lines = compose.lines().filter_map(|line| line.trim().strip_prefix(limit)?.strip_prefix(": "));
        lines.map(|value| value.split_whitespace().next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values("memswap_limit"), values("mem_limit"), "what holds secrets is not swapped");
    let unit = fs::read_to_string(package().join("sipwake.service")).expect("the unit");
    assert!(unit.contains("\nMemorySwapMax=0\n"), "nor does the unit let it be");
    let manifests = fs::read_to_string(package().join("kubernetes/relay.yaml")).expect("a file");
    let names = [&compose, &image, &manifests].into_iter().flat_map(|file| file.lines()).map(str::trim);
    let names: Vec<&str> =
        names.filter_map(|line| line.strip_prefix("image: ").or_else(|| line.strip_prefix("FROM "))).collect();
    let fetched = names.into_iter().filter(|name| *name != "scratch" && !name.starts_with("sipwake:"));
    let fetched: Vec<(&str, Option<&str>)> = fetched.map(|name| (name, digest(name))).collect();
    assert!(
        fetched.len() >= 6 && fetched.iter().all(|(_, digest)| digest.is_some()),
        "what is fetched by a tag alone: {fetched:#?}"
    );
    let last = image.rsplit("\nFROM ").next().unwrap_or_default();
    assert!(last.starts_with("scratch\n") && last.contains("USER 10001") && last.contains("HEALTHCHECK"), "{last}");
    assert!(last.contains("\"check\", \"--live\""), "{last}");
}

//! Secrets in the configuration: from which files they come, which are refused, and that none is told.

use super::*;

#[test]
fn no_debug_and_no_error_shows_a_secret() {
    let config = read(FULL).unwrap();
    let shown = format!("{config:?} {config:#?}");
    for secret in ["secret-operator", "secret-app", "secret-pbx", "secret-store", "secret-fcm", "c2VjcmV0"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let scratch = files();
    scratch.file("fcm.json", r#"{"private_key": "secret-fcm""#);
    let text =
        FULL.replace("redis://:secret-store", "reddis://:secret-store").replace("[store]", "[store]\nsecret = 1");
    let told = read_with(&scratch, &text, &[]).unwrap_err().to_string();
    assert!(!told.contains("secret-"), "{told}");
    let told = read("[store]\nurl = \"redis://:secret-store@x").unwrap_err().to_string();
    assert!(told.starts_with("line 2: is not TOML") && !told.contains("secret-"), "{told}");
}

#[test]
fn an_empty_or_short_key_is_refused_and_a_trailing_line_break_is_no_part_of_it() {
    for (content, says) in [("", "is empty"), ("\n", "is empty"), ("fifteen-charac.\n", "shorter than 16")] {
        let scratch = files();
        scratch.file("operator-token", content);
        let told = problem(read_with(&scratch, SMALL, &[]));
        assert!(told.starts_with("operator.token_file: ") && told.contains(says), "{told}");
        assert!(!told.contains("fifteen"), "{told}");
    }
    let scratch = files();
    scratch.file("operator-token", [0xff; 32]);
    assert!(problem(read_with(&scratch, SMALL, &[])).contains("is not text"));
    scratch.file("operator-token", vec![b'a'; 300_000]);
    assert!(problem(read_with(&scratch, SMALL, &[])).contains("larger than"));
}

#[test]
fn a_key_that_nobody_can_show_is_refused() {
    let scratch = files();
    for (key, why) in [
        ("k".repeat(513), "longer than 512"),
        ("0123456789abcd\u{e9}f".to_owned(), "visible ASCII"),
        ("0123456789abcdef\nsecond-line-0123".to_owned(), "several lines"),
        ("0123456789abcdef\t0".to_owned(), "visible ASCII"),
        (" 0123456789abcdef".to_owned(), "space"),
    ] {
        std::fs::write(scratch.path().join("app-key"), &key).expect("written");
        let said = problem(read_with(&scratch, FULL, &[]));
        assert!(said.starts_with("app[0].api_key_file: ") && said.contains(why), "{said}");
        assert!(!said.contains(&key[..8]), "{said}");
    }
    std::fs::write(scratch.path().join("app-key"), "k".repeat(512) + "\r\n").expect("written");
    assert!(read_with(&scratch, FULL, &[]).is_ok());
}

#[test]
fn a_key_in_the_place_of_its_file_is_not_repeated_and_a_path_is() {
    const KEY: &str = "hunter2-0123456789/abcdef+secret=";
    let scratch = files();
    let in_file = read_with(&scratch, &FULL.replace("\"app-key\"", &format!("{KEY:?}")), &[]);
    let variable = read_with(&scratch, FULL, &[("SIPWAKE_APP__0__API_KEY_FILE", KEY)]);
    let other = read_with(&scratch, &FULL.replace("\"AuthKey.p8\"", &format!("{APNS_KEY:?}")), &[]);
    for (read, place) in [
        (in_file, "app[0].api_key_file: "),
        (variable, "app[0].api_key_file (from SIPWAKE_APP__0__API_KEY_FILE): "),
        (other, "app[0].apns.key_file: "),
    ] {
        let said = problem(read);
        assert!(said.starts_with(place) && said.contains("names no file"), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("abcdef") && !said.contains("PRIVATE"), "{said}");
    }
    std::fs::create_dir(scratch.path().join("secrets")).expect("made");
    for path in ["app-kye", "secrets/the-key-of-the-app", "../there-is-no-such-key", "/tmp/there-is-no-such-key"] {
        let said = problem(read_with(&scratch, &FULL.replace("\"app-key\"", &format!("{path:?}")), &[]));
        assert!(said.contains(path), "{said}");
    }
}

#[test]
fn a_secret_is_a_regular_file_and_a_pipe_is_not_waited_for() {
    let scratch = files();
    let pipe = scratch.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    for setting in ["\"app-key\"", "\"AuthKey.p8\"", "\"relay.key\""] {
        for file in [pipe.to_str().expect("text"), "/dev/zero", "."] {
            let said = problem(read_with(&scratch, &FULL.replace(setting, &format!("{file:?}")), &[]));
            assert!(said.contains("no regular file"), "{setting}: {said}");
        }
    }
}

#[test]
fn one_file_holds_one_secret_and_one_key_opens_one_kind_of_door() {
    let scratch = files();
    scratch.file("copy", "secret-operator-token");
    scratch.file("other-app", "secret-of-the-other-app");
    let one = |extra: &str| problem(read_with(&scratch, &format!("{LEAST}\n{extra}"), &[]));
    let app = |file: &str| {
        format!("[[app]]\nid = \"one\"\napi_key_file = \"{file}\"\nfcm.service_account_file = \"fcm.json\"")
    };
    for file in ["operator-token", "copy"] {
        assert!(one(&app(file)).starts_with("app[0].api_key_file: holds the operator's token; "), "{file}");
    }
    let server = |file: &str| format!("{}\n[[sip_server]]\nid = \"pbx\"\nkey_file = \"{file}\"", app("app-key"));
    assert!(one(&server("copy")).starts_with("sip_server[0].key_file: holds the operator's token"));
    assert!(one(&server("app-key")).starts_with("sip_server[0].key_file: holds the key of the app \"one\""));
    let told = one(&app("fcm.json"));
    assert!(told.starts_with("app[0].fcm.service_account_file: is the file of app[0].api_key_file, too"), "{told}");
    scratch.file("relay.key", "a key that is long enough");
    std::os::unix::fs::symlink(scratch.path().join("relay.key"), scratch.path().join("link")).unwrap();
    let told = one(&app("link"));
    assert!(told.starts_with("app[0].api_key_file: is the file of tls.key, too"), "{told}");
    // What a service gave for several apps may be named by each.
    let both = format!("{}\n{}", app("app-key"), app("other-app").replace("\"one\"", "\"two\""));
    assert!(read_with(&scratch, &format!("{LEAST}\n{both}"), &[]).is_ok());
}

#[test]
fn a_secret_that_others_can_read_is_said_at_start_up() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = files();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(scratch.path().join("operator-token"), open).unwrap();
    let config = read_with(&scratch, FULL, &[]).unwrap();
    assert_eq!(config.cautions.len(), 1);
    assert_eq!(config.cautions[0].place, "operator.token_file");
}

#[test]
fn a_password_of_the_store_in_a_file_that_everybody_can_read_is_said_and_not_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = files();
    let cautions = |text: &str, mode: u32| {
        let file = scratch.file("relay.toml", text);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let config = Config::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        let told = config.cautions.iter().map(ToString::to_string).filter(|told| told.contains("a password"));
        told.collect::<Vec<_>>()
    };
    let told = cautions(FULL, 0o644);
    assert!(told.len() == 1 && told[0].starts_with("store.url: ") && told[0].contains("chmod 640"), "{told:?}");
    assert!(told[0].contains("(line ") && !told[0].contains("secret-"), "{told:?}");
    assert!(cautions(FULL, 0o640).is_empty());
    for (url, holds) in
        [("redis://relay:secret@localhost/", true), ("redis://relay@localhost/", false), ("redis://localhost/", false)]
    {
        let text = FULL.replace("redis://:secret-store@localhost/", url);
        assert_eq!(!cautions(&text, 0o644).is_empty(), holds, "{url}");
    }
}

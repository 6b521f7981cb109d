//! Digest against the examples of its RFCs, and against hostile peers.

use super::*;

const ALL: &[Hash] = &[Hash::Md5, Hash::Sha256, Hash::Sha512_256];
const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

fn mufasa<'a>() -> DigestResponse<'a> {
    DigestResponse {
        username: "Mufasa",
        method: "GET",
        uri: "/dir/index.html",
        cnonce: CNONCE,
        nc: 1,
        body: b"v=0\r\n",
    }
}

/// Answers a challenge of RFC 7616's example realm, and gives the whole value.
fn answered(parameters: &str) -> String {
    let value = format!("Digest realm=\"http-auth@example.org\", nonce=\"{NONCE}\", {parameters}");
    let challenge = Challenge::parse(&value).unwrap();
    let ha1 = Ha1::compute(challenge.algorithm.hash, "Mufasa", "http-auth@example.org", "Circle of Life");
    let written = challenge.answer(&ha1, &mufasa()).unwrap();
    let credentials = Credentials::parse(&written).unwrap();
    assert!(credentials.verify(&ha1, "GET", b"v=0\r\n"), "{written}");
    assert!(!credentials.verify(&ha1, "POST", b"v=0\r\n"), "{written}");
    written
}

fn response(written: &str) -> String {
    Credentials::parse(written).unwrap().response.into()
}

#[test]
fn the_examples_of_rfc_7616_section_3_9_1_give_the_responses_printed_there() {
    let opaque = "opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\"";
    let md5 = answered(&format!("qop=\"auth, auth-int\", algorithm=MD5, {opaque}"));
    assert_eq!(response(&md5), "8ca523f5e9506fed4657c9700eebdbec");
    let sha = answered(&format!("qop=\"auth, auth-int\", algorithm=SHA-256, {opaque}"));
    assert_eq!(response(&sha), "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    assert_eq!(
        sha,
        format!(
            "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", nonce=\"{NONCE}\", uri=\"/dir/index.html\", \
             response=\"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1\", algorithm=SHA-256, \
             cnonce=\"{CNONCE}\", qop=auth, nc=00000001, {opaque}"
        )
    );
}

/// The RFC prints what SHA-512 cut short would give; erratum 4897 gives what SHA-512/256 gives.
#[test]
fn the_example_of_rfc_7616_section_3_9_2_gives_the_values_of_erratum_4897() {
    let challenge = Challenge::parse(
        "Digest realm=\"api@example.org\", qop=\"auth\", algorithm=SHA-512-256, \
         nonce=\"5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK\", \
         opaque=\"HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS\", charset=UTF-8, userhash=true",
    )
    .unwrap();
    assert!(challenge.userhash);
    let username = "J\u{e4}s\u{f8}n Doe";
    let ha1 = Ha1::compute(Hash::Sha512_256, username, "api@example.org", "Secret, or not?");
    let written = challenge
        .answer(
            &ha1,
            &DigestResponse {
                username,
                method: "GET",
                uri: "/doe.json",
                cnonce: "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
                nc: 1,
                body: b"",
            },
        )
        .unwrap();
    assert_eq!(response(&written), "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5");
    assert!(written.contains("username=\"793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b\""));
    assert!(written.ends_with(", userhash=true"));
}

#[test]
fn the_example_of_rfc_2617_section_3_5_gives_the_response_printed_there() {
    let challenge = Challenge::parse(
        "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", \
         opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
    )
    .unwrap();
    let ha1 = Ha1::compute(Hash::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
    assert_eq!(ha1.expose(), "939e7578ed9e3c518a452acee763bce9");
    let answer = DigestResponse { cnonce: "0a4f113b", ..mufasa() };
    let written = challenge.answer(&ha1, &answer).unwrap();
    assert_eq!(response(&written), "6629fae49393a05397450978507c4ef1");
    assert!(!written.contains("algorithm"), "what the peer did not name is not sent to it");
}

/// RFC 2069's example with the response of its erratum: the one printed was computed with another password.
#[test]
fn a_challenge_without_qop_is_answered_in_the_form_of_rfc_2069() {
    let challenge = Challenge::parse(
        "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", \
         opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"",
    )
    .unwrap();
    let ha1 = Ha1::compute(Hash::Md5, "Mufasa", "testrealm@host.com", "CircleOfLife");
    let written = challenge.answer(&ha1, &mufasa()).unwrap();
    assert_eq!(response(&written), "1949323746fe6a43ef61f9606e7febea");
    assert!(!written.contains("cnonce") && !written.contains("qop") && !written.contains("nc="));
}

/// The values were computed with another implementation of the hashes.
#[test]
fn sessions_and_protected_bodies_are_computed_with_each_hash() {
    let rows = [
        ("MD5-sess", "qop=auth", "e783283f46242139c486a698fec7211d"),
        ("md5-SESS", "stale=FALSE", "37a7f42db2090a3fcac4e26e747d4fc8"),
        ("MD5", "qop=\"auth-int\"", "d1b8e2ac3f6782372de4bf3d8735b406"),
        ("SHA-256-sess", "qop=auth", "2fd51b3a77ad75bad6afad6003e818d767133c46d9e2749e7f5232ae1ea3efd7"),
        ("SHA-256-sess", "x=y", "30bc0742357e535c85094121d22cf826b794be0667e19537beb7b28f2251c274"),
        ("sha-256", "qop=auth-int", "385d2de062660ced11876f42d9497c69cacf5caaf3d951dd424aee9f7157d563"),
        ("SHA-512-256-sess", "qop=auth", "3f2a34f923c38b0fb26dce2fdfc2ce326c23cecf86fbb1444f3e51fbbc2cb92e"),
        ("SHA-512-256-sess", "qop=\"\"", "7c70dbd9f483cbccedbd3e92ac246a9f2b712bed77914b52c3ae2254fdb2edba"),
        ("SHA-512-256", "qop=auth-int", "5e69357dfa951887c95e88aae45b1f7f834aeba94f85648b86d532e82afdb589"),
        ("SHA-512-256", "qop=\" , \"", "93e9122020ea0624d2ca801426d5bfbeb93d10ff4cc24cb410af3920fa4730e7"),
    ];
    for (algorithm, rest, expected) in rows {
        let written = answered(&format!("algorithm={algorithm}, {rest}"));
        assert_eq!(response(&written), expected, "{algorithm} {rest}");
        assert!(written.contains(&format!("algorithm={algorithm}")), "the peer's own spelling is sent back");
    }
}

#[test]
fn a_body_changed_on_the_way_fails_auth_int_alone() {
    let ha1 = Ha1::compute(Hash::Md5, "Mufasa", "http-auth@example.org", "Circle of Life");
    let whole = Credentials::parse(&answered("qop=auth-int")).unwrap();
    assert!(!whole.verify(&ha1, "GET", b"v=1\r\n"));
    let head = Credentials::parse(&answered("qop=auth")).unwrap();
    assert!(head.verify(&ha1, "GET", b"v=1\r\n"));
}

#[test]
fn of_several_challenges_the_topmost_supported_is_taken() {
    let values = [
        "Bearer realm=\"example.com\"",
        "Digest realm=\"example.com\", nonce=\"a\", algorithm=SHA3-512",
        "Digest realm=\"example.com\", nonce=\"b\", qop=\"future\", algorithm=SHA-256",
        "Digest realm=\"example.com\", nonce=\"c\", qop=\"auth\", algorithm=SHA-256",
        "Digest realm=\"example.com\", nonce=\"d\", qop=\"auth\", algorithm=MD5",
    ];
    let taken = |allowed: &[Hash]| Challenge::topmost_supported(values.into_iter(), allowed).map(|c| c.nonce);
    assert_eq!(taken(ALL).as_deref(), Some("c"));
    assert_eq!(taken(&[Hash::Md5]).as_deref(), Some("d"), "an account that has only an MD5 HA1");
    assert_eq!(taken(&[Hash::Sha512_256]), None);
    let md5_alone = ["Digest realm=\"example.com\", nonce=\"d\""];
    assert_eq!(Challenge::topmost_supported(md5_alone.into_iter(), &[Hash::Sha256]), None, "MD5 refused");
    let beyond = std::iter::repeat_n(values[0], CHALLENGES).chain([values[3]]);
    assert_eq!(Challenge::topmost_supported(beyond, ALL), None, "only so many are looked at");
    assert!(Challenge::topmost_supported(std::iter::repeat_n(values[3], 100), ALL).is_some());
}

#[test]
fn several_challenges_in_one_line_are_taken_apart_where_a_scheme_begins() {
    let line = "Digest realm=\"a, Digest b=\\\"c\", nonce = n1 ,algorithm=MD5,\r\n Bearer realm=\"x\", NTLM, \
                Digest nonce=\"n2\" , realm=a, algorithm=SHA-256";
    let taken: Vec<_> = Challenge::all_supported([line].into_iter(), ALL).into_iter().map(|it| it.nonce).collect();
    assert_eq!(taken, ["n1".into(), "n2".into()]);
}

#[test]
fn a_next_nonce_is_taken_only_when_it_is_one() {
    let mut challenge = Challenge::parse("Digest realm=\"a\", nonce=\"n1\"").unwrap();
    for none in ["", "qop=auth", "nextnonce=", "nextnonce=\"\"", "nextnonce=\"open", "nextnonce=a, nextnonce=b"] {
        assert!(!challenge.follow(none), "{none}");
    }
    assert!(!challenge.follow(&format!("nextnonce=\"{}\"", "n".repeat(NONCE_BYTES + 1))));
    assert_eq!(&*challenge.nonce, "n1");
    assert!(challenge.follow("rspauth=\"0\" , nextnonce=\"n 2\""));
    assert_eq!(&*challenge.nonce, "n 2");
}

#[test]
fn challenges_are_read_however_they_are_spaced_and_quoted() {
    for value in [
        "Digest realm=\"a b\",nonce=\"n\",qop=\"auth\",stale=true",
        " digest\r\n  realm = \"a b\" ,\r\n\tNONCE = n , qop = auth,  STALE = \"TRUE\"",
        "DIGEST ,, realm=\"a\r\n b\", , x-new=\"1, 2\", nonce=\"n\", qop=\"auth\", stale=True,",
        "Digest realm=\"a\\ b\", domain=\"/\", nonce=\"n\", qop=\"auth,token\", stale=true, Basic realm=\"c\"",
    ] {
        let challenge = Challenge::parse(value).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!((&*challenge.realm, &*challenge.nonce), ("a b", "n"), "{value}");
        assert_eq!((challenge.qop, challenge.stale), (Qop::Auth, true), "{value}");
        assert_eq!(challenge.algorithm, Algorithm { hash: Hash::Md5, session: false });
    }
}

#[test]
fn a_hostile_registrar_gets_an_error_and_nothing_else() {
    let long = |n: usize| "9".repeat(n);
    let nonce = |n: usize| format!("Digest realm=\"r\", nonce=\"{}\"", long(n));
    let many = |n: usize| {
        format!("Digest realm=\"r\", nonce=\"n\"{}", (2..n).map(|i| format!(", p{i}=v")).collect::<String>())
    };
    assert!(Challenge::parse(&nonce(NONCE_BYTES)).is_ok());
    assert!(Challenge::parse(&many(PARAMS)).is_ok());
    let rows = [
        (nonce(NONCE_BYTES + 1), ChallengeError::TooLong),
        (nonce(64 * 1024), ChallengeError::TooLong),
        (format!("Digest nonce=\"n\", realm=\"{}\"", long(REALM_BYTES + 1)), ChallengeError::TooLong),
        (format!("Digest nonce=\"n\", realm=\"r\", opaque=\"{}\"", long(OPAQUE_BYTES + 1)), ChallengeError::TooLong),
        (many(PARAMS + 1), ChallengeError::TooLong),
        ("Digest realm=\"r\", nonce=\"n".into(), ChallengeError::Broken),
        ("Digest realm=\"r\", nonce=\"n\\\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\" nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\", nonce=\"n\"x".into(), ChallengeError::Broken),
        ("Digest realm=\"r\", nonce=n\"x".into(), ChallengeError::Broken),
        ("Digest realm=\"r\"".into(), ChallengeError::Broken),
        ("Digest nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\", nonce=\"n\", nonce=\"m\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\u{0}\", nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\u{b}\", nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\r\nX: y\", nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\n x\", nonce=\"n\"".into(), ChallengeError::Broken),
        ("Digest realm=\"r\", nonce=\"n\", algorithm=SHA-1".into(), ChallengeError::UnknownAlgorithm),
        ("Digest realm=\"r\", nonce=\"n\", algorithm=\"\"".into(), ChallengeError::UnknownAlgorithm),
        ("Digest".into(), ChallengeError::NotDigest),
        ("Digestrealm=\"r\", nonce=\"n\"".into(), ChallengeError::NotDigest),
        ("Basic realm=\"r\"".into(), ChallengeError::NotDigest),
        (String::new(), ChallengeError::NotDigest),
        ("é".into(), ChallengeError::NotDigest),
    ];
    for (value, expected) in rows {
        let shown: String = value.chars().take(60).collect();
        assert_eq!(Challenge::parse(&value).err(), Some(expected), "{shown:?}");
    }
}

#[test]
fn what_stands_in_quotes_is_escaped_on_the_way_back() {
    let challenge = Challenge::parse("Digest realm=\"a \\\"b\\\\ c\", nonce=\"n\\\"\", qop=auth, opaque=\"\"").unwrap();
    assert_eq!(&*challenge.realm, "a \"b\\ c");
    let ha1 = Ha1::compute(Hash::Md5, "al\"ice\\", &challenge.realm, "pass");
    let written = challenge.answer(&ha1, &DigestResponse { username: "al\"ice\\", ..mufasa() }).unwrap();
    assert!(
        written.starts_with("Digest username=\"al\\\"ice\\\\\", realm=\"a \\\"b\\\\ c\", nonce=\"n\\\"\""),
        "{written}"
    );
    assert!(written.ends_with("opaque=\"\""), "an empty opaque is sent back too");
    let credentials = Credentials::parse(&written).unwrap();
    assert_eq!(&*credentials.username, "al\"ice\\");
    assert!(credentials.verify(&ha1, "GET", b""));
}

#[test]
fn a_tab_in_what_the_peer_sent_is_sent_back() {
    let challenge = Challenge::parse("Digest realm=\"a\tb\", nonce=\"n\tm\", qop=auth").unwrap();
    let ha1 = Ha1::compute(Hash::Md5, "alice", &challenge.realm, "pass");
    let credentials = Credentials::parse(&challenge.answer(&ha1, &mufasa()).unwrap()).unwrap();
    assert_eq!((&*credentials.realm, &*credentials.nonce), ("a\tb", "n\tm"));
    assert!(credentials.verify(&ha1, "GET", b""));
}

#[test]
fn an_answer_that_does_not_fit_is_an_error() {
    let challenge = Challenge::parse("Digest realm=\"r\", nonce=\"n\", algorithm=SHA-256, qop=auth").unwrap();
    let sha = Ha1::compute(Hash::Sha256, "u", "r", "p");
    let md5 = Ha1::compute(Hash::Md5, "u", "r", "p");
    assert_eq!(challenge.answer(&md5, &mufasa()), Err(DigestResponseError::OtherHash));
    for bad in [
        DigestResponse { username: "a\r\nX: y", ..mufasa() },
        DigestResponse { username: "", ..mufasa() },
        DigestResponse { uri: "sip:a\u{0}", ..mufasa() },
        DigestResponse { cnonce: "", ..mufasa() },
        DigestResponse { uri: &"u".repeat(URI_BYTES + 1), ..mufasa() },
    ] {
        assert_eq!(challenge.answer(&sha, &bad), Err(DigestResponseError::BadPart));
    }
    let unknown = Challenge { qop: Qop::Unknown, ..challenge };
    assert_eq!(unknown.answer(&sha, &mufasa()), Err(DigestResponseError::UnknownQop));
}

#[test]
fn what_the_edge_offers_can_be_answered_and_verified() {
    for hash in ALL {
        let value = challenge_value("sip\"wake", "bm9uY2U=", *hash, *hash == Hash::Md5);
        let challenge = Challenge::parse(&value).unwrap();
        assert_eq!((&*challenge.realm, challenge.qop, challenge.stale), ("sip\"wake", Qop::Auth, *hash == Hash::Md5));
        let ha1 = Ha1::compute(*hash, "pi_1", "sip\"wake", "secret");
        let answer =
            DigestResponse { username: "pi_1", method: "REGISTER", uri: "sip:edge", cnonce: "c", nc: 0xabc, body: b"" };
        let credentials = Credentials::parse(&challenge.answer(&ha1, &answer).unwrap()).unwrap();
        assert_eq!((credentials.nc, credentials.qop), (Some(0xabc), Some(Protection::Auth)));
        assert!(credentials.verify(&ha1, "REGISTER", b""));
        assert!(!credentials.verify(&Ha1::compute(*hash, "pi_1", "sip\"wake", "other"), "REGISTER", b""));
        let other = if *hash == Hash::Sha256 { Hash::Md5 } else { Hash::Sha256 };
        assert!(!credentials.verify(&Ha1::compute(other, "pi_1", "sip\"wake", "secret"), "REGISTER", b""));
    }
    assert_eq!(
        challenge_value("a\r\nb", "n", Hash::Md5, false),
        "Digest realm=\"ab\", nonce=\"n\", algorithm=MD5, qop=\"auth\""
    );
}

#[test]
fn broken_credentials_are_no_credentials() {
    let good = answered("qop=auth");
    for (from, to) in [
        ("Digest ", "Basic "),
        ("nc=00000001", "nc=1"),
        ("nc=00000001", "nc=0000000g"),
        ("nc=00000001", "nc=+0000001"),
        (", nc=00000001", ""),
        ("qop=auth", "qop=auth-conf"),
        ("qop=auth", "qop=\"auth,auth-int\""),
        ("cnonce=", "other="),
        ("username=", "user="),
        ("response=\"", "response=\"0"),
        ("response=\"8", "response=\"x"),
        ("uri=\"", "uri=\"a\", uri=\""),
        ("realm=\"", "realm=\"\u{1}"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        assert_eq!(Credentials::parse(&bad), None, "{bad}");
    }
    let upper = good.replace("8ca523f5e9506fed4657c9700eebdbec", "8CA523F5E9506FED4657C9700EEBDBEC");
    assert!(Credentials::parse(&upper).is_some());
}

#[test]
fn nothing_secret_shows_in_debug() {
    let ha1 = Ha1::compute(Hash::Md5, "u", "r", "p");
    assert_eq!(format!("{ha1:?}"), "Ha1(MD5, [redacted])");
    let credentials = Credentials::parse(&answered("qop=auth")).unwrap();
    let shown = format!("{credentials:?} {:?}", mufasa());
    for hidden in ["Mufasa", "8ca523f5", NONCE, CNONCE, "example.org"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn an_ha1_is_taken_only_as_the_right_number_of_hexadecimal_digits() {
    let computed = Ha1::compute(Hash::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
    assert_eq!(Ha1::from_hex(Hash::Md5, "939E7578ED9E3C518A452ACEE763BCE9"), Some(computed.clone()));
    assert_eq!(Ha1::from_hex(Hash::Sha256, computed.expose()), None);
    assert_eq!(Ha1::from_hex(Hash::Md5, "939e7578ed9e3c518a452acee763bceg"), None);
    assert_eq!(Ha1::from_hex(Hash::Md5, ""), None);
}

#[test]
fn bearer_tokens_are_read_by_their_grammar() {
    assert_eq!(bearer("Bearer  abc-._~+/09=="), Some("abc-._~+/09=="));
    for value in ["Bearer", "Bearer ", "Bearer a b", "Bearer a\"b", "Digest a", "Bearer \u{e9}"] {
        assert_eq!(bearer(value), None, "{value}");
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_value_makes_reading_panic(value in "(Digest )?[ -~\\r\\n\\t\u{0}é\"\\\\,=]{0,80}") {
            let _ = Challenge::parse(&value);
            let _ = Challenge::all_supported([&*value].into_iter(), ALL);
            let _ = Credentials::parse(&value);
            let _ = bearer(&value);
        }

        #[test]
        fn any_account_and_challenge_verify_and_stay_one_line(
            username in "[^\\x00-\\x1f\\x7f-\\x9f]{1,40}", realm in "[^\\x00-\\x1f\\x7f-\\x9f]{0,40}",
            password in "\\PC{0,40}", nonce in "[ -~]{0,60}", qop in 0..4, session: bool, hash in 0..3usize,
        ) {
            let algorithm = Algorithm { hash: ALL[hash], session };
            let offered = challenge_value(&realm, &nonce, algorithm, false);
            let offered = match qop {
                0 => offered.replace(", qop=\"auth\"", ""),
                1 => offered.replace("qop=\"auth\"", "qop=\"auth-int\""),
                _ => offered,
            };
            let challenge = Challenge::parse(&offered).unwrap();
            prop_assert_eq!((&*challenge.realm, &*challenge.nonce), (&*realm, &*nonce));
            let ha1 = Ha1::compute(algorithm.hash, &username, &realm, &password);
            let answer = DigestResponse { username: &username, uri: "sip:example.com", method: "REGISTER", ..mufasa() };
            let written = challenge.answer(&ha1, &answer).unwrap();
            prop_assert!(!written.contains(|c: char| c.is_ascii_control()));
            let credentials = Credentials::parse(&written).unwrap();
            prop_assert_eq!(&*credentials.username, &*username);
            prop_assert!(credentials.verify(&ha1, "REGISTER", b"v=0\r\n"));
            prop_assert!(!credentials.verify(&ha1, "BYE", b"v=0\r\n"));
        }
    }
}

#[test]
fn every_user_name_of_credentials_is_found_whatever_they_look_like() {
    for (value, names) in [
        (&b"Digest username=\"alice\", realm=\"r\""[..], &["alice"][..]),
        (b"Digest realm=\"r\",username = alice,uri=\"x\"", &["alice"]),
        (b"Digest USERNAME=\r\n \"al\\ice\"", &["alice"]),
        (b"Digest username=\"decoy\", x=\"\xff\", username=\"alice\"", &["decoy", "alice"]),
        (b"Digest username=\"decoy\", nonce=n, Digest username=\"alice\"", &["decoy", "alice"]),
        (b"Digest username*=UTF-8''%61lice, username=\"x\"", &["%61lice", "x"]),
        (b"Digest username=\"alice@example.com", &["alice@example.com"]),
        (b"Digest username=\"a\\\"b\"", &["a\"b"]),
        (b"Digest nousername=\"x\", realm=\"r\"", &[]),
        (b"Basic YWxpY2U6c2VjcmV0", &["alice"]),
        (b"basic  YWxpY2U6MQ== ", &["alice"]),
        (b"Basic ?", &[]),
        (b"Digest username=\"v\xedctim\"", &["víctim"]),
        (b"Digest username=\"v\xc3\xadctim\"", &["víctim"]),
        (b"Digest username=\"\x9am\xeed\"", &["šmîd"]),
        (b"Basic duljdGltOnNlY3JldA==", &["v\u{e9}ctim"]),
        (b"Bearer username", &[]),
        (b"", &[]),
    ] {
        let found: Vec<_> = usernames([value].into_iter(), 4).unwrap().into_iter().map(String::from).collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        assert_eq!(found, names, "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn no_user_name_is_read_behind_one_too_many_or_too_long() {
    let long = "x".repeat(USERNAME_BYTES);
    let found = |values: &[&str]| usernames(values.iter().map(|value| value.as_bytes()), 4).map(|names| names.len());
    for name in [long.clone(), format!("\"{long}\""), format!("\"{}\"", "\\x".repeat(USERNAME_BYTES))] {
        assert_eq!(found(&[&format!("Digest username={name}, realm=r")]), Some(1), "at the limit");
        assert_eq!(found(&[&format!("Digest username={}", name.replacen('x', "xx", 1))]), None, "beyond it");
    }
    assert_eq!(found(&[&"username=a,".repeat(1_300)]), Some(1), "each once");
    assert_eq!(found(&["username=a,username=b", "username=c,username=d,username=A"]), None);
    let once = std::cell::Cell::new(0);
    let nested = "username=".repeat(1_600);
    let values = std::iter::repeat_n(nested.as_bytes(), 9).inspect(|_| once.set(once.get() + 1));
    assert_eq!((usernames(values, 4), once.get()), (None, 1));
}

//! Digest against the examples of its RFCs, and against hostile peers.

use super::*;

const ALL: &[Hash] = &[Hash::Md5, Hash::Sha256, Hash::Sha512_256];
const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
const CNONCE: &str = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ";

fn mufasa<'a>() -> Answer<'a> {
    Answer { username: "Mufasa", method: "GET", uri: "/dir/index.html", cnonce: CNONCE, nc: 1, body: b"v=0\r\n" }
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
         nonce=\"5TsQLWVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK\", \
         opaque=\"HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS\", charset=UTF-8, userhash=true",
    )
    .unwrap();
    assert!(challenge.userhash);
    let username = "J\u{e4}s\u{f8}n Doe";
    let ha1 = Ha1::compute(Hash::Sha512_256, username, "api@example.org", "Secret, or not?");
    let written = challenge
        .answer(
            &ha1,
            &Answer {
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
    let answer = Answer { cnonce: "0a4f113b", ..mufasa() };
    let written = challenge.answer(&ha1, &answer).unwrap();
    assert_eq!(response(&written), "6629fae49393a05397450978507c4ef1");
    assert!(!written.contains("algorithm"), "what the peer did not name is not sent to it");
}

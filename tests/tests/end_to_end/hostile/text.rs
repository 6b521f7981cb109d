//! Names and addresses of callers that would like to be something else: in the push, in the log, in the headers.

use serde_json::{Value, json};
use sip::message::Name;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::world::{Outcome, SOON, World, google};

/// Callers that are legal SIP and awkward elsewhere.
fn awkward() -> Vec<String> {
    let long = "n".repeat(9_000);
    let emoji = "\u{1f469}\u{200d}\u{1f467}".repeat(2_000);
    let quotes = "\\\"".repeat(4_000);
    [
        "\"%0d%0aX-Injected: yes\" <sip:x%0d%0aX-Injected:%20yes@example.test>",
        "\"a\\\\\\\"},\\\"aps\\\":{\\\"alert\\\":\\\"b\" <sip:bob@example.test>",
        "\"</script><script>alert(1)</script>\" <sip:bob@example.test>",
        "\"$(reboot) `id` ; -- ' OR 1=1\" <sip:bob@example.test>",
        "\"\u{202e}moc.knab\u{202c}\u{200b}\u{feff}\" <sip:bob@example.test>",
        "\"a\tb\" <sip:bob@example.test>",
        "\"\u{85}\u{9b}31m\u{2028}\u{2029}\" <sip:bob@example.test>",
        "\"\\\u{1b}[31m\\\u{7}\\\u{0b}\" <sip:bob@example.test>",
        "\"Bob\"\r\n <sip:bob@example.test>",
        "\"\" <sip:bob@example.test>",
        "Zo\u{eb} <sip:zo%C3%AB%00%FF@example.test>",
        "<tel:+1900;phone-context=%0d%0a>",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        format!("\"{long}\" <sip:bob@example.test>"),
        format!("\"{emoji}\" <sip:bob@example.test>"),
        format!("\"{quotes}\" <sip:bob@example.test>"),
        format!("<sip:{}@example.test>", "u".repeat(9_000)),
    ])
    .collect()
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Object(map) => map.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn is_bad(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Rings; gives the call to the device and ends it. The push object, and the From that the device saw.
async fn ring(world: &World, lent: &Instance, from: &str) -> Result<Option<(Value, String)>, Missed> {
    let caller = world.call_to(&lent.aor, &CallOptions::default().from(from))?;
    if caller.leg().any_response(&caller.first(), SOON).await? >= 300 {
        return Ok(None);
    }
    let object = if lent.fcm {
        world.android_push().await?
    } else {
        let payload = world.apple_push().await?.payload;
        let keys: Vec<_> = payload.as_object().unwrap().keys().cloned().collect();
        assert_eq!((keys, &payload["aps"]), (vec!["aps".to_owned(), "sipwake".to_owned()], &json!({})), "{from}");
        payload["sipwake"].clone()
    };
    assert_eq!(object["instance"], lent.id.as_str());
    let (phone, call) = world.wake_to_call(lent).await?;
    let seen = String::from_utf8_lossy(call.invite().values(Name::From).next().unwrap_or_default()).into_owned();
    assert!(!String::from_utf8_lossy(call.invite().head()).contains("\nX-Injected"), "{from}");
    call.decline(603);
    let last = caller.final_response(SOON).await?;
    phone.unregister(SOON).await?;
    assert_eq!(phone.violations(), Vec::<String>::new(), "{from}");
    if lent.fcm {
        // Where what the device said was too long to be passed on, nobody knows that its user declined; the two pushes are sent at once.
        let events = if last.status() == Some(500) { &["missed-call", "call-ended"][..] } else { &["call-ended"] };
        world.android_pushes(events).await?;
    }
    Ok(Some((object, seen)))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_caller_is_called_stays_text_in_the_push_and_in_the_headers() -> Outcome {
    let world = World::attacked().await?;
    let apns = world.lend("mallory").await?;
    let fcm =
        world.enable_as(&world.enable_request_of("trent", json!({"call_push": google("fcm-token-of-trent")}))).await?;
    let mut rung = 0;
    // Half of them on each, for a device is called only so often in a burst.
    for (number, from) in awkward().iter().enumerate() {
        let is_fcm = number % 2 == 1;
        let Some((object, seen)) = ring(&world, if is_fcm { &fcm } else { &apns }, from).await? else {
            continue;
        };
        rung += 1;
        assert_eq!(object["event"], "call", "{from}");
        for text in strings(&object) {
            assert!(!text.contains(is_bad), "{from}: {text:?}");
        }
        let size = object.to_string().len();
        assert!(size <= if is_fcm { 4_096 } else { 5_120 }, "{from}: {size} bytes");
        let unfolded = from.replace("\r\n ", " ");
        let intact = seen.replace("\r\n ", " ");
        assert!(intact.starts_with(&unfolded), "the device sees the caller as he wrote himself: {seen}");
    }
    assert!(rung >= 12, "{rung} of them rang");
    assert_eq!((world.apns.violations(), world.fcm.violations()), (Vec::new(), Vec::new()));
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_awkward_names_writes_no_header_of_its_own() -> Outcome {
    let world = World::attacked().await?;
    for (user, aor) in [
        ("x\"y\\z", "sip:a%22b@example.test"),
        ("x,y=z;q", "sip:a%0d%0aX-Injected%3a%20yes@example.test"),
        ("zo\u{eb}", "sip:a;b=c&d@example.test"),
        ("%0d%0aX-Injected: yes", "sip:a%00b@example.test"),
    ] {
        let mut request = world.enable_request_anew("mallory");
        request["account"]["auth_username"] = json!(user);
        request["account"]["aor"] = json!(aor);
        let answer = world.api.enable(&request).await?;
        assert!(matches!(answer.status, 422), "{aor}: {}", answer.text());
        let seen = world.registrar.registers(aor);
        assert!(!seen.is_empty(), "{aor}: the registrar was asked");
        for register in seen {
            let head = String::from_utf8_lossy(register.request.head()).into_owned();
            assert!(!head.contains("\nX-Injected"), "{head}");
            assert_eq!(register.request.to().unwrap().target(), Some(aor));
        }
    }
    assert_eq!(world.registrar.violations(), Vec::<String>::new());
    world.unharmed().await
}

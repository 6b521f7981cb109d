//! `sipwake trace` and `POST …/trace`: the SIP of one instance, as its user or an operator sees it.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::push_phone::Service;
use tests::registrar::Behaviour;
use tests::scratch::Scratch;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World};

use super::{said, sipwake};

type Outcome = tests::world::Outcome;

/// What must stand in no trace.
fn assert_scrubbed(file: &[u8], secrets: &[&str]) {
    let text = String::from_utf8_lossy(file);
    for secret in secrets {
        assert!(!text.contains(secret), "{secret} stands in the trace");
    }
    for header in ["Authorization:", "a=rtpmap", "o=-", "nonce="] {
        assert!(!text.contains(header), "{header} stands in the trace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_records_a_call_of_its_own_and_nobody_elses() -> Outcome {
    let world = World::among(&[("bob", "builder")], |_| {}).await?;
    let instance = world.enable().await?;
    let path = format!("/v1/instances/{}/trace", instance.id);
    let ask = async |method: &str, body: Option<&serde_json::Value>| {
        world.api.json(method, &path, Some(&instance.secret), body).await.map_err(Missed::from)
    };
    assert_eq!(ask("GET", None).await?.problem().as_deref(), Some("no-trace"));
    let begun = ask("POST", Some(&json!({"for_s": 60}))).await?;
    assert_eq!(begun.status, 202, "{}", begun.text());

    let ringing = world.answered(&instance).await?;
    world.hang_up(&ringing.caller, &ringing.call).await?;
    let file = ask("GET", None).await?;
    assert_eq!(file.status, 200);
    let text = String::from_utf8_lossy(&file.body).into_owned();
    for line in [
        "INVITE sip:",
        "REGISTER sip:",
        "SIP/2.0 401 ",
        "SIP/2.0 180 ",
        "SIP/2.0 200 ",
        "ACK sip:",
        "BYE sip:",
        "m=audio",
    ] {
        assert!(text.contains(line), "{line} is absent");
    }
    assert!(text.contains("from the SIP server") && text.contains("to the device"), "both sides");
    assert_scrubbed(&file.body, &[TOKEN, &instance.secret, "alice@", "bob@", "wonderland"]);

    assert_eq!(ask("DELETE", None).await?.status, 204);
    assert_eq!(ask("GET", None).await?.problem().as_deref(), Some("no-trace"));
    let timeline = world.api.of("GET", &instance, "/timeline").await?;
    let steps: Vec<_> = timeline.json()["steps"].as_array().cloned().unwrap_or_default();
    assert!(steps.iter().any(|step| step["step"] == "trace-begun" && step["by"] == "device"), "{steps:?}");
    assert!(steps.iter().any(|step| step["step"] == "trace-ended"), "{steps:?}");

    // It erases itself.
    assert_eq!(ask("POST", Some(&json!({"for_s": 1}))).await?.status, 202);
    world
        .until("a trace that is gone", || async {
            (ask("GET", None).await.ok()?.problem().as_deref() == Some("no-trace")).then_some(())
        })
        .await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_whose_password_is_not_judged_yet_records_no_call_of_the_account() -> Outcome {
    let (world, alice) = World::lent().await?;
    world.registrar.behave(&world.aor(), Behaviour::Silence);
    let mut request = world.enable_request(OTHER_TOKEN);
    request["account"]["password"] = "a guess".into();
    let answer = world.api.enable(&request).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    let stranger = Instance::new(&request, answer.json());
    let path = format!("/v1/instances/{}/trace", stranger.id);
    let begun = world.api.json("POST", &path, Some(&stranger.secret), Some(&json!({"for_s": 60}))).await?;
    assert_eq!(begun.status, 202, "{}", begun.text());
    let ringing = world.answered(&alice).await?;
    world.hang_up(&ringing.caller, &ringing.call).await?;
    let file = world.api.of("GET", &stranger, "/trace").await?;
    assert_eq!(file.status, 200);
    let text = String::from_utf8_lossy(&file.body);
    for of_the_call in ["INVITE", "SIP/2.0 180", "m=audio"] {
        assert!(!text.contains(of_the_call), "{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_records_an_instance_into_a_file_and_its_user_sees_that() -> Outcome {
    let (world, instance) = World::lent().await?;
    let files = Scratch::new();
    let token = files.file("token", &world.relay.setup().operator_token).display().to_string();
    let (url, ca) =
        (format!("https://{}", world.relay.operator_address()), world.authority.ca_file().display().to_string());
    let (output, id) = (files.path().join("trace.pcapng").display().to_string(), instance.id.clone());
    let written = output.clone();
    let command = tokio::task::spawn_blocking(move || {
        let at = ["--operator", &url, "--token-file", &token, "--ca", &ca];
        sipwake(&[&["trace", &id, "--for", "6s", "--output", &output][..], &at].concat())
    });
    let steps = || async { Some(world.api.of("GET", &instance, "/timeline").await.ok()?.json()["steps"].to_string()) };
    let begun = || async { steps().await.filter(|steps| steps.contains("trace-begun") && steps.contains("operator")) };
    world.until("a step that tells of the operator's trace", begun).await?;
    let (caller, _) = world.call_and_push().await?;
    world.cancel(&caller).await?;
    let ended = command.await.map_err(|_| Missed::new("the command", ""))?;
    assert_eq!(ended.status.code(), Some(0), "{}", said(&ended));
    let mode = std::fs::metadata(&written)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it tells who has called whom");
    let file = std::fs::read(&written)?;
    let text = String::from_utf8_lossy(&file);
    assert!(
        file.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) && text.contains("INVITE sip:") && text.contains("CANCEL sip:")
    );
    assert_scrubbed(&file, &[TOKEN, &instance.secret, "alice@", "bob@"]);
    let over = || async { steps().await.filter(|steps| steps.contains("trace-ended")) };
    world.until("a step that tells of its end", over).await?;
    assert!(world.relay.log().contains("is being recorded"), "the log says so");
    world.content()
}

/// Its phone wakes by another connection, and calls out.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_records_all_of_a_phone_that_registers_through_the_edge() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let id = phone.register_and_sleep(SOON).await?.purr.ok_or_else(|| Missed::new("its id", ""))?;
    world.await_all_asleep().await?;
    let path = format!("/v1/operator/instances/{id}/trace");
    let (operator, token) = (world.relay.operator(), world.relay.setup().operator_token.clone());
    let begun = operator.json("POST", &path, Some(&token), Some(&json!({"for_s": 60}))).await?;
    assert_eq!(begun.status, 202, "{}", begun.text());

    let caller = world.call()?;
    world.android_push().await?;
    let (device, call) = world.wake_to_call(&phone).await?;
    call.ring();
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(device.request("MESSAGE", "sip:carol@example.test", SOON).await?.status(), Some(404));

    let file = operator.json("GET", &path, Some(&token), None).await?;
    let text = String::from_utf8_lossy(&file.body).into_owned();
    for (line, times) in [("REGISTER sip:", 2), ("INVITE sip:", 2), ("BYE sip:", 2), ("MESSAGE sip:", 2)] {
        // From the one side, and to the other.
        assert!(text.matches(line).count() >= times, "{line}: {text}");
    }
    for part in ["from the SIP server", "to the SIP server", "from the device", "to the device", "SIP/2.0 404 "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_scrubbed(&file.body, &[FCM_TOKEN, "alice@", "bob@", "wonderland"]);

    // It takes its registration back, as a stack does at its start, and comes again by another connection.
    phone.clone().expires(0).try_to_register(SOON).await?;
    world.await_metric("sipwake_push_registrations", 0.0).await?;
    let read = async || operator.json("GET", &path, Some(&token), None).await;
    let registers = |body: &[u8]| String::from_utf8_lossy(body).matches("REGISTER sip:").count();
    let gone = read().await?;
    assert_eq!(gone.status, 200, "{}", gone.text());
    let again = phone.register_and_sleep(SOON).await?;
    assert_eq!(again.purr.as_ref(), Some(&id));
    // With a proof and without, from the device and to its server.
    assert!(registers(&read().await?.body) >= registers(&gone.body) + 4, "{}", read().await?.text());
    let wipe = format!("/v1/operator/instances/{id}/wipe");
    assert_eq!(operator.json("POST", &wipe, Some(&token), None).await?.status, 200);
    assert_eq!(read().await?.status, 404, "gone with it");
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_that_somebody_else_ends_is_told_as_that() -> Outcome {
    let (world, instance) = World::lent().await?;
    let files = Scratch::new();
    let output = files.path().join("trace.pcapng");
    let (written, config, id) = (output.display().to_string(), world.relay.config().to_owned(), instance.id.clone());
    let command = tokio::task::spawn_blocking(move || {
        let config = config.display().to_string();
        sipwake(&["trace", &id, "--for", "10m", "--output", &written, "--config", &config])
    });
    world.until("a file", || async { output.exists().then_some(()) }).await?;
    let path = format!("/v1/instances/{}/trace", instance.id);
    assert_eq!(world.api.json("DELETE", &path, Some(&instance.secret), None).await?.status, 204);
    let ended = command.await.map_err(|_| Missed::new("the command", ""))?;
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    let told = said(&ended);
    assert!(told.contains("the recording ended before its time") && told.contains("the file has what"), "{told}");
    assert!(!told.contains("POST"), "{told}");
    assert!(std::fs::read(&output)?.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]));
    world.content()
}

/// A trace of one device shows nothing of another one of the same account beside what concerns both.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_the_flow_of_its_own_device_alone() -> Outcome {
    let world = World::start().await?;
    let (one, two) = (world.enable().await?, world.enable_android().await?);
    let path = format!("/v1/instances/{}/trace", one.id);
    assert_eq!(world.api.json("POST", &path, Some(&one.secret), Some(&json!({}))).await?.status, 202);
    let other = world.wake(&two).await?;
    other.ping(SOON).await?;
    let (caller, call) = world.answered_at(&other).await?;
    world.hang_up(&caller, &call).await?;
    let file = world.api.of("GET", &one, "/trace").await?;
    let text = String::from_utf8_lossy(&file.body).into_owned();
    assert!(text.contains("INVITE sip:") && !text.contains("the device"), "{text}");
    assert!(!text.contains(&two.id));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recorded_of_an_account_that_is_being_wiped() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable().await?;
    let disabling = world.disable_unanswered(&instance).await?;
    let path = format!("/v1/operator/instances/{}/trace", instance.id);
    let (operator, token) = (world.relay.operator(), world.relay.setup().operator_token.clone());
    let begun = operator.json("POST", &path, Some(&token), Some(&json!({"for_s": 60}))).await?;
    assert_eq!(begun.status, 404, "{}", begun.text());
    let path = format!("/v1/instances/{}/trace", instance.id);
    let begun = world.api.json("POST", &path, Some(&instance.secret), Some(&json!({"for_s": 60}))).await?;
    assert_eq!(begun.status, 404, "{}", begun.text());
    let receipt = disabling.await.map_err(|error| Missed::new("a receipt", error.to_string()))??;
    assert_eq!(receipt.status, 200);
    assert!(!world.relay.log().contains("trace-begun"));
    Ok(())
}

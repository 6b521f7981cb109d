//! Calls as traces for a collector of OpenTelemetry, where an operator names one.

use serde_json::Value;
use tests::authority::Authority;
use tests::caller::CallOptions;
use tests::collector::Collector;
use tests::world::{Outcome, World, text};

/// The spans of everything that was posted, by name.
fn spans(collector: &Collector) -> Vec<Value> {
    let posted = collector.posted();
    let of = |body: &Value| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
    posted.iter().flat_map(|post| of(&post.body)).collect()
}

async fn over(collector: &Collector, world: World) -> Outcome {
    let alice = world.enable().await?;
    let caller = world.call_with(&CallOptions::default().from("<sip:+4930123456@example.test>"))?;
    let id = text(&world.push().await?["call"]);
    let (phone, call) = world.wake_to_call(&alice).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    drop(phone);
    let told = world.until("a trace", || async { Some(spans(collector)).filter(|spans| !spans.is_empty()) }).await?;
    let names: Vec<_> = told.iter().map(|span| text(&span["name"])).collect();
    assert_eq!(names, ["call", "push", "wake", "ring", "talk"], "{told:?}");
    assert!(told[0]["attributes"].to_string().contains(&id), "{}", told[0]);
    assert!(told.iter().all(|span| span["traceId"] == told[0]["traceId"]));
    let posted = collector.posted();
    assert!(posted[0].head.starts_with("post /v1/traces "), "{}", posted[0].head);
    assert!(posted[0].head.contains("authorization: bearer the-collectors-token"), "{}", posted[0].head);
    let all = posted[0].body.to_string();
    // An id may hold three letters by chance.
    for secret in ["30123", "+49", "bob@", ":bob", "\"bob", "alice", &alice.secret, tests::world::TOKEN] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    world.await_metric("sipwake_traces_total{outcome=\"sent\"}", 1.0).await?;

    // One that refuses loses its traces, and keeps nobody waiting.
    collector.answer_with(400);
    let missed = world.call()?;
    world.push().await?;
    world.cancel(&missed).await?;
    world.await_metric("sipwake_traces_total{outcome=\"lost\"}", 1.0).await?;
    assert_eq!(world.relay.log().matches("traces-not-taken").count(), 1);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_traced_to_a_collector_by_tls_and_without_it_on_the_same_machine() -> Outcome {
    let authority = Authority::new();
    for collector in [Collector::start(Some(&authority)).await, Collector::start(None).await] {
        let endpoint = collector.endpoint();
        let token = authority.write("collector-token", "the-collectors-token");
        let ca = authority.ca_file();
        let world = World::with(|setup| {
            setup.further = format!("[otlp]\nendpoint = {endpoint:?}\nca_file = {ca:?}\ntoken_file = {token:?}\n");
        });
        over(&collector, world.await?).await?;
    }
    Ok(())
}

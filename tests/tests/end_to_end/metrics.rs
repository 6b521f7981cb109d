//! What is counted moves with what it counts. Which test moves which family, `tests/tests/house/metrics.rs` tells.

use std::net::{IpAddr, Ipv4Addr};

use tests::apns::Answer;
use tests::raw::Raw;
use tests::world::{Outcome, SOON, TOKEN, World};
use tokio::task::JoinSet;

/// All series of a scrape that begin so, added up.
async fn sum(world: &World, begin: &str) -> f64 {
    let Ok(scrape) = world.relay.operator().get("/metrics").await else { return f64::NAN };
    let text = scrape.text();
    let values = text.lines().filter(|line| line.starts_with(begin)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}

async fn grows(world: &World, begin: &str, before: f64) -> Outcome {
    world.until(&format!("{begin} over {before}"), || async { (sum(world, begin).await > before).then_some(()) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_family_moves_with_what_it_counts() -> Outcome {
    let world = World::start().await?;
    let home = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let still = [
        "sipwake_registrations_total{outcome=\"registered\"}",
        "sipwake_push_retries_total{provider=\"apns\"}",
        "sipwake_call_pushes_unsent_total",
        "sipwake_push_duration_seconds_count",
        "sipwake_invite_to_push_seconds_count",
        "sipwake_wake_seconds_count",
        "sipwake_missed_calls_total{outcome=\"kept\"}",
        "sipwake_sip_refused_total{reason=\"malformed\"}",
        "sipwake_edge_registers_total{outcome=\"attached\"}",
        "sipwake_tls_handshakes_total{listener=\"edge\",outcome=\"failed\"}",
        "sipwake_push_service_last_accepted_seconds",
        "sipwake_invites_total{outcome=\"answered\"}",
        "sipwake_pushes_total{provider=\"apns\",outcome=\"accepted\"}",
    ];
    for series in still {
        assert_eq!(sum(&world, series).await, 0.0, "{series} before anything has happened");
    }
    // Those that stand from the start on.
    let there = [
        "sipwake_ready",
        "sipwake_build_info",
        "sipwake_certificate_expiry_seconds",
        "sipwake_certificate_lifetime_seconds",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
    ];
    for series in there {
        grows(&world, series, 0.0).await?;
    }
    let (cpu, answered) =
        (sum(&world, "process_cpu_seconds_total").await, sum(&world, "sipwake_http_duration_seconds_count").await);

    let alice = world.enable().await?;
    let phone = {
        let caller = world.call()?;
        world.push().await?;
        let (phone, call) = world.wake_to_call(&alice).await?;
        // Who asks is connected to the operators' listener, and the phone to the edge.
        for listener in ["operator", "edge"] {
            grows(&world, &format!("sipwake_connections{{listener=\"{listener}\"}}"), 0.0).await?;
        }
        grows(&world, "sipwake_edge_flows", 0.0).await?;
        world.answer(&caller, &call).await?;
        world.hang_up(&caller, &call).await?;
        phone
    };
    drop(phone);
    world.await_all_asleep().await?;
    let given_up = world.call()?;
    world.push().await?;
    world.cancel(&given_up).await?;

    // A push that is taken at the second time, and one whose call ends while its service rests.
    world.apns.answer_with(TOKEN, [Answer::ServerError]);
    let again = world.call()?;
    world.push().await?;
    again.expect(180, SOON).await?;
    world.cancel(&again).await?;
    world.apns.answer_with(TOKEN, vec![Answer::Unavailable { retry_after: Some(20) }; 8]);
    let waits = world.call()?;
    grows(&world, "sipwake_push_service_waiting", 0.0).await?;
    // Nothing of this one has left yet.
    let unsent = world.call()?;
    grows(&world, "sipwake_push_service_waiting", 1.0).await?;
    for call in [&waits, &unsent] {
        world.cancel(call).await?;
    }

    let mut garbage = Raw::tls(home, world.relay.edge_address(), &world.authority, &[]).await?;
    garbage.send("REGISTER\r\n\r\n").await;
    let mut plain = Raw::tcp(home, world.relay.edge_address()).await?;
    plain.send("REGISTER sip:example.test SIP/2.0\r\n\r\n").await;
    for series in still {
        grows(&world, series, 0.0).await?;
    }
    grows(&world, "sipwake_http_duration_seconds_count", answered).await?;
    grows(&world, "process_cpu_seconds_total", cpu).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_answers_is_timed_and_one_that_does_not_is_counted_by_what_it_was_asked() -> Outcome {
    let (world, redis, _alice) = World::lent_on_redis().await?;
    grows(&world, "sipwake_store_duration_seconds_count", 0.0).await?;
    redis.freeze();
    grows(&world, "sipwake_store_errors_total{operation=\"lease\"}", 0.0).await?;
    redis.thaw();
    world.await_metric("sipwake_store_up", 1.0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_that_are_registered_read_five_hundred() -> Outcome {
    const LENT: usize = 500;
    let users: Vec<(String, String)> = (0..LENT).map(|n| (format!("user{n}"), format!("password-{n}"))).collect();
    let named: Vec<(&str, &str)> = users.iter().map(|(user, password)| (user.as_str(), password.as_str())).collect();
    let world = World::among(&named, |setup| setup.log = "info".to_owned()).await?;
    let mut waiting = users.iter().map(|(user, _)| world.enable_request_anew(user));
    let mut asked = JoinSet::new();
    let mut enabled = 0;
    loop {
        while asked.len() < 16
            && let Some(request) = waiting.next()
        {
            let api = world.relay.api();
            asked.spawn(async move { api.enable(&request).await.map(|answer| answer.status) });
        }
        match asked.join_next().await {
            Some(status) => enabled += usize::from(matches!(status, Ok(Ok(201 | 202)))),
            None => break,
        }
    }
    assert_eq!(enabled, LENT);
    world.await_metric("sipwake_instances{state=\"registered\"}", LENT as f64).await?;
    assert_eq!(sum(&world, "sipwake_registrations_total{outcome=\"registered\"}").await, LENT as f64);
    assert_eq!(sum(&world, "sipwake_http_requests_total{route=\"/v1/instances\"").await, LENT as f64);
    Ok(())
}

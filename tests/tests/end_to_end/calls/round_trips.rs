//! How often a phone that was woken waits for the relay before it has its call: over a way of 50 ms in each direction.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tests::long_way::LongWay;
use tests::raw::Raw;
use tests::world::{SOON, World};
use tests::{api_client::Instance, board::Missed};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::Outcome;

const ONE_WAY: Duration = Duration::from_millis(50);
/// Calls of which the fastest counts, at most: the others have waited for the machine.
const CALLS: usize = 20;

/// The round trips from the push to the INVITE, for a phone that `comes`; it is asked no more once there were only `few`.
async fn round_trips(few: u128, comes: impl AsyncFn(&World, &Instance, &LongWay) -> Outcome) -> Result<u128, Missed> {
    let (world, alice) = World::lent().await?;
    let edge = alice.edge.trim_start_matches("sip:").split(';').next().and_then(|edge| edge.parse().ok());
    let edge = edge.ok_or_else(|| Missed::new("the edge's address", &alice.edge))?;
    let way = LongWay::to(edge, ONE_WAY).await.map_err(|error| Missed::new("a way", error.to_string()))?;
    let mut fewest = u128::MAX;
    for _ in 0..CALLS {
        let caller = world.call()?;
        world.push_for(&alice).await?;
        let woken = Instant::now();
        comes(&world, &alice, &way).await?;
        fewest = fewest.min(way.round_trips(woken.elapsed()));
        if fewest <= few {
            break;
        }
        world.cancel(&caller).await?;
        world.await_all_asleep().await?;
        // One call a second is what a device's budget gives.
        world
            .until("a budget for the next push", || async { (woken.elapsed() > Duration::from_secs(1)).then_some(()) })
            .await?;
    }
    Ok(fewest)
}

#[tokio::test]
async fn a_woken_phone_has_its_call_after_three_round_trips_with_a_bearer_token() -> Outcome {
    let bearer = async |world: &World, alice: &Instance, way: &LongWay| {
        let missed = |error: std::io::Error| Missed::new("the phone's connection", error.to_string());
        let tcp = TcpStream::connect(way.address()).await.map_err(missed)?;
        let local = tcp.local_addr().map_err(missed)?;
        let tls = TlsConnector::from(world.authority.client_config(&[]));
        let stream = tls.connect(ServerName::from(way.address().ip()), tcp).await.map_err(missed)?;
        let mut phone = Raw::over(stream);
        let Instance { id, secret, .. } = alice;
        let tag = tests::digest::token();
        let register = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS {local};branch=z9hG4bK{tag};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{id}@relay.test>;tag={tag}\r\nTo: <sip:{id}@relay.test>\r\nCall-ID: {tag}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:{id}@{local};transport=tls>\r\nExpires: 300\r\nAuthorization: Bearer {secret}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        phone.send(register).await;
        if phone.await_text("INVITE sip:", SOON).await { Ok(()) } else { Err(Missed::new("an INVITE", phone.seen())) }
    };
    // TCP, TLS 1.3, and the REGISTER with the INVITE behind its 200.
    assert_eq!(round_trips(3, bearer).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_woken_phone_that_is_challenged_has_its_call_after_four_round_trips() -> Outcome {
    let digest = async |world: &World, alice: &Instance, way: &LongWay| {
        let far = Instance { edge: format!("sip:{};transport=tls", way.address()), ..alice.clone() };
        let (phone, _call) = world.wake_to_call(&far).await?;
        phone.drop_connection();
        Ok(())
    };
    assert_eq!(round_trips(4, digest).await?, 4);
    Ok(())
}

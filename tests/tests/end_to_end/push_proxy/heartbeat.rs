//! A page in a browser by its connection alone, behind something that forgets it.

use std::time::Duration;

use tests::gate::Gate;
use tests::push_phone::PushPhone;
use tests::world::{Outcome, SOON, World};

/// Nobody calls, and nobody pushes: the relay asks by itself (RFC 6455 §5.5.2).
#[tokio::test]
async fn a_page_whose_connection_is_dead_is_known_to_be_gone_before_anybody_calls() -> Outcome {
    let world = World::with(|setup| {
        setup.timing = 0.1;
        setup.environment.push(("SIPWAKE_EDGE__FLOW_DOMAINS".to_owned(), "*".to_owned()));
    })
    .await?;
    let mut way = Gate::closed(world.relay.websocket_address());
    way.open_slow(Duration::from_millis(1)).expect("a way");
    let edge = format!("sip:{};transport=ws", world.relay.websocket_address());
    let (user, registrar) =
        (("alice", &*world.registrar.password("alice").expect("a user")), world.registrar.uri(world.transport));
    let mut page = PushPhone::new(&edge, &registrar, &world.aor(), user, &world.authority);
    page.settings.way = Some(way.address());
    let (_page, _) = page.wake(SOON).await?;
    world.await_metric("sipwake_edge_flows", 1.0).await?;
    // What the relay writes does not arrive from now on, and no end is told.
    way.slow_down(Duration::from_secs(3_600));
    world.await_all_asleep().await?;
    world.await_metric("sipwake_flow_registrations", 0.0).await?;
    world.content()
}

//! Two nodes and a Kamailio that forks to every Contact it has: an account moves from one node to the other, by a crash or by a
//! farewell, and leaves no Contact behind.

use tests::kamailio::Manner;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

plays! { a_killed_nodes_contact_is_gone_with_the_first_register_of_the_next:
    fn the_next_node_takes_a_killed_ones_contact_away_over_tls(Plan::over(Transport::Tls));
    fn the_next_node_takes_a_killed_ones_contact_away_over_udp(Plan::over(Transport::Udp));
    fn a_server_that_goes_by_uris_forgets_a_killed_nodes_contact_over_tls(by_uri(Transport::Tls));
    fn a_server_that_goes_by_uris_forgets_a_killed_nodes_contact_over_udp(by_uri(Transport::Udp));
    fn the_next_node_takes_a_killed_ones_place_where_one_contact_is_allowed(Plan { max_contacts: 1, ..by_uri(Transport::Tls) });
}

/// A Kamailio that tells Contacts apart by their URIs alone.
fn by_uri(transport: Transport) -> Plan {
    Plan { manner: Manner::ByUri, ..Plan::over(transport) }
}

async fn a_killed_nodes_contact_is_gone_with_the_first_register_of_the_next(plan: Plan) -> Outcome {
    let (mut world, instance) = World::real_and_lent(Plan { redis: true, ..plan }).await?;
    let other = world.another_node().await?;
    let earlier = world.location().await?.remove(0);
    assert_eq!(earlier.instance.is_none(), world.registrar.plan.manner == Manner::ByUri, "{earlier:?}");
    world.relay.kill_9().await?;
    world.await_moved(&earlier).await?;

    let moved = world.go_on_with(other, &instance);
    world.a_call_is_answered(&moved).await?;
    assert_eq!(world.pushes(), 1);
    world.farewell(&moved).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_answers_its_last_call_while_the_next_one_has_the_account_already() -> Outcome {
    let (mut world, instance) = World::real_and_lent(Plan { redis: true, ..Plan::over(Transport::Tls) }).await?;
    let other = world.another_node().await?;
    let earlier = world.location().await?.remove(0);
    let last = world.sipp_calls(Scenario::Refused(486))?;
    world.next_call_push(&instance).await?;
    let leaves = world.relay.terminate(SOON);
    let answers = async {
        world.await_moved(&earlier).await?;
        let phone = world.baresip(&instance).await?;
        phone.await_rung(1, SOON).await?;
        phone.hang_up().await?;
        world.finished(last).await.map(drop)
    };
    let (status, answered) = tokio::join!(leaves, answers);
    answered?;
    assert!(status?.success());
    assert_eq!(world.pushes(), 1);

    let moved = world.go_on_with(other, &instance);
    world.a_call_is_answered(&moved).await?;
    assert_eq!((world.pushes(), world.location().await?.len()), (2, 1));
    world.farewell(&moved).await
}

//! A whole relay that is asked to reload beside a reload; a lent account that it takes over and has already: its record was another node's meanwhile; and the
//! calls of one account.
//!
//! Invariant: these are tests alone; nothing in the relay imports them.

use std::net::SocketAddr;

use sip::endpoint::NewBinding;
use sip::id::{CallId, InstanceId};
use tokio::task::yield_now;

use super::{Relay, Running};
use crate::agent::request::{LeaseExpiry, NewInstance, Principal, Request, SettlingNews};
use crate::agent::transport::upstreams::Route;
use crate::clock::unix_now_ms;
use crate::config::Config;
use crate::domain::InstanceState;
use crate::domain::story::Story;
use crate::limits::{InstanceOf, Quotas};
use crate::random;
use crate::secret::{Aor, InstanceSecret, Password, PushToken};
use crate::service::OperatorService as _;
use crate::service::operators::WhichCalls;
use crate::vault::record::{Account, Device, Presence, Proof, Provider, PushTarget, Record, WakeFor};
use crate::vault::{Fence, RecordToWrite};

/// A relay alone, at whatever ports are free.
async fn relay() -> (Running, Quotas) {
    let mut config = Config::development().unwrap();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.edge.listen, config.api.listen, config.operator.listen) = (anywhere, anywhere, anywhere);
    config.edge.public.port = 0;
    config.edge.websocket = None;
    (config.upstream.udp_listen, config.upstream.tcp_listen, config.upstream.tls_listen) =
        (anywhere, anywhere, anywhere);
    let limits = config.limits;
    let running = Relay::start(config).await.unwrap();
    let quotas = Quotas::new(&limits, running.metrics.clone());
    (running, quotas)
}

fn account() -> Account {
    Account {
        aor: Aor::new("sip:alice@nowhere.invalid"),
        auth_username: "alice".into(),
        proof: Proof::Password(Password::new("wonderland")),
        registrar: None,
        outbound_proxy: None,
    }
}

/// How its record has it.
fn instance(relay: &Running, quotas: &Quotas, id: InstanceId, presence: Presence, fence: Fence) -> NewInstance {
    let (account, group) = (account(), relay.vault.group("app", &account()));
    let route = Route::of(&account).unwrap();
    let of = InstanceOf { app: "app", aor: account.aor.expose(), server: &route.server() };
    let (place, aor) = (quotas.count_instance(&of), relay.vault.aor_key(&account.aor));
    let binding = NewBinding {
        binding: group.binding(),
        instance: id,
        aor: account.aor.expose().into(),
        registrar: route.registrar().into(),
        upstream: relay.agent.upstreams().acquire(route),
        sip_instance: relay.vault.sip_instance(group),
        presence,
        proven: true,
        same_as: None,
        taken_from: Vec::new(),
    };
    let call_push = PushTarget::new(Provider::Fcm, PushToken::new("token"), 0);
    let record = Record {
        app: "app".into(),
        account,
        device: Device { call_push, alert_push: None, label: None },
        wake_for: WakeFor { call: true, message: false, voicemail: false, missed_call: false },
        secret: InstanceSecret::new("instance-secret"),
        binding: group.binding(),
        sip_instance: binding.sip_instance,
        proven: true,
        created_at: 0,
        expires_at: u64::MAX >> 1,
        presence,
        reminded: None,
        told_failing: false,
    };
    NewInstance {
        id,
        sealed: relay.vault.seal(id, &record),
        lease: LeaseExpiry::of(&record),
        aor,
        fence,
        told_failing: false,
        binding,
        place,
    }
}

/// The fence of a record that was stored.
async fn later_fence(relay: &Running, id: InstanceId, new: &NewInstance) -> Fence {
    let lookup = relay.vault.lookup("app", &account().aor, &PushToken::new("token"));
    relay
        .vault
        .put(RecordToWrite { id, sealed: &new.sealed, expires_at: u64::MAX >> 1, lookup: &lookup, fence: Fence::NEW })
        .await
        .unwrap()
        .fence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_beside_one_that_goes_on_is_refused_and_a_later_one_is_taken() {
    let (relay, _) = relay().await;
    let refused = {
        let _goes_on = relay.reloader.running.lock();
        relay.reloader.reload()
    };
    assert!(refused.goes_on && refused.problems.len() == 1 && refused.taken.is_empty(), "{refused:?}");
    let told = relay.reload().unwrap().await.unwrap();
    assert!(!told.goes_on && told.problems.is_empty(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_newer_record_says_of_its_app_is_so_and_what_an_older_one_says_is_not() {
    let (relay, quotas) = relay().await;
    let tag = relay.vault.group("app", &account()).tag();
    for (before, after) in [(Presence::Foreground, Presence::Background), (Presence::Background, Presence::Foreground)]
    {
        let id = InstanceId::new(u128::from_be_bytes(random::bytes()), tag);
        let is_foreground = async |presence: Presence, fence: Fence| {
            let new = instance(&relay, &quotas, id, presence, fence);
            relay.agent.bind_all(vec![new], &SettlingNews::for_nobody()).await.ended().await;
            let look = |reply| Request::Look { id, who: Principal::Relay, reply };
            relay.agent.ask(id, look).await.unwrap().unwrap().state == InstanceState::Foreground
        };
        let new = instance(&relay, &quotas, id, before, Fence::NEW);
        let later = later_fence(&relay, id, &new).await;
        for (presence, fence, expected) in
            [(before, Fence::NEW, before), (after, later, after), (before, later, after), (before, Fence::NEW, after)]
        {
            let expected = expected == Presence::Foreground;
            assert_eq!(is_foreground(presence, fence).await, expected, "{before:?} {presence:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_one_account_are_told_that_others_have_crowded_out_of_what_the_node_knows() {
    let (relay, quotas) = relay().await;
    let tag = relay.vault.group("app", &account()).tag();
    let id = InstanceId::new(u128::from_be_bytes(random::bytes()), tag);
    let fence = later_fence(&relay, id, &instance(&relay, &quotas, id, Presence::Background, Fence::NEW)).await;
    let new = instance(&relay, &quotas, id, Presence::Background, fence);
    relay.agent.bind_all(vec![new], &SettlingNews::for_nobody()).await.ended().await;
    while relay.agent.stories().unread() > 0 {
        yield_now().await;
    }
    let story = Story::new(CallId::new(1 << 16, tag), id, "app", "sip:bob@example.com", unix_now_ms());
    relay.vault.put_item(id, &relay.vault.seal_story(&story)).await.unwrap();
    let calls = async |instance: Option<InstanceId>| {
        let told = relay.service.calls(WhichCalls { instance, limit: 9, ..WhichCalls::default() }).await;
        (told.stories.iter().map(|story| story.call).collect::<Vec<_>>(), told.is_whole)
    };
    assert_eq!(calls(Some(id)).await, (vec![story.call], true));
    assert_eq!(calls(None).await, (Vec::new(), true), "this node knows of none");
}

//! Push services that misbehave, in virtual time: TLS and HTTP/2 as they are, over streams within this process.

mod certificates;
mod fresh_lines;
mod http1;
mod isolation;
mod lines;
mod operators_mistakes;
mod reloads;
mod rests;
mod table;
mod trials;
mod webpush;
mod webpush_http1;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::metrics::Metrics;
use relay::push::{AppPush, Delivery, Event, Push, PushService};
use relay::vault::record::PushTarget;
use sip::id::{CallId, InstanceId, ShardTag};
use tests::apns::{self, Apns};
use tests::authority::Authority;
use tests::fcm::Fcm;
use tests::virtual_net::VirtualNet;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::push_targets::*;

const APP: &str = apns::BUNDLE;
/// How long a caller waits.
const RING: u64 = 30;

/// Both services in one network, and who pushes through them.
struct World {
    net: VirtualNet,
    apns: Apns,
    fcm: Fcm,
    service: PushService,
    metrics: Metrics,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        Self::within(&Authority::new())
    }

    fn within(authority: &Authority) -> Self {
        let net = VirtualNet::new();
        let (apns, fcm) = (Apns::start_within(&net, authority, APP), Fcm::start_within(&net, authority));
        let app = AppPush { apns: Some(apns.settings()), fcm: Some(fcm.settings()), ..AppPush::default() };
        let (metrics, apps) = (Metrics::new(), vec![(APP.into(), app)]);
        let service = PushService::new(Arc::new(net.clone()), apps, &metrics).expect("the settings are good");
        Self { net, apns, fcm, service, metrics, authority: authority.clone() }
    }

    /// Delivers a call's push.
    async fn ring(&self, target: PushTarget, number: u32) -> Delivery {
        self.service.deliver(APP, &target, &call(number)).await
    }

    /// Begins calls `from..from + count`, one each `gap`.
    async fn ring_each(&self, gap: Duration, from: u32, count: u32, target: fn(u32) -> PushTarget) -> Calls {
        let mut calls = Vec::new();
        for number in from..from + count {
            let service = self.service.clone();
            let ring = async move { service.deliver(APP, &target(number), &call(number)).await };
            calls.push(tokio::spawn(ring));
            sleep(gap).await;
        }
        Calls(calls)
    }

    fn assert_clean(&self) {
        assert_eq!(self.apns.violations(), Vec::<String>::new());
        assert_eq!(self.fcm.violations(), Vec::<String>::new());
    }
}

/// Calls whose pushes are under way.
struct Calls(Vec<JoinHandle<Delivery>>);

impl Calls {
    async fn ended(self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for call in self.0 {
            deliveries.push(call.await.expect("a delivery does not panic"));
        }
        deliveries
    }
}

fn call(number: u32) -> Push {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    Push {
        event: Event::Call,
        instance: InstanceId::new(1 << 20, ShardTag(1)),
        call: Some(CallId::new(u128::from(number) << 20, ShardTag(1))),
        from: Some("sip:bob@example.com".into()),
        name: None,
        edge: "relay1.example.net:5061".into(),
        sent_at: now,
        deadline: now + RING,
        made_at: relay::clock::now(),
        extra: Vec::new(),
    }
}

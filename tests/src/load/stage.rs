//! Everything that stands around a run: the relay as a child process, the push stand-ins, the store, the SIP server.
//!
//! Invariant: everything listens on loopback and ends with the [`Stage`]; what the push services would have objected to
//! is kept and fails the run.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::accounts::{self, DOMAIN};
use super::caller::Caller;
use super::devices::Devices;
use super::enabling::{App, targets};
use super::exchange::{Desk, Exchange};
use super::measure::{Clock, Count};
use super::plan::{Plan, PushSide, Store, Upstream};
use super::registrar::Registrar;
use super::seeding::{self, Ground};
use crate::apns::Apns;
use crate::authority::Authority;
use crate::board::Missed;
use crate::fcm::Fcm;
use crate::push_inbox::Heard;
use crate::redis_server::RedisServer;
use crate::relay_process::RelayProcess;
use crate::relay_setup::{self, Setup};
use crate::wire::Transport;

/// The lifetime that the relay asks a registrar for, and is granted unless a run is about refreshes, in seconds.
pub const LONG_GRANT: u32 = 3_600;

/// The stage of a run.
pub struct Stage {
    /// The relay.
    pub relay: RelayProcess,
    /// When it was started.
    pub launched_at: Instant,
    /// From its start until it was ready.
    pub ready_after: Duration,
    /// How long it took to put records into its store before that.
    pub seeded_in: Duration,
    /// The app.
    pub app: Arc<App>,
    /// The SIP server's desk.
    pub desk: Arc<Desk>,
    /// The caller.
    pub caller: Arc<Caller>,
    /// The devices.
    pub devices: Arc<Devices>,
    /// The real Redis.
    pub redis: Option<RedisServer>,
    apns: Option<Apns>,
    fcm: Option<Fcm>,
    _exchange: Exchange,
}

impl Stage {
    /// Sets everything up; `calls` is how many calls the run may place.
    ///
    /// # Errors
    /// When a part does not start, with its reason.
    pub async fn set(plan: &Plan, calls: u32) -> Result<Self, Missed> {
        let fault = |what: &'static str| move |error: io::Error| Missed::new(what, error.to_string());
        let (authority, clock) = (Authority::new(), Clock::start());
        let accounts = accounts::accounts(plan.instances);
        let mut desk = None;
        let opened = Exchange::open(plan.transport, &authority, DOMAIN, |local| {
            let grant = plan.refresh.unwrap_or(LONG_GRANT);
            let registrar = Registrar::new(accounts.clone(), plan.digest, grant);
            let caller = Arc::new(Caller::new(accounts.clone(), calls, clock, plan.transport, local));
            let made =
                Arc::new(Desk { registrar, caller, malformed: Count::default(), first_malformed: OnceLock::new() });
            desk = Some(made.clone());
            made
        });
        let exchange = opened.await.map_err(fault("the SIP server's socket"))?;
        let desk = desk.ok_or_else(|| Missed::new("the SIP server's desk", ""))?;
        let apns = if plan.push == PushSide::Fcm { None } else { Some(Apns::start(&authority).await) };
        let fcm = if plan.push == PushSide::Apns { None } else { Some(Fcm::start(&authority).await) };
        let redis = (plan.store == Store::Redis).then(RedisServer::start);
        let setup = setup(plan, &authority, apns.as_ref(), fcm.as_ref(), redis.as_ref());
        let (ports, key) = (setup.ports, setup.apps[0].api_key.clone());
        let mut seeded_in = Duration::ZERO;
        if plan.seeded {
            let registrar = format!("sip:{};transport={}", exchange.local(), plan.transport.param());
            let way = exchange.way_to(([127, 0, 0, 1], ports.udp).into());
            let ground = Ground { plan, setup: &setup, accounts: &accounts, registrar, way };
            seeded_in = seeding::seed(&ground, plan.first_seeded()..plan.instances).await?;
        }
        let launched_at = Instant::now();
        let relay = RelayProcess::start(setup).await?;
        let ready_after = launched_at.elapsed();
        let at = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let (local, caller) = (exchange.local(), desk.caller.clone());
        let app =
            App::new(accounts.clone(), &authority, at(ports.api), &key, local, plan.transport, targets(plan.push));
        let devices = Arc::new(Devices::new(accounts, caller.clone(), at(ports.edge), &authority, plan.resume));
        hear_pushes(apns.as_ref(), fcm.as_ref(), caller.clone(), plan.answer.then(|| devices.clone()));
        let app = Arc::new(app);
        Ok(Self {
            relay,
            launched_at,
            ready_after,
            seeded_in,
            app,
            desk,
            caller,
            devices,
            redis,
            apns,
            fcm,
            _exchange: exchange,
        })
    }

    /// The objections of the push services.
    pub fn violations(&self) -> Vec<String> {
        let apns = self.apns.iter().flat_map(|apns| apns.violations());
        apns.chain(self.fcm.iter().flat_map(|fcm| fcm.violations())).collect()
    }

    /// Connections that the relay made to the push services.
    pub fn push_connections(&self) -> usize {
        self.apns.iter().map(Apns::connections).chain(self.fcm.iter().map(Fcm::connections)).sum()
    }
}

fn setup(
    plan: &Plan,
    authority: &Authority,
    apns: Option<&Apns>,
    fcm: Option<&Fcm>,
    redis: Option<&RedisServer>,
) -> Setup {
    let mut app = relay_setup::App::new(crate::apns::BUNDLE);
    (app.apns, app.fcm) = (apns.map(Into::into), fcm.map(Into::into));
    let mut setup = Setup::new(authority, vec![app]);
    setup.transports = match plan.transport {
        Upstream::Udp => vec![Transport::Udp],
        Upstream::Tls => vec![Transport::Tls],
    };
    setup.store = redis.map_or("memory:".to_owned(), RedisServer::url);
    // Further nodes have it, too.
    setup.keyring = Some(authority.directory().join("keyring"));
    setup.register_expires = format!("{LONG_GRANT}s");
    setup.upstream = format!("registrations_per_second = {}\n", plan.pace());
    setup.domains = vec![DOMAIN.to_owned(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    setup.log = plan.relay_log.clone();
    setup
}

/// Takes the stand-ins' word of each push to the caller and, when they answer, to the devices.
pub(super) fn hear_pushes(apns: Option<&Apns>, fcm: Option<&Fcm>, caller: Arc<Caller>, devices: Option<Arc<Devices>>) {
    let (told, mut heard) = mpsc::unbounded_channel();
    if let Some(apns) = apns {
        apns.record_only_counts(true);
        apns.notify(told.clone());
    }
    if let Some(fcm) = fcm {
        fcm.record_only_counts(true);
        fcm.notify(told);
    }
    // Ends when the stand-ins, which hold the senders, are dropped.
    tokio::spawn(async move {
        while let Some(Heard { token, at, rings }) = heard.recv().await {
            let Some(account) = accounts::of_token(&token).filter(|_| rings) else { continue };
            if caller.on_push(account, at)
                && let Some(devices) = devices.clone()
            {
                tokio::spawn(async move { devices.come(account).await });
            }
        }
    });
}

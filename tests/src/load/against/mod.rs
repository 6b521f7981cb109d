//! The same calls against another server: what `--against` measures.
//!
//! Caller, devices and book are those of a run with the relay; the server is configured here and started for the run. Each has less to
//! do than the relay: devices show it no credential, pushes go by HTTP/1.1 without TLS (but for one kind of floor), and accounts are
//! nobody's secret. [`kamailio`] keeps calls waiting, pushes and hands them over; the [`floor`] pushes, and its calls are cancelled.
//!
//! Invariant: everything listens on loopback and ends with the run; a call that is lost fails it as with the relay.

pub mod floor;
mod kamailio;
mod push;
mod server;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Serialize;

use super::Failure;
use super::accounts::{self, Contact, DOMAIN, Enabled};
use super::bounded::{self, Progress};
use super::caller::{Caller, Cancels, GRACE, Round, shuffled};
use super::calls::Outcome;
use super::devices::Devices;
use super::exchange::{Desk, Exchange};
use super::measure::{Clock, Count, Shares, Window};
use super::plan::{Plan, Rival, Upstream};
use super::registrar::Registrar;
use super::run::{calls_failed, raise_descriptors};
use super::stage::{LONG_GRANT, hear_pushes};
use crate::apns::Apns;
use crate::authority::Authority;
use crate::board::Missed;
use push::PushStandIn;
use server::Server;

/// How long attached devices may take: a fixed part, and one for each.
const ATTACH_WITHIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(20));

/// The results of a run against another server.
#[derive(Debug, Serialize)]
pub struct Against {
    /// The plan of the run.
    pub plan: Plan,
    /// The server's name for itself.
    pub server: String,
    /// Calls that are pushed and cancelled; the floor's.
    pub cancelled: Option<Calls>,
    /// Calls to sleeping devices, answered and hung up; not the floor's.
    pub woken: Option<Calls>,
    /// Calls to attached devices.
    pub attached: Option<Calls>,
}

/// A round of calls.
#[derive(Debug, Serialize)]
pub struct Calls {
    /// Calls in a second.
    pub rate: u32,
    /// The server's CPU for each, all its processes together.
    pub cpu_us: f64,
    /// The outcome of the calls.
    pub outcome: Outcome,
    /// Use of the processors.
    pub shares: Shares,
}

/// Runs the calls of a plan against a rival.
///
/// # Errors
/// [`Failure`] when it does not start, or calls are lost.
pub async fn run(plan: &Plan, rival: Rival) -> Result<Against, Failure> {
    raise_descriptors(plan.descriptors())?;
    bounded::whole(plan.bound(), async |progress| phases(plan, rival, progress).await).await
}

async fn phases(plan: &Plan, rival: Rival, progress: &Progress) -> Result<Against, Failure> {
    progress.enter("the start of the server and all around it");
    let fault = |what: &'static str| move |error: std::io::Error| Failure::Stage(Missed::new(what, error.to_string()));
    let (authority, clock) = (Authority::new(), Clock::start());
    let attached_calls = if plan.attach > 0 { plan.attached_rate() * plan.seconds } else { 0 };
    let accounts = accounts::accounts(plan.instances);
    let book = 1 + plan.calls() + attached_calls;
    let mut desk = None;
    let exchange = Exchange::open(Upstream::Udp, &authority, DOMAIN, |local| {
        let registrar = Registrar::new(accounts.clone(), plan.digest, LONG_GRANT);
        let caller = Arc::new(Caller::new(accounts.clone(), book, clock, Upstream::Udp, local));
        let made = Arc::new(Desk { registrar, caller, malformed: Count::default(), first_malformed: OnceLock::new() });
        desk = Some(made.clone());
        made
    });
    let exchange = exchange.await.map_err(fault("the SIP server's socket"))?;
    let desk = desk.ok_or_else(|| Missed::new("the SIP server's desk", ""))?;
    let push = PushStandIn::open().await.map_err(fault("the push stand-in"))?;
    let mut apns = None;
    let server = match rival {
        Rival::Kamailio => kamailio::start(&authority, push.address()).await?,
        Rival::Floor => floor::start(push.address()).await?,
        Rival::FloorTls => floor::start_with_tls(&authority, apns.insert(Apns::start(&authority).await)).await?,
    };
    for (number, account) in accounts.iter().enumerate() {
        let user = accounts::user(number as u32);
        let way = exchange.way_to(server.udp).ok_or_else(|| Missed::new("a UDP socket", ""))?;
        account.register(Some(Contact { uri: format!("sip:{user}@{DOMAIN}"), way }));
        // Its device registers by the account's own name, and its proof is not looked at.
        let _ = account.enabled.set(Enabled { id: user.into(), secret: "none".into() });
    }
    let caller = desk.caller.clone();
    let devices = server.tls.map(|tls| Arc::new(Devices::new(accounts, caller.clone(), tls, &authority, plan.resume)));
    hear_pushes(apns.as_ref(), None, caller.clone(), devices.clone());
    push.tell(caller.clone(), devices.clone());
    let stage = Stage { plan, server, caller, devices };
    progress.enter("the first call");
    stage.place("the first call", 0..1, vec![plan.instances - 1], 1).await?;
    let (numbers, order) = (1..1 + plan.calls(), shuffled(plan.instances));
    progress.enter("calls to sleeping devices");
    let placed = stage.place("calls to sleeping devices", numbers, order, plan.rate).await?;
    let (cancelled, woken) = if stage.devices.is_some() { (None, Some(placed)) } else { (Some(placed), None) };
    progress.enter("devices that attach, and calls to them");
    let attached = match &stage.devices {
        Some(devices) if plan.attach > 0 => Some(stage.attached(devices, 1 + plan.calls()).await?),
        _ => None,
    };
    Ok(Against { plan: plan.clone(), server: stage.server.name.clone(), cancelled, woken, attached })
}

struct Stage<'a> {
    plan: &'a Plan,
    server: Server,
    caller: Arc<Caller>,
    /// The devices that come when they are pushed; `None`: none does, and calls are cancelled.
    devices: Option<Arc<Devices>>,
}

impl Stage<'_> {
    async fn attached(&self, devices: &Arc<Devices>, begin: u32) -> Result<Calls, Failure> {
        let (count, rate) = (self.plan.attach, self.plan.attached_rate());
        let already = devices.attached.load(std::sync::atomic::Ordering::Relaxed);
        let staying = devices.attach_many(count, ATTACH_WITHIN.0 + ATTACH_WITHIN.1 * count).await;
        let attached = devices.attached.load(std::sync::atomic::Ordering::Relaxed) - already;
        if attached < u64::from(count) {
            let first = devices.first_failure().unwrap_or_else(|| "they took too long".into());
            return Err(Failure::Attaching { attached, wanted: count.into(), first });
        }
        let numbers = begin..begin + rate * self.plan.seconds;
        let calls = self.place("calls to attached devices", numbers, shuffled(count), rate).await?;
        drop(staying);
        Ok(calls)
    }

    async fn place(
        &self,
        phase: &'static str,
        numbers: std::ops::Range<u32>,
        order: Vec<u32>,
        rate: u32,
    ) -> Result<Calls, Failure> {
        let window = Window::open_group(self.server.pids());
        let cancels = if self.devices.is_some() { Cancels::Never } else { Cancels::OncePushed };
        let caller = self.caller.clone();
        let round = Round { numbers: numbers.clone(), order, rate, cancels, patience: GRACE };
        let placing = tokio::task::spawn_blocking(move || caller.place(&round));
        placing.await.map_err(|error| Failure::Ringing { phase, what: error.to_string() })?;
        let shares = window.close();
        let outcome = self.caller.book.outcome(numbers);
        if let Some(what) = calls_failed(&outcome, phase != "calls to attached devices") {
            let first = self.devices.as_ref().and_then(|devices| devices.first_failure());
            let first = first.map(|first| format!("; {first}")).unwrap_or_default();
            let what = format!("{what}{first}\n{}", self.server.child.missed("calls that end"));
            return Err(Failure::Ringing { phase, what });
        }
        Ok(Calls { rate, cpu_us: shares.relay_us_each(outcome.calls), outcome, shares })
    }
}

impl std::fmt::Display for Against {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} under the same calls · {} accounts", self.server, self.plan.instances)?;
        let mut show = |what: &str, calls: &Calls| {
            let ms = |spread: &super::measure::Spread| {
                format!("{:.3} / {:.3} / {:.3} ms", spread.p50_us / 1e3, spread.p99_us / 1e3, spread.max_us / 1e3)
            };
            writeln!(
                f,
                "\n{what}: {} at {}/s, by status {:?}",
                calls.outcome.calls, calls.rate, calls.outcome.statuses
            )?;
            if calls.outcome.pushed > 0 {
                writeln!(f, "  INVITE → push     {}  (p50 / p99 / max)", ms(&calls.outcome.invite_to_push))?;
            }
            if calls.outcome.invite_to_device.count > 0 {
                writeln!(f, "  INVITE → device   {}", ms(&calls.outcome.invite_to_device))?;
            }
            writeln!(f, "  CPU per call      {:.0} µs", calls.cpu_us)
        };
        for (what, calls) in [
            ("PUSHED, cancelled", &self.cancelled),
            ("WOKEN, answered, hung up", &self.woken),
            ("ATTACHED, answered, hung up", &self.attached),
        ] {
            calls.as_ref().map_or(Ok(()), |calls| show(what, calls))?;
        }
        Ok(())
    }
}

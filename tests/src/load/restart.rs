//! A relay that starts with what an earlier run has left in the store: how long until all of it is opened and scheduled, and until
//! all of it is registered again, while calls come.
//!
//! | figure | from | until |
//! | --- | --- | --- |
//! | ready | the process is started | `/readyz` says 200 |
//! | opened | the process is started | `sipwake_instances` counts all |
//! | registered | the process is started | the registrar has granted all |
//!
//! Invariant: calls begin when the relay is ready, at a constant rate, each to another account, whether that is opened yet or not.

use std::fmt::{self, Formatter};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Failure;
use super::caller::{Cancels, GRACE, Round, shuffled};
use super::calls::Outcome;
use super::measure::{Resident, SETTLE, Shares, Spread, Usage, Window};
use super::plan::Plan;
use super::stage::Stage;
use super::table::{mib, row};

/// How often it is looked how far the relay is.
const LOOK: Duration = Duration::from_millis(50);
/// Likewise, of what costs the relay an HTTPS request.
const LOOK_AT_METRICS: Duration = Duration::from_millis(200);

/// The results of a start over a full store.
#[derive(Debug, Serialize)]
pub struct Restarted {
    /// Instances that were in the store.
    pub instances: u32,
    /// Seconds that writing them took, before.
    pub seeded_s: f64,
    /// Seconds until the relay was ready.
    pub ready_s: f64,
    /// Seconds until all were opened and scheduled.
    pub opened_s: f64,
    /// Seconds until all were registered.
    pub registered_s: f64,
    /// Registrations in a second, as the relay was asked for.
    pub pace: u32,
    /// As they came, from the first to the last.
    pub per_second: f64,
    /// The relay's CPU for each: claimed, opened, bound and registered, with the calls.
    pub cpu_us: f64,
    /// Its memory then.
    pub after: Resident,
    /// Resident bytes for each.
    pub bytes_each: f64,
    /// The calls meanwhile.
    pub outcome: Outcome,
    /// How late their INVITEs left.
    pub sent_late: Spread,
    /// Use of the processors.
    pub shares: Shares,
}

/// Watches a relay that was just started take over `instances`; calls get the numbers from `first_call` on.
///
/// # Errors
/// [`Failure`] when it does not come to an end in time.
pub async fn watch(plan: &Plan, stage: &Stage, instances: u32, first_call: u32) -> Result<Restarted, Failure> {
    let (begun, pid) = (stage.launched_at, stage.relay.pid());
    let granted = || stage.desk.registrar.done.granted.get();
    let window = Window::open(pid);
    let (caller, numbers) = (stage.caller.clone(), first_call..first_call + plan.restart_calls());
    let order = shuffled(instances).into_iter().map(|place| plan.first_seeded() + place).collect();
    let round =
        Round { numbers: numbers.clone(), order, rate: plan.rate, cancels: Cancels::OncePushed, patience: GRACE };
    let placing = tokio::task::spawn_blocking(move || caller.place(&round));
    let deadline = begun + plan.restart_within();
    let (mut opened_at, mut first_at, mut looked_at) = (None, None, Instant::now() - LOOK_AT_METRICS);
    let registered_at = loop {
        let now = Instant::now();
        if opened_at.is_none() && looked_at.elapsed() >= LOOK_AT_METRICS {
            looked_at = now;
            let known = stage.relay.metric_sum("sipwake_instances{").await;
            opened_at = known.filter(|known| *known >= f64::from(instances)).map(|_| Instant::now());
        }
        if granted() > 0 {
            first_at.get_or_insert(now);
        }
        if granted() >= u64::from(instances) {
            break now;
        }
        if now > deadline || !stage.relay.is_running() {
            return Err(Failure::Registering { registered: granted(), wanted: instances.into() });
        }
        tokio::time::sleep(LOOK).await;
    };
    let (shares, cpu) = (window.close(), Usage::of(pid).cpu);
    let sent_late =
        placing.await.map_err(|error| Failure::Ringing { phase: "the restart", what: error.to_string() })?;
    let after = Resident::settled(pid, SETTLE).await;
    let seconds = |at: Instant| at.duration_since(begun).as_secs_f64();
    let first_at = first_at.unwrap_or(begun);
    // Since the process began.
    let cpu_us = cpu.as_secs_f64() * 1e6 / f64::from(instances.max(1));
    Ok(Restarted {
        instances,
        seeded_s: stage.seeded_in.as_secs_f64(),
        ready_s: stage.ready_after.as_secs_f64(),
        opened_s: seconds(opened_at.unwrap_or(registered_at)),
        registered_s: seconds(registered_at),
        pace: plan.pace(),
        per_second: f64::from(instances) / registered_at.duration_since(first_at).as_secs_f64().max(1e-9),
        cpu_us,
        after,
        bytes_each: after.bytes as f64 / f64::from(instances.max(1)),
        outcome: stage.caller.book.outcome(numbers.clone()),
        sent_late,
        shares,
    })
}

impl Restarted {
    pub(super) fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nRESTART over {} records in Redis (written in {:.1} s)", self.instances, self.seeded_s)?;
        row(f, "ready after", format_args!("{:.2} s", self.ready_s))?;
        row(f, "opened and scheduled after", format_args!("{:.2} s", self.opened_s))?;
        row(
            f,
            "all registered after",
            format_args!("{:.2} s, at {:.0}/s (asked for: {}/s)", self.registered_s, self.per_second, self.pace),
        )?;
        row(f, "CPU per record", format_args!("{:.0} µs: claimed, opened, bound, registered", self.cpu_us))?;
        row(f, "resident", format_args!("{}, {:.0} bytes each", mib(self.after), self.bytes_each))?;
        let Outcome { calls, pushed, pushed_twice, .. } = self.outcome;
        row(f, "calls meanwhile", format_args!("{calls}, {} not pushed, {pushed_twice} twice", calls - pushed))?;
        row(f, "INVITE → push meanwhile", self.outcome.invite_to_push)?;
        row(f, "sent late", self.sent_late)
    }
}

//! The results of a run, as a table and as JSON.
//!
//! Invariant: every figure that is printed is in the JSON too; [`Report::limits`] names the process that kept the figures from being better, by
//! measured shares and lateness and not by a guess.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::calls::Outcome;
use super::measure::{Resident, Shares, Spread};
use super::plan::Plan;
use super::restart::Restarted;
use super::table::{mib, row};

/// INVITEs that leave later than this, in microseconds at p99, make the load generator the limit.
const LATE_US: f64 = 5_000.0;
/// Processors used above this, in percent, make the machine full.
const FULL_PERCENT: f64 = 90.0;
/// Somebody else's share above this, in percent, is said.
const OTHERS_PERCENT: f64 = 15.0;
/// A timer lag above this, in microseconds at p99, is said.
const LAG_US: f64 = 1_000.0;

/// The results of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The plan of the run.
    pub plan: Plan,
    /// Whether load generator and relay are release builds.
    pub release: bool,
    /// Notes that a reader must know.
    pub notes: Vec<String>,
    /// The relay's start.
    pub start: Start,
    /// The start over a full store.
    pub restarted: Option<Restarted>,
    /// The enable phase.
    pub enabling: Enabling,
    /// The refresh phase.
    pub refreshing: Option<Refreshing>,
    /// The ring phase.
    pub calling: Calling,
    /// The attach phase.
    pub attached: Option<Attached>,
    /// Connections that the relay made to the push services.
    pub push_connections: usize,
}

/// The relay's start.
#[derive(Debug, Serialize)]
pub struct Start {
    /// Until it was ready.
    pub ready_s: f64,
    /// Its memory then.
    pub resident: Resident,
}

/// The enable phase.
#[derive(Debug, Serialize)]
pub struct Enabling {
    /// Instances enabled after the warm-up.
    pub enabled: u32,
    /// Of them, answered before they were registered (202).
    pub stored_first: u32,
    /// Enablings in a second.
    pub per_second: f64,
    /// From connecting to the answer.
    pub took: Spread,
    /// The relay's CPU for each.
    pub cpu_us: f64,
    /// The relay's CPU for each enabling that it refuses.
    pub https_cpu_us: f64,
    /// How long a refused enabling took.
    pub https_took: Spread,
    /// Memory before.
    pub before: Resident,
    /// Memory after.
    pub after: Resident,
    /// Resident bytes for each.
    pub bytes_per_binding: f64,
    /// Bytes in Redis for each.
    pub store_bytes_per_binding: Option<f64>,
    /// Use of the processors.
    pub shares: Shares,
}

/// The refresh phase.
#[derive(Debug, Serialize)]
pub struct Refreshing {
    /// Seconds that the registrar granted.
    pub grant_s: u32,
    /// Refreshes in a second with a kept nonce: one REGISTER each.
    pub kept_per_second: f64,
    /// The relay's CPU for each.
    pub kept_cpu_us: f64,
    /// Refreshes in a second, each challenged: two REGISTERs with a digest each.
    pub challenged_per_second: f64,
    /// Challenges in that window.
    pub challenges: u64,
    /// The relay's CPU for each.
    pub challenged_cpu_us: f64,
    /// The relay's memory meanwhile, from the first window's start to the last one's end.
    pub memory: Vec<AfterRefreshes>,
    /// Use of the processors, in the challenged window.
    pub shares: Shares,
}

/// The relay's memory at a moment of the refresh phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AfterRefreshes {
    /// Refreshes granted since the phase began.
    pub refreshes: u64,
    /// The relay's memory then.
    pub resident: Resident,
}

/// A round of calls.
#[derive(Debug, Serialize)]
pub struct Calling {
    /// Calls in a second, as planned.
    pub rate: u32,
    /// As sent.
    pub per_second: f64,
    /// Pushes in a second.
    pub pushes_per_second: f64,
    /// The relay's CPU for each call.
    pub cpu_us: f64,
    /// Calls for one CPU second of the relay.
    pub calls_per_cpu_second: f64,
    /// The relay's memory right after.
    pub resident: Resident,
    /// Pushes without a call.
    pub stray_pushes: u64,
    /// Devices that did not get through.
    pub failed_devices: u64,
    /// How late INVITEs left.
    pub sent_late: Spread,
    /// The outcome of the calls.
    pub outcome: Outcome,
    /// Use of the processors.
    pub shares: Shares,
    /// The call before the measured ones.
    pub first_call: Option<Outcome>,
    /// From a push to a registered device.
    pub coming: Option<Spread>,
}

/// The attach phase.
#[derive(Debug, Serialize)]
pub struct Attached {
    /// Devices attached.
    pub devices: u32,
    /// In a second.
    pub per_second: f64,
    /// The relay's CPU for each: a TLS handshake and a registration.
    pub cpu_us: f64,
    /// Memory before.
    pub before: Resident,
    /// Memory after.
    pub after: Resident,
    /// Resident bytes for each.
    pub bytes_each: f64,
    /// Use of the processors.
    pub shares: Shares,
    /// Calls to them.
    pub calling: Calling,
}

impl Report {
    /// The process that kept the figures from being better, phase by phase.
    pub fn limits(&self) -> Vec<String> {
        let mut said: Vec<String> = self.restarted.iter().map(|it| throughput("restart", &it.shares)).collect();
        said.push(throughput("enable", &self.enabling.shares));
        said.push(latency("ring", &self.calling));
        if let Some(attached) = &self.attached {
            said.push(throughput("attach", &attached.shares));
            said.push(latency("ring attached", &attached.calling));
        }
        said
    }

    /// The report as JSON, with the limits.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        json["limits"] = self.limits().into();
        json
    }
}

/// The limit of a phase that goes as fast as it can.
fn throughput(phase: &str, shares: &Shares) -> String {
    let [relay, load, others] = percents(shares);
    let verdict = match () {
        () if relay + load + others < FULL_PERCENT => "waiting (concurrency), not processors",
        () if others > relay.max(load) => "the rest of the machine",
        () if load > relay => "the load generator, not the relay",
        () => "the relay",
    };
    format!("{phase}: {verdict} ({})", Used(shares))
}

/// The limit of a phase that goes at a given rate.
fn latency(phase: &str, calling: &Calling) -> String {
    let shares = &calling.shares;
    let [relay, load, others] = percents(shares);
    let (full, late) = (relay + load + others > FULL_PERCENT, calling.sent_late.p99_us > LATE_US);
    let mut said = match () {
        () if !full && !late => "nobody: there were processors to spare".to_owned(),
        () if others > relay.max(load) => "the rest of the machine: latencies are not the relay's".to_owned(),
        () if late && load > relay => {
            "the load generator, not the relay: INVITEs left late, so latencies and rate are not the relay's".to_owned()
        }
        () if load > relay => {
            "the load generator, not the relay: latencies hold waiting for processors that it used".to_owned()
        }
        () if full => "the relay".to_owned(),
        () => "nobody, though INVITEs left late: the machine was busy for moments".to_owned(),
    };
    if others > OTHERS_PERCENT {
        said += &format!("; others used {others:.0} % of the machine");
    }
    if shares.timer_lag.p99_us > LAG_US {
        said += &format!(
            "; a timer was {:.1} ms late at p99, and so may be any figure here",
            shares.timer_lag.p99_us / 1e3
        );
    }
    format!("{phase}: {said} ({})", Used(shares))
}

fn percents(shares: &Shares) -> [f64; 3] {
    [shares.relay_cpu_s, shares.load_cpu_s, shares.others_cpu_s].map(|cpu| shares.percent(cpu))
}

struct Used<'a>(&'a Shares);

impl Display for Used<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [relay, load, others] = percents(self.0);
        write!(f, "of {} processors: relay {relay:.0} %, load {load:.0} %, others {others:.0} %", self.0.cores)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let build = if self.release { "release" } else { "debug" };
        writeln!(
            f,
            "sipwake under load · {} instances · {} calls/s for {} s · {:?} upstream · {:?} store · {:?} pushes · {build} build",
            plan.instances, plan.rate, plan.seconds, plan.transport, plan.store, plan.push
        )?;
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        row(f, "start to ready", format_args!("{:.2} s, {} resident", self.start.ready_s, mib(self.start.resident)))?;
        if let Some(restarted) = &self.restarted {
            restarted.write(f)?;
        }
        self.enabling.write(f)?;
        if let Some(refreshing) = &self.refreshing {
            refreshing.write(f)?;
        }
        let kind = if plan.answer { "pushed and answered" } else { "pushed and cancelled" };
        writeln!(f, "\nRING, sleeping devices ({kind})")?;
        self.calling.write(f)?;
        row(f, "connections to push services", self.push_connections)?;
        if let Some(attached) = &self.attached {
            attached.write(f)?;
        }
        writeln!(f, "\nTHE LIMIT")?;
        for limit in self.limits() {
            writeln!(f, "  {limit}")?;
        }
        Ok(())
    }
}

impl Enabling {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nENABLE")?;
        row(
            f,
            "registrations/s",
            format_args!("{:.0}  ({} enabled, {} answered 202)", self.per_second, self.enabled, self.stored_first),
        )?;
        row(f, "an enabling took", self.took)?;
        row(f, "one that is refused took", self.https_took)?;
        row(f, "CPU per enabling", format_args!("{:.0} µs", self.cpu_us))?;
        row(f, "· HTTPS alone", format_args!("{:.0} µs", self.https_cpu_us))?;
        row(
            f,
            "· challenged registration",
            format_args!("{:.0} µs, with sealing and storing", self.cpu_us - self.https_cpu_us),
        )?;
        row(
            f,
            "bytes per binding",
            format_args!("{:.0}  ({} → {})", self.bytes_per_binding, mib(self.before), mib(self.after)),
        )?;
        if let Some(bytes) = self.store_bytes_per_binding {
            row(f, "bytes per binding in Redis", format_args!("{bytes:.0}"))?;
        }
        Ok(())
    }
}

impl Refreshing {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nREFRESH (granted {} s)", self.grant_s)?;
        row(
            f,
            "with a kept nonce",
            format_args!("{:.0}/s, CPU {:.0} µs each", self.kept_per_second, self.kept_cpu_us),
        )?;
        row(
            f,
            "challenged each time",
            format_args!(
                "{:.0}/s, CPU {:.0} µs each  ({} challenges)",
                self.challenged_per_second, self.challenged_cpu_us, self.challenges
            ),
        )?;
        let bytes = |at: &AfterRefreshes| at.resident.bytes;
        let [Some(first), Some(last)] = [self.memory.first(), self.memory.last()] else { return Ok(()) };
        let (least, most) =
            self.memory.iter().map(bytes).fold((u64::MAX, 0), |(least, most), it| (least.min(it), most.max(it)));
        row(
            f,
            "memory meanwhile",
            format_args!(
                "{} → {} over {} refreshes, {} to {}",
                mib(first.resident),
                mib(last.resident),
                last.refreshes,
                mib(Resident { bytes: least, ..first.resident }),
                mib(Resident { bytes: most, ..first.resident })
            ),
        )
    }
}

impl Calling {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let outcome = &self.outcome;
        row(f, "calls", format_args!("{} at {:.1}/s (planned {}/s)", outcome.calls, self.per_second, self.rate))?;
        let statuses: Vec<String> =
            outcome.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        row(f, "answers by status", format_args!("{}  unanswered: {}", statuses.join("  "), outcome.unanswered))?;
        if outcome.pushed > 0 {
            row(
                f,
                "pushes",
                format_args!(
                    "{} at {:.1}/s, {} twice, {} without a call",
                    outcome.pushed, self.pushes_per_second, outcome.pushed_twice, self.stray_pushes
                ),
            )?;
            row(f, "INVITE → push", outcome.invite_to_push)?;
            row(f, "INVITE → 180", outcome.invite_to_ringing)?;
        }
        if outcome.invite_to_device.count > 0 {
            row(f, "INVITE → device", outcome.invite_to_device)?;
            row(f, "INVITE → 200", outcome.invite_to_answer)?;
        }
        if let Some(coming) = &self.coming {
            row(f, "push → registered device", coming)?;
            row(f, "devices that failed", self.failed_devices)?;
        }
        if let Some(first) = &self.first_call {
            row(f, "first call, INVITE → push", format_args!("{:.1} ms", first.invite_to_push.max_us / 1e3))?;
        }
        row(
            f,
            "CPU per call",
            format_args!("{:.0} µs  ({:.0} calls per CPU second)", self.cpu_us, self.calls_per_cpu_second),
        )?;
        row(f, "resident after", mib(self.resident))?;
        row(f, "sent late", self.sent_late)?;
        row(f, "timer lag", self.shares.timer_lag)
    }
}

impl Attached {
    fn write(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nATTACH (idle devices over TLS)")?;
        row(
            f,
            "devices",
            format_args!("{} at {:.0}/s, CPU {:.0} µs each", self.devices, self.per_second, self.cpu_us),
        )?;
        row(
            f,
            "bytes per connection",
            format_args!("{:.0}  ({} → {})", self.bytes_each, mib(self.before), mib(self.after)),
        )?;
        writeln!(f, "\nRING, attached devices (answered)")?;
        self.calling.write(f)
    }
}

impl Display for Spread {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let ms = |us: f64| us / 1e3;
        write!(
            f,
            "{:.2} / {:.2} / {:.2} ms  (p50 / p99 / max of {})",
            ms(self.p50_us),
            ms(self.p99_us),
            ms(self.max_us),
            self.count
        )
    }
}

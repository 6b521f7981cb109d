//! The phases of a run, one after the other.
//!
//! Invariant: a phase is measured from its first action to its last effect; nothing else runs meanwhile.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use super::Failure;
use super::bounded::{self, Progress};
use super::caller::{Cancels, GRACE, Round, shuffled};
use super::calls::Outcome;
use super::measure::{Resident, SETTLE, Window};
use super::plan::{Plan, Store};
use super::report::{AfterRefreshes, Attached, Calling, Enabling, Refreshing, Report, Start};
use super::restart;
use super::stage::{LONG_GRANT, Stage};

/// Instances that are enabled before memory is first looked at.
const WARM_UP: u32 = 64;
/// Enablings that are refused, at least and at most, to measure HTTPS alone.
const REFUSED: (u32, u32) = (200, 2_000);
/// How long registrations that were answered 202 may take.
const REGISTERED_WITHIN: Duration = Duration::from_secs(60);
/// How long devices may take to attach: a fixed part, and one for each.
const ATTACH_WITHIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(20));
/// How often memory is looked at in a refresh window.
const MEMORY_LOOKS: u32 = 20;
/// Calls without a push or an answer that do not fail a run: one in so many.
const LOST_CALLS: u64 = 100;
/// Lines of the relay's log that a failure shows.
const LOG_LINES: usize = 12;

/// Runs a plan.
///
/// # Errors
/// [`Failure`] when a phase does not come to its end.
pub async fn run(mut plan: Plan) -> Result<Report, Failure> {
    let notes = plan.settle();
    raise_descriptors(plan.descriptors())?;
    let bound = plan.bound();
    bounded::whole(bound, async |progress| phases(plan, notes, progress).await).await
}

async fn phases(plan: Plan, mut notes: Vec<String>, progress: &Progress) -> Result<Report, Failure> {
    let attached_calls = if plan.attach > 0 { plan.attached_rate() * plan.seconds } else { 0 };
    let first_of_restart = 1 + plan.calls() + attached_calls;
    progress.enter("the start of the relay and all around it");
    let stage = Stage::set(&plan, first_of_restart + plan.restart_calls()).await?;
    if cfg!(debug_assertions) {
        notes.push("this is a debug build: its figures say nothing about a release".into());
    }
    let start = Start { ready_s: stage.ready_after.as_secs_f64(), resident: Resident::of(stage.relay.pid()) };
    progress.enter("the start over a full store");
    let restarted = if plan.seeded {
        Some(restart::watch(&plan, &stage, plan.seeded_count(), first_of_restart).await?)
    } else {
        None
    };
    let enabling = enable(&plan, &stage, progress).await?;
    progress.enter("refreshes");
    let refreshing = match plan.refresh {
        Some(grant) => Some(refresh(&plan, &stage, grant).await?),
        None => None,
    };
    let calling = ring(&plan, &stage, progress).await?;
    progress.enter("devices that attach, and calls to them");
    let attached = if plan.attach > 0 { Some(attach(&plan, &stage).await?) } else { None };
    progress.enter("the look at what was said of the run");
    match stage.violations() {
        violations if violations.is_empty() => {}
        violations => return Err(Failure::Violations(format!("{} times, first: {}", violations.len(), violations[0]))),
    }
    let done = &stage.desk.registrar.done;
    if done.refused.get() + stage.desk.malformed.get() > 0 {
        notes.push(format!(
            "the registrar refused {} REGISTERs and dropped {} malformed messages, the first: {:?}",
            done.refused.get(),
            stage.desk.malformed.get(),
            stage.desk.first_malformed.get()
        ));
    }
    let push_connections = stage.push_connections();
    let release = !cfg!(debug_assertions);
    Ok(Report { plan, release, notes, start, restarted, enabling, refreshing, calling, attached, push_connections })
}

async fn enable(plan: &Plan, stage: &Stage, progress: &Progress) -> Result<Enabling, Failure> {
    let (app, pid) = (&stage.app, stage.relay.pid());
    let fail = |error: std::io::Error| {
        if stage.relay.is_running() {
            Failure::Enabling { reason: error.to_string(), log: log_end(stage) }
        } else {
            Failure::RelayEnded(log_end(stage))
        }
    };
    let all = plan.enabled_by_https();
    let warm = WARM_UP.min(all / 2);
    progress.enter("the first enablings");
    app.enable(0..warm, plan.concurrency).await.map_err(fail)?;
    let count = (all / 4).clamp(REFUSED.0, REFUSED.1);
    progress.enter("enablings that are refused");
    app.be_refused(plan.concurrency, plan.concurrency).await.map_err(fail)?;
    let window = Window::open(pid);
    let refused_took = app.be_refused(count, plan.concurrency).await.map_err(fail)?;
    let refused = window.close();
    progress.enter("the look at memory before enabling");
    let before = Resident::settled(pid, SETTLE).await;
    let store_before = store_bytes(stage);
    let (window, begun) = (Window::open(pid), Instant::now());
    progress.enter("enabling");
    let done = bounded::within(plan.enabled_within(), async |progress| {
        progress.enter("enabling");
        app.enable(warm..all, plan.concurrency).await.map_err(fail)
    });
    let done = done.await?;
    progress.enter("registrations of what was enabled");
    let (took, wanted, accounts) = (begun.elapsed(), u64::from(all), app.accounts());
    let registered = || accounts[..all as usize].iter().filter(|it| it.contact().is_some()).count() as u64;
    while registered() < wanted {
        if begun.elapsed() > took + REGISTERED_WITHIN {
            return Err(Failure::Registering { registered: registered(), wanted });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shares = window.close();
    progress.enter("the look at memory after enabling");
    let after = Resident::settled(pid, SETTLE).await;
    let enabled = all - warm;
    let store = (plan.store == Store::Redis).then(|| store_bytes(stage).saturating_sub(store_before));
    Ok(Enabling {
        enabled,
        stored_first: done.stored,
        per_second: f64::from(enabled) / took.as_secs_f64(),
        took: done.took,
        cpu_us: shares.relay_us_each(enabled.into()),
        https_cpu_us: refused.relay_us_each(count.into()),
        https_took: refused_took,
        before,
        after,
        bytes_per_binding: after.each_since(before, enabled),
        store_bytes_per_binding: store.map(|bytes| bytes as f64 / f64::from(enabled.max(1))),
        shares,
    })
}

async fn refresh(plan: &Plan, stage: &Stage, grant: u32) -> Result<Refreshing, Failure> {
    let (registrar, length) = (&stage.desk.registrar, Duration::from_secs(plan.refresh_window().into()));
    // Every binding has refreshed once: they are spread over the interval from now on.
    tokio::time::sleep(Duration::from_secs(grant.into())).await;
    let (pid, begun) = (stage.relay.pid(), registrar.done.granted.get());
    let look = || AfterRefreshes { refreshes: registrar.done.granted.get() - begun, resident: Resident::of(pid) };
    let mut memory = vec![look()];
    let mut measure = async |each: bool| {
        registrar.challenge_each(each);
        let (before, challenged) = (registrar.done.granted.get(), registrar.done.challenged.get());
        let (window, opened) = (Window::open(pid), Instant::now());
        for part in 1..=MEMORY_LOOKS {
            tokio::time::sleep_until((opened + length * part / MEMORY_LOOKS).into()).await;
            memory.push(look());
        }
        let shares = window.close();
        (registrar.done.granted.get() - before, registrar.done.challenged.get() - challenged, shares)
    };
    let (kept, _, kept_shares) = measure(false).await;
    let (fresh, challenges, fresh_shares) = measure(true).await;
    registrar.challenge_each(false);
    registrar.grant(LONG_GRANT);
    // The last short grants run out, so that the next phase is not disturbed.
    tokio::time::sleep(Duration::from_secs(grant.into())).await;
    if kept == 0 || fresh == 0 {
        return Err(Failure::Refreshing(length));
    }
    Ok(Refreshing {
        grant_s: grant,
        kept_per_second: kept as f64 / kept_shares.wall_s,
        kept_cpu_us: kept_shares.relay_us_each(kept),
        challenged_per_second: fresh as f64 / fresh_shares.wall_s,
        challenges,
        challenged_cpu_us: fresh_shares.relay_us_each(fresh),
        memory,
        shares: fresh_shares,
    })
}

async fn ring(plan: &Plan, stage: &Stage, progress: &Progress) -> Result<Calling, Failure> {
    let everybody: Vec<u32> = shuffled(plan.instances);
    // The last of the order, so that its next call is not soon.
    let last = everybody[everybody.len() - 1];
    let cancels = if plan.answer { Cancels::Never } else { Cancels::OncePushed };
    let first = Round { numbers: 0..1, order: vec![last], rate: 1, cancels, patience: GRACE };
    progress.enter(Whom::First.phase());
    place(stage, first, Whom::First).await?;
    let first_call = stage.caller.book.outcome(0..1);
    stage.devices.coming.take();
    let numbers = 1..1 + plan.calls();
    let round = Round { numbers, order: everybody, rate: plan.rate, cancels, patience: GRACE };
    progress.enter(Whom::Sleeping.phase());
    let mut calling = place(stage, round, Whom::Sleeping).await?;
    calling.first_call = Some(first_call);
    calling.coming = plan.answer.then(|| stage.devices.coming.take());
    Ok(calling)
}

async fn attach(plan: &Plan, stage: &Stage) -> Result<Attached, Failure> {
    let pid = stage.relay.pid();
    let before = Resident::settled(pid, SETTLE).await;
    let already = stage.devices.attached.load(Ordering::Relaxed);
    let failed = stage.devices.failed.get();
    let (window, begun) = (Window::open(pid), Instant::now());
    let staying = stage.devices.attach_many(plan.attach, ATTACH_WITHIN.0 + ATTACH_WITHIN.1 * plan.attach).await;
    let took = begun.elapsed();
    let shares = window.close();
    let attached = stage.devices.attached.load(Ordering::Relaxed) - already;
    if attached < u64::from(plan.attach) || stage.devices.failed.get() > failed {
        let first = stage.devices.first_failure().unwrap_or_else(|| "they took too long".into());
        return Err(Failure::Attaching { attached, wanted: plan.attach.into(), first });
    }
    let after = Resident::settled(pid, SETTLE).await;
    let begin = 1 + plan.calls();
    let numbers = begin..begin + plan.attached_rate() * plan.seconds;
    let (order, rate) = (shuffled(plan.attach), plan.attached_rate());
    let round = Round { numbers, order, rate, cancels: Cancels::Never, patience: GRACE };
    let calling = place(stage, round, Whom::Attached).await?;
    drop(staying);
    Ok(Attached {
        devices: plan.attach,
        per_second: f64::from(plan.attach) / took.as_secs_f64(),
        cpu_us: shares.relay_us_each(plan.attach.into()),
        before,
        after,
        bytes_each: after.each_since(before, plan.attach),
        shares,
        calling,
    })
}

/// The devices that a round calls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// One device, before the others.
    First,
    /// Devices that must be pushed.
    Sleeping,
    /// Devices that have a flow.
    Attached,
}

impl Whom {
    fn phase(self) -> &'static str {
        match self {
            Self::First => "the first call",
            Self::Sleeping => "calls to sleeping devices",
            Self::Attached => "calls to attached devices",
        }
    }
}

/// Places a round's calls and measures them.
async fn place(stage: &Stage, round: Round, whom: Whom) -> Result<Calling, Failure> {
    let phase = whom.phase();
    let (caller, numbers) = (stage.caller.clone(), round.numbers.clone());
    let (rate, strays) = (round.rate, caller.stray_pushes.get());
    let window = Window::open(stage.relay.pid());
    let placing = tokio::task::spawn_blocking(move || caller.place(&round));
    let sent_late = placing.await.map_err(|error| Failure::Ringing { phase, what: error.to_string() })?;
    let shares = window.close();
    let outcome = stage.caller.book.outcome(numbers.clone());
    let failed = |what: String| {
        let first = stage.devices.first_failure().map(|first| format!("; {first}")).unwrap_or_default();
        Err(Failure::Ringing { phase, what: format!("{what}; by status {:?}{first}", outcome.statuses) })
    };
    if !stage.relay.is_running() {
        return Err(Failure::RelayEnded(log_end(stage)));
    }
    if let Some(what) = calls_failed(&outcome, whom != Whom::Attached) {
        return failed(what);
    }
    Ok(Calling {
        rate,
        per_second: (outcome.calls.saturating_sub(1)) as f64 / outcome.span_s.max(1e-9),
        pushes_per_second: (outcome.pushed.saturating_sub(1)) as f64 / outcome.push_span_s.max(1e-9),
        cpu_us: shares.relay_us_each(outcome.calls),
        calls_per_cpu_second: outcome.calls as f64 / shares.relay_cpu_s.max(1e-9),
        resident: Resident::of(stage.relay.pid()),
        stray_pushes: stage.caller.stray_pushes.get() - strays,
        failed_devices: stage.devices.failed.get(),
        sent_late,
        outcome,
        shares,
        first_call: None,
        coming: None,
    })
}

/// The reason for which a round of calls is no result; `pushes`: each of them needs a push.
pub(super) fn calls_failed(outcome: &Outcome, pushes: bool) -> Option<String> {
    let allowed = outcome.calls / LOST_CALLS;
    match () {
        () if outcome.unanswered > allowed => {
            Some(format!("{} of {} had no final answer", outcome.unanswered, outcome.calls))
        }
        () if pushes && outcome.calls - outcome.pushed > allowed => {
            Some(format!("{} of {} had no push", outcome.calls - outcome.pushed, outcome.calls))
        }
        () if outcome.pushed_twice > 0 => Some(format!("{} were pushed twice", outcome.pushed_twice)),
        () => None,
    }
}

/// Bytes that the store's data takes; 0 without one.
fn store_bytes(stage: &Stage) -> u64 {
    let Some(redis) = &stage.redis else { return 0 };
    let info: String = redis.ask(redis::cmd("INFO").arg("memory"));
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

fn log_end(stage: &Stage) -> String {
    let log = stage.relay.log();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Raises this process's limit of open files, which the relay inherits.
pub(super) fn raise_descriptors(needed: u64) -> Result<(), Failure> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    if allowed < needed {
        return Err(Failure::Descriptors { needed, allowed });
    }
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).map_err(|_| Failure::Descriptors { needed, allowed })
}

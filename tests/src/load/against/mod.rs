//! The same calls against a Kamailio that holds them, pushes and hands them over: what `--against kamailio` measures.
//!
//! Caller, devices and book are those of a run with the relay; Kamailio is configured here and started for the run. It has less to
//! do than the relay: devices show it no credential, pushes go by HTTP/1.1 without TLS, and accounts are nobody's secret.
//!
//! Invariant: everything listens on loopback and ends with the run; a call that is lost fails it as with the relay.

mod push;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Failure;
use super::accounts::{self, Contact, DOMAIN, Enabled};
use super::caller::{Caller, Cancels, GRACE, Round, shuffled};
use super::calls::Outcome;
use super::devices::Devices;
use super::exchange::{Desk, Exchange};
use super::measure::{Clock, Count, Shares, Window};
use super::plan::{Plan, Upstream};
use super::registrar::Registrar;
use super::run::{calls_failed, raise_descriptors};
use super::stage::LONG_GRANT;
use crate::authority::Authority;
use crate::board::Missed;
use crate::child::Child;
use crate::ports;
use crate::scratch::Scratch;
use push::PushStandIn;

/// Debian's packages with Kamailio and what the configuration loads.
const PACKAGES: &str = "kamailio kamailio-tls-modules kamailio-utils-modules";
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long attached devices may take: a fixed part, and one for each.
const ATTACH_WITHIN: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(20));

/// What a run against Kamailio found.
#[derive(Debug, Serialize)]
pub struct Against {
    /// What was run.
    pub plan: Plan,
    /// `kamailio -v`, its first line.
    pub version: String,
    /// Calls to sleeping devices, answered and hung up.
    pub woken: Calls,
    /// Calls to attached devices.
    pub attached: Option<Calls>,
}

/// A round of calls.
#[derive(Debug, Serialize)]
pub struct Calls {
    /// Calls in a second.
    pub rate: u32,
    /// Kamailio's CPU for each, all its processes together.
    pub cpu_us: f64,
    /// What became of them.
    pub outcome: Outcome,
    /// Who used the processors.
    pub shares: Shares,
}

/// Runs the calls of a plan against a Kamailio.
///
/// # Errors
/// [`Failure`] when it does not start, or calls are lost.
pub async fn run(plan: &Plan) -> Result<Against, Failure> {
    let fault = |what: &'static str| move |error: std::io::Error| Failure::Stage(Missed::new(what, error.to_string()));
    raise_descriptors(plan.descriptors())?;
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
    let kamailio = Kamailio::start(&authority, push.address()).await?;
    for (number, account) in accounts.iter().enumerate() {
        let user = accounts::user(number as u32);
        let way = exchange.way_to(kamailio.udp).ok_or_else(|| Missed::new("a UDP socket", ""))?;
        account.register(Some(Contact { uri: format!("sip:{user}@{DOMAIN}"), way }));
        // Its device registers by the account's own name, and its proof is not looked at.
        let _ = account.enabled.set(Enabled { id: user.into(), secret: "none".into() });
    }
    let caller = desk.caller.clone();
    let devices = Arc::new(Devices::new(accounts, caller.clone(), kamailio.tls, &authority, plan.resume));
    push.tell(caller.clone(), devices.clone());
    let stage = Stage { plan, kamailio, caller, devices };
    stage.place("the first call", 0..1, vec![plan.instances - 1], 1).await?;
    let woken =
        stage.place("calls to sleeping devices", 1..1 + plan.calls(), shuffled(plan.instances), plan.rate).await?;
    let attached = if plan.attach > 0 { Some(stage.attached(1 + plan.calls()).await?) } else { None };
    Ok(Against { plan: plan.clone(), version: version(), woken, attached })
}

struct Stage<'a> {
    plan: &'a Plan,
    kamailio: Kamailio,
    caller: Arc<Caller>,
    devices: Arc<Devices>,
}

impl Stage<'_> {
    async fn attached(&self, begin: u32) -> Result<Calls, Failure> {
        let (count, rate) = (self.plan.attach, self.plan.attached_rate());
        let already = self.devices.attached.load(std::sync::atomic::Ordering::Relaxed);
        let staying = self.devices.attach_many(count, ATTACH_WITHIN.0 + ATTACH_WITHIN.1 * count).await;
        let attached = self.devices.attached.load(std::sync::atomic::Ordering::Relaxed) - already;
        if attached < u64::from(count) {
            let first = self.devices.first_failure().unwrap_or_else(|| "they took too long".into());
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
        let window = Window::open_group(self.kamailio.pids());
        let (caller, round) = (
            self.caller.clone(),
            Round { numbers: numbers.clone(), order, rate, cancels: Cancels::Never, patience: GRACE },
        );
        let placing = tokio::task::spawn_blocking(move || caller.place(&round));
        placing.await.map_err(|error| Failure::Ringing { phase, what: error.to_string() })?;
        let shares = window.close();
        let outcome = self.caller.book.outcome(numbers);
        if let Some(what) = calls_failed(&outcome, phase != "calls to attached devices") {
            let first = self.devices.first_failure().map(|first| format!("; {first}")).unwrap_or_default();
            let what = format!("{what}{first}\n{}", self.kamailio.child.missed("calls that end"));
            return Err(Failure::Ringing { phase, what });
        }
        Ok(Calls { rate, cpu_us: shares.relay_us_each(outcome.calls), outcome, shares })
    }
}

struct Kamailio {
    child: Child,
    udp: SocketAddr,
    tls: SocketAddr,
    _scratch: Scratch,
}

impl Kamailio {
    async fn start(authority: &Authority, push: SocketAddr) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let [udp, tls] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free())));
        let issued = authority.issue(&[DOMAIN, "127.0.0.1"]);
        let (certificate, key) = (issued.certificate_file.display(), issued.key_file.display());
        scratch.file(
            "tls.cfg",
            format!(
                "[server:default]\nmethod = TLSv1.2+\nverify_certificate = no\nrequire_certificate = no\n\
                 private_key = {key}\ncertificate = {certificate}\n"
            ),
        );
        let configuration = include_str!("kamailio.cfg")
            .replace("@DOMAIN@", DOMAIN)
            .replace("@UDP@", &udp.port().to_string())
            .replace("@TLS@", &tls.port().to_string())
            .replace("@PUSH@", &push.port().to_string())
            .replace("@DIR@", &scratch.path().display().to_string());
        let config = scratch.file("kamailio.cfg", configuration);
        let mut command = Command::new("/usr/sbin/kamailio");
        command.arg("-f").arg(config).args(["-DD", "-E", "-m", "512", "-M", "16"]);
        command.arg("-Y").arg(scratch.path()).arg("-w").arg(scratch.path());
        let kamailio = Self { child: Child::spawn(command, PACKAGES)?, udp, tls, _scratch: scratch };
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(tls).await.is_err() {
            if !kamailio.child.is_running() || begun.elapsed() > START_WITHIN {
                return Err(kamailio.child.missed("the start"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(kamailio)
    }

    /// The main process and its workers.
    fn pids(&self) -> Vec<u32> {
        let main = self.child.pid();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        std::iter::once(main).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }
}

fn version() -> String {
    let said = Command::new("/usr/sbin/kamailio").arg("-v").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().next().unwrap_or("kamailio").to_owned()
}

impl std::fmt::Display for Against {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} under the same calls · {} accounts", self.version, self.plan.instances)?;
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
            writeln!(f, "  INVITE → device   {}", ms(&calls.outcome.invite_to_device))?;
            writeln!(f, "  CPU per call      {:.0} µs", calls.cpu_us)
        };
        show("WOKEN, answered, hung up", &self.woken)?;
        self.attached.as_ref().map_or(Ok(()), |calls| show("ATTACHED, answered, hung up", calls))
    }
}

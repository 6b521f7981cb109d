//! `sipwake`: the command line.
//!
//! Invariant: nothing but the development certificate's CA goes to stdout while it serves; logs go to stderr. The exit
//! status is 0 after a clean drain or a check without problems, 1 on an error, 2 on bad usage. No core
//! dump, and no debugger of another user, sees the process's memory.

#![warn(clippy::print_stderr, clippy::print_stdout)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use mimalloc::MiMalloc;
use relay::aside;
use relay::cli::{
    CommandError, audit, calls, canary, control, device, doctor, instances, keys, live, printable, receipt, shell,
    status, trace,
};
use relay::config::{Config, Problem, Problems};
use relay::log;
use relay::log_filter::{self, Filtered};
use relay::operator::controls::Reloaded;
use relay::process::{ignore_file_size_signal, protect_memory, raise_open_files, refuse_huge_pages, try_threads};
use relay::secret::ZeroOnFree;
use relay::serve::check::{Findings, certificate, check};
use relay::serve::check_push::check_push;
use relay::serve::open_files;
use relay::serve::unconfigured::{self, Unconfigured, public_address};
use relay::serve::{Relay, Running};
use relay::systemd::{self, Notifier, sockets};
use relay::timing;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot::Receiver;
use tracing::Level;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Freed heap memory is zeroed, so no secret outlives its allocation.
#[global_allocator]
static MEMORY: ZeroOnFree<MiMalloc> = ZeroOnFree(MiMalloc);

/// A push relay for SIP softphones: it keeps a sleeping phone's account registered and rings the phone by push.
#[derive(Parser)]
#[command(name = "sipwake", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How logs are written to stderr; RUST_LOG sets their level
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the relay; without a configuration: on loopback, with a development certificate, everything in memory
    Serve {
        /// The configuration file (TOML)
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Without a configuration: where its CA, keys and tokens are kept for the next time [default: ~/.local/state/sipwake]
        #[arg(long, value_name = "DIR", conflicts_with = "config")]
        state: Option<PathBuf>,
        /// Without a configuration: where the SIP server that comes with it listens; it must have this address
        #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:5060", conflicts_with = "config")]
        with_registrar: Option<std::net::SocketAddr>,
        /// Without a configuration: this machine's address as SIP servers on other machines see it; the relay listens for them, reaches
        /// those of that LAN, and brings no SIP server
        #[arg(long, value_name = "ADDRESS", value_parser = public_address, conflicts_with_all = ["config", "with_registrar"])]
        public: Option<std::net::IpAddr>,
    },
    /// Check everything that `serve` would need, and print each problem with its place and remedy
    Check {
        /// The configuration file (TOML)
        #[arg(long, value_name = "FILE", required_unless_present_any = ["live", "ready"])]
        config: Option<PathBuf>,
        /// Ask the push services, too, whether they take the keys; no device gets a push
        #[arg(long)]
        push: bool,
        /// Ask the relay of this configuration, which runs on this machine, whether it serves, and check nothing else
        #[arg(long, conflicts_with_all = ["push", "json"])]
        live: bool,
        /// Likewise, and whether it is ready
        #[arg(long, conflicts_with_all = ["push", "json"])]
        ready: bool,
        /// Print JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    Config(control::Config),
    Audit(audit::Audit),
    Calls(calls::Calls),
    Canary(canary::Canary),
    Report(audit::Report),
    Device(device::Device),
    Doctor(doctor::Doctor),
    Instances(instances::Instances),
    Drain(control::Drain),
    Keys(keys::Keys),
    Nodes(status::Nodes),
    Receipt(receipt::Receipt),
    Reload(control::Reload),
    Status(status::Status),
    Trace(trace::Trace),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// The status that the service manager shows after a reload that changed nothing.
const RELOAD_REFUSED: &str = "serves; a reload was refused, and the log says why";
/// How long threads have to end that still do something when all has ended.
const LAST_THREADS: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before any other file is opened.
    sockets::adopt();
    let cli = match arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    log_to_stderr(cli.log_format);
    if cli.log_format == LogFormat::Json {
        log::write_json();
    }
    // Every command may open keys or hold an operator's token.
    protect_memory();
    // Dropped last: the runtime may have something to say when it ends.
    let _last_words = matches!(cli.command, Command::Serve { .. }).then(log::begin);
    refuse_huge_pages();
    if matches!(cli.command, Command::Serve { .. })
        && let Err((given, error)) = try_threads(threads())
    {
        let wanted = threads();
        let why = format!(
            "the system gives {given} of the {wanted} threads that are needed, two for each core ({error}): raise the limit of tasks (TasksMax, --pids-limit, ulimit -u)"
        );
        return not_started(cli.log_format, &why);
    }
    // A command, and a probe that is asked for every few seconds, needs no thread for each core.
    let mut runtime = match cli.command {
        Command::Serve { .. } => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return not_started(cli.log_format, &format!("the runtime cannot start: {error}")),
    };
    {
        let _inside = runtime.enter();
        ignore_file_size_signal();
    }
    let code = run(cli.command, cli.log_format, &runtime);
    // A keyring that is being written is written. A thread that waits for a disk or a file which does not answer is not waited for.
    let ending = Instant::now();
    aside::wait(LAST_THREADS);
    runtime.shutdown_timeout(LAST_THREADS.saturating_sub(ending.elapsed()));
    code
}

/// Runs a command to its end.
fn run(command: Command, log_format: LogFormat, runtime: &tokio::runtime::Runtime) -> ExitCode {
    match command {
        Command::Serve { config, state, with_registrar, public } => {
            raise_open_files();
            let trial = Trial { state, registrar: with_registrar, public };
            runtime.block_on(serve(config, trial, log_format))
        }
        Command::Check { config: Some(config), push, json, live: false, ready: false } => {
            runtime.block_on(check_file(config, push, json)).unwrap_or_else(|error| ended(Err(error)))
        }
        Command::Check { config, ready, .. } => {
            ended(runtime.block_on(live::live(config.as_deref(), ready)).and_then(|told| print(&told)))
        }
        Command::Calls(calls) => ended(runtime.block_on(calls::run(calls))),
        Command::Audit(audit) => ended(audit::run(audit)),
        Command::Report(report) => ended(audit::report(report)),
        Command::Canary(canary) => ended(runtime.block_on(canary::run(canary))),
        Command::Device(device) => ended(runtime.block_on(device::run(device))),
        Command::Doctor(doctor) => ended(runtime.block_on(doctor::run(doctor))),
        Command::Instances(instances) => ended(runtime.block_on(instances::run(instances))),
        Command::Config(config) => ended(control::config(config)),
        Command::Drain(drain) => ended(runtime.block_on(control::drain(drain))),
        Command::Reload(reload) => ended(runtime.block_on(control::reload(reload))),
        Command::Keys(keys) => ended(keys::run(keys)),
        Command::Nodes(nodes) => ended(runtime.block_on(status::nodes(nodes))),
        Command::Status(arguments) => match runtime.block_on(status::status(arguments)) {
            Ok(code) => code,
            Err(error) => {
                fail(&error.to_string());
                // A relay that does not answer is as bad as one that says so.
                ExitCode::from(2)
            }
        },
        Command::Completions(arguments) => ended(shell::completions(&arguments, Cli::command())),
        Command::Man(arguments) => ended(shell::man(&arguments, Cli::command())),
        Command::Receipt(receipt) => ended(runtime.block_on(receipt::run(receipt))),
        Command::Trace(trace) => ended(runtime.block_on(trace::run(trace))),
    }
}

/// How many threads a relay has at least: its runtime's, and one for each shard.
fn threads() -> usize {
    let of_runtime = std::env::var("TOKIO_WORKER_THREADS").ok().and_then(|count| count.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, Into::into);
    of_runtime.unwrap_or_else(cores) + timing::shards()
}

/// The command line. What was asked for (`--help`, `--version`) and cannot be written is no success.
fn arguments() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        let written = error.print().and_then(|()| std::io::stdout().flush());
        match (error.exit_code(), written) {
            (0, Ok(())) => ExitCode::SUCCESS,
            (0, Err(_)) => ExitCode::FAILURE,
            _ => ExitCode::from(2),
        }
    })
}

/// The options of a relay that has no configuration.
struct Trial {
    state: Option<PathBuf>,
    registrar: Option<std::net::SocketAddr>,
    public: Option<std::net::IpAddr>,
}

async fn serve(file: Option<PathBuf>, trial: Trial, format: LogFormat) -> ExitCode {
    let (config, unconfigured) = match configuration(file, trial, format).await {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    warn_of_risks(&config);
    // Before the start, so that a signal that comes during it is not lost.
    let Ok(signals) = Signals::receive() else { return not_started(format, "signals cannot be received") };
    let running = match Relay::start(config).await {
        Ok(running) => running,
        Err(error) if unconfigured.is_some() => return not_started(format, &unconfigured::not_started(&error)),
        Err(error) => return not_started(format, &error.to_string()),
    };
    log_addresses(&running);
    let manager = Arc::new(Notifier::of_environment());
    manager.ready("serves");
    let watchdog = tokio::spawn(systemd::stay_alive(manager.clone(), running.liveness()));
    if let Some(unconfigured) = &unconfigured {
        unconfigured.say(&running);
        if let Some(ca) = &running.development_ca {
            // An operator who does not read it finds it in the state folder.
            drop(std::io::stdout().write_all(ca.as_bytes()));
        }
    }
    reload_until_the_end(&running, &manager, signals).await;
    tracing::info!(event = "draining", "draining");
    manager.stopping("hands its instances over, and lets calls that are being set up end");
    running.shutdown().await;
    watchdog.abort();
    tracing::info!(event = "drained", "drained");
    ExitCode::SUCCESS
}

/// The configuration of the file; without one, that of development.
async fn configuration(
    file: Option<PathBuf>,
    trial: Trial,
    format: LogFormat,
) -> Result<(Config, Option<Unconfigured>), ExitCode> {
    if let Some(file) = file {
        let config = Config::load(&file).map_err(|problems| not_configured(format, &problems))?;
        return Ok((config, None));
    }
    let mut config = Config::development().map_err(|problems| not_configured(format, &problems))?;
    match Unconfigured::prepare(&mut config, trial.state, trial.registrar, trial.public).await {
        Ok(unconfigured) => Ok((config, Some(unconfigured))),
        Err(error) => Err(not_started(format, &error.to_string())),
    }
}

fn warn_of_risks(config: &Config) {
    let few = open_files::too_few(config);
    for caution in config.cautions.iter().chain(&config.faults).chain(&few) {
        tracing::warn!(event = "configuration-caution", %caution, "the configuration works, and holds a risk or a fault");
    }
    for doubt in certificate(config) {
        tracing::warn!(event = "certificate-doubt", %doubt, remedy = doubt.remedy(), "clients may refuse tls.certificate");
    }
}

fn log_addresses(running: &Running) {
    tracing::info!(
        event = "serving", edge = %running.edge, public_edge = %running.public_edge, websocket = shown(running.websocket),
        api = %running.api, operator = %running.operator,
        upstream_tls = shown(running.upstream_tls), upstream_tcp = shown(running.upstream_tcp),
        upstream_udp = shown(running.upstream_udp),
        "serving"
    );
    for address in sockets::unserved() {
        tracing::warn!(event = "socket-unserved", %address, "a socket was handed over that no setting names; nobody serves it");
    }
}

/// The signals that end a relay, or have it reload.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn receive() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Reloads at each SIGHUP, until a signal or an operator has the relay end.
async fn reload_until_the_end(running: &Running, manager: &Notifier, mut signals: Signals) {
    let (mut reloading, mut once_more) = (None, false);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            () = running.asked_to_leave() => return,
            _ = signals.hangup.recv() => match &reloading {
                None => reloading = begin_reload(running, manager),
                Some(_) => {
                    once_more = true;
                    tracing::warn!(event = "reload-waits", "a reload goes on, which may wait for a file; another one follows when it has ended");
                }
            },
            is_taken = taken(&mut reloading) => {
                reloading = None;
                if std::mem::take(&mut once_more) {
                    reloading = begin_reload(running, manager);
                    continue;
                }
                manager.ready(if is_taken { "serves" } else { RELOAD_REFUSED });
            }
        }
    }
}

/// Begins a reload; `None`: it is refused.
fn begin_reload(running: &Running, manager: &Notifier) -> Option<Receiver<Reloaded>> {
    manager.reloading();
    let problem = match running.reload() {
        Ok(reloading) => return Some(reloading),
        Err(error) => format!("the system gives no thread to read with: {error}"),
    };
    tracing::error!(event = "not-reloaded", %problem, "not reloaded: nothing was changed");
    manager.ready(RELOAD_REFUSED);
    None
}

/// Whether the reload that goes on is taken, once it has ended. Without one, never.
async fn taken(reloading: &mut Option<Receiver<Reloaded>>) -> bool {
    match reloading {
        Some(reload) => reload.await.is_ok_and(|told| told.problems.is_empty()),
        None => std::future::pending().await,
    }
}

async fn check_file(file: PathBuf, push: bool, json: bool) -> Result<ExitCode, CommandError> {
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(problems) if json => return print_findings(problems.iter(), &[], &[]),
        Err(problems) => return Ok(fail(&problems.to_string())),
    };
    let Findings { mut problems, notes } = check(&config).await;
    if json {
        let (refused, taken) = if push { check_push(&config).await } else { Default::default() };
        problems.extend(refused);
        problems.dedup();
        return print_findings(problems.iter(), &notes, &taken);
    }
    for note in &notes {
        log::say_line(format_args!("note: {note}"));
    }
    if push {
        let (refused, taken) = check_push(&config).await;
        taken.iter().try_for_each(|line| print(line))?;
        problems.extend(refused);
    }
    if problems.is_empty() {
        print(&format!("{}: all right", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    problems.dedup();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Ok(fail(&lines.join("\n")))
}

/// Prints a line; `println!` panics when nobody reads it.
fn print(line: &str) -> Result<(), CommandError> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Prints the findings of `check` in machine-readable form.
fn print_findings<'a>(
    problems: impl Iterator<Item = &'a Problem>,
    notes: &[Problem],
    taken: &[String],
) -> Result<ExitCode, CommandError> {
    let one = |problem: &Problem| serde_json::json!({"place": problem.place, "what": problem.what, "remedy": problem.remedy, "line": problem.line});
    let problems: Vec<_> = problems.map(one).collect();
    let notes: Vec<_> = notes.iter().map(one).collect();
    let found = serde_json::json!({"ok": problems.is_empty(), "problems": problems, "notes": notes, "push": taken});
    print(&format!("{found:#}"))?;
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn ended(outcome: Result<(), CommandError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ CommandError::Usage(_)) => {
            fail(&error.to_string());
            ExitCode::from(2)
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(why: &str) -> ExitCode {
    for line in why.lines() {
        log::say_error(printable(line));
    }
    ExitCode::FAILURE
}

/// Says each problem of the configuration that a relay was to be started with: to a person a line, to a program an event.
fn not_configured(format: LogFormat, problems: &Problems) -> ExitCode {
    if !is_read_by_program(format) {
        return fail(&problems.to_string());
    }
    for problem in problems.iter() {
        let Problem { place, remedy, line, .. } = problem;
        tracing::error!(event = "not-started", why = %problem, place, remedy, line, "the relay does not start");
    }
    ExitCode::FAILURE
}

/// Says why a relay does not start, likewise.
fn not_started(format: LogFormat, why: &str) -> ExitCode {
    if !is_read_by_program(format) {
        return fail(why);
    }
    tracing::error!(event = "not-started", why, "the relay does not start");
    ExitCode::FAILURE
}

/// Whether what is said goes into the log as an event. A relay whose log is off has no other way to say it than a line.
fn is_read_by_program(format: LogFormat) -> bool {
    format == LogFormat::Json && tracing::enabled!(Level::ERROR)
}

/// An address, where there is one.
fn shown(address: Option<std::net::SocketAddr>) -> Option<tracing::field::DisplayValue<std::net::SocketAddr>> {
    address.map(tracing::field::display)
}

/// The log goes to stderr, as far as RUST_LOG lets it.
fn log_to_stderr(format: LogFormat) {
    let Filtered { filter, ignored } = log_filter::read(&std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default());
    let layer = tracing_subscriber::fmt::layer().with_writer(log::Writers);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(false).boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    for directive in ignored {
        tracing::warn!(
            event = "log-directive-ignored",
            directive,
            "a part of RUST_LOG is left out: it is no level (off, error, warn, info, debug, trace), and names no target with one"
        );
    }
}

//! Clocks, counters and what the kernel says of a process.
//!
//! Invariant: a moment is nanoseconds since one beginning, never 0 once it was noted; a quantile is a value that was
//! measured (nearest rank), not an estimate.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The run's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the beginning; at least 1.
    pub fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// A moment in nanoseconds since the beginning; at least 1.
    pub fn at(&self, moment: Instant) -> u64 {
        (moment.saturating_duration_since(self.0).as_nanos() as u64).max(1)
    }

    /// The moment of a count of nanoseconds.
    pub fn instant(&self, nanos: u64) -> Instant {
        self.0 + Duration::from_nanos(nanos)
    }
}

/// Durations that were measured.
#[derive(Debug, Default)]
pub struct Samples(Mutex<Vec<u64>>);

impl Samples {
    /// Adds one, in nanoseconds.
    pub fn add(&self, nanos: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(nanos);
    }

    /// Their spread, and forgets them.
    pub fn take(&self) -> Spread {
        Spread::of(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The spread of durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many there are.
    pub count: u64,
    /// Half are at most this.
    pub p50_us: f64,
    /// 99 of 100 are at most this.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Spread {
    /// The spread of some nanoseconds.
    pub fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let rank = |share: f64| {
            let place = (nanos.len() as f64 * share).ceil().max(1.0) as usize - 1;
            nanos.get(place).map_or(0.0, |&value| value as f64 / 1_000.0)
        };
        Self { count: nanos.len() as u64, p50_us: rank(0.5), p99_us: rank(0.99), max_us: rank(1.0) }
    }
}

/// The resources that a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, to 10 ms.
    pub cpu: Duration,
}

impl Usage {
    /// Of a process; nothing when it is gone.
    pub fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name may hold spaces; the fields follow its closing parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Self { cpu: ticks_to_time(ticks(11) + ticks(12)) }
    }
}

/// The time for which all processors were busy since the machine started.
fn machine_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&place| ticks.get(place)).sum();
    ticks_to_time(busy)
}

fn ticks_to_time(ticks: u64) -> Duration {
    /// Linux counts in hundredths of a second toward its users, whatever it does inside.
    const TICK: Duration = Duration::from_millis(10);
    Duration::from_nanos(ticks.saturating_mul(TICK.as_nanos() as u64))
}

/// How long memory may take to settle.
pub const SETTLE: Duration = Duration::from_secs(15);

/// Resident bytes of a process: all, and those that are its alone (without the binary's and libraries' pages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Resident {
    /// All.
    pub bytes: u64,
    /// Anonymous: heap and stacks.
    pub anonymous: u64,
}

impl Resident {
    /// Of a process; nothing when it is gone.
    pub fn of(pid: u32) -> Self {
        let read = |file: &str, all: &str, anonymous: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kb| kb * 1024)
            };
            Some(Self { bytes: field(all)?, anonymous: field(anonymous)? })
        };
        // The relay hides its memory from everybody but root; then the kernel's own count, which lags a little.
        let exact = read("smaps_rollup", "Rss:", "Anonymous:");
        exact.or_else(|| read("status", "VmRSS:", "RssAnon:")).unwrap_or_default()
    }

    /// Of a process, once it no longer shrinks or grows by more than one in 500, at most `patience` later.
    pub async fn settled(pid: u32, patience: Duration) -> Self {
        const LOOK_EVERY: Duration = Duration::from_millis(250);
        const CALM_LOOKS: u32 = 4;
        let deadline = Instant::now() + patience;
        let (mut last, mut calm) = (Self::of(pid), 0);
        while calm < CALM_LOOKS && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = Self::of(pid);
            calm = if now.bytes.abs_diff(last.bytes) * 500 <= now.bytes { calm + 1 } else { 0 };
            last = now;
        }
        last
    }

    /// How much more this is than `before`, for each of `count`.
    pub fn each_since(&self, before: Self, count: u32) -> f64 {
        (self.bytes as f64 - before.bytes as f64) / f64::from(count.max(1))
    }
}

/// A thread that wakes every millisecond and notes how late it was: the machine's scheduling lag, as this process feels it.
pub struct Ticker {
    late: Arc<Samples>,
    stop: Arc<AtomicBool>,
}

impl Ticker {
    /// Starts it.
    pub fn start() -> Self {
        const TICK: Duration = Duration::from_millis(1);
        let (late, stop) = (Arc::new(Samples::default()), Arc::new(AtomicBool::new(false)));
        let (lates, stopped) = (late.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(TICK);
                lates.add(begun.elapsed().saturating_sub(TICK).as_nanos() as u64);
            }
        });
        Self { late, stop }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Use of the processors in a phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Shares {
    /// The phase's length in seconds.
    pub wall_s: f64,
    /// Processors of the machine.
    pub cores: u32,
    /// The relay's CPU seconds.
    pub relay_cpu_s: f64,
    /// The load generator's, with its stand-ins.
    pub load_cpu_s: f64,
    /// Everybody else's.
    pub others_cpu_s: f64,
    /// How late a millisecond timer was in the load generator.
    pub timer_lag: Spread,
}

impl Shares {
    /// A share of all processors, in percent.
    pub fn percent(&self, cpu_s: f64) -> f64 {
        100.0 * cpu_s / (self.wall_s * f64::from(self.cores)).max(1e-9)
    }

    /// The relay's CPU microseconds for each of `count`.
    pub fn relay_us_each(&self, count: u64) -> f64 {
        self.relay_cpu_s * 1e6 / (count.max(1) as f64)
    }
}

/// A phase being measured.
pub struct Window {
    relay: Vec<u32>,
    ticker: Ticker,
    begun: Instant,
    before: [Duration; 3],
}

impl Window {
    /// Begins now, for the relay of this process id.
    pub fn open(relay: u32) -> Self {
        Self::open_group(vec![relay])
    }

    /// Begins now, for a server of several processes.
    pub fn open_group(relay: Vec<u32>) -> Self {
        let before = Self::look(&relay);
        Self { relay, ticker: Ticker::start(), begun: Instant::now(), before }
    }

    /// Ends now.
    pub fn close(self) -> Shares {
        let wall_s = self.begun.elapsed().as_secs_f64();
        let after = Self::look(&self.relay);
        let used = |place: usize| after[place].saturating_sub(self.before[place]).as_secs_f64();
        let (relay_cpu_s, load_cpu_s) = (used(0), used(1));
        Shares {
            wall_s,
            cores: std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
            relay_cpu_s,
            load_cpu_s,
            others_cpu_s: (used(2) - relay_cpu_s - load_cpu_s).max(0.0),
            timer_lag: self.ticker.late.take(),
        }
    }

    fn look(relay: &[u32]) -> [Duration; 3] {
        [relay.iter().map(|pid| Usage::of(*pid).cpu).sum(), Usage::of(std::process::id()).cpu, machine_busy()]
    }
}

/// A counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let spread = Spread::of((1..=200).rev().map(|n| n * 1_000).collect());
        assert_eq!((spread.p50_us, spread.p99_us, spread.max_us, spread.count), (100.0, 198.0, 200.0, 200));
        assert_eq!(Spread::of(vec![7_000]).p99_us, 7.0);
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn the_kernel_tells_of_this_process() {
        let own = std::process::id();
        assert!(Resident::of(own).bytes > Resident::of(own).anonymous / 2);
        assert!(Resident::of(own).bytes > 100_000);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(60) {
            std::hint::spin_loop();
        }
        assert!(Usage::of(own).cpu > Duration::ZERO);
    }
}

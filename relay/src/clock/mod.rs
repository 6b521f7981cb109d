//! Wall-clock time as the outside sees it: seconds since 1970 and their text form.
//!
//! Invariant: the one place that reads the system's wall clock and the one place that writes RFC 3339. Work
//! scheduled inside the process uses the monotonic clock instead; nothing here schedules. Anything that ends for good by the wall
//! clock ends by [`confirmed_now`], so that a jump of the clock ends nothing.
//!
//! Schedulers use [`now`], the runtime's own clock, so that a simulation can run whole nodes in its own time
//! ([`set_virtual`]), each with a wall clock of its own. Nothing in the service sets that.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod anchors;
mod frame;
mod tls_time;
pub mod token_times;
pub mod watch;

#[cfg(test)]
pub(crate) use frame::tests::later;
pub use frame::{Frame, Frames};
pub use tls_time::TlsTime;
pub use watch::{
    Reading, advertised_now, advertised_now_ms, confirmed_now, latest_now, shared_now, shared_now_ms, since_boot,
};

/// Seconds in a day; a leap second is not counted.
pub const DAY_S: u64 = 86_400;

/// The last second that [`rfc3339`] writes: the end of the year 9999.
const LAST_S: u64 = 253_402_300_799;

thread_local! {
    /// The machine of the node that runs on this thread, in a simulation.
    static VIRTUAL: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// The machine of a simulated node, with its clocks and what its process makes of them.
#[derive(Clone, Default)]
pub struct Machine {
    /// How long it has been up.
    pub up: Duration,
    /// How far its wall clock is ahead of the right time, in milliseconds.
    pub off_ms: i64,
    trusted: Arc<watch::Trusted>,
}

/// The monotonic clock of what is scheduled: the runtime's.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The time since a moment that [`now`] told; [`Instant::elapsed`] goes by another clock in a simulation.
pub fn since(moment: Instant) -> Duration {
    now().saturating_duration_since(moment)
}

/// A moment that is scheduled here, and shown to others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Moment {
    /// When it is. The schedule goes by this alone, however the wall clock changes.
    pub at: Instant,
    /// The same as it is [advertised](advertised_now) to phones, in seconds since 1970.
    pub unix: u64,
}

impl Moment {
    /// After this time.
    pub fn after(wait: Duration) -> Self {
        Self { at: now() + wait, unix: advertised_now() + wait.as_secs() }
    }
}

/// In a simulation: on which machine runs what runs next on this thread. Its wall clock goes on from the system's as long as it is up.
pub fn set_virtual(machine: &Machine) {
    VIRTUAL.set(Some(machine.clone()));
}

/// Whether this thread runs a simulation.
pub(crate) fn is_virtual() -> bool {
    virtual_up().is_some()
}

fn virtual_up() -> Option<Duration> {
    of_machine(|machine| machine.up)
}

fn of_machine<T>(read: impl FnOnce(&Machine) -> T) -> Option<T> {
    VIRTUAL.with_borrow(|machine| machine.as_ref().map(read))
}

/// The right time in a simulation, in milliseconds since 1970, for a machine that has been up so long.
pub fn virtual_unix_ms(up: Duration) -> u64 {
    (virtual_epoch() + up).as_millis() as u64
}

/// When the first simulated machine was started, by the system's clock.
fn virtual_epoch() -> Duration {
    static EPOCH: std::sync::OnceLock<Duration> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(system_time)
}

fn system_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn wall_time() -> Duration {
    let of_machine = |machine: &Machine| {
        let right_ms = virtual_unix_ms(machine.up);
        Duration::from_millis(right_ms.saturating_add_signed(machine.off_ms))
    };
    self::of_machine(of_machine).unwrap_or_else(system_time)
}

/// Now, in whole seconds since 1970-01-01T00:00:00Z; 0 when the system's clock stands before that.
pub fn unix_now() -> u64 {
    wall_time().as_secs()
}

/// Now, in whole milliseconds since 1970-01-01T00:00:00Z; 0 when the system's clock stands before that.
pub fn unix_now_ms() -> u64 {
    wall_time().as_millis() as u64
}

/// When that was, likewise; `None`: now.
pub fn unix_ms_of(at: Option<Instant>) -> u64 {
    let ago = at.map_or(Duration::ZERO, |at| now().saturating_duration_since(at));
    unix_now_ms().saturating_sub(ago.as_millis() as u64)
}

/// Writes `unix_ms` (milliseconds since 1970) as RFC 3339 in UTC: `2026-11-27T09:00:00.123Z`.
pub fn rfc3339_ms(unix_ms: u64) -> String {
    let whole = rfc3339(unix_ms / 1_000);
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), unix_ms % 1_000)
}

/// Writes `unix` (seconds since 1970) as RFC 3339 in UTC with whole seconds: `2026-11-27T09:00:00Z`.
/// A time past the year 9999 is written as that year's last second.
pub fn rfc3339(unix: u64) -> String {
    let unix = unix.min(LAST_S);
    let (year, month, day) = civil(unix / DAY_S);
    let of_day = unix % DAY_S;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01. The year is taken to begin in March, so that the leap day is
/// its last day and needs no case of its own.
fn civil(day: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
    const DAYS_IN_ERA: u64 = 146_097; // 400 years
    let day = day + DAYS_TO_1970;
    let (era, of_era) = (day / DAYS_IN_ERA, day % DAYS_IN_ERA);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_the_calendar_has_it() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_000_000, "2026-11-18T11:06:40Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
        assert_eq!(rfc3339_ms(1_795_000_000_007), "2026-11-18T11:06:40.007Z");
    }
}

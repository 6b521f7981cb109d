//! The trusted time, and its course when the system's clock jumps.
//!
//! The time since boot ([`CLOCK_BOOTTIME`](https://man7.org/linux/man-pages/man2/clock_gettime.2.html): it goes on while the machine is suspended,
//! and nobody can set it) carries the trusted time on from a moment at which the system's clock was trusted. An action that cannot be undone (the end
//! of a lease, the destruction of a key) asks [`confirmed_now`]: the earlier of both clocks. A grant begins at [`latest_now`]: the later of both.
//! Everything else goes by the system's clock at once, so a time told to phones and push services is right as soon as that clock is.
//!
//! | the system's clock, against the trusted time | it is trusted | until then |
//! | --- | --- | --- |
//! | up to [`NOISE_MS`] off | at once, at most [`FOLLOWED_MS`] in [`FOLLOW_EVERY_MS`]: so a clock is disciplined | |
//! | up to [`STEP_MS`] off, either way | after [`STEP_STEADY_MS`] in which it went at the right pace | nothing ends early |
//! | further off, either way | after [`JUMP_STEADY_MS`] in which it went at the right pace and the store's clock did not say otherwise | no lease ends, no key is destroyed; an operator is told |
//! | back where it was | at once | |
//! | at start: up to [`DOWNTIME_S`] ahead of the last run, and not behind it | at once: the relay was off | |
//! | at start: anything else | as a jump from where the last run ended | as above |
//!
//! Where the last run ended is carried on by the time since boot, unless the machine has been started since: a relay that was off for long on a machine that
//! went on trusts a right clock at once.
//!
//! A jump that is trusted moves the ends that were told before it ([`Frame`](super::Frame)): a lease lasts as long as it was granted, by the time
//! since boot, whichever clock granted it. A machine that was itself off for long looks like a jump, too: of what it finds in the store then nobody knows which
//! clock granted it, and an expired lease ends [`JUMP_STEADY_MS`] late. A virtual machine that was paused, and whose time since boot stood still meanwhile,
//! goes on with what was left of its leases; a store with a clock of its own has forgotten them in time.
//!
//! **The nodes of a relay share a clock**: the system's, as long as it is within [`STORE_OFF_MAX_MS`] of the store's, and else the store's ([`store_says`]).
//! Grants, seals and ends go by it, so that a lease ends on every node at the same time, and the table above holds for it in place of the system's clock. Times
//! that phones are told go by whichever of both is nearer to the trusted time ([`advertised_now`]): which of them is the wrong one only that tells. Tokens for
//! push services are made by that time, too, and those for APNs and FCM by another one where a service refuses it
//! ([`TokenTimes`](super::token_times::TokenTimes)); certificates are judged by it, but by the system's where nothing but the store's word is against that
//! ([`TlsTime`](super::TlsTime)), and what operators and apps are shown of calls is dated by it.
//!
//! **A jump of the system's clock** counts once the store was asked what it says, or did not answer: until then, for
//! [`UNLOOKED_MS`](super::anchors::UNLOOKED_MS) at most, that clock goes on as it was, by the time since boot.
//!
//! Invariant: [`confirmed_now`] is never ahead of the shared clock, and passes no moment before real time has passed it,
//! but for a jump that was trusted.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

pub use super::anchors::STORE_OFF_MAX_MS;
use super::anchors::{Anchors, SharedAnchors, UNSET};
use super::unix_now_ms;
use crate::lock::Mutex;

/// A difference that means nothing, in milliseconds.
const NOISE_MS: i64 = 2_000;
/// The most that the trusted time follows the system's clock at once, in milliseconds, and how often.
const FOLLOWED_MS: i64 = 1_000;
const FOLLOW_EVERY_MS: i64 = 60_000;
/// A step as time services make them, in milliseconds, and how long it is to be steady.
pub(super) const STEP_MS: i64 = 300_000;
const STEP_STEADY_MS: i64 = 60_000;
/// How long a jump is to be steady, in milliseconds: 6 hours, in which somebody is told.
pub const JUMP_STEADY_MS: i64 = 6 * 3_600_000;
/// How long a relay may have been off without anybody wondering, in seconds: 1 hour.
pub const DOWNTIME_S: u64 = 3_600;

/// How long leases that were moved may take to be sealed anew, in milliseconds: 1 hour.
const RESEALED_MS: i64 = 3_600_000;

/// The trusted time of the process; in a simulation each machine has its own.
static PROCESS: Trusted = Trusted::new();

/// The trusted time.
pub(super) struct Trusted {
    /// The trusted time at boot, in milliseconds since 1970.
    anchor_ms: AtomicI64,
    anchors: SharedAnchors,
    /// When a jump ahead was trusted last, in milliseconds since boot, and how far it was.
    believed_at_ms: AtomicI64,
    believed_ms: AtomicI64,
    watch: Mutex<Option<Watch>>,
}

impl Trusted {
    const fn new() -> Self {
        Self {
            anchor_ms: AtomicI64::new(UNSET),
            anchors: SharedAnchors::new(),
            believed_at_ms: AtomicI64::new(0),
            believed_ms: AtomicI64::new(0),
            watch: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Watch>> {
        self.watch.lock()
    }
}

impl Default for Trusted {
    fn default() -> Self {
        Self::new()
    }
}

fn with_trusted<T>(work: impl Fn(&Trusted) -> T) -> T {
    super::of_machine(|machine| work(&machine.trusted)).unwrap_or_else(|| work(&PROCESS))
}

/// Both clocks in one moment, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The shared one.
    pub system: u64,
    /// The earlier of the shared and the trusted one.
    pub confirmed: u64,
    /// The later of both.
    pub latest: u64,
    /// The two clocks are about the same.
    pub is_steady: bool,
}

impl Reading {
    /// A moment in which nobody doubts the clock.
    pub const fn steady(now: u64) -> Self {
        Self { system: now, confirmed: now, latest: now, is_steady: true }
    }

    /// Both clocks now.
    pub fn now() -> Self {
        let system = shared_now();
        match trusted_ms() {
            None => Self::steady(system),
            Some(trusted_ms) => {
                let trusted = (trusted_ms / 1_000) as u64;
                let is_steady = system.abs_diff(trusted) * 1_000 <= STEP_MS.unsigned_abs();
                Self { system, confirmed: system.min(trusted), latest: system.max(trusted), is_steady }
            }
        }
    }
}

/// How far the destruction of keys is behind [`confirmed_now`], in seconds: a jump ahead counts for it [`RESEALED_MS`] after it was trusted, when what
/// lives on has been sealed anew.
pub fn keys_held_back_s() -> u64 {
    let (at_ms, by_ms) = with_trusted(|trusted| {
        (trusted.believed_at_ms.load(Ordering::Relaxed), trusted.believed_ms.load(Ordering::Relaxed))
    });
    if boot_ms() - at_ms < RESEALED_MS { by_ms.unsigned_abs() / 1_000 } else { 0 }
}

/// By when something has ended for sure, in seconds since 1970.
pub fn confirmed_now() -> u64 {
    Reading::now().confirmed
}

/// From when something that is granted counts, in seconds since 1970; what a clock grants that was ahead is cut when it is
/// right again.
pub fn latest_now() -> u64 {
    Reading::now().latest
}

/// The trusted time in seconds since 1970; `None` before [`begin`].
pub fn trusted_now() -> Option<u64> {
    trusted_ms().map(|trusted| (trusted / 1_000) as u64)
}

/// The same, for the next run; `None` also while nothing but the store's word stands for it: that run would take it for what this one has known.
pub fn time_for_next_run() -> Option<u64> {
    trusted_now().filter(|_| !is_by_store_alone())
}

/// Whether nothing but the store's word is against the system's clock.
fn is_by_store_alone() -> bool {
    with_trusted(|trusted| trusted.lock().as_ref().is_some_and(|watch| watch.is_by_store_alone))
}

/// The time that the nodes of a relay share, in seconds since 1970.
pub fn shared_now() -> u64 {
    shared_now_ms() / 1_000
}

/// Likewise in milliseconds.
pub fn shared_now_ms() -> u64 {
    shared_ms() as u64
}

fn shared_ms() -> i64 {
    let clocks = Clocks::now();
    clocks.anchors.shared_ms(clocks.system_ms, clocks.boot_ms)
}

/// The system's clock, the time since boot, and the anchors of the last look, each read once.
struct Clocks {
    system_ms: i64,
    boot_ms: i64,
    anchors: Anchors,
}

impl Clocks {
    fn now() -> Self {
        let (system_ms, boot_ms) = (unix_now_ms() as i64, boot_ms());
        Self { system_ms, boot_ms, anchors: with_trusted(|trusted| trusted.anchors.get()) }
    }
}

/// Whether the system's clock has jumped since the last look, so that the store is to be asked before the next one.
pub fn has_leapt() -> bool {
    let clocks = Clocks::now();
    clocks.anchors.before_leap(clocks.system_ms, clocks.boot_ms).is_some()
}

/// Whether the shared time is the store's, since the system's clock is far from it.
pub fn is_of_store() -> bool {
    with_trusted(|trusted| trusted.anchors.get()).store_anchor_ms != UNSET
}

/// The time that phones are told, in seconds since 1970: the system's, unless the store's is the shared one and nearer to the trusted time.
pub fn advertised_now() -> u64 {
    advertised_now_ms() / 1_000
}

/// Likewise in milliseconds.
pub fn advertised_now_ms() -> u64 {
    let (clocks, trusted_ms) = (Clocks::now(), trusted_ms());
    let system_ms = clocks.anchors.system_ms(clocks.system_ms, clocks.boot_ms);
    let off_ms = |ms: i64| trusted_ms.map(|trusted_ms| ms.abs_diff(trusted_ms));
    let advertised_ms = match clocks.anchors.store_ms(clocks.boot_ms) {
        Some(store_ms) if off_ms(store_ms) <= off_ms(system_ms) => store_ms,
        _ => system_ms,
    };
    advertised_ms as u64
}

/// The time by which certificates are judged, in seconds since 1970: that which phones are told. The system's on a node that knows no time of an earlier run,
/// as long as its clock and the store's have never agreed: who sets the store's clock is not to have ended certificates accepted.
pub fn certificates_now() -> u64 {
    let system = |clocks: Clocks| clocks.anchors.system_ms(clocks.system_ms, clocks.boot_ms);
    if is_by_store_alone() { (system(Clocks::now()) / 1_000) as u64 } else { advertised_now() }
}

/// The store's clock says `store_ms` (milliseconds since 1970). How far the system's is ahead of it, in milliseconds, when that is
/// more than [`STORE_OFF_MAX_MS`]: then the store's is the shared one from now on.
pub fn store_says(store_ms: u64) -> Option<i64> {
    let (store_ms, boot_ms) = (store_ms as i64, boot_ms());
    let system_ms = unix_now_ms() as i64;
    let off_ms = system_ms - store_ms;
    let is_off = off_ms.abs() > STORE_OFF_MAX_MS;
    with_trusted(|trusted| {
        let store_anchor_ms = if is_off { store_ms - boot_ms } else { UNSET };
        let anchors = Anchors { store_anchor_ms, system_anchor_ms: system_ms - boot_ms, looked_at_ms: boot_ms };
        trusted.anchors.change(|last| *last = anchors);
        let mut watch = trusted.lock();
        let Some(watch) = watch.as_mut() else { return };
        let is_first = !std::mem::replace(&mut watch.has_heard_store, true);
        if is_first && is_off {
            // Nothing has passed yet but the start, by a clock that was wrong.
            let begun = Watch::begin(store_ms, boot_ms, watch.last_seen);
            *watch = Watch { has_heard_store: true, is_by_store_alone: watch.last_seen.is_none(), ..begun };
            trusted.anchor_ms.store(watch.anchor_ms, Ordering::Relaxed);
        }
        // An answer that agrees with the system's clock once proves nothing of a trusted time that does not.
        let is_far_off = (watch.anchor_ms + boot_ms - system_ms).abs() > STEP_MS;
        watch.is_by_store_alone &= is_off || is_far_off;
    });
    is_off.then_some(off_ms)
}

/// Begins to watch, once in a process. `last_seen`: what an earlier run trusted at its end, in seconds since 1970.
pub fn begin(last_seen: Option<u64>) {
    let (shared_ms, boot_ms) = (shared_ms(), boot_ms());
    with_trusted(|trusted| {
        let mut watch = trusted.lock();
        if watch.is_none() {
            let begun = Watch::begin(shared_ms, boot_ms, last_seen);
            trusted.anchor_ms.store(begun.anchor_ms, Ordering::Relaxed);
            *watch = Some(begun);
        }
    });
}

/// SharedAnchors at the clocks; to be called about once a second. `contradicted`: one of the system's and the store's clock agrees with the
/// trusted time, and the shared one does not.
pub fn look(contradicted: bool) -> Verdict {
    let boot_ms = boot_ms();
    let system_anchor_ms = unix_now_ms() as i64 - boot_ms;
    with_trusted(|trusted| {
        // The system's clock counts as it is.
        trusted.anchors.change(|last| *last = Anchors { system_anchor_ms, looked_at_ms: boot_ms, ..*last });
    });
    let shared_ms = shared_ms();
    with_trusted(|trusted| {
        let mut watch = trusted.lock();
        let Some(watch) = watch.as_mut() else { return Verdict::Steady };
        let verdict = watch.look(shared_ms, boot_ms, contradicted);
        trusted.anchor_ms.store(watch.anchor_ms, Ordering::Relaxed);
        if let Verdict::Believed(by_ms @ 1..) = verdict {
            trusted.believed_at_ms.store(boot_ms, Ordering::Relaxed);
            trusted.believed_ms.store(by_ms, Ordering::Relaxed);
        }
        verdict
    })
}

/// The verdict of a look at the clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is the matter.
    Steady,
    /// The system's clock is off by so many milliseconds (ahead: more than 0). `new`: since this look.
    Jumped {
        /// How far.
        by_ms: i64,
        /// The jump was not known before.
        new: bool,
    },
    /// The system's clock is back where it was.
    Returned,
    /// The jump by so many milliseconds is trusted from now on.
    Believed(i64),
}

/// The rule of the table above, as pure computation: milliseconds in, a verdict out.
#[derive(Debug)]
struct Watch {
    anchor_ms: i64,
    jump: Option<Jump>,
    followed_at_ms: i64,
    /// The trusted time at the end of the last run, as given at the beginning.
    last_seen: Option<u64>,
    has_heard_store: bool,
    /// The trusted time is the store's alone: the system's clock says otherwise, and no earlier run has told one.
    is_by_store_alone: bool,
}

/// A jump that is not trusted yet.
#[derive(Clone, Copy, Debug)]
struct Jump {
    off_ms: i64,
    /// Since when it is steady, in milliseconds since boot.
    since_ms: i64,
}

impl Watch {
    fn begin(system_ms: i64, boot_ms: i64, last_seen: Option<u64>) -> Self {
        let trusted_ms = match last_seen.map(|seen| seen as i64 * 1_000) {
            Some(seen) if system_ms - seen > DOWNTIME_S as i64 * 1_000 || seen - system_ms > STEP_MS => seen,
            _ => system_ms,
        };
        let (anchor_ms, followed_at_ms) = (trusted_ms - boot_ms, boot_ms);
        Self { anchor_ms, jump: None, followed_at_ms, last_seen, has_heard_store: false, is_by_store_alone: false }
    }

    fn look(&mut self, system_ms: i64, boot_ms: i64, contradicted: bool) -> Verdict {
        let off_ms = system_ms - (self.anchor_ms + boot_ms);
        if off_ms.abs() <= NOISE_MS {
            if boot_ms - self.followed_at_ms >= FOLLOW_EVERY_MS {
                self.anchor_ms += off_ms.clamp(-FOLLOWED_MS, FOLLOWED_MS);
                self.followed_at_ms = boot_ms;
            }
            return if self.jump.take().is_some() { Verdict::Returned } else { Verdict::Steady };
        }
        let new = self.jump.is_none();
        let steady = self.jump.filter(|jump| (off_ms - jump.off_ms).abs() <= NOISE_MS && !contradicted);
        let jump = steady.unwrap_or(Jump { off_ms, since_ms: boot_ms });
        let wanted_ms = if off_ms.abs() <= STEP_MS { STEP_STEADY_MS } else { JUMP_STEADY_MS };
        if boot_ms - jump.since_ms >= wanted_ms {
            self.anchor_ms += off_ms;
            self.jump = None;
            return Verdict::Believed(off_ms);
        }
        self.jump = Some(jump);
        Verdict::Jumped { by_ms: off_ms, new }
    }
}

pub(super) fn trusted_ms() -> Option<i64> {
    let anchor_ms = with_trusted(|trusted| trusted.anchor_ms.load(Ordering::Relaxed));
    (anchor_ms != UNSET).then(|| (anchor_ms + boot_ms()).max(0))
}

fn boot_ms() -> i64 {
    since_boot().as_millis() as i64
}

/// The time since boot, which nobody can set, and in which a suspended machine has been suspended.
pub fn since_boot() -> Duration {
    if let Some(up) = super::virtual_up() {
        return up;
    }
    let since = clock_gettime(ClockId::Boottime);
    // Neither is ever negative.
    Duration::new(since.tv_sec as u64, since.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::anchors::UNLOOKED_MS;

    const START_MS: i64 = 1_795_000_000_000;
    const BOOT_MS: i64 = 500_000_000;
    const DAY_MS: i64 = 86_400_000;

    /// A machine whose clocks a test sets.
    struct Machine {
        watch: Watch,
        boot_ms: i64,
        off_ms: i64,
    }

    impl Machine {
        fn new() -> Self {
            Self { watch: Watch::begin(START_MS, BOOT_MS, None), boot_ms: BOOT_MS, off_ms: 0 }
        }

        fn system_ms(&self) -> i64 {
            START_MS + self.boot_ms - BOOT_MS + self.off_ms
        }

        /// SharedAnchors once a second for so long; the verdicts that were not the one before again.
        fn run(&mut self, for_ms: i64, contradicted: bool) -> Vec<Verdict> {
            let mut verdicts = Vec::new();
            for _ in 0..for_ms / 1_000 {
                self.boot_ms += 1_000;
                let verdict = self.watch.look(self.system_ms(), self.boot_ms, contradicted);
                if !matches!(verdict, Verdict::Steady | Verdict::Jumped { new: false, .. }) {
                    verdicts.push(verdict);
                }
            }
            verdicts
        }

        /// How far the trusted time is from real time.
        fn error_ms(&self) -> i64 {
            self.watch.anchor_ms + BOOT_MS - START_MS
        }
    }

    #[test]
    fn phones_are_told_the_time_of_the_clock_that_has_not_jumped() {
        const UP: Duration = Duration::from_secs(1_000);
        // The simulated machine is that of its thread.
        let simulated = std::thread::spawn(|| {
            let mut machine = super::super::Machine { up: UP, ..Default::default() };
            let right_ms = super::super::virtual_unix_ms(UP);
            let mut set = |off_ms: i64| {
                machine.off_ms = off_ms;
                super::super::set_virtual(&machine);
            };
            set(0);
            begin(None);
            assert_eq!((store_says(right_ms), advertised_now(), is_of_store()), (None, right_ms / 1_000, false));
            for off_ms in [-45_000, 45_000, 3 * DAY_MS] {
                set(off_ms);
                assert_eq!(store_says(right_ms), Some(off_ms));
                assert_eq!((advertised_now(), shared_now()), (right_ms / 1_000, right_ms / 1_000), "{off_ms}");
            }
            set(0);
            for off_ms in [-6 * DAY_MS, 6 * DAY_MS] {
                let said_ms = right_ms.saturating_add_signed(off_ms);
                assert_eq!(store_says(said_ms), Some(-off_ms));
                assert_eq!(
                    (advertised_now(), shared_now()),
                    (right_ms / 1_000, said_ms / 1_000),
                    "the store's has jumped"
                );
                assert!(is_of_store());
            }
        });
        simulated.join().expect("no panic");
    }

    #[test]
    fn certificates_go_by_the_systems_clock_where_the_stores_word_alone_is_against_it() {
        const UP: Duration = Duration::from_secs(1_000);
        for (has_earlier_run, by_system) in [(false, true), (true, false)] {
            // The simulated machine is that of its thread.
            let simulated = std::thread::spawn(move || {
                let mut machine = super::super::Machine { up: UP, ..Default::default() };
                let right_ms = super::super::virtual_unix_ms(UP);
                let mut set = |off_ms: i64| {
                    machine.off_ms = off_ms;
                    super::super::set_virtual(&machine);
                };
                set(400 * DAY_MS);
                begin(has_earlier_run.then_some(right_ms / 1_000));
                let system = super::super::unix_now();
                assert_eq!((certificates_now(), store_says(right_ms)), (system, Some(400 * DAY_MS)));
                assert_eq!((certificates_now() == system, advertised_now()), (by_system, right_ms / 1_000));
                assert_eq!(time_for_next_run().is_none(), by_system);
                set(0);
                assert_eq!((store_says(right_ms), certificates_now()), (None, right_ms / 1_000));
                set(400 * DAY_MS);
                assert_eq!(store_says(right_ms), Some(400 * DAY_MS));
                assert_eq!(certificates_now(), right_ms / 1_000, "they have agreed");
            });
            simulated.join().expect("no panic");
        }
    }

    #[test]
    fn a_store_whose_clock_was_right_for_one_answer_does_not_date_certificates() {
        const UP: Duration = Duration::from_secs(1_000);
        let simulated = std::thread::spawn(|| {
            super::super::set_virtual(&super::super::Machine { up: UP, ..Default::default() });
            begin(None);
            let system_ms = super::super::virtual_unix_ms(UP);
            for ahead_ms in [400 * DAY_MS, 0, 400 * DAY_MS] {
                assert_eq!(store_says(system_ms.saturating_add_signed(ahead_ms)).is_some(), ahead_ms > 0);
                assert_eq!(certificates_now(), system_ms / 1_000, "{ahead_ms}");
            }
        });
        simulated.join().expect("no panic");
    }

    #[test]
    fn a_jump_counts_once_the_store_was_asked_or_did_not_answer() {
        const UP: Duration = Duration::from_secs(1_000);
        // The simulated machine is that of its thread.
        let simulated = std::thread::spawn(|| {
            let mut machine = super::super::Machine { up: UP, ..Default::default() };
            let mut set = |after_ms: u64, off_ms: i64| {
                (machine.up, machine.off_ms) = (UP + Duration::from_millis(after_ms), off_ms);
                super::super::set_virtual(&machine);
                super::super::virtual_unix_ms(machine.up)
            };
            let right_ms = set(0, 0);
            begin(None);
            assert_eq!(store_says(right_ms), None);
            for off_ms in [-DAY_MS, 400 * DAY_MS] {
                // Times that are read within the second are right, and stay right once the store has answered.
                let right_ms = set(900, off_ms);
                assert_eq!((has_leapt(), shared_now_ms(), advertised_now_ms()), (true, right_ms, right_ms), "{off_ms}");
                assert_eq!(store_says(right_ms), Some(off_ms));
                assert_eq!(
                    (has_leapt(), shared_now_ms(), advertised_now_ms()),
                    (false, right_ms, right_ms),
                    "{off_ms}"
                );
                let right_ms = set(1_000, 0);
                assert_eq!((shared_now_ms(), store_says(right_ms)), (right_ms, None));
            }
            // The store was asked and has jumped as well, on the same machine.
            let right_ms = set(2_000, DAY_MS);
            let both_ms = right_ms + DAY_MS as u64;
            assert!(has_leapt());
            assert_eq!((store_says(both_ms), shared_now_ms(), advertised_now_ms()), (None, both_ms, both_ms));
            // It does not answer: the next look believes the system's.
            let right_ms = set(3_000, 0);
            assert_eq!(shared_now_ms(), right_ms + DAY_MS as u64);
            look(false);
            assert_eq!((has_leapt(), shared_now_ms()), (false, right_ms));
            // Nobody looks.
            let right_ms = set(3_000 + UNLOOKED_MS as u64 + 1, DAY_MS);
            assert_eq!((has_leapt(), shared_now_ms()), (false, right_ms + DAY_MS as u64));
        });
        simulated.join().expect("no panic");
    }

    #[test]
    fn a_jump_that_is_taken_back_was_never_believed() {
        for off_ms in [DAY_MS, 30 * DAY_MS, 365 * DAY_MS, -DAY_MS, -START_MS] {
            let mut machine = Machine::new();
            machine.off_ms = off_ms;
            assert_eq!(machine.run(JUMP_STEADY_MS - 1_000, false), [Verdict::Jumped { by_ms: off_ms, new: true }]);
            assert_eq!(machine.error_ms(), 0);
            machine.off_ms = 0;
            assert_eq!(machine.run(60_000, false), [Verdict::Returned]);
        }
    }

    #[test]
    fn a_jump_that_stays_is_believed_after_six_hours_and_never_while_the_store_says_otherwise() {
        let mut machine = Machine::new();
        machine.off_ms = 30 * DAY_MS;
        assert_eq!(machine.run(3 * JUMP_STEADY_MS, true).len(), 1);
        assert_eq!(machine.error_ms(), 0);
        assert_eq!(machine.run(JUMP_STEADY_MS + 1_000, false), [Verdict::Believed(30 * DAY_MS)]);
        assert_eq!(machine.error_ms(), 30 * DAY_MS);
    }

    #[test]
    fn a_step_of_a_time_service_is_believed_after_a_minute() {
        for off_ms in [4_000, -200_000] {
            let mut machine = Machine::new();
            machine.off_ms = off_ms;
            assert_eq!(machine.run(62_000, false).last(), Some(&Verdict::Believed(off_ms)));
        }
    }

    #[test]
    fn a_clock_that_is_disciplined_is_followed_and_one_that_runs_ten_times_too_fast_is_not() {
        let mut machine = Machine::new();
        for _ in 0..100 {
            machine.off_ms += 20;
            assert_eq!(machine.run(60_000, false), []);
        }
        assert!((1_900..=2_000).contains(&machine.error_ms()), "{}", machine.error_ms());
        let mut machine = Machine::new();
        for _ in 0..2 * JUMP_STEADY_MS / 1_000 {
            machine.off_ms += 9_000;
            machine.run(1_000, false);
        }
        assert!(machine.error_ms() < 10_000, "{}", machine.error_ms());
    }

    #[test]
    fn a_start_goes_on_from_the_last_run_unless_the_relay_was_just_off_for_a_while() {
        let seen = START_MS as u64 / 1_000;
        for (off_s, believed_s) in [(0, 0), (1_800, 1_800), (-60, -60), (30 * 86_400, 0), (-30 * 86_400, 0)] {
            let watch = Watch::begin(START_MS + off_s * 1_000, BOOT_MS, Some(seen));
            assert_eq!(watch.anchor_ms + BOOT_MS - START_MS, believed_s * 1_000, "{off_s}");
        }
    }
}

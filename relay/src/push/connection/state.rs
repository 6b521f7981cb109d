//! The state of one connection to a push service, its *line*: whether a request may go over it.
//!
//! | state | a new request | it ends with |
//! | --- | --- | --- |
//! | good | goes; if nothing was heard for [`IDLE_AFTER`], the line is asked first | a request unanswered for [`ASK_AFTER`], or one that finds the line idle: it is asked. Requests that waited for all of the service's time in vain, or one of which a part has left and no more does: retired, and given up |
//! | asked: a PING is out | is held | its ACK, or any answer: good. Neither within the line's patience: silent |
//! | silent | goes elsewhere, and so do requests that have not begun to leave; those under way may still be answered, and when nobody waits for it any more the line is cut | never |
//! | retired | goes elsewhere; requests under way may still be answered, and those that have not begun to leave go elsewhere when it is given up | never |
//!
//! A line's patience is [`PATIENCE_MIN`], or four of its round trips; one that has never said anything gets [`PATIENCE_MAX`], for its service may be
//! slow in all it does. An ACK does not say that requests are answered: a proxy that stands in front of a service sends it, too. The service's time
//! is [`ANSWER_MIN`], or [`ANSWER_UNKNOWN`] or [`ANSWER_UNPROVEN`] where the line has answered nothing yet, or four times what slow answers of its
//! service took lately; it is counted from the last answer on, while any request waits.
//!
//! A line that follows one which ended young without a good answer is asked before its first request ([`ConnectionHistory::is_doubtful`]): what ended that one
//! may end this. One that was begun beside another for a call that waits is asked as well.
//!
//! Pushes other than calls have a part of the streams ([`ALERTS_PART`]) and wait for that in a line of their own: a call takes the next stream
//! that is free, however many others wait.
//!
//! Invariant: the state is one atomic, and a request over a good line takes no lock here but that of the semaphore of its
//! stream. A line that is not good lets no request go, and wakes all that are held when it is decided.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::history::ConnectionHistory;
use super::urgency::Urgency;
use crate::lock::Mutex;

/// Requests on one connection at once; the service's own limit, when lower, is kept as well.
const MAX_STREAMS: usize = 1_000;
/// Streams that `h2` opens before the service has told its limit.
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// The part of the streams that what is no call may have.
const ALERTS_PART: (usize, usize) = (3, 4);
/// A request that is unanswered for so long, while nothing else is heard, has the line asked.
pub(super) const ASK_AFTER: Duration = Duration::from_millis(250);
/// While requests are unanswered the line is asked again, at first after [`ASK_AFTER`], and at most so rarely.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(1);
/// A line on which nothing was heard for so long is asked before a request goes over it.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How often an idle line is asked, so that what stands between keeps it open and a dead one is found.
const ASK_IDLE_EVERY: Duration = Duration::from_secs(30);
/// The least and the most that an ACK may take.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// The least and the most that a service may take for an answer while it answers nothing else, and what it may take for the first.
const ANSWER_MIN: Duration = Duration::from_secs(2);
const ANSWER_MAX: Duration = Duration::from_secs(20);
const ANSWER_UNKNOWN: Duration = Duration::from_millis(4_500);
/// Likewise where the others wait for that one: each further connection carries one alone, too, and a service that is merely slow
/// would get them one by one.
const ANSWER_UNPROVEN: Duration = Duration::from_secs(14);
/// The count of requests that waited in vain starts anew so long after the last one ended.
const VAIN_FOR: Duration = Duration::from_secs(10);
const GOOD: u8 = 0;
const ASKED: u8 = 1;
const RETIRED: u8 = 2;
const SILENT: u8 = 3;

/// The meaning of an answer for the line that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineFate {
    /// The connection goes on.
    Good,
    /// The fault may stick to this line: the next try goes over a fresh one. A line that has served others meanwhile is
    /// only replaced once its successor is there.
    Faulty,
    /// A fault that has cost other lines already: it is whose push it is.
    Borne,
    /// The service gives this line up.
    Ending,
}

/// One connection, as its users and its driver share it.
pub(super) struct Line {
    /// One permit for each stream that may be open; closed when the line takes no further requests.
    gate: Semaphore,
    /// So many there are; each change is made under the lock.
    granted: AtomicUsize,
    /// Of these permits one for each stream that what is no call may have, and how many there are.
    alerts: Semaphore,
    alerts_granted: AtomicUsize,
    resizing: Mutex<()>,
    state: AtomicU8,
    /// Told when the state changes.
    changed: Notify,
    /// Tells the driver to look at the line.
    look: Notify,
    /// The line is to send a PING then, though it counts as good until that is unanswered.
    is_doubted: AtomicBool,
    opened: Instant,
    /// When something was last heard, and what an ACK takes; in milliseconds, the first since `opened`. 0: nothing yet.
    heard: AtomicU64,
    round_trip: AtomicU64,
    /// When a request was last answered; in microseconds since `opened`, and one more. 0: none yet.
    answered: AtomicU64,
    vain: Mutex<UnansweredTime>,
    /// The line was given up: it has answered nothing, or taken no more.
    is_deaf: AtomicBool,
    /// The service has taken our credentials on it.
    proven: AtomicBool,
    /// When a line that is not proven last let a request go; in milliseconds since `opened`.
    busy_since: AtomicU64,
    /// It is one beside the connection for all: its end says nothing of that.
    is_aside: AtomicBool,
    /// A successor is wanted.
    tired: AtomicBool,
    good: AtomicU32,
    faults_in_a_row: AtomicU32,
    history: Arc<ConnectionHistory>,
}

/// How long requests have waited since the last answer, each moment counted once.
#[derive(Default)]
struct UnansweredTime {
    waited: Duration,
    /// Until when that was counted.
    until: Option<Instant>,
}

/// The right to one stream, given back when dropped.
pub(super) struct Place {
    line: Arc<Line>,
    is_kept: bool,
    is_alerts: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        // A request that waits for a stream already comes first.
        if self.is_kept {
            self.line.gate.add_permits(1);
        }
        if self.is_alerts {
            self.line.alerts.add_permits(1);
        }
        // Either this sees that the line is silent, or who ends it sees the permit.
        fence(Ordering::SeqCst);
        if self.line.is_silent() {
            self.line.changed.notify_waiters();
        }
    }
}

impl Line {
    /// A `cautious` connection carries one request at a time until our credentials were taken; any other up to the `known` limit.
    pub(super) fn new(cautious: bool, known: usize, history: Arc<ConnectionHistory>) -> Arc<Self> {
        let granted = if cautious { 1 } else { known.clamp(1, STREAMS_BEFORE_SETTINGS) };
        let state = if history.is_doubtful() { ASKED } else { GOOD };
        Arc::new(Self {
            gate: Semaphore::new(granted),
            granted: AtomicUsize::new(granted),
            alerts: Semaphore::new(part_of_alerts(granted)),
            alerts_granted: AtomicUsize::new(part_of_alerts(granted)),
            resizing: Mutex::new(()),
            state: AtomicU8::new(state),
            changed: Notify::new(),
            look: Notify::new(),
            is_doubted: AtomicBool::new(false),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
            round_trip: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            vain: Mutex::default(),
            is_deaf: AtomicBool::new(false),
            proven: AtomicBool::new(!cautious),
            busy_since: AtomicU64::new(0),
            is_aside: AtomicBool::new(false),
            tired: AtomicBool::new(false),
            good: AtomicU32::new(0),
            faults_in_a_row: AtomicU32::new(0),
            history,
        })
    }

    /// The right to one stream, for a call or for what is none, once the line is known to be good. `None`: it takes no further
    /// requests. `limit` tells how many streams the service allows at this moment.
    pub(super) async fn admit(self: &Arc<Self>, urgency: Urgency, limit: impl Fn() -> usize) -> Option<Place> {
        let place = loop {
            let alerts = if urgency.is_urgent() { None } else { Some(self.alerts.acquire().await.ok()?) };
            let stream = self.gate.acquire().await.ok()?;
            if let Some(place) = self.kept(self.place(stream, alerts), limit()) {
                break place;
            }
        };
        while self.state.load(Ordering::Acquire) != GOOD || self.is_idle() {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.state.load(Ordering::Acquire) {
                GOOD if !self.is_idle() => break,
                GOOD => self.ask(),
                ASKED => changed.await,
                _ => return None,
            }
        }
        Some(place)
    }

    /// Likewise, if there is nothing to wait for; a line that may be dead is asked, for those who come later.
    pub(super) fn try_admit(self: &Arc<Self>, urgency: Urgency, limit: impl Fn() -> usize) -> Option<Place> {
        let alerts = if urgency.is_urgent() { None } else { Some(self.alerts.try_acquire().ok()?) };
        let stream = self.gate.try_acquire().ok()?;
        let place = self.kept(self.place(stream, alerts), limit())?;
        match self.state.load(Ordering::Acquire) {
            GOOD if !self.is_idle() => Some(place),
            _ => {
                self.ask();
                None
            }
        }
    }

    fn place(self: &Arc<Self>, stream: SemaphorePermit<'_>, alerts: Option<SemaphorePermit<'_>>) -> Place {
        let is_alerts = alerts.is_some();
        if !self.is_proven() {
            self.busy_since.store(self.age(Instant::now()), Ordering::Relaxed);
        }
        stream.forget();
        alerts.into_iter().for_each(SemaphorePermit::forget);
        Place { line: Arc::clone(self), is_kept: true, is_alerts }
    }

    /// A request has been unanswered for [`ASK_AFTER`].
    pub(super) fn suspect(&self) {
        if self.heard_within(ASK_AFTER) { self.look.notify_one() } else { self.ask() }
    }

    /// A request was given up before it was known whether it arrives.
    pub(super) fn doubt(&self) {
        self.is_doubted.store(true, Ordering::Release);
        self.look.notify_one();
    }

    /// Has a good line asked: no request goes before its ACK.
    pub(super) fn ask(&self) {
        if self.state.compare_exchange(GOOD, ASKED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.look.notify_one();
        }
    }

    /// Waits until the line has fallen silent.
    pub(super) async fn silence(&self) {
        self.change(Self::is_silent).await;
    }

    /// Waits until the line is given up.
    pub(super) async fn deafness(&self) {
        self.change(Self::is_deaf).await;
    }

    /// Waits until the line has fallen silent, or is given up.
    pub(super) async fn failure(&self) {
        self.change(|line| line.is_silent() || line.is_deaf()).await;
    }

    /// Waits until nobody waits for anything on the line, which has fallen silent.
    pub(super) async fn abandonment(&self) {
        self.change(|line| line.open_streams() == 0).await;
    }

    async fn change(&self, has_come: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if has_come(self) {
                return;
            }
            changed.await;
        }
    }

    /// How long a request may wait while nothing is answered.
    pub(super) fn answer_patience(&self) -> Duration {
        let usual = match (self.answered.load(Ordering::Relaxed), self.proven.load(Ordering::Relaxed)) {
            (0, false) => ANSWER_UNPROVEN,
            (0, true) => ANSWER_UNKNOWN,
            _ => ANSWER_MIN,
        };
        usual.max((self.history.slow_answer() * 4).min(ANSWER_MAX))
    }

    /// A request that was sent then has had no answer until now. When nothing was answered for all of the service's time the line
    /// gets no further requests. One that others have overtaken says nothing of the line.
    pub(super) fn note_unanswered(&self, sent: Instant) {
        let now = Instant::now();
        let answered = self.opened + Duration::from_micros(self.answered.load(Ordering::Relaxed).saturating_sub(1));
        if sent < answered {
            return;
        }
        let waited = {
            let mut vain = self.vain.lock();
            let counted = match vain.until {
                Some(until) if until >= answered && sent < until + VAIN_FOR => until,
                _ => {
                    vain.waited = Duration::ZERO;
                    answered
                }
            };
            vain.waited += now.saturating_duration_since(sent.max(counted));
            vain.until = Some(counted.max(now));
            vain.waited
        };
        if waited >= self.answer_patience() {
            self.give_up();
        }
    }

    /// It answers nothing, or takes no more of what it has begun to take: what has not begun to leave by it goes elsewhere, also where it was retired before.
    pub(super) fn give_up(&self) {
        if !self.is_deaf.swap(true, Ordering::AcqRel) {
            self.retire();
        }
    }

    /// An answer took so long, more than [`ASK_AFTER`].
    pub(super) fn note_slow_answer(&self, took: Duration) {
        self.history.note_slow_answer(took);
    }

    /// An answer came, which means this for the line; `proves`: our credentials were taken. `limit` tells how many streams the
    /// service allows at this moment. Whether the line is given up for it, which it was not before, as one that the fault may stick to.
    pub(super) fn answered(&self, fate: LineFate, proves: bool, limit: impl FnOnce() -> usize) -> bool {
        let now = Instant::now();
        self.hear(now);
        let since = u64::try_from(now.saturating_duration_since(self.opened).as_micros()).unwrap_or(u64::MAX);
        self.answered.store(since.saturating_add(1), Ordering::Relaxed);
        if proves && !self.proven.swap(true, Ordering::Relaxed) {
            self.resize(limit());
        }
        match fate {
            LineFate::Good => {
                self.good.fetch_add(1, Ordering::Relaxed);
                self.faults_in_a_row.store(0, Ordering::Relaxed);
            }
            LineFate::Faulty => {
                let again = self.faults_in_a_row.fetch_add(1, Ordering::Relaxed) > 0;
                return match self.good.load(Ordering::Relaxed) {
                    0 => {
                        let was_retired = self.is_retired();
                        self.retire();
                        !was_retired
                    }
                    // A line that serves other pushes well is not replaced more than once a second.
                    _ if again || self.opened.elapsed() >= Duration::from_secs(1) => {
                        !self.tired.swap(true, Ordering::Relaxed)
                    }
                    _ => false,
                };
            }
            LineFate::Borne => {}
            LineFate::Ending => self.retire(),
        }
        false
    }

    /// Whether the service has taken our credentials on it.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// When a line that is not proven let its request go.
    pub(super) fn busy_since(&self) -> Instant {
        self.opened + Duration::from_millis(self.busy_since.load(Ordering::Relaxed))
    }

    /// It is one beside the connection for all, or takes its place.
    pub(super) fn set_aside(&self, is_aside: bool) {
        self.is_aside.store(is_aside, Ordering::Relaxed);
    }

    /// Whether it is one beside the connection for all.
    pub(super) fn is_aside(&self) -> bool {
        self.is_aside.load(Ordering::Relaxed)
    }

    /// Lets no further request go; requests under way go on.
    pub(super) fn retire(&self) {
        self.end(RETIRED);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.gate.is_closed()
    }

    /// Whether it was [given up](Self::give_up).
    pub(super) fn is_deaf(&self) -> bool {
        self.is_deaf.load(Ordering::Acquire)
    }

    /// Whether a request could have a stream now.
    pub(super) fn has_room(&self) -> bool {
        self.gate.available_permits() > 0
    }

    /// How many requests were answered well, if none is under way.
    pub(super) fn served_if_idle(&self) -> Option<u32> {
        (self.open_streams() == 0).then(|| self.good.load(Ordering::Relaxed))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SILENT
    }

    /// Whether a successor is wanted while it still serves.
    pub(super) fn is_tired(&self) -> bool {
        self.tired.load(Ordering::Relaxed)
    }

    /// Whether it has answered well.
    pub(super) fn has_served(&self) -> bool {
        self.good.load(Ordering::Relaxed) > 0
    }

    /// Whether it died young, or has never answered well.
    pub(super) fn was_poor(&self) -> bool {
        self.is_silent() || self.good.load(Ordering::Relaxed) == 0
    }

    /// Asks the line by PING whenever that is due, until it has fallen silent or ended. `limit` tells how many streams the
    /// service allows.
    pub(super) async fn watch(&self, pings: &mut PingPong, limit: impl Fn() -> Option<usize>) {
        let mut pause = ASK_AFTER;
        loop {
            if self.ping(pings).await.is_none() {
                return;
            }
            // Until there is a reason to ask again.
            loop {
                // The service's own limit is known without asking.
                if let Some(limit) = limit() {
                    self.resize(limit);
                }
                let wait = if self.open_streams() == 0 { ASK_IDLE_EVERY } else { pause };
                tokio::select! {
                    () = self.look.notified() => pause = ASK_AFTER,
                    () = sleep(wait) => pause = (pause * 2).min(ASK_AGAIN_MAX),
                }
                let is_doubted = self.is_doubted.swap(false, Ordering::AcqRel);
                if is_doubted || self.state.load(Ordering::Acquire) != GOOD || !self.heard_within(wait.min(pause)) {
                    break;
                }
            }
        }
    }

    /// One PING and its ACK. `None`: the line has ended, or is silent.
    async fn ping(&self, pings: &mut PingPong) -> Option<()> {
        let asked = Instant::now();
        let pong = pings.ping(Ping::opaque());
        tokio::pin!(pong);
        loop {
            let waiting_since = Instant::now();
            match timeout(self.patience(), &mut pong).await {
                Ok(Ok(_)) => {
                    self.note_round_trip(asked.elapsed());
                    self.hear(Instant::now());
                    return Some(());
                }
                Ok(Err(_)) => return None,
                // Answers come, though no ACK: that is no silence.
                Err(_) if self.heard_since(waiting_since) => {}
                Err(_) => {
                    self.end(SILENT);
                    return None;
                }
            }
        }
    }

    fn end(&self, state: u8) {
        self.gate.close();
        self.alerts.close();
        let ended = self.state.fetch_max(state, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        if ended < RETIRED && !self.is_aside() {
            self.history.note_end(self.opened.elapsed(), self.good.load(Ordering::Relaxed), state == SILENT);
        }
        self.changed.notify_waiters();
    }

    fn hear(&self, now: Instant) {
        self.heard.fetch_max(self.age(now).max(1), Ordering::Relaxed);
        if self.state.load(Ordering::Acquire) == ASKED
            && self.state.compare_exchange(ASKED, GOOD, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            self.changed.notify_waiters();
        }
    }

    fn note_round_trip(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let known = self.round_trip.load(Ordering::Relaxed);
        let smoothed = if known == 0 { took } else { (known * 3 + took) / 4 };
        self.round_trip.store(smoothed.max(1), Ordering::Relaxed);
    }

    fn patience(&self) -> Duration {
        match (self.heard.load(Ordering::Relaxed), self.round_trip.load(Ordering::Relaxed)) {
            (0, _) => PATIENCE_MAX,
            (_, round_trip) => Duration::from_millis(round_trip.saturating_mul(4)).clamp(PATIENCE_MIN, PATIENCE_MAX),
        }
    }

    /// A new line has just been spoken to, in its handshakes: it is not idle.
    fn is_idle(&self) -> bool {
        !self.heard_within(IDLE_AFTER)
    }

    fn heard_within(&self, period: Duration) -> bool {
        let silent = self.age(Instant::now()).saturating_sub(self.heard.load(Ordering::Relaxed));
        Duration::from_millis(silent) < period
    }

    fn heard_since(&self, moment: Instant) -> bool {
        self.heard.load(Ordering::Relaxed) > self.age(moment)
    }

    fn age(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    fn open_streams(&self) -> usize {
        self.granted.load(Ordering::Relaxed).saturating_sub(self.gate.available_permits())
    }

    /// The place, unless the service has lowered its limit below what is open: then there is one less until the limit is raised, for
    /// `h2` would let its request wait out of our sight. Once it is raised, the next request opens the gate for those behind.
    fn kept(&self, mut place: Place, limit: usize) -> Option<Place> {
        let limit = limit.clamp(1, MAX_STREAMS);
        if limit > self.granted.load(Ordering::Relaxed) && self.proven.load(Ordering::Relaxed) {
            self.resize(limit);
        }
        if self.open_streams() <= limit {
            return Some(place);
        }
        let _resizing = self.resizing();
        if self.open_streams() <= limit {
            return Some(place);
        }
        place.is_kept = false;
        self.granted.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Opens the gate for as many streams as the service allows, once it has accepted our credentials.
    fn resize(&self, limit: usize) {
        let _resizing = self.resizing();
        let wanted = if self.proven.load(Ordering::Relaxed) { limit.clamp(1, MAX_STREAMS) } else { 1 };
        regrant(&self.gate, &self.granted, wanted);
        regrant(&self.alerts, &self.alerts_granted, part_of_alerts(wanted));
    }

    fn resizing(&self) -> MutexGuard<'_, ()> {
        self.resizing.lock()
    }
}

/// Of so many streams those that what is no call may have.
fn part_of_alerts(streams: usize) -> usize {
    (streams * ALERTS_PART.0 / ALERTS_PART.1).max(1)
}

/// Brings the permits of a gate, of which so many were granted, to `wanted`; of those that are used none is taken away.
fn regrant(gate: &Semaphore, granted: &AtomicUsize, wanted: usize) {
    let before = granted.load(Ordering::Relaxed);
    let now = if wanted > before {
        gate.add_permits(wanted - before);
        wanted
    } else {
        before - gate.forget_permits(before - wanted)
    };
    granted.store(now, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;

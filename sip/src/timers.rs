//! Deadlines in order.
//!
//! A deadline is never taken back: its owner looks, when it fires, whether it still means something. So setting one costs
//! a heap push, and forgetting one costs nothing.
//!
//! A deadline that is set in the past while others fire, fires [`REST`] later. So an owner that sets its own in the past again and again costs work, and
//! delays nobody.
//!
//! Invariant: equal deadlines fire in the order in which they were set. Firing all that are due ends, whatever deadlines their owners
//! set. Deadlines are less than 292 years apart.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// The rest of a deadline that was set in the past while others fired.
const REST: Duration = Duration::from_millis(1);

/// Brings a deadline forward by time that has passed and that no clock has counted; it is not earlier than now by that.
pub fn bring_forward(deadline: &mut Instant, now: Instant, lost: Duration) {
    *deadline = deadline.checked_sub(lost).unwrap_or(now).max(now).min(*deadline);
}

/// Deadlines, each with a key that says whose it is.
#[derive(Debug)]
pub struct Timers<K> {
    heap: BinaryHeap<Reverse<Entry<K>>>,
    set: u64,
    /// The instant that deadlines are counted from: the first of them.
    origin: Option<Instant>,
    /// The moment up to which deadlines fire, as long as they do.
    firing: Option<Instant>,
    /// Deadlines that had passed already when they were set, while others fired.
    resting: Vec<Reverse<Entry<K>>>,
    /// The end of their rest.
    rest_until: Option<Instant>,
}

#[derive(Debug)]
struct Entry<K> {
    /// In nanoseconds from [`Timers::origin`]: half of what a moment takes.
    at: i64,
    order: u64,
    key: K,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        let (heap, resting) = (BinaryHeap::new(), Vec::new());
        Self { heap, set: 0, origin: None, firing: None, resting, rest_until: None }
    }
}

impl<K> Timers<K> {
    /// Sets a deadline.
    pub fn set(&mut self, at: Instant, key: K) {
        let origin = *self.origin.get_or_insert(at);
        let entry = Reverse(Entry { at: since(origin, at), order: self.set, key });
        self.set += 1;
        match self.firing.filter(|now| at <= *now) {
            Some(now) => {
                // Deadlines that rest already do so beyond `now`.
                self.rest_until.get_or_insert(now + REST);
                self.resting.push(entry);
            }
            None => self.heap.push(entry),
        }
    }

    /// The next deadline.
    pub fn next(&self) -> Option<Instant> {
        let first = self.heap.peek().zip(self.origin).map(|(Reverse(entry), origin)| after(origin, entry.at));
        [first, self.rest_until].into_iter().flatten().min()
    }

    /// How many are set, those included that mean nothing any more.
    pub fn pending(&self) -> usize {
        self.heap.len() + self.resting.len()
    }

    /// Forgets the deadlines that mean nothing any more.
    pub fn retain(&mut self, mut counts: impl FnMut(Instant, &K) -> bool) {
        let Some(origin) = self.origin else { return };
        let mut counts = |Reverse(entry): &Reverse<Entry<K>>| counts(after(origin, entry.at), &entry.key);
        self.heap.retain(&mut counts);
        self.resting.retain(&mut counts);
    }

    /// Gives the room of a moment back that was much busier; what so many need is kept.
    pub fn give_room_back(&mut self, kept: usize) {
        if self.heap.capacity() > kept && self.heap.len() < self.heap.capacity() / 8 {
            self.heap.shrink_to(2 * self.heap.len());
        }
    }

    /// How many there is room for.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.heap.capacity()
    }

    /// Takes one deadline that is due at `now`. They fire until there is none.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.rest_until.is_some_and(|until| until <= now) {
            self.rest_until = None;
            self.heap.extend(self.resting.drain(..));
        }
        let is_due =
            self.heap.peek().zip(self.origin).is_some_and(|(Reverse(entry), origin)| after(origin, entry.at) <= now);
        self.firing = is_due.then_some(now);
        if is_due { self.heap.pop().map(|Reverse(entry)| entry.key) } else { None }
    }
}

/// Nanoseconds from `origin` to `at`.
fn since(origin: Instant, at: Instant) -> i64 {
    let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(origin) {
        Some(later) => nanos(later),
        None => -nanos(origin.duration_since(at)),
    }
}

/// The instant `nanos` nanoseconds after `origin`.
fn after(origin: Instant, nanos: i64) -> Instant {
    let time = Duration::from_nanos(nanos.unsigned_abs());
    let at = if nanos < 0 { origin.checked_sub(time) } else { origin.checked_add(time) };
    // The sum is an instant that was once set, so it is representable.
    at.unwrap_or(origin)
}

/// The one timer that counts for an owner of deadlines. A deadline that moves away leaves it as it is: it fires, the owner
/// looks, and it is set again; so a flood of events sets no flood of timers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Armed(Option<Instant>);

impl Armed {
    /// Whether, and for when, a timer must be set for this deadline.
    pub fn must_set(&mut self, deadline: Option<Instant>) -> Option<Instant> {
        let at = deadline.filter(|at| self.0.is_none_or(|armed| *at < armed))?;
        self.0 = Some(at);
        Some(at)
    }

    /// Whether the timer for this moment is the one that counts.
    pub fn is_at(self, at: Instant) -> bool {
        self.0 == Some(at)
    }

    /// A timer fires; whether it is the one that counts.
    pub fn fires(&mut self, now: Instant) -> bool {
        let counts = self.0.is_some_and(|at| at <= now);
        if counts {
            self.0 = None;
        }
        counts
    }
}

impl<K> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<K> Eq for Entry<K> {}

impl<K> PartialOrd for Entry<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Entry<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn deadlines_fire_in_order_and_never_early() {
        let start = Instant::now();
        let mut timers = Timers::default();
        timers.set(start + Duration::from_secs(2), 'c');
        timers.set(start + Duration::from_secs(1), 'a');
        timers.set(start + Duration::from_secs(1), 'b');
        assert_eq!(timers.pop_due(start), None);
        let later = start + Duration::from_secs(1);
        assert_eq!((timers.pop_due(later), timers.pop_due(later), timers.pop_due(later)), (Some('a'), Some('b'), None));
        assert_eq!(timers.next(), Some(start + Duration::from_secs(2)));
    }

    #[test]
    fn a_deadline_is_the_moment_that_was_set_also_before_the_first_one() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let moments = [start, start - Duration::from_nanos(1), start + Duration::from_secs(400_000), start];
        for (key, at) in moments.into_iter().enumerate() {
            timers.set(at, key);
        }
        timers.retain(|at, key| at == moments[*key]);
        assert_eq!(timers.pending(), 4);
        let end = start + Duration::from_secs(400_000);
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(end)).collect();
        assert_eq!(fired, [1, 0, 3, 2]);
    }

    #[test]
    fn an_owner_that_sets_its_deadline_in_the_past_for_ever_holds_up_nobody() {
        let start = Instant::now();
        let mut timers = Timers::default();
        for key in ['a', 'b'] {
            timers.set(start, key);
        }
        let mut now = start;
        for round in 0..10 {
            let mut fired = Vec::new();
            while let Some(key) = timers.pop_due(now) {
                fired.push(key);
                assert!(fired.len() <= 2, "round {round}: {fired:?}");
                timers.set(start, key);
            }
            assert_eq!(fired, ['a', 'b'], "round {round}");
            assert_eq!((timers.next(), timers.pending()), (Some(now + REST), 2));
            assert_eq!(timers.pop_due(now), None);
            now += REST;
        }
        timers.retain(|at, _| at != start);
        assert_eq!((timers.pending(), timers.pop_due(now)), (0, None));
        timers.set(start, 'c');
        assert_eq!(timers.pop_due(now), Some('c'), "nothing fires meanwhile: it is due at once");
    }

    /// There is one for each binding.
    #[test]
    fn a_timer_takes_40_bytes() {
        assert_eq!(size_of::<Entry<[u8; 24]>>(), 40);
    }
}

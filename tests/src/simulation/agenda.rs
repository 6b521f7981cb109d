//! Virtual time: what happens when, in one order.
//!
//! Invariant: time never goes back; of what happens at the same moment, what was planned first happens first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds since the beginning of the simulation.
pub type At = u64;

/// A millisecond.
pub const MS: At = 1_000;
/// A second.
pub const S: At = 1_000 * MS;
/// A minute.
pub const MINUTE: At = 60 * S;
/// An hour.
pub const HOUR: At = 60 * MINUTE;
/// A day.
pub const DAY: At = 24 * HOUR;

/// The planned events.
#[derive(Debug)]
pub struct Agenda<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    planned: u64,
    now: At,
}

#[derive(Debug)]
struct Entry<T> {
    at: At,
    order: u64,
    what: Box<T>,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0, now: 0 }
    }
}

impl<T> Agenda<T> {
    /// The present.
    pub fn now(&self) -> At {
        self.now
    }

    /// Goes forward to `at`.
    pub fn go_to(&mut self, at: At) {
        self.now = self.now.max(at);
    }

    /// Plans `what` for `after` from now.
    pub fn plan(&mut self, after: At, what: T) {
        self.plan_at(self.now + after, what);
    }

    /// Plans `what` for a moment; one that is past is now.
    pub fn plan_at(&mut self, at: At, what: T) {
        let entry = Entry { at: at.max(self.now), order: self.planned, what: Box::new(what) };
        self.heap.push(Reverse(entry));
        self.planned += 1;
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<At> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// Takes the next thing, and goes to its moment.
    pub fn pop(&mut self) -> Option<T> {
        let Reverse(entry) = self.heap.pop()?;
        self.now = entry.at;
        Some(*entry.what)
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

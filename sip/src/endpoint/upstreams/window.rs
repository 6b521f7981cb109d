//! The window of registrations under way at one SIP server: its answers are the clock by which further ones begin.
//!
//! | a SIP server has had something to answer | so many may be under way |
//! | --- | --- |
//! | for less than [`SPAN`] | as many as its pace lets begin in that time |
//! | for longer | as many as it has answered within the last [`SPAN`] |
//! | either | [`FEW`] to [`MANY`] |
//!
//! So a server works off its backlog in about [`SPAN`], well before its REGISTERs are given up: a server that is slower than its pace gets as many as it
//! answers, and its answers come in time.
//!
//! A REGISTER that began before one that has been answered counts as lost, not as waiting. [`FEW`] may begin in each [`SPAN`] whatever is under way, so that a
//! server that has lost all of them is still probed.
//!
//! Invariant: one may always begin while nothing is under way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::registration::Began;

/// The time in which a server is expected to answer.
const SPAN: Duration = Duration::from_secs(4);
/// The least number that may be under way, however little the server answers.
const FEW: usize = 10;
/// The greatest number that may be under way, however much the server answers; a stream has room for twice as many.
const MANY: usize = 2_048;
/// The parts of [`SPAN`] in which beginnings and answers are counted.
const PARTS: usize = 8;

/// The REGISTERs under way at one SIP server, and the number that it has answered.
#[derive(Debug)]
pub(super) struct Window {
    origin: Instant,
    /// The number under way that began in each part, except those that are taken for lost.
    waiting: BTreeMap<Began, usize>,
    /// The time since which any is under way.
    since: Option<Instant>,
    /// The numbers that have begun, and that were answered, in this part and in those before.
    begun: [u32; PARTS],
    answered: [u32; PARTS],
    part: Began,
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        let (begun, answered) = ([0; PARTS], [0; PARTS]);
        Self { origin: now, waiting: BTreeMap::new(), since: None, begun, answered, part: Began(0) }
    }

    /// How many more may begin.
    pub(super) fn room(&mut self, now: Instant, per_second: u32) -> usize {
        self.turn(now);
        let is_new = self.since.is_none_or(|since| now < since + SPAN);
        let limit = if is_new {
            per_second as usize * SPAN.as_secs() as usize
        } else {
            self.answered.iter().sum::<u32>() as usize
        };
        let waiting: usize = self.waiting.values().sum();
        let begun = self.begun.iter().sum::<u32>() as usize;
        limit.clamp(FEW, MANY).saturating_sub(waiting).max(FEW.saturating_sub(begun))
    }

    /// Counts a REGISTER that begins.
    pub(super) fn begin(&mut self, now: Instant) -> Began {
        self.turn(now);
        self.begun[0] += 1;
        *self.waiting.entry(self.part).or_default() += 1;
        self.since.get_or_insert(now);
        self.part
    }

    /// Counts the end of a REGISTER that began then.
    pub(super) fn end(&mut self, began: Began) {
        if let Some(count) = self.waiting.get_mut(&began) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&began);
            }
        }
        self.rest();
    }

    /// Counts an answer to a REGISTER that began then.
    pub(super) fn answer(&mut self, now: Instant, began: Began) {
        self.turn(now);
        self.answered[0] += 1;
        // REGISTERs of the part before may be only a little older.
        self.waiting.retain(|other, _| other.0 + 1 >= began.0);
        self.rest();
    }

    /// Another flow leads to it, perhaps to another machine.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.waiting.clear();
        self.since = None;
        (self.begun, self.answered) = ([0; PARTS], [0; PARTS]);
        self.turn(now);
    }

    fn rest(&mut self) {
        if self.waiting.is_empty() {
            self.since = None;
        }
    }

    /// Goes on to the part that this moment belongs to.
    fn turn(&mut self, now: Instant) {
        let parts = now.saturating_duration_since(self.origin).as_millis() / (SPAN / PARTS as u32).as_millis();
        let part = Began(u32::try_from(parts).unwrap_or(u32::MAX));
        let passed = (part.0.saturating_sub(self.part.0) as usize).min(PARTS);
        for counts in [&mut self.begun, &mut self.answered] {
            counts.rotate_right(passed);
            counts[..passed].fill(0);
        }
        self.part = self.part.max(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_under_way_as_are_answered_in_four_seconds_once_there_were_four() {
        let start = Instant::now();
        let mut window = Window::new(start);
        assert_eq!(window.room(start, 2_000), MANY);
        assert_eq!(window.room(start, 1), FEW);
        assert_eq!(window.room(start, 100), 400);
        let began: Vec<_> = (0..400).map(|_| window.begin(start)).collect();
        assert_eq!(window.room(start, 100), 0);
        // The server answers 20 in a second, in its order.
        for (tick, began) in (1..=200).zip(&began) {
            let now = start + Duration::from_millis(50) * tick;
            window.answer(now, *began);
            window.end(*began);
            if now < start + SPAN {
                assert_eq!(window.room(now, 100), tick as usize);
            } else {
                assert!(window.room(now, 100) <= FEW, "320 are too many for it");
            }
        }
        let later = start + Duration::from_secs(10);
        let answered: u32 = window.answered.iter().sum();
        assert!((70..=80).contains(&answered), "{answered}");
        began[200..].iter().for_each(|began| window.end(*began));
        assert_eq!(window.room(later, 100), 400, "nothing is under way: it is asked as ever");
    }

    #[test]
    fn what_was_lost_keeps_no_others_waiting() {
        let start = Instant::now();
        let mut window = Window::new(start);
        (0..100).for_each(|_| _ = window.begin(start));
        let silent = start + Duration::from_secs(8);
        assert_eq!(window.room(silent, 1_000), FEW, "a few in each span, whatever is under way");
        let began = (0..FEW).map(|_| window.begin(silent)).collect::<Vec<_>>()[0];
        assert_eq!(window.room(silent, 1_000), 0);
        window.answer(silent + Duration::from_millis(20), began);
        window.end(began);
        assert_eq!(window.room(silent + Duration::from_millis(20), 1_000), 1, "nine wait, and the server is there");
        window.begin_anew(silent);
        assert_eq!(window.room(silent, 1_000), MANY);
    }
}

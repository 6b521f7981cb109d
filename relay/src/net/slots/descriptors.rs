//! The file descriptors that accepted connections leave to everything else: the store, push services, SIP servers, files.
//!
//! A descriptor is the process's, and so is the lack of one: whoever holds most at all listeners gives way to who comes to any of them.
//!
//! Invariant: a device's or an app's connection is let in only while [`RESERVE`] descriptors are free, or [`RESERVE_SHARE`] of all where those are
//! few; otherwise in place of an unproven one (see [`unproven_slots`](super::unproven_slots)), which may have half of that until it has closed; and
//! where none gives way it is closed at once, and the relay goes on waking phones. Those that the reserve is kept for are let in while a quarter of it is
//! free: peers that fill the listeners keep the relay from nothing that it opens itself. A shortage is over some seconds after descriptors are free again,
//! whoever has had them: what the relay's own connections have lost at once is theirs first, before peers that press have all of it.

use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};

use super::Slots;
use super::unproven_slots::network_of;
use crate::aside::aside;
use crate::clock;
use crate::process::open_files;

/// Descriptors that stay free of accepted connections.
pub const RESERVE: u64 = 1_024;
/// The part of all descriptors that stays free where that is less than [`RESERVE`]: one in so many.
pub const RESERVE_SHARE: u64 = 8;
/// How often what is open is counted in a shortage, at most.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// Where they are many, counting them takes no more than this part of the time: one in so many.
const COUNT_SHARE: u32 = 100;
/// With each count, connections may have this part more of what is free beyond the reserve: one in so many.
const GIVEN_SHARE: u64 = 8;
/// How many networks of each kind at each listener are looked at for the one that holds most in all.
const LARGEST: usize = 4;

/// How much of the reserve a listener's connections leave free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// All: devices and apps, of which there are many.
    Reserve,
    /// A quarter: SIP servers, the operator and the CA.
    Quarter,
}

/// Those of this process.
pub(crate) static OF_PROCESS: Descriptors = Descriptors::new();

/// The decision about an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It has one of the descriptors that connections may have.
    Free,
    /// An unproven one gives way to it.
    InPlaceOfAnother,
    /// It is to be closed.
    None,
}

/// The descriptors that the listeners share.
pub(crate) struct Descriptors {
    /// Whether a listener has been full lately.
    is_short: AtomicBool,
    shared: Mutex<Shared>,
}

/// A number of connections for which there is no room for one more.
#[derive(Clone, Copy)]
struct Full {
    at: usize,
    /// How many there were when that was said.
    held: usize,
}

struct Shared {
    listeners: Vec<Weak<Slots>>,
    /// The descriptors that connections may have in a shortage, for each of [`Leaves`]. The number of a descriptor alone does not tell: when one that gave
    /// way has closed, a low one is free for who comes next, and as many are in use as before.
    full_at: [Option<Full>; 2],
    /// Whether what is open is being counted.
    is_counting: bool,
    /// And before when it is not counted again.
    count_at: Option<Instant>,
}

impl Descriptors {
    const fn new() -> Self {
        let shared = Shared { listeners: Vec::new(), full_at: [None; 2], is_counting: false, count_at: None };
        Self { is_short: AtomicBool::new(false), shared: Mutex::new(shared) }
    }

    /// A listener's connections have theirs from here.
    pub(crate) fn join(&self, listener: &Arc<Slots>) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.listeners.retain(|listener| listener.strong_count() > 0);
        shared.listeners.push(Arc::downgrade(listener));
    }

    /// Whether connections have taken what they may, lately.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether a connection that was accepted leaves as much free.
    pub(crate) fn room(&'static self, accepted: BorrowedFd<'_>, peer: IpAddr, leaves: Leaves) -> Room {
        let Some(all) = getrlimit(Resource::Nofile).current else { return Room::Free };
        let room = self.room_among(all, u64::try_from(accepted.as_raw_fd()).unwrap_or(0), peer, leaves);
        if self.is_short() && self.is_to_count() {
            let counted = aside(move || {
                let begun = clock::now();
                let open = open_files();
                self.has_counted(all, open, clock::now().saturating_duration_since(begun));
            });
            if counted.is_err() {
                // The system gives no thread now.
                self.has_counted(all, None, Duration::ZERO);
            }
        }
        room
    }

    fn is_to_count(&self) -> bool {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = !shared.is_counting && shared.count_at.is_none_or(|at| clock::now() >= at);
        shared.is_counting |= is_due;
        is_due
    }

    /// So many are open, of connections and of all else. The number of connections alone does not tell the end of a shortage: others may have made it.
    fn has_counted(&self, all: u64, open: Option<u64>, took: Duration) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.is_counting = false;
        shared.count_at = Some(clock::now() + COUNT_EVERY.max(took * COUNT_SHARE));
        let count = connections_of(&shared.listeners());
        for leaves in [Leaves::Reserve, Leaves::Quarter] {
            let free = leaves.free(all);
            let spare = open.map_or(0, |open| all.saturating_sub(open + free));
            if spare < free.div_ceil(8) {
                continue;
            }
            let given = usize::try_from(spare.div_ceil(GIVEN_SHARE)).unwrap_or(usize::MAX);
            let most = count.saturating_add(usize::try_from(spare).unwrap_or(usize::MAX));
            let full_at = &mut shared.full_at[leaves as usize];
            let more = full_at.map(|full| Full { at: full.at.saturating_add(given), held: count });
            *full_at = more.filter(|full| full.at < most);
        }
        self.is_short.store(shared.full_at.iter().any(Option::is_some), Ordering::Relaxed);
    }

    /// The system gives the lowest number that is free (POSIX.1-2017, 2.14): so many are in use at least.
    fn room_among(&self, all: u64, number: u64, peer: IpAddr, leaves: Leaves) -> Room {
        let free = leaves.free(all);
        let above = (number + 1).saturating_sub(all - free);
        if above == 0 && !self.is_short() {
            return Room::Free;
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = shared.listeners();
        let count = connections_of(&listeners);
        for full_at in &mut shared.full_at {
            full_at.take_if(|full| count < full.held - full.held / 8);
        }
        if above > 0 {
            let over = usize::try_from(above - 1).unwrap_or(usize::MAX);
            let at = count.saturating_sub(over);
            shared.full_at[leaves as usize] = Some(Full { at, held: at });
        }
        let is_full = shared.full_at[leaves as usize].is_some_and(|full| count >= full.at);
        self.is_short.store(shared.full_at.iter().any(Option::is_some), Ordering::Relaxed);
        drop(shared);
        let has_closing_room = above <= free / 2;
        match above {
            _ if is_full && has_closing_room && free_one_for(peer, &listeners) => Room::InPlaceOfAnother,
            0 => Room::Free,
            _ => Room::None,
        }
    }
}

impl Shared {
    fn listeners(&self) -> Vec<Arc<Slots>> {
        self.listeners.iter().filter_map(Weak::upgrade).collect()
    }
}

/// How many connections there are at all of them.
fn connections_of(listeners: &[Arc<Slots>]) -> usize {
    listeners.iter().map(|listener| listener.connections()).sum()
}

/// The oldest of the network that holds most at all listeners gives way to one more of `peer`, or one of its own network where that does.
fn free_one_for(peer: IpAddr, listeners: &[Arc<Slots>]) -> bool {
    let held = |network| listeners.iter().map(|listener| listener.of_network(network)).sum::<usize>();
    let where_most = |network| listeners.iter().max_by_key(|listener| listener.of_network(network));
    let own = network_of(peer);
    let largest = listeners.iter().flat_map(|listener| listener.largest(LARGEST));
    match largest.map(|network| (held(network), network)).max() {
        Some((most, network)) if most > held(own) + 1 => {
            where_most(network).is_some_and(|listener| listener.free_one_of_network(network))
        }
        _ => where_most(own).is_some_and(|listener| listener.free_one_beside(peer)),
    }
}

impl Leaves {
    /// How many of `all` stay free.
    fn free(self, all: u64) -> u64 {
        let reserve = RESERVE.min(all / RESERVE_SHARE);
        match self {
            Self::Reserve => reserve,
            Self::Quarter => reserve / 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::net::slots::{Limits, Slot, Stranger};

    fn nobody() -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    fn has_room(leaves: Leaves, number: u64, all: u64) -> bool {
        Descriptors::new().room_among(all, number, nobody(), leaves) == Room::Free
    }

    #[test]
    fn a_reserve_is_kept_whether_descriptors_are_many_or_few() {
        for (all, last) in [(1_048_576, 1_047_551), (8_192, 7_167), (1_024, 895), (160, 139), (8, 6)] {
            assert!(has_room(Leaves::Reserve, last, all), "{last} of {all}");
            assert!(!has_room(Leaves::Reserve, last + 1, all), "{last} of {all}");
        }
    }

    #[test]
    fn sip_servers_and_the_operator_are_let_in_when_devices_have_taken_what_they_may() {
        for (all, last) in [(1_048_576, 1_048_319), (8_192, 7_935), (1_024, 991), (160, 154)] {
            assert!(has_room(Leaves::Quarter, last, all), "{last} of {all}");
            assert!(!has_room(Leaves::Quarter, last + 1, all), "{last} of {all}");
        }
        assert!([Limits::SIP_SERVERS, Limits::OPERATOR].iter().all(|limits| limits.leaves == Leaves::Quarter));
        assert!([Limits::DEVICES, Limits::API].iter().all(|limits| limits.leaves == Leaves::Reserve));
    }

    /// A process with few descriptors, of which the lowest that is free is given.
    struct Process {
        descriptors: Descriptors,
        listeners: Vec<Arc<Slots>>,
        used: Vec<Option<(Slot, Option<Stranger>)>>,
        closed: usize,
    }

    impl Process {
        const ALL: usize = 160;
        /// The store's, push services', and the like.
        const OTHERS: usize = 40;
        const MOST: usize = Self::ALL - Self::ALL / RESERVE_SHARE as usize;

        fn new() -> Self {
            let (descriptors, listeners) = (Descriptors::new(), vec![Slots::new(|_| {}), Slots::new(|_| {})]);
            listeners.iter().for_each(|listener| descriptors.join(listener));
            Self { descriptors, listeners, used: (Self::OTHERS..Self::ALL).map(|_| None).collect(), closed: 0 }
        }

        /// A connection of `from`, and its descriptor.
        fn connect(&mut self, listener: usize, from: &str) -> Option<usize> {
            let (from, listener) = (from.parse().unwrap(), &self.listeners[listener]);
            let at = self.used.iter().position(Option::is_none).unwrap();
            let number = (Self::OTHERS + at) as u64;
            if self.descriptors.room_among(Self::ALL as u64, number, from, Leaves::Reserve) == Room::None {
                return None;
            }
            let (slot, waiting) = Slot::take(listener, from, Limits::DEVICES).unwrap();
            self.used[at] = Some((slot, waiting.met(from, Limits::DEVICES)));
            Some(at)
        }

        fn is_known(&mut self, at: usize) {
            self.used[at].as_mut().unwrap().1 = None;
        }

        /// Those that give way are closed.
        fn close(&mut self) {
            let gives_way = |stranger: &Stranger| stranger.gives_way().notified().now_or_never().is_some();
            for place in &mut self.used {
                if place.as_ref().is_some_and(|(_, stranger)| stranger.as_ref().is_some_and(gives_way)) {
                    *place = None;
                    self.closed += 1;
                }
            }
        }

        fn in_use(&self) -> usize {
            Self::OTHERS + self.used.iter().flatten().count()
        }
    }

    #[test]
    fn who_holds_all_that_there_is_gives_way_to_others_at_any_listener_and_to_its_own() {
        let mut process = Process::new();
        let phone = process.connect(0, "198.51.100.7").unwrap();
        process.is_known(phone);
        while process.in_use() < Process::MOST {
            process.connect(0, "203.0.113.66").unwrap();
        }
        for round in 0..200 {
            // Whoever floods comes again at once, and so do others of its address.
            for from in ["203.0.113.66", "192.0.2.1", "203.0.113.66", "203.0.113.66"] {
                let at = process.connect(round % 2, from);
                let at = at.unwrap_or_else(|| panic!("{from} is shut out, {round}"));
                process.close();
                assert!(process.used[at].is_some(), "the newcomer stays, {from}, {round}");
                if from == "192.0.2.1" {
                    process.used[at] = None;
                }
            }
            assert!(process.in_use() <= Process::MOST + 1, "{} in use, {round}", process.in_use());
        }
        assert!(process.used[phone].is_some(), "who is known stays");
        assert!(process.closed > 0);
    }

    #[test]
    fn who_spreads_over_the_listeners_gives_way_before_who_holds_most_at_one_of_them() {
        let mut process = Process::new();
        let carrier = [0; 40].map(|_| process.connect(0, "198.51.100.7").unwrap());
        for n in 0..50 {
            process.connect(n % 2, "203.0.113.66").unwrap();
        }
        for n in 0..100 {
            let from = if n % 2 == 0 { "203.0.113.66" } else { "192.0.2.1" };
            if let Some(at) = process.connect(n % 2, from) {
                process.close();
                process.used[at].take_if(|_| from == "192.0.2.1");
            }
        }
        assert!(process.closed > 0 && carrier.iter().all(|at| process.used[*at].is_some()));
    }

    #[test]
    fn many_at_once_take_no_more_than_half_of_what_stays_free() {
        let mut process = Process::new();
        for _ in 0..20 {
            while process.connect(0, "203.0.113.66").is_some() {}
            assert!(process.in_use() <= Process::MOST + 10, "{}", process.in_use());
            process.close();
        }
        assert!(process.connect(1, "192.0.2.1").is_some());
    }

    #[test]
    fn a_shortage_that_others_have_made_is_over_when_they_have_gone_whoever_stays_and_comes() {
        let mut process = Process::new();
        let phones = [0; 20].map(|_| process.connect(0, "203.0.113.66").unwrap());
        let all = Process::ALL as u64;
        let of_listeners = |process: &Process| (process.in_use() - Process::OTHERS) as u64;
        // SIP servers, and the like, have all the rest.
        assert_ne!(process.descriptors.room_among(all, Process::MOST as u64, nobody(), Leaves::Reserve), Room::Free);
        assert!(process.descriptors.is_short());
        process.descriptors.has_counted(all, Some(Process::MOST as u64 - 2), Duration::ZERO);
        assert!(process.descriptors.is_short(), "few are free");
        process.close();
        let closed = process.closed;

        let open = Process::OTHERS as u64 + of_listeners(&process);
        assert!(!process.descriptors.is_to_count(), "it was counted just now");
        for _ in 0..GIVEN_SHARE {
            assert!(process.descriptors.is_short(), "what others have lost is theirs for a while");
            process.descriptors.has_counted(all, Some(open), Duration::ZERO);
        }
        assert!(!process.descriptors.is_short());
        for n in 0..40 {
            process.connect(n % 2, "203.0.113.66").unwrap();
            process.close();
        }
        assert_eq!(process.closed, closed, "nobody gives way where there is room for all");
        assert!(phones.iter().filter(|at| process.used[**at].is_none()).count() <= closed);
    }

    #[test]
    fn what_the_relay_itself_has_lost_at_once_is_no_flood_s_within_a_count() {
        let mut process = Process::new();
        let all = Process::ALL as u64;
        let flood = |process: &mut Process| {
            for _ in 0..200 {
                process.connect(0, "203.0.113.66");
                process.close();
            }
        };
        // Connections of the relay's own take what is left, and half of that ends at once.
        let held = Process::MOST / 2;
        for _ in 0..Process::MOST - held - Process::OTHERS {
            process.connect(0, "203.0.113.66").unwrap();
        }
        assert_ne!(process.descriptors.room_among(all, Process::MOST as u64, nobody(), Leaves::Reserve), Room::Free);
        flood(&mut process);
        let (before, lost) = (process.in_use(), held / 2);
        let open = |process: &Process| (process.in_use() + held - lost) as u64;
        process.descriptors.has_counted(all, Some(open(&process)), Duration::ZERO);
        flood(&mut process);
        assert!(process.in_use() - before <= lost / 4, "{} of {lost}", process.in_use() - before);
        // They did not come again: in the end it has all but what is left free.
        for _ in 0..60 {
            process.descriptors.has_counted(all, Some(open(&process)), Duration::ZERO);
            flood(&mut process);
        }
        assert!(process.in_use() - before >= lost * 3 / 4, "{} of {lost}", process.in_use() - before);
    }

    #[test]
    fn what_is_open_is_counted_by_one_at_a_time() {
        let descriptors = Descriptors::new();
        assert!(descriptors.is_to_count() && !descriptors.is_to_count());
        descriptors.has_counted(160, None, COUNT_EVERY);
        let count_at = descriptors.shared.lock().unwrap().count_at.unwrap();
        assert!(!descriptors.is_to_count() && count_at > clock::now() + COUNT_EVERY * (COUNT_SHARE - 1));
    }

    #[test]
    fn where_nobody_holds_more_than_others_who_has_begun_stays() {
        let mut process = Process::new();
        let mut at = (0..).map(|n| process.connect(0, &format!("10.{n}.0.1"))).take_while(Option::is_some).count();
        process.close();
        assert_eq!((process.closed, process.in_use()), (0, Process::MOST));
        // The shortage is over when they have gone, and all is as before.
        process.used.iter_mut().for_each(|place| *place = None);
        while process.connect(0, "203.0.113.66").is_some_and(|_| process.in_use() < Process::MOST) {
            at -= 1;
        }
        process.close();
        assert_eq!((at, process.closed), (1, 0));
    }
}

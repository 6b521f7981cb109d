//! Limits on simultaneous questions to the name servers, by requester.
//!
//! A question that no name server answers holds a socket or two for some seconds, and a client may choose the names: those of the SIP servers at which
//! it enables accounts, and of the push services at which it subscribes. So each question takes a place in the share of its requester, one in that of the
//! App that it came by, and one among all. An answer from the cache takes none.
//!
//! | requester | places |
//! | --- | --- |
//! | an App's devices, by the names that come with its key | [`OF_ONE`], and [`ALL`] with all others |
//! | a source, by the SIP servers that it names | likewise |
//! | sources that named a server within [`SUSPECTED`] whose name servers are silent, all together | [`OF_SUSPECTS`] of these |
//! | the relay: the operator's push services, SIP servers at which accounts are registered | [`ALL`], and [`OWN`] where those are taken |
//!
//! Of the hosts that one name leads to (SRV) at most [`OF_ONE_NAME`] questions are under way, the best first: a name with many of them fills no share.
//!
//! A free place goes first to requesters whose names were answered, then to those with the fewest questions under way, by source and then by App; among
//! equals to the one that came first. Whether a source is suspected is judged when its line begins, and when its questions begin or end.
//!
//! Invariant: a question waits at most [`WAIT`] for a place. When another question could wait for its place, a question gives the place back after
//! [`BRIEF`], long enough for a healthy name server: names whose servers are silent delay other questions, but do not shut them out. A requester without
//! a question under way waits behind no second question of any other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::lock::Mutex;

/// The largest number of questions under way; a further one waits.
const ALL: usize = 192;
/// Likewise for one App or one source.
const OF_ONE: usize = 96;
/// Likewise about the hosts that one name leads to: 8, of both families.
const OF_ONE_NAME: usize = 16;
/// How long a question about one of these waits for the others before it fails: a resolution has time for its answer then, and those that are known are told.
const WAIT_FOR_HOSTS: Duration = Duration::from_secs(2);
/// Likewise for all suspected sources together: the other half is free for those who ask for names that are answered.
const OF_SUSPECTS: usize = 96;
/// Further places for the relay's own questions.
const OWN: usize = 64;
/// How long a question waits for a place before it fails.
const WAIT: Duration = Duration::from_secs(4);
/// How long a question keeps a place that others may wait for before it fails.
pub(super) const BRIEF: Duration = Duration::from_millis(500);
/// How often a question checks whether others may wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a source is suspected after a question that no name server answered.
const SUSPECTED: Duration = Duration::from_secs(10);
/// Sources that are suspected before those that are no more are looked for.
const SUSPECTS_SPARE: usize = 1_024;

/// The client on whose behalf a name is looked up that the operator has not configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// An App, for one of its devices.
    App(Arc<str>),
    /// A source address, as the limits count it.
    Source(IpAddr),
}

/// The places of the questions about the hosts that one name leads to; each is given back after [`BRIEF`], so that hosts whose servers are silent keep nobody from
/// those behind them.
pub(super) struct OfOneName {
    places: Semaphore,
    until: Instant,
}

impl OfOneName {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(OF_ONE_NAME), until: Instant::now() + WAIT_FOR_HOSTS }
    }

    /// Waits for a place; `None`: none came free in time.
    pub(super) async fn take(&self) -> Option<SemaphorePermit<'_>> {
        timeout_at(self.until, self.places.acquire()).await.ok()?.ok()
    }
}

/// The places of all questions.
#[derive(Default)]
pub(super) struct Questions(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Questions under way, by requester and by App.
    held: BTreeMap<Requester, usize>,
    /// Places that are taken: of all, of these by suspects and for the relay itself, and of those that are kept for it.
    all: usize,
    suspects: usize,
    relay: usize,
    own: usize,
    /// When a question of a source was last without an answer.
    silent: BTreeMap<Requester, Instant>,
    sweep_at: usize,
    /// Those who wait, in the order in which they came.
    lines: BTreeMap<Line, Waits>,
    /// The lines of requesters, by App and then in the order of their turns: so that the next one is found without a look at all.
    ready: BTreeMap<Option<Requester>, BTreeSet<(Key, Requester)>>,
    /// The relay's own lines, by the first of each.
    ready_own: BTreeSet<(u64, Option<Requester>)>,
    last: u64,
}

/// A line's place among those of its App: whether its requester is suspected, how many questions of that are under way, and the first of the line.
type Key = (bool, usize, u64);

/// One line.
#[derive(Default)]
struct Waits {
    queue: VecDeque<Waiting>,
    /// Its present key; `None`: it has not been put in order.
    key: Option<Key>,
}

/// The members of one line: a requester (the relay itself where there is none), and the App by which it came.
type Line = (Option<Requester>, Option<Requester>);

struct Waiting {
    number: u64,
    place: oneshot::Sender<Turn>,
}

/// The place of one question; given back when dropped.
pub(super) struct Turn {
    table: Arc<Mutex<Table>>,
    line: Line,
    place: Place,
}

#[derive(Clone, Copy)]
struct Place {
    is_suspect: bool,
    /// One of those that are kept for the relay.
    is_own: bool,
}

impl Questions {
    /// How many are under way.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.0.lock().all
    }

    /// Waits for a place in the share of one of `requesters`, which are none for the relay's own questions, and in that of `app` where they came by one.
    /// `None`: no place came free in time.
    pub(crate) async fn take(&self, requesters: &[Requester], app: Option<&Arc<str>>) -> Option<Turn> {
        let (place, comes) = oneshot::channel();
        let waits = self.join(requesters, app.cloned().map(Requester::App), place);
        let turn = timeout(WAIT, comes).await.ok()?.ok();
        drop(waits);
        turn
    }

    fn join(&self, requesters: &[Requester], app: Option<Requester>, place: oneshot::Sender<Turn>) -> InLine<'_> {
        let mut table = self.0.lock();
        let has_room = |requester: &&Requester| table.held(requester) < OF_ONE;
        let requester = requesters.iter().find(has_room).or(requesters.first()).cloned();
        table.last += 1;
        let (line, number) = ((requester, app), table.last);
        let queue = &mut table.lines.entry(line.clone()).or_default().queue;
        queue.push_back(Waiting { number, place });
        let is_first = queue.len() == 1;
        let now = Instant::now();
        if is_first {
            table.put_in_order(&line, now);
        }
        // Of those who wait already nobody could begin.
        let may_begin = is_first && table.turn_of(&line).is_some();
        let given = if may_begin { table.give(&line, now) } else { None };
        drop(table);
        send(&self.0, given.into_iter().collect());
        InLine { table: &self.0, line, number }
    }
}

/// A question that waits, until it has its place or gives up.
struct InLine<'a> {
    table: &'a Mutex<Table>,
    line: Line,
    number: u64,
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let Some(Waits { queue, .. }) = table.lines.get_mut(&self.line) else { return };
        // Numbers rise in each line.
        let Ok(at) = queue.binary_search_by_key(&self.number, |waiting| waiting.number) else { return };
        queue.remove(at);
        if at == 0 {
            table.put_in_order(&self.line, Instant::now());
        }
    }
}

type Given = (oneshot::Sender<Turn>, Line, Place);

/// Tells those who have a place now. The place of one that has given up meanwhile comes back by this.
fn send(shared: &Arc<Mutex<Table>>, given: Vec<Given>) {
    for (told, line, place) in given {
        let _ = told.send(Turn { table: shared.clone(), line, place });
    }
}

impl Table {
    fn held(&self, requester: &Requester) -> usize {
        self.held.get(requester).copied().unwrap_or_default()
    }

    fn is_suspect(&self, requester: &Requester, now: Instant) -> bool {
        self.silent.get(requester).is_some_and(|at| now.saturating_duration_since(*at) < SUSPECTED)
    }

    /// Puts a line where its turn is now; one that is empty ends.
    fn put_in_order(&mut self, line: &Line, now: Instant) {
        let (requester, app) = line;
        let Some(Waits { queue, key }) = self.lines.get(line) else { return };
        let (first, earlier) = (queue.front().map(|waiting| waiting.number), *key);
        let is_suspect = requester.as_ref().is_some_and(|it| self.is_suspect(it, now));
        let held = requester.as_ref().map_or(0, |it| self.held(it));
        let key = first.map(|first| (is_suspect, held, first));
        match requester {
            Some(requester) => {
                let lines = self.ready.entry(app.clone()).or_default();
                earlier.map(|earlier| lines.remove(&(earlier, requester.clone())));
                lines.extend(key.map(|key| (key, requester.clone())));
                if lines.is_empty() {
                    self.ready.remove(app);
                }
            }
            None => {
                earlier.map(|(.., first)| self.ready_own.remove(&(first, app.clone())));
                self.ready_own.extend(key.map(|(.., first)| (first, app.clone())));
            }
        }
        match (key, self.lines.get_mut(line)) {
            (Some(_), Some(waits)) => waits.key = key,
            _ => drop(self.lines.remove(line)),
        }
    }

    /// Likewise all lines of the requester of a line, and of its App where that is one, too: what they hold has changed.
    fn put_all_in_order(&mut self, (requester, app): &Line, now: Instant) {
        for requester in [requester, app].into_iter().filter(|it| it.is_some()) {
            let lines = self.lines.range((requester.clone(), None)..).map(|(line, _)| line);
            let theirs: Vec<_> = lines.take_while(|line| line.0 == *requester).cloned().collect();
            for line in theirs {
                self.put_in_order(&line, now);
            }
        }
    }

    /// When it is the turn of those who wait in a line, the least first; `None`: not now.
    fn turn_of(&self, line: &Line) -> Option<(bool, usize, usize, u64)> {
        let (is_suspect, of_requester, first) = self.lines.get(line)?.key?;
        let (requester, app) = line;
        if requester.is_none() {
            return (self.all < ALL || self.own < OWN).then_some((false, self.relay, 0, first));
        }
        let of_app = app.as_ref().map_or(0, |app| self.held(app));
        let is_full = self.all >= ALL || of_requester >= OF_ONE || of_app >= OF_ONE;
        let waits = is_full || is_suspect && self.suspects >= OF_SUSPECTS;
        (!waits).then_some((is_suspect, of_requester, of_app, first))
    }

    /// The line whose turn it is.
    fn next(&self) -> Option<Line> {
        let own = self.ready_own.first().map(|(_, app)| (None, app.clone()));
        // The first of an App is the first of those of its kind, suspected or not; where it has to wait, so do all behind it.
        let suspected = ((true, 0, 0), Requester::App("".into()));
        let of_requesters = self.ready.iter().filter(|_| self.all < ALL).flat_map(|(app, lines)| {
            let first_suspect = lines.range(&suspected..).next();
            let of_app = [lines.first(), first_suspect];
            of_app.into_iter().flatten().map(|(_, requester)| (Some(requester.clone()), app.clone()))
        });
        let turns = own.into_iter().chain(of_requesters).filter_map(|line| Some((self.turn_of(&line)?, line)));
        turns.min().map(|(_, line)| line)
    }

    /// Gives the first of a line its place.
    fn give(&mut self, line: &Line, now: Instant) -> Option<Given> {
        let Waits { queue, key } = self.lines.get_mut(line)?;
        let is_suspect = key.is_some_and(|(is_suspect, ..)| is_suspect);
        let Waiting { place: told, .. } = queue.pop_front()?;
        let place = Place { is_suspect, is_own: self.all >= ALL };
        *(if place.is_own { &mut self.own } else { &mut self.all }) += 1;
        self.suspects += usize::from(is_suspect);
        self.relay += usize::from(line.0.is_none() && !place.is_own);
        for requester in [&line.0, &line.1].into_iter().flatten() {
            *self.held.entry(requester.clone()).or_default() += 1;
        }
        self.put_in_order(line, now);
        self.put_all_in_order(line, now);
        Some((told, line.clone(), place))
    }

    /// Gives the places that are free to those whose turn it is.
    fn give_all(&mut self, now: Instant) -> Vec<Given> {
        let mut given = Vec::new();
        while let Some(line) = self.next() {
            given.extend(self.give(&line, now));
        }
        given
    }

    /// Notes that no name server answered a question of this requester. An App is not suspected: its devices have one key.
    fn note_silence(&mut self, requester: &Requester, now: Instant) {
        if !matches!(requester, Requester::Source(_)) {
            return;
        }
        if self.silent.len() >= self.sweep_at.max(SUSPECTS_SPARE) {
            self.silent.retain(|_, at| now.saturating_duration_since(*at) < SUSPECTED);
            self.sweep_at = self.silent.len() * 2;
        }
        self.silent.insert(requester.clone(), now);
        self.put_all_in_order(&(Some(requester.clone()), None), now);
    }

    fn give_back(&mut self, turn: &Turn, now: Instant) {
        let count = if turn.place.is_own { &mut self.own } else { &mut self.all };
        *count = count.saturating_sub(1);
        self.suspects = self.suspects.saturating_sub(usize::from(turn.place.is_suspect));
        self.relay = self.relay.saturating_sub(usize::from(turn.line.0.is_none() && !turn.place.is_own));
        for requester in [&turn.line.0, &turn.line.1].into_iter().flatten() {
            match self.held.get_mut(requester) {
                Some(held) if *held > 1 => *held -= 1,
                _ => drop(self.held.remove(requester)),
            }
        }
        self.put_all_in_order(&turn.line, now);
    }
}

impl Turn {
    /// Ends when the place has to be given back to others.
    pub(super) async fn is_over(&self) {
        sleep(BRIEF).await;
        while !self.may_be_waited_for() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// No name server has answered.
    pub(super) fn was_silent(&self) {
        if let Some(requester) = &self.line.0 {
            self.table.lock().note_silence(requester, Instant::now());
        }
    }

    fn may_be_waited_for(&self) -> bool {
        let table = self.table.lock();
        let (are_all_taken, (requester, app)) = (table.all >= ALL, &self.line);
        match requester {
            Some(_) => {
                let is_full = |requester: &Requester| table.held(requester) >= OF_ONE;
                let of_kind = self.place.is_suspect && table.suspects >= OF_SUSPECTS;
                are_all_taken || of_kind || [requester, app].into_iter().flatten().any(is_full)
            }
            None => are_all_taken && table.own >= OWN,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let now = Instant::now();
        table.give_back(self, now);
        let given = table.give_all(now);
        drop(table);
        send(&self.table, given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u16) -> [Requester; 1] {
        let [high, low] = number.to_be_bytes();
        [Requester::Source(IpAddr::from([10, high, low, 1]))]
    }

    fn app(name: &str) -> Arc<str> {
        name.into()
    }

    fn taken(questions: &Questions) -> (usize, usize, usize) {
        let table = questions.0.lock();
        assert!(table.all > 0 || table.held.is_empty() && table.relay == 0);
        (table.all, table.suspects, table.own)
    }

    /// A question that nobody answers.
    fn ask_in_vain(
        questions: &Arc<Questions>,
        requesters: Vec<Requester>,
        app: Option<&Arc<str>>,
    ) -> tokio::task::JoinHandle<bool> {
        let (questions, app) = (questions.clone(), app.cloned());
        tokio::spawn(async move {
            let Some(turn) = questions.take(&requesters, app.as_ref()).await else { return false };
            let was_brief = timeout(Duration::from_secs(5), turn.is_over()).await.is_ok();
            turn.was_silent();
            was_brief
        })
    }

    async fn wait_of(questions: &Questions, requesters: &[Requester], app: Option<&Arc<str>>) -> Duration {
        let begun = Instant::now();
        assert!(questions.take(requesters, app).await.is_some());
        begun.elapsed()
    }

    /// Until all wait: time goes on when nobody has anything to do.
    async fn all_wait() {
        sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_one_asker_delay_it_and_nobody_else() {
        let questions = Arc::new(Questions::default());
        let asked: Vec<_> = (0..600).map(|_| ask_in_vain(&questions, source(1).into(), None)).collect();
        all_wait().await;
        assert_eq!(wait_of(&questions, &source(2), None).await, Duration::ZERO);
        assert_eq!(wait_of(&questions, &[], None).await, Duration::ZERO);
        let own = wait_of(&questions, &source(1), None).await;
        assert!(own <= BRIEF * 7, "600 names by 96: {own:?}");
        for question in asked {
            question.await.unwrap();
        }
        assert_eq!(taken(&questions), (0, 0, 0));
    }

    /// One App's key, used from many networks.
    #[tokio::test(start_paused = true)]
    async fn silent_names_of_one_app_from_many_sources_delay_no_other_app_and_nobody_without_one() {
        let questions = Arc::new(Questions::default());
        let (bad, good) = (app("bad"), app("good"));
        for number in 0..2_400 {
            ask_in_vain(&questions, source(number % 600).into(), Some(&bad));
        }
        all_wait().await;
        for _ in 0..20 {
            assert_eq!(wait_of(&questions, &source(1_000), Some(&good)).await, Duration::ZERO);
            assert_eq!(wait_of(&questions, &source(1_001), None).await, Duration::ZERO);
            sleep(LOOK_EVERY).await;
        }
        // Another device of that App: before the second question of any source.
        let of_app = wait_of(&questions, &source(1_002), Some(&bad)).await;
        assert!(of_app <= BRIEF * 6, "{of_app:?}");
    }

    /// Nobody has a key.
    #[tokio::test(start_paused = true)]
    async fn silent_names_of_many_sources_delay_others_once_and_then_no_more() {
        let questions = Arc::new(Questions::default());
        for number in 0..300 * 40 {
            ask_in_vain(&questions, source(number % 300).into(), None);
        }
        all_wait().await;
        let first = wait_of(&questions, &source(1_000), None).await;
        assert!(first <= BRIEF * 2, "{first:?}");
        sleep(BRIEF * 2).await;
        for number in 1_000..1_020 {
            assert_eq!(wait_of(&questions, &source(number), None).await, Duration::ZERO);
        }
    }

    /// A silence that is over, or one dead name among good ones, costs nothing.
    #[tokio::test(start_paused = true)]
    async fn who_is_suspected_waits_for_nothing_while_others_are_none() {
        let questions = Arc::new(Questions::default());
        assert!(!ask_in_vain(&questions, source(1).into(), None).await.unwrap());
        let begun = Instant::now();
        let requester = source(1);
        let asked = (0..OF_SUSPECTS).map(|_| questions.take(&requester, None));
        let turns = futures_util::future::join_all(asked).await;
        assert!(turns.iter().all(Option::is_some) && begun.elapsed().is_zero());
        assert_eq!(taken(&questions), (OF_SUSPECTS, OF_SUSPECTS, 0));
    }

    /// Thousands of accounts behind one address, whose names are answered.
    #[tokio::test(start_paused = true)]
    async fn thousands_of_questions_of_one_source_that_are_answered_all_have_their_turn_at_once() {
        let questions = Arc::new(Questions::default());
        let one = app("one");
        let answered = (0..5_000).map(|_| async {
            let turn = questions.take(&source(1), Some(&one)).await;
            sleep(Duration::from_millis(20)).await;
            turn.is_some()
        });
        assert!(futures_util::future::join_all(answered).await.into_iter().all(|it| it));
        assert_eq!(taken(&questions), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_many_askers_keep_the_relay_from_no_name_and_others_for_moments() {
        let questions = Arc::new(Questions::default());
        for number in 0..10 * OF_ONE as u16 {
            ask_in_vain(&questions, source(number % 10).into(), None);
        }
        all_wait().await;
        assert_eq!(taken(&questions), (ALL, 0, 0));
        let own: Vec<_> = futures_util::future::join_all((0..OWN).map(|_| questions.take(&[], None))).await;
        assert!(own.iter().all(Option::is_some));
        let other = wait_of(&questions, &source(100), None).await;
        assert!(other <= BRIEF, "who has nothing under way is next: {other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_registered_accounts_delay_the_relays_other_names_for_moments() {
        let questions = Arc::new(Questions::default());
        for _ in 0..(ALL + OWN) * 4 {
            ask_in_vain(&questions, Vec::new(), None);
        }
        all_wait().await;
        assert_eq!(taken(&questions), (ALL, 0, OWN));
        let other = wait_of(&questions, &[], None).await;
        assert!(other < WAIT, "1,024 names by 256: {other:?}");
    }

    /// Whoever comes, ends, gives up or falls silent: the next one is whom a look at all lines finds, and it is found by a look at one or two of each App.
    #[tokio::test(start_paused = true)]
    async fn the_next_one_is_the_least_of_all_who_wait() {
        let questions = Arc::new(Questions::default());
        let apps = [app("a"), app("b"), app("c")];
        let mut random = sip::random::Random::new([7; 32]);
        let mut asked = Vec::new();
        for round in 0..3_000 {
            let number = random.between(0, 40) as u16;
            let app = apps.get(random.between(0, 3) as usize).filter(|_| number > 0).cloned();
            let requesters = match (number, &app) {
                (0, _) => Vec::new(),
                (1..=3, Some(app)) => vec![Requester::App(app.clone())],
                _ => source(number).into(),
            };
            asked.push(ask_in_vain(&questions, requesters, app.as_ref()));
            if random.between(0, 9) == 0 {
                let gone = asked.swap_remove(random.between(0, asked.len() as u64 - 1) as usize);
                gone.abort();
                sleep(Duration::from_millis(random.between(1, 90))).await;
            }
            let mut table = questions.0.lock();
            let (all, own) = (table.all, table.own);
            // As if places were free.
            for free in [0, 1] {
                (table.all, table.own) = (all - free.min(all), own - free.min(own));
                let least = table.lines.keys().filter_map(|line| Some((table.turn_of(line)?, line.clone()))).min();
                assert_eq!(table.next(), least.map(|(_, line)| line), "{round}");
            }
            (table.all, table.own) = (all, own);
            for ((requester, _), waits) in &table.lines {
                let (held, first) = (requester.as_ref().map_or(0, |it| table.held(it)), waits.queue[0].number);
                assert_eq!(waits.key.map(|(_, held, first)| (held, first)), Some((held, first)), "{round}");
            }
            let in_order: usize = table.ready.values().map(BTreeSet::len).sum();
            assert_eq!(in_order + table.ready_own.len(), table.lines.len(), "{round}");
        }
        for question in asked {
            let _ = question.await;
        }
        assert_eq!(taken(&questions), (0, 0, 0));
        let table = questions.0.lock();
        assert!(table.lines.is_empty() && table.ready.is_empty() && table.ready_own.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_waiting_leaves_nothing() {
        let questions = Arc::new(Questions::default());
        let requester = source(1);
        let held: Vec<_> = futures_util::future::join_all((0..OF_ONE).map(|_| questions.take(&requester, None))).await;
        assert!(questions.take(&source(1), None).await.is_none());
        assert!(questions.0.lock().lines.is_empty());
        drop(held);
        assert_eq!(taken(&questions), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_waits_behind_is_asked_to_its_end() {
        let questions = Arc::new(Questions::default());
        let alone = ask_in_vain(&questions, source(1).into(), None);
        assert!(!alone.await.unwrap());
    }
}

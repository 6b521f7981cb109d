//! Limits on simultaneous questions to the name servers, by requester.
//!
//! A question that no name server answers holds a socket or two for some seconds, and a client may choose the names: those of the SIP servers at which
//! it enables accounts, and of the push services at which it subscribes. So each question takes a place in the share of its requester and one among
//! all. An answer from the cache takes none.
//!
//! | requester | places |
//! | --- | --- |
//! | an App's devices, by the push services that they name | [`OF_ONE`], and [`ALL`] with all others |
//! | a source, by the SIP servers that it names | likewise |
//! | the relay: the operator's push services, SIP servers at which accounts are registered | [`ALL`], and [`OWN`] where those are taken |
//!
//! Invariant: a question waits at most [`WAIT`] for a place. When another question could wait for its place, a question gives the place back after
//! [`BRIEF`], long enough for a healthy name server: names whose servers are silent delay other questions, but do not shut them out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::limits::shares::{Share, Shares};

/// The largest number of questions under way; a further one waits.
const ALL: usize = 192;
/// Likewise for one App or one source.
const OF_ONE: usize = 96;
/// Further places for the relay's own questions.
const OWN: usize = 64;
/// How long a question waits for a place before it fails.
const WAIT: Duration = Duration::from_secs(4);
/// How long a question keeps a place that others may wait for before it fails.
const BRIEF: Duration = Duration::from_millis(500);
/// How often a question checks whether others may wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The client on whose behalf a name is looked up that the operator has not configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Requester {
    /// An App, for one of its devices.
    App(Arc<str>),
    /// A source address, as the limits count it.
    Source(IpAddr),
}

/// The places of all questions.
pub(super) struct Questions {
    of_one: Shares<Requester>,
    all: Semaphore,
    own: Semaphore,
}

/// The place of one question; given back when dropped.
pub(super) struct Turn<'a> {
    questions: &'a Questions,
    share: Option<Share>,
    _place: SemaphorePermit<'a>,
}

impl Default for Questions {
    fn default() -> Self {
        Self { of_one: Shares::new(OF_ONE), all: Semaphore::new(ALL), own: Semaphore::new(OWN) }
    }
}

impl Questions {
    /// Waits for a place in the share of one of `requesters`, which are none for the relay's own questions. `None`: no place came free in time.
    pub(crate) async fn take(&self, requesters: &[Requester]) -> Option<Turn<'_>> {
        let taking = async {
            let share = if requesters.is_empty() { None } else { self.of_one.take_any(requesters.to_vec()).await };
            let place = tokio::select! {
                biased;
                place = self.all.acquire() => place,
                place = self.own.acquire(), if requesters.is_empty() => place,
            };
            let place = place.ok()?;
            Some(Turn { questions: self, share, _place: place })
        };
        timeout(WAIT, taking).await.ok().flatten()
    }
}

impl Turn<'_> {
    /// Ends when the place has to be given back to others.
    pub(super) async fn is_over(&self) {
        sleep(BRIEF).await;
        while !self.may_be_waited_for() {
            sleep(LOOK_EVERY).await;
        }
    }

    fn may_be_waited_for(&self) -> bool {
        let are_all_taken = self.questions.all.available_permits() == 0;
        match &self.share {
            Some(share) => share.is_last() || are_all_taken,
            None => are_all_taken && self.questions.own.available_permits() == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn source(number: u8) -> [Requester; 1] {
        [Requester::Source(IpAddr::from([192, 0, 2, number]))]
    }

    /// A question that nobody answers.
    fn ask_in_vain(questions: &Arc<Questions>, requesters: [Requester; 1]) -> tokio::task::JoinHandle<bool> {
        let questions = questions.clone();
        tokio::spawn(async move {
            let Some(turn) = questions.take(&requesters).await else { return false };
            timeout(Duration::from_secs(5), turn.is_over()).await.is_ok()
        })
    }

    async fn wait_of(questions: &Questions, requesters: &[Requester]) -> Duration {
        let begun = Instant::now();
        assert!(questions.take(requesters).await.is_some());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_one_asker_delay_it_and_nobody_else() {
        let questions = Arc::new(Questions::default());
        let asked: Vec<_> = (0..600).map(|_| ask_in_vain(&questions, source(1))).collect();
        // Until all wait: time goes on when nobody has anything to do.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(wait_of(&questions, &source(2)).await, Duration::ZERO);
        assert_eq!(wait_of(&questions, &[]).await, Duration::ZERO);
        let own = wait_of(&questions, &source(1)).await;
        assert!(own <= BRIEF * 7, "600 names by 96: {own:?}");
        for question in asked {
            question.await.unwrap();
        }
        assert_eq!((questions.all.available_permits(), questions.own.available_permits()), (ALL, OWN));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_many_askers_keep_the_relay_from_no_name_and_others_for_moments() {
        let questions = Arc::new(Questions::default());
        for number in 0..10 {
            for _ in 0..OF_ONE {
                ask_in_vain(&questions, source(number));
            }
        }
        // Until all wait: time goes on when nobody has anything to do.
        sleep(Duration::from_millis(1)).await;
        assert_eq!(questions.all.available_permits(), 0);
        let own: Vec<_> = futures_util::future::join_all((0..OWN).map(|_| questions.take(&[]))).await;
        assert!(own.iter().all(Option::is_some));
        let other = wait_of(&questions, &source(100)).await;
        assert!(other <= BRIEF * 6, "960 names by 192: {other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn silent_names_of_registered_accounts_delay_the_relays_other_names_for_moments() {
        let questions = Arc::new(Questions::default());
        let own = |questions: &Arc<Questions>| {
            let questions = questions.clone();
            tokio::spawn(async move {
                let Some(turn) = questions.take(&[]).await else { return };
                let _ = timeout(Duration::from_secs(5), turn.is_over()).await;
            })
        };
        for _ in 0..(ALL + OWN) * 4 {
            own(&questions);
        }
        // Until all wait: time goes on when nobody has anything to do.
        sleep(Duration::from_millis(1)).await;
        assert_eq!((questions.all.available_permits(), questions.own.available_permits()), (0, 0));
        let other = wait_of(&questions, &[]).await;
        assert!(other < WAIT, "1,024 names by 256: {other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_waits_behind_is_asked_to_its_end() {
        let questions = Arc::new(Questions::default());
        let alone = ask_in_vain(&questions, source(1));
        assert!(!alone.await.unwrap());
    }
}

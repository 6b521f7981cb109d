//! Limits on questions to the name servers at once, by asker.
//!
//! A question that no name server answers is a socket or two for some seconds, and a client that enables an account or subscribes to a push
//! service may name as many names as it likes. So a question takes a place, as a connection that is being opened does: in the share of its
//! asker, and among all. A remembered answer takes none.
//!
//! | asker | places |
//! | --- | --- |
//! | an App's devices, by the push services that they name | [`OF_ONE`], and [`ALL`] with all others |
//! | a source, by the SIP servers that it names | likewise |
//! | the relay: the operator's push services, SIP servers at which accounts are registered | [`ALL`], and [`OWN`] where those are taken |
//!
//! Invariant: a question waits for its place for [`WAIT`] at most. While all places that another question could take are taken, none of them is kept
//! for longer than [`BRIEF`], in which a name server answers that is well: names whose servers are silent delay others, the relay's own among
//! them, and keep nobody out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::limits::shares::{Share, Shares};

/// Questions under way of all who ask; a further one waits.
const ALL: usize = 192;
/// Likewise of one App or one source.
const OF_ONE: usize = 96;
/// Likewise, kept for the relay's own.
const OWN: usize = 64;
/// How long a question waits for its place; then it is without an answer.
const WAIT: Duration = Duration::from_secs(4);
/// How long a question keeps its place while others may wait for it; then it is without an answer.
const BRIEF: Duration = Duration::from_millis(500);
/// How often it looks whether they may.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// On whose behalf a name is asked for that the operator has not named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// An App, for one of its devices.
    App(Arc<str>),
    /// An address, as the limits count it.
    Source(IpAddr),
}

/// The places of all.
pub(super) struct Questions {
    of_one: Shares<Asker>,
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
    /// Waits for a place in the share of one of `askers`; there is none where the relay asks for itself. `None`: it has waited too long.
    pub(crate) async fn take(&self, askers: &[Asker]) -> Option<Turn<'_>> {
        let taking = async {
            let share = if askers.is_empty() { None } else { self.of_one.take_any(askers.to_vec()).await };
            let place = tokio::select! {
                biased;
                place = self.all.acquire() => place,
                place = self.own.acquire(), if askers.is_empty() => place,
            };
            let place = place.ok()?;
            Some(Turn { questions: self, share, _place: place })
        };
        timeout(WAIT, taking).await.ok().flatten()
    }
}

impl Turn<'_> {
    /// Ends when the place is to be given back, for others.
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

    fn source(number: u8) -> [Asker; 1] {
        [Asker::Source(IpAddr::from([192, 0, 2, number]))]
    }

    /// A question that nobody answers.
    fn ask_in_vain(questions: &Arc<Questions>, askers: [Asker; 1]) -> tokio::task::JoinHandle<bool> {
        let questions = questions.clone();
        tokio::spawn(async move {
            let Some(turn) = questions.take(&askers).await else { return false };
            timeout(Duration::from_secs(5), turn.is_over()).await.is_ok()
        })
    }

    async fn wait_of(questions: &Questions, askers: &[Asker]) -> Duration {
        let begun = Instant::now();
        assert!(questions.take(askers).await.is_some());
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

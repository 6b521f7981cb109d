//! The copies of a call's push to a service that may take it twice: FCM and Web Push, where the app knows a call by its id.
//!
//! | the copy under way | consequence |
//! | --- | --- |
//! | is taken, or its token is gone | that verdict counts, whichever copy it is for |
//! | is refused | that verdict counts, unless another copy is open, which may still be taken, or was lost: the phone may ring by it |
//! | has no answer [`ATTEMPT_TIMEOUT`] after it left | a second copy goes out; the first one stays open |
//! | was certainly not taken (503, not sent) | the same copy is tried again, after a pause, and once right before the deadline ([`last_try`]) |
//! | is lost: it may have been taken | a second copy goes out after a short pause. When all copies so far were lost, a last one goes out after [a part](LAST_AFTER) of the remaining time, at most [`ATTEMPT_TIMEOUT`]; when that is lost, too, the delivery ends |
//!
//! When the device has another token, no further copy goes out, and the delivery ends, even with copies open.
//!
//! Two copies that are cut off at the same moment have met the same fault; the last copy goes out when that may be over.
//!
//! Invariant: the service may have taken at most [`COPIES_MAX`] copies, however slow it is, or [`LOST_MAX`] if all but the last were lost.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::time::{Instant, sleep_until};

use super::last_try;
use crate::push::Verdict;
use crate::push::connection::attempt::Attempt;
use crate::push::connection::backoff::RETRY;
use crate::push::connection::departure::Departure;
use crate::push::fcm::ATTEMPT_TIMEOUT;
use crate::push::recipient::Recipient;

/// The largest number of copies of a call's push that the service may have taken.
const COPIES_MAX: usize = 2;
/// The same, if all but the last were lost.
const LOST_MAX: usize = 3;
/// The part of the remaining time after which the last copy goes out: a quarter.
const LAST_AFTER: u32 = 4;

/// The outcome of a push that is tried no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub verdict: Verdict,
    /// The number of attempts.
    pub attempts: u32,
    /// The number of copies that the service may have taken.
    pub copies: u32,
}

pub(super) type Flight<'a> = Pin<Box<dyn Future<Output = Attempt> + Send + 'a>>;

/// A push whose next copy, or the same one again, is for other services to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tried {
    /// The number of attempts.
    pub attempts: u32,
    /// The number of copies that the services so far may have taken.
    pub copies: u32,
}

/// Sends copies until the push is settled or `deadline` comes. `send` begins a copy; `recipient` is asked before each but the first. Other services may have
/// taken `earlier` copies. An error: `changed` came, and no copy was under way and none was lost, or the next one is due.
pub(super) async fn run_with<'a>(
    send: impl Fn() -> Flight<'a>,
    deadline: Instant,
    departure: &Departure,
    recipient: &dyn Recipient,
    earlier: u32,
    mut changed: impl Future<Output = ()> + Unpin,
) -> Result<Settled, Tried> {
    let mut copies = Copies {
        send,
        deadline,
        departure,
        recipient,
        flights: Vec::with_capacity(COPIES_MAX),
        attempts: 0,
        lost: earlier as usize,
        refusal: None,
        next_at: Some(Instant::now()),
        leaving: None,
        untaken: None,
        is_outdated: false,
    };
    loop {
        let step = if copies.attempts > 0 && !copies.is_outdated {
            tokio::select! {
                biased;
                step = copies.step() => step,
                () = &mut changed => {
                    copies.is_outdated = true;
                    if copies.count() == 0 { copies.begin_another().await } else { None }
                }
            }
        } else {
            copies.step().await
        };
        if let Some(ended) = step {
            return ended;
        }
    }
}

/// The copies of one push.
struct Copies<'a, 'b, S> {
    send: S,
    deadline: Instant,
    departure: &'b Departure,
    recipient: &'b dyn Recipient,
    /// The copies under way.
    flights: Vec<Flight<'a>>,
    attempts: u32,
    /// The copies that were lost, and those that other services may have taken.
    lost: usize,
    /// The answer to one copy, while the other was open.
    refusal: Option<Verdict>,
    /// The time of the next copy, unless an answer comes before.
    next_at: Option<Instant>,
    /// The departures before the latest copy began, until that one has departed.
    leaving: Option<u32>,
    /// No copy is under way, was lost or is tried any more: gives the verdict, when it is time.
    untaken: Option<Verdict>,
    /// Other services are in force: the next copy is theirs.
    is_outdated: bool,
}

/// How it ends.
type Ended = Result<Settled, Tried>;

impl<'a, S: Fn() -> Flight<'a>> Copies<'a, '_, S> {
    /// Waits for the next event, and handles it.
    async fn step(&mut self) -> Option<Ended> {
        let ends_at = if self.untaken.is_some() { last_try::settled_at(self.deadline) } else { self.deadline };
        if Instant::now() >= ends_at {
            if let Some(untaken) = self.untaken.take() {
                return Some(Ok(self.settled(untaken)));
            }
            let verdict = if self.count() == 0 { Verdict::TooLate } else { Verdict::Unconfirmed };
            return Some(Ok(self.settled(verdict)));
        }
        let most = if self.flights.is_empty() { LOST_MAX } else { COPIES_MAX };
        let next = self.next_at.filter(|_| self.flights.len() + self.lost < most);
        if self.flights.is_empty() && is_due(next) {
            // At once: a timer that is due fires a millisecond later.
            return self.begin_another().await;
        }
        tokio::select! {
            biased;
            landed = first(&mut self.flights), if !self.flights.is_empty() => match landed {
                Attempt::Done(verdict) => self.on_verdict(verdict).map(Ok),
                failed => self.on_failure(failed).map(Ok),
            },
            () = self.departure.beyond(self.leaving.unwrap_or_default()), if self.leaving.is_some() && self.next_at.is_none() => {
                (self.leaving, self.next_at) = (None, Some(Instant::now() + ATTEMPT_TIMEOUT));
                None
            }
            () = sleep_until(next.unwrap_or(ends_at).min(ends_at)) => {
                if is_due(next) { self.on_due().await } else { None }
            }
        }
    }

    /// A further copy is due. The wait is counted from the departure of the latest copy, so that one is awaited if it has not departed yet.
    async fn on_due(&mut self) -> Option<Ended> {
        let Some(known) = self.leaving.take() else { return self.begin_another().await };
        self.next_at = self.departure.latest_beyond(known).map(|at| at + ATTEMPT_TIMEOUT);
        self.leaving = if self.next_at.is_none() { Some(known) } else { None };
        None
    }

    async fn begin_another(&mut self) -> Option<Ended> {
        if self.attempts > 0 && !self.recipient.stays().await {
            return Some(Ok(self.settled(Verdict::Moved)));
        }
        if self.is_outdated {
            // A copy that is under way may be taken; its answer is no longer awaited.
            self.flights.iter().for_each(|_| self.departure.note_lost());
            return Some(Err(Tried { attempts: self.attempts, copies: self.count() }));
        }
        self.attempts += 1;
        (self.leaving, self.next_at) = (Some(self.departure.count()), Some(Instant::now() + ATTEMPT_TIMEOUT));
        self.flights.push((self.send)());
        None
    }

    fn on_verdict(&mut self, verdict: Verdict) -> Option<Settled> {
        let taken = verdict == Verdict::Accepted;
        let decides = taken || matches!(verdict, Verdict::Gone { .. });
        if decides || self.flights.is_empty() {
            let copies = self.count() + u32::from(taken);
            return Some(Settled { verdict: self.weighed(verdict), attempts: self.attempts, copies });
        }
        (self.refusal, self.next_at, self.leaving) = (Some(verdict), None, None);
        None
    }

    /// A copy was not taken, or was lost.
    fn on_failure(&mut self, failed: Attempt) -> Option<Settled> {
        self.leaving = None;
        let was_lost = failed == Attempt::Lost;
        let after = match failed {
            Attempt::Again { after } | Attempt::Limited { after } => after,
            Attempt::Lost | Attempt::Done(_) => {
                self.lost += 1;
                None
            }
        };
        let none_is_open = self.flights.is_empty();
        if let Some(refusal) = self.refusal.take_if(|_| none_is_open) {
            return Some(self.settled(self.weighed(refusal)));
        }
        if none_is_open && self.lost >= LOST_MAX {
            return Some(self.settled(Verdict::Unconfirmed));
        }
        let now = Instant::now();
        let at = if was_lost && self.lost >= COPIES_MAX {
            Some(now + (self.deadline.saturating_duration_since(now) / LAST_AFTER).min(ATTEMPT_TIMEOUT))
        } else {
            last_try::next_try(now, RETRY.pause_or(self.attempts, after), after, self.deadline)
        };
        if none_is_open && at.is_none() {
            if self.lost > 0 {
                return Some(self.settled(Verdict::Unconfirmed));
            }
            self.untaken = Some(Verdict::Retry { after });
        }
        self.next_at = at;
        None
    }

    /// The meaning of a verdict for the whole push: the phone may ring by a copy that was lost, whatever the last one is refused for.
    fn weighed(&self, verdict: Verdict) -> Verdict {
        let is_refused = matches!(verdict, Verdict::Refused { .. });
        if is_refused && self.lost > 0 { Verdict::Unconfirmed } else { verdict }
    }

    /// The number of copies that the service may have taken.
    fn count(&self) -> u32 {
        (self.flights.len() + self.lost) as u32
    }

    fn settled(&self, verdict: Verdict) -> Settled {
        Settled { verdict, attempts: self.attempts, copies: self.count() }
    }
}

fn is_due(next: Option<Instant>) -> bool {
    next.is_some_and(|at| at <= Instant::now())
}

/// Takes out the first copy that ends, and returns its outcome.
async fn first(flights: &mut Vec<Flight<'_>>) -> Attempt {
    poll_fn(|context| {
        for place in 0..flights.len() {
            if let Poll::Ready(attempt) = flights[place].as_mut().poll(context) {
                drop(flights.remove(place));
                return Poll::Ready(attempt);
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;
    use std::time::Duration;

    use super::*;
    use crate::push::recipient::{Fixed, StaysFuture};

    /// Plays one attempt after the other, each with the time that it takes; an attempt that is not named never ends.
    async fn play(script: &[(u64, Attempt)]) -> (Verdict, u32, u32, u64) {
        play_for(&Fixed, script).await
    }

    async fn play_for(recipient: &dyn Recipient, script: &[(u64, Attempt)]) -> (Verdict, u32, u32, u64) {
        let started = Instant::now();
        let script = RefCell::new(script.iter());
        let departure = Departure::unmeasured();
        let send = || -> Flight<'_> {
            departure.note();
            match script.borrow_mut().next() {
                Some((seconds, attempt)) => {
                    let at = Instant::now() + Duration::from_secs(*seconds);
                    let attempt = match attempt {
                        Attempt::Done(verdict) => Attempt::Done(verdict.clone()),
                        Attempt::Again { after } | Attempt::Limited { after } => Attempt::Again { after: *after },
                        Attempt::Lost => Attempt::Lost,
                    };
                    Box::pin(async move {
                        sleep_until(at).await;
                        attempt
                    })
                }
                None => Box::pin(pending()),
            }
        };
        let Settled { verdict, attempts, copies } =
            run_with(send, started + Duration::from_secs(30), &departure, recipient, 0, pending()).await.unwrap();
        (verdict, attempts, copies, started.elapsed().as_secs())
    }

    const ACCEPTED: Attempt = Attempt::Done(Verdict::Accepted);
    const AWAY: Attempt = Attempt::Again { after: None };

    #[tokio::test]
    async fn the_first_copy_leaves_in_the_turn_in_which_it_is_begun() {
        let departure = Departure::unmeasured();
        let send = || -> Flight<'_> { Box::pin(async { ACCEPTED }) };
        let mut run =
            std::pin::pin!(run_with(send, Instant::now() + Duration::from_secs(30), &departure, &Fixed, 0, pending()));
        let begun = poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await;
        assert_eq!(
            begun,
            Poll::Ready(Ok(Settled { verdict: Verdict::Accepted, attempts: 1, copies: 1 })),
            "no timer is waited for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_service_gets_two_copies_and_whichever_it_answers_first_counts() {
        assert_eq!(play(&[(1, ACCEPTED)]).await, (Verdict::Accepted, 1, 1, 1));
        assert_eq!(play(&[(6, ACCEPTED)]).await, (Verdict::Accepted, 2, 2, 6), "the first one, while a second is out");
        assert_eq!(play(&[(60, ACCEPTED), (1, ACCEPTED)]).await, (Verdict::Accepted, 2, 2, 6));
        assert_eq!(play(&[(60, ACCEPTED), (60, ACCEPTED), (0, ACCEPTED)]).await, (Verdict::Unconfirmed, 2, 2, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_one_copy_waits_for_the_other_and_a_dead_token_does_not() {
        let refused = || Attempt::Done(Verdict::Refused { reason: "QUOTA_EXCEEDED" });
        let gone = || Attempt::Done(Verdict::Gone { since: None });
        assert_eq!(play(&[(1, refused())]).await, (Verdict::Refused { reason: "QUOTA_EXCEEDED" }, 1, 0, 1));
        assert_eq!(play(&[(9, ACCEPTED), (1, refused())]).await, (Verdict::Accepted, 2, 1, 9));
        let (verdict, attempts, _, at) = play(&[(9, AWAY), (1, refused())]).await;
        assert_eq!((verdict, attempts, at), (Verdict::Refused { reason: "QUOTA_EXCEEDED" }, 2, 9));
        assert_eq!(play(&[(9, ACCEPTED), (1, gone())]).await, (Verdict::Gone { since: None }, 2, 1, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_is_no_copy_and_what_is_lost_is_one() {
        let (verdict, attempts, copies, _) = play(&[(0, AWAY), (0, AWAY), (0, AWAY), (0, ACCEPTED)]).await;
        assert_eq!((verdict, attempts, copies), (Verdict::Accepted, 4, 1));
        let (verdict, attempts, copies, _) = play(&[(0, Attempt::Lost), (0, ACCEPTED)]).await;
        assert_eq!((verdict, attempts, copies), (Verdict::Accepted, 2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_copies_were_lost_the_last_one_waits_until_their_fault_may_be_over() {
        const LOST: Attempt = Attempt::Lost;
        assert_eq!(play(&[(0, LOST), (0, LOST), (0, ACCEPTED)]).await, (Verdict::Accepted, 3, 3, 5));
        let (verdict, attempts, copies, _) = play(&[(0, LOST), (0, AWAY), (0, LOST), (0, AWAY), (0, ACCEPTED)]).await;
        assert_eq!((verdict, attempts, copies), (Verdict::Accepted, 5, 3));
        assert_eq!(play(&[(0, LOST), (0, LOST), (0, LOST), (0, ACCEPTED)]).await, (Verdict::Unconfirmed, 3, 3, 5));
        assert_eq!(play(&[(9, LOST), (2, LOST), (1, ACCEPTED)]).await, (Verdict::Accepted, 3, 3, 15));
        assert_eq!(
            play(&[(0, LOST), (0, LOST), (60, ACCEPTED), (0, ACCEPTED)]).await,
            (Verdict::Unconfirmed, 3, 3, 30)
        );
        assert_eq!(play(&[(9, ACCEPTED), (0, LOST), (0, ACCEPTED)]).await, (Verdict::Accepted, 2, 2, 9), "one is open");
        assert_eq!(
            play(&[(0, LOST), (28, LOST), (0, ACCEPTED)]).await,
            (Verdict::Accepted, 3, 3, 28),
            "soon, where there is little"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_service_takes_is_tried_once_more_right_before_the_deadline_and_ends_there() {
        let away: Vec<_> = std::iter::repeat_with(|| (0, AWAY)).take(1_000).collect();
        for _ in 0..20 {
            let (verdict, attempts, copies, at) = play(&away).await;
            assert_eq!((verdict, copies, at), (Verdict::Retry { after: None }, 0, 29), "of 30 s, after {attempts}");
        }
        // The service is there again 2 s before the deadline.
        let until = Instant::now() + Duration::from_secs(30);
        let send = || -> Flight<'_> {
            Box::pin(async move { if Instant::now() < until - Duration::from_secs(2) { AWAY } else { ACCEPTED } })
        };
        let ended = run_with(send, until, &Departure::unmeasured(), &Fixed, 0, pending()).await.map(|it| it.verdict);
        assert_eq!(ended, Ok(Verdict::Accepted));
        let asked = || Attempt::Again { after: Some(Duration::from_secs(60)) };
        let (verdict, attempts, _, at) = play(&[(0, asked()), (0, ACCEPTED)]).await;
        assert_eq!((verdict, attempts, at), (Verdict::Retry { after: Some(Duration::from_secs(60)) }, 1, 29));
    }

    /// Plays it where other services come in force after so many seconds: after how many tries these go on, or the verdict.
    async fn play_until_changed(script: &[Attempt], changed_after: u64) -> Result<Verdict, Tried> {
        let (script, departure) = (RefCell::new(script.iter()), Departure::unmeasured());
        let send = || -> Flight<'_> {
            departure.note();
            match script.borrow_mut().next() {
                Some(Attempt::Lost) => Box::pin(async { Attempt::Lost }),
                Some(_) => Box::pin(async { AWAY }),
                None => Box::pin(pending()),
            }
        };
        let changed = Box::pin(tokio::time::sleep(Duration::from_secs(changed_after)));
        let until = Instant::now() + Duration::from_secs(30);
        run_with(send, until, &departure, &Fixed, 0, changed).await.map(|settled| settled.verdict)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_certainly_not_taken_goes_to_other_services_and_so_does_the_next_copy_of_what_may_have_been() {
        let away = || std::iter::repeat_with(|| AWAY);
        let tried = play_until_changed(&away().take(1_000).collect::<Vec<_>>(), 9).await;
        assert!(matches!(tried, Err(Tried { attempts: 1.., copies: 0 })), "{tried:?}");
        assert_eq!(play_until_changed(&[], 3).await, Err(Tried { attempts: 1, copies: 1 }), "the second copy");
        assert_eq!(play_until_changed(&[], 9).await, Ok(Verdict::Unconfirmed), "two are under way");
        let lost: Vec<_> = std::iter::once(Attempt::Lost).chain(away().take(1_000)).collect();
        let tried = play_until_changed(&lost, 9).await;
        assert!(matches!(tried, Err(Tried { attempts: 2.., copies: 1 })), "{tried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_other_services_may_have_taken_is_one_of_two() {
        let (departure, until) = (Departure::unmeasured(), Instant::now() + Duration::from_secs(30));
        let send = || -> Flight<'_> {
            departure.note();
            Box::pin(pending())
        };
        let ended = run_with(send, until, &departure, &Fixed, 1, pending()).await;
        assert_eq!(ended, Ok(Settled { verdict: Verdict::Unconfirmed, attempts: 1, copies: 2 }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_by_other_services_ends_no_call_that_an_earlier_copy_may_ring() {
        let refused = Verdict::Refused { reason: "SENDER_ID_MISMATCH" };
        for (earlier, verdict) in [(0, refused.clone()), (1, Verdict::Unconfirmed)] {
            let until = Instant::now() + Duration::from_secs(30);
            let send = || -> Flight<'_> {
                let refused = refused.clone();
                Box::pin(async { Attempt::Done(refused) })
            };
            let ended = run_with(send, until, &Departure::unmeasured(), &Fixed, earlier, pending()).await;
            assert_eq!(ended, Ok(Settled { verdict, attempts: 1, copies: earlier }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_no_call_that_a_copy_whose_answer_was_lost_may_ring() {
        let refused = || Attempt::Done(Verdict::Refused { reason: "PERMISSION_DENIED" });
        assert_eq!(play(&[(1, Attempt::Lost), (0, refused())]).await, (Verdict::Unconfirmed, 2, 1, 1));
        assert_eq!(play(&[(9, Attempt::Lost), (1, refused())]).await, (Verdict::Unconfirmed, 2, 1, 9));
        let gone = || Attempt::Done(Verdict::Gone { since: None });
        assert_eq!(play(&[(1, Attempt::Lost), (0, gone())]).await, (Verdict::Gone { since: None }, 2, 1, 1));
    }

    /// A recipient whose token changes at this moment.
    struct MovesAt(Instant);

    impl Recipient for MovesAt {
        fn stays(&self) -> StaysFuture<'_> {
            Box::pin(async { Instant::now() < self.0 })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_further_try_and_no_further_copy_goes_to_a_token_that_another_has_replaced() {
        let moves_at = |seconds| MovesAt(Instant::now() + Duration::from_secs(seconds));
        let (verdict, attempts, copies, _) = play_for(&moves_at(0), &[(0, AWAY), (0, ACCEPTED)]).await;
        assert_eq!((verdict, attempts, copies), (Verdict::Moved, 1, 0), "it would have been tried again");
        assert_eq!(play_for(&moves_at(1), &[(60, ACCEPTED), (0, ACCEPTED)]).await, (Verdict::Moved, 1, 1, 5));
        assert_eq!(play_for(&moves_at(0), &[(1, ACCEPTED)]).await, (Verdict::Accepted, 1, 1, 1), "nobody is asked");
        assert_eq!(play_for(&moves_at(6), &[(60, AWAY), (2, ACCEPTED)]).await, (Verdict::Accepted, 2, 2, 7));
    }
}

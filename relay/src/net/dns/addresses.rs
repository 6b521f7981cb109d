//! The addresses of a name that are known in time (RFC 8305 §3).
//!
//! Invariant: a question that a name server leaves unanswered holds up no address that another one has brought, for longer than
//! [`RESOLUTION_DELAY`]. It is asked on by itself, so that the next resolution finds its answer in the cache.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::proto::rr::RData;
use tokio::time::sleep;

/// How long the addresses of one family are kept back for those of the other (RFC 8305 §3).
pub const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How long the answers to both questions are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until some address is known, and [`RESOLUTION_DELAY`] more.
    Brief,
    /// Until both have come, or cannot come any more.
    Whole,
}

/// The answer to one question; `None`: there is nothing.
pub(crate) type Answer<E> = Result<Option<(Vec<RData>, Duration)>, E>;

/// The known addresses of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// IPv4 first, then IPv6; never empty.
    pub(super) ips: Vec<IpAddr>,
    /// How long the answers hold that have come.
    pub(super) ttl: Duration,
    /// Both questions were answered: that one failed says nothing of its family.
    pub(super) is_whole: bool,
}

/// Asks for the addresses of both families at once; `None`: there are none.
pub(super) async fn gather<E, V4, V6>(v4: V4, v6: V6, patience: Patience) -> Result<Option<Known>, E>
where
    E: Send + 'static,
    V4: Future<Output = Answer<E>> + Send + 'static,
    V6: Future<Output = Answer<E>> + Send + 'static,
{
    let (mut ask_v4, mut ask_v6) = (Box::pin(v4), Box::pin(v6));
    let (mut v4, mut v6): (Option<Answer<E>>, Option<Answer<E>>) = (None, None);
    while v4.is_none() || v6.is_none() {
        let is_enough = patience == Patience::Brief && (has_address(v4.as_ref()) || has_address(v6.as_ref()));
        tokio::select! {
            biased;
            answer = &mut ask_v4, if v4.is_none() => v4 = Some(answer),
            answer = &mut ask_v6, if v6.is_none() => v6 = Some(answer),
            () = sleep(RESOLUTION_DELAY), if is_enough => break,
        }
    }
    let is_whole = matches!((&v4, &v6), (Some(Ok(_)), Some(Ok(_))));
    if v4.is_none() {
        drop(tokio::spawn(ask_v4));
    }
    if v6.is_none() {
        drop(tokio::spawn(ask_v6));
    }
    let mut known = Known { ips: Vec::new(), ttl: Duration::MAX, is_whole };
    let mut error = None;
    for answer in [v4, v6].into_iter().flatten() {
        match answer {
            Ok(None) => {}
            Ok(Some((records, valid))) => {
                known.ttl = known.ttl.min(valid);
                known.ips.extend(records.iter().filter_map(RData::ip_addr));
            }
            Err(why) => error = error.or(Some(why)),
        }
    }
    match (known.ips.is_empty(), error) {
        (false, _) => Ok(Some(known)),
        (true, Some(why)) => Err(why),
        (true, None) => Ok(None),
    }
}

fn has_address<E>(answer: Option<&Answer<E>>) -> bool {
    matches!(answer, Some(Ok(Some((records, _)))) if records.iter().any(|record| record.ip_addr().is_some()))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use tokio::time::Instant;

    use super::*;

    /// A name server cannot answer.
    #[derive(Debug, PartialEq)]
    struct Failure;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn v4() -> Answer<Failure> {
        Ok(Some((vec![RData::A(A::new(8, 8, 0, 1))], HOUR)))
    }

    fn v6() -> Answer<Failure> {
        Ok(Some((vec![RData::AAAA(AAAA::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 1))], HOUR)))
    }

    async fn after(wait: u64, answer: Answer<Failure>) -> Answer<Failure> {
        sleep(Duration::from_millis(wait)).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_known_waits_for_the_other_family_for_50_ms() {
        for (late, is_whole) in [(10, true), (49, true), (60, false), (10_000, false)] {
            let begun = Instant::now();
            let found = gather(ready(v4()), after(late, v6()), Patience::Brief).await.unwrap().unwrap();
            assert_eq!((found.is_whole, found.ips.len()), (is_whole, 1 + usize::from(is_whole)), "{late} ms");
            assert!(begun.elapsed() <= Duration::from_millis(51), "{late} ms: {:?}", begun.elapsed());
            let found = gather(after(late, v4()), ready(v6()), Patience::Brief).await.unwrap().unwrap();
            assert_eq!(found.is_whole, is_whole, "the other way round");
        }
        let found = gather(after(900, v4()), after(2_000, v6()), Patience::Whole).await.unwrap().unwrap();
        assert_eq!((found.is_whole, found.ips.len()), (true, 2), "IPv4 first");
        assert!(found.ips[0].is_ipv4());
    }

    #[tokio::test(start_paused = true)]
    async fn while_no_address_is_known_both_answers_are_waited_for() {
        let nothing = || ready(Ok::<_, Failure>(None));
        let found = gather(nothing(), after(3_000, v6()), Patience::Brief).await.unwrap().unwrap();
        assert_eq!((found.is_whole, found.ips.len()), (true, 1));
        let failed = gather(ready(Err(Failure)), after(3_000, Ok(None)), Patience::Brief).await;
        assert_eq!(failed, Err(Failure));
        assert_eq!(gather(nothing(), nothing(), Patience::Brief).await, Ok(None));
        let never = tokio::time::timeout(HOUR, gather(nothing(), pending(), Patience::Brief)).await;
        assert!(never.is_err(), "whoever asks has a limit of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_could_not_be_asked_for_may_have_addresses() {
        let found = gather(ready(v4()), ready(Err(Failure)), Patience::Whole).await.unwrap().unwrap();
        assert_eq!((found.is_whole, found.ips.len()), (false, 1));
        let found = gather(ready(Err(Failure)), ready(v6()), Patience::Brief).await.unwrap().unwrap();
        assert_eq!((found.is_whole, found.ips.len()), (false, 1));
        let found = gather(ready(v4()), ready(Ok::<_, Failure>(None)), Patience::Brief).await.unwrap().unwrap();
        assert!(found.is_whole);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_was_not_waited_for_is_asked_on() {
        let (told, heard) = tokio::sync::oneshot::channel();
        let late = async move {
            sleep(Duration::from_secs(1)).await;
            let _ = told.send(());
            v6()
        };
        gather(ready(v4()), late, Patience::Brief).await.unwrap();
        assert!(heard.await.is_ok());
    }
}

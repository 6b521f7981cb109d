//! Who has a stream of a line, and when.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_call_takes_the_next_stream_however_many_alerts_wait() {
    let line = Line::new(false, 100, Arc::default());
    let alerts: Vec<_> = std::iter::from_fn(|| line.try_admit(Urgency::CanWait, || 100)).collect();
    assert_eq!(alerts.len(), 75, "of a hundred streams");
    let served = Arc::new(AtomicUsize::new(0));
    let waiting: Vec<_> = (0..1_000)
        .map(|_| {
            let (line, served) = (Arc::clone(&line), Arc::clone(&served));
            tokio::spawn(async move {
                let _place = line.admit(Urgency::CanWait, || 100).await.expect("it lives");
                served.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_secs(1)).await;
                line.answered(LineFate::Good, true, || 100);
            })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    let calls: Vec<_> = (0..25).map(|_| line.admit(Urgency::Urgent, || 100)).collect();
    let mut placed = Vec::new();
    for call in calls {
        placed.push(timeout(Duration::from_millis(1), call).await.expect("at once").expect("it lives"));
    }
    let next = tokio::spawn({
        let line = Arc::clone(&line);
        async move { line.admit(Urgency::Urgent, || 100).await.map(|_| Instant::now()) }
    });
    sleep(Duration::from_millis(1)).await;
    assert!(!next.is_finished() && served.load(Ordering::Relaxed) == 0, "all are taken");
    // The first stream that is free is the call's.
    let freed = Instant::now();
    drop(alerts);
    assert_eq!(next.await.expect("no panic"), Some(freed));
    for alert in waiting {
        alert.await.expect("no panic");
    }
    assert_eq!(served.load(Ordering::Relaxed), 1_000, "each has its turn");
    line.retire();
    assert!(line.admit(Urgency::CanWait, || 100).await.is_none());
}

#[tokio::test]
async fn a_fresh_line_to_a_service_of_few_streams_keeps_some_of_them_for_calls() {
    for (known, alerts, calls) in [(10, 7, 3), (30, 22, 8), (2, 1, 1), (100, 75, 25)] {
        let line = Line::new(false, known, Arc::default());
        let take = |urgency| std::iter::from_fn(|| line.try_admit(urgency, || known)).collect::<Vec<_>>();
        let (of_alerts, of_calls) = (take(Urgency::CanWait), take(Urgency::Urgent));
        assert_eq!((of_alerts.len(), of_calls.len()), (alerts, calls), "of {known}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_lowered_holds_for_the_next_request() {
    let line = Line::new(false, 100, Arc::default());
    let open: Vec<_> = (0..8).map(|_| line.try_admit(Urgency::Urgent, || 100).expect("there is room")).collect();
    assert!(line.try_admit(Urgency::Urgent, || 1).is_none(), "eight are open");
    let waits = tokio::time::timeout(Duration::from_millis(100), line.admit(Urgency::Urgent, || 1)).await;
    assert!(waits.is_err());
    drop(open);
    let only = line.admit(Urgency::Urgent, || 1).await.expect("it lives");
    assert!(line.try_admit(Urgency::Urgent, || 1).is_none());
    line.resize(2);
    assert!(line.try_admit(Urgency::Urgent, || 2).is_some(), "it was raised again");
    drop(only);
    // A permit for the test of whether there is one.
    assert!(line.try_admit(Urgency::Urgent, || 0).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_raised_again_holds_at_once_on_a_line_that_keeps_answering() {
    let limit = Arc::new(AtomicUsize::new(1_000));
    let allowed = {
        let limit = Arc::clone(&limit);
        move || limit.load(Ordering::Relaxed)
    };
    let (line, done) = (Line::new(false, 100, Arc::default()), Arc::new(AtomicUsize::new(0)));
    let begin = |count| {
        for _ in 0..count {
            let (line, allowed, done) = (Arc::clone(&line), allowed.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let _permit = line.admit(Urgency::Urgent, &allowed).await.expect("it lives");
                sleep(Duration::from_millis(50)).await;
                line.answered(LineFate::Good, true, &allowed);
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
    };
    let narrow = |to| limit.store(to, Ordering::Relaxed);
    begin(50);
    sleep(Duration::from_millis(10)).await;
    narrow(1);
    begin(200);
    sleep(Duration::from_millis(200)).await;
    assert!((50..60).contains(&done.load(Ordering::Relaxed)), "one after the other");
    narrow(1_000);
    sleep(Duration::from_millis(250)).await;
    assert_eq!(done.load(Ordering::Relaxed), 250, "all at once again");
}

#[tokio::test(start_paused = true)]
async fn a_cautious_line_opens_for_what_the_service_allows_when_it_is_proven() {
    let line = Line::new(true, 100, Arc::default());
    let first = line.try_admit(Urgency::Urgent, || 100).expect("there is room for one");
    assert!(line.try_admit(Urgency::Urgent, || 100).is_none(), "for one alone");
    line.answered(LineFate::Good, true, || 2);
    drop(first);
    let two = (
        line.try_admit(Urgency::Urgent, || 2),
        line.try_admit(Urgency::Urgent, || 2),
        line.try_admit(Urgency::Urgent, || 2),
    );
    assert!(two.0.is_some() && two.1.is_some() && two.2.is_none());
}

//! The fate of requests on one connection, and the places among them.

use std::collections::HashMap;

use hyper::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::push::connection::answer_timeout::TryTimes;
use crate::push::connection::departure::Departure;
use crate::push::connection::endpoint::trust;
use crate::push::connection::network::Nowhere;

const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// A push with this body.
fn request(body: impl Into<Bytes>) -> Request {
    Request { whom: None, path: "/".to_owned(), headers: HeaderMap::new(), body: body.into() }
}

/// A connection to a peer that has announced this one setting.
async fn connected(setting: u16, value: u32) -> (Arc<Connection>, DuplexStream) {
    let (ours, mut theirs) = duplex(64 * 1024);
    let mut frame = vec![0, 0, 6, 4, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&setting.to_be_bytes());
    frame.extend_from_slice(&value.to_be_bytes());
    theirs.write_all(&frame).await.unwrap();
    let (sender, driven) = h2::client::Builder::new().handshake::<_, Body>(ours).await.unwrap();
    tokio::spawn(driven);
    let mut heard = Vec::new();
    while !heard.ends_with(&SETTINGS_ACK) {
        theirs.read_buf(&mut heard).await.unwrap();
    }
    let (objection, line) = (Objection::default(), Line::new(false, 100, Arc::default()));
    (Arc::new(Connection { sender, core: None, objection, allowance: None, made_at: Instant::now(), line }), theirs)
}

/// Reads until so many HEADERS and DATA have come.
async fn read_frames(theirs: &mut DuplexStream, headers: usize, data: usize) {
    let mut counts = HashMap::from([(0, 0), (1, 0)]);
    while (counts[&1], counts[&0]) != (headers, data) {
        let mut head = [0; 9];
        theirs.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        theirs.read_exact(&mut vec![0; length]).await.unwrap();
        *counts.entry(head[3]).or_default() += 1;
    }
}

#[tokio::test]
async fn what_a_service_writes_into_its_goaway_is_not_repeated() {
    let (ours, mut theirs) = duplex(64 * 1024);
    // SETTINGS; GOAWAY (RFC 9113 §6.8) with INTERNAL_ERROR and five bytes beside.
    let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x0d\x07\0\0\0\0\0\0\0\0\0\0\0\0\x02evil!";
    theirs.write_all(frames).await.unwrap();
    let (_sender, driven) = h2::client::Builder::new().handshake::<_, Body>(ours).await.unwrap();
    let error = driven.await.unwrap_err();
    assert_eq!((error.to_string().contains("evil!"), ending(&error).as_str()), (true, "INTERNAL_ERROR"));
}

#[tokio::test]
async fn what_is_no_call_leaves_calls_a_quarter_of_the_places() {
    let endpoint = Endpoint::new("https://localhost:1", "endpoint", trust(None, None).unwrap(), Arc::new(Nowhere));
    let series = crate::metrics::Metrics::new().push_service("com.example.phone", "apns");
    let record = Record::new("com.example.phone", "apns", series, None);
    let channel = Channel::new("a/apns".to_owned(), endpoint.ok().unwrap(), false, record);
    let alerts: Vec<_> = (0..ALERTS_UNDER_WAY).map(|_| channel.place(Urgency::CanWait)).collect();
    let none = channel.place(Urgency::CanWait).err();
    assert!(alerts.iter().all(Result::is_ok) && matches!(none, Some(Failure::NoPlace { .. })), "{none:?}");
    let calls: Vec<_> = (ALERTS_UNDER_WAY..MAX_UNDER_WAY).map(|_| channel.place(Urgency::Urgent)).collect();
    assert!(
        calls.iter().all(Result::is_ok)
            && channel.place(Urgency::Urgent).is_err()
            && channel.place(Urgency::CanWait).is_err()
    );
    drop(calls);
    assert!(channel.place(Urgency::Urgent).is_ok() && channel.place(Urgency::CanWait).is_err());
}

#[tokio::test]
async fn what_waited_in_a_connection_that_is_lost_is_told_from_what_has_left() {
    let endpoint = Endpoint::new("https://localhost:1", "endpoint", trust(None, None).unwrap(), Arc::new(Nowhere));
    let endpoint = Arc::new(endpoint.ok().unwrap());
    // SETTINGS_MAX_CONCURRENT_STREAMS of one, and a SETTINGS_INITIAL_WINDOW_SIZE that lets no body go (RFC 9113 §6.5.2).
    for (setting, value, (headers, data)) in [(3, 1, (1, 1)), (4, 0, (8, 0)), (4, 3, (8, 8))] {
        let (connection, mut theirs) = connected(setting, value).await;
        let exchanges: Vec<_> = (0..8)
            .map(|_| {
                let (connection, endpoint) = (Arc::clone(&connection), Arc::clone(&endpoint));
                tokio::spawn(async move {
                    let departure = Departure::unmeasured();
                    let body = Bytes::from_static(b"a push");
                    let request = Request { whom: None, path: "/".to_owned(), headers: HeaderMap::new(), body };
                    let until = Instant::now() + Duration::from_secs(60);
                    let when_silent = WhenSilent::Stays;
                    let patience = Patience {
                        times: TryTimes::whole(until),
                        when_silent,
                        urgency: Urgency::CanWait,
                        departure: &departure,
                        renewed: None,
                    };
                    let lost = connection.exchange(&endpoint, &request, patience).await.err();
                    (matches!(lost, Some(Lost::Ending)), matches!(lost, Some(Lost::Unknown)), departure.count())
                })
            })
            .collect();
        read_frames(&mut theirs, headers, data).await;
        drop(theirs);
        let has_left = usize::from(setting == 3);
        let (mut ending, mut unknown, mut left) = (0, 0, 0);
        for exchange in exchanges {
            let (is_ending, is_unknown, count) = exchange.await.unwrap();
            ending += usize::from(is_ending);
            unknown += usize::from(is_unknown);
            left += count as usize;
        }
        assert_eq!((ending, unknown, left), (8 - has_left, has_left, has_left), "{setting}: {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_left_in_its_time_or_stands_still_half_way_never_does_and_another_line_is_told_to_take_it() {
    let endpoint = Endpoint::new("https://localhost:1", "endpoint", trust(None, None).unwrap(), Arc::new(Nowhere));
    let endpoint = endpoint.ok().unwrap();
    // No byte of a body fits, or three.
    for (window, has_begun, seconds) in [(0, false, 1), (3, true, 2)] {
        let (connection, _theirs) = connected(4, window).await;
        let (departure, began) = (Departure::unmeasured(), Instant::now());
        let body = Bytes::from_static(b"a push");
        let request = Request { whom: None, path: "/".to_owned(), headers: HeaderMap::new(), body };
        let patience = Patience {
            times: TryTimes {
                leaves_until: began + Duration::from_secs(1),
                ..TryTimes::whole(began + Duration::from_secs(9))
            },
            when_silent: WhenSilent::Leaves,
            urgency: Urgency::CanWait,
            departure: &departure,
            renewed: None,
        };
        let lost = connection.exchange(&endpoint, &request, patience).await.err();
        let is_so = if has_begun { matches!(lost, Some(Lost::Ending)) } else { matches!(lost, Some(Lost::Refused)) };
        assert!(is_so && began.elapsed().as_secs() == seconds, "{window}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_body_that_stands_still_half_way_goes_elsewhere_with_it() {
    let endpoint = Endpoint::new("https://localhost:1", "endpoint", trust(None, None).unwrap(), Arc::new(Nowhere));
    let endpoint = Arc::new(endpoint.ok().unwrap());
    // The window of each stream is large (SETTINGS_INITIAL_WINDOW_SIZE), and that of the connection its 65,535 bytes (RFC 9113 §6.9.2), which the first
    // body takes.
    let (connection, mut theirs) = connected(4, 1 << 20).await;
    tokio::spawn(async move { while theirs.read(&mut [0; 16_384]).await.is_ok_and(|read| read > 0) {} });
    let exchange = |body: Vec<u8>| {
        let (connection, endpoint) = (Arc::clone(&connection), Arc::clone(&endpoint));
        tokio::spawn(async move {
            let (departure, began) = (Departure::unmeasured(), Instant::now());
            let patience = Patience {
                times: TryTimes::whole(began + Duration::from_secs(30)),
                when_silent: WhenSilent::Stays,
                urgency: Urgency::Urgent,
                departure: &departure,
                renewed: None,
            };
            let lost = connection.exchange(&endpoint, &request(body), patience).await.err();
            (matches!(lost, Some(Lost::Ending)), began.elapsed().as_secs(), departure.count())
        })
    };
    let first = exchange(vec![b'x'; 70_000]);
    // Its part has left.
    sleep(Duration::from_millis(1)).await;
    let waiting: Vec<_> = (0..3).map(|_| exchange(b"a push".to_vec())).collect();
    for exchange in std::iter::once(first).chain(waiting) {
        assert_eq!(exchange.await.unwrap(), (true, 2, 0));
    }
    assert!(connection.line.is_deaf());
    // Likewise where the line was retired before: in the service's time.
    let (connection, _theirs) = connected(4, 0).await;
    connection.line.retire();
    let departure = Departure::unmeasured();
    let patience = Patience {
        times: TryTimes::whole(Instant::now() + Duration::from_secs(30)),
        when_silent: WhenSilent::Stays,
        urgency: Urgency::Urgent,
        departure: &departure,
        renewed: None,
    };
    let began = Instant::now();
    let lost = connection.exchange(&endpoint, &request("a push"), patience).await.err();
    assert!(matches!(lost, Some(Lost::Ending)) && began.elapsed().as_secs() == 4, "{:?}", began.elapsed());
}

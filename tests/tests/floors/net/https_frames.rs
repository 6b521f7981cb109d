//! The HTTPS server by the frames of HTTP/2 (RFC 9113 §4) that it sends, and in what order.

use std::time::Duration;

use relay::net::https;
use relay::net::listen::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use super::https::{SOON, Server, server, server_with};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// END_STREAM, which is ACK on SETTINGS, and END_HEADERS.
const END: u8 = 1;
const WHOLE: u8 = 4;
/// What a peer may send before it is given more room (RFC 9113 §6.9.2).
const WINDOW: usize = 65_535;

/// A client that reads and writes frames.
struct Client {
    stream: TlsStream<TcpStream>,
    came: Vec<u8>,
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    /// The last byte of its stream's number.
    stream: u8,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS of stream 1, without indexing (RFC 7541 §6.2.2).
fn headers(method: &[u8], path: &str, flags: u8) -> Vec<u8> {
    let path = [&[4, u8::try_from(path.len()).unwrap()], path.as_bytes()].concat();
    frame(HEADERS, WHOLE | flags, 1, &[method, &[0x87], &path, b"\x01\x09localhost"].concat())
}

fn get(path: &str) -> Vec<u8> {
    headers(b"\x82", path, END)
}

/// A POST whose body follows.
fn post(path: &str) -> Vec<u8> {
    headers(b"\x83", path, 0)
}

impl Client {
    async fn new(server: &Server) -> Self {
        let mut client = Self { stream: server.stream_for_http2().await, came: Vec::new() };
        client.send(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, b"")].concat()).await;
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            loop {
                let length = self.came.first_chunk::<3>().map(|[a, b, c]| u32::from_be_bytes([0, *a, *b, *c]) as usize);
                if let Some(length) = length.filter(|length| self.came.len() >= 9 + length) {
                    let payload = self.came[9..9 + length].to_vec();
                    let frame = Frame { kind: self.came[3], flags: self.came[4], stream: self.came[8], payload };
                    self.came.drain(..9 + length);
                    return Some(frame);
                }
                let mut bytes = [0; 16_384];
                match self.stream.read(&mut bytes).await {
                    Ok(count @ 1..) => self.came.extend_from_slice(&bytes[..count]),
                    _ => return None,
                }
            }
        };
        timeout(2 * https::LINGER + SOON, read).await.expect("a frame or the end in time")
    }

    /// The frames of the answer, and of the end after it, in their order; and how long its body was.
    async fn answer(&mut self) -> (Vec<(u8, bool)>, usize) {
        let (mut frames, mut length) = (Vec::new(), 0);
        while let Some(Frame { kind, flags, payload, .. }) = self.next().await {
            if kind == DATA {
                length += payload.len();
            }
            if [DATA, HEADERS, RST_STREAM, GOAWAY].contains(&kind) {
                frames.push((kind, kind <= HEADERS && flags & END != 0));
            }
            let has_ended = frames.iter().any(|(_, ends)| *ends);
            // The first GOAWAY, of a connection that is about to end (RFC 9113 §6.8).
            if has_ended && kind == GOAWAY {
                break;
            }
        }
        (frames, length)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_end_of_a_connection_never_overtakes_the_answer_that_asks_for_it() {
    let server = server().await;
    let whole = [(HEADERS, false), (DATA, true), (GOAWAY, false)];
    let empty = [(HEADERS, true), (GOAWAY, false)];
    for (path, expected) in [("/end", &whole[..]), ("/end-without-a-word", &empty)] {
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut client = Client::new(&server).await;
            client.send(&get(path)).await;
            clients.push(client);
        }
        for mut client in clients {
            assert_eq!(client.answer().await.0, expected, "{path}");
        }
    }
}

/// A client whose next request crosses the GOAWAY sends it again by itself where that names another as the last (RFC 9113 §6.8), and none crosses
/// one that comes after a pause.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_comes_after_a_pause_and_names_the_last_request() {
    let server = server().await;
    let mut client = Client::new(&server).await;
    let mut first = None;
    for (stream, path) in (1..).step_by(2).zip(["/end", "/peer", "/end", "/peer"]) {
        let mut request = get(path);
        request[8] = stream;
        client.send(&request).await;
        loop {
            let frame = client.next().await.expect("no end between two requests");
            assert!([DATA, HEADERS, SETTINGS, WINDOW_UPDATE].contains(&frame.kind), "{frame:?}");
            if (frame.kind, frame.stream, frame.flags & END) == (DATA, stream, END) {
                break;
            }
        }
        first.get_or_insert_with(Instant::now);
    }
    let end = client.next().await.expect("a GOAWAY");
    assert_eq!((end.kind, &end.payload[..]), (GOAWAY, &[0, 0, 0, 7, 0, 0, 0, 0][..]), "{end:?}");
    assert!(client.next().await.is_none(), "and nothing behind it");
    assert!(first.is_some_and(|first| first.elapsed() >= https::QUIET));
}

/// What was shown lies in the buffers of the connection as long as it is open.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_its_client_does_not_take_holds_no_connection_that_is_to_end() {
    let server = server().await;
    let mut client = Client::new(&server).await;
    client.send(&get("/long")).await;
    let mut length = 0;
    while length < WINDOW {
        length += client.next().await.filter(|frame| frame.kind == DATA).map_or(0, |frame| frame.payload.len());
    }
    let room = 1_000_u32.to_be_bytes();
    let mut request = get("/end");
    request[8] = 3;
    client.send(&[frame(WINDOW_UPDATE, 0, 0, &room), request].concat()).await;
    let mut last = None;
    while let Some(frame) = client.next().await {
        last = Some(frame);
    }
    assert_eq!(last.map(|frame| (frame.kind, frame.payload)), Some((GOAWAY, vec![0, 0, 0, 3, 0, 0, 0, 0])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_refused_request_sends_is_read_before_its_answer() {
    let server = server().await;
    for rest in [0, 17_000, WINDOW - 10] {
        let mut client = Client::new(&server).await;
        client.send(&post("/refused")).await;
        let entered = timeout(SOON, server.gate.entered.acquire()).await.expect("it is refused").unwrap();
        let data = vec![b' '; rest];
        for part in data.chunks(16_000) {
            client.send(&frame(DATA, 0, 1, part)).await;
        }
        client.send(&frame(DATA, END, 1, b"the end")).await;
        assert_eq!(client.answer().await.0, [(HEADERS, false), (DATA, true), (GOAWAY, false)], "{rest}");
        entered.forget();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_that_never_ends_is_answered_all_the_same() {
    let server = server().await;
    let mut client = Client::new(&server).await;
    client.send(&post("/refused")).await;
    let begun = Instant::now();
    let (frames, length) = client.answer().await;
    assert!(begun.elapsed() >= https::REST_TIMEOUT, "it had its time");
    assert!(frames.starts_with(&[(HEADERS, false), (DATA, true)]) && length == 7, "{frames:?}");

    let mut client = Client::new(&server).await;
    client.send(&post("/refused")).await;
    let begun = Instant::now();
    // The server makes room on the connection and on the stream as it reads (RFC 9113 §6.9).
    let (mut room, mut is_answered) = ([WINDOW; 2], false);
    while !is_answered {
        if room.iter().all(|room| *room >= 16_000) {
            client.send(&frame(DATA, 0, 1, &[b' '; 16_000])).await;
            room = room.map(|room| room - 16_000);
            continue;
        }
        let Frame { kind, stream, payload, .. } = client.next().await.expect("an answer before the end");
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        match kind {
            WINDOW_UPDATE => room[usize::from(stream)] += number(&payload),
            // SETTINGS_INITIAL_WINDOW_SIZE, which holds once it is acknowledged.
            SETTINGS if !payload.is_empty() => {
                client.send(&frame(SETTINGS, END, 0, b"")).await;
                let sizes = payload.chunks(6).filter(|setting| setting[..2] == [0, 4]);
                sizes.for_each(|size| room[1] += number(&size[2..]) - WINDOW);
            }
            _ => is_answered = kind == HEADERS,
        }
    }
    assert!(begun.elapsed() < https::REST_TIMEOUT, "it was too long");
}

/// Longer than what the server waits for a silent peer: the network of a phone paused, or the phone is slow.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_whole_however_long_its_reader_pauses() {
    let server = server().await;
    let mut client = Client::new(&server).await;
    client.send(&get("/long")).await;
    let mut length = 0;
    while length < WINDOW {
        let frame = client.next().await.expect("no end before its time");
        assert!([DATA, HEADERS, SETTINGS, WINDOW_UPDATE].contains(&frame.kind), "{frame:?}");
        length += if frame.kind == DATA { frame.payload.len() } else { 0 };
    }
    assert!(timeout(2 * https::LINGER + Duration::from_secs(1), client.next()).await.is_err(), "it waits for room");
    let room = 200_000_u32.to_be_bytes();
    client.send(&[frame(WINDOW_UPDATE, 0, 0, &room), frame(WINDOW_UPDATE, 0, 1, &room)].concat()).await;
    let (frames, rest) = client.answer().await;
    assert_eq!(length + rest, 200_000, "{frames:?}");
    assert_eq!(frames.last(), Some(&(GOAWAY, false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_peers_share_its_longest_idle_connection_gives_way_and_none_that_is_served() {
    let limits = Limits { strangers_per_peer: 3, connections_per_peer: 3, ..Limits::API };
    let server = server_with(limits).await;
    let mut served = Client::new(&server).await;
    served.send(&get("/slow")).await;
    let _entered = timeout(SOON, server.gate.entered.acquire()).await.expect("entered in time");
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut client = Client::new(&server).await;
        client.send(&get("/peer")).await;
        while client.next().await.expect("an answer").kind != DATA {}
        idle.push(client);
    }
    // The first asks again, so that the second is the one that has done nothing for longest.
    idle[0].send(&frame(HEADERS, WHOLE | END, 3, &get("/peer")[9..])).await;
    while idle[0].next().await.expect("an answer").kind != DATA {}
    let mut more = Client::new(&server).await;
    more.send(&get("/peer")).await;
    while more.next().await.expect("the newcomer is served").kind != DATA {}
    while idle[1].next().await.is_some() {}
    server.gate.open.add_permits(1);
    while served.next().await.expect("an answer").kind != DATA {}
    idle[0].send(&frame(HEADERS, WHOLE | END, 5, &get("/peer")[9..])).await;
    while idle[0].next().await.expect("an answer").kind != DATA {}
}

/// An answer that is not taken, and a body that does not come, keep no place from who comes later.
#[tokio::test(flavor = "multi_thread")]
async fn at_a_peers_share_who_keeps_the_relay_waiting_gives_way_before_who_has_just_come() {
    let limits = Limits { strangers_per_peer: 3, connections_per_peer: 3, ..Limits::API };
    let server = server_with(limits).await;
    let mut stalled = Client::new(&server).await;
    stalled.send(&get("/long")).await;
    while stalled.next().await.expect("a part of the answer").kind != DATA {}
    let mut slow = Client::new(&server).await;
    slow.send(&post("/length")).await;
    // The server has read what came before it.
    slow.send(&frame(PING, 0, 0, b"8 octets")).await;
    while slow.next().await.expect("an answer to the PING").kind != PING {}
    // It has shaken hands, and asks for nothing yet.
    let mut newcomer = Client::new(&server).await;
    let mut more = vec![Client::new(&server).await];
    while stalled.next().await.is_some() {}
    // What one asks for meanwhile makes it no younger.
    slow.send(&frame(HEADERS, WHOLE | END, 3, &get("/peer")[9..])).await;
    while slow.next().await.expect("an answer").kind != DATA {}
    more.push(Client::new(&server).await);
    while slow.next().await.is_some() {}
    newcomer.send(&get("/peer")).await;
    while newcomer.next().await.expect("an answer").kind != DATA {}
}

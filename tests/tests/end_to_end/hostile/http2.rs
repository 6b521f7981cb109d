//! HTTP/2 frames that no client sends, written by hand (RFC 9113 §4, §6).

use tests::raw::{ELSEWHERE, Raw};
use tests::world::{Outcome, SOON, World};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / https` of an authority, by the static table of HPACK (RFC 7541 appendix A).
fn get() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x01, 5][..], b"relay"].concat()
}

fn opening() -> Vec<u8> {
    [PREFACE.to_vec(), frame(SETTINGS, 0, 0, &[])].concat()
}

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

/// Says all of `pieces`; how many it took before it closed.
async fn say(world: &World, pieces: impl Iterator<Item = Vec<u8>>) -> (usize, Raw) {
    let mut raw = Raw::tls(ELSEWHERE, world.relay.api_address(), &world.authority, &[b"h2"]).await.unwrap();
    let mut said = 0;
    if raw.send(opening()).await {
        for piece in pieces {
            if !raw.send_while_reading(&piece).await {
                break;
            }
            said += 1;
        }
    }
    (said, raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_as_fast_as_they_open_end_the_connection() -> Outcome {
    let world = World::attacked().await?;
    let rapid = streams(50_000).map(|stream| {
        let head = frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    let (said, mut raw) = say(&world, rapid).await;
    assert!(said < 50_000 && raw.await_end(SOON).await.is_some(), "{said} streams were opened and reset");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_an_end_end_the_connection() -> Outcome {
    let world = World::attacked().await?;
    // A literal header, never indexed, of 16,000 bytes: 127 + 15,873 in HPACK's integers.
    let piece = [&[0x00, 1, b'x', 0x7f, 0x81, 0x7c][..], &vec![b'y'; 16_000]].concat();
    let begin = std::iter::once(frame(HEADERS, END_STREAM, 1, &get()));
    let endless = begin.chain((0..2_000).map(move |_| frame(CONTINUATION, 0, 1, &piece)));
    let (said, mut raw) = say(&world, endless).await;
    assert!(said < 1_000 && raw.await_end(SOON).await.is_some(), "{said} pieces were taken");
    let empty = std::iter::once(frame(HEADERS, END_STREAM, 1, &get()));
    let (said, mut raw) = say(&world, empty.chain((0..200_000).map(|_| frame(CONTINUATION, 0, 1, &[])))).await;
    assert!(said < 200_000 && raw.await_end(SOON).await.is_some(), "{said} empty pieces were taken");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules_end_the_connection_and_no_other() -> Outcome {
    let world = World::attacked().await?;
    let head = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &get());
    let broken: [(&str, Vec<u8>); 10] = [
        ("a frame beyond the size", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("data on no stream", frame(DATA, 0, 0, b"x")),
        ("data on an idle stream", frame(DATA, 0, 1, b"x")),
        ("a stream of ours", head(2)),
        ("streams that go backward", [head(5), head(3)].concat()),
        ("a window beyond 2^31", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        ("settings of half a size", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("HPACK that refers to nothing", frame(HEADERS, END_STREAM | END_HEADERS, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("headers for a frame between headers", [frame(HEADERS, 0, 1, &get()), frame(PING, 0, 0, &[0; 8])].concat()),
    ];
    for (what, bytes) in broken {
        let (_, mut raw) = say(&world, std::iter::once(bytes)).await;
        raw.finish().await;
        assert!(raw.await_end(SOON).await.is_some(), "{what} left the connection open");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_that_nobody_reads_the_answers_of_take_no_memory() -> Outcome {
    let world = World::attacked().await?;
    let flood = frame(PING, 0, 0, &[7; 8]).repeat(1_000);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]).repeat(1_000);
    for burst in [flood, settings] {
        let mut raw = Raw::tls(ELSEWHERE, world.relay.api_address(), &world.authority, &[b"h2"]).await?;
        raw.send(opening()).await;
        for _ in 0..100 {
            let sent = tokio::time::timeout(std::time::Duration::from_millis(500), raw.send(&burst)).await;
            if sent != Ok(true) {
                break;
            }
        }
    }
    // Answers that have no window to go through: the requests are bounded, and so is what waits.
    let no_window = std::iter::once(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let requests = streams(2_000).map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &get()));
    let (_, raw) = say(&world, no_window.chain(requests)).await;
    world.unharmed().await?;
    drop(raw);
    Ok(())
}

/// Over HTTP/1.1 it is the same: `a_request_with_a_bad_head_is_told_what_is_wrong_with_it`.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_with_too_many_fields_is_told_so() -> Outcome {
    let world = World::attacked().await?;
    let field = [0, 1, b'x', 1, b'y'];
    let head = [get(), field.repeat(64)].concat();
    assert!(!head_is_refused(&world, &head).await, "64 are not too many");
    assert!(head_is_refused(&world, &[head, field.to_vec()].concat()).await);
    world.unharmed().await
}

async fn head_is_refused(world: &World, head: &[u8]) -> bool {
    let asked = frame(HEADERS, END_STREAM | END_HEADERS, 1, head);
    let (_, mut raw) = say(world, std::iter::once(asked)).await;
    assert!(raw.await_text("urn:sipwake:problem:", SOON).await, "{}", raw.seen());
    raw.seen().contains("too-many-fields")
}

//! A connection to Redis that ends within a reply: what was asked is asked again, or the store is away. No such end is a damaged value, or one that is absent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use relay::vault::peer_messages::Letter;
use relay::vault::{Fence, Keyring, Lease, RecordToWrite, StoreError, Vault};
use tests::redis_server::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::items::{message, put_item};
use super::{enable, id, load, record, settings, to_write};

/// How much of a reply comes through: within a length, between two values, within a value.
const PLACES: [usize; 6] = [1, 2, 3, 6, 10, 20];

/// What is to be cut.
#[derive(Clone, Copy)]
struct Cut {
    /// The command that the reply answers.
    command: &'static str,
    /// How much of the reply comes through.
    place: usize,
    /// How many replies are cut.
    times: usize,
}

/// A way to a Redis that ends within replies.
struct Scissors {
    url: String,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Scissors {
    async fn before(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("bound"));
        let (cut, to) = (Arc::new(Mutex::new(None)), SocketAddr::from(([127, 0, 0, 1], server.port())));
        let cuts = cut.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, to, cuts.clone()));
            }
        });
        Self { url, cut }
    }

    /// Cuts so many replies to a command behind their first bytes.
    fn cut(&self, command: &'static str, place: usize, times: usize) {
        *self.cut.lock().expect("whole") = Some(Cut { command, place, times });
    }

    fn leave(&self) {
        *self.cut.lock().expect("whole") = None;
    }
}

/// Carries one question and its answer after the other, until one is cut.
async fn carry(mut client: TcpStream, to: SocketAddr, cuts: Arc<Mutex<Option<Cut>>>) {
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    let (mut asked, mut told, mut place) = (vec![0; 1 << 16], vec![0; 1 << 16], None);
    loop {
        tokio::select! {
            Ok(length @ 1..) = client.read(&mut asked) => {
                let asked = &asked[..length];
                if let Some(cut) = &mut *cuts.lock().expect("whole")
                    && cut.times > 0
                    && memchr::memmem::find(asked, format!("\r\n{}\r\n", cut.command).as_bytes()).is_some()
                {
                    cut.times -= 1;
                    place = Some(cut.place);
                }
                if server.write_all(asked).await.is_err() {
                    return;
                }
            }
            Ok(length @ 1..) = server.read(&mut told) => {
                let told = &told[..place.map_or(length, |place| place.min(length))];
                if client.write_all(told).await.is_err() || place.is_some() {
                    return;
                }
            }
            else => return,
        }
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_is_asked_for_again_and_is_never_taken_for_an_absence() {
    let redis = RedisServer::start();
    let scissors = Scissors::before(&redis).await;
    let vault = Vault::open_with(&scissors.url, Keyring::ephemeral(), "a", settings()).expect("opened");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    put_item(&vault, 1, &message(1)).await.expect("kept");
    let is_away = |answer: Result<(), StoreError>| matches!(answer, Err(StoreError::Away(_)));
    for place in PLACES {
        for (times, heals) in [(1, true), (usize::MAX, false)] {
            scissors.cut("HMGET", place, times);
            let stored = vault.load(id(1)).await;
            assert_eq!(stored.as_ref().is_ok_and(Option::is_some), heals, "HMGET at {place}, {times}");
            assert!(heals || is_away(stored.map(drop)), "{place}");
            scissors.cut("HMGET", place, times);
            assert!(heals || is_away(vault.record_owner(id(1)).await.map(drop)), "record_owner at {place}");
            scissors.cut("HGETALL", place, times);
            let kept = vault.messages(id(1)).await;
            assert_eq!(kept.as_ref().is_ok_and(|kept| kept.len() == 1), heals, "HGETALL at {place}, {times}");
            assert!(heals || is_away(kept.map(drop)), "{place}");
            scissors.cut("GET", place, times);
            let found = vault.find(&lookup).await;
            assert_eq!(found == Ok(Some(id(1))), heals, "GET at {place}, {times}");
            assert!(heals || is_away(found.map(drop)), "{place}");
            scissors.cut("EVALSHA", place, times);
            let sealed = vault.seal(id(1), &record("alice"));
            let put = vault
                .put(RecordToWrite { fence, ..to_write(id(1), &sealed, record("alice").expires_at, &lookup) })
                .await;
            assert!(if heals { put.is_ok() } else { is_away(put.map(drop)) }, "EVALSHA at {place}, {times}");
            scissors.leave();
        }
    }
    assert!(load(&vault, 1).await.is_some_and(|stored| stored.owned && stored.fence == fence && fence != Fence::NEW));
}

#[tokio::test]
async fn a_cut_reply_to_a_lease_is_no_loss_and_one_to_a_wait_for_letters_drops_none_of_the_others() {
    let redis = RedisServer::start();
    let scissors = Scissors::before(&redis).await;
    let a = Vault::open_with(&scissors.url, Keyring::ephemeral(), "a", settings()).expect("opened");
    let b = Vault::open_with(&redis.url(), Keyring::ephemeral(), "b", settings()).expect("opened");
    assert_eq!(a.hold_lease().await, Ok(Lease::Held));
    let losses = a.losses(false).await.expect("asked");
    for place in PLACES {
        scissors.cut("SET", place, 1);
        assert_eq!(a.hold_lease().await, Ok(Lease::Held), "{place}");
        assert_eq!(a.losses(false).await, Ok(losses), "{place}");
        for _ in 0..2 {
            b.write_letter(a.owner(), &Letter::Ended).await.expect("written");
        }
        scissors.cut("BLPOP", place, 1);
        // It does not open with this keyring, and is read.
        assert!(a.next_letter().await.is_ok(), "{place}");
        assert!(!redis.keys().contains(&format!("sipwake:letters:{}", a.owner())), "both are read");
        scissors.leave();
    }
}

//! The heartbeat of a WebSocket by which alone a device is reached (RFC 6455 §5.5.2).
//!
//! | state | idle for [`ConnectionTiming::websocket_idle`] | something comes | nothing for [`ConnectionTiming::pong`] |
//! | --- | --- | --- | --- |
//! | Quiet | ping → Asked | – | – |
//! | Asked | – | → Quiet | the connection is dead |
//!
//! A proxy or a NAT in between forgets an idle connection, often after 60 s, and tells nobody. JsSIP sends nothing by itself, and SIP.js only where
//! it is set; a browser answers pings by itself, also for a tab in the background.
//!
//! A device that a push reaches is not pinged: each ping keeps a phone's radio up for seconds, and a dead connection costs its next call 2 s. Nor is
//! a device on TLS: it pings by itself (RFC 5626 §4.4.1), and promises nobody to answer.
//!
//! Invariant: a connection from which something came within [`ConnectionTiming::websocket_idle`] is never asked.

use std::time::Instant;

use crate::timing::ConnectionTiming;

/// The heartbeat of one connection.
#[derive(Debug, Default)]
pub(super) struct Heartbeat {
    asked: Option<Instant>,
}

/// An action that is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeartbeatAction {
    /// A ping.
    Ask,
    /// Nothing is due before this moment.
    Wait(Instant),
    /// The end: nobody is there.
    Dead,
}

impl Heartbeat {
    /// The action that is due `now`, when the last input was `heard` at that moment.
    pub(super) fn on_due(&mut self, now: Instant, heard: Instant, timing: &ConnectionTiming) -> HeartbeatAction {
        self.asked.take_if(|asked| heard >= *asked);
        match self.asked {
            Some(asked) if asked + timing.pong <= now => HeartbeatAction::Dead,
            Some(asked) => HeartbeatAction::Wait(asked + timing.pong),
            None if heard + timing.websocket_idle <= now => {
                self.asked = Some(now);
                HeartbeatAction::Ask
            }
            None => HeartbeatAction::Wait(heard + timing.websocket_idle),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use sip::endpoint::{Input, Side, Transport};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::time::{Instant as Now, timeout};

    use super::*;
    use crate::agent::transport::connections::Connection;
    use crate::agent::transport::outbox::Writer;
    use crate::agent::{ShardInput, Shards};
    use crate::cores::Cores;
    use crate::metrics::Metrics;
    use crate::net::stream::Stream;

    const PING: [u8; 2] = [0x89, 0];
    const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];
    const OPTIONS: &str = "OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/WSS x.invalid;branch=z9hG4bK1\r\nTo: <sip:h>\r\nCSeq: 1 OPTIONS\r\nl: 0\r\n\r\n";

    /// A device on a WebSocket that has said something.
    struct Device {
        stream: TcpStream,
        writer: Writer,
        inbox: mpsc::Receiver<ShardInput>,
    }

    impl Device {
        async fn on(transport: Transport) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, peer): (_, SocketAddr) = listener.accept().await.unwrap();
            let (sender, inbox) = mpsc::channel(64);
            let (cores, made) = Cores::start(1).unwrap();
            made.into_iter().for_each(|core| core.begin(std::future::pending()));
            let (shards, timing) = (Shards::new(vec![sender], cores), ConnectionTiming::default());
            let mut connection = Connection::accepted(Side::Device, transport, peer, timing, shards, Metrics::new());
            let writer = connection.writer().unwrap();
            tokio::spawn(connection.serve(Stream::uncounted(accepted)));
            if transport == Transport::Wss {
                // Its mask changes nothing.
                stream.write_all(&[0x81, 0x80 | u8::try_from(OPTIONS.len()).unwrap(), 0, 0, 0, 0]).await.unwrap();
            }
            stream.write_all(OPTIONS.as_bytes()).await.unwrap();
            Self { stream, writer, inbox }
        }

        /// The seconds until the next ping comes.
        async fn asked_after(&mut self) -> u64 {
            let (began, mut frame) = (Now::now(), [0; 2]);
            self.stream.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame, PING);
            began.elapsed().as_secs()
        }

        /// Whether nothing comes for this long.
        async fn hears_nothing_for(&mut self, wait: Duration) -> bool {
            timeout(wait, self.stream.read_u8()).await.is_err()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_websocket_by_which_alone_a_device_is_reached_is_asked_and_ends_without_an_answer() {
        let mut device = Device::on(Transport::Wss).await;
        // Its registration is accepted a while later.
        assert!(device.hears_nothing_for(Duration::from_secs(40)).await);
        device.writer.keep_alive();
        assert!((10..=11).contains(&device.asked_after().await));
        for _ in 0..3 {
            device.stream.write_all(&PONG).await.unwrap();
            assert!((50..=51).contains(&device.asked_after().await));
        }
        let asked = Now::now();
        assert_eq!(device.stream.read(&mut [0; 9]).await.unwrap(), 0, "it is closed");
        assert!((10..=11).contains(&asked.elapsed().as_secs()));
        let told = async {
            while !matches!(device.inbox.recv().await, Some(ShardInput::Sip { input: Input::Closed(_), .. })) {}
        };
        timeout(Duration::from_secs(1), told).await.expect("its shard hears of it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_says_something_itself_is_asked_nothing() {
        let mut device = Device::on(Transport::Wss).await;
        device.writer.keep_alive();
        for _ in 0..10 {
            assert!(device.hears_nothing_for(Duration::from_secs(45)).await);
            device.stream.write_all(&PONG).await.unwrap();
        }
        assert!((49..=51).contains(&device.asked_after().await));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_whom_a_push_reaches_nor_a_device_on_tls_is_asked() {
        let mut pushed = Device::on(Transport::Wss).await;
        let mut other = Device::on(Transport::Tls).await;
        other.writer.keep_alive();
        assert!(pushed.hears_nothing_for(Duration::from_secs(1_800)).await);
        assert!(other.hears_nothing_for(Duration::from_secs(1_800)).await);
    }
}

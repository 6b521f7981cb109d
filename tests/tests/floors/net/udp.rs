//! Datagrams.

use std::time::Duration;

use relay::net::drain;
use relay::net::udp::{Steering, Udp};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn datagrams_of_every_size_arrive_whole_and_apart() {
    let (trigger, drain) = drain::drain();
    let receiving = Udp::bind(1, "127.0.0.1:0".parse().unwrap(), &Steering::default()).unwrap();
    let sending = Udp::bind(1, "127.0.0.1:0".parse().unwrap(), &Steering::default()).unwrap();
    let to = receiving.local_address();
    let (sender, mut received) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        receiving.receive(0, &drain, |datagram| sender.send(datagram).unwrap()).await.unwrap();
    });
    for size in [0, 1, 4, 1_500, 9_000, 65_507, 3] {
        sending.send(0, &vec![size as u8; size], to).unwrap();
        let datagram = timeout(SOON, received.recv()).await.unwrap().unwrap();
        assert_eq!(datagram.peer, sending.local_address());
        assert_eq!(datagram.bytes, vec![size as u8; size]);
    }
    assert!(sending.send(0, &vec![0; 65_508], to).is_err());
    trigger.begin();
    timeout(SOON, task).await.unwrap().unwrap();
}

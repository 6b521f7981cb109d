//! The flow toward a SIP server: kept alive, noticed when it is dead, and passed by what is too large for it.

use std::time::{Duration, Instant};

use sip::message::Name;
use tests::registrar::Settings;
use tests::relay_setup::Setup;
use tests::wire::Transport;
use tests::world::{SOON, World};

use super::Outcome;

/// Keep-alives go at least this often when the server promises Flow-Timer: 15, and a dead flow is known 10 s later.
const PULSE: Duration = Duration::from_secs(90);
/// A fifth of real time.
const FAST: f64 = 0.2;

async fn a_dead_flow_is_replaced_over(transport: Transport, timing: f64) -> Outcome {
    let impatient = |settings: &mut Settings| settings.flow_timer = Some((15.0 * timing) as u32);
    let change = |setup: &mut Setup| {
        setup.transports = vec![Transport::Tls, transport];
        setup.timing = timing;
    };
    let mut world = World::between(impatient, change).await?;
    world.transport = transport;
    let instance = world.enable().await?;
    let aor = world.aor();
    // STUN over UDP, double CRLF on a stream; both are answered.
    world.registrar.await_pings(&aor, 1, PULSE).await?;
    let before = world.registrar.registers(&aor);
    world.registrar.be_deaf(true);
    let again = world.registrar.await_registers(&aor, before.len() + 1, PULSE).await?;
    world.registrar.be_deaf(false);
    if transport != Transport::Udp {
        assert_ne!(again.flow.id(), before[0].flow.id(), "by another connection");
    }
    let via = again.request.via().expect("a Via");
    assert_eq!(via.params.get("rport").is_some(), transport == Transport::Udp, "RFC 3581");
    assert_eq!(again.request.call_id(), before[0].request.call_id(), "the same binding");
    world.registrar.await_contacts(&aor, 1, SOON).await?;
    world.whole_call(&instance).await
}

plays! { a_dead_flow_is_replaced_over:
    fn a_server_that_stops_answering_stun_over_udp_is_noticed_and_registered_at_anew(Transport::Udp, FAST);
    fn a_server_that_stops_answering_pings_over_tcp_is_noticed_and_registered_at_anew(Transport::Tcp, FAST);
    fn a_server_that_stops_answering_pings_over_tls_is_noticed_and_registered_at_anew(Transport::Tls, 1.0);
}

/// A server on UDP whose challenge makes the answer too large for a datagram; the transports of its REGISTERs.
async fn with_a_large_answer(transports: &[Transport]) -> Result<Vec<Transport>, tests::board::Missed> {
    let wordy = |settings: &mut Settings| settings.nonce_length = 900;
    let mut world = World::between(wordy, |setup| setup.transports = transports.to_vec()).await?;
    world.transport = Transport::Udp;
    let instance = world.enable().await?;
    let registers = world.registrar.registers(&world.aor());
    for register in &registers {
        let via = register.request.elements(Name::Via).next().unwrap_or_default().to_owned();
        assert!(via.contains(register.flow.transport().via()), "{via}");
    }
    world.whole_call(&instance).await?;
    Ok(registers.iter().map(|register| register.flow.transport()).collect())
}

#[tokio::test]
async fn a_request_over_1300_bytes_goes_by_tcp_to_a_server_on_udp() -> Outcome {
    // RFC 3261 §18.1.1.
    let went = with_a_large_answer(&[Transport::Tls, Transport::Tcp, Transport::Udp]).await?;
    assert_eq!(went, [Transport::Udp, Transport::Tcp]);
    Ok(())
}

#[tokio::test]
async fn where_the_operator_forbids_tcp_a_large_request_goes_by_udp_all_the_same() -> Outcome {
    let went = with_a_large_answer(&[Transport::Tls, Transport::Udp]).await?;
    assert_eq!(went, [Transport::Udp, Transport::Udp]);
    Ok(())
}

/// What a stranger wrote and an honest server passed on: nobody can tell where it ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_be_read_on_is_replaced_at_once_however_often_and_costs_no_call() -> Outcome {
    let world = World::with(|setup| setup.transports = vec![Transport::Tls]).await?;
    let instance = world.enable().await?;
    let aor = world.aor();
    let began = Instant::now();
    for round in 0..6 {
        let last = world.registrar.last_register(&aor).expect("it is registered");
        let count = world.registrar.registers(&aor).len();
        last.flow.send(&"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n".into());
        let again = world.registrar.await_registers(&aor, count + 1, SOON).await?;
        assert_ne!(again.flow.id(), last.flow.id(), "{round}: by another connection");
        let granted = || async { world.registrar.last_register(&aor).filter(|last| last.status == Some(200)) };
        world.until("it is granted", granted).await?;
    }
    // At most one dial a second; what failures wait for would be 1 + 2 + 4 + 8 s by now.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(9), "{took:?}");
    world.whole_call(&instance).await
}

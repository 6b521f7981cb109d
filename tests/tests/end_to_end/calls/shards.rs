//! Many accounts on a relay of eight shards, whose SIP server sends CANCEL and the ACK of a refusal without the Route of their
//! INVITE, as OpenSIPS does: both find their call by branch and sent-by alone (RFC 3261 §9.2, §17.2.3).

use std::time::Duration;

use futures_util::future::try_join_all;
use sip::message::{Message, Name};
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::phone::Phone;
use tests::push_phone::Service;
use tests::raw::{self, ELSEWHERE};
use tests::wire::{Flow, Transport};
use tests::world::{SOON, World};

use super::Outcome;

/// So many that hardly any shard has none.
const USERS: [&str; 16] =
    ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "aa", "ab", "ac", "ad", "ae", "af"];

/// The waits of transactions, so that what is sent again is sent soon.
const TIMING: f64 = 0.2;

struct Account {
    aor: String,
    phone: Phone,
}

async fn eight_shards(transport: Transport) -> Result<(World, Vec<Account>), Missed> {
    let accounts: Vec<(&str, &str)> = USERS.iter().map(|user| (*user, "password")).collect();
    let mut world = World::among(&accounts, |setup| {
        setup.transports = vec![Transport::Tls, transport];
        setup.environment.push(("SIPWAKE_SHARDS".to_owned(), "8".to_owned()));
        setup.timing = TIMING;
    })
    .await?;
    world.transport = transport;
    // All at once, at a server that no shard has a flow to.
    let woken = accounts.iter().map(async |account| {
        let aor = world.registrar.aor(account.0);
        let service = Service::Fcm(format!("token-of-{}", account.0));
        let phone = world.wake(&world.push_phone_of(account.0, &service)).await;
        let phone =
            phone.map_err(|missed| Missed::new(missed.awaited, format!("{}\n{}", missed.seen, world.relay.log())))?;
        Ok::<_, Missed>(Account { aor, phone })
    });
    let woken = try_join_all(woken).await?;
    Ok((world, woken))
}

fn call(world: &World, aor: &str, flow: Option<&Flow>) -> Result<Caller, Missed> {
    let options = CallOptions { forgets_route: true, ..CallOptions::default() };
    match flow {
        Some(flow) => {
            let caller = world.registrar.call_along(aor, flow, &options)?;
            world.watch_caller(&caller);
            Ok(caller)
        }
        None => world.call_to(aor, &options),
    }
}

/// Each account has one call cancelled and one refused; `shared`: all by one connection, whichever shard they are for.
async fn cancels_and_refusals_pass(transport: Transport, shared: bool) -> Outcome {
    let (world, accounts) = eight_shards(transport).await?;
    let flow = if shared { Some(world.registrar.path_flow(&accounts[0].aor).await?) } else { None };
    let played = accounts.iter().map(async |account| {
        let cancelled = call(&world, &account.aor, flow.as_ref())?;
        let ringing = account.phone.next_invite(SOON).await?;
        world.ring(&cancelled, &ringing).await?;
        world.cancel(&cancelled).await?;
        ringing.expect_cancel(SOON).await?;
        let refused = call(&world, &account.aor, flow.as_ref())?;
        account.phone.next_invite(SOON).await?.decline(486);
        refused.expect(486, SOON).await?;
        Ok::<_, Missed>([cancelled, refused])
    });
    let callers: Vec<Caller> = try_join_all(played).await?.into_iter().flatten().collect();
    // Time for three more of a refusal that nobody has acknowledged (timer G).
    tokio::time::sleep(Duration::from_millis(3_500).mul_f64(TIMING)).await;
    for caller in &callers {
        let finals = caller.responses().into_iter().filter(|(_, status)| *status >= 200).count();
        assert_eq!(finals, 1, "an ACK ends its refusal: {:?}", caller.responses());
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_an_ack_without_route_find_their_call_on_any_shard_by_udp() -> Outcome {
    cancels_and_refusals_pass(Transport::Udp, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_an_ack_without_route_find_their_call_on_any_shard_by_one_tcp_connection() -> Outcome {
    cancels_and_refusals_pass(Transport::Tcp, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_and_an_ack_without_route_find_their_call_on_any_shard_by_one_tls_connection() -> Outcome {
    cancels_and_refusals_pass(Transport::Tls, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_cancel_touches_nobodys_call_though_it_knows_its_branch() -> Outcome {
    let (world, accounts) = eight_shards(Transport::Udp).await?;
    let stranger = raw::datagrams(ELSEWHERE).await?;
    let relay = ("127.0.0.1", world.relay.setup().ports.udp);
    for account in &accounts[..4] {
        let caller = call(&world, &account.aor, None)?;
        let ringing = account.phone.next_invite(SOON).await?;
        world.ring(&caller, &ringing).await?;
        let invite = caller.leg().request_of(&caller.first()).ok_or_else(|| Missed::new("an INVITE", "none"))?;
        let mut answer = [0; 2_048];
        stranger.send_to(&cancel_of(&invite), relay).await?;
        let length =
            tokio::time::timeout(SOON, stranger.recv(&mut answer)).await.map_err(|_| Missed::new("481", ""))??;
        assert_eq!(raw::statuses(&String::from_utf8_lossy(&answer[..length])), [481]);
        world.answer(&caller, &ringing).await?;
        world.hang_up(&caller, &ringing).await?;
        assert!(caller.responses().iter().all(|(_, status)| *status < 300), "{:?}", caller.responses());
    }
    world.content()
}

/// A CANCEL with the branch and the sent-by of an INVITE.
fn cancel_of(invite: &Message) -> Vec<u8> {
    let text = |name| invite.text(name).unwrap_or_default();
    format!(
        "CANCEL {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 CANCEL\r\n\
         Content-Length: 0\r\n\r\n",
        invite.request_uri().unwrap_or_default(),
        invite.elements(Name::Via).next().unwrap_or_default(),
        text(Name::From),
        text(Name::To),
        invite.call_id().unwrap_or_default(),
    )
    .into_bytes()
}

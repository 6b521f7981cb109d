//! One fault: a relay with three apps, calls to all of them, and what became of those calls.
//!
//! Of six calls that follow each other one is to the app that has the trouble, the others to the two that have none, in turn.
//!
//! Invariant: each fault has a relay, push services and accounts of its own; each account is called once. It comes to its end
//! within [`bound`].

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::row::{Figures, Row};
use super::script::Fault;
use super::services::{Others, Troubled, hear, hosts};
use crate::authority::Authority;
use crate::board::Missed;
use crate::load::Failure;
use crate::load::accounts::{Accounts, DOMAIN, accounts};
use crate::load::bounded::{self, Progress};
use crate::load::caller::{Caller, Cancels, GRACE, Round};
use crate::load::enabling::{App, Targets, targets};
use crate::load::exchange::{Desk, Exchange};
use crate::load::measure::{Clock, Count, Window};
use crate::load::plan::{Hash, PushSide, Upstream};
use crate::load::registrar::Registrar;
use crate::relay_process::RelayProcess;
use crate::relay_setup::Setup;
use crate::wire::Transport;

/// Calls in a second: to the app that has the trouble, and to both others together.
pub const RATES: (u32, u32) = (10, 50);
/// Calls that follow each other, the last of which is to the app that has the trouble.
const TURN: u32 = RATES.1 / RATES.0 + 1;
/// Accounts of each app that are called before anything is measured.
const WARM: u32 = 4;
/// How long a call waits for its device; a push after that is too late.
const DEADLINE: Duration = Duration::from_secs(30);
/// The time that calls may take beyond that to end.
const BEYOND: Duration = Duration::from_secs(4);
/// Enablings under way at once.
const CONCURRENCY: u32 = 16;
/// How long starting, enabling and registering may take.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The lifetime that the registrar grants, in seconds.
const GRANT: u32 = 3_600;
/// How often the accounts are looked at until all are registered.
const LOOK: Duration = Duration::from_millis(20);

/// How long one fault takes at most, with so many calls to the app that has it.
pub fn bound(calls: u32) -> Duration {
    let warm_up = Duration::from_secs((3 * WARM / RATES.1 + 1).into()) + GRACE;
    // The caller itself gives up a little later than its patience.
    READY_WITHIN + warm_up + Duration::from_secs((calls / RATES.0).into()) + DEADLINE + 2 * BEYOND
}

/// The accounts that are called: each app's are one range, the first of which are called before anything is measured.
struct Cast {
    calls: u32,
}

impl Cast {
    fn own(&self) -> std::ops::Range<u32> {
        0..WARM + self.calls
    }

    fn apple(&self) -> std::ops::Range<u32> {
        let from = self.own().end;
        from..from + WARM + (self.others()).div_ceil(2)
    }

    fn google(&self) -> std::ops::Range<u32> {
        let from = self.apple().end;
        from..from + WARM + self.others() / 2
    }

    fn others(&self) -> u32 {
        self.calls * (TURN - 1)
    }

    /// The accounts that are called first: the others, and the app's own where its service was well before.
    fn first(&self, warm: bool) -> Vec<u32> {
        let own = self.own().take(if warm { WARM as usize } else { 0 });
        self.apple().take(WARM as usize).chain(self.google().take(WARM as usize)).chain(own).collect()
    }

    /// The accounts that are called then, in this order.
    fn order(&self) -> Vec<u32> {
        let [mut own, mut apple, mut google] =
            [self.own(), self.apple(), self.google()].map(|range| range.skip(WARM as usize));
        let mut order = Vec::new();
        for place in 0..self.calls * TURN {
            let others = place - place / TURN;
            let next = match place % TURN {
                last if last == TURN - 1 => own.next(),
                _ if others.is_multiple_of(2) => apple.next(),
                _ => google.next(),
            };
            order.extend(next);
        }
        order
    }
}

/// Runs one.
///
/// # Errors
/// [`Failure`] when it does not come to its end.
pub async fn measure(fault: &'static Fault, calls: u32, log: &str) -> Result<Row, Failure> {
    let bound = bound(calls);
    bounded::within(bound, async |progress| phases(fault, calls, log, progress).await).await
}

async fn phases(fault: &'static Fault, calls: u32, log: &str, progress: &Progress) -> Result<Row, Failure> {
    let cast = Cast { calls };
    let (first, order) = (cast.first(fault.warm), cast.order());
    let (before, all) = (first.len() as u32, (first.len() + order.len()) as u32);
    progress.enter("the start of the relay and all around it");
    let stage = Stage::set(fault, &cast, all, log).await?;
    progress.enter("calls before the fault");
    stage
        .place(Round {
            numbers: 0..before,
            order: first,
            rate: RATES.1,
            cancels: Cancels::OnceRinging,
            patience: GRACE,
        })
        .await?;
    let (requests_before, exchanges_before) = stage.troubled.requests();
    let strays = stage.caller.stray_pushes.get();
    let window = Window::open(stage.relay.pid());
    progress.enter("calls during the fault");
    fault.begin(&stage.troubled);
    let round = Round {
        numbers: before..all,
        order,
        rate: RATES.0 + RATES.1,
        cancels: Cancels::OnceRinging,
        patience: DEADLINE + BEYOND,
    };
    let (placed, ()) = tokio::join!(stage.place(round), fault.go_on(&stage.troubled));
    placed?;
    let shares = window.close();
    if !stage.relay.is_running() {
        return Err(Failure::RelayEnded(stage.relay.log()));
    }
    let is_own = move |number: &u32| (number - before) % TURN == TURN - 1;
    let figures = |wanted: bool| {
        let numbers = (before..all).filter(move |number| is_own(number) == wanted);
        Figures::of(&stage.caller.book.outcome(numbers))
    };
    let (requests, exchanges) = stage.troubled.requests();
    Ok(Row {
        fault: fault.name.to_owned(),
        words: fault.words.to_owned(),
        own: figures(true),
        others: figures(false),
        connections: stage.troubled.connections(),
        requests: requests - requests_before,
        exchanges: exchanges - exchanges_before,
        late_pushes: stage.caller.stray_pushes.get() - strays,
        objections: stage.troubled.objections(),
        timer_lag_p99_ms: shares.timer_lag.p99_us / 1e3,
    })
}

/// Everything that stands around one fault.
struct Stage {
    relay: RelayProcess,
    caller: Arc<Caller>,
    troubled: Troubled,
    others: Others,
    _exchange: Exchange,
}

impl Stage {
    async fn set(fault: &Fault, cast: &Cast, calls: u32, log: &str) -> Result<Self, Failure> {
        let (authority, clock) = (Authority::new(), Clock::start());
        let accounts = accounts(cast.google().end);
        let troubled = Troubled::start(&authority, fault, cast.own().skip(WARM as usize)).await?;
        let others = Others::start(&authority).await;
        let mut desk = None;
        let opened = Exchange::open(Upstream::Udp, &authority, DOMAIN, |local| {
            let registrar = Registrar::new(accounts.clone(), Hash::Sha256, GRANT);
            let caller = Arc::new(Caller::new(accounts.clone(), calls, clock, Upstream::Udp, local));
            let made =
                Arc::new(Desk { registrar, caller, malformed: Count::default(), first_malformed: OnceLock::new() });
            desk = Some(made.clone());
            made
        });
        let fault_of = |error: io::Error| Missed::new("the SIP server's socket", error.to_string());
        let exchange = opened.await.map_err(fault_of)?;
        let caller = desk.ok_or_else(|| Missed::new("the SIP server's desk", ""))?.caller.clone();
        let heard = caller.clone();
        hear(&troubled, &others, move |account, at| {
            heard.on_push(account, at);
        });
        let [apple, google] = others.apps();
        let mut setup = Setup::new(&authority, vec![troubled.app(), apple, google]);
        setup.transports = vec![Transport::Udp];
        setup.register_expires = format!("{GRANT}s");
        setup.domains = vec![DOMAIN.to_owned(), "127.0.0.1".to_owned(), "localhost".to_owned()];
        setup.ring_timeout = format!("{}s", DEADLINE.as_secs());
        setup.hosts = hosts(fault);
        setup.log = log.to_owned();
        let keys: Vec<String> = setup.apps.iter().map(|app| app.api_key.clone()).collect();
        let relay = RelayProcess::start(setup).await?;
        let stage = Self { relay, caller, troubled, others, _exchange: exchange };
        let local = stage._exchange.local();
        let targets: [Targets; 3] = [stage.troubled.targets(), targets(PushSide::Apns), targets(PushSide::Fcm)];
        for ((key, targets), range) in keys.iter().zip(targets).zip([cast.own(), cast.apple(), cast.google()]) {
            let api = stage.relay.api_address();
            let app = App::new(accounts.clone(), &authority, api, key, local, Upstream::Udp, targets);
            let enabled = Arc::new(app).enable(range, CONCURRENCY).await;
            enabled.map_err(|error| Failure::Enabling { reason: error.to_string(), log: stage.relay.log() })?;
        }
        registered(&accounts).await?;
        Ok(stage)
    }

    async fn place(&self, round: Round) -> Result<(), Failure> {
        let caller = self.caller.clone();
        let placing = tokio::task::spawn_blocking(move || caller.place(&round));
        let failed = |error: tokio::task::JoinError| Failure::Ringing { phase: "calls", what: error.to_string() };
        placing.await.map(drop).map_err(failed)?;
        match self.others.objections() {
            objections if objections.is_empty() => Ok(()),
            objections => Err(Failure::Violations(objections.join("; "))),
        }
    }
}

async fn registered(accounts: &Accounts) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let registered = accounts.iter().filter(|account| account.contact().is_some()).count();
        if registered == accounts.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::Registering { registered: registered as u64, wanted: accounts.len() as u64 });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_six_is_to_the_app_that_has_the_trouble_and_nobody_is_called_twice() {
        let cast = Cast { calls: 40 };
        let (first, order) = (cast.first(true), cast.order());
        assert_eq!((first.len(), order.len()), (12, 240));
        let own = order.iter().enumerate().filter(|(_, account)| cast.own().contains(account));
        assert!(own.map(|(place, _)| place as u32 % TURN).all(|place| place == TURN - 1));
        assert_eq!(order.iter().filter(|account| cast.google().contains(account)).count(), 100);
        let mut all = [first, order].concat();
        all.sort_unstable();
        assert_eq!(all, (0..cast.google().end).collect::<Vec<_>>());
    }
}

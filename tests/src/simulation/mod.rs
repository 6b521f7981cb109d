//! The simulation: one relay's endpoints in virtual time, with SIP servers, phones and callers that behave as the world
//! does, from one seed, without a socket or a task.
//!
//! | room | what it plays |
//! | --- | --- |
//! | [`agenda`] | virtual time |
//! | [`network`] | datagrams and streams, with their faults |
//! | [`relay`] | the shards, and the shell around them |
//! | [`registrar`] | SIP servers, well, ill and hostile |
//! | [`phone`] | phones that sleep, wake, answer, move and crash |
//! | [`caller`] | callers that wait, give up and hang up |
//! | [`oracle`] | what must hold |
//! | [`world`] | all of them, and the life of the leases |
//!
//! Every other account has a second phone, which comes and goes, answers, declines, or rings on. Every third call carries
//! bodies of 4 to 8 kB, by UDP in fragments; a device comes by TLS or by WebSocket, and back by the other.
//!
//! # The oracle
//! 1. **No call is lost that a phone could have answered.** A call whose INVITE the relay got has, within 3 s, come to
//!    its phone, or been pushed, or got its final answer. A phone that is told 200 at the edge while a call waits, and
//!    keeps that flow, has the INVITE within 3 s. When a phone answers before the caller has given up and before the
//!    relay has ended the call, keeps its flow and its lease, and the server is well all the while, the caller gets that
//!    200 and the phone its ACK, within 36 s (a 200 is repeated for 32 s).
//! 2. **Each INVITE gets exactly one final answer**, within `ring_timeout` + `answer_timeout` + [`SLACK`]; each call one
//!    final state for each phone, and none after it.
//! 3. **No phone rings for nothing**: no INVITE leaves for a phone after the call has ended for its caller or its lease
//!    was disabled, and what rings by then is silent [`SLACK`] later.
//! 4. **At most one push for a call** and phone, none when it has ended, none for a lease that was disabled.
//! 5. **A disabled binding is gone** within its deadline, told once, and no REGISTER leaves for it ever after.
//! 6. **A live binding is registered** when its server has been well for the longest back-off, or for a refresh of the
//!    longest lifetime that it grants when that is longer (a server that lost its table on UDP tells nobody).
//! 7. **CSeq rises** within the one Call-ID of a binding's REGISTERs; a repeated one is the last one, to its branch.
//! 8. **No server makes the relay spin**: REGISTERs of a binding and dials of a server in an hour are bounded, whatever it
//!    answers; a wrong password of a phone is shown at most five times (to the nonce that is used again, to a fresh one in
//!    each of three attempts, and once more when the app leaves the foreground).
//! 9. **A BYE reaches the other side**, from either, when server and flow stand.
//! 10. **Nothing is left**: when all leases are disabled and a day has passed, no shard holds a binding, a device, a call,
//!     a transaction or a timer.
//! 11. **One phone has the call**: when both phones of an account answer, the caller gets one 200, and the other phone an
//!     ACK and a BYE; a phone that is busy or leaves costs the other one nothing.
//! 12. **The same plan gives the same outputs**, byte for byte and microsecond for microsecond.
//!
//! Invariant: what a seed finds it finds again.

pub mod agenda;
pub mod caller;
pub mod network;
pub mod oracle;
pub mod phone;
pub mod registrar;
pub mod relay;
pub mod world;

use agenda::{At, S};

/// How long a call waits for its device.
pub const RING_TIMEOUT: At = 30 * S;
/// How long a device may ring.
pub const ANSWER_TIMEOUT: At = 120 * S;
/// The time that everything may take longer than it should.
pub const SLACK: At = 5 * S;
/// How long a server may take to confirm the end of a binding.
pub const UNBIND_DEADLINE: At = 3 * S;
/// The lifetime that is asked for.
pub const REGISTER_EXPIRES: At = 600 * S;

/// The settings of a simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Accounts, each with its phone; 1 or more.
    pub instances: usize,
    /// Virtual hours.
    pub hours: u64,
    /// Where all randomness comes from.
    pub seed: u64,
    /// Shards of the relay, 1 to 64.
    pub shards: usize,
    /// A slot whose story is told on stderr.
    pub watch: Option<usize>,
}

/// The results of a simulation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Violations of the oracle's rules; empty when there were none.
    pub wrongs: Vec<String>,
    /// A hash over all outputs of the relay and their moments.
    pub trace: u64,
    /// Happenings.
    pub happenings: u64,
    /// REGISTERs, each with its branch.
    pub registers: u64,
    /// Registrations and refreshes that succeeded.
    pub registered: u64,
    /// Registrations that were refused for good.
    pub refused: u64,
    /// Registrations that failed and were tried again.
    pub retried: u64,
    /// Bindings found registered by a sweep.
    pub swept: u64,
    /// Calls that somebody wanted to make.
    pub calls: u64,
    /// Calls whose AOR was not registered.
    pub not_registered: u64,
    /// INVITEs that reached the relay.
    pub delivered: u64,
    /// INVITEs that became no call.
    pub invites_refused: u64,
    /// Calls that came to a final state.
    pub ended: u64,
    /// Calls forked to a phone that was attached.
    pub forked_at_once: u64,
    /// Pushes.
    pub pushes: u64,
    /// INVITEs that came to the second phone of an account.
    pub seconds_invited: u64,
    /// Pushes that never arrived.
    pub pushes_lost: u64,
    /// Calls that a phone answered while it could.
    pub answerable: u64,
    /// Calls among them that both sides had.
    pub connected: u64,
    /// Calls among them that another phone had answered before.
    pub too_late: u64,
    /// Calls that the second phone of an account had.
    pub seconds_connected: u64,
    /// BYEs that had to arrive.
    pub byes: u64,
    /// Finals of callers: 200, 408, 480, 486, 487, 603, others.
    pub finals: [u64; 7],
    /// The most transactions of a shard at a sweep.
    pub peak_transactions: usize,
    /// The most timers of a shard at a sweep.
    pub peak_timers: usize,
}

impl Report {
    fn count_final(&mut self, status: u16) {
        let known = [200, 408, 480, 486, 487, 603];
        self.finals[known.iter().position(|it| *it == status).unwrap_or(6)] += 1;
    }
}

/// Simulates.
pub fn run(plan: Plan) -> Report {
    world::World::new(plan).run()
}

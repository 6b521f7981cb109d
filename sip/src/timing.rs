//! Every wait of the protocol, in one place: settings of the core, so that a test can scale them.
//!
//! Invariant: the defaults are those of the RFCs that the fields name; a scaled set keeps their proportions.

use std::time::Duration;

use crate::transaction;
pub use crate::transaction::Timing as TransactionTiming;

/// The waits of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// T1, T2 and T4, from which RFC 3261 §17 makes timers A to M (not C, which is 11 min).
    pub transaction: transaction::Timing,
    /// Waits at the edge.
    pub edge: EdgeTiming,
    /// Waits toward SIP servers.
    pub upstream: UpstreamTiming,
}

/// Waits for devices, and of their callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeTiming {
    /// How long an attached device may leave an INVITE without any response before it is pushed as well, or a MESSAGE before
    /// it is stored instead: its flow may be dead without either side knowing; 2 s.
    pub no_response: Duration,
    /// How long an attached device that is pushed for may leave OPTIONS unanswered before they are answered for it: less than the 3 s that
    /// Asterisk waits for, where nothing else is set; 1 s.
    pub options: Duration,
    /// How long a device that is sent an INVITE has to ring or answer, also when it has come at the end of `ring_timeout`; 5 s.
    pub first_sign: Duration,
    /// How long a device may take to end a cancelled INVITE before the caller is answered 487 without it; 4 s.
    pub cancel: Duration,
    /// How soon a caller's server sends a call again that a device has refused for its form (RFC 3261 §8.1.3.5); where it does not, the devices that
    /// have missed the call are told then; 5 s.
    pub comes_again: Duration,
    /// How often a waiting caller gets a provisional response, so that no proxy's Timer C ends the call (RFC 3261 §13.3.1.1;
    /// §16.6: more than three minutes, which a 100 does not restart); 60 s.
    pub provisional_interval: Duration,
    /// How long the store may take for a MESSAGE; then the sender is answered 503; 3 s.
    pub store: Duration,
    /// How long a request of a dialog, other than INVITE, waits for a peer without a flow; then 480. Its sender's Timer F
    /// ends after 64·T1 (RFC 3261 §17.1.2.2) and must not be answered later (RFC 4320 §4.2); 24 s.
    pub parked: Duration,
    /// How long a message in a call waits for its device to prove itself on its connection: for two REGISTERs, and an answer of its SIP server; 8 s.
    pub unproven: Duration,
    /// How soon a device is pushed again for requests that are no call; 10 s.
    pub push_again: Duration,
}

/// Waits for flows toward SIP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTiming {
    /// Timing of pings, and of the answers to them.
    pub keep_alive: KeepAliveTiming,
    /// How long after the first dial that failed a SIP server is dialled again, and up to a quarter longer; it doubles three times, and
    /// then it is [`Self::back_off`]; 1 s.
    pub redial: Duration,
    /// The wait between attempts that failed.
    pub back_off: BackOff,
    /// How long after a SIP server has accepted credentials the different ones of another device are checked again; 2 s, in which a registration that
    /// the new device replaces has ended.
    pub recheck: Duration,
    /// How long a device's REGISTER waits for a flow to its SIP server; then 504; 15 s.
    pub flow: Duration,
    /// How long a flow must have lived for its end to be no failure (RFC 5626 §4.5, min-regtime); 120 s.
    pub settled: Duration,
    /// How long a flow that a better one has replaced stays open beyond the time in which a call that came by it is
    /// answered: the last transactions; 32 s.
    pub replaced: Duration,
}

/// Keep-alive of flows toward SIP servers (RFC 5626 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAliveTiming {
    /// The interval between pings on a stream, before jitter (§4.4.1 there recommends 95 to 120 s): so that Kamailio and OpenSIPS, which end streams
    /// that were idle for 120 s, never do; 110 s.
    pub stream: Duration,
    /// The interval between keep-alives on UDP, before jitter (§4.4.2 there recommends 24 to 29 s); 29 s.
    pub datagram: Duration,
    /// The shortest interval that a server's Flow-Timer, or streams that soon end, bring about; 15 s.
    pub shortest: Duration,
    /// How long a pong may take (§4.4.1 there); 10 s.
    pub pong: Duration,
    /// The first interval between STUN retransmissions, which doubles (RFC 8489 §6.2.1); 500 ms.
    pub stun_resend: Duration,
}

impl KeepAliveTiming {
    /// The same after so many streams in a row that ended soon: streams are pinged twice as often for each, for a balancer on the way may end what is idle.
    #[must_use]
    pub fn after_losses(self, losses: u8) -> Self {
        let sooner = self.stream / 2_u32.pow(losses.min(8).into());
        Self { stream: sooner.max(self.shortest).min(self.stream), ..self }
    }
}

/// The wait after failures in a row (RFC 5626 §4.5): it doubles with each, up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// The bound after the first failure; 30 s.
    pub base: Duration,
    /// The bound that no number of failures exceeds; 30 min.
    pub max: Duration,
    /// How long after its SIP server did not know an account any more for the first time it is tried once more; up to a tenth longer; 60 s.
    pub unknown_once: Duration,
    /// How long after the first refusal of an account that was registered it is tried once more; up to a tenth longer; 10 min.
    pub refused_once: Duration,
    /// How long after the second refusal in a row it is tried for the last time; up to a tenth longer; 60 min.
    pub refused_twice: Duration,
}

/// However soon something ends, the second try waits for a half of this, or all of it.
const SECOND_TRY: Duration = Duration::from_secs(2);

impl BackOff {
    /// The same waits, none of them longer than a half of what is `left` of what a first try was to prolong: one failure must not cost the time between.
    #[must_use]
    pub fn within(self, left: Duration) -> Self {
        Self { max: self.max.min((left / 2).max(SECOND_TRY)), ..self }
    }
}

impl Default for EdgeTiming {
    fn default() -> Self {
        Self {
            no_response: Duration::from_secs(2),
            options: Duration::from_secs(1),
            first_sign: Duration::from_secs(5),
            cancel: Duration::from_secs(4),
            comes_again: Duration::from_secs(5),
            provisional_interval: Duration::from_secs(60),
            store: Duration::from_secs(3),
            parked: Duration::from_secs(24),
            unproven: Duration::from_secs(8),
            push_again: Duration::from_secs(10),
        }
    }
}

impl Default for UpstreamTiming {
    fn default() -> Self {
        Self {
            keep_alive: KeepAliveTiming::default(),
            redial: Duration::from_secs(1),
            back_off: BackOff::default(),
            recheck: Duration::from_secs(2),
            flow: Duration::from_secs(15),
            settled: Duration::from_secs(120),
            replaced: Duration::from_secs(32),
        }
    }
}

impl Default for KeepAliveTiming {
    fn default() -> Self {
        Self {
            stream: Duration::from_secs(110),
            datagram: Duration::from_secs(29),
            shortest: Duration::from_secs(15),
            pong: Duration::from_secs(10),
            stun_resend: Duration::from_millis(500),
        }
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(30),
            max: Duration::from_secs(1800),
            unknown_once: Duration::from_secs(60),
            refused_once: Duration::from_secs(600),
            refused_twice: Duration::from_secs(3600),
        }
    }
}

impl Timing {
    /// Every default wait times `factor`, which is more than 0; below 1 they are shorter.
    ///
    /// # Panics
    /// When `factor` is negative, or makes a wait longer than a `Duration` can be.
    pub fn scaled(factor: f64) -> Self {
        let of = |wait: Duration| wait.mul_f64(factor);
        let Self { transaction, edge, upstream } = Self::default();
        let (keep_alive, back_off) = (upstream.keep_alive, upstream.back_off);
        Self {
            transaction: transaction::Timing { t1: of(transaction.t1), t2: of(transaction.t2), t4: of(transaction.t4) },
            edge: EdgeTiming {
                no_response: of(edge.no_response),
                options: of(edge.options),
                first_sign: of(edge.first_sign),
                cancel: of(edge.cancel),
                comes_again: of(edge.comes_again),
                provisional_interval: of(edge.provisional_interval),
                store: of(edge.store),
                parked: of(edge.parked),
                unproven: of(edge.unproven),
                push_again: of(edge.push_again),
            },
            upstream: UpstreamTiming {
                keep_alive: KeepAliveTiming {
                    stream: of(keep_alive.stream),
                    datagram: of(keep_alive.datagram),
                    shortest: of(keep_alive.shortest),
                    pong: of(keep_alive.pong),
                    stun_resend: of(keep_alive.stun_resend),
                },
                redial: of(upstream.redial),
                back_off: BackOff {
                    base: of(back_off.base),
                    max: of(back_off.max),
                    unknown_once: of(back_off.unknown_once),
                    refused_once: of(back_off.refused_once),
                    refused_twice: of(back_off.refused_twice),
                },
                recheck: of(upstream.recheck),
                flow: of(upstream.flow),
                settled: of(upstream.settled),
                replaced: of(upstream.replaced),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_by_one_is_the_default_and_by_a_tenth_a_tenth_of_it() {
        assert_eq!(Timing::scaled(1.0), Timing::default());
        let tenth = Timing::scaled(0.1);
        assert_eq!(tenth.transaction.t1_64(), Duration::from_millis(3200));
        assert_eq!(tenth.edge.no_response, Duration::from_millis(200));
        assert_eq!(tenth.upstream.back_off.base, Duration::from_secs(3));
    }
}

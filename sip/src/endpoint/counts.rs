//! Counts of what an endpoint holds.
//!
//! Invariant: the numbers name nobody.

/// How much an endpoint holds: for metrics, and to see that nothing is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bindings, registered or not.
    pub bindings: usize,
    /// SIP servers that bindings share.
    pub upstreams: usize,
    /// Instances that are served.
    pub devices: usize,
    /// Bindings that several instances share.
    pub shared: usize,
    /// Devices that have a flow.
    pub attached: usize,
    /// Streams of which something is known.
    pub flows: usize,
    /// REGISTERs whose proof the shell is verifying.
    pub verifications: usize,
    /// Calls, those that have just ended included.
    pub calls: usize,
    /// MESSAGEs on their way, those included whose device may still answer.
    pub messages: usize,
    /// Transactions of both kinds, and what is kept for them.
    pub transactions: usize,
    /// Registrations that passed through: push bindings (RFC 8599), and those that their flows alone lead to.
    pub push_bindings: usize,
    /// REGISTERs on their way, requests with a proof that is counted, and what came by a flow that its device has not proved itself on.
    pub waiting: usize,
    /// Instances of other nodes whose dialogs go through here.
    pub elsewhere: usize,
    /// Deadlines, those included whose owner is gone.
    pub timers: usize,
}

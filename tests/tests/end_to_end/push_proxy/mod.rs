//! Without lending any credential: phones that register at their own SIP server through the real binary (RFC 8599).
//!
//! | room | what is shown |
//! | --- | --- |
//! | `calls` | calls over each transport, each service, each end |
//! | `refusals` | what may not pass, and from whom no call is believed |
//! | `outgoing` | requests that devices begin, on whatever shard their registration lives |
//! | `heartbeat` | a page by its connection alone, behind something that forgets it |
//! | `keeping` | restarts, refreshes, dead tokens, and what lies in Redis and in memory |
//! | `dns_shares` | requests for what another node has stored, while DNS is silent |
//! | `returned` | a store that comes back with what it had before, and a phone that has moved |
//! | `taking_back` | log-outs by a node that does not know the phone |
//! | `peers` | the same with a real Kamailio and a real SIPp |

mod calls;
mod dns_shares;
mod heartbeat;
mod keeping;
mod outgoing;
mod refusals;
mod returned;
mod taking_back;

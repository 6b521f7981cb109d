//! The use cases, by who asks.
//!
//! | who | trait | room |
//! | --- | --- | --- |
//! | an app, with its key | [`AppService`] | `apps`, `app_requests` |
//! | a device, with its instance's secret | [`DeviceService`] | `devices` |
//! | a SIP server, with its key | [`SipServerService`] | `sip_servers` |
//! | an operator, with the operator token | [`OperatorService`] | `operators` |
//! | another node, by a letter | [`NodeService`](nodes::NodeService) | [`nodes`] |
//!
//! | room | what it is |
//! | --- | --- |
//! | `enable`, `change`, `wipe` | the life of an instance, from its enabling to its receipt |
//! | `wake`, `calls` | a call that a SIP server holds, and the stories of calls |
//! | `items`, `traces` | what comes beside calls, and recordings of SIP |
//! | `ownership`, `drain` | the instances of this node: its lease and claims, and its leaving |
//! | `views`, `status` | instances and calls, as they look from outside, and how they stand |
//! | `keyed_mutex` | one at a time for each key |
//!
//! Each trait has its requests and errors beside it. Floor 4 (`api`, `operator`) speaks to these traits alone, so that it can be tried against a stand-in.
//!
//! Invariant: nothing that a use case gives back holds a secret, except the instance's own secret in the answer to its
//! enabling; no error carries text that a peer chose.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use sip::id::InstanceId;
use tokio::sync::{Semaphore, mpsc};

use crate::agent::{Agent, RecordNote};
use crate::audit::Audit;
use crate::config::DomainRules;
use crate::doctor::Doctor;
use crate::limits::Quotas;
use crate::limits::shares::Shares;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::net::dns::resolve::Resolver;
use crate::net::drain::Drain;
use crate::outage::Outage;
use crate::vault::record::Provider;
use crate::vault::{Lookup, Vault};

mod app_requests;
pub mod apps;
mod calls;
mod change;
pub mod devices;
mod drain;
mod enable;
mod items;
mod keyed_mutex;
pub mod nodes;
pub mod operators;
mod ownership;
pub mod sip_servers;
mod status;
mod traces;
pub mod views;
mod wake;
mod wipe;

pub use apps::{AppService, ExamineError};
pub use devices::DeviceService;
pub use operators::OperatorService;
pub use ownership::claims::write_note;
pub use sip_servers::SipServerService;

use keyed_mutex::KeyedMutex;

/// The use cases of this relay; cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// The dependencies of the use cases.
pub struct Dependencies {
    /// The agent, with its shards.
    pub agent: Agent,
    /// The store.
    pub vault: Vault,
    /// The metrics.
    pub metrics: Metrics,
    /// The limits of each source, account and SIP server.
    pub quotas: Quotas,
    /// DNS and the address policy.
    pub resolver: Resolver,
    /// The examiner of accounts.
    pub doctor: Doctor,
    /// The audit trail.
    pub audit: Audit,
    /// The SIP domains that accounts may belong to.
    pub domains: DomainRules,
    /// `host:port` of the edge, as devices are told.
    pub edge: Box<str>,
    /// `host:port` of the edge's WebSocket listener, where there is one.
    pub websocket: Option<Box<str>>,
    /// The push services of each App.
    pub services: HashMap<Box<str>, Services>,
    /// When it begins, nothing is enabled any more.
    pub drain: Drain,
}

/// The push services that an App has at this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// Apple's.
    pub apns: bool,
    /// Google's.
    pub fcm: bool,
    /// Web Push.
    pub webpush: bool,
}

impl Services {
    /// Whether this one is among them.
    pub(crate) const fn has(self, provider: Provider) -> bool {
        match provider {
            Provider::ApnsProduction | Provider::ApnsSandbox => self.apns,
            Provider::Fcm => self.fcm,
            Provider::WebPush => self.webpush,
        }
    }
}

/// Accounts that are examined at once; a further one is answered 429.
const EXAMINATIONS: usize = 16;
/// Of these those of one app, and of one address (an IPv6 /64).
const EXAMINATIONS_OF_APP: usize = 6;
const EXAMINATIONS_OF_SOURCE: usize = 3;

struct Inner {
    dependencies: Dependencies,
    /// One enabling at a time for the same app, AOR and push token.
    enabling: KeyedMutex<Lookup>,
    /// One change at a time for an instance.
    changing: KeyedMutex<InstanceId>,
    /// Examinations at once.
    examinations: Semaphore,
    examinations_of_app: Shares<Box<str>>,
    examinations_of_source: Shares<IpAddr>,
    /// Questions to other nodes that await an answer.
    questions: nodes::Questions,
    /// Searches at other nodes that are under way.
    seeks: ownership::missing_records::Seeks,
    /// The nodes that say nothing of what they have wiped.
    silences: nodes::unresponsive_peers::Silences,
    /// To which nodes requests were passed on.
    passed_on: nodes::forwarded_requests::PassedOn,
    /// The nodes that leave.
    leavers: nodes::drain_messages::Leavers,
    /// The requests that were given up at other nodes, and those of this one that others are to hear of.
    given_up_requests: nodes::given_up_requests::GivenUpRequests,
    /// The store does not give what this node may claim.
    unclaimed: Mutex<Outage>,
    /// Permits for devices that take a registration back.
    removing_contacts: Semaphore,
    ending_other_tokens: Semaphore,
    /// Changes for which the store has not answered.
    unanswered_writes: ownership::unanswered_writes::UnansweredWrites,
    /// Instances that another node has, while their calls end here.
    left_to_owner: ownership::left_to_owner::LeftToOwner,
    /// Instances that another node may have by now.
    offered: ownership::offers::Offered,
    /// Instances that were released because the store did not show them.
    released: ownership::shown_again::Released,
    /// Instances that were taken over and cannot be pushed for here.
    unserved: ownership::unserved::Unserved,
    /// Accounts that were taken over, and may go back.
    given_back: ownership::given_back::GivenBack,
    /// Registrations that devices have removed by way of other nodes.
    recent_removals: wipe::removed_contacts::RecentRemovals,
    /// How far this node is in handing its instances over.
    hand_over: drain::hand_over::HandOver,
}

impl Inner {
    /// Whether an App has this push service here.
    fn serves(&self, app: &str, provider: Provider) -> bool {
        self.dependencies.services.get(app).is_some_and(|services| services.has(provider))
    }
}

impl Service {
    /// The use cases over an agent that runs.
    pub fn new(dependencies: Dependencies) -> Self {
        Self(Arc::new(Inner {
            dependencies,
            examinations: Semaphore::new(EXAMINATIONS),
            examinations_of_app: Shares::new(EXAMINATIONS_OF_APP),
            examinations_of_source: Shares::new(EXAMINATIONS_OF_SOURCE),
            enabling: KeyedMutex::default(),
            changing: KeyedMutex::default(),
            questions: nodes::Questions::default(),
            seeks: ownership::missing_records::Seeks::new(),
            silences: nodes::unresponsive_peers::Silences::default(),
            passed_on: nodes::forwarded_requests::PassedOn::default(),
            leavers: nodes::drain_messages::Leavers::default(),
            given_up_requests: nodes::given_up_requests::GivenUpRequests::default(),
            unclaimed: Mutex::default(),
            removing_contacts: Semaphore::new(wipe::removed_contacts::AT_ONCE),
            ending_other_tokens: Semaphore::new(wipe::removed_contacts::EARLIER_AT_ONCE),
            unanswered_writes: ownership::unanswered_writes::UnansweredWrites::default(),
            left_to_owner: ownership::left_to_owner::LeftToOwner::default(),
            offered: ownership::offers::Offered::default(),
            released: ownership::shown_again::Released::default(),
            unserved: ownership::unserved::Unserved::default(),
            given_back: ownership::given_back::GivenBack::default(),
            recent_removals: wipe::removed_contacts::RecentRemovals::default(),
            hand_over: drain::hand_over::HandOver::default(),
        }))
    }

    /// Writes down which reminders of a lease's end the agent has sent, so that a restart does not repeat them.
    pub async fn write_down_notes(self, notes: mpsc::UnboundedReceiver<RecordNote>) {
        self.0.write_down_notes(notes).await;
    }
}

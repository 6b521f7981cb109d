//! Requests of an operator, made with the operator token.
//!
//! Invariant: a future may be dropped at any await. Work under way then completes, or leaves nothing behind.

use std::future::Future;
use std::time::Duration;

use sip::id::{CallId, InstanceId};
use thiserror::Error;
use tokio::time::sleep;

use super::devices::AccessError;
use super::devices::{TraceAnswer, TraceError, TraceRequest};
use super::nodes::{ANSWER_WAIT, Body, NodeService, OwnerAnswer};
use super::views::{CallView, InstanceStatusView, Registration, Wiped};
use super::{Dependencies, Service};
use crate::agent::request::Principal;
use crate::agent::stories::RecentCall;
use crate::audit::{Act, AuditSubject, Reading};
use crate::clock;
use crate::domain::WipeReason;
use crate::domain::story::{Story, StoryOutcome};
use crate::hpke::PublicKey;
use crate::vault::record::{Presence, Provider, WakeFor};
use crate::vault::{AorHash, Owner, StoreError};

/// How long a look for what is left behind takes at most that finds nothing: so long an operator waits for it.
const LOOK_FOR_LEFT: Duration = Duration::from_millis(250);
/// How often it is looked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Requests of an operator, made with the operator token.
pub trait OperatorService: Clone + Send + Sync + 'static {
    /// Of at most `limit` (1 to 1000) instances of this node in the order of their ids, those after `after` alone, the ones
    /// asked for.
    fn list(
        &self,
        after: Option<InstanceId>,
        limit: usize,
        which: Which,
    ) -> impl Future<Output = Result<Page, OperatorError>> + Send;

    /// The owner of an instance that is not this node; `None`: this node is to answer, from its own data.
    ///
    /// # Errors
    /// The error that this node would answer after asking the store once more.
    fn owner_of(&self, _id: InstanceId) -> impl Future<Output = Result<Option<Owner>, OperatorError>> + Send {
        async { Ok(None) }
    }

    /// The other nodes that live; `None`: the store does not say.
    fn other_nodes(&self) -> impl Future<Output = Option<Vec<Owner>>> + Send {
        async { Some(Vec::new()) }
    }

    /// Whether [`Self::other_nodes`], asked before, were all.
    fn named_all(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// The names of the nodes whose instances nobody may know yet: this one, while it takes over what an earlier run has left, or a dead one's; and
    /// those that are dead until others have taken that over.
    fn unclaimed(&self) -> impl Future<Output = Vec<String>> + Send {
        async { Vec::new() }
    }

    /// The names of all nodes of the store, this one included, and whether each holds its lease; `None`: the store does not say.
    fn known_nodes(&self) -> impl Future<Output = Option<Vec<(Box<str>, bool)>>> + Send {
        async { Some(Vec::new()) }
    }

    /// Facts about this node.
    fn about_node(&self) -> NodeFacts {
        NodeFacts::default()
    }

    /// Asks another node.
    fn ask_node(&self, _node: &Owner, _body: Body) -> impl Future<Output = OwnerAnswer> + Send {
        async { OwnerAnswer::NotAsked }
    }

    /// Until when a question to another node is wanted that is asked now, as [`NodeService::wanted_until`] says.
    fn question_until(&self) -> impl Future<Output = Option<u64>> + Send {
        async { Some(u64::MAX) }
    }

    /// The instances of an account on this node.
    fn find(&self, aor: AorHash) -> impl Future<Output = Result<Vec<Listed>, OperatorError>> + Send;

    /// The calls of this node that were asked for, newest first.
    fn calls(&self, which: WhichCalls) -> impl Future<Output = CallStories> + Send;

    /// One instance, as an operator may see it.
    fn show(&self, id: InstanceId) -> impl Future<Output = Result<Listed, OperatorError>> + Send;

    /// Unregisters and wipes on the operator's word.
    fn wipe(&self, id: InstanceId) -> impl Future<Output = Result<Wiped, OperatorError>> + Send;

    /// The data held about one instance; secrets, AOR and tokens left out.
    fn export(&self, id: InstanceId) -> impl Future<Output = Result<Export, OperatorError>> + Send;

    /// Records an instance's SIP, gives what was recorded, or erases it; its user sees so in the timeline.
    fn trace(
        &self,
        id: InstanceId,
        request: TraceRequest,
    ) -> impl Future<Output = Result<TraceAnswer, TraceError>> + Send;
}

/// An instance as an operator sees it: nothing that tells whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The instance's id.
    pub instance: InstanceId,
    /// How it came here.
    pub kind: InstanceKind,
    /// The App's id, as the operator configured it.
    pub app: Box<str>,
    /// Whether it works.
    pub state: InstanceStatusView,
    /// How its registration stands.
    pub registration: Registration,
    /// When it was enabled, in seconds since 1970; of one that passed through, when its device registered last.
    pub created_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The push service for calls.
    pub call_push: Provider,
    /// The push service for everything else.
    pub alert_push: Option<Provider>,
}

/// How an instance came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// An app lent its account.
    Lent,
    /// Its device registered through the edge (RFC 8599); no credential is held.
    Passed,
}

/// An operator's filter of instances; a field that is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Instances of this App.
    pub app: Option<Box<str>>,
    /// Instances whose AOR is of this domain; in lower case.
    pub domain: Option<Box<str>>,
}

/// A part of the list of instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order of their ids.
    pub instances: Vec<Listed>,
    /// The id at which the next page goes on; `None`: this was the last.
    pub next: Option<InstanceId>,
}

/// Facts about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node takes nothing on any more.
    pub is_leaving: bool,
    /// The node may have lost its lease without noticing.
    pub is_doubtful: bool,
    /// Fingerprint of its keyring, which tells it from another one.
    pub keyring: String,
    /// The same in all copies of a keyring on the same day.
    pub key_of_today: String,
}

/// An operator's filter of calls; all, where no field is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhichCalls {
    /// Calls that came since then, in milliseconds since 1970.
    pub since_ms: u64,
    /// Calls of one App.
    pub app: Option<Box<str>>,
    /// Calls of one instance.
    pub instance: Option<InstanceId>,
    /// Calls that ended, or stand, like this; empty: all.
    pub outcomes: Vec<StoryOutcome>,
    /// One call, for each of its devices.
    pub call: Option<CallId>,
    /// The newest so many.
    pub limit: usize,
    /// Of each call one device alone: the one that answered it, else one of the others.
    pub once: bool,
    /// The answer waits a moment for what an earlier run has kept.
    pub waits: bool,
}

impl WhichCalls {
    /// Whether a call is one of them.
    pub fn is_one(&self, call: &RecentCall) -> bool {
        call.at_ms >= self.since_ms
            && self.app.as_deref().is_none_or(|app| app == &*call.app)
            && self.instance.is_none_or(|instance| instance == call.instance)
            && self.call.is_none_or(|wanted| wanted == call.call)
            && (self.outcomes.is_empty() || self.outcomes.contains(&call.outcome))
    }
}

/// Stories of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallStories {
    /// Newest first.
    pub stories: Vec<Story>,
    /// Nothing is missing; else the store did not answer, or not everything of an earlier run has been read yet.
    pub is_whole: bool,
}

/// The data held about an instance, with everything left out that identifies its user.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// The instance.
    pub listed: Listed,
    /// The events that wake the device, and whether the app registers by itself; of an account that was lent.
    pub preferences: Option<(WakeFor, Presence)>,
    /// The key that what names a person is sealed to, in pushes.
    pub public_key: Option<PublicKey>,
    /// Its calls that are still known.
    pub calls: Vec<(CallId, CallView)>,
    /// The stories of its calls.
    pub stories: Vec<Story>,
}

/// Why an operator's request was not fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// There is no such instance on this node.
    #[error("no such instance")]
    Unknown,
    /// The store does not answer.
    #[error("the store is away")]
    StoreAway,
    /// The instance has ended, and neither the store nor the disk takes that down.
    #[error("the instance has ended, and that is not written down")]
    Unwritten,
}

impl OperatorService for Service {
    async fn owner_of(&self, id: InstanceId) -> Result<Option<Owner>, OperatorError> {
        let vault = &self.0.dependencies.vault;
        let is_here = !matches!(self.0.look_as_relay(id).await, Err(OperatorError::Unknown));
        // Of a node that leaves another one may have it by now.
        if is_here && !self.0.is_leaving() || vault.tombstones().bars(id, None).is_some() {
            return Ok(None);
        }
        match vault.load(id).await {
            Ok(None) | Err(_) if is_here || vault.tombstones().look(id).is_some() => Ok(None),
            // An instance that this node has ended by itself may go on at another node.
            Ok(Some(stored)) if vault.tombstones().bars(id, Some(stored.fence)).is_some() => Ok(None),
            Ok(Some(stored)) => Ok(Some(stored.owner).filter(|_| !stored.owned)),
            Ok(None) => {
                let whose = match self.0.who_wiped(id, None).await {
                    Err(AccessError::Unknown) => self.0.seek(id, None).await.and_then(|found| {
                        let found = found.ok_or(AccessError::Unknown)?;
                        Ok(Some(found.owner).filter(|_| !found.owned))
                    }),
                    told => told,
                };
                whose.map_err(|error| match error {
                    AccessError::StoreAway | AccessError::Unwritten | AccessError::OwnerAway => {
                        OperatorError::StoreAway
                    }
                    AccessError::Unknown | AccessError::Forbidden => OperatorError::Unknown,
                })
            }
            Err(StoreError::Malformed) => Ok(None),
            Err(_) => Err(OperatorError::StoreAway),
        }
    }

    async fn other_nodes(&self) -> Option<Vec<Owner>> {
        self.others().await
    }

    async fn named_all(&self) -> bool {
        self.were_all().await
    }

    async fn unclaimed(&self) -> Vec<String> {
        let Dependencies { vault, agent, .. } = &self.0.dependencies;
        let begun = clock::now();
        let (dead, is_taking) = loop {
            // Each renewal of the lease looks for what is left behind, and mostly finds nothing.
            while agent.is_taking() && begun.elapsed() < LOOK_FOR_LEFT {
                sleep(LOOK_AGAIN).await;
            }
            let dead = vault.unclaimed_nodes().await;
            // Asked last: an unclaimed instance may have become this node's meanwhile. If a renewal has just begun, all is asked once more.
            let is_taking = agent.is_taking();
            if !is_taking || begun.elapsed() >= LOOK_FOR_LEFT {
                break (dead, is_taking);
            }
        };
        let own = is_taking.then(|| vault.owner().node().to_string());
        let dead =
            dead.map_or_else(|_| vec!["unknown".to_owned()], |dead| dead.into_iter().map(String::from).collect());
        own.into_iter().chain(dead).collect()
    }

    async fn known_nodes(&self) -> Option<Vec<(Box<str>, bool)>> {
        self.0.dependencies.vault.known_nodes().await.ok()
    }

    fn about_node(&self) -> NodeFacts {
        let Dependencies { vault, agent, .. } = &self.0.dependencies;
        let fingerprint = vault.fingerprint();
        NodeFacts {
            is_leaving: self.0.is_leaving(),
            is_doubtful: agent.is_doubtful(),
            keyring: fingerprint.identity_text(),
            key_of_today: fingerprint.chain_text(),
        }
    }

    async fn ask_node(&self, node: &Owner, body: Body) -> OwnerAnswer {
        self.ask_owner(node, body).await
    }

    async fn question_until(&self) -> Option<u64> {
        self.0.wanted_until(ANSWER_WAIT).await
    }

    async fn list(&self, after: Option<InstanceId>, limit: usize, which: Which) -> Result<Page, OperatorError> {
        Ok(self.0.list(after, limit, &which).await)
    }

    async fn find(&self, aor: AorHash) -> Result<Vec<Listed>, OperatorError> {
        let account = Some(self.0.dependencies.vault.aor_key_of(aor));
        let whose = || AuditSubject { account, ..AuditSubject::default() };
        self.0.dependencies.audit.note(Act::Read(Reading::Find), whose);
        Ok(self.0.find(aor).await)
    }

    async fn calls(&self, which: WhichCalls) -> CallStories {
        let told = self.0.calls(&which).await;
        if which.call.is_some() {
            for story in &told.stories {
                let whose =
                    || AuditSubject { instance: Some(story.instance), account: None, app: Some(story.app.clone()) };
                self.0.dependencies.audit.note(Act::Read(Reading::Call), whose);
            }
        }
        told
    }

    async fn show(&self, id: InstanceId) -> Result<Listed, OperatorError> {
        let status = self.0.look_or_read(id).await?;
        self.0.audit(Act::Read(Reading::Show), &status);
        self.0.listed(&status).ok_or(OperatorError::Unknown)
    }

    async fn wipe(&self, id: InstanceId) -> Result<Wiped, OperatorError> {
        self.0.wipe(id, Principal::Relay, WipeReason::Operator).await.map_err(|error| match error {
            AccessError::Unwritten => OperatorError::Unwritten,
            AccessError::StoreAway | AccessError::OwnerAway => OperatorError::StoreAway,
            AccessError::Unknown | AccessError::Forbidden => OperatorError::Unknown,
        })
    }

    async fn export(&self, id: InstanceId) -> Result<Export, OperatorError> {
        self.0.export(id).await
    }

    async fn trace(&self, id: InstanceId, request: TraceRequest) -> Result<TraceAnswer, TraceError> {
        let status = self.0.look_as_relay(id).await.ok();
        if let Some(status) = &status {
            self.0.audit(Act::Read(Reading::Trace), status);
        }
        let answer = self.0.trace_as_relay(id, request).await;
        // The trace of a registration that is gone may be here all the same.
        if status.is_none() && answer.is_ok() {
            let whose = || AuditSubject { instance: Some(id), ..AuditSubject::default() };
            self.0.dependencies.audit.note(Act::Read(Reading::Trace), whose);
        }
        answer
    }
}

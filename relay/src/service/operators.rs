//! Requests of an operator, made with the operator token.
//!
//! Invariant: a future may be dropped at any await; work in progress then still completes, or leaves nothing behind.

use std::future::Future;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::time::sleep;

use super::nodes::{Body, NodeService};
use super::types::{
    AboutNode, AccessError, CallStories, Export, Listed, OperatorError, Page, TraceAnswer, TraceError, TraceRequest,
    Which, WhichCalls, Wiped,
};
use super::{Dependencies, Service};
use crate::agent::request::Principal;
use crate::audit::{Act, Reading, Whose};
use crate::clock;
use crate::domain::WipeReason;
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
    fn about_node(&self) -> AboutNode {
        AboutNode::default()
    }

    /// Asks another node; `None`: it does not answer in time.
    fn ask_node(&self, _node: &Owner, _body: Body) -> impl Future<Output = Option<Body>> + Send {
        async { None }
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
                    AccessError::StoreAway | AccessError::OwnerAway => OperatorError::StoreAway,
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

    async fn unclaimed(&self) -> Vec<String> {
        let Dependencies { vault, agent, .. } = &self.0.dependencies;
        let begun = clock::now();
        // Each renewal of the lease looks for what is left behind, and mostly finds nothing.
        while agent.is_taking() && begun.elapsed() < LOOK_FOR_LEFT {
            sleep(LOOK_AGAIN).await;
        }
        let dead = vault.unclaimed_nodes().await;
        // Asked last: an unclaimed instance may have become this node's meanwhile.
        let own = agent.is_taking().then(|| vault.owner().node().to_string());
        let dead =
            dead.map_or_else(|_| vec!["unknown".to_owned()], |dead| dead.into_iter().map(String::from).collect());
        own.into_iter().chain(dead).collect()
    }

    async fn known_nodes(&self) -> Option<Vec<(Box<str>, bool)>> {
        self.0.dependencies.vault.known_nodes().await.ok()
    }

    fn about_node(&self) -> AboutNode {
        let Dependencies { vault, agent, .. } = &self.0.dependencies;
        let fingerprint = vault.fingerprint();
        AboutNode {
            is_leaving: self.0.is_leaving(),
            is_doubtful: agent.is_doubtful(),
            keyring: fingerprint.identity_text(),
            key_of_today: fingerprint.chain_text(),
        }
    }

    async fn ask_node(&self, node: &Owner, body: Body) -> Option<Body> {
        self.ask_owner(node, body).await
    }

    async fn list(&self, after: Option<InstanceId>, limit: usize, which: Which) -> Result<Page, OperatorError> {
        Ok(self.0.list(after, limit, &which).await)
    }

    async fn find(&self, aor: AorHash) -> Result<Vec<Listed>, OperatorError> {
        let account = Some(self.0.dependencies.vault.aor_key_of(aor));
        let whose = || Whose { account, ..Whose::default() };
        self.0.dependencies.audit.note(Act::Read(Reading::Find), whose);
        Ok(self.0.find(aor).await)
    }

    async fn calls(&self, which: WhichCalls) -> CallStories {
        let told = self.0.calls(&which).await;
        if which.call.is_some() {
            for story in &told.stories {
                let whose = || Whose { instance: Some(story.instance), account: None, app: Some(story.app.clone()) };
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
            AccessError::StoreAway | AccessError::OwnerAway => OperatorError::StoreAway,
            AccessError::Unknown | AccessError::Forbidden => OperatorError::Unknown,
        })
    }

    async fn export(&self, id: InstanceId) -> Result<Export, OperatorError> {
        self.0.export(id).await
    }

    async fn trace(&self, id: InstanceId, request: TraceRequest) -> Result<TraceAnswer, TraceError> {
        if let Ok(status) = self.0.look_as_relay(id).await {
            self.0.audit(Act::Read(Reading::Trace), &status);
        }
        self.0.trace_as_relay(id, request).await
    }
}

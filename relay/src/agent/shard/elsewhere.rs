//! Devices whose instances another node owns by now. Their established calls began at this node and still pass through it
//! (`sip/src/endpoint/elsewhere.rs`).
//!
//! | the store has | the device hears |
//! | --- | --- |
//! | the instance, owned by another node, and the proof matches its record | 200, for its dialogs alone |
//! | the instance, and the proof is wrong | 403 |
//! | no instance, or one that this node has wiped | 403, and its dialogs pass here no longer |
//! | the instance, owned by this node; a record that does not open here; or no answer | 503: it may be here in a moment, or this node may learn the key |
//! | nothing of what it had a moment ago | 503: the owner writes it again |
//!
//! Invariant: at most [`LOOKUPS_MAX`] proofs of one shard are looked up at once; a further one is answered 503. The existence of an instance is shown only to
//! a peer that has its secret, is its SIP server, or knows one of its dialogs. The exception is a record that does not open here: its 503 goes to anybody.

use sip::endpoint::{Input, KnownElsewhere, Proof, VerificationId};
use sip::id::InstanceId;

use super::Shard;
use crate::agent::transport::upstreams::Route;
use crate::agent::{NodeNews, ShardInput, Shared, digest};
use crate::clock;
use crate::metrics::labels::{EdgeRegisterOutcome, StoreOperation};
use crate::vault::record::{Record, StoredRecord};
use crate::vault::{SealError, StoreError, Stored};

/// Proofs that may be looked up at once; a further one is answered 503.
const LOOKUPS_MAX: usize = 256;

/// The store's verdict on a proof.
pub(crate) enum Judged {
    /// The proof is right, and another node owns the instance.
    Right(Box<KnownElsewhere>),
    /// The proof is wrong.
    Wrong,
    /// There is no such instance, or not any more.
    Gone(InstanceId),
    /// Not known.
    Unsure,
}

impl Shard {
    /// Asks the store whether another node owns the instance of a proof.
    pub(super) fn verify_elsewhere(
        &mut self,
        verification: VerificationId,
        instance: InstanceId,
        method: Box<str>,
        proof: Proof,
    ) {
        if self.proofs_elsewhere >= LOOKUPS_MAX {
            self.note_judged(&method, &Judged::Unsure);
            return self.next.push_back(Input::DeviceUnverified(verification));
        }
        self.proofs_elsewhere += 1;
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            let judged = judge(&shared, instance, &method, &proof).await;
            drop(proof);
            shared.shards.send(shard, ShardInput::ProofJudged(Box::new((verification, method, judged)))).await;
        });
    }

    /// Handles the store's verdict on a proof.
    pub(crate) fn on_proof_judged(&mut self, verification: VerificationId, method: &str, judged: Judged) {
        self.proofs_elsewhere = self.proofs_elsewhere.saturating_sub(1);
        self.note_judged(method, &judged);
        match judged {
            Judged::Right(known) => {
                self.next.push_back(Input::KnownElsewhere(known));
                self.next.push_back(Input::DeviceVerified { verification, granted: true });
            }
            Judged::Wrong => self.next.push_back(Input::DeviceVerified { verification, granted: false }),
            Judged::Gone(instance) => {
                self.next.push_back(Input::NotElsewhere(instance));
                self.next.push_back(Input::DeviceVerified { verification, granted: false });
            }
            Judged::Unsure => self.next.push_back(Input::DeviceUnverified(verification)),
        }
        self.settle(clock::now());
    }

    fn note_judged(&self, method: &str, judged: &Judged) {
        if method == "REGISTER" {
            self.shared.metrics.edge_register(match judged {
                Judged::Right(_) => EdgeRegisterOutcome::Elsewhere,
                Judged::Wrong | Judged::Gone(_) => EdgeRegisterOutcome::Unknown,
                Judged::Unsure => EdgeRegisterOutcome::Early,
            });
        }
    }
}

async fn judge(shared: &Shared, id: InstanceId, method: &str, proof: &Proof) -> Judged {
    let began = clock::now();
    let stored = match shared.vault.load(id).await {
        Ok(Some(stored)) => stored,
        Ok(None) if shared.vault.tombstones().bars(id, None).is_some() => return Judged::Gone(id),
        // What is missing may be lost, and written again in a moment.
        Ok(None) => return if shared.vault.is_whole().await == Ok(true) { Judged::Gone(id) } else { Judged::Unsure },
        Err(StoreError::Malformed) => return Judged::Unsure,
        Err(_) => {
            shared.metrics.store_error(StoreOperation::Load);
            return Judged::Unsure;
        }
    };
    shared.metrics.store_answered(began.elapsed());
    if shared.vault.tombstones().bars(id, Some(stored.fence)).is_some() {
        return Judged::Gone(id);
    }
    let shows = |record: &Record| digest::verify_device(id, &record.secret, method, proof);
    if stored.owned {
        let is_right = |record: &StoredRecord| record.lent().is_some_and(shows);
        return match shared.vault.open_record(id, &stored.sealed, is_right) {
            Ok(false) => Judged::Wrong,
            Ok(true) => {
                // An error means that nobody is told any more: the process ends.
                let _ = shared.node_news.send(NodeNews::Shown(id));
                Judged::Unsure
            }
            Err(_) => Judged::Unsure,
        };
    }
    match known_elsewhere(shared, &stored, shows) {
        Ok(Some(known)) => Judged::Right(Box::new(known)),
        Ok(None) => Judged::Wrong,
        // The nodes' keyrings may differ for a while.
        Err(_) => Judged::Unsure,
    }
}

/// The account of another node, with one reference to its SIP server. `None`: `is_meant` rejects it, or its record leads nowhere. An error: its record
/// does not open here.
pub(super) fn known_elsewhere(
    shared: &Shared,
    stored: &Stored,
    is_meant: impl FnOnce(&Record) -> bool,
) -> Result<Option<KnownElsewhere>, SealError> {
    let route = shared.vault.open_record(stored.id, &stored.sealed, |record| {
        let record = record.lent().filter(|record| is_meant(record))?;
        Route::of(&record.account).ok()
    });
    Ok(route?.map(|route| {
        let registrar = route.registrar().into();
        KnownElsewhere { instance: stored.id, upstream: shared.upstreams.acquire_kept(route), registrar }
    }))
}

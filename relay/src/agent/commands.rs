//! What a shard does when a use case asks.
//!
//! Invariant: a device's wish is looked at only after its proof was found right, in constant time.

use sip::endpoint::{CallState, Input};
use sip::id::{BindingId, CallId, InstanceId};
use tokio::sync::oneshot;

use super::calls::Call;
use super::command::{CallDenied, CallWish, Command, Denied, First, NewInstance, Standing, Term, TestDenied, Who};
use super::instances::Row;
use super::shard::Shard;
use super::timeline::What;
use crate::metrics::labels::InstanceState;
use crate::vault::{Fence, Sealed};

impl Shard {
    pub(super) fn obey(&mut self, command: Command) {
        // Whoever asked may have gone: an answer that nobody takes is no error.
        match command {
            Command::Bind { new, first } => self.bind(*new, first),
            Command::Stored { id, sealed, fence, reply } => {
                let _ = reply.send(self.stored(id, sealed, fence));
            }
            Command::Abandon(id) => self.abandon(id),
            Command::Yield(id) => self.yield_to_another(id),
            Command::Look { id, who, reply } => {
                let _ = reply.send(self.admit(id, &who).and_then(|()| self.standing(id)));
            }
            Command::Replace { id, sealed, lease, fence, foreground, reply } => {
                let _ = reply.send(self.replace(id, sealed, lease, fence, foreground));
            }
            Command::Wipe { id, who, reason, reply } => {
                let admitted = self.admit(id, &who).map(|()| {
                    let (waiter, done) = oneshot::channel();
                    self.begin_wipe(id, Some(reason), Some(waiter));
                    done
                });
                let _ = reply.send(admitted);
            }
            Command::Call { id, who, call, wish, reply } => {
                let _ = reply.send(self.call(id, &who, call, wish));
            }
            Command::Announce { aor, from, name, arrivals, reply } => {
                let _ = reply.send(self.announce(aor, &from, name.as_deref(), &arrivals));
            }
            Command::Calls { id, reply } => {
                let _ = reply.send(self.calls.all_of(id));
            }
            Command::Told { id, who, reply } => {
                let _ = reply.send(self.admit(id, &who).map(|()| self.told(id)));
            }
            Command::Test { id, who, reply } => {
                let admitted = self.admit(id, &who).map_err(TestDenied::Denied);
                let _ = reply.send(admitted.and_then(|()| self.test(id)));
            }
            Command::List { after, limit, reply } => {
                let ids = self.instances.ids_after(after, limit);
                let _ = reply.send(ids.into_iter().filter_map(|id| self.standing(id).ok()).collect());
            }
            Command::Adopt(new) => self.adopt(*new),
            Command::Ids(reply) => {
                let _ = reply.send(self.instances.ids());
            }
            Command::OpenCalls(reply) => {
                let _ = reply.send(self.endpoint.open_calls());
            }
            Command::EndCalls(reply) => {
                let open = self.endpoint.open_calls();
                self.drive(Input::EndCalls);
                let _ = reply.send(open);
            }
        }
    }

    fn bind(&mut self, new: NewInstance, first: Option<oneshot::Sender<First>>) {
        let NewInstance { id, sealed, lease, aor, fence, binding } = new;
        if let Some(row) = self.instances.get_mut(id) {
            row.fence = fence;
            self.world.upstreams.release(binding.upstream);
            return;
        }
        let mut row = Row::new(sealed, binding.binding, binding.upstream, fence, lease, aor);
        row.first = first;
        if !binding.register {
            row.state = InstanceState::Foreground;
        }
        self.world.metrics.instance_enters(row.state);
        self.instances.insert(id, row);
        let shared = binding.binding;
        self.drive(Input::Bind(Box::new(binding)));
        self.share_standing(id, shared);
    }

    /// An instance that joins devices whose binding stands is registered with them at once, when it has proven itself before.
    fn share_standing(&mut self, id: InstanceId, binding: BindingId) {
        let members = self.endpoint.callable_instances(binding);
        if !members.contains(&id) || !self.endpoint.is_registered(binding) {
            return;
        }
        let standing = |other: &InstanceId| {
            let row = self.instances.get(*other).filter(|row| row.state == InstanceState::Registered)?;
            Some((row.status, row.registered_until))
        };
        let Some((status, until)) = members.iter().filter(|other| **other != id).find_map(standing) else { return };
        self.set_state(id, InstanceState::Registered);
        if let Some(row) = self.instances.get_mut(id) {
            (row.status, row.registered_until) = (status, until);
        }
    }

    fn stored(&mut self, id: InstanceId, sealed: Option<Sealed>, fence: Fence) -> bool {
        match self.instances.get_mut(id) {
            Some(row) if row.ending.is_none() => {
                row.fence = fence;
                row.sealed = sealed.unwrap_or_else(|| row.sealed.clone());
                true
            }
            _ => false,
        }
    }

    fn replace(
        &mut self,
        id: InstanceId,
        sealed: Sealed,
        lease: Term,
        fence: Fence,
        foreground: Option<bool>,
    ) -> Result<Standing, Denied> {
        let row = self.instances.get_mut(id).filter(|row| row.ending.is_none()).ok_or(Denied::Unknown)?;
        row.sealed = sealed;
        row.fence = fence;
        let (binding, is_foreground) = (row.binding, row.state == InstanceState::Foreground);
        self.instances.set_lease(id, lease);
        match foreground {
            Some(true) if !is_foreground => {
                self.set_state(id, InstanceState::Foreground);
                self.note(id, None, What::Foreground);
                self.next.push_back(Input::Suspend(id));
            }
            Some(false) if is_foreground => {
                self.set_state(id, InstanceState::Registering);
                self.note(id, None, What::Background);
                self.drive(Input::Resume(id));
                self.share_standing(id, binding);
            }
            _ => {}
        }
        self.standing(id)
    }

    fn call(&mut self, id: InstanceId, who: &Who, call: CallId, wish: CallWish) -> Result<Call, CallDenied> {
        self.admit(id, who).map_err(CallDenied::Denied)?;
        let known = *self.calls.of(id, call).ok_or(CallDenied::UnknownCall)?;
        if let Some(call) = self.calls.get_mut(call, id) {
            call.sign = true;
        }
        match wish {
            CallWish::Look => {}
            CallWish::Decline if known.state == CallState::Declined => {}
            _ if known.state.is_final() => return Err(CallDenied::Over(known.state)),
            CallWish::Ring => self.drive(Input::Ring { call, instance: id }),
            CallWish::Decline => self.drive(Input::Decline(call)),
        }
        Ok(*self.calls.of(id, call).unwrap_or(&known))
    }

    fn admit(&self, id: InstanceId, who: &Who) -> Result<(), Denied> {
        match who {
            Who::Relay if self.instances.get(id).is_some() => Ok(()),
            Who::Relay => Err(Denied::Unknown),
            Who::Device(shown) => match self.with_record(id, |record| record.secret == *shown) {
                None => Err(Denied::Unknown),
                Some(false) => Err(Denied::Forbidden),
                Some(true) => Ok(()),
            },
        }
    }

    fn standing(&self, id: InstanceId) -> Result<Standing, Denied> {
        let row = self.instances.get(id).ok_or(Denied::Unknown)?;
        let registered = row.state == InstanceState::Registered;
        Ok(Standing {
            id,
            sealed: row.sealed.clone(),
            fence: row.fence,
            state: row.state,
            status: Some(row.status).filter(|status| *status != 0),
            registered_until: if registered { row.registered_until } else { 0 },
            expires_at: row.expires_at(),
            mailbox: row.beside.as_ref().and_then(|beside| beside.mailbox.clone()),
        })
    }
}

//! A call for a device whose instance is enabled again, or that registers with another push token: it goes on for the later one.
//!
//! Invariant: a device that was woken for a call is not woken for it again as its successor.

use super::Call;
use super::legs::Legs;
use crate::edge::CallState;
use crate::id::{BindingId, InstanceId};

impl Call {
    /// Moves the call to this binding.
    pub fn rebind(&mut self, binding: BindingId) {
        self.binding = binding;
    }

    /// One instance takes the place of an earlier one of the same device, also where the call is for both.
    pub fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        self.legs.succeed(earlier, successor);
        let Some(at) = self.targets.iter().position(|target| target.instance == earlier) else { return };
        if !self.targets.iter().any(|target| target.instance == successor) {
            if let Some(target) = self.targets.get_mut(at) {
                target.instance = successor;
            }
            return;
        }
        let gone = self.targets.remove(at);
        let Some(target) = self.targets.iter_mut().find(|target| target.instance == successor) else { return };
        target.woken |= gone.woken;
        target.attached |= gone.attached;
        target.has_it |= gone.has_it;
        target.rings |= gone.rings;
        target.refused = target.refused.take().or(gone.refused);
        target.unreachable &= gone.unreachable;
        target.refused_itself |= gone.refused_itself;
        target.lost = target.lost.take().or(gone.lost);
        if target.state == CallState::Waking && gone.state == CallState::Ringing {
            target.state = CallState::Ringing;
            self.changes.push((successor, CallState::Ringing));
        }
    }
}

impl Legs {
    fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        for leg in self.0.iter_mut().filter(|leg| leg.instance == earlier) {
            leg.instance = successor;
        }
    }
}

//! The devices that have a flow, and the App of each. A device's record is opened when the device shows its secret, so that it need not be opened for a call.
//!
//! Invariant: an App's name is kept once, at the longest until another App appears after its last device has gone.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sip::id::InstanceId;

/// The devices of one shard that have a flow.
#[derive(Default)]
pub(crate) struct Attached {
    devices: HashMap<InstanceId, Option<Arc<str>>>,
    apps: HashSet<Arc<str>>,
    /// The instance that has shown its secret last, and may attach now.
    shown: Option<(InstanceId, Arc<str>)>,
}

impl Attached {
    /// A device of this App has shown its secret.
    pub(crate) fn show(&mut self, id: InstanceId, app: &str) {
        let known = self.apps.get(app).cloned();
        let app = known.unwrap_or_else(|| {
            // Apps that no device has any more are dropped when another one comes.
            self.apps.retain(|known| Arc::strong_count(known) > 1);
            let app: Arc<str> = app.into();
            self.apps.insert(app.clone());
            app
        });
        self.shown = Some((id, app));
    }

    /// A device has a flow; whether it had none before.
    pub(crate) fn insert(&mut self, id: InstanceId) -> bool {
        let shown = self.shown.take().filter(|(shown, _)| *shown == id).map(|(_, app)| app);
        let is_new = !self.devices.contains_key(&id);
        let app = self.devices.entry(id).or_default();
        if shown.is_some() {
            *app = shown;
        }
        is_new
    }

    /// A device has none any more; whether it had one.
    pub(crate) fn remove(&mut self, id: InstanceId) -> bool {
        self.devices.remove(&id).is_some()
    }

    pub(crate) fn contains(&self, id: InstanceId) -> bool {
        self.devices.contains_key(&id)
    }

    /// The App of a device that has a flow, where it is known.
    pub(crate) fn app(&self, id: InstanceId) -> Option<&str> {
        self.devices.get(&id)?.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_device_has_the_app_of_its_own_secret() {
        let [one, two] = [1_u128, 2].map(|number| InstanceId::new(number << 16, ShardTag(0)));
        let mut attached = Attached::default();
        attached.show(one, "org.example");
        assert!(attached.insert(two), "it has shown nothing");
        assert_eq!(attached.app(two), None);
        attached.show(one, "org.example");
        assert!(attached.insert(one));
        assert!(!attached.insert(one), "it registers again");
        assert_eq!((attached.app(one), attached.contains(one)), (Some("org.example"), true));
        assert!(attached.remove(one) && !attached.remove(one));
        assert_eq!((attached.app(one), attached.contains(one)), (None, false));
        attached.show(two, "org.another");
        assert_eq!(attached.apps.len(), 1, "no device has the other one");
    }
}

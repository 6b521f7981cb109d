//! Controls of a running relay for its operator: read its files again, and end.
//!
//! Invariant: the requester has been let in before; nothing here tells a secret.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

/// The result of reading the configuration and its files again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// The changes now in force, by their setting.
    pub taken: Vec<String>,
    /// The changes in the file that wait for a restart.
    pub needs_restart: Vec<String>,
    /// The problems; if there are any, nothing was taken.
    pub problems: Vec<String>,
    /// Another reload goes on, and nothing was read; that is among the problems.
    pub goes_on: bool,
}

impl Reloaded {
    /// As the API answers it.
    pub fn to_json(&self) -> Value {
        if self.problems.is_empty() {
            json!({"taken": self.taken, "needs_restart": self.needs_restart})
        } else {
            json!({"problems": self.problems})
        }
    }
}

type Reload = Box<dyn Fn() -> Reloaded + Send + Sync>;
type Drain = Box<dyn Fn() + Send + Sync>;

/// The controls of one relay; cheap to clone, all clones are one.
#[derive(Clone, Default)]
pub struct Controls(Arc<OnceLock<(Reload, Drain)>>);

impl Controls {
    /// Connects them; the first connection counts.
    pub fn connect(&self, reload: Reload, drain: Drain) {
        // A second connection is none: a relay is wired once.
        let _ = self.0.set((reload, drain));
    }

    /// Reads everything again that can change; `None` while nothing is connected.
    pub fn reload(&self) -> Option<Reloaded> {
        self.0.get().map(|(reload, _)| reload())
    }

    /// Begins the drain; `false` while nothing is connected.
    pub fn drain(&self) -> bool {
        self.0.get().map(|(_, drain)| drain()).is_some()
    }
}

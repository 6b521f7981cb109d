//! The earlier name of the [`World`](crate::world::World), while tests move to it.

pub use crate::world::{FCM_TOKEN, OTHER_TOKEN, Ringing, SOON, TOKEN, World as Scene, text};

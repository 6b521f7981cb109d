//! The ephemeral credential store: sealed records with a time to live, in memory or in Redis.

pub mod record;

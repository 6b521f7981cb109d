//! The keys themselves: which one seals, which ones open, and on what day each is destroyed.
//!
//! Invariant: nothing here reads a clock or a file.

use super::chain::{Chain, day_of, day_of_id};
use super::{Epoch, KEY_LIFETIME_S};
use crate::clock::watch::keys_held_back_s;
use crate::clock::{DAY_S, Reading};
use crate::random;
use crate::secret::SecretKey;

/// How far ahead of the chain a clock that is doubted may have something sealed, in days: as long as a key lives.
pub(super) const DAYS_AHEAD: u16 = (KEY_LIFETIME_S / DAY_S) as u16;

/// How far ahead of the chain something opens, in days: what was sealed under a doubted clock on a node that is itself ahead.
const DAYS_OPENED_AHEAD: u16 = 2 * DAYS_AHEAD;

/// The contents of a keyring.
pub(super) struct Keys {
    pub index: SecretKey,
    pub receipt: SecretKey,
    pub flow_token: SecretKey,
    pub chain: Chain,
    /// The keys that open, that of the chain's day among them; the oldest first.
    pub epochs: Vec<Epoch>,
}

impl Keys {
    pub fn new(now: u64) -> Self {
        let (index, receipt, flow_token) = (new_key(), new_key(), new_key());
        let chain = Chain::begin(day_of(now));
        let epochs = vec![chain.epoch()];
        Self { index, receipt, flow_token, chain, epochs }
    }

    /// As they were read.
    pub fn of(
        index: SecretKey,
        receipt: SecretKey,
        flow_token: SecretKey,
        chain: Chain,
        mut epochs: Vec<Epoch>,
    ) -> Self {
        let epoch = chain.epoch();
        if !epochs.iter().any(|known| known.id == epoch.id) {
            epochs.push(epoch);
        }
        Self { index, receipt, flow_token, chain, epochs }
    }

    pub fn find(&self, id: u32, now: Reading) -> Option<SecretKey> {
        if let Some(known) = self.epochs.iter().find(|epoch| epoch.id == id) {
            return Some(known.key.clone());
        }
        let (from, day) = (self.chain.day, day_of_id(id));
        // A key by which this node may seal also opens, however long nobody has led the chain on, and so does the key of a node that is ahead.
        let last = from.saturating_add(DAYS_OPENED_AHEAD).max(self.sealing_day(now).saturating_add(DAYS_AHEAD));
        let epoch = (from < day && day <= last).then(|| self.chain.on(day).epoch());
        epoch.filter(|epoch| epoch.id == id).map(|epoch| epoch.key)
    }

    pub fn sealing_day(&self, now: Reading) -> u16 {
        let shared = day_of(now.system);
        let is_near = shared <= self.chain.day.saturating_add(DAYS_AHEAD);
        let day = if now.is_steady || is_near { shared } else { day_of(now.confirmed) };
        day.max(self.chain.day)
    }

    pub fn rotation_is_due(&self, now: Reading) -> bool {
        let is_behind = self.chain.day < day_of(now.confirmed);
        is_behind || self.is_astray(now) || self.epochs.iter().any(|epoch| self.is_dead(epoch, now))
    }

    /// Whether a wrong clock has led the chain into the future.
    fn is_astray(&self, now: Reading) -> bool {
        now.is_steady && self.chain.day > day_of(now.system).saturating_add(1)
    }

    pub fn rotate(&mut self, now: Reading) {
        if self.is_astray(now) {
            tracing::warn!(
                event = "keys-led-ahead",
                day = self.chain.day,
                "a clock that was ahead has led the sealing keys ahead; they begin anew"
            );
            self.chain.turn_back(day_of(now.system));
            for epoch in self.epochs.iter_mut().filter(|epoch| epoch.created_at > now.system) {
                epoch.created_at = now.system;
            }
            self.keep(self.chain.epoch());
        }
        while self.chain.day < day_of(now.confirmed) {
            self.chain.step();
            let epoch = self.chain.epoch();
            if !self.is_dead(&epoch, now) {
                self.keep(epoch);
            }
        }
        let epochs = std::mem::take(&mut self.epochs);
        self.epochs = epochs.into_iter().filter(|epoch| !self.is_dead(epoch, now)).collect();
    }

    pub fn mix(&mut self, entropy: &[u8]) {
        self.chain.mix(entropy);
        while self.epochs.iter().any(|known| known.id == self.chain.epoch().id) {
            self.chain.mix(entropy);
        }
        self.keep(self.chain.epoch());
    }

    fn keep(&mut self, epoch: Epoch) {
        self.epochs.push(epoch);
    }

    fn is_dead(&self, epoch: &Epoch, now: Reading) -> bool {
        let confirmed = now.confirmed.saturating_sub(keys_held_back_s());
        let is_over = |since: u64| confirmed.saturating_sub(since) >= KEY_LIFETIME_S;
        // A key that a slow clock has taken for one of the future is as old as its day.
        let began = u64::from(day_of_id(epoch.id)) * DAY_S;
        let is_of_now = began <= confirmed && !is_over(began);
        is_over(epoch.created_at) && !is_of_now && day_of_id(epoch.id) != self.chain.day
    }
}

fn new_key() -> SecretKey {
    match SecretKey::filled_by::<std::convert::Infallible>(|key| {
        random::fill(key);
        Ok(())
    }) {
        Ok(key) => key,
    }
}

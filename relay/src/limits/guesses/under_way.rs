//! The part of the table for attempts under way, which cannot be forgotten.
//!
//! A SIP server that never answers keeps an attempt under way for half a minute, and the owner of one may begin as many as are let through.
//!
//! | attempts | keys at once |
//! | --- | --- |
//! | of one source | [`OF_SOURCE_MAX`] |
//! | of one network | [`OF_NETWORK_MAX`] |
//! | of all | [`OF_ALL_MAX`] |
//!
//! A source whose proof was right within the hour, or that renews a registration kept here, has room where others have none: twice as much of a
//! source and of a network, and all of the table.
//!
//! Invariant: a source without success takes no room from one with success, and one source or network takes a small part of either.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ENTRIES_MAX;
use super::line::network_of;

/// Keys of one source: of 160 attempts of the largest kind, or of 600 usual ones.
const OF_SOURCE_MAX: usize = ENTRIES_MAX / 32;
/// Keys of one network.
const OF_NETWORK_MAX: usize = ENTRIES_MAX / 16;
/// Keys of all.
const OF_ALL_MAX: usize = ENTRIES_MAX / 4 * 3;

/// The keys of what is under way, each as often as it is.
#[derive(Default)]
pub(super) struct UnderWay {
    all: usize,
    sources: BTreeMap<IpAddr, usize>,
    networks: BTreeMap<IpAddr, usize>,
}

impl UnderWay {
    /// Whether an attempt of so many keys may begin.
    pub(super) fn has_room(&self, source: IpAddr, keys: usize, is_trusted: bool) -> bool {
        let fits = |taken: Option<&usize>, most: usize| taken.copied().unwrap_or(0) + keys <= most;
        let share = if is_trusted { 2 } else { 1 };
        fits(self.sources.get(&source), OF_SOURCE_MAX * share)
            && fits(self.networks.get(&network_of(source)), OF_NETWORK_MAX * share)
            && (is_trusted || fits(Some(&self.all), OF_ALL_MAX))
    }

    pub(super) fn begin(&mut self, source: IpAddr, keys: usize) {
        self.all += keys;
        *self.sources.entry(source).or_default() += keys;
        *self.networks.entry(network_of(source)).or_default() += keys;
    }

    pub(super) fn end(&mut self, source: IpAddr, keys: usize) {
        self.all = self.all.saturating_sub(keys);
        give_back(&mut self.sources, source, keys);
        give_back(&mut self.networks, network_of(source), keys);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all == 0 && self.sources.is_empty() && self.networks.is_empty()
    }
}

fn give_back(taken: &mut BTreeMap<IpAddr, usize>, whose: IpAddr, keys: usize) {
    let Some(left) = taken.get_mut(&whose) else { return };
    *left = left.saturating_sub(keys);
    if *left == 0 {
        taken.remove(&whose);
    }
}

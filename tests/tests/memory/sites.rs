//! Where the blocks that are live were asked for, when somebody wants to know: each with its backtrace, which takes its time.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The blocks that were asked for since the recording began, by their addresses.
static BLOCKS: Mutex<Option<BTreeMap<usize, (usize, Backtrace)>>> = Mutex::new(None);
/// The site of what no function of the product has asked for.
pub const ELSEWHERE: &str = "elsewhere";
/// Functions of a site that are shown: the innermost ones of the product.
const SHOWN: usize = 3;

thread_local! {
    /// What a recording itself asks for is not recorded.
    static RECORDING: Cell<bool> = const { Cell::new(false) };
}

/// Records from now on.
pub fn begin() {
    *BLOCKS.lock().unwrap_or_else(PoisonError::into_inner) = Some(BTreeMap::new());
}

/// A block was asked for.
pub fn note(block: usize, size: usize) {
    unrecorded(|| {
        if let Some(blocks) = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            blocks.insert(block, (size, Backtrace::force_capture()));
        }
    });
}

/// A block was given back.
pub fn forget(block: usize) {
    unrecorded(|| {
        if let Some(blocks) = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            blocks.remove(&block);
        }
    });
}

/// Blocks and bytes by site, the largest first; ends the recording.
pub fn take() -> Vec<(String, usize, usize)> {
    unrecorded(|| {
        let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let mut sites: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (size, backtrace) in blocks.values() {
            let site = sites.entry(site(backtrace)).or_default();
            *site = (site.0 + 1, site.1 + size);
        }
        let mut sites: Vec<_> = sites.into_iter().map(|(site, (blocks, bytes))| (site, blocks, bytes)).collect();
        sites.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        sites
    })
    .unwrap_or_default()
}

fn unrecorded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let was = RECORDING.try_with(|recording| recording.replace(true)).ok()?;
    let done = (!was).then(work);
    if !was {
        let _ = RECORDING.try_with(|recording| recording.set(false));
    }
    done
}

fn site(backtrace: &Backtrace) -> String {
    let text = backtrace.to_string();
    let functions = text.lines().filter_map(|line| line.trim_start().split_once(": ").map(|(_, function)| function));
    let ours = |function: &&str| ["relay::", "sip::"].iter().any(|krate| function.contains(krate));
    let site: Vec<_> = functions.filter(ours).take(SHOWN).collect();
    if site.is_empty() { ELSEWHERE.into() } else { site.join(" < ") }
}

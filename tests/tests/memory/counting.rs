//! An allocator that counts what is live.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::sites;

/// Counts what it passes to the system's allocator.
pub struct Counting;

static GIVEN: AtomicI64 = AtomicI64::new(0);

impl Counting {
    /// Bytes that the program holds now, as the relay's own allocator would hand them out.
    pub fn held() -> i64 {
        GIVEN.load(Relaxed)
    }
}

fn count(layout: Layout, sign: i64) {
    GIVEN.fetch_add(sign * given(layout.size()) as i64, Relaxed);
}

/// How much memory a block of mimalloc takes: whole pairs of words up to 64 bytes, then four sizes for each doubling; of a large one
/// the pages that are written to.
fn given(size: usize) -> usize {
    match size {
        0..=64 => size.max(1).next_multiple_of(16),
        32_768.. => size.next_multiple_of(4_096),
        _ => size.next_multiple_of(size.next_power_of_two() / 8),
    }
}

// SAFETY: each method passes its arguments to the system's allocator, which upholds the contract.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        let block = unsafe { System.alloc(layout) };
        sites::note(block as usize, layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout, -1);
        sites::forget(block as usize);
        // SAFETY: the caller gives up a block that was allocated here with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[test]
fn blocks_are_as_large_as_mimalloc_makes_them() {
    for (asked, expected) in [
        (1, 16),
        (17, 32),
        (64, 64),
        (65, 80),
        (96, 96),
        (97, 112),
        (129, 160),
        (256, 256),
        (257, 320),
        (500, 512),
        (513, 640),
    ] {
        assert_eq!(given(asked), expected, "{asked}");
    }
}

//! A global allocator that zeroes every block before it gives it back.
//!
//! Invariant: no byte that the program wrote to the heap reaches the inner allocator's free lists. A block that must
//! move is copied to a new one and zeroed here, never moved by the inner allocator. Blocks are handed out as the inner
//! allocator hands them out. This is the only file of the relay with `unsafe` code for memory.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::asm;
use std::ptr;

/// Wraps the allocator `A`; freed blocks, and the cut-off ends of shrunk ones, are zeroed first.
///
/// ```ignore
/// #[global_allocator]
/// static MEMORY: ZeroOnFree<MiMalloc> = ZeroOnFree(MiMalloc);
/// ```
pub struct ZeroOnFree<A>(pub A);

// SAFETY: each method upholds `GlobalAlloc` by passing its arguments, which the caller vouches for, to an inner
// allocator that upholds it; the bytes written in between lie inside a block that the caller is giving up.
#[allow(unsafe_code)]
unsafe impl<A: GlobalAlloc> GlobalAlloc for ZeroOnFree<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the inner one's.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the inner one's.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up a live block of `layout.size()` bytes, allocated here and so by the inner one.
        unsafe {
            wipe(block, layout.size());
            self.0.dealloc(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Always by a move: the inner allocator, asked to grow or to shrink, may move a block without zeroing it; and
        // a block that stays where it is would be freed later under another layout than it was allocated with.
        // SAFETY: by the contract of `realloc`, `new_size` is non-zero and valid for the alignment, so `new` is a
        // layout to allocate; `block` is live with `layout`; the new block is another one, and both hold `len` bytes.
        unsafe {
            let new = Layout::from_size_align_unchecked(new_size, layout.align());
            let moved = self.0.alloc(new);
            if !moved.is_null() {
                let len = layout.size().min(new_size);
                ptr::copy_nonoverlapping(block, moved, len);
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

/// Writes zeros that the optimiser must not drop, although nobody reads them before the block is freed.
///
/// # Safety
/// `block` points to `len` bytes that may be written.
#[allow(unsafe_code)]
#[inline]
unsafe fn wipe(block: *mut u8, len: usize) {
    // SAFETY: the caller vouches for the bytes. The empty assembly takes the pointer and may, as far as the compiler
    // knows, read what it points to; it changes no register, flag or memory.
    unsafe {
        ptr::write_bytes(block, 0, len);
        asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;
    use std::cell::RefCell;

    use super::*;

    const MARK: u8 = 0xa7;

    /// An allocator that looks into each block that it is given back.
    #[derive(Default)]
    struct Witness {
        /// For each freed block: its size, and how many of its bytes were not zero.
        freed: RefCell<Vec<(usize, usize)>>,
    }

    // SAFETY: passes everything to `System`; reads a block that is still live when it is given back.
    #[allow(unsafe_code)]
    unsafe impl GlobalAlloc for Witness {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's contract is `System`'s. Filled, so that every byte may be read at the end.
            unsafe {
                let block = System.alloc(layout);
                ptr::write_bytes(block, MARK, layout.size());
                block
            }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is live until `System` takes it, and was filled when it was allocated.
            unsafe {
                let bytes = std::slice::from_raw_parts(block, layout.size());
                let left = bytes.iter().filter(|&&byte| byte != 0).count();
                self.freed.borrow_mut().push((layout.size(), left));
                System.dealloc(block, layout);
            }
        }

        unsafe fn realloc(&self, _: *mut u8, _: Layout, _: usize) -> *mut u8 {
            panic!("the inner allocator must never move a block");
        }
    }

    #[test]
    #[allow(unsafe_code)]
    fn every_block_is_zero_when_it_is_freed() {
        let memory = ZeroOnFree(Witness::default());
        for size in [1, 7, 64, 4096, 3 << 20] {
            let layout = Layout::from_size_align(size, 16).expect("a layout");
            // SAFETY: allocated and freed once with one layout of non-zero size.
            unsafe {
                let block = memory.alloc(layout);
                memory.dealloc(block, layout);
            }
        }
        let freed = memory.0.freed.take();
        assert_eq!(freed, [(1, 0), (7, 0), (64, 0), (4096, 0), (3 << 20, 0)]);
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_block_that_grows_or_shrinks_keeps_its_content_and_leaves_none_behind() {
        let memory = ZeroOnFree(Witness::default());
        let layout = |size| Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: each block is used with the size it has at that moment, and freed once.
        unsafe {
            let block = memory.alloc(layout(100));
            let grown = memory.realloc(block, layout(100), 500);
            assert!(std::slice::from_raw_parts(grown, 100).iter().all(|&byte| byte == MARK));
            let shrunk = memory.realloc(grown, layout(500), 20);
            assert!(std::slice::from_raw_parts(shrunk, 20).iter().all(|&byte| byte == MARK));
            memory.dealloc(shrunk, layout(20));
        }
        assert_eq!(memory.0.freed.take(), [(100, 0), (500, 0), (20, 0)]);
    }
}

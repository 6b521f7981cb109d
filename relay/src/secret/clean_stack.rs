//! Running work on secrets so that the stack below it holds nothing of them afterwards.
//!
//! Invariant: when [`with_clean_stack`] returns or unwinds, the [`WIPED_STACK`] bytes below its own frame are zero; within another such call,
//! when that one does. The work's result, and its data on the heap, are not touched.

use std::cell::Cell;
use std::hint::black_box;

/// How much stack is overwritten, in bytes: sealing, hashing and signing need a few KiB, more in a debug build.
pub const WIPED_STACK: usize = 16 * 1024;

thread_local! {
    /// Whether a call of [`with_clean_stack`] further up overwrites what is below it.
    static IS_WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and then overwrites the stack that it used, up to [`WIPED_STACK`] bytes, also when it panics. Within another such work nothing
/// is overwritten before that one ends, whose stack this is part of.
///
/// The remnants meant are those that no destructor reaches: spilled registers, moved-from values, the working state
/// of a hash. The work must not be `async`: its state would live in the future and not on this stack.
pub fn with_clean_stack<T>(work: impl FnOnce() -> T) -> T {
    struct Wipe;
    impl Drop for Wipe {
        #[inline(always)]
        fn drop(&mut self) {
            IS_WITHIN.set(false);
            overwrite_below();
        }
    }
    // One that is made and not wanted would overwrite as it is dropped.
    let _wipe = if IS_WITHIN.replace(true) { None } else { Some(Wipe) };
    in_its_own_frame(work)
}

/// Keeps the work's locals out of the caller's frame, so that they lie where [`overwrite_below`] writes.
#[inline(never)]
fn in_its_own_frame<T>(work: impl FnOnce() -> T) -> T {
    black_box(work)()
}

/// Takes the place on the stack that the work had, and fills it with zeros.
#[inline(never)]
fn overwrite_below() {
    let mut space = [0u8; WIPED_STACK];
    // The optimiser must believe that the zeros are read, or it would not write them.
    black_box(&mut space);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const MARK: u8 = 0xa7;
    const LEN: usize = 2048;

    /// Leaves `LEN` marks some KiB down the stack, and tells where.
    #[inline(never)]
    fn leave_marks() -> u64 {
        let above = [0u8; 4096];
        black_box(&above);
        leave_marks_below()
    }

    #[inline(never)]
    fn leave_marks_below() -> u64 {
        let mut marks = [0u8; LEN];
        black_box(&mut marks).fill(MARK);
        black_box(&marks).as_ptr() as u64
    }

    /// Counts the marks at `address` as the kernel sees them, for a read of dead stack has no meaning in Rust.
    fn marks_at(memory: &File, address: u64, found: &mut [u8; LEN]) -> usize {
        memory.read_exact_at(found, address).expect("read own memory");
        found.iter().filter(|&&byte| byte == MARK).count()
    }

    #[test]
    fn nothing_of_the_work_is_left_on_the_stack() {
        let memory = File::open("/proc/self/mem").expect("open own memory");
        let mut found = Box::new([0; LEN]);
        let address = leave_marks();
        assert_eq!(marks_at(&memory, address, &mut found), LEN, "the control: marks stay when nobody wipes");
        let address = with_clean_stack(leave_marks);
        assert_eq!(marks_at(&memory, address, &mut found), 0);
    }

    #[test]
    fn a_work_within_another_is_wiped_with_that_one_and_what_follows_is_wiped_too() {
        let memory = File::open("/proc/self/mem").expect("open own memory");
        let mut found = Box::new([0; LEN]);
        let address = with_clean_stack(|| {
            let address = with_clean_stack(leave_marks);
            assert_eq!(marks_at(&memory, address, &mut found), LEN, "the outer one is not over");
            let own = leave_marks();
            with_clean_stack(|| ());
            assert_eq!(marks_at(&memory, own, &mut found), LEN, "nor is anything overwritten as the inner one begins");
            address
        });
        assert_eq!(marks_at(&memory, address, &mut found), 0);
        let unwound = std::panic::catch_unwind(|| with_clean_stack(|| std::panic::resume_unwind(Box::new(()))));
        assert!(unwound.is_err());
        let address = with_clean_stack(leave_marks);
        assert_eq!(marks_at(&memory, address, &mut found), 0);
    }

    #[test]
    fn the_stack_is_wiped_when_the_work_panics() {
        let memory = File::open("/proc/self/mem").expect("open own memory");
        let mut found = Box::new([0; LEN]);
        let mut address = 0;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            with_clean_stack(|| {
                address = leave_marks();
                std::panic::resume_unwind(Box::new(()))
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(marks_at(&memory, address, &mut found), 0);
    }
}

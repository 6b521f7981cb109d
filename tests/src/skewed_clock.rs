//! A wall clock that a test sets, for one process: a small library that is preloaded, built with the system's C compiler.
//!
//! Invariant: only the wall clock is off; the clocks that nobody can set go on as they are.

use std::path::PathBuf;
use std::process::Command;

use crate::scratch::Scratch;

/// A clock that is right until it is [set](Self::set).
pub struct SkewedClock {
    library: PathBuf,
    file: PathBuf,
    _scratch: Scratch,
}

impl SkewedClock {
    /// Builds it.
    ///
    /// # Panics
    /// Without a C compiler (`apt-get install gcc`).
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let source = scratch.file("skewed_clock.c", include_str!("skewed_clock.c"));
        let library = scratch.path().join("skewed_clock.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        let built = compile.status().expect("a C compiler: apt-get install gcc");
        assert!(built.success(), "the clock was not built");
        let file = scratch.file("off", 0_i64.to_ne_bytes());
        Self { library, file, _scratch: scratch }
    }

    /// The environment of a process that goes by this clock.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.display().to_string();
        vec![("LD_PRELOAD".to_owned(), text(&self.library)), ("SKEWED_CLOCK".to_owned(), text(&self.file))]
    }

    /// Sets it ahead by so many seconds, or behind with a negative number.
    ///
    /// # Panics
    /// When its file cannot be written.
    pub fn set(&self, off_s: i64) {
        use std::os::unix::fs::FileExt as _;
        let file = std::fs::OpenOptions::new().write(true).open(&self.file).expect("its file");
        file.write_all_at(&off_s.to_ne_bytes(), 0).expect("its file is written");
    }
}

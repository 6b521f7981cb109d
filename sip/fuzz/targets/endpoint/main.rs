//! Any bytes as a program of events: two SIP servers, three devices and a clock around one endpoint, in virtual time.
//!
//! | file | what it is |
//! | --- | --- |
//! | `main.rs` | the bytes as a program: one operation after another |
//! | `world.rs` | what stands around the endpoint, and carries an operation out |
//! | `shell.rs` | what the relay around the endpoint says of itself: other nodes, its end, an earlier run |
//! | `peers.rs` | the words of the SIP servers and the devices |
//! | `oracle.rs` | what must hold, whatever happens |
//!
//! Invariant: a program is the same world each time; the first byte says how the shell behaves, the rest are operations.
#![no_main]

mod oracle;
mod peers;
mod shell;
mod world;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use world::World;

/// Operations of one program; more bytes change nothing.
const OPERATIONS_MAX: usize = 300;

fuzz_target!(|data: &[u8]| {
    let once = run(data);
    assert_eq!(once, run(data), "the same inputs and the same seed give the same outputs");
});

/// Runs a program to the end of everything; what came out, as one number.
fn run(data: &[u8]) -> u64 {
    let mut bytes = Bytes(data);
    let mut world = World::new(bytes.next());
    for _ in 0..OPERATIONS_MAX {
        if bytes.0.is_empty() {
            break;
        }
        step(&mut world, &mut bytes);
    }
    world.end()
}

fn step(world: &mut World, bytes: &mut Bytes<'_>) {
    let operation = bytes.next();
    let (a, b) = (bytes.next(), bytes.next());
    match operation % 26 {
        0 | 1 => world.pass(span(a)),
        2 => world.bind(a, b & 1 != 0),
        3 => world.unbind(a),
        4 => world.release(a),
        5 => world.presence(a, b & 1 != 0),
        6 | 7 => world.invite(a, b),
        8 => world.cancel(a),
        9 | 10 => world.answer(a, b),
        11 => world.answer(0, 7),
        12 => world.register_device(a, b),
        13 => world.in_dialog(a, b),
        14 => world.close(a),
        15 => world.judge_call(a, b),
        16 => world.expect_call(a),
        17 => world.message(a, b),
        18 => world.store(a, b),
        19 => world.replay(a, b, bytes.next()),
        20 => world.network(a, b),
        21 => world.register_through(a, b),
        22 => world.route(a, b),
        23 => world.subscribe(a, b),
        24 => world.other_node(a, b),
        _ => world.later_word(a, b),
    }
}

/// From a millisecond to a day.
fn span(byte: u8) -> Duration {
    const MILLISECONDS: [u64; 16] = [
        1, 20, 100, 500, 1_000, 2_100, 4_100, 8_000, 20_000, 31_000, 33_000, 60_000, 125_000, 600_000, 3_600_000,
        86_400_000,
    ];
    Duration::from_millis(MILLISECONDS[usize::from(byte % 16)])
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// The next byte; zero behind the end.
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
}

//! The cost of a call: the instructions of the endpoint from INVITE to BYE, which do not depend on the load of the machine.
//!
//! Callgrind runs this very program again, twice, with few calls and with more; the difference is theirs alone. It counts what
//! [`Endpoint::handle`](sip::Endpoint::handle), `handle_timeout` and `poll` do, in the build of the tests: the figure is to be compared
//! with the one before, and with nothing else.

use std::process::{Command, Stdio};

use crate::answered_call::answered_call;
use crate::world::World;

/// Instructions of one call, and the compiler that they were counted with. A commit that makes a call dearer for a reason writes the new figure here,
/// and the reason into its message.
const BEFORE: (u64, &str) = include!("instructions.in");
/// The most that a call may cost beyond that, in hundredths; another compiler counts otherwise.
const BOUND: (u64, u64) = (5, 25);
/// Calls of the two runs.
const CALLS: (u64, u64) = (2, 8);
/// How many calls the program is to make.
const VARIABLE: &str = "SIPWAKE_TEST_CALLS";
const FUNCTIONS: [&str; 3] =
    ["sip::endpoint::Endpoint::handle", "sip::endpoint::Endpoint::handle_timeout", "sip::endpoint::Endpoint::poll"];

/// Calls to a sleeping device: it is woken, rings, answers and is hung up on.
#[test]
fn calls_to_a_sleeping_device_come_to_their_end() {
    let calls = std::env::var(VARIABLE).ok().and_then(|calls| calls.parse().ok()).unwrap_or(2);
    let mut world = World::registered();
    for number in 1..=calls {
        answered_call(&mut world, number);
        world.sent.clear();
        world.events.clear();
    }
}

#[test]
fn a_call_takes_no_more_instructions_than_before() {
    let (few, many) = CALLS;
    let each = (instructions(many) - instructions(few)) / (many - few);
    let (before, compiler) = BEFORE;
    let same = compiler_here() == compiler;
    let bound = before + before * if same { BOUND.0 } else { BOUND.1 } / 100;
    println!("{each} instructions a call, {before} before ({compiler}; here {})", compiler_here());
    assert!(
        each <= bound,
        "a call takes {each} instructions; at most {bound} are expected, {before} were counted before"
    );
}

fn compiler_here() -> String {
    let version = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    version.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// The instructions of so many calls.
fn instructions(calls: u64) -> u64 {
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"]);
    callgrind.args(FUNCTIONS.map(|function| format!("--toggle-collect={function}")));
    callgrind.arg(std::env::current_exe().expect("this program has a path"));
    callgrind.args(["--exact", "instructions::calls_to_a_sleeping_device_come_to_their_end", "--test-threads=1"]);
    let output = callgrind.env(VARIABLE, calls.to_string()).stdin(Stdio::null()).output();
    let output = output.expect("valgrind is installed (Debian: valgrind)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let counted = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim().parse());
    let counted = counted.and_then(Result::ok).unwrap_or(0);
    assert!(counted > 0, "callgrind has not met {FUNCTIONS:?}: {said}");
    counted
}

//! What a call costs: the instructions of the endpoint from INVITE to BYE, which do not depend on the machine's mood.
//!
//! Callgrind runs this very program again, twice, with few calls and with more; the difference is theirs alone. It counts what
//! [`Endpoint::handle`](sip::Endpoint::handle), `handle_timeout` and `poll` do, in the build of the tests: the figure is to be compared
//! with the one before, and with nothing else.

use std::process::{Command, Stdio};
use std::time::Duration;

use sip::endpoint::Input;
use sip::message::Name;

use crate::world::{SECRET, World};

/// Instructions of one call, and the compiler that they were counted with. Who makes a call dearer for a reason writes the new
/// figure here, and the reason into the commit.
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
        call(&mut world, number);
        world.sent.clear();
        world.events.clear();
    }
}

fn call(world: &mut World, number: u64) {
    let (server, phone, call_id) = (world.upstream, world.device(number), format!("call{number}"));
    world.invite(&call_id);
    let (call, instance) = (world.wakes()[0].call, world.instance);
    world.input(Input::Ring { call, instance });
    assert_eq!(world.descriptions(), ["INVITE 100", "INVITE 180"]);
    let register = format!(
        "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKreg{number};rport\r\n\
         From: <sip:{instance}@relay.test>;tag=d\r\nTo: <sip:{instance}@relay.test>\r\nCall-ID: reg{number}\r\n\
         CSeq: 1 REGISTER\r\nMax-Forwards: 70\r\nContact: <sip:phone@10.0.0.5:9999;transport=tls>\r\nExpires: 300\r\n\
         Authorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
        SECRET.replace(' ', "-")
    );
    world.receive(phone, &register);
    let invite = world.last("INVITE");
    world.reply(phone, &invite, 200, &[("Contact", "<sip:phone@10.0.0.5:9999;transport=tls>")], crate::world::SDP);
    let answered = world.last("INVITE 200");
    let ours = answered.elements(Name::RecordRoute).filter(|route| !route.contains("192.0.2.10"));
    let mut routes: Vec<_> = ours.map(|route| format!("Route: {route}\r\n")).collect();
    routes.reverse();
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let head = world.head(&call_id, method, cseq, ";tag=peer");
        // The ACK of an answer is a transaction of its own.
        let head = head.replace("Record-Route: <sip:192.0.2.10;lr>\r\n", "").replace(".1.INVITE", ".1.ACK");
        let uri = "sip:phone@10.0.0.5:9999;transport=tls";
        world.receive(server, &format!("{method} {uri} SIP/2.0\r\n{}{head}Content-Length: 0\r\n\r\n", routes.concat()));
    }
    let bye = world.last("BYE");
    world.reply(phone, &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
    world.input(Input::Closed(phone.flow));
    // Every transaction is over.
    world.advance(Duration::from_secs(60));
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

/// What so many calls take.
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

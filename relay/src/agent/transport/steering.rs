//! Steering: the core that a datagram is for, as the system can tell it by the Contact that a request is sent to, or by its Route.
//!
//! An INVITE to a lent account names its binding in the Request-URI, `sip:b` and 26 characters (`sip/src/id.rs`), whose last four
//! hold the shard's tag. So it is read on the core of its shard, and so are the CANCEL, and the ACK of a refusal. A request within a
//! dialog (ACK, BYE) names the device, and in its Route the token that this relay has written into Record-Route (`sip/src/flow/mod.rs`), whose
//! 19th to 22nd characters hold the tag. The program has no loops: it looks at each fourth place of the datagram's first kilobyte for
//! `Route: <sip:`, at one of four places of that. Everything else is read on any core, and handed on.
//!
//! Invariant: nothing depends on it. A datagram that is read on another core is handed to its shard as ever.

use crate::net::udp::Steering;

// Instructions of classic BPF (`linux/filter.h`, `linux/bpf_common.h`).
const LOAD: u16 = 0x00;
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_MEMORY: u16 = 0x60;
const SET_X: u16 = 0x01;
const STORE: u16 = 0x02;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const ADD: u16 = 0x04;
const SUBTRACT: u16 = 0x14;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const SHIFT_RIGHT: u16 = 0x74;
const MODULO: u16 = 0x94;
const OR_X: u16 = 0x4c;
const A_TO_X: u16 = 0x07;
const LOAD_X_MEMORY: u16 = 0x61;
const STORE_X: u16 = 0x03;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// Code, jump if true, jump if false, operand.
type Instruction = (u16, u8, u8, u32);

/// A condition and its operand, and what is done where it holds.
type Case = ((u16, u8), (u16, u32));

/// No core has this number: the system chooses.
const ANY: u32 = 0xffff;
/// The offset of the Request-URI, by the method and its length.
const METHODS: [(&[u8; 4], u32); 7] =
    [(b"INVI", 7), (b"CANC", 7), (b"ACK ", 4), (b"BYE ", 4), (b"NOTI", 7), (b"MESS", 8), (b"OPTI", 8)];
/// In `sip:b…@`: where the scheme ends, the user begins and ends, and its last characters lie.
const COLON: u32 = 3;
const KIND: u32 = 4;
const TAG: [u32; 4] = [27, 28, 29, 30];
const AT: u32 = 31;
/// The first places of `Route: <sip:` that are looked for, one of which is at a multiple of four.
const ROUTE: [&[u8; 4]; 4] = [b"Rout", b"oute", b"ute:", b"te: "];
/// The range in which a Route is looked for.
const SEARCHED: std::ops::Range<u32> = 32..960;
/// In `Route: <sip:…`: where the scheme ends, and the token's characters with the tag lie.
const ROUTE_COLON: u32 = 11;
const ROUTE_TAG: [u32; 4] = [30, 31, 32, 33];

/// The programs for so many shards: the best one, and a short one without Routes for systems that take no more (`net.core.optmem_max`
/// of 20 KiB, Linux before 6.7).
pub(crate) fn steering(shards: usize) -> Steering {
    Steering::programs([program(shards, SEARCHED), program(shards, 0..0)])
}

fn program(shards: usize, searched: std::ops::Range<u32>) -> Vec<Instruction> {
    let mut all = vec![(LOAD_WORD, 0, 0, 0)];
    for (method, uri) in METHODS {
        // Not this method: over the two instructions that follow; else X is where the URI begins.
        all.push((JUMP_IF_EQUAL, 0, 2, u32::from_be_bytes(*method)));
        all.push((SET_X, 0, 0, uri));
        all.push((JUMP, 0, 0, 0));
    }
    all.push((RETURN, 0, 0, ANY));
    land(&mut all, 0);
    let begin = all.len();
    for (place, wanted) in [(COLON, b':'), (KIND, b'b'), (AT, b'@')] {
        all.push((LOAD_BYTE_AT_X, 0, 0, place));
        all.push((JUMP_IF_EQUAL, 1, 0, wanted.into()));
        // To the search.
        all.push((JUMP, 0, 0, 0));
    }
    let tag: Vec<_> = gathered(TAG, 5, &base32()).into_iter().chain(chosen(0, shards)).collect();
    // The jumps over it: those of the checks alone are not landed yet.
    let behind = tag.len();
    for (place, instruction) in all.iter_mut().enumerate().skip(begin) {
        if instruction.0 == JUMP {
            instruction.3 = (begin + 9 + behind - place - 1) as u32;
        }
    }
    all.extend(tag);
    let begin = all.len();
    for place in searched.step_by(4) {
        all.push((LOAD_WORD, 0, 0, place));
        for (before, word) in ROUTE.into_iter().enumerate() {
            all.push((JUMP_IF_EQUAL, 0, 2, u32::from_be_bytes(*word)));
            all.push((SET_X, 0, 0, place - before as u32));
            all.push((JUMP, 0, 0, 0));
        }
    }
    all.push((RETURN, 0, 0, ANY));
    land(&mut all, begin);
    all.extend([(LOAD_BYTE_AT_X, 0, 0, ROUTE_COLON), (JUMP_IF_EQUAL, 1, 0, b':'.into()), (RETURN, 0, 0, ANY)]);
    all.extend(gathered(ROUTE_TAG, 6, &base64()));
    // Of the 24 bits the tag's are those in the middle.
    all.extend(chosen(4, shards));
    all
}

/// Has the open jumps from `begin` on lead behind what is there.
fn land(all: &mut [Instruction], begin: usize) {
    let end = all.len();
    for (place, instruction) in all.iter_mut().enumerate().skip(begin) {
        if instruction.0 == JUMP {
            instruction.3 = (end - place - 1) as u32;
        }
    }
}

/// The values of the characters at these places behind X, each of so many bits, one behind the other in A.
fn gathered(places: [u32; 4], bits: u32, value: &[Instruction]) -> Vec<Instruction> {
    // The four characters gather in the first word of memory; X waits in the second.
    let mut all = vec![(LOAD, 0, 0, 0), (STORE, 0, 0, 0), (STORE_X, 0, 0, 1)];
    for place in places {
        all.extend([(LOAD_X_MEMORY, 0, 0, 1), (LOAD_BYTE_AT_X, 0, 0, place)]);
        all.extend(value);
        all.extend([(A_TO_X, 0, 0, 0), (LOAD_MEMORY, 0, 0, 0), (SHIFT_LEFT, 0, 0, bits), (OR_X, 0, 0, 0)]);
        all.push((STORE, 0, 0, 0));
    }
    all
}

/// The shard of the tag in A, above so many bits.
fn chosen(above: u32, shards: usize) -> impl Iterator<Item = Instruction> {
    let tag = [(SHIFT_RIGHT, 0, 0, above), (AND, 0, 0, 0xffff)];
    tag.into_iter().chain([(MODULO, 0, 0, shards.max(1) as u32), (RETURN_A, 0, 0, 0)])
}

/// The value of a character of an identifier (RFC 4648 §6, lower case); any value for other characters.
fn base32() -> Vec<Instruction> {
    cases(&[((JUMP_IF_AT_LEAST, b'a'), (SUBTRACT, b'a'.into()))], (SUBTRACT, u32::from(b'2') - 26))
}

/// The value of a character of a token (RFC 4648 §5).
fn base64() -> Vec<Instruction> {
    cases(
        &[
            ((JUMP_IF_AT_LEAST, b'a'), (SUBTRACT, u32::from(b'a') - 26)),
            ((JUMP_IF_EQUAL, b'_'), (LOAD, 63)),
            ((JUMP_IF_AT_LEAST, b'A'), (SUBTRACT, b'A'.into())),
            ((JUMP_IF_EQUAL, b'-'), (LOAD, 62)),
        ],
        (ADD, 52 - u32::from(b'0')),
    )
}

/// The first of these whose condition holds, else the last.
fn cases(all: &[Case], last: (u16, u32)) -> Vec<Instruction> {
    let mut made: Vec<Instruction> = Vec::new();
    for ((condition, operand), (work, value)) in all {
        made.extend([(*condition, 0, 2, u32::from(*operand)), (*work, 0, 0, *value), (JUMP, 0, 0, 0)]);
    }
    made.push((last.0, 0, 0, last.1));
    land(&mut made, 0);
    made
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sip::endpoint::Endpoint;
    use sip::id::{BindingId, InstanceId, ShardTag};
    use sip::message::{Limits, Message};

    use super::*;

    /// The system's execution of the program (see bpf(4) for the machine); a load beyond the datagram returns 0.
    fn run(program: &[(u16, u8, u8, u32)], datagram: &[u8]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 2], 0_usize);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD => a = k,
                LOAD_WORD => match datagram.get(k as usize..).and_then(<[u8]>::first_chunk::<4>) {
                    Some(word) => a = u32::from_be_bytes(*word),
                    None => return 0,
                },
                LOAD_BYTE_AT_X => match datagram.get((x + k) as usize) {
                    Some(byte) => a = u32::from(*byte),
                    None => return 0,
                },
                LOAD_MEMORY => a = memory[k as usize],
                LOAD_X_MEMORY => x = memory[k as usize],
                SET_X => x = k,
                STORE => memory[k as usize] = a,
                STORE_X => memory[k as usize] = x,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += jump(a == k),
                JUMP_IF_AT_LEAST => at += jump(a >= k),
                ADD => a = a.wrapping_add(k),
                SUBTRACT => a = a.wrapping_sub(k),
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
                SHIFT_RIGHT => a >>= k,
                MODULO => a %= k,
                OR_X => a |= x,
                A_TO_X => x = a,
                RETURN => return k,
                RETURN_A => return a,
                other => panic!("no instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn a_request_to_a_binding_is_read_on_the_core_of_its_shard() {
        for shards in [2, 3, 8, 128] {
            let program = program(shards, SEARCHED);
            for number in 0..2_000_u32 {
                let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                let tag = ShardTag((number * 41) as u16);
                let binding = BindingId::new(random, tag);
                for method in ["INVITE", "CANCEL", "ACK", "BYE", "NOTIFY", "MESSAGE", "OPTIONS"] {
                    let request = format!("{method} sip:{binding}@192.0.2.1:5070 SIP/2.0\r\n");
                    assert_eq!(run(&program, request.as_bytes()), tag.shard(shards) as u32, "{request}");
                }
            }
        }
    }

    #[test]
    fn a_request_of_a_dialog_is_read_on_the_core_of_its_devices_shard() {
        for shards in [2, 3, 8, 128] {
            let (program, short) = (program(shards, SEARCHED), program(shards, 0..0));
            assert!(program.len() <= 4_096, "more than the system takes: {}", program.len());
            for number in 0..900_u32 {
                let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                let tag = ShardTag((number * 73) as u16);
                let mut rest = vec![number as u8; 17 + number as usize % 3 * 6];
                rest[0] = [0x10, 0x24, 0x16][number as usize % 3];
                let token = URL_SAFE_NO_PAD.encode([&InstanceId::new(random, tag).to_bytes()[..], &rest].concat());
                let method = ["ACK", "BYE", "INVITE"][number as usize / 3 % 3];
                let via = format!("Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK{:x<1$}\r\n", "", number as usize % 800);
                let route = format!("Route: <sip:{token}@192.0.2.1:5070;lr>\r\nCSeq: 2 {method}\r\n\r\n");
                let request = format!("{method} sip:phone@10.0.0.5:9999;transport=tls SIP/2.0\r\n{via}{route}");
                let read = Message::parse(&request.clone().into(), &Limits::default()).unwrap();
                assert_eq!(Endpoint::shard_of(&read), Some(tag), "{request}");
                assert_eq!(run(&program, request.as_bytes()), tag.shard(shards) as u32, "{request}");
                assert_eq!(run(&short, request.as_bytes()), ANY);
            }
        }
    }

    #[test]
    fn what_names_no_binding_is_left_to_the_system() {
        let program = program(4, SEARCHED);
        for datagram in [
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
            "INVITE sip:alice@example.com:5070;transport=udp;some=more SIP/2.0\r\n",
            "REGISTER sip:baaaaaaaaaaaaaaaaaaaaaaaaaa@example.com SIP/2.0\r\n",
            "INVITE sip:baaaaaaaaaaaaaaaaaaaaaaaaaaa@example.com SIP/2.0\r\n",
            "BYE sip:phone@10.0.0.5 SIP/2.0\r\nDate: today\r\nRoute: sip:next@192.0.2.1;lr\r\n",
            "INVITE tel:baaaaaaaaaaaaaaaaaaaaaaaaaa-example.com SIP/2.0\r\n",
        ] {
            let whole = format!("{datagram}{:1000}", "");
            assert_eq!(run(&program, whole.as_bytes()), ANY, "{datagram}");
        }
        for short in ["", "\r\n", "INVITE", "INVITE sip:b"] {
            assert_eq!(run(&program, short.as_bytes()), 0, "{short}");
        }
    }
}

//! Which core a datagram is for, as the system can tell it: by the Contact that a request is sent to.
//!
//! An INVITE to a lent account names its binding in the Request-URI, `sip:b` and 26 characters (`sip/src/id.rs`), whose last four
//! hold the shard's tag. So it is read on the core of its shard, and so are the CANCEL, and the ACK of a refusal. Everything else is
//! read on whichever core, and handed on.
//!
//! Invariant: nothing depends on it. A datagram that is read on another core is handed to its shard as ever.

use crate::net::udp::Steering;

// Instructions of classic BPF (`linux/filter.h`, `linux/bpf_common.h`).
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE_AT_X: u16 = 0x50;
const LOAD_MEMORY: u16 = 0x60;
const SET_X: u16 = 0x01;
const STORE: u16 = 0x02;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const SUBTRACT: u16 = 0x14;
const AND: u16 = 0x54;
const SHIFT_LEFT: u16 = 0x64;
const MODULO: u16 = 0x94;
const OR_X: u16 = 0x4c;
const A_TO_X: u16 = 0x07;
const LOAD_X_MEMORY: u16 = 0x61;
const STORE_X: u16 = 0x03;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// No core has this number: the system chooses.
const ANY: u32 = 0xffff;
/// Where the Request-URI begins behind a method of so many characters.
const METHODS: [(&[u8; 4], u32); 7] =
    [(b"INVI", 7), (b"CANC", 7), (b"ACK ", 4), (b"BYE ", 4), (b"NOTI", 7), (b"MESS", 8), (b"OPTI", 8)];
/// In `sip:b…@`: where the scheme ends, the user begins and ends, and its last characters lie.
const COLON: u32 = 3;
const KIND: u32 = 4;
const TAG: [u32; 4] = [27, 28, 29, 30];
const AT: u32 = 31;

/// The program for so many shards.
pub(crate) fn steering(shards: usize) -> Steering {
    Steering::program(&program(shards))
}

fn program(shards: usize) -> Vec<(u16, u8, u8, u32)> {
    let mut all = vec![(LOAD_WORD, 0, 0, 0)];
    for (method, uri) in METHODS {
        // Not this method: over the two instructions that follow; else X is where the URI begins.
        all.push((JUMP_IF_EQUAL, 0, 2, u32::from_be_bytes(*method)));
        all.push((SET_X, 0, 0, uri));
        all.push((JUMP, 0, 0, 0));
    }
    all.push((RETURN, 0, 0, ANY));
    let begin = all.len();
    for (place, instruction) in all.iter_mut().enumerate() {
        if instruction.0 == JUMP {
            instruction.3 = (begin - place - 1) as u32;
        }
    }
    for (place, wanted) in [(COLON, b':'), (KIND, b'b'), (AT, b'@')] {
        all.push((LOAD_BYTE_AT_X, 0, 0, place));
        all.push((JUMP_IF_EQUAL, 1, 0, wanted.into()));
        all.push((RETURN, 0, 0, ANY));
    }
    // The tag gathers in the first word of memory, X waits in the second.
    all.push((STORE_X, 0, 0, 1));
    for (turn, place) in TAG.into_iter().enumerate() {
        if turn > 0 {
            all.push((SHIFT_LEFT, 0, 0, 5));
            all.push((STORE, 0, 0, 0));
        }
        all.push((LOAD_X_MEMORY, 0, 0, 1));
        all.push((LOAD_BYTE_AT_X, 0, 0, place));
        // `a` to `z` are 0 to 25, `2` to `7` are 26 to 31.
        all.push((JUMP_IF_AT_LEAST, 0, 2, b'a'.into()));
        all.push((SUBTRACT, 0, 0, b'a'.into()));
        all.push((JUMP, 0, 0, 1));
        all.push((SUBTRACT, 0, 0, u32::from(b'2') - 26));
        if turn > 0 {
            all.push((A_TO_X, 0, 0, 0));
            all.push((LOAD_MEMORY, 0, 0, 0));
            all.push((OR_X, 0, 0, 0));
        }
    }
    all.push((AND, 0, 0, 0xffff));
    all.push((MODULO, 0, 0, shards.max(1) as u32));
    all.push((RETURN_A, 0, 0, 0));
    all
}

#[cfg(test)]
mod tests {
    use sip::id::{BindingId, ShardTag};

    use super::*;

    /// What the system does with the program (see bpf(4) for the machine); a load beyond the datagram returns 0.
    fn run(program: &[(u16, u8, u8, u32)], datagram: &[u8]) -> u32 {
        let (mut a, mut x, mut memory, mut at) = (0_u32, 0_u32, [0_u32; 2], 0);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LOAD_WORD => match datagram.first_chunk::<4>() {
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
                SUBTRACT => a = a.wrapping_sub(k),
                AND => a &= k,
                SHIFT_LEFT => a <<= k,
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
            let program = program(shards);
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
    fn what_names_no_binding_is_left_to_the_system() {
        let program = program(4);
        for datagram in [
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
            "INVITE sip:alice@example.com:5070;transport=udp;some=more SIP/2.0\r\n",
            "REGISTER sip:baaaaaaaaaaaaaaaaaaaaaaaaaa@example.com SIP/2.0\r\n",
            "INVITE sip:baaaaaaaaaaaaaaaaaaaaaaaaaaa@example.com SIP/2.0\r\n",
            "INVITE tel:baaaaaaaaaaaaaaaaaaaaaaaaaa-example.com SIP/2.0\r\n",
        ] {
            assert_eq!(run(&program, datagram.as_bytes()), ANY, "{datagram}");
        }
        for short in ["", "\r\n", "INVITE", "INVITE sip:b"] {
            assert_eq!(run(&program, short.as_bytes()), 0, "{short}");
        }
    }
}

#!/usr/bin/env bash
# Stands in for cargo where pages are pasted: what it would build is built. It knows the lines of the pages, and no other.
set -euo pipefail
# What the pages' relays are told by the environment is not for a relay of the tests.
unset "${!SIPWAKE_@}"
case "$*" in
"build --release" | "build --release --bin sipwake") ;;
"run --bin demo") exec @DEMO@ ;;
"run --release --bin load"*)
    shift 4
    if [ "${1:-}" = -- ]; then shift; fi
    # With --help it looks at the options before it, and does not measure.
    exec @LOAD@ "$@" --help >/dev/null
    ;;
bench) ;;
"bench --bench "*)
    ls @ROOT@/*/benches/"$3.rs" >/dev/null
    ;;
"test "*)
    # The last word is a test's name, a suite's or a crate's.
    name="${*: -1}"
    grep -rqs --include='*.rs' "fn $name" @ROOT@/sip @ROOT@/relay/src @ROOT@/tests/tests && exit
    [ -e "@ROOT@/tests/tests/$name" ] || [ -e "@ROOT@/tests/tests/$name.rs" ] || [ -d "@ROOT@/$name" ]
    ;;
*)
    echo "cargo $*: the stand-in for cargo does not know this" >&2
    exit 1
    ;;
esac

//! Days of registrations, calls and faults in virtual time, against the oracle of [`tests::simulation`].
//!
//! Size and seed come from the environment: `SIPWAKE_SIM_INSTANCES`, `SIPWAKE_SIM_DAYS`, `SIPWAKE_SIM_SEED`,
//! `SIPWAKE_SIM_SHARDS`, and `SIPWAKE_SIM_WORLDS`: the instances are shared out to so many relays, each with SIP servers of
//! its own and the next seed, which run side by side. The full run is
//! `SIPWAKE_SIM_INSTANCES=1000 SIPWAKE_SIM_DAYS=6 cargo test --release -p tests --test simulation`; with
//! `SIPWAKE_SIM_WATCH` the story of one slot is told on stderr.
//!
//! The nodes have a simulation of their own, of whole relays over one store ([`nodes`]): `SIPWAKE_SIM_NODES_SECONDS` (virtual seconds of faults),
//! `SIPWAKE_SIM_NODES_SEED`, `SIPWAKE_SIM_NODES_SEEDS` (so many, one after the other), `SIPWAKE_SIM_NODES_WATCH` (with `RUST_LOG` also what the nodes log). A
//! long run is `SIPWAKE_SIM_NODES_SECONDS=3600 SIPWAKE_SIM_NODES_SEEDS=10 cargo test --release -p tests --test simulation nodes`.

mod nodes;

use std::time::Duration;

use nodes::Break;
use tests::simulation::{Plan, Report, run};

fn told(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn plan(seed: u64, shards: usize) -> Plan {
    Plan {
        instances: told("SIPWAKE_SIM_INSTANCES").unwrap_or(100) as usize,
        hours: told("SIPWAKE_SIM_DAYS").unwrap_or(1) * 24,
        seed: told("SIPWAKE_SIM_SEED").unwrap_or(seed),
        shards: told("SIPWAKE_SIM_SHARDS").map_or(shards, |shards| shards as usize),
        watch: told("SIPWAKE_SIM_WATCH").map(|slot| slot as usize),
    }
}

/// Runs a plan; what is wrong is told with all that repeats it.
fn holds(plan: Plan) -> Report {
    let Plan { instances, hours, seed, shards, .. } = plan;
    let report = run(plan);
    assert!(
        report.wrongs.is_empty(),
        "{}\nSIPWAKE_SIM_INSTANCES={instances} SIPWAKE_SIM_DAYS={} SIPWAKE_SIM_SEED={seed} SIPWAKE_SIM_SHARDS={shards} SIPWAKE_SIM_WORLDS=1 repeats it",
        report.wrongs.join("\n"),
        hours / 24,
    );
    report
}

/// The reports of as many relays as are asked for, in the order of their seeds.
fn worlds(plan: &Plan) -> Vec<Report> {
    let worlds = told("SIPWAKE_SIM_WORLDS").unwrap_or(2).max(1) as usize;
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..worlds)
            .map(|world| {
                let instances = plan.instances / worlds + usize::from(world < plan.instances % worlds);
                let plan = Plan { instances, seed: plan.seed + world as u64, ..plan.clone() };
                scope.spawn(|| holds(plan))
            })
            .collect();
        running.into_iter().map(|world| world.join().unwrap_or_else(|wrong| std::panic::resume_unwind(wrong))).collect()
    })
}

#[test]
fn no_call_is_lost_that_a_phone_could_have_answered_through_days_of_faults() {
    let plan = plan(1, 3);
    let (instances, hours) = (plan.instances as u64, plan.hours);
    let began = std::time::Instant::now();
    let reports = worlds(&plan);
    println!("{reports:#?}\nin {:?}", began.elapsed());
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    let connected = sum(|report| report.connected);
    assert_eq!(sum(|report| report.answerable), connected + sum(|report| report.too_late));
    // What is looked at happened: the oracle of an empty world is always content.
    assert!(connected >= instances * hours / 24, "too few calls were answered to tell anything");
    for (what, count) in [
        ("pushes lost", sum(|report| report.pushes_lost)),
        ("registrations tried again", sum(|report| report.retried)),
        ("calls of second phones", sum(|report| report.seconds_connected)),
        ("BYEs", sum(|report| report.byes)),
        ("bindings swept", sum(|report| report.swept)),
    ] {
        assert!(count > 0, "no {what}");
    }
    let seen = |final_answer: usize| reports.iter().any(|report| report.finals[final_answer] > 0);
    assert!((0..6).all(seen), "each way for a call to end was seen");
}

#[test]
fn the_same_seed_gives_the_same_outputs_to_the_byte_and_the_microsecond() {
    let plan = |seed, shards| Plan { instances: 24, hours: 3, seed, shards, watch: None };
    for shards in [1, 3] {
        assert_eq!(holds(plan(7, shards)), holds(plan(7, shards)));
    }
    assert_ne!(holds(plan(7, 1)).trace, holds(plan(8, 1)).trace);
}

#[test]
fn three_nodes_over_one_store_lose_no_call_push_none_twice_and_bring_back_nothing_that_was_receipted() {
    // A device joins the others of its account at another node, whose REGISTER takes the earlier Contact away: without that the call's branch to
    // it is pushed a second time, 3.5 s later, by the node that has started again.
    // 18, 84: a call's branch to a node that was cut off from the SIP server comes there when it has taken a device over for which the
    // leaver has pushed it before, or while it left.
    nodes_hold(&[3, 18, 84], 40, None, false);
}

#[test]
fn a_store_that_comes_back_empty_or_with_older_data_costs_no_call_and_brings_back_nothing_that_was_receipted() {
    // 30: what another node has taken over is the earlier one's in the older data.
    nodes_hold(&[13, 30], 60, Some(Duration::from_secs(18)), false);
}

#[test]
fn three_nodes_lose_no_call_of_apps_that_ask_once_more() {
    // 117: one of two devices of an account is wiped by another node, with the Contact of both, while their own node has no lease.
    nodes_hold(&[117], 150, None, true);
}

#[test]
fn a_store_that_loses_data_costs_no_call_of_apps_that_ask_once_more() {
    nodes_hold(&[330], 80, Some(Duration::from_secs(18)), true);
}

#[test]
fn accounts_of_a_node_that_is_cut_off_from_the_sip_server_for_long_are_called_at_the_other_nodes() {
    let seed = told("SIPWAKE_SIM_NODES_SEED").unwrap_or(5);
    let watch = told("SIPWAKE_SIM_NODES_WATCH").is_some();
    let plan = nodes::Plan { accounts: 6, seconds: 0, seed, loses_after: None, ask_again: false, breaks: None, watch };
    let report = nodes::run_cut_off_from_sip_server(plan);
    assert!(report.wrongs.is_empty(), "{}\nSIPWAKE_SIM_NODES_SEED={seed} repeats it", report.wrongs.join("\n"));
    assert!(report.pushes > 0, "{report:?}");
}

/// Runs whole nodes; what is wrong is told with all that repeats it.
fn nodes_hold(seeds: &[u64], seconds: u64, loses_after: Option<Duration>, ask_again: bool) {
    let seconds = told("SIPWAKE_SIM_NODES_SECONDS").unwrap_or(seconds);
    let seeds: Vec<u64> = match (told("SIPWAKE_SIM_NODES_SEED"), told("SIPWAKE_SIM_NODES_SEEDS")) {
        (None, None) => seeds.to_vec(),
        (first, count) => (first.unwrap_or(seeds[0])..).take(count.unwrap_or(1) as usize).collect(),
    };
    let mut owed = 0;
    for seed in seeds {
        let watch = told("SIPWAKE_SIM_NODES_WATCH").is_some();
        if watch {
            // Another test may have done so.
            let _ = tracing_subscriber::fmt()
                .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
                .with_writer(std::io::stderr)
                .try_init();
        }
        let began = std::time::Instant::now();
        let report =
            nodes::run(nodes::Plan { accounts: 12, seconds, seed, loses_after, ask_again, breaks: None, watch });
        println!("seed {seed}, {:?}: {report:#?}", began.elapsed());
        assert!(
            report.wrongs.is_empty(),
            "{}\nSIPWAKE_SIM_NODES_SEED={seed} SIPWAKE_SIM_NODES_SEEDS=1 SIPWAKE_SIM_NODES_SECONDS={seconds} repeats the order of happenings",
            report.wrongs.join("\n")
        );
        assert!(
            report.missed > 0
                && report.calls > 0
                && report.pushes > 0
                && report.enabled > 0
                && !report.faults.is_empty(),
            "{report:?}"
        );
        let losses = report.faults.keys().filter(|kind| kind.starts_with("the store")).count();
        assert_eq!(losses > 0, loses_after.is_some(), "{report:?}");
        owed += report.owed;
    }
    assert!(owed > 0, "no call was placed that had to ring");
}

#[test]
fn the_oracle_sees_when_leases_claims_or_tombstones_do_not_work() {
    let long = Duration::from_secs(16);
    let plans = [
        // Until two nodes have one Contact each, and both push, takes a while: each takes away those of the nodes that it takes for dead. Before that one may
        // go on with what the other one has ended: whichever comes first.
        (Break::LeasesUnseen, 220, None, &["by nodes and at", "receipted"][..]),
        (Break::NothingTaken, 50, None, &["never rang"]),
        (Break::TombstonesLost, 40, Some(long), &["receipted"]),
    ];
    std::thread::scope(|scope| {
        for (breaks, seconds, loses_after, seen) in plans {
            scope.spawn(move || {
                // Not every order of happenings meets what is broken.
                let mut tried = (1..9).map(|seed| {
                    nodes::run(nodes::Plan {
                        accounts: 12,
                        seconds,
                        seed,
                        loses_after,
                        ask_again: false,
                        breaks: Some(breaks),
                        watch: false,
                    })
                });
                let mut others = Vec::new();
                let is_seen = |report: &nodes::Report| {
                    let is_it = report.wrongs.iter().any(|wrong| seen.iter().any(|sign| wrong.contains(sign)));
                    others.extend(report.wrongs.iter().filter(|_| !is_it).cloned());
                    is_it
                };
                let caught = tried.find(is_seen);
                println!("{breaks:?}: {:?}", caught.as_ref().map(|report| &report.wrongs));
                assert!(caught.is_some(), "{breaks:?} was not seen, but {others:?}");
            });
        }
    });
}

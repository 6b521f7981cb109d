//! The load generator on a small scale: all its phases, each kind of call, on the relay's own binary.
//!
//! Invariant: asserts what must hold at any speed; figures are not judged here.

use std::process::Command;

use clap::Parser as _;
use serde_json::json;
use tests::load::faults::{self, Arguments};
use tests::load::plan::{Plan, Rival};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_load_run_comes_to_its_end_and_every_call_is_pushed_once_and_answered() {
    let arguments = "load --instances 40 --rate 10 --seconds 2 --answer --attach 20 --push both --transport tls";
    let report = tests::load::run(Plan::parse_from(arguments.split(' '))).await.unwrap_or_else(|why| panic!("{why}"));
    let (sleeping, attached) = (&report.calling.outcome, &report.attached.as_ref().unwrap().calling.outcome);
    assert_eq!((sleeping.calls, sleeping.pushed, sleeping.pushed_twice), (20, 20, 0));
    assert_eq!(sleeping.statuses, [(200, 20)].into());
    assert_eq!((sleeping.invite_to_push.count, sleeping.invite_to_device.count), (20, 20));
    assert_eq!(attached.statuses, [(200, 20)].into());
    assert_eq!(attached.pushed, 0, "a device that is there is not pushed");
    assert!(report.enabling.per_second > 0.0 && report.enabling.cpu_us > 0.0);
    let (text, json) = (report.to_string(), report.to_json());
    assert!(text.contains("INVITE → push") && text.contains("THE LIMIT"), "{text}");
    assert!(json["calling"]["outcome"]["invite_to_push"]["p99_us"].is_number(), "{json:#}");
    assert!(json["limits"].is_array());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_starts_over_seeded_records_registers_them_all_and_loses_no_call_meanwhile() {
    let arguments = "load --instances 600 --seeded --pace 300 --rate 20 --seconds 1";
    let report = tests::load::run(Plan::parse_from(arguments.split(' '))).await.unwrap_or_else(|why| panic!("{why}"));
    let restarted = report.restarted.as_ref().unwrap();
    let calls = &restarted.outcome;
    assert_eq!(restarted.instances, 540);
    assert!(restarted.opened_s < restarted.registered_s, "{restarted:?}");
    assert!(calls.calls >= 20 && calls.pushed == calls.calls && calls.pushed_twice == 0, "{calls:?}");
    assert_eq!(report.enabling.enabled, 30);
    assert!(report.to_string().contains("RESTART"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_run_over_three_nodes_sees_every_instance_move_twice() {
    let arguments = "load --instances 30 --nodes 3 --seconds 8";
    let mut plan = Plan::parse_from(arguments.split(' '));
    plan.settle();
    let report = tests::load::nodes::run(&plan).await.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(report.killed.instances, 10);
    assert!(report.handed_over.instances >= 10, "its own, and its share of the dead one's");
    let calls = &report.handed_over.calls;
    assert!(calls.calls > 0 && calls.pushed == calls.calls && calls.pushed_twice == 0, "{calls:?}");
    assert!(report.to_string().contains("SIGTERM") && report.to_json()["killed"]["all_ms"].is_number());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_calls_reach_a_kamailio_that_the_load_generator_starts() {
    let arguments = "load --instances 40 --rate 10 --seconds 2 --attach 10 --answer --against kamailio";
    let plan = Plan::parse_from(arguments.split(' '));
    let found = tests::load::against::run(&plan, Rival::Kamailio).await.unwrap_or_else(|why| panic!("{why}"));
    let (woken, attached) = (&found.woken.as_ref().unwrap().outcome, &found.attached.as_ref().unwrap().outcome);
    assert_eq!((woken.calls, woken.pushed, woken.pushed_twice), (20, 20, 0));
    assert_eq!((woken.statuses.clone(), attached.pushed), ([(200, 20)].into(), 0));
    assert!(found.to_string().contains("INVITE → push"), "{found}");
}

#[test]
fn the_floor_pushes_every_call_once_and_ends_it_when_it_is_cancelled() {
    for floor in ["floor", "floor-tls"] {
        let arguments = format!("--instances 40 --rate 10 --seconds 2 --json --against {floor}");
        let run = Command::new(env!("CARGO_BIN_EXE_load")).args(arguments.split(' ')).output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&run.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&run.stderr)));
        let calls = &said["cancelled"]["outcome"];
        assert_eq!(
            (&calls["calls"], &calls["pushed"], &calls["pushed_twice"]),
            (&json!(20), &json!(20), &json!(0)),
            "{said:#}"
        );
        assert_eq!((&calls["statuses"], &said["woken"]), (&json!({ "487": 20 }), &json!(null)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_table_of_faults_counts_the_calls_of_the_app_that_has_them_and_those_of_the_others() {
    let arguments = Arguments::parse_from("faults apns-500-sticks webpush-well --calls 5".split(' '));
    let meant = arguments.faults().unwrap();
    let mut told = 0;
    let table = faults::run(&arguments, &meant, |_| told += 1).await;
    assert!(table.failed.is_empty() && told == 2, "{table}");
    for row in &table.rows {
        let (own, others) = (&row.own, &row.others);
        assert_eq!((own.calls, own.pushed, own.pushed_twice, own.rung), (5, 5, 0, 5), "{table}");
        assert_eq!((others.calls, others.pushed, others.pushed_twice, others.rung), (25, 25, 0, 25), "{table}");
        assert_eq!((row.late_pushes, row.objections.len()), (0, 0), "{table}");
    }
    let [web, apns] = &table.rows[..] else { panic!("{table}") };
    assert_eq!((web.requests, web.connections), (5, 1), "{table}");
    assert!(apns.requests > 5 && apns.connections > 1, "what was answered 500 went over a fresh connection: {table}");
    assert!(Arguments::parse_from(["faults", "no-such-fault"]).faults().is_err());
}

//! Each family of metrics is moved by a test, which this table names.
//!
//! Invariant: a family that is not here fails, and so does a test that is not there or does not speak of its family.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use relay::metrics::Metric;

/// A family, and the test that moves it.
const MOVED_BY: &[(&str, &str)] = &[
    ("sipwake_instances", "five_hundred_that_are_registered_read_five_hundred"),
    ("sipwake_registrations_waiting", "a_restart_asks_the_sip_server_no_faster_than_the_operator_says"),
    ("sipwake_registrations_total", "five_hundred_that_are_registered_read_five_hundred"),
    ("sipwake_invites_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_pushes_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_push_retries_total", "each_family_moves_with_what_it_counts"),
    (
        "sipwake_push_tokens_doubted_total",
        "when_apns_calls_every_token_bad_nobody_is_wiped_and_the_operator_hears_of_it",
    ),
    ("sipwake_push_resends_total", "an_android_phone_that_gives_no_sign_is_pushed_once_more_with_the_same_push"),
    ("sipwake_app_pushes_total", "a_push_service_that_fails_is_named_everywhere_and_takes_no_relay_out_of_service"),
    ("sipwake_push_service_up", "a_push_service_that_fails_is_named_everywhere_and_takes_no_relay_out_of_service"),
    ("sipwake_push_service_waiting", "each_family_moves_with_what_it_counts"),
    ("sipwake_push_service_last_accepted_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_call_pushes_unsent_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_push_duration_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_invite_to_push_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_wake_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_wipes_total", "disabling_while_a_call_waits_ends_the_call_and_wipes_all"),
    ("sipwake_messages_total", "a_message_to_a_sleeping_phone_is_202_pushed_fetched_and_deleted"),
    ("sipwake_missed_calls_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_call_stories_total", "a_call_is_told_from_its_invite_to_its_end_and_a_missed_one_says_why"),
    ("sipwake_traces_total", "over"),
    (
        "sipwake_canary_rounds_total",
        "a_canary_rings_end_to_end_through_a_server_that_asks_its_callers_and_tells_the_step_that_fails",
    ),
    (
        "sipwake_canary_last_round_seconds",
        "a_canary_rings_end_to_end_through_a_server_that_asks_its_callers_and_tells_the_step_that_fails",
    ),
    (
        "sipwake_canary_last_success_seconds",
        "a_canary_rings_end_to_end_through_a_server_that_asks_its_callers_and_tells_the_step_that_fails",
    ),
    (
        "sipwake_canary_seconds",
        "a_canary_rings_end_to_end_through_a_server_that_asks_its_callers_and_tells_the_step_that_fails",
    ),
    ("sipwake_log_lines_dropped_total", "lines_that_are_lost_are_counted_in_sipwake_log_lines_dropped_total"),
    ("sipwake_mwi_notifies_total", "counts_are_pushed_when_they_change_and_shown"),
    ("sipwake_calls_waiting", "three_devices_share_one_contact_and_the_first_that_answers_has_the_call"),
    ("sipwake_sip_refused_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_limits_total", "one_caller_causes_so_many_pushes_of_a_device_in_a_minute_and_another_still_gets_through"),
    ("sipwake_push_registrations", "a_registration_that_passed_through_is_seen_and_wiped_like_any_other"),
    (
        "sipwake_push_registrations_ended_total",
        "what_becomes_of_registers_that_pass_and_of_what_they_register_is_counted",
    ),
    ("sipwake_push_registrations_failing", "what_becomes_of_registers_that_pass_and_of_what_they_register_is_counted"),
    ("sipwake_push_registrations_lost", "a_registration_that_nobody_refreshes_is_forgotten_at_its_end"),
    ("sipwake_passed_registers_total", "what_becomes_of_registers_that_pass_and_of_what_they_register_is_counted"),
    ("sipwake_flow_registrations", "without_push"),
    ("sipwake_instances_given_total", "accounts_go_to_the_node_that_reaches_their_sip_server_and_a_call_rings_there"),
    ("sipwake_edge_flows", "each_family_moves_with_what_it_counts"),
    ("sipwake_edge_registers_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_upstream_flows", "a_relay_that_was_killed_is_found_again_by_kamailios_path"),
    ("sipwake_connections", "each_family_moves_with_what_it_counts"),
    ("sipwake_tls_handshakes_total", "each_family_moves_with_what_it_counts"),
    ("sipwake_store_up", "a_store_that_answers_is_timed_and_one_that_does_not_is_counted_by_what_it_was_asked"),
    (
        "sipwake_store_duration_seconds",
        "a_store_that_answers_is_timed_and_one_that_does_not_is_counted_by_what_it_was_asked",
    ),
    (
        "sipwake_store_errors_total",
        "a_store_that_answers_is_timed_and_one_that_does_not_is_counted_by_what_it_was_asked",
    ),
    ("sipwake_http_requests_total", "five_hundred_that_are_registered_read_five_hundred"),
    ("sipwake_http_duration_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_certificate_expiry_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_certificate_lifetime_seconds", "each_family_moves_with_what_it_counts"),
    (
        "sipwake_certificate_orders_total",
        "a_certificate_is_ordered_at_the_https_listener_told_of_until_it_comes_and_renewed_without_a_restart",
    ),
    ("sipwake_warnings", "a_keyring_whose_file_is_gone_and_an_audit_file_that_was_taken_away_are_told"),
    ("sipwake_ready", "each_family_moves_with_what_it_counts"),
    ("process_resident_memory_bytes", "each_family_moves_with_what_it_counts"),
    ("process_virtual_memory_bytes", "each_family_moves_with_what_it_counts"),
    ("process_cpu_seconds_total", "each_family_moves_with_what_it_counts"),
    ("process_open_fds", "each_family_moves_with_what_it_counts"),
    ("process_max_fds", "each_family_moves_with_what_it_counts"),
    ("process_start_time_seconds", "each_family_moves_with_what_it_counts"),
    ("sipwake_build_info", "each_family_moves_with_what_it_counts"),
];

#[test]
fn each_family_of_metrics_is_moved_by_a_test_that_is_there() {
    let functions = functions();
    let mut wrong = Vec::new();
    for (family, test) in MOVED_BY {
        match functions.get(*test) {
            None => wrong.push(format!("{family}: there is no test {test}")),
            Some(text) if !text.contains(family) => wrong.push(format!("{family}: {test} does not speak of it")),
            Some(_) => {}
        }
        if !Metric::ALL.iter().any(|metric| metric.name() == *family) {
            wrong.push(format!("{family}: there is no such family"));
        }
    }
    let missing = Metric::ALL.iter().map(|metric| metric.name());
    let missing = missing.filter(|name| !MOVED_BY.iter().any(|(family, _)| family == name));
    wrong.extend(missing.map(|name| format!("{name}: no test is named that moves it")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text of each function of the tests, by its name.
fn functions() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")) {
        let text = fs::read_to_string(&file).expect("a source file");
        let shared: String =
            text.lines().filter(|line| line.starts_with("const ")).map(|line| format!("{line}\n")).collect();
        for rest in text.split("\nasync fn ").chain(text.split("\nfn ")).skip(1) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let body = rest.split("\n}\n").next().unwrap_or_default();
            found.insert(rest[..end].to_owned(), format!("{body}{shared}"));
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

//! The banner: how the relay stands, in one sentence, and what to do next.
//!
//! | state | when |
//! | --- | --- |
//! | bad | no call can be served; a canary's round of the last hour failed; a push service fails, or took none of at least three pushes in 5 min that it did not refuse; the certificate has ended |
//! | warn | the store is away; the relay drains; a push service refused all pushes, took none of fewer, or failed three times in 5 min; no phone of any is reachable; more than half of the phones, or one in five and at least five, have no registration now; more registrations failed than not in 5 min; of the phones that register through the relay more than one in five, and at least three, are lost in an hour, or all are and at least three of them within a day, or more than half, or one in five and at least five, have failed to refresh, and at least three; more than half of the calls, and at least three, were refused by the phones' SIP stacks in 5 min; registrations wait for their turn, and some did all the last 5 min; the certificate ends soon; a canary is silent for an hour; anything that `/readyz` warns of |
//! | good | else; a phone without a registration is told all the same |
//!
//! Invariant: it is never good while every push of a service fails, and never says that nothing is to be done while a phone is tried again.

use std::fmt::Write;

use super::PageData;
use super::attention::SPANS;
use super::html::{Escaped, count, span, time};
use super::{phones, service_name};
use crate::clock::advertised_now;
use crate::domain::Word as _;
use crate::metrics::Metric;
use crate::metrics::reading::Reading;
use crate::net::tls::ends_soon;
use crate::operator::readiness::{Check, SHUTTING_DOWN, Standing};
use crate::push;

/// Fewer failures than these say nothing about a service.
const SOME: f64 = 3.0;
/// So many phones without a registration are told when they are one in five, as by the alert PhonesRetry.
const PHONES: f64 = 5.0;
/// A canary that has told nothing for so long is silent, as by the alert CanaryIsSilent.
const CANARY_SILENT_S: u64 = 3_600;

/// The next step where phones that register through the relay are lost.
const LOST_NEXT: &str = "look whether their SIP server refuses this relay's address, and whether refresh pushes leave: docs/runbooks.md, PassedPhonesLost";

/// How it stands, worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Good,
    Warn,
    Bad,
}

/// Something to say: how bad, what, and the next step.
pub(super) struct Word {
    pub(super) state: State,
    pub(super) what: String,
    pub(super) next: String,
}

/// All there is to say, worst first.
pub(super) fn words(look: &PageData<'_>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut say = |state, what: String, next: &str| words.push(Word { state, what, next: next.to_owned() });
    readiness(look, &mut say);
    for report in &look.services {
        push_service(look, report, &mut say);
    }
    canaries(look, &mut say);
    registrations(look, &mut say);
    passed_registrations(look, &mut say);
    refused_calls(look, &mut say);
    pace(look, &mut say);
    certificate(look, &mut say);
    for warning in look.readiness.warnings() {
        say(State::Warn, warning.into(), "");
    }
    words.sort_by_key(|word| std::cmp::Reverse(word.state));
    words
}

/// The checks that fail, and the end of the process.
fn readiness(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let checks = look.readiness.checks();
    let failing = || checks.iter().filter_map(|(check, state)| Some((*check, state.err()?)));
    match look.readiness.standing() {
        Standing::Ready => {}
        Standing::Degraded => {
            if let Some((_, why)) = failing().find(|(check, _)| *check == Check::Store) {
                say(
                    State::Warn,
                    format!(
                        "The store is away ({why}): known phones still ring, enabling and changes are answered 503"
                    ),
                    "look at Redis and the way to it; the relay goes on by itself when it answers",
                );
            }
        }
        Standing::NotReady => {
            let drains = |(check, why): &(Check, &str)| *check == Check::Serving && *why == SHUTTING_DOWN;
            let reasons: Vec<_> =
                failing().filter(|one| !drains(one)).map(|(check, why)| format!("{}: {why}", check.name())).collect();
            if failing().any(|one| drains(&one)) {
                say(
                    State::Warn,
                    "The relay drains and ends, as it was told to: calls that wait are served, other nodes take its phones over".into(),
                    "nothing, where another node runs; a node that is alone serves calls again once it is started",
                );
            }
            if !reasons.is_empty() {
                say(
                    State::Bad,
                    format!("Not ready: {}", reasons.join("; ")),
                    "mend this first: some or all calls fail before; the log tells more",
                );
            }
        }
    }
}

/// The canaries whose last round failed, and those that tell nothing any more: of these nobody knows whether calls fail.
fn canaries(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    for (app, round) in &look.canaries {
        let silent_s = advertised_now().saturating_sub(round.at);
        if silent_s > CANARY_SILENT_S {
            say(
                State::Warn,
                format!("The canary of {app} has told nothing for {}", span(silent_s as f64)),
                "see that it runs and reaches this listener; one that was taken away is forgotten with a restart",
            );
        } else if let Some((step, why)) = &round.failed {
            let last = round.last_whole.map_or("since the start".to_owned(), |last| format!("since {}", time(last)));
            say(
                State::Bad,
                format!(
                    "The canary of {app} failed at {} at its step {}: {why}; none was whole {last}",
                    time(round.at),
                    step.word()
                ),
                "the step says where a call stops: docs/runbooks.md, CanaryFails",
            );
        }
    }
}

/// Registrations that have waited for their turn all the time.
fn pace(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let waiting = |reading: &Reading| reading.value(Metric::RegistrationsWaiting, &[]);
    let wait_now = waiting(&look.reading);
    if wait_now > 0.0 && look.history.held(look.at, SPANS[0], |reading| waiting(reading) > 0.0) {
        say(
            State::Warn,
            format!("{} registrations wait for their turn, and some did all the last 5 min", count(wait_now)),
            "the pace is too low for so many (upstream.registrations_per_second): docs/runbooks.md, RegistrationsWait",
        );
    }
}

/// The certificate that has ended, or ends soon.
fn certificate(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let left_s = look.reading.value(Metric::CertificateExpiry, &[]);
    let life_s = look.reading.value(Metric::CertificateLifetime, &[]);
    if left_s < 0.0 {
        say(
            State::Bad,
            format!("The certificate ended {} ago", span(-left_s)),
            "renew it: no phone and no app connects; new files are taken within 5 s",
        );
    } else if left_s > 0.0 && ends_soon(left_s as u64, life_s as u64) {
        say(
            State::Warn,
            format!("The certificate ends in {}", span(left_s)),
            "renew it; new files are taken within 5 s",
        );
    }
}

/// Whether so many phones of all are worth a word.
fn are_many(some: f64, all: f64) -> bool {
    some * 2.0 > all || (some >= PHONES && some * 5.0 > all)
}

/// The phones that no call reaches now; else, how registrations went lately.
fn registrations(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let retrying = look.reading.value(Metric::Instances, &[("state", "retrying")]);
    let (reached, all) = phones(&look.reading);
    // One whose first registration is under way counts once it has been for long.
    let missing = all - reached;
    let is_lasting = || {
        look.history.held(look.at, SPANS[0], |reading| {
            let (reached, all) = phones(reading);
            are_many(all - reached, all)
        })
    };
    let ever = |outcome| look.reading.value(Metric::Registrations, &[("outcome", outcome)]);
    let has = |some: f64| if some == 1.0 { "has" } else { "have" };
    let without = |some| {
        format!(
            "{} of {} phones {} no registration now: a call does not arrive there",
            count(some),
            count(all),
            has(some)
        )
    };
    let lately = |outcomes: &[&'static str]| -> f64 {
        outcomes.iter().map(|outcome| look.lately(Metric::Registrations, "outcome", outcome)).sum()
    };
    let failed = lately(&["refused", "failed", "timed-out", "unreachable"]);
    let tried = failed + lately(&["registered", "refreshed"]);
    if reached == 0.0 && all >= 1.0 {
        let none = if all == 1.0 {
            "The only phone is not reachable".to_owned()
        } else {
            format!("None of {} phones is reachable", count(all))
        };
        if ever("registered") + ever("refreshed") > 0.0 {
            let next = "a SIP server is away or refuses the relay: sipwake doctor --aor tells why";
            say(State::Warn, format!("{none}: no registration stands any more"), next);
        } else {
            let next = "wait a minute behind a start; else a SIP server is away or refuses the relay: sipwake doctor --aor tells why";
            say(State::Warn, format!("{none}: no SIP server has accepted a registration yet"), next);
        }
    } else if are_many(retrying, all) {
        let next = "sipwake instances list --state retrying names them, sipwake doctor --aor tells why";
        say(State::Warn, without(retrying), next);
    } else if are_many(missing, all) && is_lasting() {
        let next =
            "sipwake instances list names them, sipwake doctor --aor tells why; docs/runbooks.md, RegistrationsWait";
        say(State::Warn, without(missing), next);
    } else if failed >= SOME && failed * 2.0 > tried {
        let what = format!("{} of {} registrations failed in 5 min", count(failed), count(tried));
        say(State::Warn, what, "a SIP server is away or refuses the relay: sipwake doctor --aor tells why");
    } else if retrying > 0.0 {
        let next = "nothing, if it is soon over; sipwake instances list --state retrying names them";
        say(State::Good, without(retrying), next);
    }
}

/// The calls that the phones' SIP stacks refuse.
fn refused_calls(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let lately = |outcome| look.lately(Metric::Invites, "outcome", outcome);
    let refused = lately("refused-by-device");
    let others = ["answered", "cancelled", "answered-elsewhere", "declined", "timed-out", "unreachable"];
    let all = refused + others.map(lately).iter().sum::<f64>();
    if refused >= SOME && refused * 2.0 > all {
        let what = format!(
            "{} of {} calls in 5 min did not ring: the SIP stack of the phone refused them",
            count(refused),
            count(all)
        );
        let next = "sipwake calls --outcome missed names the status; look at the app's last version";
        say(State::Warn, what, next);
    }
}

/// The phones that register through the relay (RFC 8599): those that are lost, and the refreshes that fail.
fn passed_registrations(look: &PageData<'_>, say: &mut impl FnMut(State, String, &str)) {
    let standing = look.reading.value(Metric::PushRegistrations, &[]);
    // Those that are back do not count.
    let lost = |within| look.reading.value(Metric::PushRegistrationsLost, &[("within", within)]);
    let (missing, of_a_day) = (lost("hour"), lost("day"));
    if missing >= SOME && missing * 5.0 > missing + standing {
        let what = format!(
            "{} phones that register through this relay lost their registration within an hour, {} have one: a call \
             does not arrive at those",
            count(missing),
            count(standing)
        );
        say(State::Warn, what, LOST_NEXT);
    } else if standing == 0.0 && of_a_day >= SOME {
        let what = format!(
            "No phone is registered through this relay any more: {} lost their registration within a day, and are not back",
            count(of_a_day)
        );
        say(State::Warn, what, LOST_NEXT);
    }
    let failing = look.reading.value(Metric::PushRegistrationsFailing, &[]);
    if failing >= SOME && are_many(failing, standing) {
        let what = format!(
            "The last refresh of {} of {} phones that register through this relay failed: calls reach them until \
             their grants end",
            count(failing),
            count(standing)
        );
        let next = "a SIP server is away or refuses this relay or its accounts: docs/runbooks.md, PassedRegistersFail";
        say(State::Warn, what, next);
    }
}

fn push_service(look: &PageData<'_>, report: &push::Report, say: &mut impl FnMut(State, String, &str)) {
    let of = |outcome: &'static str| {
        let labels = [("provider", report.service), ("app", &*report.app), ("outcome", outcome)];
        let now = look.reading.value(Metric::AppPushes, &labels);
        (now - look.before(SPANS[0], Metric::AppPushes, &labels)).max(0.0)
    };
    let (accepted, refused, late) = (of("accepted"), of("refused"), of("too-late"));
    let bad = of("failed") + refused + late;
    let all = bad + accepted + of("gone");
    let who = format!("{} for {}", service_name(report.service), report.app);
    let figures = format!("{} of {} pushes failed in 5 min", count(bad), count(all));
    match (&report.reason, report.state) {
        (Some((reason, why)), _) => {
            let since = format!("failing since {}", time(report.since));
            let what = if bad > 0.0 { format!("{figures}, {since}") } else { since };
            say(State::Bad, format!("{who}: {what}: {why} [{reason}]"), step(reason, why));
        }
        (None, _) if bad == 0.0 || (bad < SOME && accepted > 0.0) => {}
        (None, push::State::Well) if accepted > 0.0 => {
            let what = format!("{who}: {figures}; it took a push at {}", time(report.last_accepted));
            say(State::Warn, what, "see whether it stays so; the log has what went wrong");
        }
        (None, _) => {
            // A refusal that is no failure of the service concerns the tokens of those devices.
            let state = if bad - refused < SOME || accepted > 0.0 { State::Warn } else { State::Bad };
            let next = match (refused > 0.0, late > 0.0) {
                (true, _) => "look at the key and the ids of this app: sipwake check --push; the log has its reason",
                (false, true) => "look at the network to it",
                (false, false) => "look at DNS and at the network to it; the log names the cause",
            };
            say(state, format!("{who}: {figures}"), next);
        }
    }
}

/// The remedy for a service's trouble that does not name it by itself.
fn step(reason: &str, why: &str) -> &'static str {
    match reason {
        "Unreachable" if why.contains("resolve") => "look at DNS; calls are pushed as soon as the name resolves",
        "Unreachable" => "look at the firewall and the network to it; the relay tries again by itself",
        "Silent" | "Unanswered" | "ConnectionLost" | "NotInTime" => "look at the network to it and at its status page",
        "ServerError" | "AskedToWait" | "TokenEndpointAway" => {
            "look at its status page; the relay tries again by itself"
        }
        _ => "mend it in the configuration, then: sipwake check --push, sipwake reload",
    }
}

/// Writes the banner.
pub(super) fn write(page: &mut String, words: &[Word]) {
    let state = words.first().map_or(State::Good, |word| word.state);
    let (class, mark, name) = match state {
        State::Good => ("good", "●", "Ready"),
        State::Warn => ("warn", "▲", "Look at this"),
        State::Bad => ("bad", "■", "Calls fail"),
    };
    let _ = write!(
        page,
        "<div class=\"banner {class}\" role=\"status\"><strong><span aria-hidden=\"true\">{mark}</span> {name}.</strong>"
    );
    match words {
        [] => page.push_str(" A call can wake its phone. Nothing is to be done."),
        [one] => {
            let _ = write!(page, " {}.", Escaped(&one.what));
            next(page, &one.next);
        }
        many => {
            page.push_str("<ul>");
            for word in many {
                let _ = write!(page, "<li>{}.", Escaped(&word.what));
                next(page, &word.next);
                page.push_str("</li>");
            }
            page.push_str("</ul>");
        }
    }
    page.push_str("</div>");
}

fn next(page: &mut String, step: &str) {
    if !step.is_empty() {
        let _ = write!(page, " <em>Next: {}.</em>", Escaped(step));
    }
}

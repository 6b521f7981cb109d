//! Every number of the relay, in tables.
//!
//! Invariant: a zero is shown, and grey.

use std::fmt::Write;

use super::html::{Escaped, bound, count, span, time};
use super::{PageData, service_name};
use crate::domain::{CanaryStep, InstanceState, PushOutcome, WipeReason, Word as _};
use crate::metrics::Metric;
use crate::metrics::labels::{InviteOutcome, Label, RegistrationOutcome};
use crate::metrics::reading::Reading;
use crate::operator::canary::Round;
use crate::operator::readiness::{Check, Readiness};
use crate::push;

/// Writes all tables.
pub(super) fn write(page: &mut String, look: &PageData<'_>) {
    let (reading, readiness) = (&look.reading, look.readiness);
    section(page, "Readiness", readiness_rows(readiness));
    section(page, "Push instances", by_label::<InstanceState>(reading, Metric::Instances));
    section(page, "Registrations", registration_rows(reading));
    section(page, "Calls", call_rows(reading));
    section(page, "Pushes", push_rows(reading));
    if !look.services.is_empty() {
        section(page, "Push services", look.services.iter().map(service_row).collect());
    }
    if !look.canaries.is_empty() {
        section(page, "Canaries", look.canaries.iter().map(|(app, round)| canary_row(app, round)).collect());
    }
    section(page, "Wipes", by_label::<WipeReason>(reading, Metric::Wipes));
    section(page, "Devices and connections", connection_rows(reading));
    section(page, "Store", store_rows(reading));
    section(page, "This process", process_rows(reading));
}

/// One row of a table: what, how much, and whether that is good (`None`: neither).
#[derive(Clone)]
struct Row {
    what: String,
    value: String,
    good: Option<bool>,
}

impl Row {
    fn new(what: &str, value: impl Into<String>) -> Self {
        Self { what: what.to_owned(), value: value.into(), good: None }
    }
}

fn readiness_rows(readiness: &Readiness) -> Vec<Row> {
    let row = |(check, state): (Check, Result<(), &'static str>)| Row {
        what: check.name().to_owned(),
        value: state.err().unwrap_or("ok").to_owned(),
        good: Some(state.is_ok()),
    };
    readiness.checks().into_iter().map(row).collect()
}

fn by_label<L: Label>(reading: &Reading, metric: Metric) -> Vec<Row> {
    let row = |value: &L| Row::new(value.word(), count(reading.value(metric, &[(L::NAME, value.word())])));
    L::ALL.iter().map(row).collect()
}

fn registration_rows(reading: &Reading) -> Vec<Row> {
    let waiting = Row::new("waiting for their turn", count(reading.value(Metric::RegistrationsWaiting, &[])));
    [vec![waiting], by_label::<RegistrationOutcome>(reading, Metric::Registrations)].concat()
}

fn call_rows(reading: &Reading) -> Vec<Row> {
    let mut rows = vec![Row::new("waiting now", count(reading.value(Metric::CallsWaiting, &[])))];
    rows.extend(by_label::<InviteOutcome>(reading, Metric::Invites));
    rows.push(Row::new("device attached, 99 % within", bound_of(reading, Metric::Wake)));
    rows
}

fn push_rows(reading: &Reading) -> Vec<Row> {
    let mut rows = by_label::<PushOutcome>(reading, Metric::Pushes);
    rows.push(Row::new("INVITE to push, 99 % within", bound_of(reading, Metric::InviteToPush)));
    rows.push(Row::new("service's answer, 99 % within", bound_of(reading, Metric::PushDuration)));
    rows
}

fn service_row(report: &push::Report) -> Row {
    let value = match (report.state, &report.reason) {
        (push::State::Failing, Some((reason, _))) => {
            format!("fails since {} [{reason}]; {} wait", time(report.since), report.waiting)
        }
        (push::State::Unknown, _) => "not needed yet".to_owned(),
        _ if report.last_accepted == 0 => "well".to_owned(),
        _ => format!("well; last push {}", time(report.last_accepted)),
    };
    let good = match report.state {
        push::State::Unknown => None,
        state => Some(state == push::State::Well),
    };
    Row { what: format!("{} {}", service_name(report.service), report.app), value, good }
}

fn canary_row(app: &str, round: &Round) -> Row {
    let value = match &round.failed {
        Some((step, why)) => format!("failed at {}: {} ({why})", time(round.at), step.word()),
        None => {
            let after = |wanted| round.steps.iter().find(|(step, _)| *step == wanted).map_or(0, |(_, ms)| *ms);
            let (push, answer) = (after(CanaryStep::Push), after(CanaryStep::Answer));
            format!("rang at {}; pushed after {push} ms, answered after {answer} ms", time(round.at))
        }
    };
    Row { what: app.to_owned(), value, good: Some(round.failed.is_none()) }
}

fn connection_rows(reading: &Reading) -> Vec<Row> {
    vec![
        Row::new("devices attached", count(reading.value(Metric::EdgeFlows, &[]))),
        Row::new("inbound connections", count(reading.value(Metric::Connections, &[]))),
        Row::new("connections to SIP servers", count(reading.value(Metric::UpstreamFlows, &[]))),
        Row::new("SIP messages refused", count(reading.value(Metric::SipRefused, &[]))),
    ]
}

fn store_rows(reading: &Reading) -> Vec<Row> {
    let up = reading.value(Metric::StoreUp, &[]) > 0.0;
    vec![
        Row { what: "store".to_owned(), value: if up { "up" } else { "away" }.to_owned(), good: Some(up) },
        Row::new("answers, 99 % within", bound_of(reading, Metric::StoreDuration)),
        Row::new("errors", count(reading.value(Metric::StoreErrors, &[]))),
    ]
}

fn process_rows(reading: &Reading) -> Vec<Row> {
    let left_s = reading.value(Metric::CertificateExpiry, &[]);
    let (certificate, good) = match left_s {
        0.0 => ("none loaded".to_owned(), None),
        left_s if left_s < 0.0 => (format!("ended {} ago", span(-left_s)), Some(false)),
        left_s => (format!("ends in {}", span(left_s)), Some(left_s > 7.0 * 86_400.0)),
    };
    let megabytes = reading.value(Metric::ResidentMemory, &[]) / 1_048_576.0;
    vec![
        Row { what: "TLS certificate".to_owned(), value: certificate, good },
        Row::new("resident memory", format!("{megabytes:.0} MiB")),
        Row::new("HTTP requests", count(reading.value(Metric::HttpRequests, &[]))),
    ]
}

fn section(page: &mut String, title: &str, rows: Vec<Row>) {
    let _ = write!(page, "<section class=\"card\"><h3>{}</h3><table>", Escaped(title));
    for row in rows {
        let class = match row.good {
            Some(true) => " class=\"good\"",
            Some(false) => " class=\"bad\"",
            None => "",
        };
        let zero = if row.value == "0" { " class=\"zero\"" } else { "" };
        let _ = write!(
            page,
            "<tr{zero}><th scope=\"row\">{}</th><td{class}>{}</td></tr>",
            Escaped(&row.what),
            Escaped(&row.value)
        );
    }
    page.push_str("</table></section>");
}

fn bound_of(reading: &Reading, metric: Metric) -> String {
    bound(reading.within(metric, 0.99))
}

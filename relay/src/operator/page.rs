//! The status page: one look at the relay, in a browser, on a phone too.
//!
//! Invariant: built from the metrics and the readiness alone, so it can hold no secret; it loads nothing and runs
//! nothing, which its content security policy enforces.

use std::fmt::Write;

use super::readiness::Readiness;
use crate::clock;
use crate::domain::{InstanceState, PushOutcome, WipeReason};
use crate::metrics::labels::{InviteOutcome, Label, RegistrationOutcome};
use crate::metrics::reading::Reading;
use crate::metrics::{Metric, Metrics};
use crate::push;

/// The policy that the page is sent with: its own style and nothing else.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--bad:#cf222e}
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--bad:#ff7b72}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:70rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:0 0 .4rem}
main{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));margin-top:1rem}
section{border:1px solid var(--line);border-radius:.5rem;padding:.8rem}
table{border-collapse:collapse;width:100%}th{font-weight:400;text-align:left}
td{text-align:right;font-variant-numeric:tabular-nums}tr+tr>*{border-top:1px solid var(--line)}
.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}p{margin:.2rem 0}
";

/// The page, as it stands now.
pub fn render(metrics: &Metrics, readiness: &Readiness) -> String {
    let reading = Reading::of(metrics);
    let mut page = String::with_capacity(8 * 1024);
    page.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>sipwake</title>");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    page.push_str("<meta name=\"robots\" content=\"noindex\"><style>");
    page.push_str(STYLE);
    page.push_str("</style></head><body><header><h1>sipwake ");
    page.push_str(env!("CARGO_PKG_VERSION"));
    page.push_str("</h1>");
    page.push_str(headline(readiness));
    let up_s = clock::unix_now() as f64 - reading.value(Metric::StartTime, &[]);
    paragraph(&mut page, &format!("Up for {}; as of {}.", span(up_s), clock::rfc3339(clock::unix_now())));
    for warning in readiness.warnings() {
        paragraph(&mut page, &warning);
    }
    page.push_str("</header><main>");
    section(&mut page, "Readiness", readiness_rows(readiness));
    section(&mut page, "Push instances", by_label::<InstanceState>(&reading, Metric::Instances));
    section(&mut page, "Registrations", by_label::<RegistrationOutcome>(&reading, Metric::Registrations));
    section(&mut page, "Calls", call_rows(&reading));
    section(&mut page, "Pushes", push_rows(&reading));
    let services = readiness.push_services();
    if !services.is_empty() {
        section(&mut page, "Push services", services.iter().map(service_row).collect());
    }
    section(&mut page, "Wipes", by_label::<WipeReason>(&reading, Metric::Wipes));
    section(&mut page, "Devices and connections", connection_rows(&reading));
    section(&mut page, "Store", store_rows(&reading));
    section(&mut page, "This process", process_rows(&reading));
    page.push_str("</main></body></html>\n");
    page
}

/// One row of a table: what, how much, and whether that is good (`None`: neither).
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

fn headline(readiness: &Readiness) -> &'static str {
    if readiness.standing() != super::readiness::Standing::NotReady {
        "<p class=\"good\">Ready: a call can wake its phone.</p>"
    } else {
        "<p class=\"bad\">Not ready.</p>"
    }
}

fn readiness_rows(readiness: &Readiness) -> Vec<Row> {
    let row = |(check, state): (super::readiness::Check, Result<(), &'static str>)| Row {
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

fn call_rows(reading: &Reading) -> Vec<Row> {
    let mut rows = vec![Row::new("waiting now", count(reading.value(Metric::CallsWaiting, &[])))];
    rows.extend(by_label::<InviteOutcome>(reading, Metric::Invites));
    rows.push(Row::new("device attached, 99 % within", within(reading, Metric::Wake)));
    rows
}

fn push_rows(reading: &Reading) -> Vec<Row> {
    let mut rows = by_label::<PushOutcome>(reading, Metric::Pushes);
    rows.push(Row::new("INVITE to push, 99 % within", within(reading, Metric::InviteToPush)));
    rows.push(Row::new("service's answer, 99 % within", within(reading, Metric::PushDuration)));
    rows
}

fn service_row(report: &push::Report) -> Row {
    let since = |seconds: u64| clock::rfc3339(seconds);
    let value = match (report.state, &report.reason) {
        (push::State::Failing, Some((reason, why))) => {
            let waiting = report.waiting;
            format!("fails since {}: {why} [{reason}]; {waiting} pushes wait", since(report.since))
        }
        (push::State::Unknown, _) => "not needed yet".to_owned(),
        _ if report.last_accepted == 0 => "well".to_owned(),
        _ => format!("well; last push {}", since(report.last_accepted)),
    };
    let good = match report.state {
        push::State::Unknown => None,
        state => Some(state == push::State::Well),
    };
    Row { what: format!("{} {}", report.app, report.service), value, good }
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
        Row::new("answers, 99 % within", within(reading, Metric::StoreDuration)),
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
    let _ = write!(page, "<section><h2>{}</h2><table>", Escaped(title));
    for row in rows {
        let class = match row.good {
            Some(true) => " class=\"good\"",
            Some(false) => " class=\"bad\"",
            None => "",
        };
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{}</th><td{class}>{}</td></tr>",
            Escaped(&row.what),
            Escaped(&row.value)
        );
    }
    page.push_str("</table></section>");
}

fn paragraph(page: &mut String, text: &str) {
    let _ = write!(page, "<p>{}</p>", Escaped(text));
}

/// Text as HTML shows it.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            other => f.write_char(other),
        })
    }
}

fn count(value: f64) -> String {
    format!("{value:.0}")
}

fn within(reading: &Reading, metric: Metric) -> String {
    match reading.within(metric, 0.99) {
        None => "–".to_owned(),
        Some(bound) if bound.is_infinite() => "over 60 s".to_owned(),
        Some(bound) if bound < 1.0 => format!("{} ms", bound * 1000.0),
        Some(bound) => format!("{bound} s"),
    }
}

/// A span of time in its two largest units.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::readiness::Check;

    #[test]
    fn the_page_shows_what_was_counted_and_why_it_is_not_ready() {
        let (metrics, readiness) = (Metrics::new(), Readiness::default());
        readiness.fail(Check::Store, "no answer <within> 1 s");
        for _ in 0..37 {
            metrics.instance_enters(InstanceState::Registered);
        }
        let page = render(&metrics, &readiness);
        assert!(page.contains("<th scope=\"row\">registered</th><td>37</td>"));
        assert!(page.contains("no answer &lt;within&gt; 1 s"));
        assert!(page.contains("Not ready."));
        assert!(!page.contains("src=") && !page.contains("href=") && !page.contains("<script"), "loads nothing");
    }

    #[test]
    fn a_span_of_time_reads_like_one() {
        for (seconds, text) in
            [(0.0, "0 s"), (59.9, "59 s"), (61.0, "1 min"), (7_260.0, "2 h 1 min"), (1e6, "11 d 13 h")]
        {
            assert_eq!(span(seconds), text);
        }
    }
}

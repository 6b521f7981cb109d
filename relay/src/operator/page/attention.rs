//! The list of faults that need attention, each with its meaning.
//!
//! Invariant: a row is shown only when it has happened since the start; the latest come first.

use std::fmt::Write;
use std::time::Duration;

use super::PageData;
use super::html::{Escaped, count};
use crate::metrics::Metric;
use crate::operator::history::Watched;

/// Five minutes, and an hour.
pub(super) const SPANS: [Duration; 2] = [Duration::from_secs(300), Duration::from_secs(3_600)];

/// A row: its words, its metric, its meaning.
type Row = (&'static str, Watched, &'static str);

macro_rules! row {
    ($what:literal, $metric:ident $(, $label:literal = $value:literal)*; $why:literal) => {
        ($what, (Metric::$metric, &[$(($label, $value)),*]), $why)
    };
}

const ROWS: &[Row] = &[
    row!(
        "APNs: pushes failed",
        Pushes,
        "provider" = "apns",
        "outcome" = "failed";
        "Apple was not reached or had an error of its own: phones do not wake"),
    row!(
        "APNs: pushes refused",
        Pushes,
        "provider" = "apns",
        "outcome" = "refused";
        "Apple refuses the key, topic or request: check --push, [app.apns]"),
    row!(
        "APNs: pushes too late",
        Pushes,
        "provider" = "apns",
        "outcome" = "too-late";
        "no answer before the call's deadline: look at the network to Apple"),
    row!(
        "FCM: pushes failed",
        Pushes,
        "provider" = "fcm",
        "outcome" = "failed";
        "Google was not reached or had an error of its own: phones do not wake"),
    row!(
        "FCM: pushes refused",
        Pushes,
        "provider" = "fcm",
        "outcome" = "refused";
        "Google refuses the service account or request: [app.fcm]"),
    row!(
        "FCM: pushes too late",
        Pushes,
        "provider" = "fcm",
        "outcome" = "too-late";
        "no answer before the call's deadline: look at the network to Google"),
    row!(
        "Web Push: pushes failed",
        Pushes,
        "provider" = "webpush",
        "outcome" = "failed";
        "a device's own push service was not reached or had an error of its own"),
    row!(
        "Web Push: pushes refused",
        Pushes,
        "provider" = "webpush",
        "outcome" = "refused";
        "a push service refuses the key or the endpoint lies inside: [app.webpush]"),
    row!(
        "Web Push: pushes too late",
        Pushes,
        "provider" = "webpush",
        "outcome" = "too-late";
        "no answer before the call's deadline"),
    row!(
        "Push tokens gone",
        Pushes,
        "outcome" = "gone";
        "apps were removed; many at once point at a mixed-up environment"),
    row!(
        "Push tokens doubted",
        PushTokensDoubted,
        "provider" = "apns";
        "APNs calls tokens bad that are most likely not: sandbox and production mixed up?"),
    row!(
        "Registrations refused",
        Registrations,
        "outcome" = "refused";
        "a SIP server refuses accounts: passwords changed, or the relay is banned"),
    row!(
        "Registrations failed",
        Registrations,
        "outcome" = "failed";
        "a SIP server answers with errors; the relay goes on trying"),
    row!(
        "Registrations timed out",
        Registrations,
        "outcome" = "timed-out";
        "a SIP server does not answer; its users hear no calls when it lasts"),
    row!(
        "SIP servers unreachable",
        Registrations,
        "outcome" = "unreachable";
        "no connection, no address or no valid certificate: sipwake doctor --aor"),
    row!(
        "Phones' own registrations: refused",
        PassedRegisters,
        "outcome" = "refused";
        "a SIP server refuses phones that register through the relay: it has banned the relay, or their accounts"),
    row!(
        "Phones' own registrations: password refused",
        PassedRegisters,
        "outcome" = "unproven";
        "a SIP server does not take their passwords; one that never says stale shows this at each refresh"),
    row!(
        "Phones' own registrations: failed",
        PassedRegisters,
        "outcome" = "failed";
        "a SIP server answers phones that register through the relay with errors"),
    row!(
        "Phones' own registrations: timed out",
        PassedRegisters,
        "outcome" = "timed-out";
        "a SIP server does not answer phones that register through the relay"),
    row!(
        "Phones' own registrations: unreachable",
        PassedRegisters,
        "outcome" = "unreachable";
        "no connection, no address or no valid certificate: sipwake doctor --aor"),
    row!(
        "Phones' own registrations: put off",
        PassedRegisters,
        "outcome" = "limited";
        "more refreshes than upstream.registrations_per_second lets go, or a limit: phones try again"),
    row!(
        "Phones lost: ran out",
        PushRegistrationsEnded,
        "end" = "expired";
        "phones that registered through the relay did not refresh: switched off, removed, or refused"),
    row!("Calls without a phone", Invites, "outcome" = "timed-out"; "no phone came, or nobody answered, in time"),
    row!(
        "Calls refused by the phone",
        Invites,
        "outcome" = "refused-by-device";
        "the app's SIP stack refused, and nothing rang: sipwake calls --outcome missed names its status"),
    row!("Calls whose push failed", Invites, "outcome" = "unreachable"; "the phone could not be woken at all"),
    row!(
        "Calls for nobody",
        Invites,
        "outcome" = "unknown";
        "a SIP server calls a Contact that is not here: an old registration, or a scan"),
    row!(
        "Calls from a wrong source",
        Invites,
        "outcome" = "wrong-source";
        "not the account's own SIP server: add its addresses to DNS, or ignore a scan"),
    row!("Calls at a limit", Invites, "outcome" = "limited"; "too many calls for one account or phone at once"),
    row!(
        "Wipes: refused by the SIP server",
        Wipes,
        "reason" = "refused-upstream";
        "credentials were refused three times; their users were told"),
    row!(
        "Wipes: push token gone",
        Wipes,
        "reason" = "push-token-gone";
        "apps that were removed; a surge is a mistake in the push settings"),
    row!(
        "Messages not kept, store away",
        Messages,
        "outcome" = "store-away";
        "the sender's server was asked to try again"),
    row!("Messages not kept, box full", Messages, "outcome" = "full"; "a phone has not fetched its messages for long"),
    row!("Missed calls lost", MissedCalls, "outcome" = "lost"; "the store did not take the note; the push was sent"),
    row!(
        "Devices refused",
        EdgeRegisters,
        "outcome" = "refused";
        "wrong instance secrets at the edge: an old app, or guessing"),
    row!(
        "Devices unknown",
        EdgeRegisters,
        "outcome" = "unknown";
        "instances that have ended: their apps should enable again; or a SIP user name in place of edge.username"),
    row!("Devices at a limit", EdgeRegisters, "outcome" = "limited"; "too many attempts from one source"),
    row!(
        "TLS handshakes failed",
        Handshakes,
        "outcome" = "failed";
        "peers that do not trust the certificate, or scans"),
    row!("TLS handshakes too slow", Handshakes, "outcome" = "timed-out"; "peers that open connections and say nothing"),
    row!("SIP messages malformed", SipRefused, "reason" = "malformed"; "scans, or a peer with a fault"),
    row!("SIP messages too large", SipRefused, "reason" = "too-large"; "beyond a limit of size or count"),
    row!("SIP from a wrong source", SipRefused, "reason" = "wrong-source"; "not an account's own SIP server"),
    row!("Store: leases failed", StoreErrors, "operation" = "lease"; "Redis does not answer or refuses"),
    row!("Store: writes failed", StoreErrors, "operation" = "put"; "enabling and changes were answered 503"),
    row!("Store: reads failed", StoreErrors, "operation" = "load"; "instances could not be looked up"),
    row!("Store: erasures failed", StoreErrors, "operation" = "erase"; "wipes go on as soon as it answers"),
    row!("Store: claims failed", StoreErrors, "operation" = "claim"; "instances could not be taken over"),
    row!("Lines of the log lost", LogLinesDropped; "whoever reads the standard error is too slow, stands still or is gone"),
    row!("Limits met: instances", Limits, "limit" = "instances-node"; "this node is full: limits.instances_per_node"),
    row!(
        "Limits met: instances of an app",
        Limits,
        "limit" = "instances-app";
        "enabling is answered 429: limits.instances_per_app"),
    row!(
        "Limits met: devices of an account",
        Limits,
        "limit" = "instances-account";
        "enabling is answered 429: limits.instances_per_account"),
    row!(
        "Limits met: instances of a source",
        Limits,
        "limit" = "instances-source";
        "enabling is answered 429: limits.instances_per_source; behind a balancer that hides its clients all are one source"),
    row!(
        "Limits met: registrations",
        Limits,
        "limit" = "registrations-node";
        "phones that register through the relay are answered 503: limits.registrations_per_node"),
    row!(
        "Limits met: registrations at a server",
        Limits,
        "limit" = "registrations-server";
        "phones that register through the relay are answered 503: limits.registrations_per_server"),
    row!(
        "Limits met: registrations of a source",
        Limits,
        "limit" = "registrations-source";
        "phones that register through the relay are answered 503: limits.registrations_per_source"),
    row!(
        "Limits met: pushes of a device",
        Limits,
        "limit" = "pushes-device";
        "alerts are left out, then calls answered 480: limits.pushes_per_device"),
    row!(
        "Limits met: calls of a caller",
        Limits,
        "limit" = "pushes-caller";
        "somebody calls a device again and again, and is answered 480: limits.pushes_per_caller"),
    row!(
        "Limits met: pushes of an app",
        Limits,
        "limit" = "pushes-app";
        "alerts are left out, then calls answered 480: limits.pushes_per_app"),
    row!("Limits met: passwords of an account", Limits, "limit" = "failures-account"; "somebody tries passwords"),
    row!("Limits met: passwords of a source", Limits, "limit" = "failures-source"; "somebody tries passwords"),
    row!("Limits met: connections", Limits, "limit" = "connections"; "one source holds very many connections"),
    row!("Limits met: dials", Limits, "limit" = "dials"; "SIP servers that do not answer a connection"),
    row!(
        "Limits met: half messages",
        Limits,
        "limit" = "half-message";
        "SIP messages that did not come whole within limits.message_timeout: a bad line, or an attack"),
];

/// A fault: how often in five minutes, in an hour, since the start; and its meaning.
pub(super) struct FaultRow {
    pub(super) what: &'static str,
    pub(super) counts: [f64; 3],
    pub(super) why: &'static str,
}

/// All that has gone wrong, what happened lately first.
pub(super) fn rows(look: &PageData<'_>) -> Vec<FaultRow> {
    let mut rows: Vec<FaultRow> = Vec::new();
    for row in ROWS {
        let (metric, labels) = row.1;
        let total = look.reading.value(metric, labels);
        if total > 0.0 {
            let [short, long] = SPANS.map(|span| look.growth(span, row.1));
            rows.push(FaultRow { what: row.0, counts: [short, long, total], why: row.2 });
        }
    }
    let lately = |row: &FaultRow| (row.counts[0], row.counts[1]);
    rows.sort_by(|a, b| lately(b).partial_cmp(&lately(a)).unwrap_or(std::cmp::Ordering::Equal));
    rows
}

/// Writes the list. `is_well`: the banner has said nothing bad.
pub(super) fn write(page: &mut String, look: &PageData<'_>, is_well: bool) {
    let rows = rows(look);
    page.push_str("<section aria-labelledby=\"attention\"><h2 id=\"attention\">Needs attention</h2>");
    if rows.is_empty() {
        let nothing = if is_well { "Nothing" } else { "Nothing else" };
        let _ = write!(page, "<p class=\"quiet\">{nothing} has gone wrong since the start.</p></section>");
        return;
    }
    page.push_str(
        "<table class=\"attention\"><thead><tr><th scope=\"col\">what</th><th scope=\"col\" class=\"n\">5 min</th>",
    );
    page.push_str("<th scope=\"col\" class=\"n\">1 h</th><th scope=\"col\" class=\"n\">since start</th><th scope=\"col\">what it means</th></tr></thead><tbody>");
    for FaultRow { what, counts: [short, long, total], why } in rows {
        let lately = if short > 0.0 { " class=\"bad\"" } else { "" };
        let old = if long > 0.0 { "" } else { " class=\"zero\"" };
        let _ = write!(
            page,
            "<tr{old}><th scope=\"row\">{}</th><td{lately} data-name=\"5 min\">{}</td><td data-name=\"1 h\">{}</td>\
             <td data-name=\"since start\">{}</td><td class=\"why\">{}</td></tr>",
            Escaped(what),
            count(short),
            count(long),
            count(total),
            Escaped(why)
        );
    }
    page.push_str("</tbody></table></section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Word as _;
    use crate::metrics::labels::Limit;
    use crate::operator::history::WATCHED;

    #[test]
    fn each_limit_that_is_met_is_told_and_what_is_told_is_remembered_for_an_hour() {
        for limit in Limit::ALL {
            let is_of =
                |(_, (metric, labels), _): &Row| *metric == Metric::Limits && *labels == [("limit", limit.word())];
            assert!(ROWS.iter().any(is_of), "{}", limit.word());
        }
        for (what, (metric, _), _) in ROWS {
            assert!(
                WATCHED.contains(metric),
                "{what}: without a memory all since the start counts as of the last 5 min"
            );
        }
    }
}

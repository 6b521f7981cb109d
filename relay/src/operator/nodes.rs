//! The nodes of the store, each as it says of itself.
//!
//! Invariant: a node that does not answer is there all the same, with what its lease tells; that one is gone is not concluded from a store in
//! which leases end because nobody can renew them.

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};

use super::readiness::Standing;
use super::{Operator, answer, elsewhere};
use crate::clock::rfc3339;
use crate::metrics::Metric;
use crate::metrics::reading::Reading;
use crate::service::OperatorService;

pub(super) async fn list<E: OperatorService>(State(operator): State<Operator<E>>, request: Request) -> Response {
    let own = own(&operator);
    if elsewhere::is_carried(&request) {
        return answer(&json!({"nodes": [own]}));
    }
    let renews = own["lease"] == "held";
    let known = operator.0.service.known_nodes().await;
    let (others, _) = elsewhere::others(&operator, &request.into_parts().0, b"").await;
    let mut nodes = vec![own];
    for mut other in others {
        nodes.append(other["nodes"].as_array_mut().unwrap_or(&mut Vec::new()));
    }
    for (name, lives) in known.iter().flatten() {
        if nodes.iter().all(|node| node["node"] != **name) {
            let (state, why) = match lives {
                true => ("silent", "it holds its lease and does not answer"),
                false if !renews => ("unknown", "it holds no lease, and this node cannot renew its own either"),
                false => ("gone", "it holds no lease; the others have taken its instances over"),
            };
            let lease = if *lives { "held" } else { "none" };
            nodes.push(json!({"node": name, "state": state, "why": why, "lease": lease}));
        }
    }
    nodes.sort_by(|one, other| one["node"].as_str().cmp(&other["node"].as_str()));
    let mut all = json!({"nodes": nodes});
    if known.is_none() {
        all["incomplete"] = true.into();
    }
    answer(&all)
}

fn own<E: OperatorService>(operator: &Operator<E>) -> Value {
    let inner = &operator.0;
    let (reading, about) = (Reading::of(&inner.metrics), inner.service.about_node());
    let value = |metric| reading.value(metric, &[]);
    let failing = inner.readiness.checks().into_iter().filter_map(|(check, state)| Some((check.name(), state.err()?)));
    let reasons: Vec<_> = failing.map(|(check, why)| format!("{check}: {why}")).collect();
    let state = match inner.readiness.standing() {
        _ if about.is_leaving => "draining",
        Standing::Ready => "ready",
        Standing::Degraded => "degraded",
        Standing::NotReady => "not-ready",
    };
    let mut node = json!({
        "node": inner.name.get().map_or("", |name| name),
        "version": env!("CARGO_PKG_VERSION"),
        "since": rfc3339(value(Metric::StartTime) as u64),
        "instances": value(Metric::Instances) as u64,
        "push_registrations": value(Metric::PushRegistrations) as u64,
        "lease": if about.is_doubtful { "in doubt" } else if value(Metric::StoreUp) > 0.0 { "held" } else { "store away" },
        "keyring": about.keyring,
        "key_of_today": about.key_of_today,
        "state": state,
    });
    if !reasons.is_empty() {
        node["why"] = reasons.join("; ").into();
    }
    node
}

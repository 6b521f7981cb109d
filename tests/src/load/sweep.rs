//! Rates up to saturation: calls/s, latency and CPU, as a table and as a curve.
//!
//! Each rate is a run of its own with a fresh relay. It ends at the rate that the relay, the load generator or the machine does not
//! keep up with, and says who it was.
//!
//! Invariant: a rate that was not reached is in the table with its reason, and none after it is tried.

use std::fmt::{self, Display, Formatter, Write as _};
use std::path::Path;

use serde::Serialize;

use super::Failure;
use super::plan::{CALL_INTERVAL, MAX_INSTANCES, MAX_RATE, Plan};
use crate::board::Missed;

/// The rates.
const RATES: [u32; 10] = [50, 100, 200, 400, 700, 1_000, 1_500, 2_000, 3_000, 5_000];
/// A relay that is above this share of the planned rate keeps up.
const KEEPS_UP: f64 = 0.98;
/// A p99 above this, in microseconds, is saturation: calls wait for each other.
const SATURATED_US: f64 = 50_000.0;

/// The results of a sweep.
#[derive(Debug, Serialize)]
pub struct Sweep {
    /// The plan of the run at each rate.
    pub plan: Plan,
    /// Each rate.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub ended: String,
}

/// One rate.
#[derive(Debug, Serialize)]
pub struct Step {
    /// Calls in a second, as planned.
    pub rate: u32,
    /// As sent.
    pub per_second: f64,
    /// INVITE to push, in microseconds.
    pub push_p50_us: f64,
    /// The same.
    pub push_p99_us: f64,
    /// INVITE to INVITE at the device, in microseconds; 0 where calls are cancelled.
    pub device_p50_us: f64,
    /// The same.
    pub device_p99_us: f64,
    /// The relay's CPU for each call, in microseconds.
    pub cpu_us: f64,
    /// The relay's share of all processors, in percent.
    pub relay_percent: f64,
    /// Everybody's.
    pub machine_percent: f64,
}

/// Runs a plan at one rate after the other.
///
/// # Errors
/// [`Failure`] when not even the first rate comes to its end, or the curve cannot be written.
pub async fn run(plan: Plan) -> Result<Sweep, Failure> {
    let file = plan.sweep.clone().filter(|file| !file.as_os_str().is_empty());
    let (mut steps, mut ended) = (Vec::new(), "every rate was kept".to_owned());
    for rate in RATES.into_iter().filter(|rate| *rate <= MAX_RATE) {
        let instances = plan.instances.max(rate * 2 * CALL_INTERVAL.as_secs() as u32).min(MAX_INSTANCES);
        let one = Plan { rate, instances, attach: 0, refresh: None, sweep: None, ..plan.clone() };
        let report = match super::run(one).await {
            Ok(report) => report,
            Err(failure) if steps.is_empty() => return Err(failure),
            Err(failure) => {
                ended = format!("{rate}/s: {failure}");
                break;
            }
        };
        let (calling, shares) = (&report.calling, &report.calling.shares);
        let busy = shares.percent(shares.relay_cpu_s + shares.load_cpu_s + shares.others_cpu_s);
        steps.push(Step {
            rate,
            per_second: calling.per_second,
            push_p50_us: calling.outcome.invite_to_push.p50_us,
            push_p99_us: calling.outcome.invite_to_push.p99_us,
            device_p50_us: calling.outcome.invite_to_device.p50_us,
            device_p99_us: calling.outcome.invite_to_device.p99_us,
            cpu_us: calling.cpu_us,
            relay_percent: shares.percent(shares.relay_cpu_s),
            machine_percent: busy,
        });
        if calling.per_second < KEEPS_UP * f64::from(rate) {
            ended = format!("{rate}/s: the load generator sent no more than {:.0}/s", calling.per_second);
            break;
        }
        if calling.outcome.invite_to_push.p99_us > SATURATED_US {
            ended = format!("{rate}/s: pushes wait, with the machine at {busy:.0} %");
            break;
        }
    }
    let sweep = Sweep { plan, steps, ended };
    if let Some(file) = file {
        let written = write(&file, &sweep);
        written.map_err(|error| Missed::new(format!("{} to be written", file.display()), error.to_string()))?;
    }
    Ok(sweep)
}

fn write(file: &Path, sweep: &Sweep) -> std::io::Result<()> {
    std::fs::write(file, sweep.svg())
}

impl Sweep {
    /// p50 and p99 of INVITE → push over the rate, both axes logarithmic.
    pub fn svg(&self) -> String {
        const WIDTH: f64 = 640.0;
        const HEIGHT: f64 = 360.0;
        const EDGE: f64 = 56.0;
        let rates = self.steps.iter().map(|step| f64::from(step.rate));
        let (low, high) = (rates.clone().fold(f64::MAX, f64::min), rates.fold(f64::MIN, f64::max));
        let times = self.steps.iter().flat_map(|step| [step.push_p50_us, step.push_p99_us]);
        let (fast, slow) = (times.clone().fold(f64::MAX, f64::min), times.fold(f64::MIN, f64::max));
        let (fast, slow) = (10_f64.powf(fast.max(1.0).log10().floor()), 10_f64.powf(slow.max(10.0).log10().ceil()));
        let along = |value: f64, from: f64, to: f64| (value / from).ln() / (to / from).ln().max(1e-9);
        let x = |rate: f64| EDGE + (WIDTH - 2.0 * EDGE) * along(rate, low, high);
        let y = |us: f64| HEIGHT - EDGE - (HEIGHT - 2.0 * EDGE) * along(us.max(fast), fast, slow);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{EDGE}\" y=\"24\" font-size=\"14\">INVITE → push, by calls/s</text>\n"
        );
        let mut us = fast;
        while us <= slow * 1.001 {
            let (at, right) = (y(us), WIDTH - EDGE);
            // Writing into a string does not fail.
            let _ = writeln!(
                svg,
                "<path d=\"M{EDGE} {at:.1}H{right}\" stroke=\"#ddd\"/><text x=\"4\" y=\"{:.1}\">{} ms</text>",
                at + 4.0,
                us / 1e3
            );
            us *= 10.0;
        }
        for step in &self.steps {
            let at = x(step.rate.into());
            let _ = writeln!(
                svg,
                "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - EDGE + 18.0,
                step.rate
            );
        }
        let mut line = |name: &str, colour: &str, of: fn(&Step) -> f64| {
            let points: Vec<_> =
                self.steps.iter().map(|step| format!("{:.1},{:.1}", x(step.rate.into()), y(of(step)))).collect();
            let last = self.steps.last().map_or(0.0, |step| y(of(step)));
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
                 <text x=\"{}\" y=\"{last:.1}\" fill=\"{colour}\">{name}</text>",
                points.join(" "),
                WIDTH - EDGE + 6.0
            );
        };
        line("p50", "#16697a", |step| step.push_p50_us);
        line("p99", "#c1440e", |step| step.push_p99_us);
        svg + "</svg>\n"
    }
}

impl Display for Sweep {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| calls/s | INVITE → push p50 / p99 ms | INVITE → device p50 / p99 ms | CPU µs a call | relay | machine |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- |")?;
        for step in &self.steps {
            let device = if step.device_p50_us > 0.0 {
                format!("{:.2} / {:.2}", step.device_p50_us / 1e3, step.device_p99_us / 1e3)
            } else {
                "–".to_owned()
            };
            writeln!(
                f,
                "| {} | {:.3} / {:.3} | {device} | {:.0} | {:.0} % | {:.0} % |",
                step.rate,
                step.push_p50_us / 1e3,
                step.push_p99_us / 1e3,
                step.cpu_us,
                step.relay_percent,
                step.machine_percent
            )?;
        }
        writeln!(f, "\nIt ended: {}", self.ended)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_curve_lies_within_its_picture_and_the_table_has_each_rate() {
        let step = |rate: u32, p50: f64, p99: f64| Step {
            rate,
            per_second: rate.into(),
            push_p50_us: p50,
            push_p99_us: p99,
            device_p50_us: 0.0,
            device_p99_us: 0.0,
            cpu_us: 150.0,
            relay_percent: 10.0,
            machine_percent: 30.0,
        };
        let steps = vec![step(50, 120.0, 300.0), step(1_000, 150.0, 900.0), step(5_000, 20_000.0, 90_000.0)];
        let sweep = Sweep { plan: Plan::parse_from(["load"]), steps, ended: "5000/s: pushes wait".into() };
        let svg = sweep.svg();
        let points: Vec<f64> = svg
            .split("points=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .flat_map(|points| points.split([' ', ',']).map(|number| number.parse().unwrap()).collect::<Vec<f64>>())
            .collect();
        assert_eq!(points.len(), 12);
        assert!(points.chunks(2).all(|at| (0.0..=640.0).contains(&at[0]) && (0.0..=360.0).contains(&at[1])), "{svg}");
        assert_eq!(sweep.to_string().matches("\n| ").count(), 4);
    }
}

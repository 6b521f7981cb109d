//! How every bench is measured: in processor time of its own thread, by criterion. A bench of `relay` takes this file by its path.
//!
//! On a machine whose cores are shared, the time that others take is not counted; what they do to the caches is.

use std::time::Duration;

use criterion::Criterion;
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use rustix::time::{ClockId, clock_gettime};

/// What the thread has spent on a core.
pub struct ProcessorTime;

impl Measurement for ProcessorTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.unsigned_abs() as u32)
    }

    fn end(&self, began: Duration) -> Duration {
        self.start().saturating_sub(began)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// Short, for there are many: the shortest round counts where runs are compared (`tests/bench`), and that needs no long one.
pub fn criterion() -> Criterion<ProcessorTime> {
    let criterion = Criterion::default().with_measurement(ProcessorTime).sample_size(40).without_plots();
    criterion.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_millis(1_200))
}

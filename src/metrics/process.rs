//! The instruments of the exporter's process.

use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use opentelemetry::metrics::AsyncInstrument;
use procfs::WithCurrentSystemInfo;
use procfs::process::Process;
use rustix::process::{Resource, getrlimit};

use super::registrar::Registrar;
use crate::catalog;

/// Opened once: the kernel looks for it by name, and reads its number, each time.
static MYSELF: LazyLock<Option<Process>> = LazyLock::new(|| Process::myself().ok());

/// In Unix seconds. It is told in ticks since the host's start, which stands in the kernel's table of all that it
/// counts; that grows with cores and interrupts.
static STARTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let boot = procfs::boot_time_secs().ok()? as f64;
    let stat = MYSELF.as_ref()?.stat().ok()?;
    Some(boot + stat.starttime as f64 / procfs::ticks_per_second() as f64)
});

/// What cannot be read from `/proc` is left out: it must not cost the rest of the scrape.
pub(super) fn register(registrar: &Registrar<'_>) {
    let samples = Arc::new(Samples::default());
    let of_sample = |user: u8, value: fn(&Sample) -> f64| {
        let samples = Arc::clone(&samples);
        move |o: &dyn AsyncInstrument<f64>| {
            if let Some(sample) = samples.get(user) {
                o.observe(value(&sample), &[]);
            }
        }
    };
    registrar.counter(&catalog::PROCESS_CPU, of_sample(0, |sample| sample.cpu));
    registrar.gauge(&catalog::PROCESS_RESIDENT_MEMORY, of_sample(1, |sample| sample.resident));
    registrar.gauge(&catalog::PROCESS_VIRTUAL_MEMORY, of_sample(2, |sample| sample.mapped));
    registrar.gauge(&catalog::PROCESS_THREADS, of_sample(3, |sample| sample.threads));
    registrar.gauge(&catalog::PROCESS_OPEN_FDS, |o| {
        let Some(count) = MYSELF.as_ref().and_then(|process| process.fd_count().ok()) else { return };
        o.observe(count as f64, &[]);
    });
    registrar.gauge(&catalog::PROCESS_MAX_FDS, |o| {
        // Nothing where there is no limit.
        if let Some(most) = getrlimit(Resource::Nofile).current {
            o.observe(most as f64, &[]);
        }
    });
    registrar.gauge(&catalog::PROCESS_START_TIME, |o| {
        if let Some(started) = *STARTED {
            o.observe(started, &[]);
        }
    });
}

/// What `/proc/self/stat` says.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// In seconds.
    cpu: f64,
    /// In bytes.
    resident: f64,
    mapped: f64,
    threads: f64,
}

impl Sample {
    fn take() -> Option<Self> {
        let stat = MYSELF.as_ref()?.stat().ok()?;
        Some(Self {
            cpu: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64,
            resident: stat.rss_bytes().get() as f64,
            mapped: stat.vsize as f64,
            threads: stat.num_threads as f64,
        })
    }
}

/// One sample for each collection: the kernel adds up all threads for each, and five of them were a third of a scrape
/// of containers that have not changed.
#[derive(Debug, Default)]
struct Samples {
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    sample: Option<Sample>,
    /// The users that have taken this sample, one bit each.
    had: u8,
}

impl Samples {
    /// The sample of this collection. A collection asks once for each user, so who has had the last one is the first
    /// to ask in another.
    fn get(&self, user: u8) -> Option<Sample> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bit = 1 << user;
        if last.sample.is_none() || last.had & bit != 0 {
            *last = Last { sample: Sample::take(), had: 0 };
        }
        last.had |= bit;
        last.sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_collection_has_one_sample() {
        let samples = Samples::default();
        // Which of the users there are is up to views.
        for users in [&[0, 1, 2][..], &[1, 2], &[2, 0]] {
            let cpu = |user: &u8| samples.get(*user).unwrap().cpu;
            let before: Vec<f64> = users.iter().map(cpu).collect();
            assert!(before.windows(2).all(|pair| pair[0] == pair[1]));
            // The kernel counts ticks.
            let begin = std::time::Instant::now();
            while Sample::take().unwrap().cpu < before[0] + 0.02 {
                assert!(begin.elapsed().as_secs() < 60);
            }
            let after: Vec<f64> = users.iter().map(cpu).collect();
            assert!(after[0] > before[0] && after.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}

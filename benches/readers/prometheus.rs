//! The pull reader: what a scrape costs after changes of different size. This includes compression, but not the
//! exporter's own metrics and the web server.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use docker_state_exporter::metrics::labels::Names;
use docker_state_exporter::readers::prometheus::PrometheusReader;
use docker_state_exporter::readers::{self, Observed};
use tokio::runtime::Runtime;

use crate::inventory::{self, Inventory};

/// Changes the first containers, as many as the number says.
type Change = fn(&Inventory, usize);

/// The reader of an inventory, as the default configuration makes it.
fn reader(runtime: &Runtime, inventory: &Inventory) -> PrometheusReader {
    let config = inventory::config();
    let pull = config.readers.pull.clone().unwrap_or_default();
    let resource = readers::resource(&config);
    let observed = Observed::new(inventory.reader.clone(), Arc::default(), runtime.metrics());
    PrometheusReader::new(&config, &pull, &resource, &observed)
        .expect("the default configuration makes a reader")
}

pub(crate) fn scrapes(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("scrape");
    group.sample_size(20);
    for containers in [100, 1_000, 10_000] {
        let inventory = Inventory::new(containers);
        group.throughput(Throughput::Elements(inventory.series()));
        let reader = reader(&runtime, &inventory);
        let scrape = || reader.render(Names::Escaped).expect("it renders").gzip();
        scrape();
        group.bench_function(BenchmarkId::new("nothing changed", containers), |b| b.iter(scrape));
        let changes: [(_, _, Change); 3] = [
            ("one status changed", 1, Inventory::change_status),
            ("every status changed", containers, Inventory::change_status),
            ("everything changed", containers, Inventory::rename),
        ];
        for (name, changed, change) in changes {
            group.bench_function(BenchmarkId::new(name, containers), |b| {
                b.iter_batched(|| change(&inventory, changed), |()| scrape(), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

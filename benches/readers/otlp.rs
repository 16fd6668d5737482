//! A push reader: what one export costs, to a receiver on this machine that reads and takes everything.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput};
use docker_state_exporter::config::{Compression, Exporter, Otlp, Periodic, Temporality};
use docker_state_exporter::readers::otlp::PushReader;
use docker_state_exporter::readers::{self, Observed};
use tokio::runtime::Runtime;

use crate::inventory::{self, Inventory};

const LIMIT: Duration = Duration::from_secs(30);

/// Takes every request, on a thread of its own that ends with the program.
fn receiver() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A connection ends with the reader that made it.
            std::thread::spawn(move || take(stream));
        }
    });
    address
}

fn take(stream: TcpStream) -> io::Result<()> {
    let mut answers = stream.try_clone()?;
    let mut requests = BufReader::with_capacity(64 * 1024, stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if line.trim().is_empty() {
                break;
            }
        }
        io::copy(&mut requests.by_ref().take(length), &mut io::sink())?;
        answers.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
}

pub(crate) fn exports(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let address = receiver();
    let mut group = criterion.benchmark_group("export");
    group.sample_size(20);
    for containers in [100, 1_000] {
        let inventory = Inventory::new(containers);
        group.throughput(Throughput::Elements(inventory.series()));
        let ways = [
            ("as it is", Compression::None, Temporality::Cumulative),
            ("gzip", Compression::Gzip, Temporality::Cumulative),
            ("deltas", Compression::None, Temporality::Delta),
        ];
        for (name, compression, temporality) in ways {
            let url = format!("http://{address}/v1/metrics").parse().expect("a URL");
            let otlp = Otlp { compression, temporality, ..Otlp::new(url) };
            let mut reader = reader(&runtime, &inventory, Periodic::new(Exporter::OtlpHttp(otlp)));
            group.bench_function(BenchmarkId::new(name, containers), |b| {
                b.iter(|| runtime.block_on(reader.export(LIMIT)));
            });
        }
    }
    group.finish();
}

fn reader(runtime: &Runtime, inventory: &Inventory, periodic: Periodic) -> PushReader {
    let mut config = inventory::config();
    config.readers.periodic = vec![periodic.clone()];
    let resource = readers::resource(&config);
    let observed = Observed::new(inventory.reader.clone(), Arc::default(), runtime.metrics());
    let _context = runtime.enter();
    PushReader::new(&config, &periodic, &resource, &observed).expect("nothing is connected to yet")
}

//! A daemon that is written to, asked and cleaned up for a long time takes no more memory than it did after a while.
//!
//! `ALLIDB_SOAK_SECONDS` sets how long.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use allidb_api::v1;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::Client,
    make::{edge, entity, int, name, near, query, text, vectors},
    process::Process,
    random::Random,
};

const COLLECTION: &str = "things";
const SPACE: &str = "main";
const DIMENSION: usize = 32;
/// Entities that come and go.
const IDS: usize = 4_000;
const CLIENTS: usize = 3;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// So that all that is bounded is full soon.
const SETTINGS: &[(&str, &str)] = &[
    ("ALLIDB__STORAGE__MEMORY_BYTES", "48MiB"),
    ("ALLIDB__STORAGE__MEMTABLE_BYTES", "2MiB"),
    ("ALLIDB__STORAGE__WAL_SEGMENT_BYTES", "2MiB"),
    ("ALLIDB__STORAGE__LEVEL_BASE_BYTES", "8MiB"),
    ("ALLIDB__VECTORS__MEMORY_BYTES", "32MiB"),
];

/// What memory may do though nothing is lost: the allocator's rounding, and what compactions take at one moment and not at another.
const SLACK_BYTES: u64 = 24 << 20;

/// When all is full, and how much it is then at most: what is configured, what requests take, and what the allocator keeps for the next ones.
const FILLED_AFTER: Duration = Duration::from_mins(10);
const MOST_BYTES: u64 = 320 << 20;

/// Memory of a process that no file stands behind.
fn anonymous_bytes(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells it");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib << 10
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Does one thing after the other until it is told to stop. Counts what it did.
async fn work(client: Client, mut random: Random, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    while !stop.load(Ordering::Relaxed) {
        let id = |random: &mut Random| format!("e-{}", random.below(IDS));
        let of = |id: &str| name(COLLECTION, id);
        match random.below(20) {
            0..10 => {
                let chunk = v1::Chunk {
                    id: "c".into(),
                    text: format!("words of {} and of {}", random.below(50_000), random.below(50)),
                    ..Default::default()
                };
                let entity = v1::Entity {
                    attributes: [
                        ("n".to_owned(), int(random.below(1_000) as i64)),
                        ("t".to_owned(), text(&"x".repeat(random.below(600)))),
                    ]
                    .into(),
                    vectors: vectors(SPACE, &random.vector(DIMENSION)),
                    chunks: vec![chunk],
                    ..entity(COLLECTION, &id(&mut random))
                };
                client.put(entity).await.expect("put");
            }
            10..12 => {
                let next = edge(of(&id(&mut random)), "next", of(&id(&mut random)));
                client.put_edges(vec![next]).await.expect("answered");
            }
            12..14 => drop(client.delete(of(&id(&mut random))).await.expect("deleted")),
            14..17 => {
                let nearest = near(SPACE, &random.vector(DIMENSION));
                let asked = v1::QueryRequest {
                    expand: Some(v1::ExpandOptions { hops: 2, ..Default::default() }),
                    ..query(COLLECTION, nearest)
                };
                client.query(asked).await.expect("answered");
            }
            17 => {
                let words =
                    v1::TextSeed { text: format!("words {}", random.below(50)), ..Default::default() };
                let seeds = vec![v1::Seed { kind: Some(v1::seed::Kind::Text(words)) }];
                let asked = v1::QueryRequest { collection: COLLECTION.into(), seeds, ..Default::default() };
                client.query(asked).await.expect("answered");
            }
            18 => drop(client.edges(of(&id(&mut random)), v1::Direction::Both).await),
            _ => {
                let request = v1::RangeScanRequest {
                    collection: COLLECTION.into(),
                    page_size: 100,
                    ..Default::default()
                };
                client.entities().range_scan(request).await.expect("scanned");
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_as_it_is() {
    let seconds = std::env::var("ALLIDB_SOAK_SECONDS")
        .map_or(24, |seconds| seconds.parse().expect("ALLIDB_SOAK_SECONDS is a number"));
    let limit = Duration::from_secs(seconds);
    let mut random = Random::seeded("soak");
    let process = Process::start_with(SETTINGS).await;
    let client = process.client();
    client.create(COLLECTION, SPACE, DIMENSION as u32).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(work(client.clone(), Random::new(random.next()), Arc::clone(&stop), Arc::clone(&done)));
    }
    let begun = Instant::now();
    let mut seen: Vec<u64> = Vec::new();
    while begun.elapsed() < limit {
        sleep(LOOK_EVERY).await;
        seen.push(anonymous_bytes(process.id()));
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    let quarter = seen.len() / 4;
    let quarters: Vec<u64> = seen.chunks(quarter.max(1)).map(|part| median(part.to_vec())).collect();
    let mib: Vec<u64> = quarters.iter().take(4).map(|bytes| bytes >> 20).collect();
    println!("{} calls in {seconds} s; MiB, quarter by quarter: {mib:?}", done.load(Ordering::Relaxed));
    let (before, after) = (quarters[1], quarters[3]);
    // Until all that is bounded is full it grows.
    let bound = if limit < FILLED_AFTER { MOST_BYTES } else { before + before / 10 + SLACK_BYTES };
    assert!(after <= bound, "memory grew: {mib:?} MiB");
    assert!(!process.log().contains("panicked"), "{}", process.log());
}

//! Pages of a scan while others write: no id twice, and what is there throughout appears once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use allidb_api::v1::{self, comparison::Operator};

use crate::{
    client::Client,
    make::{compare, entity, id_of, int, name},
    process::{Process, eventually},
    random::Random,
};

const COLLECTION: &str = "shelf";
const KEPT: usize = 300;
const COMING_AND_GOING: usize = 300;

/// Ids that stay lie between those that come and go.
fn kept(at: usize) -> String {
    format!("{at:04}-kept")
}

fn passing(at: usize) -> String {
    format!("{at:04}-passing")
}

fn book(id: &str, wanted: i64, edition: i64) -> v1::Entity {
    let attributes = [("wanted".to_owned(), int(wanted)), ("edition".to_owned(), int(edition))];
    v1::Entity { attributes: attributes.into(), ..entity(COLLECTION, id) }
}

/// Puts and deletes what passes, and rewrites what stays, until told to stop.
async fn write(client: Client, mut random: Random, done: Arc<AtomicUsize>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::SeqCst) {
        let at = random.below(COMING_AND_GOING);
        let edition = random.below(1_000) as i64;
        match random.below(3) {
            0 => {
                client.put(book(&kept(at % KEPT), 1, edition)).await.expect("put");
            }
            1 => {
                client.put(book(&passing(at), random.below(2) as i64, edition)).await.expect("put");
            }
            _ => {
                client.delete(name(COLLECTION, &passing(at))).await.expect("deleted");
            }
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_miss_while_others_write() {
    let mut random = Random::seeded("paging");
    // Small memtables: pages go on across flushes.
    let process = Process::start_with(&[("ALLIDB__STORAGE__MEMTABLE_BYTES", "64KiB")]).await;
    let client = process.client();
    client.create(COLLECTION, "none", 2).await;
    let request = v1::BatchPutRequest {
        entities: (0..KEPT).map(|at| book(&kept(at), 1, 0)).collect(),
        ..Default::default()
    };
    client.entities().batch_put(request).await.expect("put");

    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let random = Random::new(random.next());
            tokio::spawn(write(client.clone(), random, done.clone(), stop.clone()))
        })
        .collect();
    for round in 0..8 {
        let reverse = round % 2 == 1;
        let mut request = v1::RangeScanRequest {
            collection: COLLECTION.into(),
            reverse,
            filter: Some(compare("wanted", Operator::Equal, int(1))),
            ..Default::default()
        };
        let mut ids: Vec<String> = Vec::new();
        loop {
            // The size of pages may change on the way.
            request.page_size = random.within(5..40) as u32;
            let before = done.load(Ordering::SeqCst);
            let page = client.entities().range_scan(request.clone()).await.expect("a page").into_inner();
            assert!(page.entities.len() <= request.page_size as usize);
            for entity in &page.entities {
                assert_eq!(entity.attributes["wanted"], int(1), "the filter holds");
                ids.push(id_of(entity).to_owned());
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
            eventually("a write between two pages", async || {
                (done.load(Ordering::SeqCst) > before).then_some(())
            })
            .await;
        }
        if reverse {
            ids.reverse();
        }
        assert!(ids.is_sorted_by(|a, b| a < b), "round {round}: in order, none twice: {ids:?}");
        let stayed: Vec<&String> = ids.iter().filter(|id| id.ends_with("-kept")).collect();
        assert_eq!(stayed.len(), KEPT, "round {round}: what stays appears once");
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.expect("no write failed");
    }

    // With nobody writing both ways, bounds and prefixes agree.
    let scan = |change: fn(&mut v1::RangeScanRequest)| {
        let mut request =
            v1::RangeScanRequest { collection: COLLECTION.into(), page_size: 17, ..Default::default() };
        change(&mut request);
        let client = client.clone();
        async move {
            let found = client.pages(request).await.expect("scanned");
            found.iter().map(|entity| id_of(entity).to_owned()).collect::<Vec<_>>()
        }
    };
    let all = scan(|_| {}).await;
    assert_eq!(client.count(COLLECTION).await, all.len() as u64);
    let mut backwards = scan(|request| request.reverse = true).await;
    backwards.reverse();
    assert_eq!(backwards, all);
    let within = |from: &str, to: &str| {
        all.iter().filter(|id| id.as_str() >= from && id.as_str() < to).cloned().collect::<Vec<_>>()
    };
    let some = scan(|request| {
        request.start_id = "0010-kept".into();
        request.end_id = "0100-kept".into();
    });
    assert_eq!(some.await, within("0010-kept", "0100-kept"));
    assert_eq!(scan(|request| request.id_prefix = "01".into()).await, within("01", "02"));
}

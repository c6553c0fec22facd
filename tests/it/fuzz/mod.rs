//! Requests that are whole, and mean nothing: every method is called with messages of its own type whose fields hold whatever such fields may, over gRPC,
//! as JSON and as pages do. Each call is answered, none as if the daemon itself was at fault, and it goes on with everything it had.
//!
//! `ALLIDB_FUZZ_SECONDS` sets how long.

mod message;
mod rest;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tonic::Code;

use self::{
    message::{Contract, Method},
    rest::Described,
};
use crate::{
    client::Client,
    garbage::{call, prepared, unharmed},
    random::Random,
};

/// Calls between two looks at whether the daemon is unharmed.
const CALLS_AT_A_TIME: usize = 500;
/// Of what concerns data so many are called for each of the others, which take longer.
const RARELY: usize = 40;
/// Messages of a stream.
const MESSAGES: usize = 6;

fn seconds() -> u64 {
    std::env::var("ALLIDB_FUZZ_SECONDS").map_or(8, |seconds| seconds.parse().expect("a number"))
}

/// What a daemon never answers unless something is wrong with it.
fn is_fault(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::DataLoss | Code::Unavailable | Code::Internal)
}

fn is_about_data(path: &str) -> bool {
    ["Entities", "Graph", "Search"].iter().any(|service| path.contains(&format!(".{service}/")))
}

async fn call_once(client: &Client, contract: &Contract, method: &Method, random: &mut Random) -> Code {
    let count = if method.takes_stream { random.within(1..MESSAGES) } else { 1 };
    let messages: Vec<_> = (0..count).map(|_| contract.message(&method.input, random)).collect();
    let code = call(client, &method.path, messages.clone()).await;
    assert!(!is_fault(code), "{} is answered {code:?}: {messages:02x?}", method.path);
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_mean_nothing_harm_nothing() {
    let mut random = Random::seeded("fuzz");
    let contract = Contract::read();
    let (process, before) = prepared().await;
    let client = process.client();
    client.create(message::COLLECTION, message::SPACE, message::DIMENSION).await;
    let (begun, limit) = (Instant::now(), Duration::from_secs(seconds()));
    let described = Described::read(&process).await;
    let mut codes: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut calls = 0;
    while begun.elapsed() < limit {
        for _ in 0..CALLS_AT_A_TIME {
            let asked = match random.below(4) {
                0 | 1 => None,
                2 => Some(described.call(&mut random, RARELY)),
                _ => Some(rest::from_page(&contract, &mut random)),
            };
            calls += 1;
            if let Some(asked) = asked {
                let code = rest::ask(&process, &asked).await;
                *codes.entry(asked.name).or_default().entry(code).or_default() += 1;
                continue;
            }
            let method = loop {
                let method = &contract.methods[random.below(contract.methods.len())];
                if is_about_data(&method.path) || random.below(RARELY) == 0 {
                    break method;
                }
            };
            let code = call_once(&client, &contract, method, &mut random).await;
            *codes.entry(method.path.clone()).or_default().entry(format!("{code:?}")).or_default() += 1;
            if begun.elapsed() >= limit {
                break;
            }
        }
        unharmed(&process, &before).await;
        // It may have been dropped; if not, that is said.
        client.try_create(message::COLLECTION, message::SPACE, message::DIMENSION).await.ok();
    }
    for (path, codes) in &codes {
        println!("{path} was answered {codes:?}");
    }
    println!("{calls} calls in {:?}", begun.elapsed());
    // It is worth nothing unless much of it gets past the first look.
    let done = codes
        .values()
        .filter(|codes| ["Ok", "200", "200 0"].iter().any(|ok| codes.contains_key(*ok)))
        .count();
    assert!(seconds() < 5 || done * 3 > codes.len(), "only {done} of {} methods did anything", codes.len());
}

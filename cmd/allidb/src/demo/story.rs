//! The steps of the demo, in order. Each says what it shows, shows it, and checks what it claims.

use std::{collections::HashSet, path::Path, sync::Arc, time::Instant};

use allidb_api::v1::{
    Collection, CountRequest, DeleteRequest, Durability, Entity, NeighborsRequest, QueryRequest,
    QueryResponse, Space, UpdateRequest, Value, value::Kind,
};
use anyhow::{Context, Result, ensure};
use prost_types::FieldMask;
use serde_json::json;

use super::{
    Place,
    narrator::Narrator,
    questions::{
        APPLES, BRAMLEY, COLLECTION, DELICIOUS, DIMENSION, FOOD, FOOD_LEFT, HUMMINGBIRD, HUMMINGBIRD_ID,
        SEEDS, SPACE, nearest, walk,
    },
    sample_files::Sample,
};
use crate::{
    client::Client,
    collections::{self, parse_metric},
    daemon::Daemon,
    entity_json::{entity_ref, id_of},
    failure::Failure,
    import::{self, Job},
    ledger::Ledger,
};

/// Tells everything up to the restart. `daemon` holds the running process at every moment.
pub(super) async fn tell(dir: &Path, daemon: &mut Option<Daemon>, narrator: &mut Narrator) -> Result<()> {
    let sample_dir = dir.join("sample");
    let sample = Sample::unpack(&sample_dir)?;

    narrator.heading("Start a daemon")?;
    let running = daemon.insert(Daemon::start(dir).await?);
    narrator.say(&format!(
        "   It listens at {} and keeps its data in {}.",
        running.endpoint(),
        dir.display()
    ))?;
    let client = Client::connect(&running.endpoint()).await?;

    load(&client, &sample, &sample_dir, narrator).await?;
    ask(&client, &sample, narrator).await?;
    follow_edges(&client, &sample, narrator).await?;
    let before = change(&client, &sample, narrator).await?;
    let counted = count(&client, None).await?;
    restart(dir, daemon, narrator).await?;
    let running = daemon.as_ref().context("the daemon was started again")?;
    let client = Client::connect(&running.endpoint()).await?;
    let after = query(&client, nearest(sample.vector(APPLES)?, Some(FOOD_LEFT))?).await?;
    let left = count(&client, None).await?;
    ensure!(left == counted, "{counted} entities before the restart, {left} after it");
    ensure!(
        ids(&before) == ids(&after),
        "the restart changed the answer: {:?}, {:?}",
        ids(&before),
        ids(&after)
    );
    narrator
        .say(&format!("   {left} entities before, {left} after; the last question has the same answer:"))?;
    narrator.record("entities_after_restart", json!(left));
    narrator.answer("after_restart", &after, None)
}

async fn load(client: &Client, sample: &Sample, sample_dir: &Path, narrator: &mut Narrator) -> Result<()> {
    narrator.heading("Load 2,000 WordNet synsets: attributes, a vector each, and the edges between them")?;
    narrator.command(&format!(
        "allidb import {} --collection {COLLECTION} --space {SPACE}",
        sample_dir.display()
    ))?;
    let metric = parse_metric("cosine").map_err(anyhow::Error::msg)?;
    let space =
        Space { name: SPACE.to_owned(), dimension: DIMENSION, metric: metric as i32, ..Space::default() };
    collections::create(
        client,
        Collection { name: COLLECTION.into(), spaces: vec![space], ..Default::default() },
    )
    .await?;
    let job = Job {
        collection: COLLECTION.to_owned(),
        space: Some(SPACE.to_owned()),
        batch: 256,
        in_flight: 1024,
        durability: Durability::Sync,
    };
    let mut ledger = Ledger::open(None, None)?;
    let dataset = Arc::clone(&sample.dataset);
    let report = import::load(client, dataset, job, Arc::new(HashSet::new()), &mut ledger).await?;
    let rejected = report.entities.rejected + report.edges.rejected;
    ensure!(rejected == 0, "{rejected} items of the sample were rejected");
    let (entities, edges) = (report.entities.acknowledged, report.edges.acknowledged);
    narrator.record(
        "load",
        json!({"entities": entities, "edges": edges, "seconds": report.seconds, "items_per_second": report.rate()}),
    );
    narrator.say(&format!(
        "   {entities} entities and {edges} edges in {:.1} s, {:.0} a second, each on disk before it was acknowledged.",
        report.seconds,
        report.rate()
    ))
}

async fn ask(client: &Client, sample: &Sample, narrator: &mut Narrator) -> Result<()> {
    narrator.heading(&format!("Ask: “{APPLES}”"))?;
    narrator.say("   The synsets whose definitions come nearest in meaning:")?;
    let (answer, took) = timed(client, nearest(sample.vector(APPLES)?, None)?).await?;
    ensure!(!answer.hits.is_empty(), "nothing was found");
    narrator.answer("nearest", &answer, None)?;
    narrator.say(&format!("   {took}"))?;

    narrator.heading("The same, but something to eat")?;
    narrator.say(&format!("   The filter is part of the search, not of what is left after it: {FOOD}"))?;
    let (answer, took) = timed(client, nearest(sample.vector(APPLES)?, Some(FOOD))?).await?;
    for (id, what) in [(DELICIOUS, "Delicious"), (BRAMLEY, "Bramley's Seedling")] {
        ensure!(ids(&answer).contains(&id), "`{what}` is missing from the answer");
    }
    narrator.answer("filtered", &answer, None)?;
    narrator.say(&format!("   {took}"))
}

async fn follow_edges(client: &Client, sample: &Sample, narrator: &mut Narrator) -> Result<()> {
    narrator.heading(&format!("Ask, and follow edges: “{HUMMINGBIRD}”"))?;
    narrator.say(&format!(
        "   Begins at the {SEEDS} nearest, goes up two `hypernym` edges (“is a kind of”), and scores all of it together."
    ))?;
    narrator.say("   “hummingbird” itself is not among the nearest; the graph leads there.")?;
    let (answer, took) = timed(client, walk(sample.vector(HUMMINGBIRD)?)).await?;
    let found = answer.hits.iter().find(|hit| id_of(reference(hit)) == HUMMINGBIRD_ID);
    ensure!(found.is_some_and(|hit| hit.hops > 0), "the walk did not lead to `hummingbird`");
    narrator.answer("expanded", &answer, Some(&|id| sample.name(id)))?;
    narrator.say(&format!("   {took}"))
}

/// Changes two apples; returns the answer that must outlive the restart.
async fn change(client: &Client, sample: &Sample, narrator: &mut Narrator) -> Result<QueryResponse> {
    narrator.heading("Change something, and ask again")?;
    narrator.say(
        "   One apple is eaten: an update of one attribute leaves the rest, and its vector, as they were.",
    )?;
    narrator.command(&format!("allidb update -c {COLLECTION} {DELICIOUS} --set eaten=true"))?;
    let mut entity = Entity { r#ref: Some(entity_ref(COLLECTION, DELICIOUS)), ..Entity::default() };
    entity.attributes.insert("eaten".to_owned(), Value { kind: Some(Kind::BoolValue(true)) });
    let request = UpdateRequest {
        entity: Some(entity),
        update_mask: Some(FieldMask { paths: vec!["attributes.eaten".to_owned()] }),
        ..UpdateRequest::default()
    };
    client.entities().update(request).await.map_err(Failure::from_status)?;

    narrator.say("   Another is deleted, and with it its vector and its edges.")?;
    narrator.command(&format!("allidb delete -c {COLLECTION} {BRAMLEY}"))?;
    let edges_before = edges_of(client, BRAMLEY).await?;
    let request = DeleteRequest { r#ref: Some(entity_ref(COLLECTION, BRAMLEY)), ..DeleteRequest::default() };
    let deleted = client.entities().delete(request).await.map_err(Failure::from_status)?.into_inner();
    ensure!(deleted.existed, "the apple was not there");
    let edges_after = edges_of(client, BRAMLEY).await?;
    ensure!(edges_after == 0, "{edges_after} of its {edges_before} edges are still there");

    narrator.say(&format!("   What is there to eat now? {FOOD_LEFT}"))?;
    let answer = query(client, nearest(sample.vector(APPLES)?, Some(FOOD_LEFT))?).await?;
    for gone in [DELICIOUS, BRAMLEY] {
        ensure!(!ids(&answer).contains(&gone), "`{}` is still in the answer", sample.name(gone));
    }
    narrator.answer("changed", &answer, None)?;
    Ok(answer)
}

async fn restart(dir: &Path, daemon: &mut Option<Daemon>, narrator: &mut Narrator) -> Result<()> {
    narrator.heading("Stop the daemon, start it on the same directory, and ask once more")?;
    daemon.as_mut().context("the daemon runs")?.stop().await?;
    let started = Instant::now();
    *daemon = Some(Daemon::start(dir).await?);
    let seconds = started.elapsed().as_secs_f64();
    narrator.record("restart_seconds", json!(seconds));
    narrator.say(&format!("   Ready again after {seconds:.2} s."))
}

/// What to type next, with the daemon that stays.
pub(super) fn next_with_daemon(daemon: &Daemon, dir: &Path, narrator: &mut Narrator) -> Result<()> {
    let (endpoint, process) = (daemon.endpoint(), daemon.process_id().unwrap_or_default());
    narrator.record("endpoint", json!(endpoint));
    narrator.record("http", json!(daemon.http()));
    narrator.record("process", json!(process));
    narrator.record("dir", json!(dir));
    narrator.heading("Go on yourself: the daemon stays")?;
    for line in [
        format!("export ALLIDB_ENDPOINT={endpoint}"),
        format!("allidb get -c {COLLECTION} {HUMMINGBIRD_ID}"),
        format!("allidb query -c {COLLECTION} -s {SPACE} --entity {HUMMINGBIRD_ID} -k 5"),
        format!(
            "allidb query -c {COLLECTION} -s {SPACE} --entity {HUMMINGBIRD_ID} --expand hypernym --hops 2 --explain"
        ),
        format!("allidb neighbors -c {COLLECTION} {HUMMINGBIRD_ID} --direction both"),
        format!("allidb count -c {COLLECTION} --filter '{FOOD}'"),
        format!("curl {}/metrics", daemon.http()),
    ] {
        narrator.command(&line)?;
    }
    narrator.say(&format!("   Its data, and its log daemon.log, are in {}.", dir.display()))?;
    narrator.say("   Stop it, and remove the directory when you have done with it:")?;
    narrator.command(&format!("kill {process}"))
}

/// What to type next when nothing stays.
pub(super) fn next_without_daemon(place: &Place, narrator: &mut Narrator) -> Result<()> {
    match place {
        Place::Temporary(_) => narrator.say("\nThe daemon is stopped and its files are gone. What next?")?,
        Place::Given(dir) => {
            narrator
                .say(&format!("\nThe daemon is stopped; its files stay in {}. What next?", dir.display()))?;
            narrator.command(&format!("allidb serve --data-dir {}", dir.join("data").display()))?;
        }
    }
    narrator
        .command("allidb demo --keep              # the same, and the daemon stays for you to play with")?;
    narrator.command("allidb serve --data-dir ./data  # a daemon of your own")?;
    narrator.command("allidb import --help            # your data into it")
}

async fn query(client: &Client, request: QueryRequest) -> Result<QueryResponse> {
    Ok(client.search().query(request).await.map_err(Failure::from_status)?.into_inner())
}

/// The answer, and a sentence on what it took.
async fn timed(client: &Client, request: QueryRequest) -> Result<(QueryResponse, String)> {
    let started = Instant::now();
    let answer = query(client, request).await?;
    let millis = started.elapsed().as_secs_f64() * 1e3;
    let cost = answer.cost.unwrap_or_default();
    let mut sentence = format!("{millis:.1} ms, {} vectors compared", cost.vectors_compared);
    if cost.nodes > 0 {
        sentence += &format!(", {} nodes reached over {} edges", cost.nodes, cost.edges);
    }
    Ok((answer, sentence + "."))
}

async fn count(client: &Client, filter: Option<allidb_api::v1::Filter>) -> Result<u64> {
    let request = CountRequest { collection: COLLECTION.to_owned(), filter, ..CountRequest::default() };
    Ok(client.entities().count(request).await.map_err(Failure::from_status)?.into_inner().count)
}

async fn edges_of(client: &Client, id: &str) -> Result<usize> {
    let request = NeighborsRequest {
        r#ref: Some(entity_ref(COLLECTION, id)),
        direction: allidb_api::v1::Direction::Both as i32,
        ..NeighborsRequest::default()
    };
    let answer = client.graph().neighbors(request).await;
    match answer {
        Ok(answer) => Ok(answer.into_inner().neighbors.len()),
        Err(status) if status.code() == tonic::Code::NotFound => Ok(0),
        Err(status) => Err(Failure::from_status(status)),
    }
}

fn reference(hit: &allidb_api::v1::Hit) -> Option<&allidb_api::v1::EntityRef> {
    hit.entity.as_ref().and_then(|entity| entity.r#ref.as_ref())
}

fn ids(answer: &QueryResponse) -> Vec<&str> {
    answer.hits.iter().map(|hit| id_of(reference(hit))).collect()
}

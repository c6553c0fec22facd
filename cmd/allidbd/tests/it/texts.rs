//! Words over gRPC.

use std::collections::BTreeMap;

use allidb_api::v1;
use tonic::Code;

use crate::running::{Running, field};

fn text(text: &str) -> v1::Value {
    v1::Value { kind: Some(v1::value::Kind::StringValue(text.to_owned())) }
}

fn query(seed: v1::TextSeed) -> v1::QueryRequest {
    let seeds = vec![v1::Seed { kind: Some(v1::seed::Kind::Text(seed)) }];
    v1::QueryRequest { collection: "papers".into(), seeds, explain: true, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_attributes_are_searched_and_the_declaration_comes_back() {
    let running = Running::start().await;
    let title = v1::TextField { attribute: "title".into(), ..Default::default() };
    let settings = v1::TextSettings { fields: vec![title], ..Default::default() };
    let collection =
        Some(v1::Collection { name: "papers".into(), text: Some(settings), ..Default::default() });
    let request = v1::CreateCollectionRequest { collection };
    let made = running.collections().create_collection(request).await.expect("made").into_inner();
    let declared = made.text.expect("settings").fields.remove(0);
    assert_eq!((declared.weight, declared.language.as_str()), (Some(1.0), "english"));
    assert_eq!(declared.kind(), v1::TextKind::Names);

    let name = |id: &str| v1::EntityRef { collection: "papers".into(), id: id.into() };
    for (id, title) in [("1", "Graph databases"), ("2", "Relational databases"), ("3", "Cooking")] {
        let attributes = BTreeMap::from([("title".to_owned(), text(title))]);
        let entity = v1::Entity { r#ref: Some(name(id)), attributes, ..Default::default() };
        running.put(entity).await.expect("put");
    }
    let seed = v1::TextSeed { text: "a database of graphs".into(), ..Default::default() };
    let answer = running.search().query(query(seed)).await.expect("answered").into_inner();
    let ids: Vec<_> =
        answer.hits.iter().filter_map(|hit| Some(hit.entity.as_ref()?.r#ref.clone()?.id)).collect();
    assert_eq!(ids, ["1", "2"]);
    let breakdown = &answer.hits[0].breakdown;
    assert_eq!(breakdown.len(), 1);
    assert_eq!((breakdown[0].signal.as_str(), breakdown[0].weight), ("text", 1.0));

    let unknown = v1::SearchedField { name: "color".into(), weight: None };
    let seed = v1::TextSeed { text: "a".into(), fields: vec![unknown], ..Default::default() };
    let refused = running.search().query(query(seed)).await.expect_err("no such field");
    assert_eq!(
        (refused.code(), field(&refused).as_str()),
        (Code::InvalidArgument, "seeds[0].text.fields[0].name")
    );
}

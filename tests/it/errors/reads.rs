//! Gets, scans, counts, filters and page tokens.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_filters() {
    let (_process, client, before) = prepared().await;
    let mut verdict = Verdict::default();
    let get = |entity: v1::EntityRef, paths: &[&str]| {
        let request = v1::GetRequest { r#ref: Some(entity), read_mask: mask(paths), ..Default::default() };
        let mut entities = client.entities();
        async move { entities.get(request).await }
    };
    let here = || name(COLLECTION, THERE);
    verdict.of("an unknown field", get(here(), &["nonsense"]).await, wrong("read_mask"));
    verdict.of("an unknown field of a chunk", get(here(), &["chunks.nonsense"]).await, wrong("read_mask"));
    verdict.of("an unknown space", get(here(), &["vectors.nothing"]).await, unknown("UNKNOWN_SPACE"));
    verdict.of("what is not there", get(name(COLLECTION, "missing"), &[]).await, unknown("ENTITY_NOT_FOUND"));
    verdict.of("an unknown collection", get(name("nowhere", "x"), &[]).await, unknown("UNKNOWN_COLLECTION"));
    verdict.of("an empty id", get(name(COLLECTION, ""), &[]).await, wrong("ref.id"));
    verdict.of("no name", client.entities().get(v1::GetRequest::default()).await, wrong("ref"));
    let request = v1::BatchGetRequest { refs: vec![here(); 10_001], ..Default::default() };
    verdict.of("too many", client.entities().batch_get(request).await, too_much("refs"));

    // At the first level that is one too many.
    const DEEPEST: &str = "filter.not.not.not.not.not.not.not.not.not.not.not.not.not.not.not.not";
    let deep = |depth| (0..depth).fold(compare("year", Operator::Equal, int(1)), |inner, _| not(inner));
    let list = |filters| v1::FilterList { filters };
    let wide = list((0..1_001).map(|_| compare("year", Operator::Equal, int(1))).collect());
    let nan = value(v1::value::Kind::DoubleValue(f64::NAN));
    let unset = v1::Comparison { field: "year".into(), operator: Operator::Equal.into(), value: None };
    let cases = [
        ("a filter too deep", deep(40), wrong(DEEPEST)),
        ("a filter too wide", v1::Filter { kind: Some(Kind::Or(wide)) }, wrong("filter.or[999]")),
        ("a filter of nothing", v1::Filter { kind: None }, wrong("filter")),
        (
            "a part of nothing",
            v1::Filter { kind: Some(Kind::And(list(vec![v1::Filter { kind: None }]))) },
            wrong("filter.and[0]"),
        ),
        ("no operator", compare("year", Operator::Unspecified, int(1)), wrong("filter.compare.operator")),
        ("no value", v1::Filter { kind: Some(Kind::Compare(unset)) }, wrong("filter.compare.value")),
        ("a field of no name", compare("a..b", Operator::Equal, int(1)), wrong("filter.compare.field")),
        ("an id that is a number", compare("id", Operator::Equal, int(1)), wrong("filter.compare")),
        (
            "a time that is a text",
            compare("created_at", Operator::Less, text("now")),
            wrong("filter.compare"),
        ),
        (
            "importance that is a text",
            compare("importance", Operator::Less, text("high")),
            wrong("filter.compare"),
        ),
        ("a number's beginning", compare("year", Operator::StartsWith, int(1)), wrong("filter.compare")),
        ("NaN", compare("year", Operator::Less, nan), wrong("filter.compare")),
        ("an order of lists", compare("year", Operator::Less, nested(1)), wrong("filter.compare")),
    ];
    for (what, filter, Expected { code, reason, field }) in cases {
        let expected = || Expected { code, reason, field };
        let request = v1::CountRequest {
            collection: COLLECTION.into(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        verdict.of(&format!("count: {what}"), client.entities().count(request).await, expected());
        let request = v1::RangeScanRequest {
            collection: COLLECTION.into(),
            filter: Some(filter.clone()),
            ..Default::default()
        };
        verdict.of(&format!("scan: {what}"), client.entities().range_scan(request).await, expected());
        let request =
            v1::QueryRequest { filter: Some(filter), ..query(COLLECTION, near(SPACE, &[1.0, 0.0])) };
        verdict.of(&format!("query: {what}"), client.query(request).await, expected());
    }
    verdict.assert();
    assert_eq!(everything(&client).await, before, "nothing changed");
}

/// Makes another request of one.
type Change<'a> = &'a dyn Fn(&mut v1::RangeScanRequest);

#[tokio::test(flavor = "multi_thread")]
async fn page_tokens() {
    let (_process, client, _) = prepared().await;
    let mut verdict = Verdict::default();
    let request = v1::RangeScanRequest { collection: COLLECTION.into(), page_size: 2, ..Default::default() };
    let scan = |change: &dyn Fn(&mut v1::RangeScanRequest)| {
        let mut request = request.clone();
        change(&mut request);
        let mut entities = client.entities();
        async move { entities.range_scan(request).await.map(tonic::Response::into_inner) }
    };
    let token = scan(&|_| {}).await.expect("a page").next_page_token;
    assert!(!token.is_empty());
    scan(&|request| request.page_token = token.clone()).await.expect("the token as it was given");
    let bad = || Expected { reason: "PAGE_TOKEN", ..wrong("page_token") };
    for at in 0..token.len() {
        let mut tampered = token.clone().into_bytes();
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).expect("ASCII");
        verdict.of(
            &format!("byte {at} changed"),
            scan(&|request| request.page_token = tampered.clone()).await,
            bad(),
        );
        let cut = token[..at].to_owned();
        if at > 0 {
            verdict.of(
                &format!("cut at {at}"),
                scan(&|request| request.page_token = cut.clone()).await,
                bad(),
            );
        }
    }
    for garbage in ["x", "====", "not a token", &"A".repeat(10_000)] {
        verdict.of("garbage", scan(&|request| request.page_token = garbage.to_owned()).await, bad());
    }
    client.create("others", SPACE, 2).await;
    let foreign: [(&str, Change<'_>); 5] = [
        ("of another collection", &|request| request.collection = "others".into()),
        ("of another direction", &|request| request.reverse = true),
        ("of another prefix", &|request| request.id_prefix = "a".into()),
        ("of another filter", &|request| request.filter = Some(compare("year", Operator::Equal, int(1)))),
        ("of another mask", &|request| request.read_mask = mask(&["*"])),
    ];
    for (what, change) in foreign {
        let answer = scan(&|request| {
            request.page_token = token.clone();
            change(request);
        });
        verdict.of(what, answer.await, bad());
    }
    let list = v1::ListCollectionsRequest { page_token: token.clone(), ..Default::default() };
    verdict.of("of another call", client.collections().list_collections(list).await, bad());
    // Another daemon has another key.
    let (_other, stranger, _) = prepared().await;
    let mut strange = request.clone();
    strange.page_token = token.clone();
    verdict.of("of another daemon", stranger.entities().range_scan(strange).await, bad());

    let size = |page_size| scan(&move |request: &mut v1::RangeScanRequest| request.page_size = page_size);
    verdict.of("a page too long", size(1_001).await, too_much("page_size"));
    let list = v1::ListCollectionsRequest { page_size: 1_001, ..Default::default() };
    verdict.of("a list too long", client.collections().list_collections(list).await, too_much("page_size"));
    verdict.assert();
}

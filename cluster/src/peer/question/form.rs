//! What questions and answers of [`FORM`] 2 are on the way. Where one of these tests fails a type has changed: [`FORM`] is to be counted up, unless
//! no release had the type before, and the new form to be written here.

use std::fmt::Debug;

use super::*;

/// Bytes as numbers; texts behind their length; and what occurs often.
fn bytes(words: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in words.split_whitespace() {
        match (word, word.parse::<u8>()) {
            (_, Ok(byte)) => bytes.push(byte),
            ("KEY", _) => bytes.extend([1, 2, 1, b'a']),
            ("0.5", _) => bytes.extend(0.5_f64.to_le_bytes()),
            ("0.5f", _) => bytes.extend(0.5_f32.to_le_bytes()),
            (text, _) => {
                bytes.push(text.len() as u8);
                bytes.extend(text.bytes());
            }
        }
    }
    bytes
}

/// The bytes mean this, and this is those bytes.
fn is<T: Serialize + DeserializeOwned + Debug>(words: &str, meaning: &str) {
    let encoded = bytes(words);
    let read: T = postcard::from_bytes(&encoded).expect(meaning);
    let key = r#"EntityKey { tenant: TenantId(1), collection: CollectionId(2), id: "a" }"#;
    assert_eq!(format!("{read:?}").replace(key, "KEY"), meaning);
    assert_eq!(encode(&read).expect(meaning), encoded, "{meaning}");
}

#[test]
fn questions_have_the_form_that_they_say() {
    assert_eq!(FORM, 2, "what follows is of this form");
    is::<Question>(
        "0 c 3 0 s 0 1 0.5f 3 1 0 0 0 0 1 w 1 1 f 1 0.5 1 1 2 4 3 6 0 5 1 1 r 0 1 2 0.5 0 3 0.5 0 0 \
         0 4 1 a* 0 0 0 0 0 0 10 1 0.5 0 0 0 0 0 0 0 0 1 0 1 1 20 0 6 1 7 1 0 1 1 1 2 1 0.5 8 1 1 1 KEY \
         0 1 0",
        "Share(ShareRequest { query: Query { collection: \"c\", seeds: [Nearest(Nearest { space: \"s\", \
         target: Vector([0.5]), k: 3, exact: true, rescore: false, ef: 0, target_recall: None, \
         min_similarity: None }), Text { query: TextQuery { text: \"w\", operator: All, fields: \
         [(\"f\", Some(0.5))], prefix: true, fuzziness: 1, slop: 2 }, k: 4 }, Matching { filter: \
         Exists(Id), limit: 5 }], expand: Some(ExpandSpec { relations: [\"r\"], direction: Out, hops: \
         1, fan_out: 2, min_weight: 0.5, as_of: None, max_nodes: 3, decay: 0.5, pattern: None, \
         edge_filter: None, page_rank: None, seeds: 4, collections: CollectionSet([\"a*\"]) }), scoring: Scoring { mode: Weighted, \
         weights: None, fusion: Scores, half_life: None, as_of: None }, filter: None, limit: 10, \
         threshold: Some(0.5), read_mask: ReadMask { entity_type: false, attributes: false, \
         attribute_names: {}, metadata: false, vectors: false, vector_spaces: {}, chunks: false, \
         chunk_vectors: false }, explain: true, profile: false, highlight: Some(Highlight { \
         fragments: 1, length: 20 }), within: None, offset: 6, seen: [7], order_by: [Order { field: \
         Id, descending: true }], group_by: Some(GroupBy { field: Type, size: 2 }), diversity: \
         Some(Diversity { lambda: 0.5, candidates: 8 }), allow_partial: true }, left_out: [[KEY]], \
         inside: None, about: Some([]) })",
    );
    is::<Question>(
        "1 0.5 2 0 1 a* 1 0 1 r 1 KEY 0 3",
        "Links(LinksRequest { min_weight: 0.5, as_of: Timestamp(1), edge_filter: None, collections: CollectionSet([\"a*\"]), ways: [(Out, \
         [\"r\"])], nodes: [(KEY, 0, 3)] })",
    );
    is::<Question>(
        "2 c 1 a 0 p 1 0 3 0 1 0 1 n 0 1 0 0 1",
        "Ids(IdsRequest(ScanRequest { collection: \"c\", start: Some(\"a\"), end: None, prefix: \"p\", \
         reverse: true, filter: None, limit: 3, after: None, read_mask: ReadMask { entity_type: \
         true, attributes: false, attribute_names: {\"n\"}, metadata: false, vectors: true, \
         vector_spaces: {}, chunks: false, chunk_vectors: true } }))",
    );
    is::<Question>(
        "3 c 1 6 0 1 1 1",
        "Tallies(TallyRequest { collection: \"c\", filter: Some(Exists(Id)), partitions: [1], \
         digests: true })",
    );
    is::<Question>("4 c 1 1", "Rosters(RosterRequest { collection: \"c\", partitions: [1] })");
    is::<Question>(
        "5 c s 1 2 a 3 1 a*",
        "CameFrom(CameFromRequest { collection: \"c\", source: \"s\", place: SourcePlace { kind: \
         Chunks, partition: 2, after: \"a\" }, most: 3, collections: \
         CollectionSet([\"a*\"]) })",
    );
    is::<Question>(
        "6 c 1 1 1 3 2 2 3 0.5 1 1",
        "FacetCounts(FacetCountsRequest { collection: \"c\", fields: [Type], filter: \
         Some(Compare(Importance, Less, Double(0.5))), partitions: [1] })",
    );
    is::<Question>("7 0", "Tree(Swept)");
    is::<Question>("7 1 2 1 172 2", "Tree(Roots([1, 300]))");
    is::<Question>("7 2 1", "Tree(Branches(1))");
    is::<Question>("7 3 1 1 2", "Tree(Leaves { partition: 1, branches: [2] })");
    is::<Question>("7 4 1 1 2", "Tree(Entities { partition: 1, leaves: [2] })");
    is::<Question>(
        "8 1 1 KEY 1 1 2",
        "Holdings(HoldingsRequest { partition: 1, after: Some(KEY), leaves: Some([2]) })",
    );
    is::<Question>("9 1 1 1 KEY", "Acceptors(AcceptorsRequest { partitions: [1], after: Some(KEY) })");
}

#[test]
fn answers_have_the_form_that_they_say() {
    is::<Share>(
        "1 KEY 5 1 2 0 0 1 0.5 2 1 0 0 1 1 0.5f 1 1 0 0.5 0.5 0 3",
        "Share { known: [Known { entity: KEY, row_hash: 5, version: 0.1@2, best: None, text: None, \
         importance: Some(0.5), updated_at: Timestamp(1), order: [None], group: None, vector: \
         Some([0.5]) }], brought: [[Brought { at: 0, score: 0.5, nearness: 0.5 }]], truncated: [], \
         compared: 3 }",
    );
    is::<Vec<ToldLinks>>(
        "1 1 r 1 KEY e 0.5 1",
        "[ToldLinks([ToldRelation { name: \"r\", links: [ToldLink { other: KEY, edge_id: \"e\", weight: \
         0.5 }], has_more: true }])]",
    );
    is::<IdsPage>("1 a 0", "IdsPage { ids: [\"a\"], until: None }");
    is::<Vec<Tally>>("1 1 2", "[Tally { count: 1, digest: 2 }]");
    is::<Vec<Vec<Present>>>("1 1 KEY 3", "[[(KEY, 3)]]");
    is::<CameFrom>("0 1 a", "CameFrom { owners: [], last: Some(\"a\") }");
    is::<Vec<FacetCounts>>("1 1 1 9 0 2", "[FacetCounts([([9], Null, 2)])]");
    is::<TreeAnswer>("0 1 2 1 3 4", "Swept { upto: 0.1@2, is_done: true, closed: 0.3@4 }");
    is::<TreeAnswer>("1 1 1 2", "Sums([Sum { live: 1, dead: 2 }])");
    is::<TreeAnswer>("2 1 KEY 1 2", "Entities([(KEY, Sum { live: 1, dead: 2 })])");
    is::<Vec<(EntityKey, Vec<u8>)>>("1 KEY 1 9", "[(KEY, [9])]");
}

//! Words found in attributes and chunks, compared with an evaluator that looks at every text.

use std::collections::BTreeMap;

use allidb_index::{
    Error, WorkerChange,
    model::{
        Chunk, CollectionSpec, Entity, EntityPatch, EntityRef, Language, TextField, TextKind, TextSpec,
        Value, Write,
    },
    query::{Fusion, Highlight, Highlighted, Query, Seed, Signal, TextMatch, TextQuery},
};
use allidb_storage::fs::Fs as _;
use proptest::prelude::*;

use crate::fixture::{Fixture, TENANT, deadline};

fn field(attribute: &str, weight: f64, kind: TextKind) -> TextField {
    TextField { attribute: attribute.to_owned(), weight, language: Language::English, kind }
}

fn spec() -> TextSpec {
    TextSpec {
        chunks: Language::English,
        fields: vec![field("names", 1.0, TextKind::Names), field("body", 1.0, TextKind::Prose)],
    }
}

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture
        .replica
        .create_collection(TENANT, "t", CollectionSpec { text: spec(), ..CollectionSpec::default() })
        .unwrap();
    fixture
}

fn entity(id: &str, names: &[&str], body: &str, chunks: &[(&str, &str)]) -> Write {
    let mut entity = Entity { id: id.to_owned(), ..Entity::default() };
    let names = names.iter().map(|name| Value::String((*name).to_owned())).collect();
    entity.attributes.insert("names".to_owned(), Value::List(names));
    entity.attributes.insert("body".to_owned(), Value::String(body.to_owned()));
    for (id, text) in chunks {
        entity.chunks.insert((*id).to_owned(), Chunk { text: (*text).to_owned(), ..Chunk::default() });
    }
    Write::Put { collection: "t".to_owned(), entity: Box::new(entity) }
}

fn put(fixture: &Fixture, write: Write) {
    fixture.one(write).unwrap();
}

fn words(text: &str) -> TextQuery {
    TextQuery { text: text.to_owned(), ..TextQuery::default() }
}

fn query(words: TextQuery) -> Query {
    Query { limit: 100, ..Query::new("t", vec![Seed::Text { query: words, k: 0 }]) }
}

/// Ids and scores, best first.
fn found(fixture: &Fixture, words: TextQuery) -> Vec<(String, f64)> {
    let answer = fixture.replica.query(TENANT, &query(words), deadline()).unwrap();
    answer.hits.into_iter().map(|hit| (hit.entity.id, hit.score)).collect()
}

fn ids(fixture: &Fixture, words: TextQuery) -> Vec<String> {
    let mut ids: Vec<String> = found(fixture, words).into_iter().map(|(id, _)| id).collect();
    ids.sort();
    ids
}

#[test]
fn a_text_is_found_by_the_next_query_and_never_after_its_delete() {
    let fixture = fixture();
    put(
        &fixture,
        entity("dog", &["domestic dog", "hound"], "a friend that barks", &[("c1", "it runs fast")]),
    );
    for text in ["hounds", "BARKING", "run", "Dogs"] {
        assert_eq!(ids(&fixture, words(text)), ["dog"], "{text}");
    }
    assert!(ids(&fixture, words("cat")).is_empty());
    let answer = fixture.replica.query(TENANT, &query(words("running")), deadline()).unwrap();
    assert_eq!(answer.hits[0].chunk_id, "c1");
    // One attribute changes, the other stays.
    let mut patch = EntityPatch::new(EntityRef::new("t", "dog"));
    patch.attributes.insert("body".to_owned(), Some(Value::String("it meows".to_owned())));
    patch.chunks.insert("c1".to_owned(), None);
    put(&fixture, Write::Update(Box::new(patch)));
    for (text, is_there) in [("meow", true), ("hound", true), ("bark", false), ("run", false)] {
        assert_eq!(!ids(&fixture, words(text)).is_empty(), is_there, "{text}");
    }
    put(&fixture, Write::Delete(EntityRef::new("t", "dog")));
    for text in ["meow", "hound", "dog"] {
        assert!(ids(&fixture, words(text)).is_empty(), "{text}");
    }
}

#[test]
fn names_answer_by_how_much_of_them_the_query_covers() {
    let fixture = fixture();
    put(&fixture, entity("dog", &["dog", "domestic dog"], "", &[]));
    put(&fixture, entity("sled", &["dog sled team"], "", &[]));
    put(&fixture, entity("cat", &["cat"], "", &[]));
    let found = found(&fixture, words("my dog and I"));
    assert_eq!(found.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["dog", "sled"]);
    assert!(found[0].1 > 8.0 * found[1].1 && found[0].1 <= 1.0, "{found:?}");
    // Written alike counts more than of the same stem.
    put(&fixture, entity("dogs", &["dogs"], "", &[]));
    assert_eq!(self::found(&fixture, words("dogs"))[0].0, "dogs");
}

#[test]
fn all_phrases_prefixes_and_misspelt_words() {
    let fixture = fixture();
    put(&fixture, entity("1", &["new york"], "the quick brown fox jumps", &[("c", "over the lazy dog")]));
    put(&fixture, entity("2", &["york", "new"], "brown quick fox", &[]));
    let all = |text: &str| TextQuery { operator: TextMatch::All, ..words(text) };
    let phrase = |text: &str, slop| TextQuery { operator: TextMatch::Phrase, slop, ..words(text) };
    assert_eq!(ids(&fixture, all("quick fox")), ["1", "2"]);
    assert_eq!(ids(&fixture, all("quick jump")), ["1"]);
    assert_eq!(ids(&fixture, all("quick dog")), Vec::<String>::new(), "in different texts");
    assert_eq!(ids(&fixture, phrase("quick brown fox", 0)), ["1"]);
    assert_eq!(ids(&fixture, phrase("brown fox", 0)), ["1"]);
    assert_eq!(ids(&fixture, phrase("quick fox", 0)), ["2"]);
    assert_eq!(ids(&fixture, phrase("quick fox", 1)), ["1", "2"]);
    assert_eq!(ids(&fixture, phrase("new york", 0)), ["1"], "not across names");
    assert_eq!(ids(&fixture, phrase("lazy dogs", 0)), ["1"]);
    let prefix = |text: &str| TextQuery { prefix: true, ..words(text) };
    assert_eq!(ids(&fixture, prefix("jum")), ["1"]);
    assert_eq!(ids(&fixture, TextQuery { operator: TextMatch::All, ..prefix("brown qui") }), ["1", "2"]);
    assert!(ids(&fixture, words("qui")).is_empty());
    let fuzzy = |text: &str, fuzziness| TextQuery { fuzziness, ..words(text) };
    assert_eq!(ids(&fixture, fuzzy("quikc", 1)), ["1", "2"]);
    assert_eq!(ids(&fixture, fuzzy("browwn", 1)), ["1", "2"]);
    assert!(ids(&fixture, fuzzy("kwick", 1)).is_empty());
    assert!(ids(&fixture, fuzzy("bqwwn", 1)).is_empty());
    assert_eq!(ids(&fixture, fuzzy("brwwwn", 2)), ["1", "2"]);
    let chunks = TextQuery { fields: vec![("chunks".to_owned(), None)], ..words("quick dog") };
    assert_eq!(ids(&fixture, chunks), ["1"]);
    let body = TextQuery { fields: vec![("attributes.body".to_owned(), Some(2.0))], ..words("york fox") };
    assert_eq!(ids(&fixture, body), ["1", "2"]);
}

#[test]
fn wrong_words_are_refused_with_the_place() {
    let fixture = fixture();
    let refused = |words: TextQuery| match fixture.replica.query(TENANT, &query(words), deadline()) {
        Err(error @ Error::Invalid { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(words(" ")), "seeds[0].text.text must not be empty");
    assert_eq!(refused(TextQuery { fuzziness: 3, ..words("a") }), "seeds[0].text.fuzziness is 3; at most 2");
    assert_eq!(refused(TextQuery { slop: 101, ..words("a") }), "seeds[0].text.slop is 101; at most 100");
    let unknown = TextQuery { fields: vec![("color".to_owned(), None)], ..words("a") };
    assert!(refused(unknown).contains("is \"color\", which the collection does not declare"));
    let many: String = (0..1_025).map(|at| format!("w{at} ")).collect();
    assert!(refused(words(&many)).contains("more than 1024 different words"));
    let huge = "a".repeat(70_000);
    assert!(refused(words(&huge)).contains("at most 65536"));
}

#[test]
fn collections_and_tenants_see_their_own_texts_alone() {
    let fixture = fixture();
    fixture
        .replica
        .create_collection(TENANT, "other", CollectionSpec { text: spec(), ..CollectionSpec::default() })
        .unwrap();
    put(&fixture, entity("a", &["dog"], "", &[]));
    let score = found(&fixture, words("dog"));
    for at in 0..20 {
        let mut entity = Entity { id: at.to_string(), ..Entity::default() };
        entity.attributes.insert("names".to_owned(), Value::String("dog".to_owned()));
        put(&fixture, Write::Put { collection: "other".to_owned(), entity: Box::new(entity) });
    }
    assert_eq!(found(&fixture, words("dog")), score, "scores know nothing of other collections");
    fixture.replica.drop_collection(TENANT, "other").unwrap();
    let fixture = fixture.reopen();
    assert_eq!(found(&fixture, words("dog")), score);
    assert_eq!(fixture.replica.text_counts().documents, 1);
}

#[test]
fn places_among_what_was_found_can_be_fused() {
    let fixture = fixture();
    put(&fixture, entity("a", &["dog"], "cat", &[]));
    put(&fixture, entity("b", &["dog sled"], "", &[]));
    let mut query = query(words("dog"));
    query.scoring.fusion = Fusion::ReciprocalRank { k: 60.0 };
    let answer = fixture.replica.query(TENANT, &query, deadline()).unwrap();
    let scores: Vec<f64> = answer.hits.iter().map(|hit| hit.score).collect();
    assert_eq!(scores, [1.0, 61.0 / 62.0]);
}

#[test]
fn damaged_and_lost_segments_are_made_again_from_the_rows() {
    let mut fixture = fixture();
    let asked = "dog sleds barking";
    for at in 0..40 {
        put(
            &fixture,
            entity(&at.to_string(), &["dog", &format!("sled {at}")], "it barks", &[("c", "a dog")]),
        );
    }
    fixture.replica.seal_texts().unwrap();
    put(&fixture, Write::Delete(EntityRef::new("t", "7")));
    put(&fixture, entity("8", &["sled"], "", &[]));
    let before = found(&fixture, words(asked));
    assert_eq!(before.len(), 39);
    let dir = std::path::Path::new("/node/texts");
    for ending in [".term", ".idx", ".pos", ".fieldnorm", ".fast", "meta.json"] {
        for damage in ["lost", "empty", "shorter", "middle", "end", "documents"] {
            fixture.replica.seal_texts().unwrap();
            let names = fixture.fs.list(dir).unwrap();
            let name = names.iter().find(|name| name.ends_with(ending)).unwrap();
            let path = dir.join(name);
            let file = fixture.fs.open(&path).unwrap();
            let len = file.byte_len().unwrap();
            let flip = |at: u64| {
                let mut byte = [0];
                file.read_exact_at(at, &mut byte).unwrap();
                file.write_all_at(at, &[byte[0] ^ 0x40]).unwrap();
            };
            match damage {
                "lost" => fixture.fs.remove(&path).unwrap(),
                "empty" => file.set_len(0).unwrap(),
                "shorter" => file.set_len(len - 1).unwrap(),
                "middle" => flip(len / 2),
                "end" => flip(len - 5),
                // Nothing but this file says how many documents there are.
                _ if ending == "meta.json" => {
                    let text = String::from_utf8(file.read_all().unwrap()).unwrap();
                    let at = text.find("\"max_doc\"").unwrap();
                    let digit = at + text[at..].find(|c: char| c.is_ascii_digit()).unwrap();
                    file.write_all_at(digit as u64, b"3").unwrap();
                }
                _ => continue,
            }
            fixture = fixture.reopen();
            assert_eq!(found(&fixture, words(asked)), before, "{ending}: {damage}");
        }
    }
}

#[test]
fn texts_that_a_start_replays_are_safe_until_they_are_sealed() {
    let mut fixture = fixture();
    let paused = |is_paused| WorkerChange { paused: Some(is_paused), ..WorkerChange::default() };
    fixture.replica.change_worker("text-seal", paused(true)).unwrap();
    // More than one growing set holds.
    let count = 33_000;
    let ids: Vec<usize> = (0..count).collect();
    for batch in ids.chunks(500) {
        let writes = batch.iter().map(|at| entity(&at.to_string(), &[&format!("w{}", at % 100)], "", &[]));
        fixture.write(writes.collect()).into_iter().for_each(|written| {
            written.unwrap();
        });
    }
    for start in 0..3 {
        fixture = fixture.crash();
        assert_eq!(fixture.replica.text_counts().documents, count, "start {start}");
        // Some are sealed, some are not.
        put(&fixture, entity("0", &["w0"], "", &[]));
    }
}

#[test]
fn words_of_which_no_stem_is_left_are_words() {
    let fixture = Fixture::new();
    let greek = TextField { language: Language::Greek, ..field("names", 1.0, TextKind::Names) };
    let spec = TextSpec { chunks: Language::Greek, fields: vec![greek] };
    fixture
        .replica
        .create_collection(TENANT, "t", CollectionSpec { text: spec, ..CollectionSpec::default() })
        .unwrap();
    put(&fixture, entity("1", &["ους", "gamma"], "", &[("c", "ους 1234 5678")]));
    for operator in [TextMatch::Any, TextMatch::All, TextMatch::Phrase] {
        let asked = TextQuery { operator, ..words("ους 1234 5678") };
        assert_eq!(ids(&fixture, asked), ["1"], "{operator:?}");
    }
}

#[test]
fn a_word_that_everything_has_is_found_and_dead_words_hide_none() {
    let fixture = fixture();
    put(&fixture, entity("1", &["Acme"], "", &[("c", "Acme is good")]));
    put(&fixture, entity("2", &["Acme"], "", &[]));
    assert_eq!(ids(&fixture, words("acme")), ["1", "2"]);
    let id = |at: usize| format!("dead{at}");
    for is_sealed in [false, true] {
        (0..300).for_each(|at| put(&fixture, entity(&id(at), &[&format!("zzqa{at}")], "", &[])));
        put(&fixture, entity("living", &["zzqlive"], "", &[]));
        if is_sealed {
            fixture.replica.seal_texts().unwrap();
        }
        (0..300).for_each(|at| put(&fixture, Write::Delete(EntityRef::new("t", id(at)))));
        let begins = TextQuery { prefix: true, ..words("zzq") };
        assert_eq!(ids(&fixture, begins), ["living"], "sealed: {is_sealed}");
        assert_eq!(ids(&fixture, TextQuery { fuzziness: 2, ..words("zzqlove") }), ["living"]);
    }
}

/// Few words, so that texts share them.
fn text() -> impl Strategy<Value = String> {
    let words = ["dog", "cat", "run", "runs", "red", "the", "new york", "a"];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..8)
        .prop_map(|words| words.join(" "))
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<String>, String, String),
    Delete(u8),
    Reopen,
    Crash,
    Seal,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12_u8, proptest::collection::vec(text(), 0..3), text(), text())
            .prop_map(|(id, names, body, chunk)| Step::Put(id, names, body, chunk)),
        2 => (0..12_u8).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        2 => Just(Step::Seal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever was written, deleted, sealed and opened again: the same words get the same entities and scores as in a store
    /// into which only what is left was written.
    #[test]
    fn scores_depend_on_what_is_there_and_on_nothing_else(
        steps in proptest::collection::vec(step(), 1..40), asked in proptest::collection::vec(text(), 3),
    ) {
        let mut lived = fixture();
        let mut left: BTreeMap<u8, Write> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(id, names, body, chunk) => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let write = entity(&id.to_string(), &names, &body, &[("c", &chunk)]);
                    put(&lived, write.clone());
                    left.insert(id, write);
                }
                Step::Delete(id) => {
                    put(&lived, Write::Delete(EntityRef::new("t", id.to_string())));
                    left.remove(&id);
                }
                Step::Reopen => lived = lived.reopen(),
                Step::Crash => lived = lived.crash(),
                Step::Seal => lived.replica.seal_texts().unwrap(),
            }
        }
        let fresh = fixture();
        left.into_values().for_each(|write| put(&fresh, write));
        for text in asked.iter().filter(|text| !text.is_empty()) {
            for operator in [TextMatch::Any, TextMatch::All, TextMatch::Phrase] {
                let words = TextQuery { operator, ..words(text) };
                prop_assert_eq!(found(&lived, words.clone()), found(&fresh, words));
            }
        }
    }
}

#[test]
fn the_parts_of_texts_that_answer_are_shown() {
    let fixture = fixture();
    put(
        &fixture,
        entity(
            "a",
            &["river bank", "bank"],
            "Banks by the rivers.",
            &[("c", "no water"), ("d", "a riverbed by the river")],
        ),
    );
    let shown = |words: TextQuery| {
        let highlight = Some(Highlight { fragments: 2, length: 60 });
        let answer = fixture.query(&Query { highlight, ..query(words) });
        let part = |part: &Highlighted| {
            let pieces = part
                .pieces
                .iter()
                .map(|piece| if piece.is_match { format!("[{}]", piece.text) } else { piece.text.clone() });
            format!("{} {}: {}", part.field, part.chunk_id, pieces.collect::<String>())
        };
        answer.hits[0].highlights.iter().map(part).collect::<Vec<_>>()
    };
    assert_eq!(shown(words("river")), ["names : [river] bank", "body : Banks by the [rivers]."]);
    let chunks = TextQuery { fields: vec![("chunks".into(), None)], ..words("river") };
    assert_eq!(shown(chunks), ["chunks d: a riverbed by the [river]"]);
    let body = TextQuery { fields: vec![("body".into(), None)], ..words("bank river") };
    assert_eq!(shown(body), ["body : [Banks] by the [rivers]."]);
    let prefix = TextQuery { prefix: true, fields: vec![("chunks".into(), None)], ..words("riv") };
    assert_eq!(shown(prefix), ["chunks d: a [riverbed] by the [river]"]);
    for (highlight, why) in [
        (Highlight { fragments: 0, length: 60 }, "highlight.fragments is 0; it must be 1 to 20"),
        (Highlight { fragments: 2, length: 5 }, "highlight.length is 5; it must be 20 to 2000"),
    ] {
        let query = Query { highlight: Some(highlight), ..query(words("river")) };
        let refused = fixture.replica.query(TENANT, &query, deadline()).unwrap_err();
        assert_eq!(refused.to_string(), why);
    }
}

/// Words of which the first are much commoner than the last, as in any language.
fn skewed(random: &mut u64, count: u64) -> String {
    let mut next = || {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) as f64 / f64::from(1 << 31)
    };
    let words: Vec<String> =
        (0..count).map(|_| format!("w{}", (60.0_f64.powf(next()) - 1.0) as u64)).collect();
    words.join(" ")
}

/// Many common words and few rare ones: most texts are never looked at when few are asked for.
#[test]
fn the_best_few_are_the_first_of_all() {
    let fixture = fixture();
    let mut random = 7;
    let mut one = |n: u64| {
        let name = if n.is_multiple_of(7) { skewed(&mut random, 2) } else { String::new() };
        let chunk = skewed(&mut random, n % 5);
        let chunks: &[(&str, &str)] = if n.is_multiple_of(3) { &[("c", &chunk)] } else { &[] };
        entity(&format!("e{n:05}"), &[&name], &skewed(&mut random, 1 + n % 30), chunks)
    };
    for from in (0..9_000).step_by(500) {
        fixture.write((from..from + 500).map(&mut one).collect()).into_iter().for_each(|done| {
            done.unwrap();
        });
        if from == 6_000 {
            fixture.replica.seal_texts().unwrap();
            fixture.write((0..300).map(&mut one).collect());
        }
    }
    let mut random = 11;
    for at in 0..12 {
        let operator = if at % 4 == 3 { TextMatch::All } else { TextMatch::Any };
        let words = || TextQuery { operator, ..words(&skewed(&mut random.clone(), 2 + 3 * at)) };
        let ask = |k: usize, seeds: Vec<Seed>| {
            let query = Query { limit: k, explain: true, ..Query::new("t", seeds) };
            fixture.replica.query(TENANT, &query, deadline()).unwrap().hits
        };
        let best = |k: usize| -> Vec<(String, String, u64)> {
            let hits = ask(k, vec![Seed::Text { query: words(), k }]).into_iter();
            hits.map(|hit| (hit.entity.id, hit.chunk_id, hit.score.to_bits())).collect()
        };
        let all = best(10_000);
        assert!(all.len() > 20, "{} match", all.len());
        for k in [1, 3, 10, 100, 1_000] {
            let some = best(k);
            let scores = |of: &[(String, String, u64)]| of.iter().map(|hit| hit.2).collect::<Vec<_>>();
            // Those that answer as well may be others.
            assert_eq!(
                scores(&some),
                scores(&all[..k.min(all.len())]),
                "the best {k} for {:?}",
                words().text
            );
            assert!(some.iter().all(|hit| all.contains(hit)));
        }
        // Those that something else brought score the same.
        let ids = || all.iter().step_by(all.len() / 20).map(|(id, ..)| EntityRef::new("t", id)).collect();
        let seeds = vec![Seed::Ids(ids()), Seed::Text { query: words(), k: 1 }];
        let hits: BTreeMap<String, f64> = (ask(100, seeds).into_iter())
            .map(|hit| {
                let text = hit.breakdown.iter().find(|part| part.signal == Signal::Text).unwrap();
                (hit.entity.id, text.value)
            })
            .collect();
        for (id, _, score) in all.iter().step_by(all.len() / 20) {
            assert_eq!(hits[id].to_bits(), *score, "{id}");
        }
        skewed(&mut random, 50);
    }
}

//! The same questions to what people glue together in one process: USearch for vectors, tantivy for words, petgraph for edges.
//!
//! Each is a library, in memory: there is no server to ask, nothing is durable, and answers are row numbers rather than entities.

use std::{collections::HashMap, path::Path, slice, thread};

use allidb_api::v1::TextField;
use anyhow::{Context, Result};
use petgraph::{Directed, csr::Csr};
use serde_json::Value as Json;
use tantivy::{
    Index, IndexReader, IndexWriter, TantivyDocument, Term,
    collector::TopDocs,
    query::{BooleanQuery, Occur, Query, TermQuery},
    schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
    tokenizer::TextAnalyzer,
};

use super::ways::{Question, Way};
use crate::{
    bench::vector::{Rows, Usearch},
    dataset::Dataset,
    vector_numbers::numbers,
};

/// Stems of English words, as tantivy calls them.
const TOKENIZER: &str = "en_stem";
/// Bytes that tantivy may buffer while it writes.
const WRITER_BYTES: usize = 256 << 20;
/// What each index brings for the others to order.
const CANDIDATES: usize = 100;
/// How often a text is repeated at most to weigh more than others.
const MOST_REPETITIONS: f64 = 16.0;
/// Breadth of the walks in the vector index.
const BREADTH: usize = 128;
/// Of reciprocal ranks (Cormack et al., 2009).
const RANK_CONSTANT: f32 = 60.0;
/// Words beside vectors.
const TEXT_WEIGHT: f32 = 0.75;
/// What is left of a seed's score one edge further.
const DECAY: f32 = 0.5;

/// The three of them, loaded.
pub(super) struct Glued {
    ids: Vec<String>,
    vectors: Usearch,
    words: Words,
    edges: Csr<(), (), Directed>,
    types: Vec<String>,
}

/// One field of all texts, in which those that weigh more stand more often.
///
/// With a field for each attribute and boosts, the right answer is far less often among the first ten.
struct Words {
    reader: IndexReader,
    row: Field,
    text: Field,
    analyzer: TextAnalyzer,
}

/// Rows and what they are worth, best first.
type Ranked = Vec<(u32, f32)>;

impl Glued {
    /// Loads a data set into all three.
    pub(super) fn load(data: &Path, texts: &[TextField]) -> Result<Self> {
        let dataset = Dataset::open(data)?;
        let ids = dataset.ids()?;
        let rows: HashMap<&str, u32> = ids.iter().zip(0..).map(|(id, row)| (id.as_str(), row)).collect();
        let mut edges = Vec::new();
        for line in dataset.edge_lines()?.context("the data set has no edges")? {
            let edge: Json = serde_json::from_str(&line?)?;
            let end = |name: &str| edge.get(name).and_then(Json::as_str).and_then(|id| rows.get(id)).copied();
            edges.push((end("from").context("no from")?, end("to").context("no to")?));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut graph =
            Csr::from_sorted_edges(&edges).map_err(|_| anyhow::anyhow!("edges are not sorted"))?;
        while graph.node_count() < ids.len() {
            graph.add_node(());
        }
        let threads = thread::available_parallelism()?.get();
        let mut vectors = Usearch::of(&Rows::of_data(data)?, threads)?;
        vectors.set_breadth(BREADTH);
        let (words, types) = Words::load(&dataset, texts)?;
        Ok(Self { ids, vectors, words, edges: graph, types })
    }

    /// The ids of the first `k` hits.
    pub(super) fn ask(&self, way: Way, question: &Question, k: usize) -> Result<Vec<&str>> {
        let near = || self.vectors.nearest(&numbers(&question.vector), CANDIDATES.max(k));
        let worded = || self.words.best(&question.text, CANDIDATES.max(k));
        let both = || anyhow::Ok(fused(&[(near()?, 1.0), (worded()?, TEXT_WEIGHT)], by_score));
        let mut hits = match way {
            Way::Vectors => near()?,
            Way::Words => worded()?,
            Way::Both => both()?,
            Way::BothRanks => fused(&[(near()?, 1.0), (worded()?, 1.0)], by_rank),
            Way::BothAndOneHop => self.walked(both()?, 1, k),
            Way::BothAndTwoHops => self.walked(both()?, 2, k),
            Way::BothTwoHopsFiltered => {
                let mut walked = self.walked(both()?, 2, k);
                walked.retain(|(row, _)| self.types[*row as usize] == "noun");
                walked
            }
        };
        hits.truncate(k);
        Ok(hits.into_iter().map(|(row, _)| self.ids[row as usize].as_str()).collect())
    }

    /// The hits, and what lies so many edges away from the first `seeds` of them.
    fn walked(&self, hits: Ranked, hops: usize, seeds: usize) -> Ranked {
        let mut best: HashMap<u32, f32> = hits.iter().copied().collect();
        let mut frontier: Ranked = hits.into_iter().take(seeds).collect();
        for _ in 0..hops {
            let mut next = Vec::new();
            for (row, score) in frontier {
                for other in self.edges.neighbors_slice(row) {
                    let worth = score * DECAY;
                    let known = best.entry(*other).or_insert(f32::NEG_INFINITY);
                    if worth > *known {
                        *known = worth;
                        next.push((*other, worth));
                    }
                }
            }
            frontier = next;
        }
        ranked(best)
    }
}

impl Words {
    /// Indexes texts, and returns the types of entities, too.
    fn load(dataset: &Dataset, texts: &[TextField]) -> Result<(Self, Vec<String>)> {
        let mut schema = Schema::builder();
        let row = schema.add_u64_field("row", FAST);
        let indexed = TextFieldIndexing::default()
            .set_tokenizer(TOKENIZER)
            .set_index_option(IndexRecordOption::WithFreqs);
        let options = TextOptions::default().set_indexing_options(indexed);
        let field = schema.add_text_field("text", options);
        let times = repetitions(texts);
        let index = Index::create_in_ram(schema.build());
        let mut writer: IndexWriter = index.writer_with_num_threads(1, WRITER_BYTES)?;
        let mut types = Vec::new();
        for (at, line) in dataset.entity_lines()?.enumerate() {
            let entity = dataset.entity_object(at, &line?)?;
            let mut document = TantivyDocument::default();
            document.add_u64(row, at as u64);
            for (text, &times) in texts.iter().zip(&times) {
                let values = match entity.get(&text.attribute) {
                    Some(Json::Array(values)) => values,
                    Some(value) => slice::from_ref(value),
                    None => continue,
                };
                for value in values.iter().filter_map(Json::as_str) {
                    (0..times).for_each(|_| document.add_text(field, value));
                }
            }
            types.push(entity.get("type").and_then(Json::as_str).unwrap_or_default().to_owned());
            writer.add_document(document)?;
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        let analyzer = index.tokenizers().get(TOKENIZER).context("tantivy has no stems")?;
        Ok((Self { reader: index.reader()?, row, text: field, analyzer }, types))
    }

    /// What answers best to any of the words.
    fn best(&self, text: &str, k: usize) -> Result<Ranked> {
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        let mut analyzer = self.analyzer.clone();
        let mut tokens = analyzer.token_stream(text);
        while tokens.advance() {
            let term = Term::from_field_text(self.text, &tokens.token().text);
            clauses.push((Occur::Should, Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs))));
        }
        let searcher = self.reader.searcher();
        let found = searcher.search(&BooleanQuery::new(clauses), &TopDocs::with_limit(k).order_by_score())?;
        let name = searcher.schema().get_field_name(self.row).to_owned();
        let rows = searcher.segment_readers().iter().map(|segment| segment.fast_fields().u64(&name));
        let rows = rows.collect::<tantivy::Result<Vec<_>>>()?;
        let row = |(score, place): (f32, tantivy::DocAddress)| {
            rows[place.segment_ord as usize].first(place.doc_id).map(|row| (row as u32, score))
        };
        Ok(found.into_iter().filter_map(row).collect())
    }
}

/// How often the texts of each attribute are indexed: as often as they weigh more than those that weigh least.
fn repetitions(texts: &[TextField]) -> Vec<usize> {
    let weight = |text: &TextField| text.weight.unwrap_or(1.0);
    let least = texts.iter().map(weight).fold(f64::INFINITY, f64::min);
    texts.iter().map(|text| (weight(text) / least).round().clamp(1.0, MOST_REPETITIONS) as usize).collect()
}

/// The sum of what each list says of a row, by its weight.
fn fused(lists: &[(Ranked, f32)], worth: fn(&Ranked, usize) -> f32) -> Ranked {
    let mut sums: HashMap<u32, f32> = HashMap::new();
    for (list, weight) in lists {
        for (place, (row, _)) in list.iter().enumerate() {
            *sums.entry(*row).or_default() += weight * worth(list, place);
        }
    }
    ranked(sums)
}

fn by_rank(_: &Ranked, place: usize) -> f32 {
    1.0 / (RANK_CONSTANT + 1.0 + place as f32)
}

/// From 0, the last of the list, to 1, its first.
fn by_score(list: &Ranked, place: usize) -> f32 {
    let (Some((_, most)), Some((_, least))) = (list.first(), list.last()) else { return 0.0 };
    if most > least { (list[place].1 - least) / (most - least) } else { 1.0 }
}

fn ranked(rows: HashMap<u32, f32>) -> Ranked {
    let mut rows: Ranked = rows.into_iter().collect();
    rows.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_fused_by_ranks_and_by_scores() {
        let lists = [(vec![(1, 0.9), (2, 0.5), (3, 0.1)], 1.0), (vec![(3, 8.0), (2, 4.0)], 1.0)];
        let rows = |ranked: Ranked| ranked.into_iter().map(|(row, _)| row).collect::<Vec<_>>();
        assert_eq!(rows(fused(&lists, by_rank)), [3, 2, 1]);
        assert_eq!(fused(&lists, by_score), [(1, 1.0), (3, 1.0), (2, 0.5)]);
    }
}

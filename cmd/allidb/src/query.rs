//! `allidb query`: near these vectors, then along these edges, scored together.

use std::{fs, path::PathBuf};

use allidb_api::v1::{
    Direction, Diversity, Examples, ExpandOptions, GroupBy, HighlightOptions, Ids, Nearest, OrderBy,
    QueryRequest, ReciprocalRank, ScoreMode, Scoring, SearchedField, Seed, TextMatch, TextSeed, Vector,
    Weights, nearest::Target, seed,
};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use prost_types::Duration;

use crate::{
    client::Client,
    duration_text,
    entities::mask,
    entity_json::entity_ref,
    failure::Failure,
    filter_syntax,
    graph::Way,
    hits,
    output::Output,
    plan,
    query_file::{self, FileArgs},
    vector_numbers,
};

/// Asks one question, or with --vectors a whole file of them.
///
/// A question begins at seeds: the entities nearest to a vector (--vector, --vector-file), those nearest
/// to another entity (--entity), those whose texts answer to some words (--text), or given ones (--ids). With --expand it goes on along edges, and
/// everything it found is scored together.
#[derive(Args, Debug)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    question: QuestionArgs,
    #[command(flatten)]
    file: FileArgs,
    /// Shows what was done for the answer, step by step, rather than the hits.
    #[arg(long, conflicts_with = "vectors")]
    plan: bool,
}

/// Which words must be there.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum WordMatch {
    /// At least one.
    Any,
    /// Each of them.
    All,
    /// All, one after the other.
    Phrase,
}

impl From<WordMatch> for TextMatch {
    fn from(matching: WordMatch) -> Self {
        match matching {
            WordMatch::Any => Self::Any,
            WordMatch::All => Self::All,
            WordMatch::Phrase => Self::Phrase,
        }
    }
}

/// What one question asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct QuestionArgs {
    /// The collection.
    #[arg(short, long)]
    pub(crate) collection: String,
    /// The vector space, or an alias of one.
    #[arg(short, long)]
    pub(crate) space: Option<String>,
    /// Nearest to this vector, a JSON array of numbers.
    #[arg(long, value_name = "JSON", group = "seed")]
    vector: Option<String>,
    /// Nearest to the vector in this file, a JSON array of numbers.
    #[arg(long, value_name = "FILE", group = "seed")]
    vector_file: Option<PathBuf>,
    /// Nearest to the vector that the server makes of this text, if it is configured to (`embedding`).
    #[arg(long, value_name = "TEXT", group = "seed")]
    near: Option<String>,
    /// Nearest to this entity's own vector; the entity itself is left out.
    #[arg(long, value_name = "ID", group = "seed")]
    entity: Option<String>,
    /// Nearest to what these entities have in common, with commas between; they are left out.
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "seed")]
    like: Vec<String>,
    /// And away from what these have in common.
    #[arg(long, value_name = "IDS", value_delimiter = ',', requires = "like")]
    unlike: Vec<String>,
    /// Begin at these entities, with commas between.
    #[arg(long, value_delimiter = ',', group = "seed")]
    ids: Vec<String>,
    /// Words to look for in texts; beside a vector, an entity or --near, both are scored together.
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// Shows the parts of texts that answer to the words.
    #[arg(long, requires = "text")]
    highlight: bool,
    /// Which of the words must be there.
    #[arg(long = "match", value_enum, default_value_t = WordMatch::Any, requires = "text")]
    matching: WordMatch,
    /// The last word may be the beginning of one.
    #[arg(long, requires = "text")]
    prefix: bool,
    /// So many letters of each word may be wrong, up to 2.
    #[arg(long, value_name = "N", requires = "text", default_value_t = 0, hide_default_value = true)]
    fuzziness: u32,
    /// Where to look for the words: attributes declared as text, or `chunks`, with commas between; everywhere unless given.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', requires = "text")]
    text_fields: Vec<String>,
    /// Score by places among what vectors and words found (reciprocal rank fusion) rather than by how near and how well.
    #[arg(long)]
    ranks: bool,
    /// How many hits.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) k: u32,
    /// How many nearest entities to begin at; as many as hits unless given.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    seeds: u32,
    /// Only entities that match, such as 'type = "noun" and lexname in ("noun.animal", "noun.plant")'.
    #[arg(long)]
    filter: Option<String>,
    /// Go on along edges of these relations, with commas between; `*` is every relation.
    #[arg(long, value_name = "RELATIONS", value_delimiter = ',')]
    expand: Vec<String>,
    /// Go on along relations that follow each other as a pattern says, such as 'hypernym{1,5}/part_holonym?'.
    #[arg(long, conflicts_with_all = ["expand", "direction"])]
    pattern: Option<String>,
    /// Follow only edges that match: `type` is the relation, `importance` the weight.
    #[arg(long, value_name = "FILTER")]
    edge_filter: Option<String>,
    /// Score what is reached by PageRank with this damping, such as 0.85, rather than by the best walk.
    #[arg(long, value_name = "DAMPING")]
    page_rank: Option<f64>,
    /// Which way edges are followed.
    #[arg(long, value_enum, default_value_t = Way::Out, requires = "expand")]
    direction: Way,
    /// How many edges away at most, up to 8: 1 unless given, with a pattern 8.
    #[arg(long, value_name = "N")]
    hops: Option<u32>,
    /// The heaviest edges followed from each node, for each relation; 0 is the server's default.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    fan_out: u32,
    /// How many nodes are reached at most; 0 is the server's default.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_nodes: u32,
    /// Follow only edges of at least this weight.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0, hide_default_value = true)]
    min_weight: f64,
    /// Factor for each hop, above 0 and up to 1.
    #[arg(long)]
    decay: Option<f64>,
    /// Find only what a walk from these ids reaches, with commas between: see --within-pattern.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    within: Vec<String>,
    /// The relations of that walk, such as 'hyponym*'.
    #[arg(
        long,
        value_name = "PATTERN",
        requires = "within",
        default_value = ".*",
        hide_default_value = true
    )]
    within_pattern: String,
    /// Leave out so many of the first hits or groups.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    offset: u32,
    /// The page after the one whose answer had this `next_page_token` (in its JSON); what was there does not come again.
    #[arg(
        long,
        value_name = "TOKEN",
        default_value = "",
        hide_default_value = true,
        conflicts_with = "vectors"
    )]
    page_token: String,
    /// Order hits by these fields rather than by score, with commas between; `-` before one: the greatest first.
    #[arg(long, value_name = "FIELDS", value_delimiter = ',', allow_hyphen_values = true)]
    order_by: Vec<String>,
    /// Put hits of one value of a field together, the best group first: FIELD[:SIZE].
    #[arg(long, value_name = "FIELD")]
    group_by: Option<String>,
    /// Choose hits that differ: what scores count beside that, from 0 to 1.
    #[arg(long, value_name = "LAMBDA")]
    diversity: Option<f64>,
    /// What becomes of the signals.
    #[arg(long, value_enum, default_value_t = Mode::Weighted)]
    mode: Mode,
    /// Weights of the signals, such as vector=1,graph=0.5,importance=0.1,recency=0.1.
    #[arg(long, value_parser = parse_weights)]
    weights: Option<Weights>,
    /// Recency halves each time this passes, such as 12h or 30d.
    #[arg(long, value_parser = duration_text::parse)]
    half_life: Option<Duration>,
    /// Leave out hits below this score.
    #[arg(long)]
    threshold: Option<f64>,
    /// Leave out seeds below this similarity, from 0 to 1.
    #[arg(long)]
    min_similarity: Option<f64>,
    /// Measure what is found by the stored vectors rather than by the index's codes.
    #[arg(long)]
    rescore: bool,
    /// Find this share of the nearest, from 0 to 1; the server chooses how broadly to search.
    #[arg(long, conflicts_with_all = ["ef", "exact"])]
    recall: Option<f64>,
    /// Show how each score came about, and the path by which each hit was reached.
    #[arg(long)]
    explain: bool,
    /// Leave out what lies on nodes of a ring that do not answer, rather than fail.
    #[arg(long)]
    allow_partial: bool,
    /// Compare with every vector instead of walking the index.
    #[arg(long)]
    exact: bool,
    /// Breadth of the index walk: larger is slower and finds more; 0 is the server's choice.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ef: u32,
    /// What to read of each hit, as in `get`.
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    fields: Vec<String>,
}

/// Runs the command.
pub(crate) async fn run(args: QueryArgs, client: &Client, output: Output) -> Result<()> {
    let QueryArgs { question, file, plan } = args;
    if file.vectors.is_some() {
        return query_file::run(question, file, client, output).await;
    }
    let mut request = question.request(question.seeds()?)?;
    request.consistency = client.consistency();
    if plan {
        return plan::show(request, client, output).await;
    }
    let answer = client.search().query(request).await.map_err(Failure::from_status)?.into_inner();
    if output.is_json() {
        output.document(&hits::to_json(&answer))?;
    } else {
        hits::print(&answer, question.explain, &str::to_owned, output)?;
    }
    Ok(())
}

impl QuestionArgs {
    /// The seeds that the arguments name.
    fn seeds(&self) -> Result<Vec<seed::Kind>> {
        let words = self.text.as_ref().map(|text| {
            let fields = self.text_fields.iter();
            seed::Kind::Text(TextSeed {
                text: text.clone(),
                r#match: TextMatch::from(self.matching) as i32,
                fields: fields.map(|name| SearchedField { name: name.clone(), weight: None }).collect(),
                prefix: self.prefix,
                fuzziness: self.fuzziness,
                slop: 0,
                k: self.seeds,
            })
        });
        let has_other = !self.ids.is_empty()
            || self.vector.is_some()
            || self.vector_file.is_some()
            || self.entity.is_some()
            || self.near.is_some()
            || !self.like.is_empty();
        let other = if has_other || words.is_none() { Some(self.seed()?) } else { None };
        Ok(other.into_iter().chain(words).collect())
    }

    /// The seed beside words that the arguments name.
    fn seed(&self) -> Result<seed::Kind> {
        if !self.ids.is_empty() {
            let refs = self.ids.iter().map(|id| entity_ref(&self.collection, id)).collect();
            return Ok(seed::Kind::Ids(Ids { refs }));
        }
        let text = match (&self.vector, &self.vector_file) {
            (Some(text), _) => Some(text.clone()),
            (None, Some(path)) => Some(fs::read_to_string(path).with_context(|| path.display().to_string())?),
            (None, None) => None,
        };
        let refs = |ids: &[String]| ids.iter().map(|id| entity_ref(&self.collection, id)).collect();
        let target = match (text, &self.entity) {
            _ if !self.like.is_empty() => {
                Target::Examples(Examples { positive: refs(&self.like), negative: refs(&self.unlike) })
            }
            (Some(text), _) => Target::Vector(read_vector(&text)?),
            _ if self.near.is_some() => Target::Text(self.near.clone().unwrap_or_default()),
            (None, Some(id)) => Target::Entity(entity_ref(&self.collection, id)),
            (None, None) => {
                let message = "where to begin? --vector, --vector-file, --near, --entity, --like, --text, --ids or --vectors";
                return Err(Failure::usage(message));
            }
        };
        self.nearest(target)
    }

    /// A seed near `target`, bounded as the arguments say.
    pub(crate) fn nearest(&self, target: Target) -> Result<seed::Kind> {
        let Some(space) = self.space.clone() else {
            return Err(Failure::usage("--space names the vector space to search"));
        };
        Ok(seed::Kind::Nearest(Nearest {
            space,
            k: self.seeds,
            exact: self.exact,
            ef: self.ef,
            min_similarity: self.min_similarity,
            rescore: self.rescore,
            target_recall: self.recall,
            target: Some(target),
        }))
    }

    /// The walk that bounds the question, if one does.
    fn bounds(&self) -> Option<QueryRequest> {
        let refs: Vec<_> = self.within.iter().map(|id| entity_ref(&self.collection, id)).collect();
        let expand = ExpandOptions { pattern: self.within_pattern.clone(), ..ExpandOptions::default() };
        let seed = Seed { kind: Some(seed::Kind::Ids(Ids { refs })) };
        (!self.within.is_empty()).then(|| QueryRequest {
            collection: self.collection.clone(),
            seeds: vec![seed],
            expand: Some(ExpandOptions { max_nodes: MAX_WITHIN, fan_out: MAX_WITHIN, ..expand }),
            ..QueryRequest::default()
        })
    }

    /// The whole question, beginning at these seeds.
    pub(crate) fn request(&self, seeds: Vec<seed::Kind>) -> Result<QueryRequest> {
        let edge_filter = self.edge_filter.as_deref().map(filter_syntax::parse_argument).transpose()?;
        let walks = !self.expand.is_empty() || self.pattern.is_some();
        if !walks && (edge_filter.is_some() || self.page_rank.is_some() || self.hops.is_some()) {
            return Err(Failure::usage("--hops, --edge-filter and --page-rank need --expand or --pattern"));
        }
        let expand = walks.then(|| ExpandOptions {
            relations: self.expand.iter().filter(|relation| *relation != "*").cloned().collect(),
            direction: Direction::from(self.direction) as i32,
            hops: self.hops.unwrap_or_default(),
            fan_out: self.fan_out,
            min_weight: self.min_weight,
            max_nodes: self.max_nodes,
            decay: self.decay,
            pattern: self.pattern.clone().unwrap_or_default(),
            edge_filter,
            page_rank: self.page_rank,
            ..ExpandOptions::default()
        });
        let mode = self.mode != Mode::Weighted;
        let scored = self.weights.is_some() || self.half_life.is_some() || self.ranks || mode;
        let score = scored.then(|| Scoring {
            weights: self.weights,
            half_life: self.half_life,
            mode: ScoreMode::from(self.mode).into(),
            reciprocal_rank: self.ranks.then(ReciprocalRank::default),
            ..Scoring::default()
        });
        Ok(QueryRequest {
            collection: self.collection.clone(),
            seeds: seeds.into_iter().map(|seed| Seed { kind: Some(seed) }).collect(),
            expand,
            score,
            filter: self.filter.as_deref().map(filter_syntax::parse_argument).transpose()?,
            limit: self.k,
            threshold: self.threshold,
            read_mask: mask(self.fields.clone()),
            explain: self.explain,
            allow_partial: self.allow_partial,
            highlight: self.highlight.then(HighlightOptions::default),
            within: self.bounds().map(Box::new),
            offset: self.offset,
            page_token: self.page_token.clone(),
            order_by: self.order_by.iter().map(|field| order_by(field)).collect(),
            group_by: self.group_by.as_deref().map(group_by).transpose()?,
            diversity: self.diversity.map(|lambda| Diversity { lambda: Some(lambda), candidates: 0 }),
            ..QueryRequest::default()
        })
    }
}

fn read_vector(text: &str) -> Result<Vector> {
    let json = serde_json::from_str(text).map_err(|error| Failure::usage(format!("the vector: {error}")))?;
    vector_numbers::from_json(&json).map_err(|error| Failure::usage(error.to_string()))
}

fn parse_weights(text: &str) -> Result<Weights, String> {
    let mut weights = Weights::default();
    for part in text.split(',') {
        let (signal, weight) =
            part.split_once('=').ok_or("weights are SIGNAL=NUMBER, with commas between")?;
        let weight = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight >= 0.0);
        let weight = weight.ok_or_else(|| format!("`{part}`: a weight is a number from 0 on"))?;
        let slot = match signal.trim() {
            "vector" => &mut weights.vector,
            "text" => &mut weights.text,
            "graph" => &mut weights.graph,
            "importance" => &mut weights.importance,
            "recency" => &mut weights.recency,
            _ => {
                return Err(format!(
                    "`{signal}`: the signals are vector, text, graph, importance and recency"
                ));
            }
        };
        *slot = weight;
    }
    Ok(weights)
}

/// What becomes of the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Their weighted mean.
    Weighted,
    /// The mean of vector, text and graph, boosted by importance and recency.
    Boost,
    /// The formula of the first AlliDB.
    AllidbV1,
}

impl From<Mode> for ScoreMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Weighted => Self::Weighted,
            Mode::Boost => Self::Boost,
            Mode::AllidbV1 => Self::AllidbV1,
        }
    }
}

/// Nodes and edges of a walk that bounds a question.
const MAX_WITHIN: u32 = 10_000;

fn order_by(field: &str) -> OrderBy {
    let (descending, field) = match field.strip_prefix('-') {
        Some(field) => (true, field),
        None => (false, field),
    };
    OrderBy { field: field.to_owned(), descending }
}

fn group_by(argument: &str) -> Result<GroupBy> {
    let (field, size) = argument.split_once(':').unwrap_or((argument, "1"));
    let size = size.parse().map_err(|_| Failure::usage(format!("--group-by: {size:?} is no number")))?;
    Ok(GroupBy { field: field.to_owned(), size })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: QueryArgs,
    }

    fn question(arguments: &[&str]) -> QuestionArgs {
        let line = ["query", "-c", "words"].iter().chain(arguments);
        Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).args.question
    }

    #[test]
    fn the_arguments_become_the_request() {
        let question = question(&[
            "-s",
            "gloss",
            "--vector",
            "[1, 0]",
            "--expand",
            "hypernym,hyponym",
            "--hops",
            "2",
            "--direction",
            "both",
            "--weights",
            "vector=1,graph=0.5",
            "--half-life",
            "30d",
            "--filter",
            "type = \"noun\"",
            "-k",
            "5",
            "--explain",
        ]);
        let request = question.request(question.seeds().unwrap()).unwrap();
        assert_eq!(request.limit, 5);
        assert!(request.explain && request.filter.is_some());
        let expand = request.expand.unwrap();
        assert_eq!((expand.relations.len(), expand.hops, expand.direction()), (2, 2, Direction::Both));
        let score = request.score.unwrap();
        assert_eq!(score.weights.unwrap().graph, 0.5);
        assert_eq!(score.half_life.unwrap().seconds, 30 * 86_400);
    }

    #[test]
    fn a_star_follows_every_relation_and_no_expand_follows_none() {
        let all = question(&["--ids", "a,b", "--expand", "*"]);
        let request = all.request(all.seeds().unwrap()).unwrap();
        assert!(request.expand.unwrap().relations.is_empty());
        let none = question(&["--ids", "a,b"]);
        assert!(none.request(none.seeds().unwrap()).unwrap().expand.is_none());
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        assert!(question(&[]).seeds().is_err());
        assert!(question(&["--text", "dog"]).seeds().is_ok_and(|seeds| seeds.len() == 1));
        let both = question(&["--text", "dog", "-s", "x", "--vector", "[1]"]).seeds();
        assert!(both.is_ok_and(|seeds| seeds.len() == 2));
        assert!(question(&["--vector", "[1]"]).seed().is_err());
        assert!(question(&["-s", "x", "--vector", "[]"]).seed().is_err());
        for bad in ["vector", "vector=x", "vector=-1", "speed=1", "vector=inf"] {
            assert!(parse_weights(bad).is_err(), "{bad} was taken");
        }
    }
}

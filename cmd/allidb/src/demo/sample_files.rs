//! The sample of WordNet that the program carries, unpacked for the importer.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use allidb_api::v1::Vector;
use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    dataset::{Dataset, Lines},
    npy::NpyFile,
};

const FILES: [(&str, &[u8]); 6] = [
    ("entities.jsonl.zst", include_bytes!("../../sample/entities.jsonl.zst")),
    ("edges.jsonl.zst", include_bytes!("../../sample/edges.jsonl.zst")),
    ("vectors.f16.npy", include_bytes!("../../sample/vectors.f16.npy")),
    ("queries.jsonl", include_bytes!("../../sample/queries.jsonl")),
    ("queries.f32.npy", include_bytes!("../../sample/queries.f32.npy")),
    ("NOTICE", include_bytes!("../../sample/NOTICE")),
];

/// The unpacked sample.
pub(super) struct Sample {
    /// What the importer loads.
    pub(super) dataset: Arc<Dataset>,
    /// The first word of each synset, by id.
    names: HashMap<String, String>,
    /// The vector of each sentence.
    sentences: HashMap<String, Vector>,
}

#[derive(Deserialize)]
struct Synset {
    id: String,
    lemmas: Vec<String>,
}

#[derive(Deserialize)]
struct Sentence {
    text: String,
}

impl Sample {
    /// Writes the files into `dir` and reads what the story needs of them.
    pub(super) fn unpack(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        for (name, bytes) in FILES {
            fs::write(dir.join(name), bytes).with_context(|| format!("cannot write {name}"))?;
        }
        let dataset = Arc::new(Dataset::open(dir)?);
        let mut names = HashMap::new();
        for line in dataset.entity_lines()? {
            let Synset { id, lemmas } = serde_json::from_str(&line?)?;
            names.insert(id, lemmas.into_iter().next().unwrap_or_default());
        }
        let vectors = NpyFile::open(&dir.join("queries.f32.npy"))?.vectors()?;
        let texts = Lines::open(&dir.join("queries.jsonl"))?
            .map(|line| Ok(serde_json::from_str::<Sentence>(&line?)?.text))
            .collect::<Result<Vec<_>>>()?;
        let sentences = texts.into_iter().zip(vectors).collect();
        Ok(Self { dataset, names, sentences })
    }

    /// The word that stands for an id; the id itself if it is not of the sample.
    pub(super) fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }

    /// The vector of one of the sample's sentences.
    pub(super) fn vector(&self, sentence: &str) -> Result<Vector> {
        self.sentences
            .get(sentence)
            .cloned()
            .with_context(|| format!("the sample lacks the sentence `{sentence}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{demo::questions, sample::ASKED_BY_THE_DEMO, vector_numbers::numbers};

    fn sample() -> (tempfile::TempDir, Sample) {
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::unpack(dir.path()).unwrap();
        (dir, sample)
    }

    #[test]
    fn what_the_demo_asks_is_in_the_sample() {
        let (_dir, sample) = sample();
        for sentence in [questions::APPLES, questions::HUMMINGBIRD] {
            assert!(ASKED_BY_THE_DEMO.contains(&sentence));
            assert_eq!(sample.vector(sentence).unwrap().dimension, 384);
        }
        assert_eq!(sample.name(questions::DELICIOUS), "Delicious");
        assert_eq!(sample.name(questions::BRAMLEY), "Bramley's Seedling");
        assert_eq!(sample.name(questions::HUMMINGBIRD_ID), "hummingbird");
    }

    #[test]
    fn the_graph_finds_a_hummingbird_that_the_vectors_miss() {
        let (_dir, sample) = sample();
        let vectors = sample.dataset.vectors.as_ref().unwrap().vectors().unwrap();
        let asked = numbers(&sample.vector(questions::HUMMINGBIRD).unwrap());
        let ids = sample.dataset.ids().unwrap();
        let similarity =
            |vector: &Vector| numbers(vector).iter().zip(&asked).map(|(a, b)| a * b).sum::<f32>();
        let mut scored: Vec<_> = vectors.iter().map(similarity).zip(&ids).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        let nearest: Vec<_> = scored.iter().take(questions::SEEDS as usize).map(|(_, id)| *id).collect();
        assert!(!nearest.iter().any(|id| *id == questions::HUMMINGBIRD_ID));
        let leads = |line: Result<String>| {
            let line = line.unwrap();
            let edge = serde_json::from_str::<serde_json::Value>(&line).unwrap();
            edge["relation"] == "hypernym"
                && edge["to"] == questions::HUMMINGBIRD_ID
                && nearest.iter().any(|id| edge["from"] == **id)
        };
        assert!(sample.dataset.edge_lines().unwrap().unwrap().any(leads));
    }
}

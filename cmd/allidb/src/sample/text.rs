//! The licence and the description that lie beside the sample.

use anyhow::{Context, Result};

/// The heading under which the data set's description keeps the licence.
const LICENCE_HEADING: &str = "## WordNet 3.0 licence\n";

/// The licences of what is in the sample.
pub(super) fn notice(dataset_readme: &str) -> Result<String> {
    let (_, licence) = dataset_readme
        .split_once(LICENCE_HEADING)
        .context("the data set's README.md lacks the WordNet licence")?;
    Ok(format!(
        "\
The entities, edges and query sentences in this directory are a part of WordNet 3.0.
The vectors were computed from them with the model all-MiniLM-L6-v2 (sentence-transformers),
which is under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

WordNet 3.0 licence

{}
",
        licence.trim()
    ))
}

/// What the sample is and how it was made.
pub(super) fn readme(entities: usize, edges: usize, queries: usize, dimension: usize) -> String {
    format!(
        "\
# A small piece of WordNet

{entities} synsets (sets of words with one meaning) of WordNet 3.0 around animals, food, plants, feelings,
weather, music and the body, the {edges} edges among them, the {dimension}-dimensional embedding of each,
and {queries} sentences to ask. `allidb demo` carries these files.

| file | what |
| --- | --- |
| `entities.jsonl.zst` | one synset a line: `id`, `type`, `lexname`, `lemmas`, `gloss` |
| `edges.jsonl.zst` | one edge a line: `to` is a `relation` of `from` |
| `vectors.f16.npy` | float16, row i belongs to line i of the entities |
| `queries.jsonl` | sentences from WordNet's usage examples; `row` is the synset that the sentence illustrates, not the answer to it |
| `queries.f32.npy` | float32, their embeddings |
| `truth.top10.ivecs` | for each query the exact nearest 10 rows of this sample by cosine, best first |
| `NOTICE` | the licences |

## How it was made
    allidb data sample --from WORDNET --out DIR

out of a data set of all 117,659 synsets in the same layout. Queries were chosen whose nearest synsets lie
in those topics; the sample begins with their synsets, the nearest of each, and some words of every topic,
and grows along edges, always to the synset with most edges into what is already there. The same input
gives the same files. The vectors are those of `lemma1, lemma2: gloss`, L2-normalised, by
`all-MiniLM-L6-v2`.
"
    )
}

#[cfg(test)]
mod tests {
    use super::notice;

    #[test]
    fn the_licence_is_taken_whole_or_not_at_all() {
        let text = notice("# data\n\n## WordNet 3.0 licence\nThis software\nSTERLING\n").unwrap();
        assert!(text.contains("This software\nSTERLING\n") && text.contains("Apache"));
        assert!(notice("# data\n").is_err());
    }
}

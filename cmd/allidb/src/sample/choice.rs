//! Which queries and synsets make up the sample.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
};

use super::source::Source;

/// Topics that need no explanation, each by lexicographer files and words to begin at.
const TOPICS: [(&[&str], &[&str]); 7] = [
    (
        &["noun.animal"],
        &[
            "dog",
            "cat",
            "horse",
            "hummingbird",
            "gull",
            "eagle",
            "whale",
            "dinosaur",
            "mouse",
            "salmon",
            "butterfly",
        ],
    ),
    (
        &["noun.food", "verb.consumption"],
        &[
            "bread",
            "cheese",
            "wine",
            "apple",
            "omelet",
            "chocolate",
            "soup",
            "fish",
            "nutmeg",
            "coffee",
            "eat",
            "drink",
        ],
    ),
    (&["noun.plant"], &["apple tree", "oak", "rose", "nutmeg", "elm", "grape"]),
    (
        &["noun.feeling", "verb.emotion"],
        &["joy", "fear", "anger", "love", "hope", "sadness", "pride", "surprise", "despair", "hate"],
    ),
    (
        &["noun.phenomenon", "verb.weather"],
        &["rain", "snow", "wind", "storm", "thunder", "lightning", "fog", "cloud", "sunset", "weather"],
    ),
    (
        &["noun.communication", "verb.creation", "noun.artifact"],
        &["music", "opera", "song", "piano", "violin", "guitar", "drum", "trumpet", "symphony", "sing"],
    ),
    (&["noun.body"], &["heart", "eye", "hand", "brain", "bone"]),
];

/// Sentences that the demo asks: they are always in the sample.
pub(crate) const ASKED_BY_THE_DEMO: [&str; 4] = [
    "The apple tree bore delicious apples this year",
    "The hummingbird flitted among the branches",
    "anticipation produced in me a sensation somewhere between hope and fear",
    "This tastes of nutmeg",
];

/// How many of a query's nearest synsets are looked at, and taken into the sample.
const NEAREST: usize = 6;

/// How often the hypernyms of what was chosen first are added, so that most of it hangs together.
const HYPERNYM_ROUNDS: usize = 2;

fn is_topical(lexname: &str) -> bool {
    // Music has no lexicographer's file of its own; those it shares are too wide to tell a topic by.
    TOPICS.iter().any(|(lexnames, _)| lexnames.contains(&lexname))
        && !matches!(lexname, "noun.communication" | "verb.creation" | "noun.artifact")
}

/// The queries that lie most clearly within the topics, in the order of the file.
pub(super) fn queries(source: &Source, count: usize) -> Vec<usize> {
    let mut ranked: Vec<(usize, usize)> = source
        .queries
        .iter()
        .enumerate()
        .map(|(index, query)| {
            let near = source.nearest[index].iter().take(NEAREST);
            let near = near.filter(|&&row| is_topical(&source.synsets[row as usize].lexname)).count();
            let own = if is_topical(&query.lexname) { NEAREST / 2 } else { 0 };
            let asked = if ASKED_BY_THE_DEMO.contains(&query.text.as_str()) { 100 } else { 0 };
            (near + own + asked, index)
        })
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let mut chosen: Vec<usize> = ranked.into_iter().take(count).map(|(_, index)| index).collect();
    chosen.sort_unstable();
    chosen
}

/// Rows in rising order: the words to begin at, the queries' own synsets and their nearest, the hypernyms
/// of all these, then along edges. Each topic grows in turn, always on to the synset with most edges to
/// those already chosen (the lower row among equals).
pub(super) fn entities(source: &Source, queries: &[usize], count: usize) -> Vec<usize> {
    let topics = source.synsets.iter().map(|synset| topic(&synset.lexname)).collect();
    let mut neighbors = vec![Vec::new(); source.synsets.len()];
    for edge in &source.edges {
        // Members lead into the genera and families of taxonomy, which nobody asks for.
        if !edge.relation.starts_with("member_") {
            neighbors[edge.from].push(edge.to);
        }
    }
    let mut growth = Growth::new(&neighbors, topics, count);
    for (row, synset) in source.synsets.iter().enumerate() {
        let begins = |(lexnames, words): &(&[&str], &[&str])| {
            lexnames.contains(&synset.lexname.as_str())
                && synset.lemmas.first().is_some_and(|lemma| words.contains(&lemma.as_str()))
        };
        if TOPICS.iter().any(begins) {
            growth.choose(row);
        }
    }
    for &query in queries {
        growth.choose(source.queries[query].row);
    }
    for rank in 0..NEAREST {
        for &query in queries {
            growth.choose(source.nearest[query][rank] as usize);
        }
    }
    for _ in 0..HYPERNYM_ROUNDS {
        let upwards = source.edges.iter().filter(|edge| edge.relation == "hypernym");
        let above: Vec<usize> =
            upwards.filter(|edge| growth.chosen.contains(&edge.from)).map(|edge| edge.to).collect();
        for row in above {
            growth.choose(row);
        }
    }
    growth.grow();
    growth.chosen.into_iter().collect()
}

/// The place of a topic in [`TOPICS`]; what belongs to none stands last.
fn topic(lexname: &str) -> usize {
    TOPICS.iter().position(|(lexnames, _)| lexnames.contains(&lexname)).unwrap_or(TOPICS.len())
}

struct Growth<'a> {
    neighbors: &'a [Vec<usize>],
    topics: Vec<usize>,
    limit: usize,
    chosen: BTreeSet<usize>,
    /// Edges from each row to the chosen ones.
    ties: Vec<usize>,
    /// Candidates of each topic by ties; an entry whose ties have grown since is stale and passed over.
    frontiers: Vec<BinaryHeap<(usize, Reverse<usize>)>>,
}

impl<'a> Growth<'a> {
    fn new(neighbors: &'a [Vec<usize>], topics: Vec<usize>, limit: usize) -> Self {
        Self {
            neighbors,
            topics,
            limit,
            chosen: BTreeSet::new(),
            ties: vec![0; neighbors.len()],
            frontiers: vec![BinaryHeap::new(); TOPICS.len() + 1],
        }
    }

    fn choose(&mut self, row: usize) {
        if self.chosen.len() == self.limit || !self.chosen.insert(row) {
            return;
        }
        for &next in &self.neighbors[row] {
            self.ties[next] += 1;
            self.frontiers[self.topics[next]].push((self.ties[next], Reverse(next)));
        }
    }

    fn grow(&mut self) {
        while self.chosen.len() < self.limit && self.frontiers.iter().any(|frontier| !frontier.is_empty()) {
            for topic in 0..self.frontiers.len() {
                if let Some(row) = self.best(topic) {
                    self.choose(row);
                }
            }
        }
    }

    /// Takes the best candidate of a topic.
    fn best(&mut self, topic: usize) -> Option<usize> {
        while let Some((ties, Reverse(row))) = self.frontiers[topic].pop() {
            if ties == self.ties[row] && !self.chosen.contains(&row) {
                return Some(row);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Growth, TOPICS, topic};

    #[test]
    fn growth_prefers_what_is_tied_most_closely() {
        // 0 and 1 are chosen; 2 hangs on both, 3 on one, 4 on 3.
        let neighbors = [vec![2, 3], vec![2], vec![0, 1], vec![0, 4], vec![3]];
        let mut growth = Growth::new(&neighbors, vec![0; 5], 3);
        growth.choose(0);
        growth.choose(1);
        growth.grow();
        assert_eq!(growth.chosen.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn every_topic_gets_its_turn() {
        // 0 is chosen; 1 to 3 are of its topic, 4 hangs on it alone and is of no topic.
        let neighbors = [vec![1, 2, 3, 4], vec![2, 3], vec![3], vec![], vec![]];
        let mut growth = Growth::new(&neighbors, vec![0, 0, 0, 0, TOPICS.len()], 3);
        growth.choose(0);
        growth.grow();
        assert!(growth.chosen.contains(&4));
        assert_eq!(topic("noun.animal"), 0);
        assert_eq!(topic("adv.all"), TOPICS.len());
    }
}

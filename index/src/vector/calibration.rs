//! How broad a walk must be for a recall: measured in the background, on queries that were asked or, before there are enough, on
//! stored vectors, themselves excluded.

use std::sync::Arc;

use allidb_storage::Sequence;
use parking_lot::Mutex;

use crate::{
    error::Result,
    vector::{
        segment::least_breadth,
        view::{Search, View},
    },
};

/// Breadths that are measured.
const BREADTHS: [usize; 14] = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024, 2_048];
/// Numbers of hits that are measured.
const HITS: [usize; 3] = [1, 10, 100];
/// Queries that are kept, and measured at most.
pub(crate) const SAMPLE: usize = 128;
/// Fewer real queries than this tell too little.
const LEAST: usize = 64;
/// Beyond so many queries seen, new ones still have the chance that this gives them: the sample follows the times.
const WINDOW: u64 = 10_000;
/// What a sample of this size may err by.
const MARGIN: f64 = 0.005;
/// Stored vectors lie among their like; queries that come from elsewhere are harder.
const MARGIN_OF_STORED: f64 = 0.02;
/// Rows compared for the exact answers at most, all queries together.
const MOST_COMPARED: usize = 200_000_000;
/// Where the curve ends.
const ENOUGH: f64 = 0.999;

/// Recall over breadth.
#[derive(Clone, Debug)]
pub(crate) struct Curve {
    /// Rows under a graph when it was measured.
    pub(crate) rows: usize,
    /// Whether queries that were asked were measured.
    pub(crate) is_of_queries: bool,
    /// Queries that had been seen by then.
    pub(crate) seen: u64,
    /// For each of [`HITS`], recalls by rising breadth.
    recalls: [Vec<(usize, f64)>; HITS.len()],
}

impl Curve {
    /// Whether there was nothing to measure.
    pub(crate) fn is_empty(&self) -> bool {
        self.recalls.iter().any(Vec::is_empty)
    }

    /// The breadth that finds this share of the `k` nearest.
    pub(crate) fn breadth(&self, k: usize, recall: f64) -> usize {
        let class = HITS.iter().position(|hits| k <= *hits).unwrap_or(HITS.len() - 1);
        let points = &self.recalls[class];
        let margin = if self.is_of_queries { MARGIN } else { MARGIN_OF_STORED };
        let wanted = recall + margin.min((1.0 - recall) / 2.0);
        let above = points.iter().position(|(_, recall)| *recall >= wanted);
        let breadth = match above {
            Some(0) => points[0].0,
            Some(above) => {
                let ((low, below), (high, reached)) = (points[above - 1], points[above]);
                let share = (wanted - below) / (reached - below).max(1e-9);
                low + ((high - low) as f64 * share).ceil() as usize
            }
            None => 2 * points.last().map_or(BREADTHS[0], |(breadth, _)| *breadth),
        };
        breadth.max(breadth * k / HITS[class])
    }

    /// The share of the 10 nearest that a walk of this breadth finds.
    pub(crate) fn recall(&self, breadth: usize) -> f64 {
        let points = &self.recalls[1];
        let upto = points.iter().rfind(|(measured, _)| *measured <= breadth);
        upto.or(points.first()).map_or(0.0, |(_, recall)| *recall)
    }
}

/// A sample of the queries that were asked (Vitter: reservoir sampling).
#[derive(Debug, Default)]
pub(crate) struct Reservoir(Mutex<Sampled>);

#[derive(Debug, Default)]
struct Sampled {
    seen: u64,
    queries: Vec<Arc<[f32]>>,
}

impl Reservoir {
    /// Notes a prepared query.
    pub(crate) fn note(&self, prepared: &[f32]) {
        // Whoever comes at the same time is not missed.
        let Some(mut sampled) = self.0.try_lock() else { return };
        // One that is asked again and again tells no more than once.
        if sampled.queries.iter().any(|known| **known == *prepared) {
            return;
        }
        sampled.seen += 1;
        if sampled.queries.len() < SAMPLE {
            sampled.queries.push(prepared.into());
            return;
        }
        let mixed = sampled.seen.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let lot = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16;
        let place = (lot % sampled.seen.min(WINDOW)) as usize;
        if let Some(old) = sampled.queries.get_mut(place) {
            *old = prepared.into();
        }
    }

    /// The queries, if there are enough, and how many were seen.
    pub(crate) fn queries(&self) -> (Option<Vec<Arc<[f32]>>>, u64) {
        let sampled = self.0.lock();
        ((sampled.queries.len() >= LEAST).then(|| sampled.queries.clone()), sampled.seen)
    }

    /// Whether the sample is another one than when so many had been seen: twice as many, or a few times what it looks back on.
    pub(crate) fn has_moved_on(&self, seen: u64) -> bool {
        self.0.lock().seen >= seen + seen.clamp(SAMPLE as u64, 5 * WINDOW)
    }

    pub(crate) fn has_enough(&self) -> bool {
        self.0.lock().queries.len() >= LEAST
    }
}

/// A query to be measured, and the number that is no answer to it: its own.
pub(crate) struct Sample {
    pub(crate) prepared: Arc<[f32]>,
    pub(crate) itself: Option<u64>,
}

/// Measures the curve of a view. `go_on` is called before each search: if it says no, there is no curve. Without samples it says nothing.
///
/// # Errors
/// If a segment is damaged.
pub(crate) fn measure(
    view: &View,
    rows: usize,
    sequence: Sequence,
    samples: &[Sample],
    is_of_queries: bool,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<Curve>> {
    let samples = &samples[..samples.len().min((MOST_COMPARED / rows.max(1)).max(8))];
    let most = HITS[HITS.len() - 1];
    let find = |sample: &Sample, k: usize, breadth: usize, exact: bool| -> Result<Vec<u64>> {
        // One more, as it may be the sample itself.
        let search = Search { k: k + 1, breadth, exact, sequence, accept: None, deadline: None };
        let found = view.search(&sample.prepared, &search)?.nearest.into_iter();
        Ok(found.map(|near| near.number).filter(|number| Some(*number) != sample.itself).take(k).collect())
    };
    let mut truths = Vec::with_capacity(samples.len());
    for sample in samples {
        if !go_on() {
            return Ok(None);
        }
        truths.push(find(sample, most, most, true)?);
    }
    let mut recalls: [Vec<(usize, f64)>; HITS.len()] = Default::default();
    if truths.iter().all(Vec::is_empty) {
        return Ok(Some(Curve { rows, is_of_queries: true, seen: 0, recalls }));
    }
    for (at, breadth) in BREADTHS.into_iter().enumerate() {
        // Walks that are too narrow for so many hits are broader than they were asked to be, all of them as broad.
        let is_told = |hits: usize| BREADTHS.get(at + 1).is_none_or(|wider| *wider > least_breadth(hits + 1));
        let is_open = |points: &[(usize, f64)]| points.last().is_none_or(|(_, recall)| *recall < ENOUGH);
        let open: Vec<usize> =
            (0..HITS.len()).rev().filter(|of| is_told(HITS[*of]) && is_open(&recalls[*of])).collect();
        let (mut found, mut wanted) = ([0; HITS.len()], [0; HITS.len()]);
        for (sample, truth) in samples.iter().zip(&truths) {
            // The walk that finds many finds few, too, unless it had to be broader for that.
            let mut walked: Option<Vec<u64>> = None;
            for (of, hits) in open.iter().map(|of| (*of, HITS[*of])) {
                let near = match walked.take() {
                    Some(near) => near,
                    None if !go_on() => return Ok(None),
                    None => find(sample, hits, breadth, false)?,
                };
                let (near_by, truth) = (&near[..hits.min(near.len())], &truth[..hits.min(truth.len())]);
                found[of] += truth.iter().filter(|number| near_by.contains(number)).count();
                wanted[of] += truth.len();
                walked = (least_breadth(hits + 1) <= breadth).then_some(near);
            }
        }
        for of in open {
            recalls[of].push((breadth, found[of] as f64 / wanted[of].max(1) as f64));
        }
    }
    Ok(Some(Curve { rows, is_of_queries, seen: 0, recalls }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_breadth_rises_with_the_recall_and_the_hits() {
        let points = vec![(16, 0.9), (32, 0.96), (64, 1.0)];
        let curve = Curve {
            rows: 1,
            is_of_queries: true,
            seen: 0,
            recalls: [points.clone(), points.clone(), points],
        };
        assert_eq!(curve.breadth(10, 0.5), 16);
        let breadths: Vec<usize> =
            [0.9, 0.93, 0.95, 0.97, 0.99].map(|recall| curve.breadth(10, recall)).into();
        assert!(breadths.is_sorted(), "{breadths:?}");
        assert!(breadths[2] > 24 && breadths[2] <= 32, "{breadths:?}");
        assert_eq!(curve.breadth(1_000, 0.5), 160);
        assert_eq!(curve.recall(40), 0.96);
        let of_stored = Curve { is_of_queries: false, ..curve.clone() };
        assert!(of_stored.breadth(10, 0.95) > curve.breadth(10, 0.95));
    }

    #[test]
    fn a_reservoir_keeps_old_and_new() {
        let reservoir = Reservoir::default();
        (0..1_000).for_each(|_| reservoir.note(&[0.0]));
        assert!(reservoir.queries().0.is_none(), "one query, however often it is asked");
        let reservoir = Reservoir::default();
        (0..LEAST - 1).for_each(|at| reservoir.note(&[at as f32]));
        assert!(reservoir.queries().0.is_none());
        (LEAST - 1..5_000).for_each(|at| reservoir.note(&[at as f32]));
        let kept = reservoir.queries().0.unwrap();
        assert!(
            !reservoir.has_moved_on(2_600) && reservoir.has_moved_on(2_500) && reservoir.has_moved_on(64)
        );
        assert_eq!(kept.len(), SAMPLE);
        let late = kept.iter().filter(|query| query[0] >= 2_500.0).count();
        assert!((30..100).contains(&late), "{late} of {SAMPLE} from the later half");
    }
}

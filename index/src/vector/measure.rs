//! The three metrics: how rows are prepared, ranked and reported.

use crate::{
    model::Metric,
    vector::kernel::{dot, squared_l2},
};

/// Codes of vectors with fewer dimensions leave too much over.
const FEW_DIMENSIONS: usize = 64;

/// A metric as the index computes it: a distance that is always finite, smaller for nearer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure(pub(crate) Metric);

impl Measure {
    /// The form in which rows and queries are compared: for cosine, scaled to length 1 (zero stays zero).
    pub(crate) fn prepare(self, vector: &[f32]) -> Vec<f32> {
        if self.0 != Metric::Cosine {
            return vector.to_vec();
        }
        let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if length == 0.0 {
            return vector.to_vec();
        }
        vector.iter().map(|x| (f64::from(*x) / length) as f32).collect()
    }

    /// Ranks prepared vectors. Sums that overflow count as farthest, products that do as nearest.
    pub(crate) fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        let distance = match self.0 {
            Metric::Cosine => 1.0 - dot(a, b),
            Metric::L2 => squared_l2(a, b),
            Metric::Dot => -dot(a, b),
        };
        if distance.is_nan() { f32::MAX } else { distance.clamp(f32::MIN, f32::MAX) }
    }

    /// What callers see of a distance: the space's own measure, and the similarity.
    pub(crate) fn seen(self, distance: f32) -> (f64, f64) {
        let distance = f64::from(distance);
        let measure = match self.0 {
            Metric::Cosine => (1.0 - distance).clamp(-1.0, 1.0),
            Metric::L2 => distance.max(0.0).sqrt(),
            Metric::Dot => -distance,
        };
        (measure, similarity(self.0, measure))
    }

    /// Whether too little is left of a distance by codes, which errs by about a ten-thousandth of the lengths of what is
    /// compared, and by more where dimensions are few: of vectors that are nearly the same, and of numbers that f32 hardly
    /// holds. `prepared` is the query.
    pub(crate) fn is_rough(self, distance: f32, prepared: &[f32]) -> bool {
        if prepared.len() < FEW_DIMENSIONS {
            return true;
        }
        let is_extreme = |x: f32| !(1e-30..1e30).contains(&x.abs());
        match self.0 {
            Metric::Cosine => distance < 0.01,
            Metric::L2 => is_extreme(distance) || distance < 0.01 * dot(prepared, prepared),
            Metric::Dot => is_extreme(distance),
        }
    }
}

/// What callers see of two vectors' nearness: the space's own measure (cosine, dot product, Euclidean
/// distance), and the similarity in [0, 1] that enters scores.
pub fn measure_and_similarity(metric: Metric, a: &[f32], b: &[f32]) -> (f64, f64) {
    let sum = |term: fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(a, b)| term(f64::from(*a), f64::from(*b))).sum()
    };
    let measure = match metric {
        Metric::Cosine => {
            let lengths = (sum(|a, _| a * a) * sum(|_, b| b * b)).sqrt();
            if lengths == 0.0 { 0.0 } else { (sum(|a, b| a * b) / lengths).clamp(-1.0, 1.0) }
        }
        Metric::L2 => sum(|a, b| (a - b) * (a - b)).sqrt(),
        Metric::Dot => sum(|a, b| a * b),
    };
    (measure, similarity(metric, measure))
}

fn similarity(metric: Metric, measure: f64) -> f64 {
    match metric {
        Metric::Cosine => (measure + 1.0) / 2.0,
        Metric::L2 => 1.0 / (1.0 + measure),
        Metric::Dot => 1.0 / (1.0 + (-measure).exp()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_is_smaller_and_more_similar_in_every_metric() {
        let query = [1.0, 0.5, -0.25];
        let near = [0.9, 0.6, -0.2];
        let far = [-1.0, 0.2, 2.0];
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            let measure = Measure(metric);
            let [q, n, f] = [query, near, far].map(|v| measure.prepare(&v));
            assert!(measure.distance(&q, &n) < measure.distance(&q, &f), "{metric:?}");
            let similarity = |v: &[f32]| measure_and_similarity(metric, &query, v).1;
            assert!(similarity(&near) > similarity(&far), "{metric:?}");
            assert!((0.0..=1.0).contains(&similarity(&far)));
        }
    }

    #[test]
    fn every_input_gives_a_finite_distance() {
        let wild =
            [[f32::MAX; 4], [-f32::MAX; 4], [0.0; 4], [f32::MIN_POSITIVE; 4], [1e30, -1e30, 1e-30, 0.0]];
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            for a in &wild {
                for b in &wild {
                    let measure = Measure(metric);
                    let distance = measure.distance(&measure.prepare(a), &measure.prepare(b));
                    assert!(distance.is_finite(), "{metric:?} {a:?} {b:?}: {distance}");
                    let (_, similarity) = measure_and_similarity(metric, a, b);
                    assert!((0.0..=1.0).contains(&similarity), "{metric:?} {a:?} {b:?}: {similarity}");
                }
            }
        }
    }
}

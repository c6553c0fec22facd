//! The one scorer: signals in [0, 1] and their weighted mean.

use crate::{
    error::{Error, Result},
    model::Timestamp,
    query::{Fusion, Query, ScoreMode, Scoring, Seed, Signal, SignalValue, Weights},
};

/// What age halves recency, unless the query says.
const HALF_LIFE_SECONDS: f64 = 30.0 * 24.0 * 3600.0;
/// Of the weights from a half to one and a half, the best on WordNet's queries, of which the other half was asked to tell.
const TEXT_BESIDE_VECTORS: f64 = 0.75;
/// Unset importance, and recency of unknown age.
const NEUTRAL: f64 = 0.5;
/// In the first formula, recency falls to 1/e in so many days.
const V1_DAYS: f64 = 30.0;

/// A query's way to score: one denominator for every candidate.
#[derive(Clone, Debug)]
pub(crate) struct Scorer {
    weights: [(Signal, f64); 5],
    sum: f64,
    half_life_seconds: f64,
    as_of: Timestamp,
    mode: ScoreMode,
}

/// What is known of a candidate.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signals {
    /// Nearness; `None`: it has no vector to compare.
    pub(crate) vector: Option<f64>,
    /// How well the words answer; `None`: not at all.
    pub(crate) text: Option<f64>,
    pub(crate) graph: f64,
    /// The mean weight of the edges that led to it; `None`: none did.
    pub(crate) path_weight: Option<f64>,
    pub(crate) importance: Option<f64>,
    pub(crate) updated_at: Option<Timestamp>,
}

impl ScoreMode {
    /// No score is greater.
    pub(crate) fn most(self) -> f64 {
        match self {
            Self::Weighted => 1.0,
            Self::Boost { importance, recency } => (1.0 + importance * NEUTRAL) * (1.0 + recency * NEUTRAL),
            Self::AllidbV1 => 1.6,
        }
    }
}

impl Scorer {
    pub(crate) fn new(query: &Query, now: Timestamp) -> Result<Self> {
        let Scoring { mode, weights, half_life, as_of, fusion } = &query.scoring;
        if let Fusion::ReciprocalRank { k } = fusion
            && !(*k > 0.0 && k.is_finite())
        {
            return Err(Error::invalid("score.reciprocal_rank.k", format!("is {k}; it must be above 0")));
        }
        let has_vectors = query.seeds.iter().any(|seed| matches!(seed, Seed::Nearest(_)));
        let has_texts = query.seeds.iter().any(|seed| matches!(seed, Seed::Text { .. }));
        let Weights { vector, text, graph, importance, recency } = weights.unwrap_or(Weights {
            vector: if has_vectors { 1.0 } else { 0.0 },
            text: match (has_texts, has_vectors) {
                (true, true) => TEXT_BESIDE_VECTORS,
                (true, false) => 1.0,
                (false, _) => 0.0,
            },
            graph: if query.expand.is_some() || !(has_vectors || has_texts) { 1.0 } else { 0.0 },
            ..Weights::default()
        });
        let weights = [
            (Signal::Vector, vector),
            (Signal::Text, text),
            (Signal::Graph, graph),
            (Signal::Importance, importance),
            (Signal::Recency, recency),
        ];
        for (signal, weight) in weights {
            if !(0.0..=1.0).contains(&weight) {
                let place = format!("score.weights.{}", signal.name());
                return Err(Error::invalid(place, format!("is {weight}; it must be in [0, 1]")));
            }
        }
        // Boosts are no part of the mean.
        let counted = if matches!(mode, ScoreMode::Boost { .. }) { 3 } else { weights.len() };
        let sum: f64 = weights[..counted].iter().map(|(_, weight)| weight).sum();
        if sum <= 0.0 {
            return Err(Error::invalid("score.weights", "are all zero"));
        }
        if let ScoreMode::Boost { importance, recency } = mode {
            for (name, boost) in [("importance", importance), ("recency", recency)] {
                if !(0.0..=1.0).contains(boost) {
                    let place = format!("score.boost.{name}");
                    return Err(Error::invalid(place, format!("is {boost}; it must be in [0, 1]")));
                }
            }
        }
        let half_life_seconds = half_life.map_or(HALF_LIFE_SECONDS, |time| time.as_secs_f64());
        if half_life_seconds <= 0.0 {
            return Err(Error::invalid("score.half_life", "must be longer than zero"));
        }
        Ok(Self { weights, sum, half_life_seconds, as_of: as_of.unwrap_or(now), mode: *mode })
    }

    /// Whether the signal has any weight.
    pub(crate) fn weighs(&self, signal: Signal) -> bool {
        self.weights.iter().any(|(of, weight)| *of == signal && *weight > 0.0)
    }

    /// Whether what only rows tell has any weight.
    pub(crate) fn weighs_rows(&self) -> bool {
        self.mode != ScoreMode::Weighted || self.weighs(Signal::Importance) || self.weighs(Signal::Recency)
    }

    /// What vectors and texts together say, by their weights; `None`: neither counts.
    pub(crate) fn fused(&self, signals: &Signals) -> Option<f64> {
        let weight =
            |of: Signal| self.weights.iter().find(|(signal, _)| *signal == of).map_or(0.0, |found| found.1);
        let (vector, text) = (weight(Signal::Vector), weight(Signal::Text));
        let sum = vector * signals.vector.unwrap_or(0.0) + text * signals.text.unwrap_or(0.0);
        (vector + text > 0.0).then(|| (sum / (vector + text)).clamp(0.0, 1.0))
    }

    fn recency(&self, updated_at: Option<Timestamp>, half_life_seconds: f64) -> f64 {
        updated_at.map_or(NEUTRAL, |at| {
            // What lies in the future is new, not more than new.
            let age = self.as_of.seconds_since(at).max(0.0);
            (-age / half_life_seconds).exp2()
        })
    }

    /// The parts of the score; signals without weight are left out.
    pub(crate) fn breakdown(&self, signals: &Signals) -> Vec<SignalValue> {
        let value = |signal: Signal| {
            let value = match signal {
                Signal::Vector => signals.vector.unwrap_or(signals.graph),
                Signal::Text => signals.text.unwrap_or(0.0),
                Signal::Graph => signals.graph,
                Signal::Importance => signals.importance.unwrap_or(NEUTRAL),
                Signal::Recency => self.recency(signals.updated_at, self.half_life_seconds),
            };
            value.clamp(0.0, 1.0)
        };
        let of = |signal: Signal, value: f64, weight: f64| SignalValue {
            signal,
            value,
            weight,
            contribution: value * weight,
        };
        let weighted = |weights: &[(Signal, f64)]| -> Vec<SignalValue> {
            let weighted = weights.iter().filter(|(_, weight)| *weight > 0.0);
            weighted.map(|(signal, weight)| of(*signal, value(*signal), weight / self.sum)).collect()
        };
        match self.mode {
            ScoreMode::Weighted => weighted(&self.weights),
            ScoreMode::Boost { importance, recency } => {
                let mut parts = weighted(&self.weights[..3]);
                let mut score = total(&parts);
                for (signal, boost) in [(Signal::Importance, importance), (Signal::Recency, recency)] {
                    let value = value(signal);
                    let contribution = score * boost * (value - NEUTRAL);
                    score += contribution;
                    parts.push(SignalValue { signal, value, weight: boost, contribution });
                }
                parts
            }
            ScoreMode::AllidbV1 => {
                let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
                // e^(-x) halves with each ln 2.
                let recency = self.recency(signals.updated_at, V1_DAYS * 86_400.0 * std::f64::consts::LN_2);
                vec![
                    of(Signal::Vector, signals.vector.unwrap_or(0.0), 1.0),
                    of(Signal::Graph, signals.path_weight.unwrap_or(1.0), 0.3),
                    of(Signal::Importance, logistic(signals.importance.unwrap_or(0.0)), 0.2),
                    of(Signal::Recency, recency, 0.1),
                ]
            }
        }
    }
}

/// The sum of the parts.
pub(crate) fn total(breakdown: &[SignalValue]) -> f64 {
    breakdown.iter().map(|part| part.contribution).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scorer(weights: Weights) -> Scorer {
        let mut query = Query::new("c", vec![]);
        query.scoring.weights = Some(weights);
        Scorer::new(&query, Timestamp(0)).unwrap()
    }

    fn unit() -> std::ops::RangeInclusive<f64> {
        0.0..=1.0
    }

    proptest! {
        #[test]
        fn scores_stay_in_bounds_and_raising_a_signal_never_lowers_one(
            w in [unit(), unit(), unit(), unit(), unit()],
            v in proptest::option::of(unit()), t in proptest::option::of(unit()), g in unit(), i in proptest::option::of(unit()), raise in unit(),
        ) {
            prop_assume!(w.iter().sum::<f64>() > 0.01);
            let [vector, text, graph, importance, recency] = w;
            let scorer = scorer(Weights { vector, text, graph, importance, recency });
            let score = |signals: &Signals| total(&scorer.breakdown(signals));
            let base = Signals { vector: v, text: t, graph: g, path_weight: None, importance: i, updated_at: Some(Timestamp(-1_000_000)) };
            let before = score(&base);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&before));
            let raised = [
                Signals { graph: g.max(raise), ..base },
                Signals { vector: v.map(|v| v.max(raise)), ..base },
                Signals { text: Some(t.unwrap_or(0.0).max(raise)), ..base },
                Signals { importance: Some(i.unwrap_or(NEUTRAL).max(raise)), ..base },
                Signals { updated_at: Some(Timestamp(0)), ..base },
            ];
            for signals in raised {
                prop_assert!(score(&signals) >= before - 1e-12);
            }
        }
    }

    #[test]
    fn boosts_raise_and_lower_what_the_others_say() {
        let mut query = Query::new("c", vec![]);
        query.scoring.weights = Some(Weights { vector: 1.0, ..Weights::default() });
        query.scoring.mode = ScoreMode::Boost { importance: 0.4, recency: 1.0 };
        let scorer = Scorer::new(&query, Timestamp(0)).unwrap();
        let signals = Signals { vector: Some(0.5), importance: Some(1.0), ..Signals::default() };
        let parts = scorer.breakdown(&signals);
        // Recency of unknown age changes nothing.
        assert!((total(&parts) - 0.5 * 1.2).abs() < 1e-12, "{parts:?}");
        let low = Signals { importance: Some(0.0), updated_at: Some(Timestamp(0)), ..signals };
        assert!((total(&scorer.breakdown(&low)) - 0.5 * 0.8 * 1.5).abs() < 1e-12);
        query.scoring.mode = ScoreMode::Boost { importance: 2.0, recency: 0.0 };
        assert!(Scorer::new(&query, Timestamp(0)).is_err());
    }

    #[test]
    fn the_first_formula_is_what_it_was() {
        let mut query = Query::new("c", vec![]);
        query.scoring.mode = ScoreMode::AllidbV1;
        let scorer = Scorer::new(&query, Timestamp(30 * 86_400 * 1_000_000)).unwrap();
        let signals = Signals {
            vector: Some(0.9),
            path_weight: Some(0.5),
            importance: Some(0.0),
            updated_at: Some(Timestamp(0)),
            ..Signals::default()
        };
        let wanted = 0.9 + 0.3 * 0.5 + 0.2 * 0.5 + 0.1 * (-1.0_f64).exp();
        assert!((total(&scorer.breakdown(&signals)) - wanted).abs() < 1e-12);
    }

    #[test]
    fn recency_halves_each_half_life() {
        let mut query = Query::new("c", vec![]);
        query.scoring.weights = Some(Weights { recency: 1.0, ..Weights::default() });
        query.scoring.half_life = Some(std::time::Duration::from_secs(10));
        let scorer = Scorer::new(&query, Timestamp(20_000_000)).unwrap();
        let score = |at| total(&scorer.breakdown(&Signals { updated_at: at, ..Signals::default() }));
        assert!((score(Some(Timestamp(10_000_000))) - 0.5).abs() < 1e-9);
        assert!((score(Some(Timestamp(0))) - 0.25).abs() < 1e-9);
        assert!((score(Some(Timestamp(90_000_000))) - 1.0).abs() < 1e-9);
        assert!((score(None) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn wrong_weights_are_refused() {
        let mut query = Query::new("c", vec![]);
        for weights in [
            Weights::default(),
            Weights { vector: -1.0, ..Weights::default() },
            Weights { graph: f64::NAN, vector: 1.0, ..Weights::default() },
        ] {
            query.scoring.weights = Some(weights);
            assert!(Scorer::new(&query, Timestamp(0)).is_err(), "{weights:?}");
        }
    }
}

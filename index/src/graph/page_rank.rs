//! Personalised PageRank over what a walk reached (Page, Brin, Motwani and Winograd, "The PageRank Citation Ranking", 1998; Haveliwala,
//! "Topic-Sensitive PageRank", 2002): where a wanderer is who follows edges, the heavier the likelier, and now and then
//! begins anew at a seed.

use crate::{deadline::Deadline, error::Result};

/// Rounds at most, and the change in all masses together below which no more are needed.
const MAX_ROUNDS: usize = 100;
const STEADY: f64 = 1e-9;

/// Edges among nodes that are known by their places: for each node where its edges lead, and how heavy they are.
pub(crate) type Links = Vec<Vec<(u32, f64)>>;

/// The mass of each node. `seeds` are shares of beginning anew, at least one of them above zero.
pub(crate) fn page_rank(links: &Links, seeds: &[f64], damping: f64, deadline: Deadline) -> Result<Vec<f64>> {
    let all: f64 = seeds.iter().sum();
    let anew: Vec<f64> = seeds.iter().map(|seed| seed / all).collect();
    let heaviness: Vec<f64> =
        links.iter().map(|links| links.iter().map(|(_, weight)| weight).sum()).collect();
    let mut mass = anew.clone();
    for _ in 0..MAX_ROUNDS {
        deadline.check()?;
        let mut next = vec![0.0; mass.len()];
        // Who cannot go on begins anew, too.
        let mut stuck = 0.0;
        for (at, links) in links.iter().enumerate() {
            if heaviness[at] > 0.0 {
                let share = mass[at] / heaviness[at];
                links.iter().for_each(|(to, weight)| next[*to as usize] += share * weight);
            } else {
                stuck += mass[at];
            }
        }
        let mut change = 0.0;
        for (at, next) in next.iter_mut().enumerate() {
            *next = damping * (*next + stuck * anew[at]) + (1.0 - damping) * anew[at];
            change += (*next - mass[at]).abs();
        }
        mass = next;
        if change < STEADY {
            break;
        }
    }
    Ok(mass)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn masses_are_those_that_stay_as_they_are() {
        // From 0 to 1 and 2, the latter three times as heavy; 1 back to 0; 2 nowhere.
        let links = vec![vec![(1, 0.25), (2, 0.75)], vec![(0, 1.0)], vec![]];
        let mass =
            page_rank(&links, &[2.0, 0.0, 0.0], 0.85, Deadline::after(Duration::from_secs(9))).unwrap();
        assert!((mass.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!((mass[1] - 0.85 * 0.25 * mass[0]).abs() < 1e-6);
        assert!((mass[2] - 0.85 * 0.75 * mass[0]).abs() < 1e-6);
        assert!((mass[0] - (0.15 + 0.85 * (mass[1] + mass[2]))).abs() < 1e-6);
    }
}

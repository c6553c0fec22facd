//! Personalised PageRank over what a walk reached (Page, Brin, Motwani and Winograd, "The PageRank Citation Ranking", 1998; Haveliwala,
//! "Topic-Sensitive PageRank", 2002): where a wanderer is who follows edges, the heavier the likelier, and now and then
//! begins anew at a seed.

use crate::{deadline::Deadline, error::Result};

/// By how much all masses together may be off. Each round takes the damping's part of the last change at most, so that what is left to change
/// is known.
const PRECISION: f64 = 1e-7;

/// Beyond this it takes very many rounds, and says little of the seeds.
pub(crate) const MAX_DAMPING: f64 = 0.99;

/// Edges among nodes that are known by their places: for each node where its edges lead, and how heavy they are.
pub(crate) type WeightedLinks = Vec<Vec<(u32, f64)>>;

/// The mass of each node. `seeds` are shares of beginning anew, at least one of them above zero.
pub(crate) fn page_rank(
    links: &WeightedLinks,
    seeds: &[f64],
    damping: f64,
    deadline: Deadline,
) -> Result<Vec<f64>> {
    let all: f64 = seeds.iter().sum();
    let anew: Vec<f64> = seeds.iter().map(|seed| seed / all).collect();
    let heaviness: Vec<f64> =
        links.iter().map(|links| links.iter().map(|(_, weight)| weight).sum()).collect();
    let mut mass = anew.clone();
    loop {
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
        if change * damping / (1.0 - damping) < PRECISION {
            return Ok(mass);
        }
    }
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

    #[test]
    fn a_wanderer_who_hardly_ever_begins_anew_is_followed_to_the_end() {
        let links = vec![vec![(1, 1.0)], vec![(0, 1.0)]];
        for damping in [0.5, 0.95, MAX_DAMPING] {
            let deadline = Deadline::after(Duration::from_secs(9));
            let mass = page_rank(&links, &[1.0, 0.0], damping, deadline).unwrap();
            assert!((mass[1] / mass[0] - damping).abs() < 1e-6, "{damping}: {mass:?}");
        }
    }
}

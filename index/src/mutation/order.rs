//! Which writes of a batch wait for others.

use std::collections::HashMap;

use super::{Condition, Kind, Mutation, Part};
use crate::{
    row::{EdgeKey, EntityKey, Scope},
    version::Version,
};

/// After which waves comes what is about an entity.
#[derive(Clone, Copy, Default)]
struct After {
    /// What writes its row or contents, and is no put.
    row: usize,
    /// What ends its edges.
    end: usize,
    /// In which wave its puts, and its edges, are at the latest.
    put: Option<usize>,
    edge: Option<usize>,
}

/// The writes of a batch, by their places, in waves that are made one after the other: what names the same as one before it, and might not leave
/// the same behind in another order, is in a later wave.
///
/// An edge is a register of its own: it waits only for what ends all edges of one of its ends. What replaces all that it names, as a put does, or
/// an edge, does not wait for others that do: if they are made at other versions than they were planned for, [`disordered`] tells which must be
/// made once more.
pub fn waves(mutations: &[Mutation]) -> Vec<Vec<usize>> {
    let mut entities: HashMap<&EntityKey, After> = HashMap::new();
    let mut edges: HashMap<Replaced<'_>, usize> = HashMap::new();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (place, mutation) in mutations.iter().enumerate() {
        let (replaces, ends_edges) = (mutation.replaces(), mutation.ends_edges());
        let is_edge = matches!(replaces, Some((_, Some(_))));
        let next = |wave: Option<usize>| wave.map_or(0, |wave| wave + 1);
        let after = |of: After| match replaces {
            Some((_, Some(_))) => of.end,
            Some((_, None)) => of.row.max(of.put.unwrap_or_default()),
            None if ends_edges => of.row.max(next(of.put)).max(next(of.edge)),
            None => of.row.max(next(of.put)),
        };
        let named = mutation.entities().filter_map(|entity| entities.get(entity).copied()).map(after);
        let same = replaces.filter(|_| is_edge).and_then(|edge| edges.get(&edge).copied());
        let wave = named.chain(same).max().unwrap_or_default();
        for entity in mutation.entities() {
            let of = entities.entry(entity).or_default();
            match replaces {
                Some((_, Some(_))) => of.edge = of.edge.max(Some(wave)),
                Some((_, None)) => of.put = of.put.max(Some(wave)),
                None => of.row = wave + 1,
            }
            if ends_edges {
                of.end = wave + 1;
            }
        }
        if let Some(edge) = replaces.filter(|_| is_edge) {
            edges.insert(edge, wave);
        }
        if waves.len() <= wave {
            waves.resize_with(wave + 1, Vec::new);
        }
        waves[wave].push(place);
    }
    waves
}

/// Of writes of one wave, in their order with the versions at which they were made, those that were made no higher than one before them of
/// the same.
pub fn disordered<'m>(made: impl Iterator<Item = (&'m Mutation, Version)>) -> Vec<usize> {
    let mut newest: HashMap<Replaced<'_>, Version> = HashMap::new();
    let mut disordered = Vec::new();
    for (at, (mutation, version)) in made.enumerate() {
        let Some(replaced) = mutation.replaces() else { continue };
        let newest = newest.entry(replaced).or_default();
        if *newest >= version {
            disordered.push(at);
        }
        *newest = version.max(*newest);
    }
    disordered
}

/// An entity, or an edge as its source calls it.
type Replaced<'m> = (&'m EntityKey, Option<&'m EdgeKey>);

impl Mutation {
    /// What it replaces whatever was there.
    fn replaces(&self) -> Option<Replaced<'_>> {
        let first = self.parts.first()?;
        match (self.kind, &first.condition) {
            (Kind::Edge, _) => Some((&first.entity, Some(first.delta.edges.keys().next()?))),
            (Kind::Plain | Kind::If(_), Condition::Replaces) => Some((&first.entity, None)),
            _ => None,
        }
    }

    /// Whether edges end with what it does.
    fn ends_edges(&self) -> bool {
        let is_cleared = |part: &Part| part.delta.row.cleared(Scope::Edges) > Version::ZERO;
        matches!(self.kind, Kind::Merge | Kind::Rewire { .. }) || self.parts.iter().any(is_cleared)
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Mutation, Version,
        merge::{EntityState, Register},
        model::{CollectionId, EntityRef, TenantId},
        mutation::{Condition, Kind, Part, edge_parts},
        row::{EdgeKey, EntityKey, Scope},
    };

    fn key(id: &str) -> EntityKey {
        EntityKey::new(TenantId::DEFAULT, CollectionId(1), id)
    }

    fn of_parts(kind: Kind, parts: Vec<Part>) -> Mutation {
        Mutation { version: Version::ZERO, subject: EntityRef::new("c", "a"), kind, parts, bytes: 0 }
    }

    fn put(id: &str) -> Mutation {
        let parts =
            vec![Part { entity: key(id), delta: EntityState::default(), condition: Condition::Replaces }];
        of_parts(Kind::Plain, parts)
    }

    fn update(id: &str) -> Mutation {
        let mut update = put(id);
        update.parts[0].condition = Condition::Exists;
        update
    }

    fn delete(id: &str) -> Mutation {
        let mut delete = put(id);
        delete.parts[0].condition = Condition::None;
        delete.parts[0].delta.row.clear(Scope::Edges, Version::new(1, 0, 1));
        delete
    }

    fn link(from: &str, to: &str) -> Mutation {
        let name = EdgeKey {
            relation: "r".into(),
            collection: CollectionId(1),
            other: to.into(),
            edge_id: String::new(),
        };
        let content = Register { version: Version::ZERO, value: None };
        of_parts(Kind::Edge, edge_parts(key(from), key(to), name, &content).into())
    }

    #[test]
    fn what_is_about_different_things_is_one_wave() {
        assert_eq!(super::waves(&[]), Vec::<Vec<usize>>::new());
        let batch =
            [put("a"), link("a", "b"), put("b"), link("b", "a"), link("a", "c"), put("c"), delete("d")];
        assert_eq!(super::waves(&batch), [(0..batch.len()).collect::<Vec<_>>()]);
    }

    #[test]
    fn what_depends_on_the_same_waits() {
        let batch = [put("a"), put("a"), update("a"), update("a"), put("a"), put("b"), put("a"), delete("a")];
        assert_eq!(super::waves(&batch), [vec![0, 1, 5], vec![2], vec![3], vec![4, 6], vec![7]]);
    }

    #[test]
    fn edges_and_what_ends_them_wait_for_each_other() {
        let batch = [
            link("a", "b"),
            put("b"),
            delete("b"),
            link("a", "b"),
            link("c", "b"),
            link("c", "a"),
            put("b"),
            link("a", "b"),
        ];
        assert_eq!(super::waves(&batch), [vec![0, 1, 5], vec![2], vec![3, 4, 6, 7]]);
    }

    #[test]
    fn what_replaces_the_same_is_told_if_it_is_out_of_order() {
        let at = |ms| Version::new(ms, 0, 1);
        let (a, b, edge, other) = (put("a"), put("b"), link("a", "b"), link("a", "c"));
        let made = [(&a, 1), (&a, 9), (&b, 3), (&a, 4), (&edge, 5), (&other, 2), (&edge, 5), (&a, 10)];
        assert_eq!(super::disordered(made.into_iter().map(|(of, ms)| (of, at(ms)))), [3, 6]);
    }
}

//! Which writes of a batch wait for others.

use std::collections::HashMap;

use super::{Kind, Mutation};
use crate::row::{EdgeKey, EntityKey, Scope};

/// After which waves comes what is about an entity.
#[derive(Clone, Copy, Default)]
struct After {
    /// What writes its row, contents, or condition.
    row: usize,
    /// What ends its edges.
    end: usize,
    /// Its edges.
    edges: usize,
}

/// The writes of a batch, by their places, in waves that are made one after the other: what names the same as one before it, and might not leave
/// the same behind in another order, is in a later wave.
///
/// An edge is a register of its own: it waits for what it names itself, and for what ends all edges of one of its ends.
pub fn waves(mutations: &[Mutation]) -> Vec<Vec<usize>> {
    let mut entities: HashMap<&EntityKey, After> = HashMap::new();
    let mut edges: HashMap<(&EntityKey, &EdgeKey), usize> = HashMap::new();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (place, mutation) in mutations.iter().enumerate() {
        let edge = mutation.edge();
        let ends_edges = mutation.ends_edges();
        let after = |of: After| match edge {
            Some(_) => of.end,
            None if ends_edges => of.row.max(of.edges),
            None => of.row,
        };
        let named = mutation.entities().filter_map(|entity| entities.get(entity).copied()).map(after);
        let same = edge.and_then(|edge| edges.get(&edge).copied());
        let wave = named.chain(same).max().unwrap_or_default();
        for entity in mutation.entities() {
            let of = entities.entry(entity).or_default();
            match edge {
                Some(_) => of.edges = of.edges.max(wave + 1),
                None => of.row = wave + 1,
            }
            if ends_edges {
                of.end = wave + 1;
            }
        }
        if let Some(edge) = edge {
            edges.insert(edge, wave + 1);
        }
        if waves.len() <= wave {
            waves.resize_with(wave + 1, Vec::new);
        }
        waves[wave].push(place);
    }
    waves
}

impl Mutation {
    /// The edge that it is, as its source calls it.
    fn edge(&self) -> Option<(&EntityKey, &EdgeKey)> {
        let source = self.parts.first().filter(|_| self.kind == Kind::Edge)?;
        Some((&source.entity, source.delta.edges.keys().next()?))
    }

    /// Whether edges end with what it does.
    fn ends_edges(&self) -> bool {
        let ends = |kind| matches!(kind, Kind::Merge | Kind::Rewire { .. });
        ends(self.kind)
            || self.parts.iter().any(|part| part.delta.row.cleared(Scope::Edges) > crate::Version::ZERO)
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

    fn delete(id: &str) -> Mutation {
        let mut delete = put(id);
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
    fn what_names_the_same_waits() {
        assert_eq!(
            super::waves(&[put("a"), put("b"), put("a"), put("b"), put("a")]),
            [vec![0, 1], vec![2, 3], vec![4]]
        );
        let batch = [link("a", "b"), link("a", "c"), link("a", "b"), link("b", "a")];
        assert_eq!(super::waves(&batch), [vec![0, 1, 3], vec![2]]);
    }

    #[test]
    fn edges_and_what_ends_them_wait_for_each_other() {
        let batch =
            [link("a", "b"), put("b"), delete("b"), link("a", "b"), link("c", "b"), link("c", "a"), put("b")];
        assert_eq!(super::waves(&batch), [vec![0, 1, 5], vec![2], vec![3, 4, 6]]);
    }
}

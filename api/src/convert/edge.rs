//! Edges and what names them.

use allidb_index::model::{Direction, Edge, EdgeRef};
use tonic::Status;

use super::{
    Path,
    entity::{entity_ref_from_proto, entity_ref_to_proto, sources_from_proto},
    time::{optional_timestamp_from_proto, timestamp_to_proto},
    value::{values_from_proto, values_to_proto},
    write::version_to_proto,
};
use crate::v1;

pub(crate) fn edge_from_proto(path: &Path<'_>, edge: v1::Edge) -> Result<Edge, Status> {
    let from = path.field("from").required(edge.from)?;
    let to = path.field("to").required(edge.to)?;
    let plain = Edge::new(entity_ref_from_proto(from), edge.relation, entity_ref_from_proto(to));
    Ok(Edge {
        edge_id: edge.edge_id,
        weight: edge.weight.unwrap_or(plain.weight),
        attributes: values_from_proto(&path.field("attributes"), edge.attributes)?,
        valid_from: optional_timestamp_from_proto(&path.field("valid_from"), edge.valid_from)?,
        valid_to: optional_timestamp_from_proto(&path.field("valid_to"), edge.valid_to)?,
        sources: sources_from_proto(edge.sources),
        ..plain
    })
}

pub(crate) fn edge_to_proto(edge: Edge) -> v1::Edge {
    v1::Edge {
        from: Some(entity_ref_to_proto(edge.from)),
        relation: edge.relation,
        to: Some(entity_ref_to_proto(edge.to)),
        edge_id: edge.edge_id,
        weight: Some(edge.weight),
        attributes: values_to_proto(edge.attributes),
        valid_from: edge.valid_from.map(timestamp_to_proto),
        valid_to: edge.valid_to.map(timestamp_to_proto),
        sources: edge.sources.into_iter().collect(),
        version: version_to_proto(edge.version),
    }
}

pub(crate) fn edge_ref_from_proto(path: &Path<'_>, edge: v1::EdgeRef) -> Result<EdgeRef, Status> {
    Ok(EdgeRef {
        from: entity_ref_from_proto(path.field("from").required(edge.from)?),
        relation: edge.relation,
        to: entity_ref_from_proto(path.field("to").required(edge.to)?),
        edge_id: edge.edge_id,
    })
}

pub(super) fn direction_from_proto(path: &Path<'_>, direction: i32) -> Result<Direction, Status> {
    match v1::Direction::try_from(direction) {
        Ok(v1::Direction::Unspecified | v1::Direction::Out) => Ok(Direction::Out),
        Ok(v1::Direction::In) => Ok(Direction::In),
        Ok(v1::Direction::Both) => Ok(Direction::Both),
        Err(_) => Err(path.invalid(format!("is {direction}, which is no direction"))),
    }
}

pub(super) fn direction_to_proto(direction: Direction) -> i32 {
    match direction {
        Direction::Out => v1::Direction::Out,
        Direction::In => v1::Direction::In,
        Direction::Both => v1::Direction::Both,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use allidb_index::model::{EntityRef, Timestamp};
    use proptest::{
        collection::{btree_map, btree_set},
        option,
        prelude::*,
    };

    use super::*;
    use crate::convert::value::tests::any_value;

    fn any_edge() -> impl Strategy<Value = Edge> {
        (
            (".{1,9}", ".{1,9}", ".{1,9}", ".{0,9}", 0.0..=1.0f64),
            btree_map(".{1,8}", any_value(), 0..4),
            (option::of(0..4_000_000_000_000_000i64), option::of(0..4_000_000_000_000_000i64)),
            btree_set(".{1,8}", 0..3),
        )
            .prop_map(
                |((from, relation, to, edge_id, weight), attributes, (valid_from, valid_to), sources)| Edge {
                    edge_id,
                    weight,
                    attributes,
                    valid_from: valid_from.map(Timestamp),
                    valid_to: valid_to.map(Timestamp),
                    sources,
                    ..Edge::new(EntityRef::new("a", from), relation, EntityRef::new("b", to))
                },
            )
    }

    proptest! {
        #[test]
        fn edges_round_trip(edge in any_edge()) {
            let back = edge_from_proto(&Path::Root("edge"), edge_to_proto(edge.clone()));
            prop_assert_eq!(back.expect("our own"), edge);
        }
    }

    #[test]
    fn an_edge_without_weight_weighs_one_and_needs_both_ends() {
        let end = || Some(v1::EntityRef { collection: "c".into(), id: "x".into() });
        let edge = v1::Edge { from: end(), to: end(), relation: "r".into(), ..v1::Edge::default() };
        assert_eq!(edge_from_proto(&Path::Root("edge"), edge.clone()).expect("whole").weight, 1.0);
        let status =
            edge_from_proto(&Path::Root("edge"), v1::Edge { to: None, ..edge }).expect_err("no target");
        assert_eq!(status.message(), "edge.to must be set");
        assert!(direction_from_proto(&Path::Root("direction"), 9).is_err());
    }
}

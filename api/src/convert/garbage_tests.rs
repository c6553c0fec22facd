//! Whatever arrives, conversion answers and never panics.

use allidb_index::model::{CollectionSet, Limits, ReadMask};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::v1;

/// Reads the bytes as every request there is.
fn convert_as_everything(bytes: &[u8]) {
    let limits = Limits::default();
    let entity = Path::Root("entity");
    if let Ok(message) = v1::PutRequest::decode(bytes) {
        durability_from_proto(message.durability).ok();
        consistency_from_proto(message.consistency).ok();
        entity_from_proto(&entity, message.entity.unwrap_or_default()).ok();
    }
    if let Ok(message) = v1::Entity::decode(bytes) {
        entity_from_proto(&entity, message).ok();
    }
    if let Ok(message) = v1::Edge::decode(bytes) {
        edge_from_proto(&Path::Root("edge"), message).ok();
    }
    if let Ok(message) = v1::EdgeRef::decode(bytes) {
        edge_ref_from_proto(&Path::Root("edge"), message).ok();
    }
    if let Ok(message) = v1::UpdateRequest::decode(bytes) {
        patch_from_proto(message.entity.unwrap_or_default(), message.update_mask, message.allow_missing).ok();
    }
    if let Ok(message) = v1::GetRequest::decode(bytes) {
        read_mask_from_proto(message.read_mask, ReadMask::nothing()).ok();
    }
    if let Ok(message) = v1::PutChunksRequest::decode(bytes) {
        chunks_from_proto(&Path::Root("chunks"), message.chunks).ok();
    }
    if let Ok(message) = v1::Filter::decode(bytes)
        && let Ok(filter) = filter_from_proto(&Path::Root("filter"), message)
    {
        filter.validate("filter", &limits).ok();
    }
    if let Ok(message) = v1::QueryRequest::decode(bytes) {
        query_from_proto(message, &limits, &CollectionSet::ALL).ok();
    }
    if let Ok(message) = v1::NeighborsRequest::decode(bytes) {
        neighbors_from_proto(message, None, &limits, &CollectionSet::ALL).ok();
    }
    if let Ok(message) = v1::ExpandRequest::decode(bytes) {
        expand_from_proto(message, &limits, &CollectionSet::ALL).ok();
    }
    if let Ok(message) = v1::UpdateCollectionRequest::decode(bytes) {
        change_from_proto(message).ok();
    }
}

/// A request with something in every corner, for bytes that are nearly right.
fn whole_query() -> Vec<u8> {
    let vector = v1::Vector { raw: vec![0; 8].into(), encoding: 1, dimension: 2, ..Default::default() };
    let nearest = v1::Nearest {
        space: "gloss".into(),
        target: Some(v1::nearest::Target::Vector(vector)),
        min_similarity: Some(0.5),
        rescore: true,
        target_recall: Some(0.9),
        ..Default::default()
    };
    let value = v1::Value { kind: Some(v1::value::Kind::DoubleValue(1.5)) };
    let compare = v1::Comparison { field: "a.b".into(), operator: 3, value: Some(value) };
    let compare = v1::Filter { kind: Some(v1::filter::Kind::Compare(compare)) };
    let filter = v1::Filter { kind: Some(v1::filter::Kind::Not(Box::new(compare))) };
    v1::QueryRequest {
        collection: "c".into(),
        seeds: vec![v1::Seed { kind: Some(v1::seed::Kind::Nearest(nearest)) }],
        expand: Some(v1::ExpandOptions { hops: 2, decay: Some(0.5), ..Default::default() }),
        filter: Some(filter),
        ..Default::default()
    }
    .encode_to_vec()
}

proptest! {
    #[test]
    fn random_bytes(bytes: Vec<u8>) {
        convert_as_everything(&bytes);
    }

    #[test]
    fn damaged_requests(at: prop::sample::Index, byte: u8) {
        let mut bytes = whole_query();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        convert_as_everything(&bytes);
    }
}

#[test]
fn nesting_is_bounded_by_the_decoder() {
    let mut bytes = v1::Filter { kind: Some(v1::filter::Kind::Exists("id".into())) }.encode_to_vec();
    for _ in 0..10_000 {
        let mut outer = vec![(3 << 3) | 2];
        prost::encode_length_delimiter(bytes.len(), &mut outer).expect("a vector grows");
        outer.extend_from_slice(&bytes);
        bytes = outer;
    }
    assert!(v1::Filter::decode(&bytes[..]).is_err());
}

//! Collections and their vector spaces.

use std::sync::Arc;

use allidb_index::model::{Codes, Collection, CollectionChange, CollectionSpec, Index, Metric, SpaceSpec};
use tonic::Status;

use super::{
    Path,
    filter::{field_from_proto, fields_from_proto},
    text::{text_from_proto, text_to_proto},
    time::timestamp_to_proto,
};
use crate::v1;

/// What is declared of a new collection.
pub(crate) fn collection_from_proto(
    path: &Path<'_>,
    collection: v1::Collection,
) -> Result<CollectionSpec, Status> {
    let indexes = path.field("indexes");
    let fields = collection.indexes.iter().enumerate();
    let fields = fields.map(|(at, index)| field_from_proto(&indexes.index(at).field("field"), &index.field));
    Ok(CollectionSpec {
        spaces: specs_from_proto(&path.field("spaces"), collection.spaces)?,
        text: text_from_proto(&path.field("text"), collection.text)?,
        indexes: fields.collect::<Result<_, _>>()?,
        aliases: collection.aliases,
    })
}

fn index_to_proto(index: &Index) -> v1::Index {
    let state = if index.state.is_built() { v1::index::State::Built } else { v1::index::State::Building };
    v1::Index { field: index.field.to_string(), state: state.into() }
}

fn specs_from_proto(path: &Path<'_>, spaces: Vec<v1::Space>) -> Result<Vec<SpaceSpec>, Status> {
    let spaces = spaces.into_iter().enumerate();
    spaces.map(|(at, space)| spec_from_proto(&path.index(at), space)).collect()
}

fn spec_from_proto(path: &Path<'_>, space: v1::Space) -> Result<SpaceSpec, Status> {
    let metric = match v1::Metric::try_from(space.metric) {
        Ok(v1::Metric::Cosine) => Metric::Cosine,
        Ok(v1::Metric::Dot) => Metric::Dot,
        Ok(v1::Metric::L2) => Metric::L2,
        Ok(v1::Metric::Unspecified) => {
            return Err(path.field("metric").invalid("must be set: COSINE, DOT or L2"));
        }
        Err(_) => {
            return Err(path.field("metric").invalid(format!("is {}, which is no metric", space.metric)));
        }
    };
    let codes = match v1::Codes::try_from(space.codes) {
        Ok(v1::Codes::Unspecified | v1::Codes::Bits4And8) => Codes::Bits4And8,
        Ok(v1::Codes::Bits8) => Codes::Bits8,
        Ok(v1::Codes::Bits1And8) => Codes::Bits1And8,
        Ok(v1::Codes::Float) => Codes::Float,
        Err(_) => {
            return Err(path
                .field("codes")
                .invalid(format!("is {}, which is no kind of codes", space.codes)));
        }
    };
    let v1::Space { name, dimension, history, .. } = space;
    Ok(SpaceSpec { name, dimension, metric, history, codes })
}

fn spec_to_proto(spec: &SpaceSpec) -> v1::Space {
    let metric = match spec.metric {
        Metric::Cosine => v1::Metric::Cosine,
        Metric::Dot => v1::Metric::Dot,
        Metric::L2 => v1::Metric::L2,
    };
    let codes = match spec.codes {
        Codes::Bits4And8 => v1::Codes::Bits4And8,
        Codes::Bits8 => v1::Codes::Bits8,
        Codes::Bits1And8 => v1::Codes::Bits1And8,
        Codes::Float => v1::Codes::Float,
    };
    v1::Space {
        name: spec.name.clone(),
        dimension: spec.dimension,
        metric: metric.into(),
        history: spec.history,
        codes: codes.into(),
    }
}

pub(crate) fn collection_to_proto(collection: &Arc<Collection>) -> v1::Collection {
    v1::Collection {
        name: collection.name.clone(),
        spaces: collection.spaces.values().map(|space| spec_to_proto(&space.spec)).collect(),
        aliases: collection.aliases.clone(),
        created_at: Some(timestamp_to_proto(collection.created_at)),
        text: Some(text_to_proto(&collection.text)),
        indexes: collection.indexes.iter().map(index_to_proto).collect(),
    }
}

pub(crate) fn change_from_proto(request: v1::UpdateCollectionRequest) -> Result<CollectionChange, Status> {
    Ok(CollectionChange {
        add_spaces: specs_from_proto(&Path::Root("add_spaces"), request.add_spaces)?,
        drop_spaces: request.drop_spaces,
        set_aliases: request.set_aliases,
        remove_aliases: request.remove_aliases,
        add_indexes: fields_from_proto(&Path::Root("add_indexes"), &request.add_indexes)?,
        drop_indexes: fields_from_proto(&Path::Root("drop_indexes"), &request.drop_indexes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_round_trip_and_need_a_metric() {
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            let spec = SpaceSpec { history: 3, ..SpaceSpec::new("gloss", 384, metric) };
            let back = specs_from_proto(&Path::Root("add_spaces"), vec![spec_to_proto(&spec)]);
            assert_eq!(back.expect("our own"), [spec]);
        }
        for codes in [Codes::Bits4And8, Codes::Bits8, Codes::Bits1And8, Codes::Float] {
            let spec = SpaceSpec { codes, ..SpaceSpec::new("gloss", 384, Metric::Dot) };
            let back = specs_from_proto(&Path::Root("add_spaces"), vec![spec_to_proto(&spec)]);
            assert_eq!(back.expect("our own"), [spec]);
        }
        let odd = v1::Space { codes: 9, ..spec_to_proto(&SpaceSpec::new("gloss", 384, Metric::Dot)) };
        let status = specs_from_proto(&Path::Root("add_spaces"), vec![odd]).expect_err("no such codes");
        assert_eq!(status.message(), "add_spaces[0].codes is 9, which is no kind of codes");
        let unset = v1::Space { name: "s".into(), dimension: 3, ..Default::default() };
        let status = specs_from_proto(&Path::Root("add_spaces"), vec![unset]).expect_err("no metric");
        assert_eq!(status.message(), "add_spaces[0].metric must be set: COSINE, DOT or L2");
    }
}

//! Which collections a request names: those that its caller may see, or it is refused whole.

use allidb_index::model::CollectionSet;
use tonic::Status;

use crate::{status, v1};

/// A request that may name collections.
pub(super) trait Names {
    /// Calls `each` with every collection that is named, as often as it is.
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str));
}

/// Refuses a request that names a collection which its caller may not see, be there one or not.
pub(super) fn check(request: &impl Names, seen: &CollectionSet) -> Result<(), Status> {
    if seen.is_all() {
        return Ok(());
    }
    let mut hidden = None;
    request.names(&mut |name| {
        if !seen.has(name) {
            hidden.get_or_insert(name);
        }
    });
    match hidden {
        None => Ok(()),
        Some(name) => Err(status::permission_denied(format!("the key is not for the collection {name:?}"))),
    }
}

impl<T: Names> Names for Option<T> {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        self.iter().for_each(|item| item.names(each));
    }
}

impl<T: Names> Names for Vec<T> {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        self.iter().for_each(|item| item.names(each));
    }
}

impl<T: Names> Names for Box<T> {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        (**self).names(each);
    }
}

impl Names for String {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        each(self);
    }
}

/// Messages whose collections are all in these fields.
macro_rules! named_in {
    ($($message:ident: $($field:ident)*;)*) => {
        $(
            impl Names for v1::$message {
                fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
                    $(self.$field.names(each);)*
                    _ = each;
                }
            }
        )*
    };
}

named_in! {
    EntityRef: collection;
    Entity: r#ref;
    Edge: from to;
    EdgeRef: from to;
    Collection: name;

    CreateCollectionRequest: collection;
    GetCollectionRequest: name;
    ListCollectionsRequest: ;
    UpdateCollectionRequest: name;
    DropCollectionRequest: name;

    PutRequest: entity;
    BatchPutRequest: entities;
    UpdateRequest: entity;
    GetRequest: r#ref;
    BatchGetRequest: refs;
    DeleteRequest: r#ref;
    BatchDeleteRequest: refs;
    PutChunksRequest: r#ref;
    DeleteChunksRequest: r#ref;
    RangeScanRequest: collection;
    CountRequest: collection;
    FacetsRequest: collection;
    DeleteWhereRequest: collection;
    DeleteBySourceRequest: collection;
    MergeRequest: collection;

    PutEdgesRequest: edges;
    DeleteEdgesRequest: edges;
    NeighborsRequest: r#ref;
    ExpandRequest: seeds;
    CountHopsRequest: seeds;
    ShortestPathRequest: from to;

    Examples: positive negative;
    Ids: refs;
    Nearest: target;
    Seed: kind;
    QueryRequest: collection seeds within;
    BatchQueryRequest: queries;
    ExplainRequest: query;
}

impl Names for v1::nearest::Target {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        match self {
            Self::Entity(entity) => entity.names(each),
            Self::Examples(examples) => examples.names(each),
            Self::Vector(_) | Self::Text(_) => {}
        }
    }
}

impl Names for v1::seed::Kind {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        match self {
            Self::Nearest(nearest) => nearest.names(each),
            Self::Ids(ids) => ids.names(each),
            Self::Filter(_) | Self::Text(_) => {}
        }
    }
}

impl Names for v1::PutStreamRequest {
    fn names<'n>(&'n self, each: &mut dyn FnMut(&'n str)) {
        match &self.item {
            Some(v1::put_stream_request::Item::Entity(entity)) => entity.names(each),
            Some(v1::put_stream_request::Item::Edge(edge)) => edge.names(each),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::{
        Message,
        encoding::{WireType, encode_key, encode_varint},
    };
    use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto::Type};
    use tonic::Code;

    use super::*;

    /// Messages within each other that are looked into: queries within queries among them.
    const DEEP: usize = 6;

    struct Contract(FileDescriptorSet);

    impl Contract {
        fn read() -> Self {
            Self(FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("our own"))
        }

        fn message(&self, name: &str) -> Option<&DescriptorProto> {
            let name = name.strip_prefix(".allidb.v1.")?;
            let file = self.0.file.iter().filter(|file| file.package() == "allidb.v1");
            file.flat_map(|file| &file.message_type).find(|message| message.name() == name)
        }

        /// Messages of this type that each name one collection, in one of the places where they can.
        fn naming(&self, of: &str, deep: usize) -> Vec<Vec<u8>> {
            let Some(message) = self.message(of).filter(|_| deep > 0) else { return Vec::new() };
            let is_of_collections = message.name().contains("Collection");
            let mut found = Vec::new();
            for field in &message.field {
                let inner = match (field.r#type(), field.name()) {
                    (Type::Message, _) => self.naming(field.type_name(), deep - 1),
                    (Type::String, "collection") => vec![b"hidden".to_vec()],
                    (Type::String, "name") if is_of_collections => vec![b"hidden".to_vec()],
                    _ => Vec::new(),
                };
                for inner in inner {
                    let mut bytes = Vec::new();
                    encode_key(field.number() as u32, WireType::LengthDelimited, &mut bytes);
                    encode_varint(inner.len() as u64, &mut bytes);
                    bytes.extend(inner);
                    found.push(bytes);
                }
            }
            found
        }
    }

    fn is_refused<T: Message + Default + Names>(bytes: &[u8]) -> bool {
        let message = T::decode(bytes).expect("a message");
        let seen = CollectionSet::of("collections", vec!["shown-*".to_owned()]).expect("a set");
        assert_eq!(check(&message, &CollectionSet::ALL).map_err(|status| status.code()), Ok(()));
        check(&message, &seen).map_err(|status| status.code()) == Err(Code::PermissionDenied)
    }

    /// Whether a request of this name is refused that is encoded so.
    type Refuses = fn(&[u8]) -> bool;

    macro_rules! requests {
        ($($name:ident)*) => {
            &[$((stringify!($name), is_refused::<v1::$name>)),*]
        };
    }

    const REQUESTS: &[(&str, Refuses)] = requests! {
        CreateCollectionRequest GetCollectionRequest ListCollectionsRequest UpdateCollectionRequest DropCollectionRequest
        PutRequest BatchPutRequest PutStreamRequest UpdateRequest GetRequest BatchGetRequest DeleteRequest BatchDeleteRequest
        PutChunksRequest DeleteChunksRequest RangeScanRequest CountRequest FacetsRequest DeleteWhereRequest
        DeleteBySourceRequest MergeRequest
        PutEdgesRequest DeleteEdgesRequest NeighborsRequest ExpandRequest CountHopsRequest ShortestPathRequest
        QueryRequest BatchQueryRequest ExplainRequest
    };

    #[test]
    fn wherever_a_request_names_a_collection_it_is_seen() {
        let contract = Contract::read();
        let services = contract.0.file.iter().flat_map(|file| &file.service);
        let services =
            services.filter(|of| ["Collections", "Entities", "Graph", "Search"].contains(&of.name()));
        let inputs: BTreeSet<&str> =
            services.flat_map(|of| &of.method).map(prost_types::MethodDescriptorProto::input_type).collect();
        let listed: BTreeSet<String> =
            REQUESTS.iter().map(|(name, _)| format!(".allidb.v1.{name}")).collect();
        assert_eq!(inputs, listed.iter().map(String::as_str).collect(), "each request has its line");
        let mut places = 0;
        for (name, refuses) in REQUESTS {
            let naming = contract.naming(&format!(".allidb.v1.{name}"), DEEP);
            assert_eq!(naming.is_empty(), *name == "ListCollectionsRequest", "{name}");
            places += naming.len();
            for bytes in naming {
                assert!(refuses(&bytes), "{name} {bytes:?}");
            }
        }
        assert!(places > 60, "{places}");
    }
}

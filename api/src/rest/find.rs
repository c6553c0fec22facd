//! Which method a request is for: paths compared with the routes, segment by segment.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use http::Method;
use percent_encoding::percent_decode_str;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use tonic::Status;

use super::routes::{ROUTES, Route, Verb};
use crate::{FILE_DESCRIPTOR_SET, status};

/// A route, and the method that it leads to.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) route: &'static Route,
    pub(crate) method: MethodDescriptor,
    segments: Vec<Segment>,
}

/// A segment of a route's path.
#[derive(Debug)]
enum Segment {
    Word(&'static str),
    /// A field of the request, before what follows it.
    Field(&'static str, &'static str),
}

/// A method that was asked for, and the fields of its request that stood in the path and in the query string.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) place: &'static Place,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) path: Vec<(&'static str, String)>,
}

/// Why there is no method.
#[derive(Debug)]
pub(crate) enum NotFound {
    /// There is nothing at the path.
    Path,
    /// There is something else at the path.
    Verb(Vec<&'static str>),
    /// The path cannot be read.
    Garbled(Status),
}

/// Every message of the contract. What is built in can be read, or no test passes.
static CONTRACT: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap_or_default());

/// Every route, by the number of its segments.
static PLACES: LazyLock<HashMap<usize, Vec<Place>>> = LazyLock::new(|| {
    let mut places: HashMap<usize, Vec<Place>> = HashMap::new();
    for route in ROUTES {
        let (service, name) = route.method;
        let service = CONTRACT.get_service_by_name(&format!("allidb.v1.{service}"));
        let method = service.and_then(|service| service.methods().find(|method| method.name() == name));
        // A test looks whether all are there.
        let Some(method) = method else { continue };
        let segments: Vec<Segment> = route.path.split('/').skip(1).map(Segment::of).collect();
        places.entry(segments.len()).or_default().push(Place { route, method, segments });
    }
    places
});

impl Segment {
    fn of(template: &'static str) -> Self {
        let field = template.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        field.map_or(Self::Word(template), |(field, after)| Self::Field(field, after))
    }

    /// The value of the field, or nothing, if the segment is of this kind.
    fn read<'a>(&self, segment: &'a str) -> Option<Option<(&'static str, &'a str)>> {
        match *self {
            Self::Word(word) => (segment == word).then_some(None),
            Self::Field(field, after) => {
                let value = segment.strip_suffix(after).filter(|value| !value.is_empty())?;
                Some(Some((field, value)))
            }
        }
    }
}

impl Place {
    fn read<'a>(&self, segments: &[&'a str]) -> Option<Vec<(&'static str, &'a str)>> {
        let mut values = Vec::new();
        for (expected, segment) in self.segments.iter().zip(segments) {
            values.extend(expected.read(segment)?);
        }
        Some(values)
    }
}

impl Verb {
    fn of(method: &Method) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete]
            .into_iter()
            .find(|verb| verb.name() == method.as_str())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Finds the method.
pub(crate) fn find(method: &Method, path: &str, query: Option<&str>) -> Result<Found, NotFound> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let verb = Verb::of(method);
    let mut others = Vec::new();
    for place in PLACES.get(&segments.len()).into_iter().flatten() {
        let Some(values) = place.read(&segments) else { continue };
        if Some(place.route.verb) != verb {
            others.push(place.route.verb.name());
            continue;
        }
        let decoded = values.into_iter().map(|(field, value)| Ok((field, decoded(field, value)?)));
        let path = decoded.collect::<Result<_, Status>>().map_err(NotFound::Garbled)?;
        let query = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let query = query.map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        return Ok(Found { place, query, path });
    }
    Err(if others.is_empty() { NotFound::Path } else { NotFound::Verb(others) })
}

fn decoded(field: &str, value: &str) -> Result<String, Status> {
    let decoded = percent_decode_str(value).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| status::invalid(field, "must be UTF-8, percent-encoded"))
}

impl Place {
    /// Where gRPC has the method.
    pub(crate) fn rpc_path(&self) -> String {
        format!("/{}/{}", self.method.parent_service().full_name(), self.method.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::routes::Takes;

    fn found(method: Method, path: &str) -> (String, Vec<(&'static str, String)>) {
        let found = find(&method, path, None).unwrap_or_else(|error| panic!("{path}: {error:?}"));
        (found.place.rpc_path(), found.path)
    }

    #[test]
    fn every_method_has_a_route_and_every_route_a_method() {
        let routed: Vec<String> = PLACES.values().flatten().map(Place::rpc_path).collect();
        assert_eq!(routed.len(), ROUTES.len(), "a route leads nowhere");
        for service in CONTRACT.services() {
            for method in service.methods().filter(|method| !method.is_client_streaming()) {
                let path = format!("/{}/{}", service.full_name(), method.name());
                assert!(routed.contains(&path), "{path} has no route");
            }
        }
    }

    #[test]
    fn fields_of_routes_are_fields_of_requests() {
        for place in PLACES.values().flatten() {
            let fields = place.segments.iter().filter_map(|segment| match segment {
                Segment::Field(field, _) => Some(*field),
                Segment::Word(_) => None,
            });
            let body = match place.route.takes {
                Takes::Field(field) => Some(field),
                _ => None,
            };
            for field in fields.chain(body) {
                let mut message = Some(place.method.input());
                for name in field.split('.') {
                    let parent = message.unwrap_or_else(|| panic!("{field} of {}", place.route.path));
                    let found = parent.get_field_by_name(name);
                    let found = found.unwrap_or_else(|| panic!("{field} of {}", place.route.path));
                    message = found.kind().as_message().cloned();
                }
            }
        }
    }

    #[test]
    fn paths_lead_to_methods_with_their_fields() {
        let (path, fields) = found(Method::GET, "/v1/collections/words/entities/a%2Fb%20c%3A%C3%A9:x");
        assert_eq!(path, "/allidb.v1.Entities/Get");
        assert_eq!(fields, [("ref.collection", "words".into()), ("ref.id", "a/b c:é:x".into())]);
        for (method, path, expected) in [
            (Method::POST, "/v1/collections/words:query", "/allidb.v1.Search/Query"),
            (Method::POST, "/v1/collections/words/entities:count", "/allidb.v1.Entities/Count"),
            (Method::PATCH, "/v1/collections/words", "/allidb.v1.Collections/UpdateCollection"),
            (Method::POST, "/v1/snapshots/s:verify", "/allidb.v1.Snapshots/VerifySnapshot"),
            (Method::PUT, "/v1/collections/c/entities/entities:count", "/allidb.v1.Entities/Put"),
        ] {
            assert_eq!(found(method, path).0, expected, "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_apart() {
        for path in
            ["/v1", "/v1/nothing", "/v1/collections/", "/v1/collections/a/b/c/d/e", "/v1/snapshots/:verify"]
        {
            assert!(matches!(find(&Method::POST, path, None), Err(NotFound::Path)), "{path}");
        }
        let other = find(&Method::POST, "/v1/collections/c/entities/a", None);
        assert!(matches!(other, Err(NotFound::Verb(verbs)) if verbs.contains(&"PUT")));
        let garbled = find(&Method::GET, "/v1/collections/%ff", None);
        assert!(matches!(garbled, Err(NotFound::Garbled(status)) if status.message().starts_with("name ")));
        assert!(matches!(find(&Method::OPTIONS, "/v1/keys", None), Err(NotFound::Verb(_))));
    }

    #[test]
    fn query_strings_are_taken_apart() {
        let found =
            find(&Method::GET, "/v1/collections", Some("page_size=5&page_token=a%2Bb+c")).expect("found");
        assert_eq!(found.query, [("page_size".into(), "5".into()), ("page_token".into(), "a+b c".into())]);
    }
}

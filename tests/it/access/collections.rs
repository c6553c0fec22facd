//! Keys that are for some collections alone.

use tonic::{Code, Status};

use super::*;

const HIDDEN: &str = "hidden";

impl Holder {
    /// A key for these alone.
    async fn for_collections(&self, role: Role, patterns: &[&str]) -> Result<Self, Status> {
        let collections = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let name = "somebody".to_owned();
        let request = v1::CreateKeyRequest { name, role: role.into(), collections, ..Default::default() };
        self.make(request).await.map(|(_, made)| made)
    }

    fn entities(&self) -> EntitiesClient<Shown> {
        EntitiesClient::new(self.shown())
    }

    fn graph(&self) -> GraphClient<Shown> {
        GraphClient::new(self.shown())
    }

    async fn put_edge(&self, from: v1::EntityRef, to: v1::EntityRef) -> Result<(), Status> {
        let request = v1::PutEdgesRequest { edges: vec![edge(from, "next", to)], ..Default::default() };
        let results = self.graph().put_edges(request).await?.into_inner().results;
        let code = results[0].status.as_ref().map_or(0, |status| status.code);
        assert_eq!(code, 0, "{results:?}");
        Ok(())
    }

    /// The names at the other ends of an entity's edges, both ways.
    async fn neighbors(&self, of: v1::EntityRef) -> Vec<String> {
        let direction = v1::Direction::Both.into();
        let request = v1::NeighborsRequest { r#ref: Some(of.clone()), direction, ..Default::default() };
        let told = self.graph().neighbors(request).await.expect("answered").into_inner().neighbors;
        let edges = told.into_iter().filter_map(|neighbor| neighbor.edge);
        let ends = edges.flat_map(|edge| [edge.from, edge.to]).flatten().filter(|end| *end != of);
        let mut ends: Vec<String> = ends.map(|end| end.id).collect();
        ends.sort();
        ends
    }

    async fn expanded(&self, options: v1::ExpandOptions) -> Vec<String> {
        let seeds = vec![name("shown-1", "a")];
        let request = v1::ExpandRequest { seeds, options: Some(options), paths: true, ..Default::default() };
        let mut answers = self.graph().expand(request).await.expect("answered").into_inner();
        let mut reached = Vec::new();
        while let Some(answer) = answers.message().await.expect("told") {
            reached.extend(answer.nodes.into_iter().filter_map(|node| node.r#ref).map(|of| of.id));
        }
        reached.sort();
        reached
    }

    async fn hops(&self) -> Vec<u64> {
        let seeds = vec![name("shown-1", "a")];
        let request = v1::CountHopsRequest { seeds, hops: 2, ..Default::default() };
        self.graph().count_hops(request).await.expect("answered").into_inner().counts
    }

    /// How many edges are looked at from `a` by a count, a walk and a search for paths.
    async fn looked_at(&self) -> [u64; 3] {
        let (a, c) = (name("shown-1", "a"), name("shown-2", "c"));
        let seeds = vec![a.clone()];
        let count = v1::CountHopsRequest { seeds: seeds.clone(), hops: 1, ..Default::default() };
        let count = self.graph().count_hops(count).await.expect("answered").into_inner().edges;
        let options = Some(v1::ExpandOptions { hops: 1, ..Default::default() });
        let walk = v1::ExpandRequest { seeds, options, ..Default::default() };
        let mut answers = self.graph().expand(walk).await.expect("answered").into_inner();
        let mut walked = 0;
        while let Some(answer) = answers.message().await.expect("told") {
            walked += answer.summary.map_or(0, |summary| summary.edges);
        }
        let paths = v1::ShortestPathRequest { from: Some(a), to: Some(c), max_hops: 1, ..Default::default() };
        let paths = self.graph().shortest_path(paths).await.expect("answered").into_inner().edges;
        [count, walked, paths]
    }

    /// How many edges the paths have from `a` to `c`.
    async fn paths(&self) -> Vec<usize> {
        let (from, to) = (Some(name("shown-1", "a")), Some(name("shown-2", "c")));
        let request = v1::ShortestPathRequest { from, to, k: 10, ..Default::default() };
        let found = self.graph().shortest_path(request).await.expect("answered").into_inner();
        found.paths.iter().map(|path| path.steps.len()).collect()
    }

    /// What a query reaches, and then one that only what it reaches may answer.
    async fn queried(&self) -> [Vec<String>; 2] {
        let expand = Some(v1::ExpandOptions { hops: 2, ..Default::default() });
        let walk = v1::QueryRequest { expand, ..query("shown-1", near("v", &[1.0, 0.0])) };
        let within = Some(Box::new(walk.clone()));
        let inside = v1::QueryRequest { within, ..walk.clone() };
        let mut found = [Vec::new(), Vec::new()];
        for (found, asked) in found.iter_mut().zip([walk, inside]) {
            let answer = SearchClient::new(self.shown()).query(asked).await.expect("answered").into_inner();
            found.extend(
                answer.hits.iter().filter_map(|hit| hit.entity.as_ref()).map(|of| id_of(of).to_owned()),
            );
            found.sort();
        }
        found
    }
}

/// What a key for `shown-*` sees of `a → b → c`, `a → secret → c` and `a → c`, where the secret one is of another collection.
async fn sees_no_others(own: &Holder, at: &[Channel]) {
    for collection in ["shown-1", "shown-2", HIDDEN] {
        own.create_collection(collection).await.expect("made");
    }
    let (a, b) = (name("shown-1", "a"), name("shown-1", "b"));
    let (c, secret) = (name("shown-2", "c"), name(HIDDEN, "secret"));
    for of in [&a, &b, &c, &secret] {
        let entity = v1::Entity { vectors: vectors("v", &[1.0, 0.0]), ..entity(&of.collection, &of.id) };
        let request = v1::PutRequest { entity: Some(entity), ..Default::default() };
        own.entities().put(request).await.expect("put");
    }
    for (from, to) in [(&a, &b), (&b, &c), (&a, &secret), (&secret, &c), (&a, &c)] {
        own.put_edge(from.clone(), to.clone()).await.expect("put");
    }
    let made = own.for_collections(Role::Writer, &["shown-*"]).await.expect("made");
    for channel in at {
        let (own, some) = (own.at(channel.clone()), made.at(channel.clone()));
        assert_eq!(own.neighbors(a.clone()).await, ["b", "c", "secret"], "there is something to hide");
        assert_eq!(some.neighbors(a.clone()).await, ["b", "c"]);
        assert_eq!(some.neighbors(c.clone()).await, ["a", "b"]);
        let choices = [
            v1::ExpandOptions { hops: 3, ..Default::default() },
            v1::ExpandOptions { pattern: "next{1,3}".into(), ..Default::default() },
            v1::ExpandOptions { hops: 3, page_rank: Some(0.85), ..Default::default() },
            v1::ExpandOptions { hops: 2, direction: v1::Direction::Both.into(), ..Default::default() },
        ];
        for options in choices {
            let seen = some.expanded(options.clone()).await;
            let all = own.expanded(options).await;
            let expected: Vec<String> = all.iter().filter(|id| *id != "secret").cloned().collect();
            assert!(seen == expected && all.len() == seen.len() + 1, "{seen:?} of {all:?}");
        }
        assert_eq!((own.hops().await, some.hops().await), (vec![3, 0], vec![2, 0]));
        let [all, seen] = [own.looked_at().await, some.looked_at().await];
        assert_eq!([all[0], all[1], seen[0], seen[1]], [3, 3, 2, 2]);
        assert!(all[2] > seen[2] && seen[2] > 0, "{all:?} {seen:?}");
        assert_eq!((own.paths().await, some.paths().await), (vec![1, 2, 2], vec![1, 2]));
        assert_eq!(
            own.queried().await,
            [["a", "b", "c", "secret"]; 2].map(|ids| ids.map(str::to_owned).to_vec())
        );
        assert_eq!(some.queried().await, [["a", "b", "c"]; 2].map(|ids| ids.map(str::to_owned).to_vec()));
        refused_by_name(&some, &a, &secret).await;
        let listed = CollectionsClient::new(some.shown());
        let request = v1::ListCollectionsRequest { page_size: 1, ..Default::default() };
        assert_eq!(all_collections(listed, request).await, ["shown-1", "shown-2"]);
    }
    assert_eq!(own.neighbors(secret).await, ["a", "c"], "nothing was written");
}

async fn all_collections(
    mut client: CollectionsClient<Shown>,
    mut request: v1::ListCollectionsRequest,
) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let page = client.list_collections(request.clone()).await.expect("listed").into_inner();
        names.extend(page.collections.into_iter().map(|of| of.name));
        if page.next_page_token.is_empty() {
            return names;
        }
        request.page_token = page.next_page_token;
    }
}

/// What names the other collection is refused, be there one or not.
async fn refused_by_name(some: &Holder, a: &v1::EntityRef, secret: &v1::EntityRef) {
    let denied = |status: Status, name: &str| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        status.message().replace(name, "NAME")
    };
    let mut told = Vec::new();
    for hidden in [secret.clone(), name("nobodys", "secret")] {
        let get = v1::GetRequest { r#ref: Some(hidden.clone()), ..Default::default() };
        let refused = some.entities().get(get).await.expect_err("refused");
        told.push(denied(refused, &hidden.collection));
        let refused = some.put_edge(a.clone(), hidden.clone()).await.expect_err("refused");
        denied(refused, &hidden.collection);
        let refused = some.put_edge(hidden.clone(), a.clone()).await.expect_err("refused");
        denied(refused, &hidden.collection);
        let request = v1::GetCollectionRequest { name: hidden.collection.clone() };
        let refused = CollectionsClient::new(some.shown()).get_collection(request).await;
        denied(refused.expect_err("refused"), &hidden.collection);
        let like = v1::nearest::Target::Entity(hidden.clone());
        let asked = query("shown-1", v1::Nearest { target: Some(like), ..near("v", &[1.0, 0.0]) });
        let refused = SearchClient::new(some.shown()).query(asked).await.expect_err("refused");
        denied(refused, &hidden.collection);
    }
    assert_eq!(told[0], told[1]);
    // Of a stream each item by itself.
    let item = |sequence, of: &str| {
        let item = Some(v1::put_stream_request::Item::Entity(entity(of, "streamed")));
        v1::PutStreamRequest { sequence, item, ..Default::default() }
    };
    let items = [item(1, HIDDEN), item(2, "shown-1")];
    let answers = some.entities().put_stream(tokio_stream::iter(items)).await.expect("begun");
    let mut answers = answers.into_inner();
    let mut codes = Vec::new();
    while let Some(answer) = answers.message().await.expect("told") {
        let status = answer.result.and_then(|result| result.status);
        codes.push((answer.sequence, status.map_or(0, |status| status.code)));
    }
    codes.sort();
    assert_eq!(codes, [(1, Code::PermissionDenied as i32), (2, 0)]);
    let delete = v1::DeleteRequest { r#ref: Some(name("shown-1", "streamed")), ..Default::default() };
    some.entities().delete(delete).await.expect("its own goes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_some_collections_sees_nothing_of_others() {
    let process = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    let own = Holder::own(&process);
    sees_no_others(&own, std::slice::from_ref(&own.channel)).await;
    // Nor who has no collection to see, or sees them all anyway.
    for role in [Role::Admin, Role::Operator] {
        let refused = own.for_collections(role, &["shown-*"]).await.err().expect("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    for wrong in ["*", "", "a*b", "a b"] {
        let refused = own.for_collections(Role::Reader, &[wrong]).await.err().expect("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let listed = KeysClient::new(own.shown()).list_keys(v1::ListKeysRequest {}).await.expect("listed");
    let told: Vec<Vec<String>> = listed.into_inner().keys.into_iter().map(|key| key.collections).collect();
    assert_eq!(told, [["shown-*"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_some_collections_sees_nothing_of_others_on_any_node_of_a_ring() {
    let (_dir, ring, own) = ring_with_one_key().await;
    let channels: Vec<Channel> = (0..3).map(|at| ring.client(at).channel).collect();
    sees_no_others(&Holder { channel: channels[0].clone(), key: own }, &channels).await;
}

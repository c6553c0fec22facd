//! Who is let in, and to what: keys, roles and tenants.

mod collections;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use allidb_api::v1::{
    self, Role, collections_client::CollectionsClient, entities_client::EntitiesClient,
    graph_client::GraphClient, keys_client::KeysClient, search_client::SearchClient,
    snapshots_client::SnapshotsClient,
};
use prost::Message;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::interceptor::InterceptedService,
    transport::Channel,
};

use crate::{
    make::{edge, entity, id_of, name, near, query, vectors},
    process::{Process, eventually},
    ring::Ring,
};

/// Somebody with a key.
#[derive(Clone)]
struct Holder {
    channel: Channel,
    key: String,
}

#[derive(Clone)]
struct Show(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Show {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("x-api-key", self.0.clone());
        Ok(request)
    }
}

type Shown = InterceptedService<Channel, Show>;

impl Holder {
    /// Whoever may read the daemon's own key.
    fn own(process: &Process) -> Self {
        let key = fs::read_to_string(process.dir().join("data/admin-key")).expect("it was made");
        Self { channel: process.client().channel, key: key.trim().to_owned() }
    }

    fn at(&self, channel: Channel) -> Self {
        Self { channel, key: self.key.clone() }
    }

    fn shown(&self) -> Shown {
        InterceptedService::new(self.channel.clone(), Show(self.key.parse().expect("a header")))
    }

    async fn create(
        &self,
        role: Role,
        tenant: u64,
        expire_at: Option<SystemTime>,
    ) -> Result<(String, Self), Status> {
        let expire_at = expire_at.map(Into::into);
        let (name, role) = ("somebody".into(), role.into());
        self.make(v1::CreateKeyRequest { name, role, tenant, expire_at, collections: Vec::new() }).await
    }

    async fn make(&self, request: v1::CreateKeyRequest) -> Result<(String, Self), Status> {
        let made = KeysClient::new(self.shown()).create_key(request).await?.into_inner();
        let key = made.key.expect("a key");
        Ok((key.id, Self { channel: self.channel.clone(), key: made.secret }))
    }

    async fn revoke(&self, id: &str) -> Result<(), Status> {
        let request = v1::RevokeKeyRequest { id: id.to_owned() };
        KeysClient::new(self.shown()).revoke_key(request).await.map(drop)
    }

    /// When a key was used last.
    async fn last_use_of(&self, id: &str) -> Option<SystemTime> {
        let listed = KeysClient::new(self.shown()).list_keys(v1::ListKeysRequest {}).await.expect("listed");
        let key = listed.into_inner().keys.into_iter().find(|key| key.id == id).expect("it is there");
        key.last_used_at.map(|at| SystemTime::try_from(at).expect("a time"))
    }

    async fn count(&self) -> Result<u64, Status> {
        let request = v1::CountRequest { collection: "things".into(), ..Default::default() };
        Ok(EntitiesClient::new(self.shown()).count(request).await?.into_inner().count)
    }

    async fn put(&self, id: &str) -> Result<(), Status> {
        let request = v1::PutRequest { entity: Some(entity("things", id)), ..Default::default() };
        EntitiesClient::new(self.shown()).put(request).await.map(drop)
    }

    async fn create_collection(&self, name: &str) -> Result<(), Status> {
        let space = v1::Space {
            name: "v".into(),
            dimension: 2,
            metric: v1::Metric::Cosine.into(),
            ..Default::default()
        };
        let collection = v1::Collection { name: name.into(), spaces: vec![space], ..Default::default() };
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        CollectionsClient::new(self.shown()).create_collection(request).await.map(drop)
    }
}

/// Each method of the contract, and who may call it: readers, writers, admins, operators.
const METHODS: &[(&str, &str)] = &[
    ("Cluster/ChangeLayout", "o"),
    ("Cluster/DescribeCluster", "o"),
    ("Cluster/Drain", "o"),
    ("Cluster/Purge", "o"),
    ("Cluster/Repair", "o"),
    ("Collections/CreateCollection", "a"),
    ("Collections/DropCollection", "a"),
    ("Collections/GetCollection", "rwa"),
    ("Collections/ListCollections", "rwa"),
    ("Collections/UpdateCollection", "a"),
    ("Entities/BatchDelete", "wa"),
    ("Entities/BatchGet", "rwa"),
    ("Entities/BatchPut", "wa"),
    ("Entities/Count", "rwa"),
    ("Entities/Delete", "wa"),
    ("Entities/DeleteBySource", "wa"),
    ("Entities/DeleteChunks", "wa"),
    ("Entities/DeleteWhere", "wa"),
    ("Entities/Facets", "rwa"),
    ("Entities/Get", "rwa"),
    ("Entities/Merge", "wa"),
    ("Entities/Put", "wa"),
    ("Entities/PutChunks", "wa"),
    ("Entities/PutStream", "wa"),
    ("Entities/RangeScan", "rwa"),
    ("Entities/Update", "wa"),
    ("Graph/CountHops", "rwa"),
    ("Graph/DeleteEdges", "wa"),
    ("Graph/Expand", "rwa"),
    ("Graph/Neighbors", "rwa"),
    ("Graph/PutEdges", "wa"),
    ("Graph/ShortestPath", "rwa"),
    ("Keys/CreateKey", "a"),
    ("Keys/ListKeys", "a"),
    ("Keys/RevokeKey", "a"),
    ("Maintenance/Compact", "o"),
    ("Maintenance/Flush", "o"),
    ("Maintenance/ListWorkers", "o"),
    ("Maintenance/RebuildIndex", "o"),
    ("Maintenance/Scrub", "o"),
    ("Maintenance/UpdateWorker", "o"),
    ("Quotas/ListQuotas", "o"),
    ("Quotas/ListTenants", "o"),
    ("Quotas/SetQuota", "o"),
    ("Search/BatchQuery", "rwa"),
    ("Search/Explain", "rwa"),
    ("Search/Query", "rwa"),
    ("Snapshots/CreateSnapshot", "o"),
    ("Snapshots/DeleteSnapshots", "o"),
    ("Snapshots/ListSnapshots", "o"),
    ("Snapshots/RestoreSnapshot", "o"),
    ("Snapshots/VerifySnapshot", "o"),
];

/// What becomes of a call with an empty message.
async fn code_of(channel: &Channel, path: &str, key: Option<(&'static str, &str)>) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("it listens");
    let mut request = Request::new(());
    if let Some((header, value)) = key {
        request.metadata_mut().insert(header, value.parse().expect("a header"));
    }
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let asked = async {
        match client.server_streaming(request, path, codec).await {
            Ok(answers) => {
                answers.into_inner().message().await.err().map_or(Code::Ok, |status| status.code())
            }
            Err(status) => status.code(),
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_for_those_who_may_call_it() {
    let process = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    let own = Holder::own(&process);
    let mut holders = vec![("rwao", own.clone())];
    for (letter, role) in
        [("r", Role::Reader), ("w", Role::Writer), ("a", Role::Admin), ("o", Role::Operator)]
    {
        holders.push((letter, own.create(role, 0, None).await.expect("made").1));
    }
    let set = prost_types::FileDescriptorSet::decode(allidb_api::FILE_DESCRIPTOR_SET).expect("our own");
    let services = set.file.iter().flat_map(|file| &file.service);
    let mut methods: Vec<String> = services
        .flat_map(|service| service.method.iter().map(move |of| format!("{}/{}", service.name(), of.name())))
        .collect();
    methods.sort();
    let listed: Vec<&str> = METHODS.iter().map(|(method, _)| *method).collect();
    assert_eq!(methods, listed, "each method has its line in the table");

    let wrong = format!("adb_{}_{}", own.key.split('_').nth(1).expect("an id"), "0".repeat(64));
    let unknown = format!("adb_{}_{}", "a".repeat(12), "0".repeat(64));
    for (method, allowed) in METHODS {
        let path = format!("/allidb.v1.{method}");
        let channel = &own.channel;
        assert_eq!(code_of(channel, &path, None).await, Code::Unauthenticated, "{method}");
        for bad in ["", "nonsense", &wrong, &unknown] {
            assert_eq!(
                code_of(channel, &path, Some(("x-api-key", bad))).await,
                Code::Unauthenticated,
                "{method} {bad}"
            );
        }
        for (who, holder) in &holders {
            let bearer = format!("Bearer {}", holder.key);
            let given = code_of(channel, &path, Some(("authorization", &bearer))).await;
            let may = *who == "rwao" || allowed.contains(who);
            assert_ne!(given, Code::Unauthenticated, "{method} by {who}");
            assert_eq!(given != Code::PermissionDenied, may, "{method} by {who}: {given:?}");
        }
    }
    let other = async |path: &str, key| code_of(&own.channel, path, key).await;
    assert_eq!(other("/allidb.v1.Search/Nothing", None).await, Code::Unauthenticated);
    // What is served besides: health is for everybody, what else there is for those with a key, and nodes talk elsewhere.
    for (method, code) in [("Check", Code::Ok), ("Watch", Code::Ok), ("List", Code::Unimplemented)] {
        let path = format!("/grpc.health.v1.Health/{method}");
        assert_eq!(code_of(&own.channel, &path, None).await, code, "{method}");
    }
    let besides = [
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true),
        ("/allidb.peer.v1.Peer/Write", false),
        ("/allidb.peer.v1.Peer/Topology", false),
    ];
    for (path, is_served) in besides {
        assert_eq!(other(path, None).await, Code::Unauthenticated, "{path}");
        for (who, holder) in &holders {
            let given = other(path, Some(("x-api-key", &holder.key))).await;
            assert_eq!(given != Code::Unimplemented, is_served, "{path} by {who}: {given:?}");
            assert!(!matches!(given, Code::Unauthenticated | Code::PermissionDenied), "{path} by {who}");
        }
    }
    let basic = format!("Basic {}", own.key);
    assert_eq!(
        other("/allidb.v1.Search/Query", Some(("authorization", &basic))).await,
        Code::Unauthenticated
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_give_no_more_than_their_own() {
    let process = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    let own = Holder::own(&process);
    let (admin_id, admin) = own.create(Role::Admin, 7, None).await.expect("made");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs();
    let later = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(now + 3_600));
    let (brief_id, brief) = own.create(Role::Admin, 7, later).await.expect("made");
    for id in [no_longer_than(&brief).await, brief_id] {
        own.revoke(&id).await.expect("revoked");
    }
    let (operator_id, _) = own.create(Role::Operator, 7, None).await.expect("made");
    let (other_id, _) = own.create(Role::Admin, 8, None).await.expect("made");
    let denied = |what: &str, status: Status| assert_eq!(status.code(), Code::PermissionDenied, "{what}");
    denied(
        "an operator",
        admin.create(Role::Operator, 0, None).await.map(|made| made.0).expect_err("denied"),
    );
    denied(
        "another tenant",
        admin.create(Role::Reader, 8, None).await.map(|made| made.0).expect_err("denied"),
    );
    denied("an operator's", admin.revoke(&operator_id).await.expect_err("denied"));
    let unknown = admin.revoke(&other_id).await.expect_err("of another tenant");
    assert_eq!(unknown.code(), Code::NotFound);
    let keys = KeysClient::new(admin.shown()).list_keys(v1::ListKeysRequest {}).await.expect("listed");
    let mut ids: Vec<String> = keys.into_inner().keys.into_iter().map(|key| key.id).collect();
    ids.sort();
    let mut expected = vec![admin_id, operator_id];
    expected.sort();
    assert_eq!(ids, expected);

    let past = Some(SystemTime::now() - Duration::from_secs(1));
    let refused = own.create(Role::Reader, 0, past).await.map(|made| made.0).expect_err("it has passed");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let soon = Instant::now() + Duration::from_secs(3);
    let end = SystemTime::UNIX_EPOCH
        + Duration::from_secs(
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs() + 3,
        );
    let (_, reader) = own.create(Role::Reader, 0, Some(end)).await.expect("made");
    assert_eq!(reader.count().await.expect_err("no collection").code(), Code::NotFound);
    tokio::time::sleep_until(soon.into()).await;
    assert_eq!(reader.count().await.expect_err("expired").code(), Code::Unauthenticated);
}

/// A key makes none that outlives it. Gives the id of one that does not.
async fn no_longer_than(brief: &Holder) -> String {
    let at = |seconds| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after it").as_secs();
        SystemTime::UNIX_EPOCH + Duration::from_secs(now + seconds)
    };
    for end in [None, Some(at(7_200))] {
        let longer = brief.create(Role::Reader, 0, end).await.map(|made| made.0).expect_err("for longer");
        assert_eq!(longer.code(), Code::PermissionDenied);
    }
    brief.create(Role::Reader, 7, Some(at(600))).await.map(|made| made.0).expect("for less")
}

/// Those who may do everything for a tenant, of two. Each has a collection of one name, and the first one more.
async fn two_tenants(process: &Process) -> [Holder; 2] {
    let own = Holder::own(process);
    let (_, ours) = own.create(Role::Admin, 7, None).await.expect("made");
    let (_, theirs) = own.create(Role::Admin, 8, None).await.expect("made");
    for holder in [&ours, &theirs] {
        holder.create_collection("things").await.expect("each has its own");
    }
    ours.create_collection("ours").await.expect("made");
    [ours, theirs]
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_nothing_of_each_other() {
    let process = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    let [ours, theirs] = two_tenants(&process).await;
    for id in ["a", "b", "c"] {
        let entity = v1::Entity { vectors: vectors("v", &[1.0, 0.0]), ..entity("things", id) };
        let request = v1::PutRequest { entity: Some(entity), ..Default::default() };
        EntitiesClient::new(ours.shown()).put(request).await.expect("put");
    }
    let edges = vec![edge(name("things", "a"), "next", name("things", "b"))];
    let request = v1::PutEdgesRequest { edges, ..Default::default() };
    GraphClient::new(ours.shown()).put_edges(request).await.expect("put");
    assert_eq!(ours.count().await.expect("counted"), 3);

    assert_eq!(theirs.count().await.expect("counted"), 0);
    let get = v1::GetRequest { r#ref: Some(name("things", "a")), ..Default::default() };
    let mut entities = EntitiesClient::new(theirs.shown());
    assert_eq!(entities.get(get).await.expect_err("none of theirs").code(), Code::NotFound);
    let scan = |page_token: &str| v1::RangeScanRequest {
        collection: "things".into(),
        page_size: 1,
        page_token: page_token.into(),
        ..Default::default()
    };
    assert!(entities.range_scan(scan("")).await.expect("scanned").into_inner().entities.is_empty());
    let page = EntitiesClient::new(ours.shown()).range_scan(scan("")).await.expect("scanned").into_inner();
    let foreign = entities.range_scan(scan(&page.next_page_token)).await.expect_err("a foreign token");
    assert_eq!(foreign.code(), Code::InvalidArgument);
    let found = SearchClient::new(theirs.shown()).query(query("things", near("v", &[1.0, 0.0]))).await;
    assert!(found.expect("answered").into_inner().hits.is_empty());
    let mut graph = GraphClient::new(theirs.shown());
    let request = v1::ExpandRequest { seeds: vec![name("things", "a")], ..Default::default() };
    let expanded = async { graph.expand(request).await?.into_inner().message().await };
    match expanded.await {
        Ok(answer) => assert!(!format!("{answer:?}").contains("\"b\""), "{answer:?}"),
        Err(status) => assert_eq!(status.code(), Code::NotFound),
    }
    let asked = v1::NeighborsRequest { r#ref: Some(name("things", "a")), ..Default::default() };
    match graph.neighbors(asked).await {
        Ok(answer) => assert!(answer.into_inner().neighbors.is_empty()),
        Err(status) => assert_eq!(status.code(), Code::NotFound),
    }

    // What others have is told from what nobody has by nothing.
    let mut collections = CollectionsClient::new(theirs.shown());
    let told = async |name: &str| {
        let request = v1::GetCollectionRequest { name: name.into() };
        let status =
            CollectionsClient::new(theirs.shown()).get_collection(request).await.expect_err("unknown");
        (status.code(), status.message().replace(name, "NAME"))
    };
    assert_eq!(told("ours").await, told("nobodys").await);
    let listed = collections.list_collections(v1::ListCollectionsRequest::default()).await.expect("listed");
    let listed: Vec<String> = listed.into_inner().collections.into_iter().map(|of| of.name).collect();
    assert_eq!(listed, ["things"]);
    let dropped = collections.drop_collection(v1::DropCollectionRequest { name: "ours".into() }).await;
    assert_eq!(dropped.expect_err("none of theirs").code(), Code::NotFound);
    let delete = v1::DeleteRequest { r#ref: Some(name("things", "a")), ..Default::default() };
    entities.delete(delete).await.ok();
    collections
        .drop_collection(v1::DropCollectionRequest { name: "things".into() })
        .await
        .expect("their own goes");
    assert_eq!(ours.count().await.expect("counted"), 3);
    assert_eq!(Holder::own(&process).count().await.expect_err("of neither").code(), Code::NotFound);
}

/// What a snapshot is restored to is as apart as what it was taken of, with the same keys; and no tenant's key is told of snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_see_nothing_of_each_other_in_snapshots() {
    let place = tempfile::TempDir::new().expect("a directory");
    let settings = [
        ("ALLIDB__ACCESS__KEYS_REQUIRED".to_owned(), "true".to_owned()),
        ("ALLIDB__SNAPSHOTS__LOCATION".to_owned(), place.path().display().to_string()),
    ];
    let [mut process, mut other] = [(); 2].map(|()| Process::of(settings.clone().into_iter()));
    process.restart().await;
    let own = Holder::own(&process);
    let [ours, theirs] = two_tenants(&process).await;
    let request = v1::PutRequest { entity: Some(entity("things", "a")), ..Default::default() };
    EntitiesClient::new(ours.shown()).put(request).await.expect("put");

    let operator = || SnapshotsClient::new(own.shown());
    let begun = Instant::now();
    let id = loop {
        let taken = async {
            let mut told = operator().create_snapshot(v1::CreateSnapshotRequest {}).await?.into_inner();
            let mut id = String::new();
            while let Some(progress) = told.message().await? {
                id = progress.snapshot.unwrap_or_default().id;
            }
            Ok::<_, Status>(id)
        };
        match taken.await {
            Ok(id) => break id,
            Err(status) => assert!(begun.elapsed() < Duration::from_secs(30), "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut client = SnapshotsClient::new(theirs.shown());
    let refused = [
        client.list_snapshots(v1::ListSnapshotsRequest {}).await.err(),
        client.create_snapshot(v1::CreateSnapshotRequest {}).await.err(),
        client.verify_snapshot(v1::VerifySnapshotRequest { id: id.clone() }).await.err(),
        client.restore_snapshot(v1::RestoreSnapshotRequest { id: id.clone() }).await.err(),
        client.delete_snapshots(v1::DeleteSnapshotsRequest { ids: vec![id.clone()] }).await.err(),
    ];
    for refused in refused {
        let status = refused.expect("it is an operator's");
        assert_eq!(status.code(), Code::PermissionDenied);
        assert!(!status.message().contains("ours") && !status.message().contains(&id), "{status}");
    }

    other.restart().await;
    let request = v1::RestoreSnapshotRequest { id };
    let restoring = SnapshotsClient::new(Holder::own(&other).shown()).restore_snapshot(request).await;
    let mut told = restoring.expect("it is empty").into_inner();
    while told.message().await.expect("it is whole").is_some() {}
    let [ours, theirs] = [ours, theirs].map(|holder| holder.at(other.client().channel));
    assert_eq!((ours.count().await.expect("counted"), theirs.count().await.expect("counted")), (1, 0));
    let get = v1::GetRequest { r#ref: Some(name("things", "a")), ..Default::default() };
    let found = EntitiesClient::new(theirs.shown()).get(get).await.expect_err("none of theirs");
    assert_eq!(found.code(), Code::NotFound);
    let mut collections = CollectionsClient::new(theirs.shown());
    let asked = collections.list_collections(v1::ListCollectionsRequest::default());
    let listed = asked.await.expect("listed").into_inner().collections;
    assert_eq!(listed.into_iter().map(|of| of.name).collect::<Vec<_>>(), ["things"]);
    let asked = v1::GetCollectionRequest { name: "ours".into() };
    let asked = CollectionsClient::new(theirs.shown()).get_collection(asked).await;
    assert_eq!(asked.expect_err("none of theirs").code(), Code::NotFound);
}

/// Three nodes whose own key is the same, where it is, and the key.
async fn ring_with_one_key() -> (tempfile::TempDir, Ring, String) {
    let dir = tempfile::TempDir::new().expect("a directory");
    let own_file = dir.path().join("admin-key");
    let own = format!("adb_{}_{}", "a".repeat(12), "0123456789abcdef".repeat(4));
    fs::write(&own_file, &own).expect("written");
    let own_file = own_file.display().to_string();
    let settings =
        [("ALLIDB__ACCESS__KEYS_REQUIRED", "true"), ("ALLIDB__ACCESS__ADMIN_KEY_FILE", own_file.as_str())];
    let ring = Ring::start_with(3, &settings).await;
    (dir, ring, own)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_changed_under_load_and_revoked_on_all_nodes() {
    let (_dir, ring, own) = ring_with_one_key().await;
    let channel = |at: usize| ring.client(at).channel;
    let own = Holder { channel: channel(0), key: own };
    let (_, admin) = own.create(Role::Admin, 0, None).await.expect("made");
    admin.create_collection("things").await.expect("made");
    let (first_id, first) = own.create(Role::Writer, 0, None).await.expect("made");

    // Writers show the key that is current, and none of them is ever refused.
    let current = Arc::new(parking(first.clone()));
    let (is_over, puts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|at| {
            let (current, is_over, puts, channel) =
                (Arc::clone(&current), Arc::clone(&is_over), Arc::clone(&puts), channel(at));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let holder = current.read().expect("no panic").at(channel.clone());
                    let put = puts.fetch_add(1, Ordering::SeqCst);
                    holder.put(&format!("e-{at}-{put}")).await.expect("no call is refused");
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, second) = own.at(channel(1)).create(Role::Writer, 0, None).await.expect("made");
    // At once, at a node that was not asked to make it.
    second.at(channel(2)).put("e").await.expect("it is known everywhere");
    *current.write().expect("no panic") = second.clone();
    // What was used at one node is known at another that is asked.
    let (unused_id, unused) = own.create(Role::Reader, 0, None).await.expect("made");
    assert_eq!(own.at(channel(1)).last_use_of(&unused_id).await, None);
    let before = SystemTime::now();
    unused.at(channel(0)).count().await.expect("counted");
    let used = own.at(channel(2)).last_use_of(&unused_id).await.expect("it was used");
    let about = before - Duration::from_secs(1)..SystemTime::now() + Duration::from_secs(1);
    assert!(about.contains(&used), "{used:?}, not {about:?}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    own.at(channel(2)).revoke(&first_id).await.expect("revoked");
    let revoked = Instant::now();
    for at in 0..3 {
        eventually("it is refused", async || {
            let refused = first.at(channel(at)).put("late").await;
            refused.err().filter(|status| status.code() == Code::Unauthenticated)
        })
        .await;
    }
    assert!(revoked.elapsed() < Duration::from_secs(5), "{:?}", revoked.elapsed());
    is_over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.expect("no call was refused");
    }
    assert!(puts.load(Ordering::SeqCst) > 30, "{puts:?}");
}

fn parking(holder: Holder) -> std::sync::RwLock<Holder> {
    std::sync::RwLock::new(holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_ended_in_order_knows_when_keys_were_used() {
    let mut process = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    let (id, reader) = Holder::own(&process).create(Role::Reader, 0, None).await.expect("made");
    let (unused, _) = Holder::own(&process).create(Role::Reader, 0, None).await.expect("made");
    assert_eq!(reader.count().await.expect_err("no collection").code(), Code::NotFound);
    let used = Holder::own(&process).last_use_of(&id).await.expect("it was used");
    drop(reader);
    process.end_and_restart().await;
    assert_eq!(Holder::own(&process).last_use_of(&id).await, Some(used));
    assert_eq!(Holder::own(&process).last_use_of(&unused).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_s_own_key_may_come_as_a_variable() {
    let key = format!("adb_{}_{}", "a".repeat(12), "0123456789abcdef".repeat(4));
    let settings = [("ALLIDB__ACCESS__KEYS_REQUIRED", "true"), ("ALLIDB_ADMIN_KEY", key.as_str())];
    let mut process = Process::of(settings.into_iter().map(|(name, value)| (name.into(), value.into())));
    process.restart().await;
    let own = Holder { channel: process.client().channel, key: key.clone() };
    own.create_collection("things").await.expect("it may do everything");
    assert!(!process.dir().join("data/admin-key").exists(), "no other one is made");
    assert!(!process.log().contains(&key));
    drop(process);

    let dir = tempfile::TempDir::new().expect("a directory");
    let mut command = crate::process::command(dir.path());
    let ended = command.env("ALLIDB_ADMIN_KEY", "s3cret").output().expect("run");
    assert!(!ended.status.success(), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("ALLIDB_ADMIN_KEY cannot be used") && !said.contains("s3cret"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_keys_of_its_own_joins_no_ring() {
    let mut alone = Process::start_with(&[("ALLIDB__ACCESS__KEYS_REQUIRED", "true")]).await;
    Holder::own(&alone).create(Role::Reader, 0, None).await.expect("made");
    alone.kill();
    let founders = [
        ("ALLIDB__RING__FOUNDERS", "[\"127.0.0.1:1\",\"127.0.0.1:2\",\"127.0.0.1:3\"]"),
        ("ALLIDB__RING__LISTEN", "127.0.0.1:0"),
        ("ALLIDB__RING__ADDRESS", "127.0.0.1:4"),
    ];
    let mut command = crate::process::command(alone.dir());
    let ended = command.envs(founders).output().expect("run");
    assert!(!ended.status.success(), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("collections or keys of its own"), "{said}");
}

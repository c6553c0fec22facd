//! Bytes that are no message, no call or no HTTP: each gets an answer or a closed connection, and the daemon
//! goes on with everything it had.

use std::{collections::BTreeMap, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
};

use allidb_api::v1;

use crate::{
    client::Client,
    make::{compare, entity, int, mask, name, near, not, query, text, vectors},
    process::Process,
    random::Random,
};

const COLLECTION: &str = "things";
const SPACE: &str = "plane";
/// Messages to each method.
const MESSAGES: usize = 60;
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Sends and takes messages as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The path of every method of the contract.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(allidb_api::FILE_DESCRIPTOR_SET).expect("our own");
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    let paths = services.flat_map(|(file, service)| {
        let full = format!("{}.{}", file.package(), service.name());
        service.method.iter().map(move |method| format!("/{full}/{}", method.name()))
    });
    let paths: Vec<String> = paths.collect();
    assert!(paths.len() >= 22, "{paths:?}");
    paths
}

/// Messages of the contract, to be damaged.
fn whole_messages() -> Vec<Vec<u8>> {
    let put = v1::PutRequest {
        entity: Some(v1::Entity {
            attributes: [("a".to_owned(), text("b")), ("n".to_owned(), int(-1))].into(),
            vectors: vectors(SPACE, &[1.0, 2.0]),
            ..entity("nowhere", "x")
        }),
        ..Default::default()
    };
    let filter = not(compare("a", v1::comparison::Operator::Less, int(3)));
    let asked =
        v1::QueryRequest { filter: Some(filter.clone()), ..query("nowhere", near(SPACE, &[1.0, 2.0])) };
    let scan = v1::RangeScanRequest {
        collection: "nowhere".into(),
        filter: Some(filter),
        page_token: "AAAA".into(),
        read_mask: mask(&["attributes.a", "*"]),
        ..Default::default()
    };
    let expand = v1::ExpandRequest { seeds: vec![name("nowhere", "x")], ..Default::default() };
    vec![put.encode_to_vec(), asked.encode_to_vec(), scan.encode_to_vec(), expand.encode_to_vec()]
}

/// Noise, damaged messages, and messages made to blow up.
fn garbage(random: &mut Random, whole: &[Vec<u8>]) -> Bytes {
    let bytes = match random.below(6) {
        0 => {
            let length = random.below(300);
            random.bytes(length)
        }
        1 | 2 => {
            let mut message = whole[random.below(whole.len())].clone();
            for _ in 0..random.within(1..6) {
                let at = random.below(message.len());
                message[at] = random.next() as u8;
            }
            message
        }
        3 => {
            let mut message = whole[random.below(whole.len())].clone();
            message.truncate(random.below(message.len()));
            message
        }
        // A field that claims to be nearly endless.
        4 => vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, random.next() as u8],
        // Messages within messages, thousands deep.
        _ => {
            let mut message = Vec::new();
            for _ in 0..2_000 {
                let mut outer = vec![[0x0a, 0x1a, 0x32, 0x2a][random.below(4)]];
                prost::encoding::encode_varint(message.len() as u64, &mut outer);
                outer.append(&mut message);
                message = outer;
            }
            message
        }
    };
    bytes.into()
}

/// One call with such messages; how it ended.
pub(crate) async fn call(client: &Client, path: &str, messages: Vec<Bytes>) -> Code {
    let mut grpc = Grpc::new(client.channel.clone()).max_decoding_message_size(64 << 20);
    grpc.ready().await.expect("connected");
    let to: PathAndQuery = path.parse().expect("a path");
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let ended = async {
        let mut answers = grpc.streaming(request, to, Raw).await?.into_inner();
        while answers.next().await.transpose()?.is_some() {}
        Ok::<_, Status>(())
    };
    match timeout(CALL_LIMIT, ended).await.unwrap_or_else(|_| panic!("{path} does not end")) {
        Ok(()) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// A daemon, and what is in it.
pub(crate) async fn prepared() -> (Process, v1::Entity) {
    let process = Process::start().await;
    let client = process.client();
    client.create(COLLECTION, SPACE, 2).await;
    client
        .put(v1::Entity { vectors: vectors(SPACE, &[1.0, 0.0]), ..entity(COLLECTION, "here") })
        .await
        .expect("put");
    let before = client.get(name(COLLECTION, "here")).await.expect("there");
    (process, before)
}

/// It goes on, and what was in it is.
pub(crate) async fn unharmed(process: &Process, before: &v1::Entity) {
    assert_eq!(process.get("/readyz").await.expect("answered").0, 200);
    let client = process.client();
    assert_eq!(&client.get(name(COLLECTION, "here")).await.expect("there"), before);
    assert_eq!(client.count(COLLECTION).await, 1);
    client.put(entity(COLLECTION, "more")).await.expect("writes go on");
    client.delete(name(COLLECTION, "more")).await.expect("deletions go on");
    let log = process.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none_harm_nothing() {
    let mut random = Random::seeded("garbage");
    let (process, before) = prepared().await;
    let client = process.client();
    let whole = whole_messages();
    let mut codes = BTreeMap::new();
    for path in methods() {
        for _ in 0..MESSAGES {
            let code = call(&client, &path, vec![garbage(&mut random, &whole)]).await;
            // These would say that the daemon itself is at fault or gone.
            assert!(!matches!(code, Code::Unknown | Code::DataLoss | Code::Unavailable), "{path}: {code:?}");
            *codes.entry(format!("{code:?}")).or_insert(0) += 1;
        }
        let several = (0..5).map(|_| garbage(&mut random, &whole)).collect();
        call(&client, &path, several).await;
        call(&client, &path, Vec::new()).await;
    }
    println!("garbage was answered {codes:?}");
    for path in
        ["/", "/allidb.v1.Entities", "/allidb.v1.Entities/Nonsense", "/allidb.v1.entities/Put", "/x/y/z"]
    {
        assert_eq!(
            call(&client, path, vec![Bytes::from_static(b"\x00")]).await,
            Code::Unimplemented,
            "{path}"
        );
    }
    unharmed(&process, &before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_http_harm_nothing() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut random = Random::seeded("no_http");
    let (process, before) = prepared().await;
    for at in 0..200 {
        let mut bytes = if at % 2 == 0 { PREFACE.to_vec() } else { Vec::new() };
        for _ in 0..random.below(8) {
            let length = random.below(200);
            if random.below(2) == 0 {
                // A frame with an honest length, of any type, with any flags, on any stream.
                bytes.extend((length as u32).to_be_bytes().into_iter().skip(1));
                bytes.extend([random.below(12) as u8, random.next() as u8]);
                bytes.extend((random.below(8) as u32).to_be_bytes());
            }
            bytes.extend(random.bytes(length));
        }
        let mut stream = TcpStream::connect(process.grpc()).await.expect("the daemon listens");
        // It may close the connection before all was sent; then there is nothing more to do.
        if stream.write_all(&bytes).await.is_ok() && stream.shutdown().await.is_ok() {
            let mut answer = Vec::new();
            let closed = timeout(CALL_LIMIT, stream.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "the connection is closed in the end");
        }
    }
    unharmed(&process, &before).await;
}

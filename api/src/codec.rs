//! How messages come off the wire: as prost reads them, once it is known what they will take.
//!
//! Two bytes can stand for a value of a list, which takes fifty times as many in memory: a message within the limit on its bytes would be gigabytes. So
//! the messages within it are counted first, by their places in the contract, and put on the [scale](crate::weight) with the bytes of the request.

use std::{marker::PhantomData, sync::Arc};

use bytes::Buf;
use prost::{
    Message, Name,
    encoding::{DecodeContext, WireType, decode_varint, skip_field},
};
use tokio::task::yield_now;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{
    status,
    weight::{Held, Taken},
};

/// How many times its size an item of a list takes: lists grow by doubling, and what they are turned into is there at the same time.
const TIMES_SIZE: usize = 3;
/// What a message takes beyond its size: boxes, and what the allocator rounds up.
const EACH_BYTES: usize = 32;
/// Entries for which a map makes room when it has one.
const MAP_ENTRIES: usize = 11;
/// What a text takes, or bytes, but for these themselves.
const TEXT_BYTES: usize = 64;
/// Messages within each other that prost reads.
const DEEP: usize = 100;

/// How a field holds messages.
#[derive(Clone, Copy, Debug)]
enum Holds {
    /// One, which is a part of what has the field.
    One,
    List,
    Map,
}

/// Of a message of the contract its name and size, and of each field that holds messages the number, their place here, and how it holds them.
type Shape = (&'static str, usize, &'static [(u32, usize, Holds)]);

/// All messages of the contract, in the order of their names. Made by the build script.
const SHAPES: &[Shape] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

tokio::task_local! {
    /// What the request weighs that is being read.
    static WEIGHED: Arc<Held>;
}

/// Has what is read by a future put on the scale as this request's.
pub(crate) async fn weighed<F: Future>(held: Arc<Held>, reading: F) -> F::Output {
    WEIGHED.scope(held, reading).await
}

/// The message that was read last is kept: see [`Held::taken`].
pub(crate) fn taken() -> Option<Taken> {
    WEIGHED.try_with(Held::taken).ok()
}

/// So many bytes were found for the request, and are to be made an answer: where many are at once, each waits for its turn. Goes on aside if they are many.
///
/// # Errors
/// RESOURCE_EXHAUSTED if there is no room for them.
pub(crate) async fn found(bytes: usize) -> Result<(), Status> {
    let is_large = WEIGHED.try_with(|held| held.answered(bytes).map(|()| held.is_answer_large()));
    if is_large.unwrap_or(Ok(false))? {
        // Who drives the call has it driven elsewhere meanwhile.
        yield_now().await;
    }
    Ok(())
}

/// Reads messages as prost does, but those of requests only if there is room for them.
#[derive(Debug)]
pub(crate) struct WeighingCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for WeighingCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for WeighingCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SizedEncoder<T>;
    type Decoder = WeighingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        SizedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        WeighingDecoder { shape: shape_of(&U::full_name()), message: PhantomData }
    }
}

/// Writes one kind of message, into as much room as it takes: room that doubles would be twice as much, and once more while it is moved.
#[derive(Debug)]
pub(crate) struct SizedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SizedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode(buffer).map_err(|error| {
            status::internal_error(&format!("an answer takes more room than there is: {error}"))
        })
    }
}

/// Reads one kind of message.
#[derive(Debug)]
pub(crate) struct WeighingDecoder<U> {
    shape: Option<&'static Shape>,
    message: PhantomData<U>,
}

impl<U: Message + Default> Decoder for WeighingDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(shape) = self.shape {
            let weigh = |held: &Arc<Held>| held.unpacked(unpacked(shape, buffer.chunk(), DEEP));
            // Answers are read by clients, who asked for them.
            WEIGHED.try_with(weigh).unwrap_or(Ok(()))?;
        }
        U::decode(buffer).map(Some).map_err(|error| status::undecodable(&error.to_string()))
    }
}

fn item_bytes((_, size, _): &Shape) -> usize {
    TIMES_SIZE * size + EACH_BYTES
}

fn shape_of(name: &str) -> Option<&'static Shape> {
    SHAPES.binary_search_by(|(known, ..)| (*known).cmp(name)).ok().map(|place| &SHAPES[place])
}

/// Bytes in memory, about, of what is within a message that is encoded so. Of what is no message as far as it is one.
fn unpacked((.., fields): &Shape, mut bytes: &[u8], deep: usize) -> usize {
    let (mut total, mut map) = (0, None);
    while let Ok(key) = decode_varint(&mut bytes) {
        let skipped = match key & 7 {
            0 => decode_varint(&mut bytes).is_ok().then_some(0),
            1 => Some(8),
            5 => Some(4),
            // Nothing in the contract is one: it is passed over as prost does, or whatever comes behind it would weigh nothing.
            3 => {
                let number = u32::try_from(key >> 3).unwrap_or_default();
                skip_field(WireType::StartGroup, number, &mut bytes, DecodeContext::default())
                    .ok()
                    .map(|()| 0)
            }
            2 => {
                let Ok(length) = decode_varint(&mut bytes) else { break };
                let Some(inner) = usize::try_from(length).ok().and_then(|length| bytes.get(..length)) else {
                    break;
                };
                let number = u32::try_from(key >> 3).unwrap_or_default();
                total += match fields.iter().find(|(of, ..)| *of == number) {
                    Some((_, place, holds)) if deep > 0 => {
                        let shape = &SHAPES[*place];
                        let own = match holds {
                            Holds::One => EACH_BYTES,
                            Holds::List => item_bytes(shape),
                            Holds::Map if map.replace(number) == Some(number) => shape.1,
                            Holds::Map => MAP_ENTRIES * shape.1,
                        };
                        own + unpacked(shape, inner, deep - 1)
                    }
                    _ => TEXT_BYTES,
                };
                Some(inner.len())
            }
            _ => None,
        };
        match skipped {
            Some(length) if length <= bytes.len() => bytes.advance(length),
            _ => break,
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use prost::bytes::Bytes;

    use super::*;
    use crate::v1::{self, value::Kind};

    fn weight<T: Message + Name>(message: &T) -> usize {
        unpacked(shape_of(&T::full_name()).expect("it is of the contract"), &message.encode_to_vec(), DEEP)
    }

    fn value(kind: Kind) -> v1::Value {
        v1::Value { kind: Some(kind) }
    }

    /// What an item of a list takes, but for what is within it.
    fn item<T: Name>() -> usize {
        item_bytes(shape_of(&T::full_name()).expect("it is of the contract"))
    }

    #[test]
    fn what_is_within_a_message_is_counted() {
        assert_eq!(weight(&v1::PutRequest::default()), 0);
        let list = |values: Vec<v1::Value>| value(Kind::ListValue(v1::ListValue { values }));
        let empty = vec![v1::Value::default(); 1_000];
        assert_eq!(weight(&list(empty.clone())), EACH_BYTES + 1_000 * item::<v1::Value>());
        let texts = vec![value(Kind::StringValue("x".into())); 10];
        assert_eq!(weight(&list(texts)), EACH_BYTES + 10 * (item::<v1::Value>() + TEXT_BYTES));
        // Of queries, which are large, fewer are as much.
        assert!(item::<v1::QueryRequest>() > 2 * size_of::<v1::QueryRequest>());
        // A map makes room for several when it has one; what is in bytes is not looked into.
        let bytes = value(Kind::BytesValue(Bytes::from(list(empty).encode_to_vec())));
        let attributes = |count: usize| {
            let values = (0..count).map(|at| (at.to_string(), bytes.clone()));
            let entity = Some(v1::Entity { attributes: values.collect(), ..Default::default() });
            weight(&v1::PutRequest { entity, ..Default::default() })
        };
        let (own, entry) = (32 + size_of::<v1::Value>(), EACH_BYTES + 2 * TEXT_BYTES);
        assert_eq!(attributes(1), EACH_BYTES + MAP_ENTRIES * own + entry);
        assert_eq!(attributes(3) - attributes(2), own + entry);
    }

    #[test]
    fn what_is_no_message_is_counted_as_far_as_it_is_one() {
        let shape = shape_of("allidb.v1.PutRequest").expect("it is of the contract");
        let whole =
            v1::PutRequest { entity: Some(v1::Entity::default()), ..Default::default() }.encode_to_vec();
        for end in 0..whole.len() {
            assert_eq!(unpacked(shape, &whole[..end], DEEP), 0);
        }
        for garbage in [&[0xff; 40][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0x0b], &[0x09, 1], &[0x0d]]
        {
            assert_eq!(unpacked(shape, garbage, DEEP), 0);
        }
        // What prost passes over hides nothing that it reads.
        let group = [0xbb, 0x3e, 0x0b, 0x12, 1, 9, 0x0c, 0xbc, 0x3e];
        for with in [[&group[..], &whole].concat(), [&group[..], &group, &whole].concat()] {
            v1::PutRequest::decode(&*with).expect("prost reads it");
            assert_eq!(unpacked(shape, &with, DEEP), weight(&v1::PutRequest::decode(&*whole).expect("ours")));
        }
        // Deeper than prost reads.
        let mut deep = v1::Value::default();
        for _ in 0..300 {
            deep = value(Kind::ListValue(v1::ListValue { values: vec![deep] }));
        }
        assert!(weight(&deep) <= (DEEP + 1) * item::<v1::Value>());
        assert!(v1::Value::decode(&*deep.encode_to_vec()).is_err());
    }
}

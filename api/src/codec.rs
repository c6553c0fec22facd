//! How messages come off the wire: as prost reads them, once it is known what they will take.
//!
//! Two bytes can stand for a value of a list, which takes fifty times as many in memory: a message within the limit on its bytes would be gigabytes. So
//! the messages within it are counted first, by their places in the contract, and put on the [scale](crate::weight) with the bytes of the request.

use std::{marker::PhantomData, sync::Arc};

use bytes::Buf;
use prost::{Message, Name, encoding::decode_varint};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::{status, weight::Held};

/// Bytes that a message within a message takes in memory, about, with what holds it, and what it is turned into.
const MESSAGE_BYTES: usize = 128;
/// The same of a text or of bytes, but for these.
const TEXT_BYTES: usize = 32;
/// Messages within each other that prost reads.
const DEEP: usize = 100;

/// Of a message of the contract its name, and of each field that holds messages the number and their place here.
type Shape = (&'static str, &'static [(u32, usize)]);

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
    type Encoder = ProstEncoder<T>;
    type Decoder = WeighingDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        WeighingDecoder { shape: shape_of(&U::full_name()), message: PhantomData }
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

fn shape_of(name: &str) -> Option<&'static Shape> {
    SHAPES.binary_search_by(|(known, _)| (*known).cmp(name)).ok().map(|place| &SHAPES[place])
}

/// Bytes in memory, about, of what is within a message that is encoded so. Of what is no message as far as it is one.
fn unpacked((_, fields): &Shape, mut bytes: &[u8], deep: usize) -> usize {
    let mut total = 0;
    while let Ok(key) = decode_varint(&mut bytes) {
        let skipped = match key & 7 {
            0 => decode_varint(&mut bytes).is_ok().then_some(0),
            1 => Some(8),
            5 => Some(4),
            2 => {
                let Ok(length) = decode_varint(&mut bytes) else { break };
                let Some(inner) = usize::try_from(length).ok().and_then(|length| bytes.get(..length)) else {
                    break;
                };
                let number = u32::try_from(key >> 3).unwrap_or_default();
                total += match fields.iter().find(|(of, _)| *of == number) {
                    Some((_, place)) if deep > 0 => {
                        MESSAGE_BYTES + unpacked(&SHAPES[*place], inner, deep - 1)
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

    #[test]
    fn what_is_within_a_message_is_counted() {
        assert_eq!(weight(&v1::PutRequest::default()), 0);
        let list = |values: Vec<v1::Value>| value(Kind::ListValue(v1::ListValue { values }));
        let empty = vec![v1::Value::default(); 1_000];
        assert_eq!(weight(&list(empty.clone())), 1_001 * MESSAGE_BYTES);
        let texts = vec![value(Kind::StringValue("x".into())); 10];
        assert_eq!(weight(&list(texts)), 11 * MESSAGE_BYTES + 10 * TEXT_BYTES);
        // The entity, and for each attribute its entry, name and value; what is in bytes is not looked into.
        let bytes = value(Kind::BytesValue(Bytes::from(list(empty).encode_to_vec())));
        let attributes = [("a".to_owned(), bytes), ("b".to_owned(), value(Kind::IntValue(1)))].into();
        let entity = Some(v1::Entity { attributes, ..Default::default() });
        let put = v1::PutRequest { entity, ..Default::default() };
        assert_eq!(weight(&put), 5 * MESSAGE_BYTES + 3 * TEXT_BYTES);
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
        // Deeper than prost reads.
        let mut deep = v1::Value::default();
        for _ in 0..300 {
            deep = value(Kind::ListValue(v1::ListValue { values: vec![deep] }));
        }
        assert!(weight(&deep) <= (DEEP + 1) * MESSAGE_BYTES);
        assert!(v1::Value::decode(&*deep.encode_to_vec()).is_err());
    }
}

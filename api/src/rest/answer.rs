//! What the services answer, as HTTP has it: one message as JSON, a stream as lines of JSON.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost_reflect::{MessageDescriptor, MethodDescriptor};
use tonic::{Code, Status};

use super::{error, json::Message, translated};
use crate::{layer::SurroundedBody, status};

/// Bytes of an answer that are handed on at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The answer to a call of a method.
pub(crate) async fn answer(method: &MethodDescriptor, answered: Response<SurroundedBody>) -> Response<Body> {
    // A status alone stands among the headers.
    if let Some(status) = Status::from_header_map(answered.headers()) {
        return error::answer(&status);
    }
    let kind = method.output();
    let mut messages = Messages { body: answered.into_body(), buffer: BytesMut::new() };
    if method.is_server_streaming() {
        // What fails at once fails with a code.
        return match messages.next().await {
            Err(status) => error::answer(&status),
            Ok(first) => {
                let lines = Lines { messages, kind, is_over: first.is_none(), first };
                of_type("application/x-ndjson", Body::new(lines))
            }
        };
    }
    let whole = match messages.next().await {
        // The status comes after the message.
        Ok(Some(message)) => messages.next().await.map(|_| message),
        Ok(None) => Err(status::internal_error("a call ended without an answer")),
        Err(status) => Err(status),
    };
    let written = match whole {
        Ok(bytes) => translated(bytes.len(), move || Ok((line(&kind, &bytes)?, messages))).await,
        Err(status) => Err(status),
    };
    match written {
        Ok((line, Messages { body: call, .. })) => match call.weigh(line.len()) {
            Ok(()) => of_type("application/json", Body::new(Whole { line, call })),
            Err(refusal) => error::answer(&refusal),
        },
        Err(status) => error::answer(&status),
    }
}

/// An answer, whose call is under way until it is sent: who does not read it has it count.
struct Whole {
    line: Bytes,
    call: SurroundedBody,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Piece by piece: what is taken as a whole counts as sent.
        let length = self.line.len().min(PIECE_BYTES);
        let piece = self.line.split_to(length);
        self.call.gives(Some(length));
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.line.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.line.len() as u64)
    }
}

fn of_type(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A message in JSON, on a line of its own.
fn line(kind: &MessageDescriptor, bytes: &[u8]) -> Result<Bytes, Status> {
    let mut line = serde_json::to_vec(&Message { kind, bytes })
        .map_err(|error| status::internal_error(&format!("an answer is no JSON: {error}")))?;
    line.push(b'\n');
    Ok(line.into())
}

/// The messages of an answer.
struct Messages {
    body: SurroundedBody,
    buffer: BytesMut,
}

impl Messages {
    /// The next one; none after a good end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.buffered() {
                return Poll::Ready(Ok(Some(message)));
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(Err(status::internal_error("an answer broke off")));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(status) => return Poll::Ready(Err(status)),
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    return Poll::Ready(match status {
                        Some(status) if status.code() != Code::Ok => Err(status),
                        _ => Ok(None),
                    });
                }
            }
        }
    }

    /// A message that is here as a whole: nothing is compressed, because nobody asked for it.
    fn buffered(&mut self) -> Option<Bytes> {
        let (_, length) = self.buffer.first_chunk::<5>().map(|[flag, length @ ..]| (flag, *length))?;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        if self.buffer.len() - 5 < length {
            return None;
        }
        self.buffer.advance(5);
        Some(self.buffer.split_to(length).freeze())
    }
}

/// A stream of messages, each on a line. An error is the last line.
struct Lines {
    messages: Messages,
    kind: MessageDescriptor,
    first: Option<Bytes>,
    is_over: bool,
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => ready!(self.messages.poll_next(context)),
        };
        let written = next.and_then(|message| message.map(|bytes| line(&self.kind, &bytes)).transpose());
        self.is_over = !matches!(written, Ok(Some(_)));
        Poll::Ready(match written {
            Ok(line) => line.map(|line| Ok(Frame::data(line))),
            Err(status) => Some(Ok(Frame::data(Bytes::from(format!("{}\n", error::line(&status)))))),
        })
    }
}

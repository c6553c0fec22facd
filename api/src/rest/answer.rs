//! What the services answer, as HTTP has it: one message as JSON, a stream as lines of JSON.

use std::{
    future::poll_fn,
    io::{self, Write},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    vec,
};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost_reflect::{MessageDescriptor, MethodDescriptor};
use tonic::{Code, Status};

use super::{error, json::Message, translated};
use crate::{layer::SurroundedBody, status};

/// The answer to a call of a method.
pub(crate) async fn answer(method: &MethodDescriptor, answered: Response<SurroundedBody>) -> Response<Body> {
    // A status alone stands among the headers.
    if let Some(status) = Status::from_header_map(answered.headers()) {
        return error::answer(&status);
    }
    let kind = method.output();
    let mut messages = Messages { body: answered.into_body(), buffer: Bytes::new() };
    if method.is_server_streaming() {
        // What fails at once fails with a code.
        return match messages.next().await {
            Err(status) => error::answer(&status),
            Ok(first) => {
                let line = Vec::new().into_iter();
                let lines = Lines { messages, kind, is_over: first.is_none(), first, line };
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
        Ok((line, Messages { body: call, .. })) => {
            let left = line.iter().map(Bytes::len).sum();
            match call.weigh(left) {
                Ok(()) => {
                    of_type("application/json", Body::new(Whole { line: line.into_iter(), left, call }))
                }
                Err(refusal) => error::answer(&refusal),
            }
        }
        Err(status) => error::answer(&status),
    }
}

/// An answer, whose call is under way until it is sent: who does not read it has it count.
struct Whole {
    line: vec::IntoIter<Bytes>,
    /// Bytes of it that were not handed on yet.
    left: usize,
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
        let piece = self.line.next();
        let length = piece.as_ref().map_or(0, Bytes::len);
        self.left -= length;
        self.call.gives(Some(length));
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

fn of_type(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A message in JSON, on a line of its own.
fn line(kind: &MessageDescriptor, bytes: &[u8]) -> Result<Vec<Bytes>, Status> {
    let mut line = Pieces::about(2 * bytes.len());
    let written = serde_json::to_writer(&mut line, &Message { kind, bytes }).map_err(io::Error::from);
    let written = written.and_then(|()| line.write_all(b"\n"));
    written.map_err(|error| status::internal_error(&format!("an answer is no JSON: {error}")))?;
    Ok(line.into_pieces())
}

/// Bytes of an answer that are handed on at a time.
const PIECE: usize = 64 << 10;

/// What is written, in pieces, of which each is given back once it is sent.
struct Pieces {
    full: Vec<Bytes>,
    last: BytesMut,
}

impl Pieces {
    /// Of about so many bytes.
    fn about(bytes: usize) -> Self {
        Self {
            full: Vec::with_capacity(bytes / PIECE),
            last: BytesMut::with_capacity(bytes.clamp(64, PIECE)),
        }
    }

    fn into_pieces(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.full.push(self.last.freeze());
        }
        self.full
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.last.len());
        self.last.extend_from_slice(&bytes[..taken]);
        if self.last.len() == PIECE {
            self.full.push(mem::replace(&mut self.last, BytesMut::with_capacity(PIECE)).freeze());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages of an answer.
struct Messages {
    body: SurroundedBody,
    /// What is there and was not asked for yet.
    buffer: Bytes,
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
            let Some(frame) = ready!(self.body.poll_whole(context)) else {
                return Poll::Ready(Err(status::internal_error("an answer broke off")));
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(status) => return Poll::Ready(Err(status)),
            };
            match frame.into_data() {
                // Services give messages as wholes, which may be large.
                Ok(data) if self.buffer.is_empty() => self.buffer = data,
                Ok(data) => self.buffer = [mem::take(&mut self.buffer), data].concat().into(),
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
        Some(self.buffer.split_to(length))
    }
}

/// A stream of messages, each on a line. An error is the last line.
struct Lines {
    messages: Messages,
    kind: MessageDescriptor,
    first: Option<Bytes>,
    /// What was not handed on yet of the line that was written last.
    line: vec::IntoIter<Bytes>,
    is_over: bool,
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(piece) = self.line.next() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            let next = match self.first.take() {
                Some(first) => Ok(Some(first)),
                None => ready!(self.messages.poll_next(context)),
            };
            let written = next.and_then(|message| message.map(|bytes| line(&self.kind, &bytes)).transpose());
            self.is_over = !matches!(written, Ok(Some(_)));
            self.line = match written {
                Ok(line) => line.unwrap_or_default(),
                Err(status) => vec![Bytes::from(format!("{}\n", error::line(&status)))],
            }
            .into_iter();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_in_pieces() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
            for (about, each) in [(0, 1_000), (length, 7), (2 * length, length.max(1))] {
                let mut pieces = Pieces::about(about);
                for part in bytes.chunks(each) {
                    pieces.write_all(part).expect("memory takes all");
                }
                let pieces = pieces.into_pieces();
                assert!(pieces.iter().all(|piece| (1..=PIECE).contains(&piece.len())));
                assert_eq!(pieces.concat(), bytes);
            }
        }
    }
}

//! The body of a request as the message that it stands for. Within all that surrounds a call: nothing of a body is read before its sender is
//! admitted, and what is read of it is weighed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::Service;

use super::{find::Found, json, routes::Takes, translated};
use crate::{layer::Room, status};

/// Takes requests with JSON, and has the services answer them.
#[derive(Clone)]
pub(crate) struct Transcoded {
    pub(crate) services: Routes,
    /// The largest body, in bytes.
    pub(crate) limit: usize,
}

impl Service<Request<Body>> for Transcoded {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.services, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is this one.
        let next = self.services.clone();
        let mut services = std::mem::replace(&mut self.services, next);
        let limit = self.limit;
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let found = head.extensions.get::<Arc<Found>>().cloned();
            let staying = head.extensions.get::<Arc<Room>>().map(Room::stay);
            let body = collect(body, limit).await;
            let length = body.as_ref().map_or(0, Bytes::len);
            let message = match (found, body) {
                (Some(found), Ok(body)) => {
                    let translate = move || {
                        // It goes on though the call is given up, and so counts until then.
                        let _staying = staying;
                        message(&found, &body)
                    };
                    translated(length, translate).await
                }
                (None, _) => Err(status::internal_error("a request leads to no method")),
                (_, Err(refusal)) => Err(refusal),
            };
            match message {
                Ok(message) => {
                    services.call(Request::from_parts(head, Body::new(Full::new(framed(&message))))).await
                }
                Err(refusal) => Ok(refusal.into_http()),
            }
        })
    }
}

/// The whole body. Of one that is too large as much again is read, so that its sender comes to read the refusal.
async fn collect(mut body: Body, limit: usize) -> Result<Bytes, Status> {
    let mut whole = BytesMut::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(garbled)?.into_data() else { continue };
        length = length.saturating_add(data.len());
        if length <= limit {
            whole.extend_from_slice(&data);
        } else {
            whole = BytesMut::new();
        }
        if length > limit.saturating_mul(2) {
            break;
        }
    }
    if length > limit {
        let message = format!("the body is too large: the limit is {limit} bytes");
        return Err(status::message_too_large(message, limit));
    }
    Ok(whole.freeze())
}

/// Why a body cannot be read: what a transport says is of no code, and its client's doing.
fn garbled(status: Status) -> Status {
    match status.code() {
        Code::Unknown => status::invalid("body", &format!("cannot be read: {}", status.message())),
        _ => status,
    }
}

/// The request message, encoded: what stands later counts, so nothing in a body changes what the path says.
fn message(found: &Found, body: &[u8]) -> Result<Vec<u8>, Status> {
    let input = found.place.method.input();
    let mut message = match found.place.route.takes {
        Takes::Message => json::read(body, &input)?,
        Takes::Field(name) => match input.get_field_by_name(name) {
            Some(field) => json::read_field(body, &field)?,
            None => return Err(status::internal_error("a route names no field")),
        },
        Takes::Nothing if body.is_empty() => Vec::new(),
        Takes::Nothing => return Err(status::invalid("body", "must be empty: nothing is read of it here")),
    };
    for (name, value) in &found.query {
        json::read_parameter(&input, name, value, &mut message)?;
    }
    for (name, value) in &found.path {
        json::read_parameter(&input, name, value, &mut message)?;
    }
    Ok(message)
}

/// The message as gRPC sends it: not compressed, with its length.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    // Longer ones than gRPC can say are beyond any limit on messages.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test]
    async fn a_body_that_breaks_is_its_client_s_doing() {
        let broken = |status: Status| {
            let frames = [Ok(Frame::data(Bytes::from_static(b"{"))), Err(status)];
            collect(Body::new(StreamBody::new(tokio_stream::iter(frames))), 100)
        };
        let refused = broken(Status::unknown("error reading a body")).await.expect_err("it is no body");
        assert_eq!(refused.code(), Code::InvalidArgument);
        let refused = broken(Status::resource_exhausted("too much")).await.expect_err("it is no body");
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
}

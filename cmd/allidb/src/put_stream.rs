//! Sends items through `PutStream` with a bounded number of them unanswered.
//!
//! One task does everything, so that no answer can overtake the note that its item was sent. The
//! channel to the call holds as many messages as may be unanswered; therefore sending never waits,
//! and the task always listens to the server.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
};

use allidb_api::v1::{
    Durability, PutStreamRequest, PutStreamResponse, entities_client::EntitiesClient, put_stream_request,
};
use anyhow::{Result, anyhow};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::{client::Shown, exchange::Original, failure::Failure, ledger::Ledger};

/// Where an item stands in its file.
#[derive(Debug)]
pub(crate) struct Origin {
    /// From 1.
    pub(crate) number: u64,
    /// As it was read, for the rejects file.
    pub(crate) original: Original,
}

/// What the reader made of a line or row.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are of the large kind")]
pub(crate) enum Prepared {
    /// To be sent; `label` names it in the file of acknowledged items.
    Ready { origin: Origin, label: String, item: put_stream_request::Item },
    /// Cannot be sent.
    Bad { origin: Origin, reason: String },
    /// Acknowledged in an earlier run.
    Skipped,
}

/// Items that the reader prepared, or why it cannot go on.
pub(crate) type Batch = Result<Vec<Prepared>>;

/// Sends everything that comes out of `batches`, to be acknowledged so, and notes each answer in `ledger`.
///
/// # Errors
/// When the reader fails or the call breaks; what was acknowledged until then is in the ledger.
pub(crate) async fn send(
    mut client: EntitiesClient<Shown>,
    mut batches: mpsc::Receiver<Batch>,
    window: usize,
    (durability, consistency): (Durability, i32),
    ledger: &mut Ledger,
) -> Result<()> {
    let (sender, receiver) = mpsc::channel(window);
    let mut sender = Some(sender);
    let mut call =
        Call::Opening(Box::pin(async move { client.put_stream(ReceiverStream::new(receiver)).await }));
    let mut unanswered: HashMap<u64, (Origin, String)> = HashMap::new();
    let mut queue: VecDeque<Prepared> = VecDeque::new();
    let mut sequence = 0;
    let mut exhausted = false;
    loop {
        while unanswered.len() < window
            && let Some(prepared) = queue.pop_front()
        {
            match prepared {
                Prepared::Skipped => ledger.skipped(),
                Prepared::Bad { origin, reason } => ledger.rejected(&origin, "INVALID_ARGUMENT", &reason)?,
                Prepared::Ready { origin, label, item } => {
                    sequence += 1;
                    unanswered.insert(sequence, (origin, label));
                    let message = PutStreamRequest {
                        sequence,
                        item: Some(item),
                        durability: durability as i32,
                        consistency,
                    };
                    if sender.as_ref().is_none_or(|sender| sender.try_send(message).is_err()) {
                        // The call has ended; its answer says why.
                        sender = None;
                        exhausted = true;
                        queue.clear();
                    }
                }
            }
        }
        if exhausted && queue.is_empty() {
            // Tells the server that no more will come; it ends the call after the last answer.
            sender = None;
        }
        tokio::select! {
            answer = call.next() => match answer {
                Ok(Some(answer)) => {
                    let Some((origin, label)) = unanswered.remove(&answer.sequence) else {
                        return Err(anyhow!("the server answered item {}, which was not sent", answer.sequence));
                    };
                    note(&answer, &origin, &label, ledger)?;
                }
                Ok(None) if sender.is_none() && unanswered.is_empty() => return Ok(()),
                Ok(None) => {
                    let left = unanswered.len();
                    return Err(anyhow!("the server ended the stream with {left} items unanswered"));
                }
                Err(status) => {
                    let left = unanswered.len();
                    let context = format!("the stream broke with {left} items sent and unanswered");
                    return Err(Failure::from_status(status).context(context));
                }
            },
            batch = batches.recv(), if !exhausted && queue.is_empty() => match batch {
                Some(batch) => queue.extend(batch?),
                None => exhausted = true,
            },
        }
    }
}

fn note(answer: &PutStreamResponse, origin: &Origin, label: &str, ledger: &mut Ledger) -> Result<()> {
    let status = answer.result.as_ref().and_then(|result| result.status.as_ref());
    match status {
        Some(status) if status.code != 0 => {
            ledger.rejected(origin, crate::failure::code_name(status.code), &status.message)
        }
        // An empty message is how protobuf writes a status of code 0; no result at all is no answer.
        _ if answer.result.is_some() => ledger.acknowledged(label),
        _ => Err(anyhow!("the server answered item {} without a status", answer.sequence)),
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Response<Streaming<PutStreamResponse>>, Status>> + Send>>;

/// A call whose answer may begin only after the first items have arrived.
enum Call {
    Opening(Opening),
    Open(Box<Streaming<PutStreamResponse>>),
}

impl Call {
    /// The next answer. Cancel-safe: what was received is kept in `self`.
    async fn next(&mut self) -> Result<Option<PutStreamResponse>, Status> {
        loop {
            match self {
                Self::Open(stream) => return stream.message().await,
                Self::Opening(opening) => {
                    let stream = opening.await?.into_inner();
                    *self = Self::Open(Box::new(stream));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "put_stream_tests.rs"]
mod tests;

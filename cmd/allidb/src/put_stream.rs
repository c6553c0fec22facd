//! Sends items through `PutStream` with a bounded number of them unanswered.
//!
//! One task does everything, so that no answer can overtake the note that its item was sent. The
//! channel to the call holds as many messages as may be unanswered; therefore sending never waits,
//! and the task always listens to the server.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use allidb_api::v1::{
    Durability, PutStreamRequest, PutStreamResponse, entities_client::EntitiesClient, put_stream_request,
};
use anyhow::{Result, anyhow};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};

use crate::{acknowledged::Label, client::Shown, exchange::Original, failure::Failure, ledger::Ledger};

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
    Ready { origin: Origin, label: Label, item: put_stream_request::Item },
    /// Cannot be sent.
    Bad { origin: Origin, reason: String },
    /// Acknowledged in an earlier run.
    Skipped,
}

/// How often an item is sent that the server cannot take just then, as nodes of its ring do not answer, say.
const TRIES: u32 = 6;
/// How long nothing is sent before the second time; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// An item to be sent.
struct Outgoing {
    origin: Origin,
    label: Label,
    item: put_stream_request::Item,
    /// How often it was sent before.
    tries: u32,
}

/// Items that the reader prepared, or why it cannot go on.
pub(crate) type Batch = Result<Vec<Prepared>>;

/// Sends everything that comes out of `batches`, to be acknowledged so, and notes each answer in `ledger`. What the server cannot take just then is
/// sent again.
///
/// # Errors
/// When the reader fails or the call breaks; what was acknowledged until then is in the ledger.
pub(crate) async fn send(
    client: EntitiesClient<Shown>,
    mut batches: mpsc::Receiver<Batch>,
    window: usize,
    terms: (Durability, i32),
    ledger: &mut Ledger,
) -> Result<()> {
    let mut sending = Sending { queue: VecDeque::new(), paused_until: Instant::now(), exhausted: false };
    loop {
        let late = sending.call(client.clone(), &mut batches, (window, terms), ledger).await?;
        if late.is_empty() {
            return Ok(());
        }
        sending.queue.extend(late);
    }
}

/// What is to be sent still.
struct Sending {
    queue: VecDeque<Outgoing>,
    paused_until: Instant,
    /// Nothing more comes from the reader.
    exhausted: bool,
}

impl Sending {
    /// Makes one call of everything. Gives what is to be sent again, and was refused when the call could take no more.
    async fn call(
        &mut self,
        mut client: EntitiesClient<Shown>,
        batches: &mut mpsc::Receiver<Batch>,
        (window, (durability, consistency)): (usize, (Durability, i32)),
        ledger: &mut Ledger,
    ) -> Result<Vec<Outgoing>> {
        let (sender, receiver) = mpsc::channel(window);
        let mut sender = Some(sender);
        let mut call =
            Call::Opening(Box::pin(async move { client.put_stream(ReceiverStream::new(receiver)).await }));
        let mut unanswered: HashMap<u64, Outgoing> = HashMap::new();
        let mut late = Vec::new();
        let mut sequence = 0;
        loop {
            while unanswered.len() < window
                && self.paused_until <= Instant::now()
                && let Some(outgoing) = self.queue.pop_front()
            {
                sequence += 1;
                let message = PutStreamRequest {
                    sequence,
                    item: Some(outgoing.item.clone()),
                    durability: durability as i32,
                    consistency,
                };
                unanswered.insert(sequence, outgoing);
                if sender.as_ref().is_none_or(|sender| sender.try_send(message).is_err()) {
                    // The call has ended; its answer says why.
                    sender = None;
                    self.exhausted = true;
                    self.queue.clear();
                }
            }
            if self.exhausted && self.queue.is_empty() {
                // Tells the server that no more will come; it ends the call after the last answer.
                sender = None;
            }
            tokio::select! {
                answer = call.next() => match answer {
                    Ok(Some(answer)) => {
                        let Some(mut sent) = unanswered.remove(&answer.sequence) else {
                            return Err(anyhow!("the server answered item {}, which was not sent", answer.sequence));
                        };
                        sent.tries += 1;
                        // Of what has the same name the last must stay the last.
                        let is_last = || unanswered.values().chain(&self.queue).all(|other| other.label.name != sent.label.name);
                        if !is_unavailable(&answer) || sent.tries >= TRIES || !is_last() {
                            note(&answer, &sent.origin, &sent.label, ledger)?;
                            continue;
                        }
                        let pause = FIRST_PAUSE * (1 << (sent.tries - 1));
                        self.paused_until = self.paused_until.max(Instant::now() + pause);
                        match sender {
                            Some(_) => self.queue.push_back(sent),
                            None => late.push(sent),
                        }
                    }
                    Ok(None) if sender.is_none() && unanswered.is_empty() => return Ok(late),
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
                () = sleep_until(self.paused_until), if !self.queue.is_empty() && unanswered.len() < window => {}
                batch = batches.recv(), if !self.exhausted && self.queue.is_empty() => match batch {
                    Some(batch) => self.take(batch?, ledger)?,
                    None => self.exhausted = true,
                },
            }
        }
    }

    fn take(&mut self, batch: Vec<Prepared>, ledger: &mut Ledger) -> Result<()> {
        for prepared in batch {
            match prepared {
                Prepared::Skipped => ledger.skipped(),
                Prepared::Bad { origin, reason } => ledger.rejected(&origin, "INVALID_ARGUMENT", &reason)?,
                Prepared::Ready { origin, label, item } => {
                    self.queue.push_back(Outgoing { origin, label, item, tries: 0 });
                }
            }
        }
        Ok(())
    }
}

fn is_unavailable(answer: &PutStreamResponse) -> bool {
    let status = answer.result.as_ref().and_then(|result| result.status.as_ref());
    status.is_some_and(|status| Code::from_i32(status.code) == Code::Unavailable)
}

fn note(answer: &PutStreamResponse, origin: &Origin, label: &Label, ledger: &mut Ledger) -> Result<()> {
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

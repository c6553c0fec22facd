//! `allidb.v1.Search`.

use std::{sync::Arc, time::Instant};

use allidb_cluster::OnBehalf;
use allidb_index::{
    model::{CollectionSet, Limits},
    query::{Answer, Query},
};
use prost::Message;
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{Request, Response, Status};

use super::{Caller, Services, read_consistency, seen_by, unanswered};
use crate::{
    codec,
    convert::{Path, answer_to_proto, at_most, query_from_proto, steps_to_proto},
    embedding::Texts,
    page_token::PageTokens,
    slow, status,
    v1::{self, search_server::Search},
};

/// Queries of a batch that are answered in one go, one after the other.
const MOST_IN_A_RUN: usize = 16;

#[tonic::async_trait]
impl Search for Services {
    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::QueryResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        Ok(Response::new(self.answer(caller, &seen, request).await?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, request) = self.receive(request)?;
        let query = Path::Root("query").required(request.query)?;
        let begun = Instant::now();
        let (mut answer, pages) = self.find(caller, &seen, query, "Explain").await?;
        let steps = steps_to_proto(std::mem::take(&mut answer.steps));
        let response = Some(pages.response(answer, begun));
        Ok(Response::new(v1::ExplainResponse { steps, response }))
    }

    async fn batch_query(
        &self,
        request: Request<v1::BatchQueryRequest>,
    ) -> Result<Response<v1::BatchQueryResponse>, Status> {
        let seen = seen_by(&request);
        let (caller, mut request) = self.receive(request)?;
        at_most(&Path::Root("queries"), request.queries.len(), self.limits().batch_queries)?;
        let shape = || vec![("queries", request.queries.len() as u64)];
        let collection = request.queries.first().map_or("", |query| &*query.collection);
        let mut watch = self.slow.watch("BatchQuery", caller.asker(), collection, shape);
        let answering = async {
            let pages: Vec<Pages> =
                request.queries.iter_mut().map(|query| self.pages(caller, query)).collect();
            let mut texts = Texts::default();
            request.queries.iter_mut().for_each(|query| texts.of_query(query));
            self.embed(caller.tenant, texts, caller.deadline).await?;
            self.answer_each(caller, &seen, request.queries.into_iter().zip(pages).collect()).await
        };
        let results = watch.over(answering).await?;
        Ok(Response::new(v1::BatchQueryResponse { results }))
    }
}

/// Where a query goes on, and how its caller is told where the next page does.
struct Pages {
    tokens: PageTokens,
    token: String,
}

impl Pages {
    /// The query of this page.
    fn at(&self, query: Query, limits: &Limits) -> Result<Query, Status> {
        let Some(seen) = self.tokens.open_bytes(&self.token)? else { return Ok(query) };
        let (seen, rest) = seen.as_chunks::<8>();
        let left = query.most(limits).saturating_sub(seen.len());
        if !rest.is_empty() || left == 0 {
            return Err(status::bad_page_token());
        }
        let seen: Vec<u64> = seen.iter().map(|name| u64::from_be_bytes(*name)).collect();
        Ok(Query { limit: query.limit.min(left), seen, ..query })
    }

    fn response(&self, mut answer: Answer, begun: Instant) -> v1::QueryResponse {
        let next = answer.next.take().map(|seen| {
            let names: Vec<u8> = seen.iter().flat_map(|name| name.to_be_bytes()).collect();
            self.tokens.seal(names)
        });
        v1::QueryResponse {
            next_page_token: next.unwrap_or_default(),
            ..answer_to_proto(answer, begun.elapsed())
        }
    }
}

impl Services {
    async fn answer(
        &self,
        caller: Caller,
        seen: &CollectionSet,
        request: v1::QueryRequest,
    ) -> Result<v1::QueryResponse, Status> {
        let begun = Instant::now();
        let (answer, pages) = self.find(caller, seen, request, "Query").await?;
        Ok(pages.response(answer, begun))
    }

    async fn find(
        &self,
        caller: Caller,
        seen: &CollectionSet,
        mut request: v1::QueryRequest,
        method: &'static str,
    ) -> Result<(Answer, Pages), Status> {
        let shape = || slow::of_query(&request);
        let mut watch = self.slow.watch(method, caller.asker(), &request.collection, shape);
        let finding = async {
            let pages = self.pages(caller, &mut request);
            let mut texts = Texts::default();
            texts.of_query(&mut request);
            self.embed(caller.tenant, texts, caller.deadline).await?;
            let consistency = read_consistency(request.consistency)?;
            let query = pages.at(query_from_proto(request, self.limits(), seen)?, self.limits())?;
            // Steps are a few short lines; whether they are wanted is known when the query is over.
            let query = Query { profile: method == "Explain" || self.slow.is_on(), ..query };
            let answer = self.coordinator.query(caller.tenant, query, consistency, caller.deadline).await;
            answer.map(|answer| (answer, pages)).map_err(status::from_error)
        };
        let (answer, pages) = watch.over(finding).await?;
        watch.did(&answer.steps);
        codec::found(answer.hits.iter().map(|hit| hit.entity.bytes()).sum()).await?;
        Ok((answer, pages))
    }

    /// Takes the page token out of a request, before anything else of it is changed.
    fn pages(&self, caller: Caller, request: &mut v1::QueryRequest) -> Pages {
        let token = std::mem::take(&mut request.page_token);
        let limit = std::mem::take(&mut request.limit);
        let tokens = PageTokens::new(&self.coordinator.cursor_key(), caller.tenant, "Query", request);
        request.limit = limit;
        Pages { tokens, token }
    }

    /// Runs of queries, a few at a time. Those of a run share a moment, and the rows that they come upon. A caller that goes
    /// away takes the runs that have not begun with it, as the set is dropped.
    async fn answer_each(
        &self,
        caller: Caller,
        seen: &CollectionSet,
        queries: Vec<(v1::QueryRequest, Pages)>,
    ) -> Result<Vec<v1::QueryResult>, Status> {
        let slots = Arc::new(Semaphore::new(self.batch_concurrency));
        let run = queries.len().div_ceil(2 * self.batch_concurrency.max(1)).clamp(1, MOST_IN_A_RUN);
        let mut results = vec![v1::QueryResult::default(); queries.len()];
        let mut running = JoinSet::new();
        let mut queries = queries.into_iter();
        for first in (0..results.len()).step_by(run) {
            let (services, slots, seen) = (self.clone(), slots.clone(), seen.clone());
            let queries: Vec<(v1::QueryRequest, Pages)> = queries.by_ref().take(run).collect();
            let run = async move {
                // The semaphore is never closed; without a permit the queries would merely run at once.
                let _slot = slots.acquire_owned().await;
                (first, services.answer_run(caller, &seen, queries).await)
            };
            running.spawn(run.in_current_call());
        }
        let mut bytes = 0;
        while let Some(done) = running.join_next().await {
            let (first, answers) = done.map_err(|error| status::broke_off(&error))?;
            bytes += answers.iter().flatten().map(Message::encoded_len).sum::<usize>();
            let most = self.limits().answer_bytes;
            if bytes > most {
                // Those that have not begun need not.
                let why =
                    format!("the answer is too large: of a part of the queries it is {bytes} bytes already");
                return Err(status::message_too_large(why, most));
            }
            codec::found(bytes).await?;
            for (result, answer) in results[first..].iter_mut().zip(answers) {
                *result = match answer {
                    Ok(response) => {
                        v1::QueryResult { status: Some(status::done()), response: Some(response) }
                    }
                    Err(status) => {
                        v1::QueryResult { status: Some(status::to_proto(&status)), response: None }
                    }
                };
            }
        }
        Ok(results)
    }

    /// One answer for each query.
    async fn answer_run(
        &self,
        caller: Caller,
        seen: &CollectionSet,
        requests: Vec<(v1::QueryRequest, Pages)>,
    ) -> Vec<Result<v1::QueryResponse, Status>> {
        let begun = Instant::now();
        let mut queries = Vec::new();
        let mut read = |(request, pages): (v1::QueryRequest, Pages)| {
            let consistency = read_consistency(request.consistency)?;
            let query = pages.at(query_from_proto(request, self.limits(), seen)?, self.limits())?;
            queries.push((query, consistency));
            Ok(pages)
        };
        let read: Vec<Result<Pages, Status>> = requests.into_iter().map(&mut read).collect();
        let answered = self.coordinator.query_each(caller.tenant, queries, caller.deadline).await;
        let mut answers = match answered {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let failed = |read: Result<Pages, Status>| read.and(Err(status::from_error(error.clone())));
                return read.into_iter().map(failed).collect();
            }
        };
        let answer = |read: Result<Pages, Status>| {
            let pages = read?;
            let answer = answers.next().unwrap_or_else(unanswered).map_err(status::from_error)?;
            Ok(pages.response(answer, begun))
        };
        read.into_iter().map(answer).collect()
    }
}

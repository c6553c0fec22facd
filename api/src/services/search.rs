//! `allidb.v1.Search`.

use std::{sync::Arc, time::Instant};

use allidb_index::query::{Answer, Query};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{Request, Response, Status};

use super::{Caller, Services, read_consistency, unanswered};
use crate::{
    convert::{Path, answer_to_proto, at_most, query_from_proto, steps_to_proto},
    embedding::Texts,
    status,
    v1::{self, search_server::Search},
};

/// Queries of a batch that are answered in one go, one after the other.
const MOST_IN_A_RUN: usize = 16;

#[tonic::async_trait]
impl Search for Services {
    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::QueryResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        Ok(Response::new(self.answer(caller, request).await?))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        let query = Path::Root("query").required(request.query)?;
        let begun = Instant::now();
        let mut answer = self.find(caller, query, true).await?;
        let steps = steps_to_proto(std::mem::take(&mut answer.steps));
        let response = Some(answer_to_proto(answer, begun.elapsed()));
        Ok(Response::new(v1::ExplainResponse { steps, response }))
    }

    async fn batch_query(
        &self,
        request: Request<v1::BatchQueryRequest>,
    ) -> Result<Response<v1::BatchQueryResponse>, Status> {
        let (caller, mut request) = self.receive(request)?;
        at_most(&Path::Root("queries"), request.queries.len(), self.limits().batch_queries)?;
        let mut texts = Texts::default();
        request.queries.iter_mut().for_each(|query| texts.of_query(query));
        self.embed(texts, caller.deadline).await?;
        let results = self.answer_each(caller, request.queries).await?;
        Ok(Response::new(v1::BatchQueryResponse { results }))
    }
}

impl Services {
    async fn answer(&self, caller: Caller, request: v1::QueryRequest) -> Result<v1::QueryResponse, Status> {
        let begun = Instant::now();
        let answer = self.find(caller, request, false).await?;
        Ok(answer_to_proto(answer, begun.elapsed()))
    }

    async fn find(
        &self,
        caller: Caller,
        mut request: v1::QueryRequest,
        profile: bool,
    ) -> Result<Answer, Status> {
        let mut texts = Texts::default();
        texts.of_query(&mut request);
        self.embed(texts, caller.deadline).await?;
        let consistency = read_consistency(request.consistency)?;
        let query = Query { profile, ..query_from_proto(request, self.limits())? };
        let answer = self.coordinator.query(caller.tenant, query, consistency, caller.deadline).await;
        answer.map_err(status::from_error)
    }

    /// Runs of queries, a few at a time. Those of a run share a moment, and the rows that they come upon. A caller that goes
    /// away takes the runs that have not begun with it, as the set is dropped.
    async fn answer_each(
        &self,
        caller: Caller,
        queries: Vec<v1::QueryRequest>,
    ) -> Result<Vec<v1::QueryResult>, Status> {
        let slots = Arc::new(Semaphore::new(self.batch_concurrency));
        let run = queries.len().div_ceil(2 * self.batch_concurrency.max(1)).clamp(1, MOST_IN_A_RUN);
        let mut results = vec![v1::QueryResult::default(); queries.len()];
        let mut running = JoinSet::new();
        let mut queries = queries.into_iter();
        for first in (0..results.len()).step_by(run) {
            let (services, slots) = (self.clone(), slots.clone());
            let queries: Vec<v1::QueryRequest> = queries.by_ref().take(run).collect();
            running.spawn(async move {
                // The semaphore is never closed; without a permit the queries would merely run at once.
                let _slot = slots.acquire_owned().await;
                (first, services.answer_run(caller, queries).await)
            });
        }
        while let Some(done) = running.join_next().await {
            let (first, answers) = done.map_err(|error| status::broke_off(&error))?;
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
        requests: Vec<v1::QueryRequest>,
    ) -> Vec<Result<v1::QueryResponse, Status>> {
        let begun = Instant::now();
        let mut queries = Vec::new();
        let mut read = |request: v1::QueryRequest| {
            let consistency = read_consistency(request.consistency)?;
            queries.push((query_from_proto(request, self.limits())?, consistency));
            Ok(())
        };
        let read: Vec<Result<(), Status>> = requests.into_iter().map(&mut read).collect();
        let answered = self.coordinator.query_each(caller.tenant, queries, caller.deadline).await;
        let mut answers = match answered {
            Ok(answers) => answers.into_iter(),
            Err(error) => {
                let failed = |read: Result<(), Status>| read.and(Err(status::from_error(error.clone())));
                return read.into_iter().map(failed).collect();
            }
        };
        let answer = |read: Result<(), Status>| {
            read?;
            let answer = answers.next().unwrap_or_else(unanswered).map_err(status::from_error)?;
            Ok(answer_to_proto(answer, begun.elapsed()))
        };
        read.into_iter().map(answer).collect()
    }
}

//! `allidb.v1.Search`.

use std::{sync::Arc, time::Instant};

use tokio::{sync::Semaphore, task::JoinSet};
use tonic::{Request, Response, Status};

use super::{Caller, Services, read_consistency};
use crate::{
    convert::{Path, answer_to_proto, at_most, query_from_proto},
    status,
    v1::{self, search_server::Search},
};

#[tonic::async_trait]
impl Search for Services {
    async fn query(&self, request: Request<v1::QueryRequest>) -> Result<Response<v1::QueryResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        Ok(Response::new(self.answer(caller, request).await?))
    }

    async fn batch_query(
        &self,
        request: Request<v1::BatchQueryRequest>,
    ) -> Result<Response<v1::BatchQueryResponse>, Status> {
        let (caller, request) = self.receive(request)?;
        at_most(&Path::Root("queries"), request.queries.len(), self.limits().batch_queries)?;
        let results = self.answer_each(caller, request.queries).await?;
        Ok(Response::new(v1::BatchQueryResponse { results }))
    }
}

impl Services {
    async fn answer(&self, caller: Caller, request: v1::QueryRequest) -> Result<v1::QueryResponse, Status> {
        let begun = Instant::now();
        let consistency = read_consistency(request.consistency)?;
        let query = query_from_proto(request, self.limits())?;
        let answer = self.coordinator.query(caller.tenant, query, consistency, caller.deadline).await;
        Ok(answer_to_proto(answer.map_err(status::from_error)?, begun.elapsed()))
    }

    /// A few at a time; a caller that goes away takes those that still run with it, as the set is dropped.
    async fn answer_each(
        &self,
        caller: Caller,
        queries: Vec<v1::QueryRequest>,
    ) -> Result<Vec<v1::QueryResult>, Status> {
        let slots = Arc::new(Semaphore::new(self.batch_concurrency));
        let mut results = vec![v1::QueryResult::default(); queries.len()];
        let mut running = JoinSet::new();
        for (at, query) in queries.into_iter().enumerate() {
            let (services, slots) = (self.clone(), slots.clone());
            running.spawn(async move {
                // The semaphore is never closed; without a permit the query would merely run at once.
                let _slot = slots.acquire_owned().await;
                (at, services.answer(caller, query).await)
            });
        }
        while let Some(done) = running.join_next().await {
            let (at, answer) = done.map_err(|error| status::broke_off(&error))?;
            results[at] = match answer {
                Ok(response) => v1::QueryResult { status: Some(status::done()), response: Some(response) },
                Err(status) => v1::QueryResult { status: Some(status::to_proto(&status)), response: None },
            };
        }
        Ok(results)
    }
}

//! What was done for an answer, step by step: `allidb query --plan`.

use allidb_api::v1::{PlanStep, QueryRequest};
use anyhow::Result;
use serde_json::{Value as Json, json};

use crate::{
    client::Client,
    failure::Failure,
    hits,
    output::{Output, table},
};

/// Asks, and shows the steps rather than the hits.
pub(crate) async fn show(request: QueryRequest, client: &Client, output: Output) -> Result<()> {
    let request = allidb_api::v1::ExplainRequest { query: Some(request) };
    let answer = client.search().explain(request).await.map_err(Failure::from_status)?.into_inner();
    if output.is_json() {
        let response = answer.response.as_ref().map(hits::to_json);
        let steps: Vec<Json> = answer.steps.iter().map(to_json).collect();
        output.document(&json!({ "steps": steps, "answer": response }))?;
        return Ok(());
    }
    let mut shown = table(&["step", "how", "expected", "found", "ms"]);
    for step in &answer.steps {
        shown.add_row([
            format!("{}{}", "  ".repeat(step.depth as usize), step.what),
            step.how.clone(),
            step.estimate.map(|estimate| estimate.to_string()).unwrap_or_default(),
            step.actual.to_string(),
            format!("{:.2}", millis(step)),
        ]);
    }
    output.table(&shown)?;
    Ok(())
}

fn millis(step: &PlanStep) -> f64 {
    step.duration.map_or(0.0, |time| time.seconds as f64 * 1e3 + f64::from(time.nanos) / 1e6)
}

fn to_json(step: &PlanStep) -> Json {
    json!({
        "depth": step.depth, "what": step.what, "how": step.how, "expected": step.estimate,
        "found": step.actual, "milliseconds": millis(step),
    })
}

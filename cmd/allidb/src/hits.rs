//! The answer to a query, for people and for programs.

use std::fmt::Write as _;

use allidb_api::v1::{Coverage, Direction, Highlight, HighlightPiece, Hit, QueryResponse, Step};
use anyhow::Result;
use serde_json::{Value as Json, json};

use crate::{
    entities::preview,
    entity_json::{edge_to_json, entity_to_json, id_of},
    graph::{truncated_sentences, truncated_to_json},
    output::{Output, shorten, table, width},
};

/// Prints the hits as a table, or with the breakdown and the path beneath each. `name` turns an id into
/// what is shown for it on a path.
pub(crate) fn print(
    answer: &QueryResponse,
    explain: bool,
    name: &dyn Fn(&str) -> String,
    output: Output,
) -> Result<()> {
    if answer.hits.is_empty() {
        output.line("no hits")?;
    } else if explain {
        for (index, hit) in answer.hits.iter().enumerate() {
            output.line(explained(index + 1, hit, name))?;
        }
    } else {
        print_table(&answer.hits, output)?;
    }
    for sentence in truncated_sentences(&answer.truncated) {
        output.line(sentence)?;
    }
    if let Some(coverage) = answer.coverage.filter(|coverage| coverage.answered < coverage.total) {
        let Coverage { answered, total } = coverage;
        output.line(format!("too few nodes answer: this is about {answered} of {total} partitions"))?;
    }
    if let Some(cost) = &answer.cost {
        let millis =
            cost.duration.map_or(0.0, |time| time.seconds as f64 * 1e3 + f64::from(time.nanos) / 1e6);
        let mut sentence = format!("{millis:.1} ms, {} vectors compared", cost.vectors_compared);
        if cost.nodes > 0 {
            sentence += &format!(", {} nodes reached over {} edges", cost.nodes, cost.edges);
        }
        output.line(sentence)?;
    }
    Ok(())
}

fn print_table(hits: &[Hit], output: Output) -> Result<()> {
    let chunks = hits.iter().any(|hit| !hit.chunk_id.is_empty());
    let mut header = vec!["", "id", "type", "score", "hops"];
    header.extend(chunks.then_some("chunk"));
    header.push("attributes");
    let mut shown = table(&header);
    for (index, hit) in hits.iter().enumerate() {
        let entity = hit.entity.clone().unwrap_or_default();
        let mut row = vec![
            (index + 1).to_string(),
            id_of(entity.r#ref.as_ref()).to_owned(),
            entity.r#type.clone(),
            format!("{:.4}", hit.score),
            hit.hops.to_string(),
        ];
        row.extend(chunks.then(|| hit.chunk_id.clone()));
        row.push(if hit.highlights.is_empty() { preview(&entity) } else { highlights(hit).join("\n") });
        shown.add_row(row);
    }
    output.table(&shown)?;
    Ok(())
}

fn explained(rank: usize, hit: &Hit, name: &dyn Fn(&str) -> String) -> String {
    let entity = hit.entity.clone().unwrap_or_default();
    let id = id_of(entity.r#ref.as_ref());
    let mut text = format!("{rank:>3}. {:.4}  {}", hit.score, name(id));
    if !entity.r#type.is_empty() {
        text += &format!("  ({})", entity.r#type);
    }
    if !hit.chunk_id.is_empty() {
        text += &format!("  chunk {}", hit.chunk_id);
    }
    let room = usize::from(width()).saturating_sub(16);
    let attributes = preview(&entity);
    if !attributes.is_empty() {
        text += &format!("\n             {}", shorten(&attributes, room));
    }
    for part in highlights(hit) {
        text += &format!("\n     words   {part}");
    }
    if !hit.breakdown.is_empty() {
        text += &format!("\n     score   {}", breakdown(hit));
    }
    if !hit.path.is_empty() {
        text += &format!("\n     path    {}", path(&hit.path, name));
    }
    text
}

/// `attribute: the text with its [words] marked`.
fn highlights(hit: &Hit) -> Vec<String> {
    let piece = |piece: &HighlightPiece| match piece.r#match {
        true => format!("[{}]", piece.text),
        false => piece.text.clone(),
    };
    let part = |part: &Highlight| {
        let name = if part.chunk_id.is_empty() { &part.field } else { &part.chunk_id };
        format!("{name}: {}", part.pieces.iter().map(piece).collect::<String>())
    };
    hit.highlights.iter().map(part).collect()
}

/// `0.83 = 0.91 vector × 0.67 + 0.70 graph × 0.33`.
pub(crate) fn breakdown(hit: &Hit) -> String {
    let term = |signal: &allidb_api::v1::SignalValue| {
        format!("{:.3} {} × {:.2}", signal.value, signal.signal, signal.weight)
    };
    let terms: Vec<_> = hit.breakdown.iter().filter(|signal| signal.weight > 0.0).map(term).collect();
    format!("{:.4} = {}", hit.score, terms.join(" + "))
}

/// `a → relation → b ← relation ← c`: arrows point as the stored edges do.
pub(crate) fn path(steps: &[Step], name: &dyn Fn(&str) -> String) -> String {
    let mut text = String::new();
    for (index, step) in steps.iter().enumerate() {
        let Some(edge) = &step.edge else { continue };
        let (from, to) = (id_of(edge.from.as_ref()), id_of(edge.to.as_ref()));
        let backwards = step.direction() == Direction::In;
        let (near, far, arrow) = if backwards { (to, from, "←") } else { (from, to, "→") };
        if index == 0 {
            text += &name(near);
        }
        // Writing to a string cannot fail.
        write!(text, " {arrow} {} {arrow} {}", edge.relation, name(far)).ok();
    }
    text
}

/// The whole answer as one document.
pub(crate) fn to_json(answer: &QueryResponse) -> Json {
    let cost = answer.cost.as_ref().map(|cost| {
        let seconds = cost.duration.map(|time| time.seconds as f64 + f64::from(time.nanos) / 1e9);
        json!({
            "vectors_compared": cost.vectors_compared, "nodes": cost.nodes, "edges": cost.edges,
            "seconds": seconds,
        })
    });
    json!({
        "hits": answer.hits.iter().map(hit_to_json).collect::<Vec<_>>(),
        "truncated": truncated_to_json(&answer.truncated),
        "cost": cost,
        "coverage": answer.coverage.map(|coverage| {
            json!({ "answered": coverage.answered, "total": coverage.total })
        }),
        "next_page_token": answer.next_page_token,
    })
}

fn hit_to_json(hit: &Hit) -> Json {
    let mut json = json!({
        "entity": hit.entity.as_ref().map(entity_to_json),
        "score": hit.score,
        "hops": hit.hops,
    });
    if !hit.chunk_id.is_empty() {
        json["chunk_id"] = json!(hit.chunk_id);
    }
    if let Some(measure) = hit.measure {
        json["measure"] = json!(measure);
    }
    if !hit.breakdown.is_empty() {
        let one = |signal: &allidb_api::v1::SignalValue| {
            json!({
                "signal": signal.signal, "value": signal.value, "weight": signal.weight,
                "contribution": signal.contribution,
            })
        };
        json["breakdown"] = hit.breakdown.iter().map(one).collect();
    }
    if !hit.highlights.is_empty() {
        let piece = |piece: &HighlightPiece| json!({ "text": piece.text, "match": piece.r#match });
        let one = |part: &Highlight| {
            json!({
                "field": part.field, "chunk_id": part.chunk_id,
                "pieces": part.pieces.iter().map(piece).collect::<Vec<_>>(),
            })
        };
        json["highlights"] = hit.highlights.iter().map(one).collect();
    }
    if !hit.path.is_empty() {
        let one = |step: &Step| {
            let way = if step.direction() == Direction::In { "in" } else { "out" };
            json!({"direction": way, "edge": step.edge.as_ref().map(edge_to_json)})
        };
        json["path"] = hit.path.iter().map(one).collect();
    }
    json
}

#[cfg(test)]
mod tests {
    use allidb_api::v1::{Edge, SignalValue};

    use super::*;
    use crate::entity_json::entity_ref;

    fn step(from: &str, to: &str, direction: Direction) -> Step {
        let edge = Edge {
            from: Some(entity_ref("c", from)),
            relation: "likes".to_owned(),
            to: Some(entity_ref("c", to)),
            ..Edge::default()
        };
        Step { edge: Some(edge), direction: direction as i32 }
    }

    #[test]
    fn a_path_reads_from_the_seed_and_its_arrows_point_as_edges_do() {
        let steps = [step("a", "b", Direction::Out), step("c", "b", Direction::In)];
        assert_eq!(path(&steps, &str::to_uppercase), "A → likes → B ← likes ← C");
    }

    #[test]
    fn the_breakdown_leaves_out_what_has_no_weight() {
        let signal = |signal: &str, value, weight| SignalValue {
            signal: signal.to_owned(),
            value,
            weight,
            contribution: value * weight,
        };
        let hit = Hit {
            score: 0.75,
            breakdown: vec![signal("vector", 1.0, 0.5), signal("graph", 0.5, 0.5), signal("text", 0.0, 0.0)],
            ..Hit::default()
        };
        assert_eq!(breakdown(&hit), "0.7500 = 1.000 vector × 0.50 + 0.500 graph × 0.50");
    }
}

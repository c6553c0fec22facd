//! The dashboard and the alerts that are shipped, compared with the figures of daemons and with the runbooks.

mod promql;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use crate::{daemon::eventually, runbooks::Ring};

/// What only a daemon tells that has measured it, or shows certificates, and the labels of it.
const RARE: [(&str, &[&str]); 2] =
    [("allidb_vectors_recall", &[]), ("allidb_certificate_expires_timestamp_seconds", &["port"])];
/// Whom Prometheus asked, which it says of everything.
const OF_TARGETS: [&str; 2] = ["job", "instance"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    let path = repository().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each figure, and the labels that it has.
type Figures = BTreeMap<String, BTreeSet<String>>;

/// What nodes tell that found a ring and have been asked for everything.
fn figures() -> Figures {
    let ring = Ring::found(3);
    eventually("all are there", || {
        let made = ring.nodes[0].run(&["collection", "create", "c", "--space", "s:2"]);
        made.status.success().then_some(())
    });
    let put = ring.nodes[0].run(&["put", "-c", "c", r#"{"id": "a", "vectors": {"s": [0, 1]}}"#]);
    assert!(put.status.success(), "{put:?}");
    let found = ring.nodes[0].run(&["query", "-c", "c", "-s", "s", "--vector", "[0, 1]"]);
    assert!(found.status.success(), "{found:?}");
    ring.eventually(0, &["repair"]);
    ring.eventually(0, &["purge"]);
    let wanted = [
        "allidb_ring_compared_age_seconds",
        "allidb_ring_purged_age_seconds",
        "allidb_ring_clock_ahead_seconds",
    ];
    let text = eventually("all figures", || {
        let text = ring.nodes[0].figures();
        wanted.iter().all(|name| text.contains(&format!("# TYPE {name} "))).then_some(text)
    });
    let mut figures = Figures::from([("up".to_owned(), BTreeSet::new())]);
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            figures.entry(typed.split(' ').next().expect("a name").to_owned()).or_default();
        } else if let Some((name, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = labels.rsplit_once('}').expect("closed").0.split(',');
            let labels = labels.filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            figures.entry(name.to_owned()).or_default().extend(labels);
        }
    }
    let told = read("cmd/allidbd/src/figures.rs");
    for (name, labels) in RARE {
        assert!(told.contains(&format!("\"{name}\"")), "{name} is not told any more");
        figures.entry(name.to_owned()).or_default().extend(labels.iter().map(|label| (*label).to_owned()));
    }
    figures.values_mut().for_each(|labels| labels.extend(OF_TARGETS.map(str::to_owned)));
    figures
}

/// The labels that what an expression names has, all of which are there.
fn check<'f>(what: &str, expression: &str, figures: &'f Figures) -> BTreeSet<&'f str> {
    let named = promql::read(expression);
    assert!(!named.selectors.is_empty(), "{what} asks for nothing: {expression}");
    let mut known = BTreeSet::new();
    for (name, labels) in &named.selectors {
        let of = figures.get(name).unwrap_or_else(|| panic!("{what}: no daemon tells {name}"));
        for label in labels {
            assert!(of.contains(label), "{what}: {name} has no label {label}, but {of:?}");
        }
        known.extend(of.iter().map(String::as_str));
    }
    for label in &named.grouped {
        assert!(known.contains(label.as_str()), "{what}: nothing has the label {label}: {expression}");
    }
    known
}

/// As GitHub makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.chars().filter_map(kept).collect()
}

fn check_alerts(figures: &Figures) {
    let runbooks = read("docs/operations.md");
    let anchors: BTreeSet<String> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    let document: Json = serde_saphyr::from_str(&read("configs/prometheus/alerts.yaml")).expect("YAML");
    let mut seen = BTreeSet::new();
    for rule in document["groups"][0]["rules"].as_array().expect("rules") {
        let name = rule["alert"].as_str().expect("a name");
        assert!(seen.insert(name.to_owned()), "{name} is there twice");
        assert!(runbooks.contains(&format!("`{name}`")), "docs/operations.md does not tell of {name}");
        let known = check(name, rule["expr"].as_str().expect("an expression"), figures);
        assert!(["warning", "critical"].iter().any(|of| rule["labels"]["severity"] == *of), "{rule}");
        let annotations = rule["annotations"].as_object().expect("annotations");
        assert!(annotations.contains_key("summary"), "{rule}");
        let runbook = rule["annotations"]["runbook"].as_str().expect("a runbook");
        let (page, anchor) = runbook.split_once('#').expect("an anchor");
        assert!(page == "docs/operations.md" && anchors.contains(anchor), "{name}: {runbook}: {anchors:?}");
        for text in annotations.values().filter_map(Json::as_str) {
            for label in text.split("$labels.").skip(1) {
                let label = label.split(' ').next().expect("a name");
                assert!(known.contains(label), "{name} tells the label {label}, which nothing has");
            }
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
}

fn check_dashboard(figures: &Figures) {
    let board: Json = serde_json::from_str(&read("configs/grafana/allidb.json")).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let (mut ids, mut asked) = (BTreeSet::new(), 0);
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title} has the id of another panel");
        let targets = panel["targets"].as_array();
        assert!(panel["type"] == "row" || targets.is_some_and(|targets| !targets.is_empty()), "{title}");
        for target in targets.into_iter().flatten() {
            let known = check(title, target["expr"].as_str().expect("an expression"), figures);
            let legend = target["legendFormat"].as_str().expect("a legend");
            for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().expect("a name")) {
                assert!(known.contains(label), "{title} shows the label {label}, which nothing has");
            }
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked}");
    for variable in board["templating"]["list"].as_array().expect("variables") {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (selector, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')')?.rsplit_once(", "))
                .expect("the values of a label");
            assert!(check("a variable", selector, figures).contains(label), "{query}");
        }
    }
    check("the releases", board["annotations"]["list"][0]["expr"].as_str().expect("one"), figures);
}

#[test]
fn dashboard_and_alerts_ask_for_what_daemons_tell() {
    let figures = figures();
    check_alerts(&figures);
    check_dashboard(&figures);
}

//! Collections go into files and come back from them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, allidb, eventually};

/// A daemon with the sample in the collection `wordnet`.
fn with_sample() -> (TempDir, Daemon) {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("sample").display().to_string();
    let args = ["import", &sample, "-c", "wordnet", "--space", "gloss", "--text", "gloss:prose:0.5:none"];
    let (imported, is_ok) = daemon.json(&args);
    assert!(is_ok && imported["entities"]["acknowledged"] == 2000, "{imported}");
    (dir, daemon)
}

fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{output:?}");
    output
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// What is in a collection: its entities and its edges, as lines.
fn content(daemon: &Daemon, collection: &str) -> (String, String) {
    let dir = TempDir::new().expect("a directory");
    let (entities, edges) = (dir.path().join("entities.jsonl"), dir.path().join("edges.jsonl"));
    ok(daemon.run(&["export", "-c", collection, &text(&entities)]));
    ok(daemon.run(&["export", "-c", collection, &text(&edges), "--edges"]));
    (fs::read_to_string(entities).expect("entities"), fs::read_to_string(edges).expect("edges"))
}

fn assert_same(daemon: &Daemon, one: &str, other: &str) {
    let (expected, found) = (content(daemon, one), content(daemon, other));
    for (expected, found) in [(expected.0, found.0), (expected.1, found.1)] {
        assert!(!expected.is_empty());
        let differs = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
        assert_eq!(differs, None, "{one} and {other}");
        assert_eq!(expected.lines().count(), found.lines().count(), "{one} and {other}");
    }
}

fn lines(path: &Path) -> Vec<Json> {
    let text = fs::read_to_string(path).expect("a file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_collection_comes_back_from_every_format() {
    let (dir, daemon) = with_sample();
    let numbers = |first: f64| (0..384).map(|at| first + f64::from(at) / 8.0).collect::<Vec<_>>();
    let odd = json!({
        "id": "a, \"odd\" one", "type": "", "importance": 0.25,
        "expire_at": "2100-01-01T00:00:00.000001Z", "sources": ["s,1", "s2"],
        "attributes": {
            "gloss": ["one", "two"], "map": {"now": ["a", {"map": null}]}, "id": "another", "type": 5, "empty": "", "none": null,
            "at": {"$timestamp": "0001-01-01T00:00:00Z"}, "raw": {"$bytes": "AP8="}, "exact": 0.1,
            "large": 9_007_199_254_740_993_i64, "lines": "a\r\n\"b\",c", "lexname": 7,
        },
        "vectors": {"gloss": numbers(0.5)},
        "chunks": [{
            "id": "c1", "text": "t,\n", "metadata": {"page": 1}, "sources": ["s2"],
            "vectors": {"gloss": numbers(-3.0)},
        }],
    });
    let id = odd["id"].as_str().expect("a string").to_owned();
    let more = dir.path().join("more.jsonl");
    fs::write(&more, format!("{odd}\n\n")).expect("written");
    let (imported, is_ok) = daemon.json(&["import", &text(&more), "-c", "wordnet"]);
    assert!(is_ok && imported["entities"]["acknowledged"] == 1, "{imported}");
    ok(daemon.run(&["collection", "create", "notes"]));
    let edges = [
        json!({
            "from": id, "relation": "is like", "to": "n-01503061", "edge_id": "e1", "weight": 0.1,
            "attributes": {"why": {"a": [1, 2.0]}}, "valid_from": "2000-01-01T00:00:00Z",
            "valid_to": "2001-01-01T00:00:00Z", "sources": ["s2"],
        }),
        json!({"from": id, "relation": "mentions", "to": "n1", "to_collection": "notes", "weight": 1.0}),
    ];
    fs::write(&more, format!("{}\n{}\n", edges[0], edges[1])).expect("written");
    let (imported, is_ok) = daemon.json(&["import", &text(&more), "-c", "wordnet", "--edges"]);
    assert!(is_ok && imported["edges"]["acknowledged"] == 2, "{imported}");
    ok(daemon.run(&[
        "collection",
        "update",
        "wordnet",
        "--add-index",
        "lexname",
        "--alias",
        "meaning=gloss",
    ]));
    let lines = content(&daemon, "wordnet");
    let line = lines.0.lines().next().expect("the first entity");
    let line: Json = serde_json::from_str(line).expect("JSON");
    assert_eq!(line, odd, "what went in comes out");
    assert_eq!(lines.0.lines().count(), 2001);

    let described = |collection: &str| daemon.json(&["collection", "get", collection]).0;
    let expected = described("wordnet");
    for format in ["jsonl", "csv", "parquet"] {
        let out = dir.path().join(format);
        let (said, is_ok) =
            daemon.json(&["export", "-c", "wordnet", &text(&out), "--format", format, "--part", "600"]);
        assert!(is_ok && said["entities"]["rows"] == 2001, "{said}");
        let copy = format!("from-{format}");
        let (imported, is_ok) = daemon.json(&["import", &text(&out), "-c", &copy]);
        assert!(is_ok && imported["entities"]["acknowledged"] == 2001, "{imported}");
        assert_eq!(imported["edges"]["acknowledged"], said["edges"]["rows"]);
        assert_same(&daemon, "wordnet", &copy);
        let found = described(&copy);
        for field in ["spaces", "text", "aliases"] {
            assert_eq!(found[field], expected[field], "{format}");
        }
        assert_eq!(found["indexes"][0]["field"], expected["indexes"][0]["field"], "{format}");
    }
    daemon.stop();
}

#[test]
fn a_filter_and_a_choice_of_vectors_say_what_is_exported() {
    let (dir, daemon) = with_sample();
    let out = dir.path().join("out.jsonl");
    let filter = r#"lexname = "noun.animal""#;
    let counted = daemon.json(&["count", "-c", "wordnet", "--filter", filter]).0["count"].clone();
    let args = ["export", "-c", "wordnet", &text(&out), "--filter", filter, "--no-vectors"];
    let (said, is_ok) = daemon.json(&args);
    assert!(is_ok && said["entities"]["rows"] == counted, "{said}");
    let written = lines(&out);
    assert!(!written.is_empty());
    for line in written {
        assert_eq!(line["attributes"]["lexname"], "noun.animal");
        assert!(line.get("vectors").is_none() && line.get("version").is_none(), "{line}");
    }
    let again = daemon.run(&args);
    assert_eq!(again.status.code(), Some(2), "a file is not overwritten: {again:?}");
    let absent = dir.path().join("absent.jsonl");
    let refused = daemon.run(&["export", "-c", "wordnet", &text(&absent), "--vectors", "absent"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let refused = daemon.run(&["export", "-c", "absent", &text(&absent)]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    daemon.stop();
}

/// Starts an export and kills it after its first part; false if it was too fast for that.
fn interrupt(daemon: &Daemon, args: &[&str], target: &Path) -> bool {
    let mut child =
        allidb().args(["--endpoint", &daemon.grpc]).args(args).spawn().expect("the export begins");
    let note = PathBuf::from(format!("{}.parts", text(target))).join("state.json");
    eventually("the first part", || (note.exists() || target.exists()).then_some(()));
    child.kill().expect("killed");
    child.wait().expect("a child of ours");
    !target.exists()
}

#[test]
fn an_interrupted_export_goes_on() {
    let (dir, daemon) = with_sample();
    let (_, expected) = content(&daemon, "wordnet");
    for extension in ["jsonl.zst", "csv", "parquet"] {
        let mut attempt = 0;
        let target = eventually("an interrupted export", || {
            attempt += 1;
            let target = dir.path().join(format!("edges-{attempt}.{extension}"));
            let args = ["export", "-c", "wordnet", &text(&target), "--edges", "--part", "1"];
            interrupt(&daemon, &args, &target).then_some(target)
        });
        let args = ["export", "-c", "wordnet", &text(&target), "--edges", "--part", "1"];
        let refused = daemon.run(&args);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(error(&refused).contains("--resume"), "{refused:?}");
        let (said, is_ok) = daemon.json(&[&args[..], &["--resume"]].concat());
        assert!(is_ok && said["edges"]["rows"] == expected.lines().count(), "{said}");
        let (said, is_ok) = daemon.json(&[&args[..], &["--resume"]].concat());
        assert!(is_ok && said["edges"]["was_complete"] == true, "{said}");

        let copy = format!("from-{extension}");
        let entities = text(&dir.path().join(format!("{copy}.jsonl")));
        ok(daemon.run(&["export", "-c", "wordnet", &entities, "--no-vectors"]));
        ok(daemon.run(&["import", &entities, "-c", &copy]));
        ok(daemon.run(&["import", &text(&target), "-c", &copy, "--edges"]));
        assert!(content(&daemon, &copy).1 == expected, "{extension}");
    }
    daemon.stop();
}

#[test]
fn an_import_goes_on_behind_what_was_acknowledged() {
    let (dir, daemon) = with_sample();
    let acknowledged = text(&dir.path().join("acknowledged"));
    for extension in ["jsonl", "csv", "parquet"] {
        let copy = format!("from-{extension}");
        let file = dir.path().join(format!("entities.{extension}"));
        ok(daemon.run(&["export", "-c", "wordnet", &text(&file)]));
        // As an interrupted import leaves it: some are there, and noted.
        let half = dir.path().join(format!("half.{extension}"));
        ok(daemon.run(&["export", "-c", "wordnet", &text(&half), "--filter", r#"lexname = "noun.animal""#]));
        fs::remove_file(&acknowledged).ok();
        let noted = ["--acknowledged", &acknowledged, "--resume", &acknowledged];
        fs::write(&acknowledged, "").expect("written");
        let first = daemon.json(&[&["import", &text(&half), "-c", &copy][..], &noted].concat());
        let some = first.0["entities"]["acknowledged"].as_u64().expect("a number");
        assert!(first.1 && some > 0 && some < 2000, "{first:?}");
        let (said, is_ok) = daemon.json(&[&["import", &text(&file), "-c", &copy][..], &noted].concat());
        assert!(is_ok && said["entities"]["skipped"] == some, "{said}");
        assert_eq!(said["entities"]["acknowledged"], 2000 - some, "{said}");
        assert!(content(&daemon, &copy).0 == content(&daemon, "wordnet").0, "{extension}");
    }
    daemon.stop();
}

#[test]
fn columns_of_others_are_mapped() {
    let (dir, daemon) = with_sample();
    let file = dir.path().join("synsets.parquet");
    ok(daemon.run(&["export", "-c", "wordnet", &text(&file)]));
    let args =
        ["import", &text(&file), "-c", "mapped", "--vector", "meaning=vectors.gloss", "--metric", "l2"];
    let more = ["--id", "id", "--type-name", "word", "--omit", "lemmas,type"];
    ok(daemon.run(&[&args[..], &more].concat()));
    let (collection, _) = daemon.json(&["collection", "get", "mapped"]);
    let spaces = json!([{"name": "meaning", "dimension": 384, "metric": "l2", "history": 0, "codes": "4+8"}]);
    assert_eq!(collection["spaces"], spaces);
    let (entity, _) = daemon.json(&["get", "-c", "mapped", "n-01503061", "--fields", "*"]);
    let (source, _) = daemon.json(&["get", "-c", "wordnet", "n-01503061", "--fields", "*"]);
    assert_eq!(entity["type"], "word");
    assert_eq!(entity["vectors"]["meaning"], source["vectors"]["gloss"]);
    assert!(entity["attributes"].get("lemmas").is_none(), "{entity}");
    assert_eq!(entity["attributes"]["gloss"], source["attributes"]["gloss"]);

    let edges = dir.path().join("edges.csv");
    fs::write(&edges, "from,relation,to,weight,since:int\nn-01503061,near,n-00001740,0.5,1990\n")
        .expect("written");
    ok(daemon.run(&["import", &text(&edges), "-c", "mapped", "--edges"]));
    let (told, _) = daemon.json(&["neighbors", "-c", "mapped", "n-01503061"]);
    let edge = &told["neighbors"][0]["edge"];
    assert_eq!((&edge["weight"], &edge["attributes"]), (&json!(0.5), &json!({"since": 1990})));
    daemon.stop();
}

#[test]
fn rejected_rows_are_named_and_the_rest_is_imported() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let rejects = dir.path().join("rejects.jsonl");
    let file = dir.path().join("rows.csv");
    let rows = "id,rank:int,vectors.s,note\na,1,1 2,x\nb,many,1 2,y\nc,3,1 2 3,\nd\n,5,1 2,z\ne,6,,last\n";
    fs::write(&file, rows).expect("written");
    let import = |file: &Path, more: &[&str]| {
        let args = ["import", &text(file), "-c", "c", "--rejects", &text(&rejects)];
        daemon.run(&[&args[..], more].concat())
    };
    let output = import(&file, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(error(&output).contains("rejected: 4"), "{output:?}");
    let mut rejected = lines(&rejects);
    rejected.sort_by_key(|line| line["row"].as_u64());
    let named: Vec<_> = rejected.iter().map(|line| line["row"].as_u64().expect("a row")).collect();
    assert_eq!(named, [2, 3, 4, 5]);
    let reason = |at: usize| rejected[at]["reason"].as_str().expect("a reason").to_owned();
    assert!(reason(0).contains("`rank`") && reason(0).contains("many"), "{}", reason(0));
    assert_eq!(rejected[0]["item"], json!({"id": "b", "rank": "many", "vectors.s": "1 2", "note": "y"}));
    assert!(reason(2).contains("1 cells") && reason(3).contains("no id"), "{rejected:?}");
    assert_eq!(daemon.json(&["count", "-c", "c"]).0["count"], 2);
    let (kept, _) = daemon.json(&["get", "-c", "c", "e"]);
    assert_eq!(kept["attributes"], json!({"rank": 6, "note": "last"}));

    // Rows of a Parquet file: those without the column that is to be the id.
    let table = dir.path().join("rows.parquet");
    ok(daemon.run(&["put", "-c", "c", r#"{"id": "b", "attributes": {"rank": 2}}"#]));
    ok(daemon.run(&["export", "-c", "c", &text(&table)]));
    let output = import(&table, &["--id", "note"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let rejected = lines(&rejects);
    assert_eq!(
        (rejected.len(), &rejected[0]["row"], &rejected[0]["item"]["id"]),
        (1, &json!(2), &json!("b"))
    );
    assert!(daemon.run(&["get", "-c", "c", "last"]).status.success());
    daemon.stop();
}

#[test]
fn what_is_no_such_file_is_refused() {
    let dir = TempDir::new().expect("a directory");
    let daemon = Daemon::start(dir.path());
    let refused = |name: &str, bytes: &[u8], more: &[&str]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("written");
        let output = daemon.run(&[&["import", &text(&path), "-c", "c"][..], more].concat());
        assert!(!output.status.success(), "{name}: {output:?}");
        error(&output)
    };
    assert!(refused("a.parquet", b"garbage that is no table", &[]).contains("not a Parquet file"));
    assert!(refused("a.parquet", b"PAR1\x00\x00\x00\x00PAR1", &[]).contains("a.parquet"));
    assert!(refused("a.csv", b"\x00\x01\xff\xfe,\xff", &[]).contains("the header cannot be read"));
    assert!(refused("a.csv", b"name,age\nx,1\n", &[]).contains("no column `id` among `name`, `age`"));
    assert!(refused("a.csv", b"id\nx\n", &["--id", "key"]).contains("no column `key` among `id`"));
    assert!(refused("a.csv", b"id\nx\n", &["--edges"]).contains("no column `from`"));
    assert!(refused("a.csv.zst", b"not packed", &[]).contains("a.csv.zst"));
    assert!(refused("a.txt", b"", &[]).contains("--format"));
    assert!(refused("a.jsonl", b"{}", &["--id", "key"]).contains("CSV and Parquet"));
    let listed = daemon.json(&["collection", "list"]).0;
    assert_eq!(listed, json!([]), "nothing was made for what was refused");
    daemon.stop();
}

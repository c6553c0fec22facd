//! What is shipped to run the daemon with, in `configs`: that it is called as it can be called, and told of options that there are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;

use crate::daemon::allidb;

/// Where the image has its program.
const PROGRAM: &str = "/usr/local/bin/allidb";

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
}

fn read(name: &str) -> String {
    let path = configs().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(text: &str) -> Json {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The options that a daemon goes by which is given a file and an environment, one a line, if it takes them. Variables of the command line must be some
/// that it takes.
fn options(file: &str, environment: &BTreeMap<String, String>) -> String {
    let mut config = match file.is_empty() {
        true => json!({}),
        false => yaml(file),
    };
    let help = allidb().arg("--help").output().expect("run").stdout;
    let help = String::from_utf8(help).expect("a text");
    for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("ALLIDB")) {
        let Some(path) = name.strip_prefix("ALLIDB__") else {
            assert!(help.contains(&format!("[env: {name}=")), "nothing reads {name}");
            continue;
        };
        let path = path.to_lowercase();
        let (sections, option) = path.rsplit_once("__").map_or((None, &*path), |(of, name)| (Some(of), name));
        let mut section = config.as_object_mut().expect("sections");
        for name in sections.into_iter().flat_map(|sections| sections.split("__")) {
            let inner = section.entry(name).or_insert_with(|| Json::Object(Map::new()));
            section = inner.as_object_mut().expect("a section");
        }
        section.insert(option.to_owned(), yaml(value));
    }
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("allidb.yaml");
    fs::write(&path, config.to_string()).expect("written");
    let args = allidbd::ServeArgs { config: Some(path), ..allidbd::ServeArgs::default() };
    allidbd::show(&args).unwrap_or_else(|error| panic!("{error:#}: {config}"))
}

/// The command line takes these arguments.
fn check_command(args: &[&str]) {
    let args = args.strip_prefix(&[PROGRAM]).unwrap_or(args);
    let output = allidb().args(args).arg("--help").output().expect("run");
    assert!(output.status.success(), "{args:?}: {output:?}");
}

fn texts(list: &Json) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a text")).collect()
}

#[test]
fn the_image_runs_the_daemon_as_nobody() {
    let text = read("container/Containerfile").replace("\\\n", " ");
    let lines: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.trim().split_once(' '))
        .map(|(instruction, rest)| (instruction, rest.trim()))
        .collect();
    let last = |name: &str| {
        let found = lines.iter().rev().find(|(instruction, _)| *instruction == name);
        found.unwrap_or_else(|| panic!("no {name}")).1
    };
    assert!(last("FROM").starts_with("gcr.io/distroless/") && last("FROM").ends_with(":nonroot"));
    assert_eq!(last("USER"), "65532:65532");
    assert_eq!(last("VOLUME"), "/var/lib/allidb");
    assert_eq!(last("EXPOSE"), "7000 7001 7002");
    assert_eq!(last("STOPSIGNAL"), "SIGTERM");
    assert_eq!(yaml(last("ENTRYPOINT")), json!([PROGRAM]));
    check_command(&texts(&yaml(last("CMD"))));
    let health = last("HEALTHCHECK").split_once(" CMD ").expect("a command").1;
    check_command(&texts(&yaml(health)));
    let release = format!("org.opencontainers.image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(last("LABEL").contains(&release), "{}", last("LABEL"));
    let environment = last("ENV").split_whitespace().filter_map(|pair| pair.split_once('='));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(options("", &environment).contains("data_dir = /var/lib/allidb"));

    let release = env!("CARGO_PKG_VERSION");
    let chart = yaml(&read("helm/allidb/Chart.yaml"));
    assert_eq!((&chart["version"], &chart["appVersion"]), (&release.into(), &release.into()));
}

#[test]
fn the_unit_names_options_that_there_are() {
    let text = read("systemd/allidb.service");
    let settings = |name: &str| -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
    };
    let [start] = settings("ExecStart")[..] else { panic!("one command") };
    check_command(&start.split(' ').collect::<Vec<_>>());
    let environment = settings("Environment").into_iter().filter_map(|pair| pair.split_once('='));
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert!(options("", &environment).contains("data_dir = /var/lib/allidb"));
    let [user] = settings("User")[..] else { panic!("one user") };
    assert!(read("systemd/allidb.sysusers.conf").lines().any(|line| line.starts_with(&format!("u {user} "))));
    assert!(read("systemd/allidb.tmpfiles.conf").contains(&format!("d /etc/allidb 0750 root {user} ")));
}

#[test]
fn systemd_takes_the_unit_where_it_is_there() {
    let dir = TempDir::new().expect("a directory");
    let unit = dir.path().join("allidb.service");
    let text = read("systemd/allidb.service").replace(PROGRAM, env!("CARGO_BIN_EXE_allidb"));
    fs::write(&unit, &text).expect("written");
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
        println!("skipped: there is no systemd-analyze");
        return;
    };
    // It warns of what it does not know, and does not fail.
    let told = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && !told.contains("allidb.service:"), "{told}");
}

#[test]
fn the_compose_file_makes_a_ring_of_three_with_certificates() {
    let compose = yaml(&read("compose/compose.yaml"));
    let services = compose["services"].as_object().expect("services");

    // As often as it is started.
    let dir = TempDir::new().expect("a directory");
    let made = dir.path().to_str().expect("a text");
    let command = texts(&services["certificates"]["command"]);
    let at = command.iter().position(|arg| *arg == "--dir").expect("a directory") + 1;
    let mut args = command.clone();
    args[at] = made;
    for _ in 0..2 {
        let output = allidb().args(&args).output().expect("run");
        assert!(output.status.success(), "{output:?}");
    }

    let image = services["certificates"]["image"].as_str().expect("an image");
    assert!(image.ends_with(&format!(":{}}}", env!("CARGO_PKG_VERSION"))), "{image}");
    let mut addresses = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        let node = &services[name];
        // What is merged (`<<`) need not have been by what reads it here.
        let field = |field: &str| if node[field].is_null() { &node["<<"][field] } else { &node[field] };
        assert_eq!(field("read_only"), true, "{name}");
        assert_eq!(field("cap_drop"), &json!(["ALL"]), "{name}");
        assert_eq!(node["hostname"], name);
        let health = texts(&field("healthcheck")["test"]);
        check_command(health.strip_prefix(&["CMD"]).expect("a command"));
        let mut environment = BTreeMap::new();
        let own = node["environment"].as_object().expect("variables");
        let merged = own.get("<<").and_then(Json::as_object).into_iter().flatten();
        for (variable, value) in merged.chain(own).filter(|(variable, _)| *variable != "<<") {
            environment.insert(variable.clone(), value.as_str().expect("a text").to_owned());
        }
        for (variable, path) in &environment {
            if let Some(file) = path.strip_prefix(command[at]).and_then(|file| file.strip_prefix('/')) {
                assert!(dir.path().join(file).exists(), "{variable}: nobody makes {path}");
            }
        }
        let shown = options("", &environment);
        assert!(shown.contains("access.keys_required = true"), "{shown}");
        addresses.push(environment["ALLIDB__RING__ADDRESS"].clone());
        let founders = yaml(&environment["ALLIDB__RING__FOUNDERS"]);
        assert!(texts(&founders).contains(&&*addresses[addresses.len() - 1]), "{founders}");
    }
    addresses.dedup();
    assert_eq!(addresses.len(), 3);
}

/// An interpreter that can render charts, or `None` where there is none.
fn python() -> Option<String> {
    let python = std::env::var("ALLIDB_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let tried = Command::new(&python).args(["-c", "import helm_python, kubernetes_validate, yaml"]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    let how = "run DIR/bin/pip install helm-python-sdk kubernetes-validate in a virtual environment, and set \
               ALLIDB_PYTHON=DIR/bin/python";
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{python} cannot render charts: {how}");
    println!("skipped: {python} cannot render charts: {how}");
    None
}

#[test]
fn the_chart_is_rendered_and_the_daemon_takes_what_it_says() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/packaging/chart.py");
    let output = Command::new(python).arg(script).arg(configs().join("helm/allidb")).output().expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut ways = Vec::new();
    for line in String::from_utf8(output.stdout).expect("a text").lines() {
        let told: Json = serde_json::from_str(line).expect("JSON");
        let way = told["way"].as_str().expect("a name").to_owned();
        let environment: BTreeMap<String, String> =
            serde_json::from_value(told["environment"].clone()).expect("variables");
        let shown = options(told["config"].as_str().expect("a file"), &environment);
        assert!(shown.contains("listen.certificate_file = /etc/allidb/tls/tls.crt"), "{way}: {shown}");
        let is_alone = shown.contains("ring.founders = []");
        assert_eq!(is_alone, way == "alone", "{shown}");
        if !is_alone {
            // It knows itself for a founder.
            let address = &environment["ALLIDB__RING__ADDRESS"];
            assert!(shown.contains(&format!("\"{address}\"")), "{way}: {shown}");
        }
        for command in told["commands"].as_array().expect("commands") {
            check_command(&texts(command));
        }
        let image = format!("allidb:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(told["image"], image.as_str(), "{way}");
        if way == "everything" {
            let shipped = yaml(&read("prometheus/alerts.yaml"));
            assert_eq!(told["alerts"], json!([shipped["groups"]]), "the alerts are those that are shipped");
            assert!(
                shown.contains("storage.memory_bytes = 1GiB") && shown.contains("ring.repair_every = 5m")
            );
        }
        ways.push(way);
    }
    assert_eq!(ways, ["as it is", "everything", "alone", "certificates alone"]);
}

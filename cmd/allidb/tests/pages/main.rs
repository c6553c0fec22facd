//! What stands in the README and in `docs` is run as it stands there, and says what the pages show. See `docs/README.md` for how a page is written.

mod expected;
mod page;
mod python;
mod run;

use std::{
    fs,
    path::{Path, PathBuf},
};

use page::Page;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Page {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    Page::parse(path, &text).unwrap_or_else(|error| panic!("{error}"))
}

/// A test for each page of which something is run.
macro_rules! pages {
    ($($test:ident: $path:literal),* $(,)?) => {
        const RUN: &[&str] = &[$($path),*];
        $(
            #[test]
            fn $test() {
                run::run(&read($path), &root()).unwrap_or_else(|error| panic!("{error}"));
            }
        )*
    };
}

pages! {
    the_readme: "README.md",
    the_quick_start: "docs/quickstart.md",
    the_concepts: "docs/concepts.md",
    data_modelling: "docs/data-modelling.md",
    rest: "docs/rest.md",
    import_and_export: "docs/import-export.md",
    deployment: "docs/deploy.md",
    operations: "docs/operations.md",
    incidents: "docs/incidents.md",
    security: "docs/security.md",
}

#[test]
fn each_block_is_run_or_says_why_not() {
    let listed = fs::read_dir(root().join("docs")).expect("a directory");
    let names = listed.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut paths: Vec<String> =
        names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")).collect();
    paths.push("README.md".to_owned());
    paths.sort();
    for path in paths {
        let page = read(&path);
        for (line, reason) in &page.not_run {
            println!("{path}:{line} is not run: {reason}");
        }
        let is_run = !page.blocks.is_empty();
        assert_eq!(is_run, RUN.contains(&path.as_str()), "{path}: is something of it run, or not?");
    }
}

fn run_text(text: &str) -> Result<(), String> {
    run::run(&Page::parse("page", text)?, &root())
}

#[test]
fn what_is_wrong_with_a_page_is_noticed() {
    for (text, wanted) in [
        ("```sh\ntrue\nfalse\n```\n", "page:1: exit status: 1"),
        ("```sh\nmissing | cat\n```\n", "page:1: exit status: 127"),
        ("```sh\necho a $nothing\n```\n", "unbound variable"),
        ("text\n\n```sh\necho one\n```\n\n```output\ntwo\n```\n", "page:3: shows\ntwo\nbut it says\none\n"),
        ("    indented\n", "page:1: "),
        ("```\nfence\n```\n", "page:1: "),
        ("```output\nof nothing\n```\n", "page:1: "),
        ("```sh\nnever closed\n", "page:1: "),
        ("<!-- not run: -->\n\n```sh\nreboot\n```\n", "page:1: "),
        ("<!-- not run: of what? -->\n", "page:1: "),
    ] {
        let told = run_text(text).expect_err(text);
        assert!(told.contains(wanted), "{text}{told}");
    }
}

#[test]
fn a_page_is_one_shell_beside_its_daemons() {
    run_text(
        "```sh\na=1; mkdir below; cd below; allidb serve --data-dir ../data\n```\n\n```sh\n\
         allidb collection create c > ../made\nallidb put -c c '{\"id\": \"e\"}'\necho $a; pwd\n```\n\n\
         ```output\nput e\n1\n/…/below\n```\n\n<!-- not run: it fails -->\n\n```sh\nfalse\n```\n\n```text\nno command\n```\n",
    )
    .unwrap_or_else(|error| panic!("{error}"));
}

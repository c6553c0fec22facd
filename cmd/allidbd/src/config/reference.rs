//! The reference of all options, made from their declarations.

use std::fmt::Write;

use serde_json::Value as Json;

use super::{
    Access, Config, EmbeddingOptions, JwtOptions, LimitOptions, Listen, Log, RingOptions, Shutdown,
    SnapshotOptions, StorageOptions, Threads, Tracing, VectorOptions,
};

/// What stands at the head of the reference.
const HEAD: &str = "\
# Each has its default here. Made from the code.
#
# Each option is also an environment variable: ALLIDB__ and its path in capitals, two underscores
# between, as in ALLIDB__LISTEN__GRPC=127.0.0.1:7100. Variables beat this file, flags beat variables.
# Sizes are written 64MiB or as bytes, lengths of time 30s, 250ms or as seconds.
";

/// `configs/allidb.yaml`.
pub fn reference() -> String {
    // Plain data cannot fail to serialise; an empty reference fails the test that compares it.
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut text = String::new();
    comment(&mut text, "", Config::ABOUT);
    text.push_str(HEAD);
    for (name, about) in Config::OPTIONS {
        let value = defaults.get(name).unwrap_or(&Json::Null);
        let section = section(name);
        text.push('\n');
        comment(&mut text, "", section.map_or(*about, |(about, _)| about));
        match section {
            None => entry(&mut text, "", name, value),
            Some((_, options)) => {
                line(&mut text, format_args!("{name}:"));
                for (option, about) in options {
                    comment(&mut text, "  ", about);
                    entry(&mut text, "  ", option, value.get(option).unwrap_or(&Json::Null));
                }
            }
        }
    }
    text
}

type Options = &'static [(&'static str, &'static [&'static str])];

/// What a section is about and its options.
fn section(name: &str) -> Option<(&'static [&'static str], Options)> {
    Some(match name {
        "listen" => (Listen::ABOUT, Listen::OPTIONS),
        "access" => (Access::ABOUT, Access::OPTIONS),
        "jwt" => (JwtOptions::ABOUT, JwtOptions::OPTIONS),
        "ring" => (RingOptions::ABOUT, RingOptions::OPTIONS),
        "snapshots" => (SnapshotOptions::ABOUT, SnapshotOptions::OPTIONS),
        "storage" => (StorageOptions::ABOUT, StorageOptions::OPTIONS),
        "vectors" => (VectorOptions::ABOUT, VectorOptions::OPTIONS),
        "threads" => (Threads::ABOUT, Threads::OPTIONS),
        "limits" => (LimitOptions::ABOUT, LimitOptions::OPTIONS),
        "embedding" => (EmbeddingOptions::ABOUT, EmbeddingOptions::OPTIONS),
        "log" => (Log::ABOUT, Log::OPTIONS),
        "tracing" => (Tracing::ABOUT, Tracing::OPTIONS),
        "shutdown" => (Shutdown::ABOUT, Shutdown::OPTIONS),
        _ => return None,
    })
}

fn comment(text: &mut String, indent: &str, about: &[&str]) {
    for words in about {
        line(text, format_args!("{indent}#{words}"));
    }
}

fn entry(text: &mut String, indent: &str, name: &str, value: &Json) {
    let value = match value {
        Json::String(value) if value.is_empty() => "\"\"".to_owned(),
        Json::String(value) => value.clone(),
        other => other.to_string(),
    };
    line(text, format_args!("{indent}{name}: {value}"));
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(text, "{words}").ok();
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{ServeArgs, config};

    fn shipped(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
    }

    #[test]
    fn the_shipped_reference_is_what_the_code_says() {
        let path = shipped("allidb.yaml");
        // Run with ALLIDB_WRITE_REFERENCE=1 after changing an option.
        if std::env::var_os("ALLIDB_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, reference()).expect("the reference is written");
        }
        let shipped = std::fs::read_to_string(&path).expect("the reference is there");
        assert_eq!(shipped, reference(), "run this test with ALLIDB_WRITE_REFERENCE=1");
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "the jail's own signature")]
    fn shipped_files_are_taken() {
        // In the jail, so that no other test's variables count.
        figment::Jail::expect_with(|_| {
            let load = |name: &str| {
                let args = ServeArgs { config: Some(shipped(name)), ..ServeArgs::default() };
                config::load(&args).expect("a shipped file")
            };
            assert_eq!(load("allidb.yaml"), Config::default());
            let ring: Vec<Config> = (1..=3).map(|n| load(&format!("ring-of-three/node-{n}.yaml"))).collect();
            let addresses: Vec<String> = ring.iter().map(|node| node.ring.address()).collect();
            assert!(ring.iter().all(|node| node.ring.founders == addresses));
            assert_eq!(load("single-node.yaml").data_dir, PathBuf::from("/var/lib/allidb"));
            Ok(())
        });
    }
}

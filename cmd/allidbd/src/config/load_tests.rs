//! How layers combine and what is refused. The environment is the process's, so each test that sets a
//! variable runs inside figment's jail, which holds a lock and puts everything back.

use std::{path::PathBuf, time::Duration};

use figment::Jail;

use super::*;
use crate::config::{ByteSize, LogFormat};

/// Runs `test` with this file as `allidb.yaml`.
#[expect(clippy::result_large_err, reason = "the jail's own signature")]
fn with_file(file: &str, test: impl FnOnce(&mut Jail, ServeArgs)) {
    Jail::expect_with(|jail| {
        jail.create_file("allidb.yaml", file)?;
        let args = ServeArgs { config: Some(jail.directory().join("allidb.yaml")), ..ServeArgs::default() };
        test(jail, args);
        Ok(())
    });
}

fn refused(args: &ServeArgs) -> String {
    load(args).expect_err("must be refused").to_string()
}

#[test]
fn flags_beat_variables_which_beat_the_file_which_beats_defaults() {
    let file = "data_dir: from-file\nlisten: {grpc: '127.0.0.1:1', http: '127.0.0.1:1'}\nlimits: {k: 5}\n";
    with_file(file, |jail, args| {
        jail.set_env("ALLIDB__LISTEN__GRPC", "127.0.0.1:2");
        jail.set_env("ALLIDB__LISTEN__HTTP", "127.0.0.1:2");
        jail.set_env("ALLIDB_SERVICE_HOST", "10.0.0.1");
        let args =
            ServeArgs { grpc_listen: Some("127.0.0.1:3".into()), log_format: Some("json".into()), ..args };
        let config = load(&args).expect("every layer is in order");
        assert_eq!(config.data_dir, PathBuf::from("from-file"));
        assert_eq!((config.listen.grpc.port(), config.listen.http.port()), (3, 2));
        assert_eq!(config.limits.k, 5);
        assert_eq!(config.limits.hops, Config::default().limits.hops);
        assert_eq!(config.log.format, LogFormat::Json);

        let shown = show(&args).expect("every layer is in order");
        let line = |start: &str| shown.lines().find(|line| line.starts_with(start)).expect(start).to_owned();
        assert!(line("listen.grpc = 127.0.0.1:3").ends_with("# the command line"), "{shown}");
        assert!(line("listen.http = 127.0.0.1:2").ends_with("# environment ALLIDB__LISTEN__HTTP"), "{shown}");
        assert!(
            line("limits.k = 5").ends_with("allidb.yaml") && line("limits.k").contains("# file "),
            "{shown}"
        );
        assert!(line("limits.hops = 8").ends_with("# default"), "{shown}");
        assert!(line("listen.port_file = unset").ends_with("# default"), "{shown}");
    });
}

#[test]
fn what_is_shown_of_addresses_is_no_secret() {
    let file = "tracing: {otlp_endpoint: 'https://ops:hid/den?hidden@traces.example:4317'}\n\
                jwt: {jwks_url: 'https://id.example/keys?token=hidden', issuer: i, audience: a}\n";
    with_file(file, |_, args| {
        let shown = show(&args).expect("every layer is in order");
        assert!(shown.contains("https://…@traces.example:4317 "), "{shown}");
        assert!(shown.contains("https://id.example/keys?… ") && !shown.contains("hidden"), "{shown}");
    });
}

#[test]
fn what_is_no_yaml_is_named() {
    for (file, wanted) in
        [("listen: {grpc: 5\n", "allidb.yaml is no YAML"), ("log: {filter: '(('}\n", "`log.filter`")]
    {
        with_file(file, |_, args| {
            let error = load(&args).expect_err(file);
            assert!(format!("{error:#}").contains(wanted), "{error:#}");
        });
    }
}

#[test]
fn sizes_and_times_are_written_for_people_or_as_numbers() {
    let file = "storage: {memtable_bytes: 8MiB, wal_segment_bytes: 1048576}\nshutdown: {grace: 1.5}\n";
    with_file(file, |jail, args| {
        jail.set_env("ALLIDB__LIMITS__DEADLINE", "250ms");
        jail.set_env("ALLIDB__STORAGE__SEPARATION_BYTES", "1048576");
        let config = load(&args).expect("sizes and times");
        assert_eq!(config.storage.memtable_bytes, ByteSize::mib(8));
        assert_eq!(config.storage.wal_segment_bytes, ByteSize::mib(1));
        assert_eq!(config.storage.separation_bytes, ByteSize::mib(1));
        assert_eq!(config.limits.deadline.0, Duration::from_millis(250));
        assert_eq!(config.shutdown.grace.0, Duration::from_millis(1_500));
    });
}

#[test]
fn unknown_keys_are_refused_with_their_origin_and_the_nearest_option() {
    with_file("listen: {gprc: '127.0.0.1:1'}\nlimit: {k: 5}\n", |jail, args| {
        jail.set_env("ALLIDB__STORAGE__MEMTABLE", "1");
        let message = refused(&args);
        let line = |what: &str| message.lines().find(|line| line.contains(what)).expect(what).to_owned();
        assert!(line("listen.gprc").ends_with("did you mean `listen.grpc`?"), "{message}");
        assert!(line("listen.gprc").contains("allidb.yaml sets"), "{message}");
        assert!(line("`limit`").ends_with("did you mean `limits`?"), "{message}");
        assert!(
            line("ALLIDB__STORAGE__MEMTABLE").ends_with("did you mean `storage.memtable_bytes`?"),
            "{message}"
        );
    });
}

#[test]
fn values_that_do_not_fit_are_refused_with_their_origin() {
    with_file("storage: {memtable_bytes: lots}\n", |_, args| {
        let message = refused(&args);
        assert!(message.contains("storage.memtable_bytes") && message.contains("allidb.yaml"), "{message}");
        assert!(message.contains("is no size such as 64MiB"), "{message}");
    });
    with_file("", |jail, args| {
        jail.set_env("ALLIDB__LIMITS__K", "many");
        let message = refused(&args);
        assert!(message.contains("environment ALLIDB__LIMITS__K"), "{message}");
    });
    with_file("# nothing set\n", |_, args| {
        let args = ServeArgs { http_listen: Some("here".into()), ..args };
        let message = refused(&args);
        assert!(message.contains("listen.http") && message.contains("the command line"), "{message}");
    });
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    with_file("", |_, args| {
        let args = ServeArgs { config: Some("/nowhere/allidb.yaml".into()), ..args };
        assert!(refused(&args).contains("/nowhere/allidb.yaml"));
    });
    with_file("listen: [unclosed\n", |_, args| {
        load(&args).expect_err("not YAML");
    });
}

#[test]
fn only_loopback_is_taken() {
    let mut config = Config::default();
    config.listen.grpc = "[::1]:0".parse().expect("an address");
    config.check().expect("loopback");
    for open in ["0.0.0.0:7000", "192.168.0.1:7000", "[::]:7000"] {
        let mut config = Config::default();
        config.listen.http = open.parse().expect("an address");
        let message = config.check().expect_err("not loopback").to_string();
        assert!(
            message.contains("`listen.http`") && message.contains("without `listen.certificate_file`"),
            "{message}"
        );
        config.listen.certificate_file = Some("certificate".into());
        config.check().expect_err("without its key");
        config.listen.key_file = Some("key".into());
        config.check().expect_err("clients show nothing");
        config.listen.client_authority_file = Some("authority".into());
        config.check().expect("both sides show certificates");
        config.listen.certificate_file = None;
        config.listen.key_file = None;
        config.check().expect_err("nothing is shown to clients");
        config.listen.client_authority_file = None;
        config.listen.unprotected = true;
        config.check().expect("it is asked for");
    }
}

#[test]
fn bounds_of_nothing_and_contradictions_are_refused() {
    with_file("limits: {page_size: 0}\n", |_, args| {
        assert!(refused(&args).contains("`limits.page_size` is 0"))
    });
    with_file("limits: {deadline: 0}\n", |_, args| {
        assert!(refused(&args).contains("`limits.deadline` is 0"))
    });
    with_file("shutdown: {grace: 0}\nthreads: {read: 0}\n", |_, args| {
        load(&args).expect("zero has a meaning here");
    });
    with_file("vectors: {connections: 257}\n", |_, args| assert!(refused(&args).contains("2 to 256")));
    with_file("storage: {level0_stop_files: 5}\n", |_, args| {
        assert!(refused(&args).contains("must not fall"))
    });
}

#[test]
fn compression_is_a_list_by_level() {
    with_file("storage: {compression: [none, lz4, 'zstd:3']}\n", |jail, args| {
        let of = |args: &ServeArgs| {
            let config = load(args).expect("a list");
            config.storage.compression.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&args), ["none", "lz4", "zstd:3"]);
        jail.set_env("ALLIDB__STORAGE__COMPRESSION", "[lz4, zstd:9]");
        assert_eq!(of(&args), ["lz4", "zstd:9"]);
    });
    with_file("storage: {compression: [lz4, zstd:23]}\n", |_, args| {
        let message = refused(&args);
        assert!(
            message.contains("storage.compression") && message.contains("zstd:1 to zstd:22"),
            "{message}"
        );
    });
    with_file("storage: {compression: []}\n", |_, args| {
        assert!(refused(&args).contains("`storage.compression` is empty"));
    });
}

#[test]
fn storage_options_that_cannot_work_are_refused_with_what_was_meant() {
    with_file("storage: {memory_bytes: 64MiB}\n", |_, args| {
        let message = refused(&args);
        for part in ["`storage.memory_bytes` is 64MiB", "`memtable_bytes` 64MiB", "`frozen_memtables` 3"] {
            assert!(message.contains(part), "{message}");
        }
        // 256 MiB of memtables and a fifteenth of that.
        assert!(message.ends_with("at least 286331154"), "{message}");
    });
    with_file("storage: {memory_bytes: 72MiB, memtable_bytes: 16MiB}\n", |_, args| {
        load(&args).expect("enough");
    });
    with_file("storage: {blob_garbage_percent: 101}\n", |_, args| {
        assert!(refused(&args).contains("1 to 100"));
    });
    with_file("storage: {blob_garbage_percent: 0}\n", |_, args| {
        assert!(refused(&args).contains("`storage.blob_garbage_percent` is 0"));
    });
    with_file("storage: {block_cache_bytes: 64MiB}\n", |_, args| {
        assert!(refused(&args).contains("`storage.block_cache_bytes`, which is no option"));
    });
    let zeros = "storage: {separation_bytes: 0, filter_bits_per_key: 0, compaction_bytes_per_second: 0}\n";
    with_file(zeros, |_, args| {
        load(&args).expect("zero has a meaning here");
    });
}

#[test]
fn where_traces_go_and_how_many_is_checked() {
    with_file("tracing: {sample_ratio: 1.5}\n", |_, args| assert!(refused(&args).contains("must be 0 to 1")));
    with_file("tracing: {otlp_endpoint: 'collector:4317'}\n", |_, args| {
        assert!(refused(&args).contains("must begin with http:// or https://"));
    });
    with_file("tracing: {otlp_endpoint: 'http://collector:4317', authority_file: a.pem}\n", |_, args| {
        assert!(refused(&args).contains("write https://"));
    });
    with_file("log: {slow_query: 0}\n", |jail, args| {
        jail.set_env("ALLIDB__TRACING__SAMPLE_RATIO", "1");
        jail.set_env("ALLIDB__TRACING__OTLP_ENDPOINT", "https://collector:4317");
        let config = load(&args).expect("in order");
        assert_eq!((config.tracing.sample_ratio, config.log.slow_query.0), (1.0, Duration::ZERO));
    });
}

#[test]
fn founders_are_hosts_with_ports() {
    for address in ["node-1.example.com:7002", "10.0.0.1:7002", "localhost:1", "[::1]:7002"] {
        assert!(is_address(address), "{address}");
    }
    for wrong in
        ["http://10.0.0.1:7002", "some where:1", ":7002", "127.0.0.1:99999", "host:0", "host", "::1:7002"]
    {
        assert!(!is_address(wrong), "{wrong}");
    }
}

#[test]
fn credentials_of_an_object_store_are_for_one() {
    for place in ["null", "/var/snapshots"] {
        with_file(&format!("snapshots: {{location: {place}, credentials_file: c}}\n"), |_, args| {
            assert!(refused(&args).contains("`snapshots.location` is no s3://BUCKET/PREFIX"));
        });
    }
    with_file("snapshots: {location: 's3://b/p', credentials_file: c}\n", |_, args| {
        assert_eq!(load(&args).expect("both").snapshots.credentials_file, Some(PathBuf::from("c")));
    });
}

#[test]
fn tokens_are_taken_from_a_place_that_can_be_trusted_and_of_one_issuer_alone() {
    let jwt = |options: &str| format!("jwt: {{{options}}}\n");
    let terms = "issuer: https://id.example, audience: allidb";
    for url in
        ["https://id.example/jwks", "http://127.0.0.1:80/jwks", "http://[::1]/jwks", "http://localhost:8/"]
    {
        with_file(&jwt(&format!("jwks_url: '{url}', {terms}")), |_, args| {
            assert_eq!(load(&args).expect(url).jwt.jwks_url.as_deref(), Some(url));
        });
    }
    let wrong = [
        (format!("jwks_url: 'http://id.example/jwks', {terms}"), "must begin with https://"),
        (format!("jwks_url: 'http://127.0.0.1@id.example/jwks', {terms}"), "must begin with https://"),
        (format!("jwks_url: 'http://localhost.id.example/jwks', {terms}"), "must begin with https://"),
        (format!("jwks_url: 'https://', {terms}"), "must begin with https://"),
        (format!("jwks_url: 'ftp://127.0.0.1/jwks', {terms}"), "must begin with https://"),
        (format!("jwks_url: 'https://id.example/jwks', jwks_file: keys.json, {terms}"), "are both set"),
        ("jwks_file: keys.json, audience: allidb".to_owned(), "`jwt.issuer` is not set"),
        ("jwks_file: keys.json, issuer: id".to_owned(), "`jwt.audience` is not set"),
        (format!("jwks_file: keys.json, role_claim: '', {terms}"), "`jwt.role_claim` is not set"),
        (format!("jwks_file: keys.json, refresh_every: 0, {terms}"), "`jwt.refresh_every` is 0"),
    ];
    for (options, why) in wrong {
        with_file(&jwt(&options), |_, args| {
            let refused = refused(&args);
            assert!(refused.contains(why), "{options}: {refused}");
        });
    }
}

#[test]
fn origins_are_written_as_browsers_do() {
    let check = |origin: &str| {
        let mut config = Config::default();
        config.listen.origins = vec!["https://ours.example".to_owned(), origin.to_owned()];
        config.check()
    };
    for good in ["https://a.example:8443", "http://localhost:3000", "http://[::1]:3000"] {
        check(good).expect(good);
    }
    for bad in [
        "*",
        "a.example",
        "https://a.example/",
        "https://A.example",
        "https://",
        "ftp://a.example",
        "https://a.example:x",
    ] {
        let error = check(bad).expect_err(bad).to_string();
        assert!(error.contains("`listen.origins`") && error.contains(bad), "{error}");
    }
}

#[test]
fn options_that_stand_in_the_docs_are_taken() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let mut snippets = 0;
    for page in std::fs::read_dir(docs).expect("the docs") {
        let page = page.expect("an entry").path();
        let Ok(text) = std::fs::read_to_string(&page) else { continue };
        for snippet in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            with_file(snippet, |_, args| {
                drop(load(&args).unwrap_or_else(|error| panic!("{page:?}: {error:#}")))
            });
            snippets += 1;
        }
    }
    assert!(snippets >= 2, "{snippets}");
}

//! Says what is missing when RocksDB is to be measured and the system has no librocksdb.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_ROCKSDB").is_none() {
        return;
    }
    let probe = Path::new(&env::var_os("OUT_DIR").unwrap_or_default()).join("probe.so");
    // Asked in the way in which the program will be linked.
    let linked = Command::new("cc").args(["-shared", "-lrocksdb", "-o"]).arg(&probe).output();
    if !linked.is_ok_and(|output| output.status.success()) {
        println!(
            "cargo::error=the feature `rocksdb` needs librocksdb (7.8 or newer), which the linker does not find: \
             apt-get install librocksdb-dev"
        );
    }
}

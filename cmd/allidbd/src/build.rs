//! What this release is, what it was built from, and what it reads and writes.

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from, or `unknown`: builds for development do not follow commits.
pub const COMMIT: &str = env!("ALLIDB_BUILT_COMMIT");
/// The compiler.
pub const RUSTC: &str = env!("ALLIDB_BUILT_RUSTC");
/// The machine that it was built for.
pub const TARGET: &str = env!("ALLIDB_BUILT_TARGET");
/// How it was built: `debug`, `release`, or `dist`, as releases are.
pub const PROFILE: &str = env!("ALLIDB_BUILT_PROFILE");
/// Release and commit in one line.
pub const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("ALLIDB_BUILT_COMMIT"), ")");
/// What is spoken to clients, and among nodes.
pub const PROTOCOLS: &[&str] = &["allidb.v1", "allidb.peer.v1"];

/// The format of each kind of file and row that is written. Older ones are read, newer ones refused by name.
pub fn formats() -> impl Iterator<Item = (&'static str, u32)> {
    let parts = [allidb_storage::FORMATS, allidb_index::FORMATS, allidb_cluster::FORMATS];
    parts.into_iter().flatten().copied()
}

/// Release, build, formats and protocols, one a line; `features` are those of the program that asks.
pub fn describe(features: &[&str]) -> String {
    let formats: Vec<String> = formats().map(|(name, format)| format!("{name} {format}")).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let (formats, protocols) = (formats.join(", "), PROTOCOLS.join(", "));
    format!(
        "{VERSION}\ncommit: {COMMIT}\nrustc: {RUSTC}\ntarget: {TARGET}\nprofile: {PROFILE}\nfeatures: {features}\n\
         formats: {formats}\nprotocols: {protocols}"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_tells_its_formats_once() {
        let names: Vec<&str> = formats().map(|(name, _)| name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "{names:?}");
        for name in ["manifest", "log", "table", "blob", "row", "vector segment", "topology", "snapshot"] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
    }

    #[test]
    fn a_build_is_described() {
        let told = describe(&["peers"]);
        for fact in [VERSION, COMMIT, RUSTC, TARGET, PROFILE, "features: peers", "manifest 2", "allidb.v1"] {
            assert!(!fact.is_empty() && told.contains(fact), "{fact:?} is not in {told}");
        }
        assert!(describe(&[]).contains("features: none"));
    }
}

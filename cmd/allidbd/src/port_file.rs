//! A file that tells others where the daemon listens, for those who let it choose its ports.

use std::{fs, io::Write, net::SocketAddr, path::Path};

use anyhow::Context;

/// Writes `{"grpc":"…","http":"…"}` as a whole: whoever sees the file sees all of it.
pub(crate) fn write(path: &Path, grpc: SocketAddr, http: SocketAddr) -> anyhow::Result<()> {
    let text = serde_json::json!({ "grpc": grpc, "http": http }).to_string();
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let fresh = Path::new(&name);
    fs::File::create(fresh)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .and_then(|()| fs::rename(fresh, path))
        .with_context(|| format!("cannot write the port file {}", path.display()))
}

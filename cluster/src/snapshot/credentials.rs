//! Credentials for an object store, from a file that is read with each call: whoever replaces them restarts nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use object_store::{CredentialProvider, aws::AwsCredential};
use parking_lot::Mutex;
use tokio::task::spawn_blocking;

/// A file as the store's own tools write it: `aws_access_key_id = …`, `aws_secret_access_key = …` and, if there is one,
/// `aws_session_token = …` of the profile `[default]`.
#[derive(Debug)]
pub(super) struct CredentialsFile {
    path: PathBuf,
    last: Mutex<Arc<AwsCredential>>,
}

impl CredentialsFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), last: Mutex::new(read(path)?) })
    }
}

#[async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    /// Those of before, if they cannot be read.
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let path = self.path.clone();
        let now = spawn_blocking(move || read(&path)).await.map_err(io::Error::other).flatten();
        match now {
            Ok(now) => *self.last.lock() = now,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "the credentials from before stay good");
            }
        }
        Ok(Arc::clone(&self.last.lock()))
    }
}

fn read(path: &Path) -> io::Result<Arc<AwsCredential>> {
    let text = fs::read_to_string(path)?;
    let why = "it has no `aws_access_key_id` and `aws_secret_access_key` of the profile `default`";
    parse(&text).map(Arc::new).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, why))
}

/// What stands before any profile is of the default one.
fn parse(text: &str) -> Option<AwsCredential> {
    let (mut key_id, mut secret_key, mut token) = (None, None, None);
    let mut is_default = true;
    for line in text.lines().map(str::trim) {
        if let Some(profile) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_default = profile.trim() == "default";
        }
        let Some((name, value)) = line.split_once('=').filter(|_| is_default) else { continue };
        let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
        match name.trim() {
            "aws_access_key_id" => key_id = value,
            "aws_secret_access_key" => secret_key = value,
            "aws_session_token" => token = value,
            _ => {}
        }
    }
    Some(AwsCredential { key_id: key_id?, secret_key: secret_key?, token })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, String, Option<String>)> {
        parse(text).map(|of| (of.key_id, of.secret_key, of.token))
    }

    #[test]
    fn the_default_profile_is_read() {
        let pair =
            |token: Option<&str>| Some(("id".to_owned(), "a=b/c".to_owned(), token.map(str::to_owned)));
        assert_eq!(parsed("aws_access_key_id=id\naws_secret_access_key=a=b/c"), pair(None));
        let file = "# ours\n[other]\naws_access_key_id = x\naws_secret_access_key = y\n\n[default]\nregion = r\n\
                    aws_access_key_id = id\naws_secret_access_key = a=b/c\naws_session_token = t\n[more]\naws_access_key_id = z\n";
        assert_eq!(parsed(file), pair(Some("t")));
        for wrong in [
            "",
            "aws_access_key_id=id",
            "aws_access_key_id=id\naws_secret_access_key=",
            "[other]\naws_access_key_id=id\naws_secret_access_key=s",
        ] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn other_credentials_count_at_once_and_those_from_before_while_there_are_none() {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = dir.path().join("credentials");
        assert!(CredentialsFile::open(&path).is_err());
        let write = |id: &str| {
            let text = format!("aws_access_key_id={id}\naws_secret_access_key=secret\n");
            fs::write(&path, text).expect("written");
        };
        write("first");
        let file = CredentialsFile::open(&path).expect("credentials");
        let id = async || file.get_credential().await.expect("credentials").key_id.clone();
        assert_eq!(id().await, "first");
        write("second");
        assert_eq!(id().await, "second");
        fs::write(&path, "garbage").expect("written");
        assert_eq!(id().await, "second");
        fs::remove_file(&path).expect("removed");
        assert_eq!(id().await, "second");
    }
}

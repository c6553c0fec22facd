//! `--if-absent` and `--if-version`.

use allidb_api::v1::{Precondition, precondition::Kind};
use anyhow::Result;
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;

use crate::failure::Failure;

/// What must be so of an entity for a write to be made.
#[derive(Args, Debug, Default)]
pub(crate) struct PreconditionArgs {
    /// Only if there is no such entity.
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only if the entity has this version, as JSON answers show it.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<String>,
}

impl PreconditionArgs {
    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        !self.if_absent && self.if_version.is_none()
    }

    /// As it is sent.
    pub(crate) fn to_proto(&self) -> Result<Option<Precondition>> {
        let kind = match &self.if_version {
            Some(version) => {
                let version = STANDARD.decode(version).map_err(|error| {
                    Failure::usage(format!(
                        "--if-version {version} is no version as JSON answers show it: {error}"
                    ))
                })?;
                Some(Kind::IfVersion(version.into()))
            }
            None => self.if_absent.then_some(Kind::IfAbsent(true)),
        };
        Ok(kind.map(|kind| Precondition { kind: Some(kind) }))
    }
}

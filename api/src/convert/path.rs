//! The place of a field in a request, written out only when something is wrong there.

use std::fmt;

use tonic::Status;

use crate::status;

/// A path such as `entity.vectors["gloss"]`: links on the stack, so that a request in order costs nothing.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    /// A field of the request itself.
    Root(&'a str),
    /// A field of a message.
    Field(&'a Path<'a>, &'a str),
    /// An entry of a map.
    Key(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    pub(crate) fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    pub(crate) fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }

    pub(crate) fn index(&'a self, at: usize) -> Path<'a> {
        Path::Index(self, at)
    }

    /// What is here is wrong because `why`, the end of a sentence that begins with the path.
    pub(crate) fn invalid(&self, why: impl AsRef<str>) -> Status {
        status::invalid(&self.to_string(), why.as_ref())
    }

    /// What is here, if it is there.
    pub(crate) fn required<T>(&self, field: Option<T>) -> Result<T, Status> {
        field.ok_or_else(|| self.invalid("must be set"))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root(name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Key(parent, key) => write!(f, "{parent}[{key:?}]"),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

//! What can go wrong on a simulated disk.

use std::io;

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Fs::create`](super::Fs::create)
    Create,
    /// [`Fs::open`](super::Fs::open)
    Open,
    /// [`File::read_at`](super::File::read_at)
    Read,
    /// [`File::write_at`](super::File::write_at)
    Write,
    /// [`File::sync`](super::File::sync)
    Sync,
    /// [`File::set_len`](super::File::set_len)
    SetLen,
    /// [`File::allocate`](super::File::allocate)
    Allocate,
    /// [`Fs::rename`](super::Fs::rename)
    Rename,
    /// [`Fs::hard_link`](super::Fs::hard_link)
    Link,
    /// [`Fs::remove`](super::Fs::remove)
    Remove,
    /// [`Fs::sync_dir`](super::Fs::sync_dir)
    SyncDir,
    /// [`Fs::list`](super::Fs::list)
    List,
}

impl Operation {
    /// Whether it changes what is on the disk; only these are counted by [`SimFs::operations`](super::SimFs::operations).
    pub(super) fn mutates(self) -> bool {
        !matches!(self, Operation::Open | Operation::Read | Operation::List)
    }
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and changes nothing. A failed sync loses what was not synced for good, like Linux does: the
    /// next sync succeeds without it.
    Fail(io::ErrorKind),
    /// A read or write transfers this many bytes and succeeds.
    Short(usize),
    /// A write transfers this many bytes and fails.
    Torn(usize),
    /// A write transfers this many bytes and fails because the disk is full.
    Full(usize),
}

/// A failure to come.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which operation.
    pub operation: Operation,
    /// Only on files whose name ends with this; empty: on all.
    pub suffix: String,
    /// How many matching operations go well before.
    pub skip: u64,
    /// How many then fail.
    pub times: u64,
    /// How.
    pub effect: Effect,
}

impl Fault {
    /// The next such operation on any file fails with an I/O error.
    pub fn once(operation: Operation) -> Fault {
        Fault {
            operation,
            suffix: String::new(),
            skip: 0,
            times: 1,
            effect: Effect::Fail(io::ErrorKind::Other),
        }
    }

    /// Only on files whose name ends with `suffix`.
    pub fn on(mut self, suffix: &str) -> Fault {
        self.suffix = suffix.to_owned();
        self
    }
}

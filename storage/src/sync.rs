//! The locks of what is also tested with every interleaving of threads, where other ones stand in for them.

pub(crate) use parking_lot::{Condvar, Mutex};

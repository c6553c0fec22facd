//! Models of protocols, checked in every state that they can come to, and that each of their steps is needed.
//!
//! | module | what it is of |
//! |---|---|
//! | `caspaxos` | writes on conditions |
//! | `purge` | forgetting what was deleted |

mod caspaxos;
mod purge;

//! Models of protocols, checked in every state that they can come to, and that each of their steps is needed.
//!
//! | module | what it is of |
//! |---|---|
//! | `purge` | forgetting what was deleted |

mod purge;

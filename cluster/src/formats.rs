//! The formats of what a ring keeps, as this release writes them.

use crate::{layout, snapshot};

/// What a ring keeps, and the format in which it is written. Older ones are read, newer ones refused.
pub const FORMATS: &[(&str, u32)] = &[
    ("layout", layout::LAYOUT_FORMAT),
    ("topology", layout::TOPOLOGY_FORMAT),
    ("snapshot", snapshot::FORMAT),
];

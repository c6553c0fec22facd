//! The formats of rows and files that this release writes.

use crate::{graph, row, vector};

/// Each kind of row and file, and the format in which it is written. Older ones are read, newer ones refused.
pub const FORMATS: &[(&str, u32)] = &[
    ("row", row::FORMAT as u32),
    ("vector segment", vector::SEGMENT_FORMAT),
    ("graph segment", graph::SEGMENT_FORMAT),
];

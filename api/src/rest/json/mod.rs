//! Messages of the contract as JSON: protobuf's own mapping, with what people expect in four places.
//!
//! - Fields have the names that they have in the contract (`page_size`); `pageSize` is taken, too.
//! - Values of attributes are plain JSON: whole numbers are int64, those with a point or an exponent doubles, and what JSON lacks is an object with one
//!   reserved key: `{"$timestamp": "2024-05-01T00:00:00Z"}`, `{"$bytes": "aGk="}`; a map that looks like one of these is `{"$map": {…}}`.
//! - A vector of numbers is an array.
//! - 64-bit integers are numbers, as JSON has no others; strings are taken, too. Field masks are arrays of paths, or one string with commas.
//!
//! | module | what it does |
//! |---|---|
//! | `read` | JSON → protobuf's encoding, without anything in between |
//! | `parameter` | a field in a path or a query string → the same |
//! | `scalar` | a number, text or truth as a field's kind has it |
//! | `write` | protobuf's encoding → JSON, the same way |
//! | `value` | values of attributes |

mod parameter;
mod read;
mod scalar;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use parameter::read_parameter;
pub(crate) use read::{read, read_field};
pub(crate) use write::Message;

/// Messages that have a form of their own in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    Timestamp,
    Duration,
    FieldMask,
    Value,
    Vector,
    Status,
}

impl Special {
    fn of(message: &str) -> Option<Self> {
        Some(match message {
            "google.protobuf.Timestamp" => Self::Timestamp,
            "google.protobuf.Duration" => Self::Duration,
            "google.protobuf.FieldMask" => Self::FieldMask,
            "google.rpc.Status" => Self::Status,
            "allidb.v1.Value" => Self::Value,
            "allidb.v1.Vector" => Self::Vector,
            _ => return None,
        })
    }
}

//! A layout as it is kept on every node, byte for byte in `docs/format.md`.

use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::{Layout, MAX_REPLICATION, Member, NodeId};

/// What stands for a layout of this form.
pub(crate) const FORMAT: u32 = 1;

/// Why the bytes of a layout cannot be taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DamagedLayout {
    /// They are no such record.
    #[error("it is no record of a layout")]
    Unreadable,
    /// A later release wrote them.
    #[error("it has format {0}; this release reads format {FORMAT}")]
    Format(u32),
    /// They are not what was written.
    #[error("its checksum is {found:016x}, and {stored:016x} was written")]
    Checksum {
        /// Of what is there.
        found: u64,
        /// What was written beside it.
        stored: u64,
    },
    /// They contradict themselves.
    #[error("it gives a partition to no member, or to the same one twice")]
    Contradiction,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(uint32, tag = "3")]
    replication: u32,
    #[prost(message, repeated, tag = "4")]
    members: Vec<MemberRecord>,
    /// Of each partition the places of its replicas among the members, ascending, two little-endian bytes each.
    #[prost(bytes = "vec", tag = "5")]
    replicas: Vec<u8>,
    /// XXH3 of the record without it.
    #[prost(fixed64, tag = "6")]
    checksum: u64,
    /// How many replicas each partition has, a byte each; empty: all as many as they are to have.
    #[prost(bytes = "vec", tag = "7")]
    counts: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberRecord {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    zone: String,
    #[prost(uint32, tag = "3")]
    capacity: u32,
}

impl Layout {
    /// The layout as bytes. Equal layouts have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = self.record();
        record.checksum = xxh3_64(&record.encode_to_vec());
        record.encode_to_vec()
    }

    /// Tells layouts apart: equal ones have equal digests, and others have others, but by a chance of one in 2⁶⁴.
    pub fn digest(&self) -> u64 {
        xxh3_64(&self.record().encode_to_vec())
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If the bytes are not those of a layout.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedLayout> {
        let mut record = Record::decode(bytes).map_err(|_| DamagedLayout::Unreadable)?;
        if record.format != FORMAT {
            return Err(DamagedLayout::Format(record.format));
        }
        let stored = std::mem::take(&mut record.checksum);
        let found = xxh3_64(&record.encode_to_vec());
        if found != stored {
            return Err(DamagedLayout::Checksum { found, stored });
        }
        let replication = record.replication as usize;
        if !(1..=MAX_REPLICATION).contains(&replication) {
            return Err(DamagedLayout::Contradiction);
        }
        let of_member = |member: MemberRecord| Member {
            node: NodeId(member.node),
            zone: member.zone,
            capacity: member.capacity,
        };
        let members: Vec<Member> = record.members.into_iter().map(of_member).collect();
        let (places, rest) = record.replicas.as_chunks::<2>();
        let node = |place: &[u8; 2]| members.get(usize::from(u16::from_le_bytes(*place))).map(|of| of.node);
        let nodes: Option<Vec<NodeId>> = places.iter().map(node).collect();
        let nodes = nodes.ok_or(DamagedLayout::Contradiction)?;
        let counts = match record.counts.is_empty() {
            true => vec![replication; usize::from(allidb_index::PARTITIONS)],
            false => record.counts.iter().map(|count| usize::from(*count)).collect(),
        };
        let mut left = nodes.as_slice();
        let mut take = |count: usize| left.split_off(..count).map(<[NodeId]>::to_vec);
        let replicas: Option<Vec<Vec<NodeId>>> = counts.iter().map(|count| take(*count)).collect();
        let replicas = replicas.ok_or(DamagedLayout::Contradiction)?;
        let is_whole = rest.is_empty()
            && left.is_empty()
            && replicas.len() == usize::from(allidb_index::PARTITIONS)
            && counts.iter().all(|count| (1..=replication).contains(count));
        if !is_whole || !replicas.iter().all(|nodes| nodes.is_sorted_by(|a, b| a < b)) {
            return Err(DamagedLayout::Contradiction);
        }
        Ok(Self { version: record.version, replication, members, replicas })
    }

    fn record(&self) -> Record {
        let place = |node: &NodeId| self.members.partition_point(|member| member.node < *node) as u16;
        let members = self.members.iter().map(|member| MemberRecord {
            node: member.node.0,
            zone: member.zone.clone(),
            capacity: member.capacity,
        });
        let has_all = self.replicas.iter().all(|nodes| nodes.len() == self.replication);
        let counts = match has_all {
            true => Vec::new(),
            false => self.replicas.iter().map(|nodes| nodes.len() as u8).collect(),
        };
        Record {
            format: FORMAT,
            version: self.version,
            replication: self.replication as u32,
            members: members.collect(),
            replicas: self.replicas.iter().flatten().flat_map(|node| place(node).to_le_bytes()).collect(),
            checksum: 0,
            counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let member = |(node, zone): (u64, &str)| Member {
            node: NodeId(node),
            zone: zone.to_owned(),
            capacity: 1 + node as u32 % 3,
        };
        let members = [(7, "a"), (1 << 40, "b"), (u64::MAX, "c"), (9, "a"), (12, "")].map(member);
        Layout::found(members.to_vec(), 3).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let layout = layout();
        let bytes = layout.encode();
        assert_eq!(Layout::decode(&bytes), Ok(layout.clone()));
        let next = layout.next(layout.members()[..4].to_vec(), 2).unwrap();
        assert_eq!(Layout::decode(&next.encode()), Ok(next.clone()));
        assert_ne!(next.digest(), layout.digest());
    }

    #[test]
    fn the_record_of_a_ring_of_one_stays_as_it_is() {
        let bytes = Layout::of_one(NodeId(0x0102_0304_0506_0708)).encode();
        assert_eq!(bytes.len(), 543);
        let head = bytes[..19].iter().chain(&bytes[bytes.len() - 9..]);
        let head: String = head.map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(head, "080110011801220b0908070605040302011801311752c181971305f0");
    }

    #[test]
    fn no_byte_can_be_another_unnoticed() {
        let bytes = layout().encode();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x11;
            assert!(Layout::decode(&other).is_err(), "byte {at}");
            assert!(Layout::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn contradictions_are_told_behind_a_right_checksum() {
        let damaged = |change: &dyn Fn(&mut Record)| {
            let mut record = layout().record();
            change(&mut record);
            record.checksum = xxh3_64(&record.encode_to_vec());
            Layout::decode(&record.encode_to_vec()).unwrap_err()
        };
        assert_eq!(damaged(&|record| record.format = 2), DamagedLayout::Format(2));
        for change in [
            (&|record: &mut Record| record.replicas[1] = 9) as &dyn Fn(&mut Record),
            &|record| record.replicas.truncate(100),
            &|record| record.replicas.push(0),
            &|record| record.replicas.copy_within(0..2, 2),
            &|record| record.members.clear(),
            &|record| record.replication = 0,
            &|record| record.replication = u32::MAX,
            &|record| record.counts = vec![3; 255],
            &|record| record.counts = vec![2; 256],
            &|record| record.counts = [vec![0, 6], vec![3; 254]].concat(),
            &|record| record.counts = [vec![2, 4], vec![3; 254]].concat(),
        ] {
            assert_eq!(damaged(change), DamagedLayout::Contradiction);
        }
    }
}

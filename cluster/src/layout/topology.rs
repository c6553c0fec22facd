//! What the ring goes by: a layout, and while it changes shape that which it moves to (ADR 0029).
//!
//! A change goes through phases, each of which is another *epoch* that the members of the layout agree on:
//!
//! | phase | writes go to | reads ask | meanwhile |
//! |---|---|---|---|
//! | settled | the layout | the layout | |
//! | filling | both | the layout | nodes take over what they are to hold |
//! | handing over | both | both | nodes take over what was read or written before this began |
//! | settled | the next one | the next one | nodes let go of what they hold no more |
//!
//! What one phase has acknowledged or told, the next one reads; so nodes may be one phase apart, and calls under another epoch are refused.

use allidb_index::{PARTITIONS, Version};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::{DamagedLayout, Layout, LayoutError, Member, NodeId};
use crate::coordinator::Consistency;

/// An epoch is a number of so many bits in an era, which is what stands above them. What is forced is in a later era: those who are lost may have gone on
/// without the others, but not as far.
const ERA: u32 = 32;
/// The lowest bits of an era follow from who is left: two halves of a ring that each give up the other are not in the same one.
const PLACE: u32 = 16;

/// What stands for a topology of this form.
pub(crate) const FORMAT: u32 = 1;

/// How far a change of shape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Settled,
    /// Nodes take over what they are to hold.
    Filling,
    /// Nodes take over the rest, while reads ask for both.
    HandingOver,
}

impl Phase {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Filling => "filling",
            Self::HandingOver => "handing over",
        }
    }
}

/// A shape that the ring is to be given, once somebody says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    /// The nodes that hold data, ascending.
    pub members: Vec<Member>,
    /// How many of them hold each partition.
    pub replication: usize,
}

/// What the ring goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    epoch: u64,
    digest: u64,
    layout: Layout,
    /// What it moves to, and whether reads ask for that, too.
    next: Option<(Layout, bool)>,
    staged: Option<Staged>,
    /// Nobody takes what was planned up to here: whoever is new does not, either.
    closed: Version,
}

/// Why the shape of the ring cannot be changed so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// One change after the other.
    #[error("the ring is changing its shape already: wait until that is done, or revert it")]
    Moving,
    /// Nothing to apply, or to revert.
    #[error("no other shape is staged")]
    NothingStaged,
    /// Nothing to go on with.
    #[error("the ring is not changing its shape")]
    NotMoving,
    /// There is no such layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "3")]
    layout: Vec<u8>,
    /// Empty: it moves nowhere.
    #[prost(bytes = "vec", tag = "4")]
    next: Vec<u8>,
    #[prost(bool, tag = "5")]
    hands_over: bool,
    #[prost(message, repeated, tag = "6")]
    staged: Vec<StagedMember>,
    /// 0: nothing is staged.
    #[prost(uint32, tag = "7")]
    staged_replication: u32,
    /// A version, in 16 bytes.
    #[prost(bytes = "vec", tag = "8")]
    closed: Vec<u8>,
    /// XXH3 of the record without it.
    #[prost(fixed64, tag = "9")]
    checksum: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StagedMember {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(string, tag = "2")]
    zone: String,
    #[prost(uint32, tag = "3")]
    capacity: u32,
}

impl Topology {
    /// That of a ring that has been founded with a layout.
    pub fn founded(layout: Layout) -> Self {
        Self { epoch: 1, digest: 0, layout, next: None, staged: None, closed: Version::ZERO }.sealed()
    }

    fn sealed(mut self) -> Self {
        self.digest = xxh3_64(&self.record().encode_to_vec());
        self
    }

    fn then(&self) -> Self {
        Self { epoch: self.epoch + 1, ..self.clone() }
    }

    /// Grows with every change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Later with each time that nodes went on without a quorum; 0 before the first.
    pub fn era(&self) -> u32 {
        u32::try_from(self.epoch >> ERA).unwrap_or(u32::MAX)
    }

    /// Tells topologies apart, as [`Layout::digest`] does layouts.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The layout, until all nodes hold what the next one says.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What it moves to.
    pub fn next(&self) -> Option<&Layout> {
        self.next.as_ref().map(|(next, _)| next)
    }

    /// How far that is.
    pub fn phase(&self) -> Phase {
        match self.next {
            None => Phase::Settled,
            Some((_, false)) => Phase::Filling,
            Some((_, true)) => Phase::HandingOver,
        }
    }

    /// The shape that is staged.
    pub fn staged(&self) -> Option<&Staged> {
        self.staged.as_ref()
    }

    /// Up to where nobody takes anything any more.
    pub fn closed(&self) -> Version {
        self.closed
    }

    /// The layouts to which writes go.
    pub fn layouts(&self) -> impl Iterator<Item = &Layout> {
        std::iter::once(&self.layout).chain(self.next())
    }

    /// The layouts that reads ask.
    pub fn read_layouts(&self) -> impl Iterator<Item = &Layout> {
        let hands_over = self.phase() == Phase::HandingOver;
        self.layouts().take(if hands_over { 2 } else { 1 })
    }

    /// The nodes that hold data, or are to, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> =
            self.layouts().flat_map(Layout::members).map(|member| member.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Whether a node is one of them.
    pub fn has(&self, node: NodeId) -> bool {
        self.layouts().flat_map(Layout::members).any(|member| member.node == node)
    }

    /// Whether a node holds a partition, or is to.
    pub fn holds(&self, node: NodeId, partition: u16) -> bool {
        self.layouts().any(|layout| layout.replicas(partition).contains(&node))
    }

    /// The same with another shape staged.
    ///
    /// # Errors
    /// If the ring is changing its shape, or there is no such layout.
    pub fn stage(&self, staged: Staged) -> Result<Self, TopologyError> {
        if self.next.is_some() {
            return Err(TopologyError::Moving);
        }
        self.layout.next(staged.members.clone(), staged.replication)?;
        Ok(Self { staged: Some(staged), ..self.then() }.sealed())
    }

    /// The layout that is staged.
    ///
    /// # Errors
    /// If none is.
    pub fn planned(&self) -> Result<Layout, TopologyError> {
        let staged = self.staged.as_ref().ok_or(TopologyError::NothingStaged)?;
        Ok(self.layout.next(staged.members.clone(), staged.replication)?)
    }

    /// The beginning of the move to the shape that is staged. Nobody takes what was planned up to `closed`.
    ///
    /// # Errors
    /// If none is.
    pub fn apply(&self, closed: Version) -> Result<Self, TopologyError> {
        let next = self.planned()?;
        let closed = self.closed.max(closed);
        Ok(Self { next: Some((next, false)), staged: None, closed, ..self.then() }.sealed())
    }

    /// The same without what is staged, or without the move.
    ///
    /// # Errors
    /// If there is neither.
    pub fn revert(&self) -> Result<Self, TopologyError> {
        if self.next.is_none() && self.staged.is_none() {
            return Err(TopologyError::NothingStaged);
        }
        Ok(Self { next: None, staged: None, ..self.then() }.sealed())
    }

    /// The same without members that are lost: what they held is what others hold of it. A move that was under way is given up.
    ///
    /// # Errors
    /// If one of them is no member, or none is left.
    pub fn without(&self, lost: &[NodeId]) -> Result<Self, TopologyError> {
        let layout = self.layout.without(lost, self.next())?;
        let era = ((self.epoch >> ERA >> PLACE) + 1) << PLACE | layout.digest() >> (u64::BITS - PLACE);
        let epoch = era << ERA;
        Ok(Self { epoch, layout, next: None, staged: None, ..self.clone() }.sealed())
    }

    /// Whether some quorum is lost with these nodes: of the members, without which no shape is chosen, or of the replicas of a partition, without which
    /// it is not taken over.
    pub fn needs(&self, lost: &[NodeId]) -> bool {
        let is_short = |nodes: &[NodeId]| {
            let left = nodes.iter().filter(|node| !lost.contains(node)).count();
            left < Consistency::Quorum.needed(nodes.len())
        };
        let members: Vec<NodeId> = self.layout.members().iter().map(|member| member.node).collect();
        is_short(&members) || (0..PARTITIONS).any(|partition| is_short(self.layout.replicas(partition)))
    }

    /// Whether this may be chosen after an epoch.
    pub(crate) fn may_follow(&self, epoch: u64) -> bool {
        let forced = |epoch: u64| epoch >> ERA >> PLACE;
        self.epoch == epoch + 1 || forced(self.epoch) == forced(epoch) + 1
    }

    /// The phase that comes next, once all have taken over what they were to.
    ///
    /// # Errors
    /// If the ring is not changing its shape.
    pub fn go_on(&self) -> Result<Self, TopologyError> {
        let then = self.then();
        Ok(match &self.next {
            None => return Err(TopologyError::NotMoving),
            Some((next, false)) => Self { next: Some((next.clone(), true)), ..then }.sealed(),
            Some((next, true)) => Self { layout: next.clone(), next: None, ..then }.sealed(),
        })
    }

    /// Partitions that a node holds by the layout to come, whether it does already or not.
    pub fn to_take_over(&self, node: NodeId) -> Vec<u16> {
        let Some(next) = self.next() else { return Vec::new() };
        (0..PARTITIONS).filter(|partition| next.replicas(*partition).contains(&node)).collect()
    }

    /// The topology as bytes. Equal ones have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let record = self.record();
        let checksum = xxh3_64(&record.encode_to_vec());
        Record { checksum, ..record }.encode_to_vec()
    }

    /// The inverse of [`encode`](Self::encode).
    ///
    /// # Errors
    /// If the bytes are not those of a topology.
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
        let layout = Layout::decode(&record.layout)?;
        let next = match record.next.is_empty() {
            true => None,
            false => Some((Layout::decode(&record.next)?, record.hands_over)),
        };
        let of_member = |member: &StagedMember| Member {
            node: NodeId(member.node),
            zone: member.zone.clone(),
            capacity: member.capacity,
        };
        let staged = (record.staged_replication > 0).then(|| Staged {
            members: record.staged.iter().map(of_member).collect(),
            replication: record.staged_replication as usize,
        });
        let closed = Version::from_bytes(&record.closed).ok_or(DamagedLayout::Contradiction)?;
        Ok(Self { epoch: record.epoch, digest: found, layout, next, staged, closed })
    }

    fn record(&self) -> Record {
        let member = |member: &Member| StagedMember {
            node: member.node.0,
            zone: member.zone.clone(),
            capacity: member.capacity,
        };
        let staged = self.staged.as_ref();
        Record {
            format: FORMAT,
            epoch: self.epoch,
            layout: self.layout.encode(),
            next: self.next().map(Layout::encode).unwrap_or_default(),
            hands_over: self.phase() == Phase::HandingOver,
            staged: staged.map(|staged| staged.members.iter().map(member).collect()).unwrap_or_default(),
            staged_replication: staged.map_or(0, |staged| staged.replication as u32),
            closed: self.closed.to_bytes().to_vec(),
            checksum: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(nodes: std::ops::RangeInclusive<u64>) -> Vec<Member> {
        nodes.map(|node| Member { node: NodeId(node), zone: String::new(), capacity: 1 }).collect()
    }

    fn staged() -> Topology {
        let founded = Topology::founded(Layout::found(members(1..=3), 3).unwrap());
        founded.stage(Staged { members: members(2..=5), replication: 2 }).unwrap()
    }

    #[test]
    fn a_change_goes_through_its_phases() {
        let staged = staged();
        assert_eq!((staged.epoch(), staged.phase()), (2, Phase::Settled));
        assert_eq!(staged.nodes(), [1, 2, 3].map(NodeId));
        let closed = Version::new(7, 0, 1);
        let filling = staged.apply(closed).unwrap();
        assert_eq!((filling.phase(), filling.closed(), filling.staged()), (Phase::Filling, closed, None));
        assert_eq!(filling.nodes(), [1, 2, 3, 4, 5].map(NodeId));
        assert_eq!((filling.layouts().count(), filling.read_layouts().count()), (2, 1));
        assert!(filling.stage(Staged { members: members(1..=3), replication: 3 }).is_err());
        let handing = filling.go_on().unwrap();
        assert_eq!((handing.phase(), handing.read_layouts().count()), (Phase::HandingOver, 2));
        let settled = handing.go_on().unwrap();
        assert_eq!((settled.epoch(), settled.phase()), (5, Phase::Settled));
        assert_eq!(Some(settled.layout()), filling.next());
        assert_eq!(settled.go_on(), Err(TopologyError::NotMoving));
        for (of, epoch) in [(&staged, 3), (&filling, 4), (&handing, 5)] {
            let reverted = of.revert().unwrap();
            assert_eq!(
                (reverted.epoch(), reverted.phase(), reverted.staged()),
                (epoch, Phase::Settled, None)
            );
            assert_eq!(reverted.layout(), staged.layout());
        }
        assert_eq!(settled.revert(), Err(TopologyError::NothingStaged));
        assert_eq!(settled.apply(closed), Err(TopologyError::NothingStaged));
    }

    #[test]
    fn members_that_are_lost_are_left_out_and_others_do_not_come_as_far() {
        let filling = staged().apply(Version::new(7, 0, 1)).unwrap();
        for topology in [&staged(), &filling, &filling.go_on().unwrap()] {
            let lost = [2, 3].map(NodeId);
            assert!(topology.needs(&lost) && !topology.needs(&lost[..1]));
            let forced = topology.without(&lost).unwrap();
            assert_eq!((forced.era() >> PLACE, forced.phase(), forced.staged()), (1, Phase::Settled, None));
            assert!(forced.has(NodeId(1)) && !forced.has(NodeId(2)) && !forced.has(NodeId(3)));
            assert!(forced.may_follow(topology.epoch()) && !forced.may_follow(forced.epoch()));
            assert_eq!(Topology::decode(&forced.encode()).as_ref(), Ok(&forced));
            assert_eq!(forced.closed(), topology.closed());
            assert_eq!(forced.without(&[]).unwrap().era() >> PLACE, 2);
            // What the others force is another epoch, and there is room behind both.
            let others = topology.without(&[NodeId(1)]).unwrap();
            assert_eq!(others.era() >> PLACE, 1);
            assert_ne!(others.era(), forced.era());
            assert_eq!((topology.era(), forced.then().era()), (0, forced.era()));
        }
        assert!(filling.may_follow(2) && !filling.may_follow(1) && !filling.may_follow(3));
        let unknown = TopologyError::Layout(LayoutError::NoMember(NodeId(9)));
        assert_eq!(staged().without(&[NodeId(9)]), Err(unknown));
    }

    #[test]
    fn what_was_written_is_read_and_damage_is_told() {
        let staged = staged();
        let filling = staged.apply(Version::new(7, 1, 1)).unwrap();
        for topology in [&staged, &filling, &filling.go_on().unwrap()] {
            let bytes = topology.encode();
            assert_eq!(Topology::decode(&bytes).as_ref(), Ok(topology));
            for at in (0..bytes.len()).step_by(7) {
                let mut other = bytes.clone();
                other[at] ^= 0x11;
                assert!(Topology::decode(&other).is_err(), "byte {at}");
                assert!(Topology::decode(&bytes[..at]).is_err(), "cut at {at}");
            }
        }
        assert_ne!(filling.digest(), filling.go_on().unwrap().digest());
    }

    #[test]
    fn a_shape_that_cannot_be_is_not_staged() {
        let refused = |members, replication| staged().stage(Staged { members, replication }).unwrap_err();
        let too_few = LayoutError::TooFewMembers { members: 2, replication: 3 };
        assert_eq!(refused(members(1..=2), 3), TopologyError::Layout(too_few));
    }
}

//! `allidb.v1.Cluster`.

use std::collections::{BTreeMap, BTreeSet};

use allidb_cluster::{
    ClockOffset, Coordinator, HealingCounts, HintCounts, Layout, Load, Member, Move, NodeChange, NodeId,
    NodeView, PARTITIONS, Phase, PurgeProgress, RepairProgress, TakeoverCounts, Topology, moves,
};
use allidb_index::Error;
use tonic::{Request, Response, Status};

use super::{Services, maintenance::Messages};
use crate::{
    convert::timestamp_to_proto,
    status,
    v1::{self, change_layout_request::Change, cluster_server::Cluster},
};

#[tonic::async_trait]
impl Cluster for Services {
    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterResponse>, Status> {
        self.receive_any(request)?;
        let coordinator = &self.coordinator;
        let (own, topology) = (coordinator.node(), coordinator.topology());
        let layout = topology.layout();
        let views: BTreeMap<NodeId, NodeView> =
            coordinator.nodes().into_iter().map(|view| (view.node, view)).collect();
        let members: BTreeMap<NodeId, &Member> =
            layout.members().iter().map(|member| (member.node, member)).collect();
        let hints: BTreeMap<NodeId, HintCounts> =
            coordinator.hints().into_iter().map(|counts| (counts.node, counts)).collect();
        let clocks: BTreeMap<NodeId, ClockOffset> =
            coordinator.clocks().into_iter().map(|offset| (offset.node, offset)).collect();
        let outbox = coordinator.outbox();
        let catalogue_version = coordinator.catalogue_version();
        let known: BTreeSet<NodeId> = views.keys().chain(members.keys()).copied().collect();
        let node = |id: NodeId| {
            let (view, member) = (views.get(&id), members.get(&id));
            let is_own = id == own;
            v1::Node {
                id: id.to_string(),
                address: view.map(|view| view.address.clone()).unwrap_or_default(),
                zone: member.map(|member| member.zone.clone()).unwrap_or_default(),
                capacity: member.map_or(0, |member| member.capacity),
                is_member: member.is_some(),
                is_alive: is_own || view.is_some_and(|view| view.is_alive),
                agrees: is_own || view.is_some_and(|view| view.topology == Some(topology.digest())),
                catalogue_version: match is_own {
                    true => catalogue_version,
                    false => view.map_or(0, |view| view.catalogue),
                },
                release: match is_own {
                    true => env!("CARGO_PKG_VERSION").to_owned(),
                    false => view.map(|view| view.release.clone()).unwrap_or_default(),
                },
                partitions: held(layout, id),
                hints: hints.get(&id).map(hints_to_proto),
                load: view.map(|view| load_to_proto(view.load)),
                clock: clocks.get(&id).map(clock_to_proto),
            }
        };
        Ok(Response::new(v1::DescribeClusterResponse {
            node: own.to_string(),
            layout: Some(layout_to_proto(layout)),
            catalogue_version,
            nodes: known.into_iter().map(node).collect(),
            outbox: Some(v1::Outbox { bytes: outbox.bytes, delivered: outbox.delivered }),
            purged: coordinator.purged().map(timestamp_to_proto),
            shape: Some(shape_to_proto(coordinator, &topology).await),
            healing: healing_to_proto(coordinator.healing()),
        }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let (_, v1::DrainRequest { node, undo }) = self.receive_any(request)?;
        let own = self.coordinator.node().to_string();
        if node != own {
            let why = format!("is {node:?}; this is node {own}");
            return Err(status::from_error(Error::invalid("node", why)));
        }
        self.coordinator.drain(!undo);
        Ok(Response::new(v1::DrainResponse { bytes: self.coordinator.kept_for_others() }))
    }

    async fn change_layout(
        &self,
        request: Request<v1::ChangeLayoutRequest>,
    ) -> Result<Response<v1::ChangeLayoutResponse>, Status> {
        let (_, request) = self.receive_any(request)?;
        let seen = (request.epoch > 0).then_some(request.epoch);
        let coordinator = &self.coordinator;
        let changed = match request.change {
            Some(Change::Stage(v1::StageLayout { nodes, replication })) => {
                let nodes = nodes.into_iter().map(node_change).collect::<Result<Vec<_>, Error>>();
                let nodes = nodes.map_err(status::from_error)?;
                let replication = usize::try_from(replication).ok().filter(|replication| *replication > 0);
                coordinator.stage(seen, nodes, replication).await
            }
            Some(Change::Apply(v1::ApplyLayout {})) => coordinator.apply_staged(seen).await,
            Some(Change::Revert(v1::RevertLayout {})) => coordinator.revert_shape(seen).await,
            Some(Change::Force(v1::ForceLayout { lost })) => {
                let lost = lost.iter().map(|node| node.parse()).collect::<Result<Vec<NodeId>, Error>>();
                coordinator.go_on_without(seen, &lost.map_err(status::from_error)?).await
            }
            None => Err(Error::invalid("change", "is missing")),
        };
        let topology = changed.map_err(status::from_error)?;
        Ok(Response::new(v1::ChangeLayoutResponse { epoch: topology.epoch() }))
    }

    type RepairStream = Messages<v1::RepairResponse>;

    async fn repair(
        &self,
        request: Request<v1::RepairRequest>,
    ) -> Result<Response<Self::RepairStream>, Status> {
        let (_, request) = self.receive_any(request)?;
        let node = match request.node.as_str() {
            "" => None,
            node => Some(node.parse().map_err(status::from_error)?),
        };
        let job = self.coordinator.repair(node).map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, repair_to_proto, |progress| progress.finished)))
    }

    type PurgeStream = Messages<v1::PurgeResponse>;

    async fn purge(&self, request: Request<v1::PurgeRequest>) -> Result<Response<Self::PurgeStream>, Status> {
        self.receive_any(request)?;
        let job = self.coordinator.purge().map_err(status::from_error)?;
        Ok(Response::new(self.tell(job, purge_to_proto, |progress| progress.finished)))
    }
}

fn healing_to_proto(HealingCounts { partitions, failure }: HealingCounts) -> Option<v1::Healing> {
    (partitions > 0).then_some(v1::Healing { partitions, failure })
}

fn node_change(change: v1::NodeChange) -> Result<NodeChange, Error> {
    let v1::NodeChange { id, remove, zone, capacity } = change;
    Ok(NodeChange { node: id.parse()?, remove, zone, capacity })
}

async fn shape_to_proto(coordinator: &Coordinator, topology: &Topology) -> v1::Shape {
    let planned = topology.staged().and_then(|_| topology.planned().ok());
    let next = topology.next().or(planned.as_ref());
    let takeover = |(node, told): (NodeId, Result<TakeoverCounts, Error>)| {
        let failed =
            |error: Error| TakeoverCounts { failure: error.to_string(), ..TakeoverCounts::default() };
        let TakeoverCounts { is_done, partitions, done, entities, copied_bytes, copy_bytes, failure } =
            told.unwrap_or_else(failed);
        let node = node.to_string();
        v1::Takeover { node, is_done, partitions, done, entities, copied_bytes, copy_bytes, failure }
    };
    let phase = match topology.phase() {
        Phase::Settled => v1::shape::Phase::Settled,
        Phase::Filling => v1::shape::Phase::Filling,
        Phase::HandingOver => v1::shape::Phase::HandingOver,
    };
    v1::Shape {
        epoch: topology.epoch(),
        phase: phase.into(),
        next: next.map(layout_to_proto),
        moves: next.map(|next| moves_to_proto(coordinator, topology.layout(), next)).unwrap_or_default(),
        takeovers: coordinator.takeovers().await.into_iter().map(takeover).collect(),
        leftovers: count(coordinator.leftovers()),
    }
}

/// What a layout to come means for each node. How much a partition is, is told by what lies at those that hold some.
fn moves_to_proto(coordinator: &Coordinator, from: &Layout, to: &Layout) -> Vec<v1::NodeMove> {
    let views = coordinator.nodes();
    let moves = moves(from, to);
    let view = |node: NodeId| views.iter().find(|view| view.node == node);
    let holders = moves.iter().filter_map(|of| Some((view(of.node)?.load.bytes, of.before as u64)));
    let (bytes, partitions) = holders
        .filter(|(_, held)| *held > 0)
        .fold((0, 0), |all, (bytes, held)| (all.0 + bytes, all.1 + held));
    let of_one = bytes / partitions.max(1);
    let told = |of: Move| {
        let members = to.members().iter().chain(from.members());
        let member = members.into_iter().find(|member| member.node == of.node);
        v1::NodeMove {
            node: of.node.to_string(),
            before: count(of.before),
            after: count(of.after),
            gains: count(of.gains),
            bytes: of_one * of.gains as u64,
            zone: member.map(|member| member.zone.clone()).unwrap_or_default(),
            capacity: member.map_or(0, |member| member.capacity),
        }
    };
    moves.into_iter().map(told).collect()
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn purge_to_proto(progress: PurgeProgress) -> v1::PurgeResponse {
    v1::PurgeResponse {
        stage: progress.stage.name().to_owned(),
        repaired: progress.repaired,
        upto: progress.upto.map(|upto| timestamp_to_proto(upto.timestamp())),
        finished: progress.finished,
    }
}

fn repair_to_proto(progress: RepairProgress) -> v1::RepairResponse {
    let partitions = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    v1::RepairResponse {
        node: progress.node.map(|node| node.to_string()).unwrap_or_default(),
        partitions: partitions(progress.repaired.partitions),
        differing: partitions(progress.repaired.differing),
        compared: progress.repaired.compared,
        repaired: progress.repaired.repaired,
        failed: progress.repaired.failed,
        failure: progress.failure.unwrap_or_default(),
        done: progress.done,
        finished: progress.finished,
    }
}

fn held(layout: &Layout, node: NodeId) -> u32 {
    let held = (0..PARTITIONS).filter(|partition| layout.replicas(*partition).contains(&node)).count();
    u32::try_from(held).unwrap_or(u32::MAX)
}

fn layout_to_proto(layout: &Layout) -> v1::Layout {
    let partition = |partition: u16| {
        let nodes = layout.replicas(partition).iter().map(NodeId::to_string).collect();
        v1::Partition { nodes }
    };
    v1::Layout {
        version: layout.version(),
        digest: format!("{:016x}", layout.digest()),
        replication: u32::try_from(layout.replication()).unwrap_or(u32::MAX),
        partitions: (0..PARTITIONS).map(partition).collect(),
    }
}

fn load_to_proto(load: Load) -> v1::Load {
    v1::Load { bytes: load.bytes, waiting: load.waiting }
}

fn clock_to_proto(offset: &ClockOffset) -> v1::ClockOffset {
    v1::ClockOffset { ahead_ms: offset.ahead_ms, within_ms: offset.within_ms }
}

fn hints_to_proto(counts: &HintCounts) -> v1::Hints {
    v1::Hints { bytes: counts.bytes, delivered: counts.delivered, dropped: counts.dropped }
}

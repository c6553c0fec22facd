//! Layouts that are agreed on, and forced without a quorum.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use allidb_cluster::{Change, Consistency, NodeId, Phase, Staged, WriteOptions, Wrong};
use allidb_index::{
    Deadline, Error, Replica,
    model::{CollectionSpec, Entity, EntityPatch, EntityRef, Precondition, ReadMask, Value, Write, Written},
};
use allidb_storage::Durability;

use crate::world::{ENTITIES, TENANT, World, soon};

/// Two operators change the layout at once: one wins, and the other is told.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_change_the_layout_at_once_one_is_told() {
    let world = World::of(5, 91).await;
    let deadline = || Deadline::after(Duration::from_secs(20));
    for round in 0..6 {
        let [a, b] =
            [&world.nodes[round % 5].ring, &world.nodes[(round + 1) % 5].ring].map(|ring| ring.now());
        let seen = a.topology().epoch().max(b.topology().epoch());
        let members = |without: usize| {
            let members = world.nodes[0].layout.members().iter().enumerate();
            members.filter(|(at, _)| *at != without).map(|(_, member)| member.clone()).collect::<Vec<_>>()
        };
        let staged = |without| Staged { members: members(without), replication: 3 };
        let (a, b) = tokio::join!(a.stage(seen, staged(0), deadline()), b.stage(seen, staged(1), deadline()));
        let made = |change: &Result<Change, Error>| match change {
            Ok(Change::Made(topology)) => topology.staged().map(|staged| staged.members.clone()),
            Ok(Change::Another(_)) | Err(Error::Unavailable(_)) => None,
            Err(error) => panic!("{error}"),
        };
        let (a, b) = (made(&a), made(&b));
        assert!(a.is_some() ^ b.is_some() || (a.is_none() && b.is_none()), "round {round}: {a:?} and {b:?}");
        let won = a.or(b);
        // Everybody hears of that one alone.
        for node in &world.nodes {
            let begun = Instant::now();
            loop {
                node.ring.now().compare_clocks(deadline()).await;
                let topology = Arc::clone(node.ring.now().topology());
                if topology.epoch() > seen {
                    let told = topology.staged().map(|staged| staged.members.clone());
                    assert!(won.is_none() || told == won, "round {round}");
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "round {round}: nothing was decided");
            }
        }
    }
}

/// A write on a condition is accepted by two of three acceptors, and whoever asked for it dies. Then another node takes the place of one of the two, and the other one is away:
/// what is asked for next is decided by that node and the third acceptor. Gives what came of it, and what the entity is like then.
async fn decided_after_a_move(wrong: Option<Wrong>) -> (Result<Written, Error>, Option<Value>) {
    let mut world = World::being_wrong(4, 95, wrong).await;
    for node in &world.nodes {
        node.replica.build_trees().expect("trees");
    }
    let leaves = world.nodes[0].id;
    let is_moved = |id: &String| {
        let key = world.lone.entity_key(TENANT, &EntityRef::new("c", id)).expect("a key");
        world.nodes[0].layout.replicas(key.partition()).contains(&leaves)
    };
    let id = (0..).map(|at| format!("decided-{at}")).find(is_moved).expect("one");
    let (name, mask) = ([EntityRef::new("c", &id)], ReadMask::fields());
    let key = world.lone.entity_key(TENANT, &name[0]).expect("a key");
    let present = world.nodes[0].layout.replicas(key.partition()).to_vec();
    let at = |node: &NodeId| world.nodes.iter().position(|of| of.id == *node).expect("it is one of them");
    let others: Vec<usize> = present.iter().filter(|node| **node != leaves).map(at).collect();
    let comes = (1..4).find(|at| !others.contains(at)).expect("the fourth");
    world.put_through(0, &id).await.expect("a quorum is there");
    let read = world.nodes[0].ring.get(TENANT, &name, &mask, Consistency::All, soon()).await.remove(0);
    let precondition = Precondition::Version(read.expect("it is there").version);
    let set = |x: i64| {
        let mut patch = EntityPatch::new(name[0].clone());
        patch.attributes.insert("x".into(), Some(Value::Int(x)));
        Write::If { precondition, write: Box::new(Write::Update(Box::new(patch))) }
    };
    for acceptor in [0, others[0]] {
        let replica = &world.nodes[acceptor].replica;
        let planned = world.nodes[0].replica.plan(TENANT, set(1)).expect("planned").settled();
        assert!(replica.promise(&key, planned.version()).expect("promised").is_given);
        let encoded = planned.encode(|_| true).expect("encoded").expect("all of it");
        assert_eq!(replica.accept(&key, planned.version(), encoded, &[]).expect("accepted"), None);
    }

    let looked_after: Vec<_> = world.nodes.iter().map(|node| node.ring.look_after()).collect();
    let members = world.nodes[0].layout.members();
    let members = members.iter().filter(|member| member.node != leaves).cloned().collect();
    let ring = world.nodes[comes].ring.now();
    let staged = ring.stage(1, Staged { members, replication: 3 }, soon()).await;
    assert!(matches!(staged, Ok(Change::Made(_))), "{staged:?}");
    let applied = ring.now().apply(2, soon()).await;
    assert!(matches!(applied, Ok(Change::Made(_))), "{applied:?}");
    let begun = Instant::now();
    for at in 1..4 {
        let goes_on = || {
            let now = world.nodes[at].ring.now();
            now.topology().phase() != Phase::Settled || now.topology().epoch() < 4
        };
        while goes_on() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the move does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    drop(looked_after);
    let decides = world.nodes[others[1]].ring.now();
    assert!(decides.topology().layout().replicas(key.partition()).contains(&world.nodes[comes].id));
    for away in [0, others[0]] {
        world.stop(away).await;
    }
    let planned = decides.replica().plan(TENANT, set(2)).expect("planned");
    let options =
        WriteOptions { durability: Durability::Sync, consistency: Consistency::Quorum, deadline: soon() };
    let decided = decides.write(vec![planned], options).await.pop().expect("one answer");
    let found = decides.get(TENANT, &name, &mask, Consistency::Quorum, soon()).await.remove(0);
    (decided, found.expect("it is there").attributes.remove("x"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_acceptors_have_accepted_comes_along_with_what_they_hold() {
    let (decided, x) = decided_after_a_move(None).await;
    assert!(matches!(decided, Err(Error::VersionMismatch { .. })), "{decided:?}");
    assert_eq!(x, Some(Value::Int(1)), "what was accepted by a quorum is made first");
    // Without it both are judged by the same version, and this test notices.
    let (decided, x) = decided_after_a_move(Some(Wrong::NoAcceptors)).await;
    assert!(decided.is_ok() && x == Some(Value::Int(2)), "{decided:?} {x:?}");
}

/// Three of five nodes are lost for good: the other two go on with what they hold.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_go_on_without_a_quorum_if_they_are_told_to() {
    let mut world = World::of(5, 92).await;
    world.fill(0);
    // All that some partition is held by.
    let lost = world.nodes[0].layout.replicas(0).to_vec();
    let (gone, left): (Vec<usize>, Vec<usize>) = (0..5).partition(|at| lost.contains(&world.nodes[*at].id));
    let why = |change: Result<Change, Error>| match change {
        Err(Error::FailedPrecondition(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut addresses = Vec::new();
    for at in gone.iter().copied() {
        addresses.push(world.stop(at).await);
    }
    {
        let ring = &world.nodes[left[0]].ring;
        let go_on = async |lost: &[NodeId]| why(ring.go_on_without(1, lost, soon()).await);
        assert!(go_on(&lost[..1]).await.contains("no quorum is lost"));
        for alive in left.iter().map(|at| world.nodes[*at].id) {
            let why = go_on(&[&lost[..2], &[alive]].concat()).await;
            assert!(why.contains(&format!("node {alive} answers")), "{why}");
        }
        assert!(go_on(&[NodeId(7)]).await.contains("is no member of the ring"));
        // Who is not lost must agree.
        let too_few = go_on(&lost[..2]).await;
        assert!(too_few.contains("not all do"), "{too_few}");
    }
    let held_before = world.nodes[0].layout.clone();
    // Of two who say so at once one is told of the other.
    let [a, b] = [0, 1].map(|at: usize| world.nodes[left[at]].ring.now());
    let (a, b) = tokio::join!(a.go_on_without(1, &lost, soon()), b.go_on_without(1, &lost, soon()));
    assert!(matches!(a, Ok(Change::Made(_))) || matches!(b, Ok(Change::Made(_))), "{a:?} and {b:?}");
    for at in &left {
        let ring = world.nodes[*at].ring.now();
        assert_eq!(ring.topology().epoch(), world.nodes[left[0]].ring.now().topology().epoch());
        assert!(ring.topology().epoch() > 1 << 32 && ring.topology().nodes().len() == 2);
    }

    // What one of them holds is told, and what is new is written, by a quorum of those that are left.
    let (mut there, mut missing) = (0, 0);
    for at in 0..ENTITIES as usize {
        let id = format!("e{at:03}");
        let Ok(expected) =
            world.lone.get(TENANT, &[EntityRef::new("c", &id)], &ReadMask::fields(), soon()).remove(0)
        else {
            continue;
        };
        let entity = [EntityRef::new("c", &id)];
        let ring = world.nodes[left[at % 2]].ring.now();
        let key = ring.replica().entity_key(TENANT, &entity[0]).expect("a key");
        let is_left = held_before.replicas(key.partition()).iter().any(|node| !lost.contains(node));
        let found =
            ring.get(TENANT, &entity, &ReadMask::fields(), Consistency::Quorum, soon()).await.remove(0);
        match (is_left, found) {
            (true, Ok(found)) => {
                assert_eq!(found.attributes, expected.attributes);
                there += 1;
            }
            (false, Err(Error::NotFound { .. })) => missing += 1,
            (_, found) => panic!("{id}: {is_left} {found:?}"),
        }
        world.put_through(left[at % 2], &format!("new-{at}")).await.expect("a quorum of what is left");
    }
    assert!(there > 50 && missing > 5, "{there} are there, {missing} are not");

    // One that was lost hears of it, and has no say any more.
    world.go_on(gone[0], addresses.swap_remove(0)).await;
    let begun = Instant::now();
    while world.nodes[gone[0]].ring.now().topology().epoch() < 1 << 32 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not hear of it");
        world.nodes[gone[0]].ring.now().compare_clocks(soon()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!world.nodes[gone[0]].ring.now().topology().has(world.nodes[gone[0]].id));
}

/// While the ring moves, what was acknowledged lies at those that are to hold it, too, and there alone if all others are lost that had it.
#[tokio::test(flavor = "multi_thread")]
async fn what_those_hold_that_a_move_goes_to_is_not_lost_when_it_is_given_up() {
    let mut world = World::of(5, 94).await;
    for node in &world.nodes {
        node.replica.build_trees().expect("trees");
    }
    let leaves = world.nodes[0].id;
    let members = world.nodes[0].layout.members();
    let members = members.iter().filter(|member| member.node != leaves).cloned().collect();
    let first = world.nodes[1].ring.now();
    let staged = first.stage(1, Staged { members, replication: 3 }, soon()).await;
    assert!(matches!(staged, Ok(Change::Made(_))), "{staged:?}");
    let applied = first.now().apply(2, soon()).await;
    assert!(matches!(applied, Ok(Change::Made(_))), "{applied:?}");
    let topology = Arc::clone(world.nodes[1].ring.now().topology());
    let next = topology.next().expect("it moves");
    // It moves from the one that leaves to another one.
    let moves = |id: &String| {
        let of = EntityRef::new("c", id);
        let partition = world.lone.entity_key(TENANT, &of).expect("a key").partition();
        let present = topology.layout().replicas(partition);
        let goes = next.replicas(partition).iter().find(|node| !present.contains(node))?;
        present.contains(&leaves).then(|| (present.to_vec(), *goes))
    };
    let (id, (present, goes)) =
        (0..).map(|at| format!("moved-{at}")).find_map(|id| Some((id.clone(), moves(&id)?))).expect("one");
    let at = |world: &World, node: NodeId| {
        world.nodes.iter().position(|of| of.id == node).expect("it is one of them")
    };
    let others: Vec<NodeId> = present.iter().copied().filter(|node| *node != leaves).collect();
    let (stale, lost) = (at(&world, others[0]), [leaves, others[1]]);
    let away = world.stop(stale).await;
    let through = world.nodes[at(&world, goes)].ring.now();
    let entity = Entity { id: id.clone(), ..Entity::default() };
    let write = Write::Put { collection: "c".to_owned(), entity: Box::new(entity) };
    let planned = through.replica().plan(TENANT, write).expect("planned");
    let options =
        WriteOptions { durability: Durability::None, consistency: Consistency::Quorum, deadline: soon() };
    through.write(vec![planned], options).await.pop().expect("one answer").expect("quorums of both layouts");
    for node in lost {
        world.stop(at(&world, node)).await;
    }
    world.go_on(stale, away).await;
    assert!(!world.has(stale, &id), "it was away");
    let begun = Instant::now();
    let forced = loop {
        let forced = through.now().go_on_without(topology.epoch(), &lost, soon()).await;
        match forced {
            // Nobody has tried yet whether it answers again.
            Err(Error::FailedPrecondition(_)) if begun.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            forced => break forced,
        }
    };
    let Ok(Change::Made(forced)) = forced else { panic!("{forced:?}") };
    let partition = world.lone.entity_key(TENANT, &EntityRef::new("c", &id)).expect("a key").partition();
    assert_eq!(forced.layout().replicas(partition), [others[0]]);
    let (entity, mask, now) = ([EntityRef::new("c", &id)], ReadMask::fields(), through.now());
    let mut found = now.get(TENANT, &entity, &mask, Consistency::Quorum, soon()).await;
    found.remove(0).expect("it was acknowledged");
    assert!(world.has(stale, &id));
}

/// Those who are given up go on as a majority that hears of nothing, and change the catalogue more often: what they make of it counts nowhere
/// once they hear of it, and none of its ids means something else to the one that gave them up.
#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_of_those_who_were_given_up_takes_the_place_of_none() {
    let mut world = World::of(3, 93).await;
    let create = async |world: &World, at: usize, name: &'static str| {
        let create = move |replica: &Replica| replica.with_created(TENANT, name, CollectionSpec::default());
        world.nodes[at].ring.change_catalogue(soon(), create).await.expect("a quorum")
    };
    let id = |world: &World, at: usize, name: &str| {
        world.nodes[at].replica.collection(TENANT, name).map(|collection| collection.id)
    };
    let mut addresses = Vec::new();
    for at in [1, 2] {
        addresses.push((at, world.stop(at).await));
    }
    let lost = [1, 2].map(|at: usize| world.nodes[at].id);
    let forced = world.nodes[0].ring.go_on_without(1, &lost, soon()).await;
    assert!(matches!(forced, Ok(Change::Made(_))), "{forced:?}");
    create(&world, 0, "ours").await;

    let address = world.stop(0).await;
    for (at, address) in addresses {
        world.go_on(at, address).await;
    }
    for name in ["theirs", "others", "more"] {
        create(&world, 1, name).await;
    }
    world.put_through(1, "of-theirs").await.expect("a quorum");
    world.is_kept(1, 0).await;
    let drop_it = |replica: &Replica| replica.with_dropped(TENANT, "c");
    world.nodes[1].ring.change_catalogue(soon(), drop_it).await.expect("a quorum");
    let [ours, theirs] = [0, 1].map(|at: usize| world.nodes[at].replica.catalogue_version());
    assert!(theirs < ours, "{theirs} {ours}");
    for name in ["theirs", "others", "more"] {
        assert_ne!(id(&world, 0, "ours").expect("an id"), id(&world, 1, name).expect("an id"), "{name}");
    }

    let of_theirs = world.nodes[1].replica.entity_key(TENANT, &EntityRef::new("theirs", "e")).expect("a key");
    world.go_on(0, address).await;
    let begun = Instant::now();
    for at in [1, 2] {
        while world.nodes[at].ring.now().topology().has(world.nodes[at].id) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not hear of it");
            world.nodes[at].ring.now().compare_clocks(soon()).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Each takes over what is newer, as gossip has it do.
        let [winner, loser] = [0, at].map(|at: usize| (world.nodes[at].id, world.nodes[at].ring.now()));
        assert!(!winner.1.pull_catalogue(loser.0, soon()).await.expect("it answers"));
        assert!(loser.1.pull_catalogue(winner.0, soon()).await.expect("it answers"));
        for at in [0, at] {
            assert!(id(&world, at, "ours").is_ok() && id(&world, at, "c").is_ok());
            assert!(id(&world, at, "theirs").is_err());
        }
    }
    // What they keep for it is told nobody.
    let (ring, winner) = (world.nodes[1].ring.now(), world.nodes[0].id);
    assert_eq!(ring.drop_old_hints(winner).await.expect("it is forgotten"), 1);
    assert_eq!((ring.deliver_hints(winner, soon()).await.ok(), world.kept(1, 0).bytes), (Some(0), 0));
    assert!(!world.has(0, "of-theirs"));
    // What else they made is dropped, and not unknown yet.
    assert!(world.nodes[0].replica.is_dropped(&of_theirs));
    create(&world, 0, "later").await;
}

//! Writes on conditions: at a node that is alone, and what acceptors promise and accept.

use allidb_index::{
    Clock, Error, Held, Mutation, Version,
    model::{Entity, EntityPatch, Precondition, Value, Write},
};
use allidb_storage::{Direction, Durability, WriteBatch};

use crate::fixture::{Fixture, TENANT, at};

fn put(id: &str) -> Write {
    Write::Put { collection: "c".into(), entity: Box::new(Entity { id: id.into(), ..Entity::default() }) }
}

fn update(id: &str, value: i64) -> Write {
    let mut patch = EntityPatch::new(at(id));
    patch.attributes.insert("n".into(), Some(Value::Int(value)));
    Write::Update(Box::new(patch))
}

fn only_if(precondition: Precondition, write: Write) -> Write {
    Write::If { precondition, write: Box::new(write) }
}

#[test]
fn a_node_alone_judges_conditions_and_changes_nothing_where_they_are_not_met() {
    let fixture = Fixture::new();
    let (absent, version) = (Precondition::Absent, Precondition::Version);
    let unknown = Version::new(7, 0, 0);
    let missing = fixture.one(only_if(version(unknown), update("a", 0)));
    assert!(matches!(missing, Err(Error::VersionMismatch { found: None, .. })), "{missing:?}");
    let first = fixture.one(only_if(absent, put("a"))).unwrap().version;
    let again = fixture.one(only_if(absent, put("a")));
    assert!(matches!(again, Err(Error::Exists { found, .. }) if found == first), "{again:?}");
    let second = fixture.one(only_if(version(first), update("a", 1))).unwrap().version;
    for write in [update("a", 2), put("a"), Write::Delete(at("a"))] {
        let late = fixture.one(only_if(version(first), write));
        assert!(matches!(late, Err(Error::VersionMismatch { found: Some(found), .. }) if found == second));
    }
    assert_eq!(fixture.get("a").unwrap().version, second);
    // Edges are none of it.
    fixture.put(Entity { id: "b".into(), ..Entity::default() });
    fixture.link("a", "r", "b", 1.0);
    // Of one batch each sees those before it.
    let batch = vec![only_if(version(second), Write::Delete(at("a"))), only_if(absent, put("a"))];
    assert!(fixture.write(batch).iter().all(Result::is_ok));
    let wrong = fixture.replica.plan(TENANT, only_if(absent, only_if(absent, put("a"))));
    assert!(matches!(wrong, Err(Error::Invalid { .. })), "{wrong:?}");
}

#[test]
fn an_acceptor_keeps_what_it_promised_and_accepted() {
    let mut fixture = Fixture::new();
    fixture.replica.keep_topology(Vec::new(), true, |_| Held::Shared, None).unwrap();
    let key = fixture.replica.entity_key(TENANT, &at("a")).unwrap();
    let planned = |fixture: &Fixture, write| {
        fixture.clock.advance(1);
        let mutation = fixture.replica.plan(TENANT, write).unwrap().settled();
        (mutation.version(), mutation.encode(|_| true).unwrap().unwrap())
    };
    let (older, put_a) = planned(&fixture, put("a"));
    let (newer, update_a) = planned(&fixture, update("a", 1));
    let promised = fixture.replica.promise(&key, newer).unwrap();
    assert_eq!((promised.promised, promised.accepted, promised.committed), (newer, None, Version::ZERO));
    fixture = fixture.crash();
    let outbid = fixture.replica.promise(&key, older).unwrap();
    assert_eq!((outbid.promised, outbid.is_given), (newer, false));
    assert_eq!(fixture.replica.accept(&key, older, put_a.clone(), &[]).unwrap(), Some(newer));
    assert_eq!(fixture.replica.accept(&key, newer, put_a.clone(), &[]).unwrap(), None);
    // Whoever asks again, as it has not heard, is told the same.
    for _ in 0..2 {
        let again = fixture.replica.promise(&key, newer).unwrap();
        assert_eq!((again.is_given, again.accepted), (true, Some((newer, put_a.clone()))));
        assert_eq!(fixture.replica.accept(&key, newer, put_a.clone(), &[]).unwrap(), None);
    }
    fixture = fixture.crash();
    let (third, _) = planned(&fixture, put("a"));
    let told = fixture.replica.promise(&key, third).unwrap();
    assert_eq!((told.promised, told.accepted), (third, Some((newer, put_a.clone()))));
    assert_eq!(told.state.version(), Version::ZERO);
    // It is made under the ballot of whoever found it.
    assert_eq!(fixture.replica.accept(&key, third, put_a.clone(), &[]).unwrap(), None);
    let mutation = Mutation::decode(&put_a).unwrap();
    fixture.replica.commit(&key, third, mutation, Durability::Sync).unwrap();
    let (fourth, _) = planned(&fixture, put("a"));
    let told = fixture.replica.promise(&key, fourth).unwrap();
    assert_eq!((told.accepted, told.committed, told.state.version()), (None, third, older));
    // Nothing is accepted that is too old to be taken, and what is known of it goes.
    assert_eq!(fixture.replica.accept(&key, fourth, update_a.clone(), &[]).unwrap(), None);
    fixture.clock.advance(1_000);
    let upto = Version::new(fixture.clock.now_ms() - 500, 0, 0);
    fixture.replica.close_up_to(upto).unwrap();
    let fifth = planned(&fixture, put("a")).0;
    // Some may have made it: that is known when all hold the same.
    assert_eq!(fixture.replica.promise(&key, fifth).unwrap().accepted, Some((fourth, update_a)));
    fixture.replica.purge_up_to(upto, None).unwrap();
    assert_eq!(fixture.replica.promise(&key, fifth).unwrap().accepted, None);
    assert!(!fixture.replica.promise(&key, upto).unwrap().is_given);
    assert_eq!(fixture.replica.accept(&key, upto, put_a, &[]).unwrap(), Some(fifth));
    let rows = |fixture: &Fixture| {
        let engine = fixture.replica.engine();
        let keyspace = engine.keyspace("paxos").unwrap();
        engine.snapshot().prefix(keyspace, &[], Direction::Forward).unwrap().count()
    };
    for (ahead, left) in [(0, 1), (2_000, 0)] {
        let upto = Version::new(fixture.clock.now_ms() + ahead - 500, 0, 0);
        fixture.replica.close_up_to(upto).unwrap();
        fixture.replica.mark(upto);
        fixture.replica.purge_up_to(upto, Some(upto)).unwrap();
        assert_eq!(rows(&fixture), left, "{ahead}");
    }
}

#[test]
fn a_damaged_acceptor_abstains() {
    let fixture = Fixture::new();
    let key = fixture.replica.entity_key(TENANT, &at("a")).unwrap();
    let ballot = fixture.replica.plan(TENANT, put("a")).unwrap().version();
    fixture.replica.promise(&key, ballot).unwrap();
    let engine = fixture.replica.engine();
    let keyspace = engine.keyspace("paxos").unwrap();
    let (row, right) =
        engine.snapshot().prefix(keyspace, &[], Direction::Forward).unwrap().next().unwrap().unwrap();
    for damaged in [&right[..right.len() - 1], &[2], &[], &[&right[..], &[0]].concat()] {
        let mut batch = WriteBatch::new();
        batch.put(keyspace, row.to_vec(), damaged.to_vec());
        engine.write(batch, Durability::Sync).unwrap();
        let newer = Version::new(fixture.clock.now_ms() + 1, 0, 0);
        let told = fixture.replica.promise(&key, newer);
        assert!(matches!(told, Err(Error::CorruptRow { keyspace: "paxos", .. })), "{told:?}");
        assert!(fixture.replica.accept(&key, newer, Vec::new(), &[]).is_err());
    }
}

//! Who owns what, who may lease it, and the life of a change request.

use coord_db::{
    Acquire, ActorId, Blocker, Database, Error, EventFilter, LoopId, LoopStatus, RequestStatus, RequestType, ResourceType,
    Waiting,
};
use test_support::{acquire_request as want, new_loop};

use crate::common::{id, running};

struct World {
    db: Database,
}

fn actor(text: &str) -> ActorId {
    text.parse().unwrap()
}

fn owners(blockers: &[Blocker]) -> Vec<String> {
    let say = |blocker: &Blocker| format!("{} of {}", blocker.file_path, blocker.owned_by.as_ref().map_or("-", LoopId::as_str));
    blockers.iter().map(say).collect()
}

impl World {
    fn new() -> Self {
        Self { db: running(["a", "b", "c"].map(new_loop)).0 }
    }

    fn own(&self, path: &str, loop_id: &str) -> Result<(), Error> {
        self.db.write(|tx| tx.own(path, &id(loop_id), ResourceType::File, None))
    }

    /// Who is in the way; nothing if granted. What was granted is released again.
    fn refused(&self, loop_id: &str, wanted: &[&str]) -> Vec<String> {
        match self.db.write(|tx| tx.acquire(&want(loop_id, wanted), 5)).unwrap() {
            Acquire::Granted(_) => {
                self.db.write(|tx| tx.release_all(&id(loop_id), None)).unwrap();
                Vec::new()
            }
            Acquire::Refused(blockers) => owners(&blockers),
        }
    }

    fn ask(&self, path: &str, loop_id: &str) -> String {
        self.db.write(|tx| tx.request_change(path, &id(loop_id), RequestType::Modify, "why")).unwrap()
    }

    fn resolve(&self, request: &str, to: RequestStatus, by: &str) -> Result<(), Error> {
        self.db.write(|tx| tx.resolve_change(request, to, &actor(by), None))
    }

    fn said(&self, event_type: &str) -> Vec<String> {
        let filter = EventFilter { event_type: Some(event_type.to_owned()), ..Default::default() };
        let events = self.db.read(|tx| tx.events(&filter)).unwrap();
        events.iter().map(|event| format!("{} {}", event.source, event.payload["status"].as_str().unwrap())).collect()
    }
}

#[test]
fn only_the_owner_leases_what_it_owns_and_what_is_below() {
    let world = World::new();
    for path in ["src/api/", "doc/x.md", "port:5432"] {
        world.own(path, "a").unwrap();
    }
    for (wanted, in_the_way) in [
        ("src/api/", "src/api/ of a"),
        ("src/api", "src/api/ of a"),
        ("src/api/deep/x.rs", "src/api/ of a"),
        ("doc/x.md", "doc/x.md of a"),
        ("port:5432", "port:5432 of a"),
        // The whole around a part of another's.
        ("src/", "src/api/ of a"),
        ("doc/", "doc/x.md of a"),
    ] {
        assert_eq!(world.refused("b", &[wanted]), [in_the_way], "{wanted}");
        assert_eq!(world.refused("a", &[wanted]), Vec::<String>::new(), "{wanted}");
    }
    for free in ["src/apix", "src/main.rs", "doc/x.mdx", "doc/y/", "port:543", "git:integration"] {
        assert_eq!(world.refused("b", &[free]), Vec::<String>::new(), "{free}");
    }
    // All or nothing, and nothing is left behind.
    assert_eq!(world.refused("b", &["free", "doc/x.md"]), ["doc/x.md of a"]);
    assert!(world.db.read(|tx| tx.leases(false)).unwrap().is_empty());
}

#[test]
fn the_first_owns_and_nobody_takes_a_part_or_the_whole() {
    let world = World::new();
    world.own("./src//api/", "a").unwrap();
    world.own("src/api/", "a").unwrap();
    world.own("src/api/mine.rs", "a").unwrap();
    for path in ["src/api/", "src/api", "src/api/x.rs", "src/", "src/api/mine.rs"] {
        let refused = world.own(path, "b").unwrap_err();
        assert!(matches!(&refused, Error::Owned { owner, asker, .. } if owner == "a" && asker == "b"), "{path}: {refused}");
        assert!(refused.to_string().contains("request create"), "{refused}");
    }
    assert!(matches!(world.own("git:integration", "b"), Err(Error::Refused(_))));
    for bad in ["/abs", "../up", ""] {
        assert!(matches!(world.own(bad, "b"), Err(Error::Invalid(_))), "{bad:?}");
    }
    // Names that are no files are owned verbatim.
    world.db.write(|tx| tx.own("POST /users", &id("b"), ResourceType::Endpoint, None)).unwrap();
    assert!(matches!(
        world.db.write(|tx| tx.own("POST /users", &id("c"), ResourceType::Endpoint, None)),
        Err(Error::Owned { .. })
    ));
    let owned = world.db.read(|tx| tx.resources()).unwrap();
    let owned: Vec<String> = owned.iter().map(|row| format!("{} {}", row.path, row.owner_loop)).collect();
    assert_eq!(owned, ["POST /users b", "src/api/ a", "src/api/mine.rs a"]);
}

#[test]
fn waiting_does_not_help_and_ends_when_what_is_waited_for_becomes_owned() {
    let world = World::new();
    world.own("mine", "a").unwrap();
    let (request, answer) =
        world.db.write(|tx| tx.acquire_or_queue(&want("b", &["mine"]), tx.now().plus_seconds(600), 5)).unwrap();
    let Waiting::GaveUp(blockers) = answer else { panic!("{answer:?}") };
    assert_eq!((request, owners(&blockers)), (None, vec!["mine of a".to_owned()]));

    world.db.write(|tx| tx.acquire(&want("a", &["later"]), 5)).unwrap();
    let (request, _) = world.db.write(|tx| tx.acquire_or_queue(&want("b", &["later"]), tx.now().plus_seconds(600), 5)).unwrap();
    world.own("later", "a").unwrap();
    world.db.write(|tx| tx.release_all(&id("a"), None)).unwrap();
    let answer = world.db.write(|tx| tx.retry_request(&request.unwrap(), &want("b", &["later"]), 5)).unwrap();
    assert!(matches!(answer, Waiting::GaveUp(_)), "{answer:?}");
    let left = world.db.read(|tx| Ok::<_, Error>((tx.lease_requests()?.len(), tx.wait_edges()?.len()))).unwrap();
    assert_eq!(left, (0, 0));
}

#[test]
fn a_lease_that_stands_outlives_the_claim_of_ownership() {
    let world = World::new();
    let Acquire::Granted(grant) = world.db.write(|tx| tx.acquire(&want("b", &["f"]), 5)).unwrap() else { panic!() };
    world.own("f", "a").unwrap();
    world.db.write(|tx| tx.renew(&id("b"), grant.fencing_token, None)).unwrap();
    world.db.write(|tx| tx.release_all(&id("b"), None)).unwrap();
    assert_eq!(world.refused("b", &["f"]), ["f of a"]);
}

#[test]
fn an_approved_request_is_leave_until_it_is_applied() {
    let world = World::new();
    world.own("src/", "a").unwrap();
    world.own("src/inner.rs", "a").unwrap();
    let blocked = |loop_id| !world.refused(loop_id, &["src/inner.rs"]).is_empty();
    // What is asked for is the resource, even if a part of it is named.
    let request = world.ask("src/x.rs", "b");
    assert_eq!(world.db.read(|tx| tx.change_request(&request)).unwrap().resource_path, "src/");
    assert_eq!(world.ask("src/", "b"), request, "asked once");
    assert!(blocked("b"));
    world.resolve(&request, RequestStatus::Approved, "human").unwrap();
    assert!(!blocked("b") && blocked("c"));
    world.resolve(&request, RequestStatus::Applied, "b").unwrap();
    assert!(blocked("b"));
    let again = world.ask("src/", "b");
    assert_ne!(again, request);
    world.resolve(&again, RequestStatus::Rejected, "pm").unwrap();
    assert!(blocked("b"));
    assert_eq!(world.said("change_requested"), ["b pending", "b pending"]);
    assert_eq!(world.said("change_resolved"), ["human approved", "b applied", "pm rejected"]);
}

#[test]
fn leave_ends_with_the_ownership_that_gave_it() {
    let world = World::new();
    world.own("f", "a").unwrap();
    let request = world.ask("f", "b");
    assert!(matches!(world.db.write(|tx| tx.disown("f", &actor("a"))), Err(Error::Refused(_))), "an answer is due");
    world.resolve(&request, RequestStatus::Approved, "human").unwrap();
    assert!(matches!(world.db.write(|tx| tx.disown("f", &actor("b"))), Err(Error::Refused(_))));
    world.db.write(|tx| tx.disown("f", &actor("a"))).unwrap();
    assert!(matches!(world.db.write(|tx| tx.disown("f", &actor("a"))), Err(Error::NotFound { .. })));
    world.own("f", "c").unwrap();
    assert_eq!(world.refused("b", &["f"]), ["f of c"]);
    // An external tool changes the owner under an approved and a pending request.
    let (yes, open) = (world.ask("f", "b"), world.ask("f", "a"));
    world.resolve(&yes, RequestStatus::Approved, "human").unwrap();
    world.db.execute_foreign("INSERT INTO loops (id) VALUES ('d'); UPDATE resources SET owner_loop = 'd'").unwrap();
    assert_eq!(world.refused("b", &["f"]), ["f of d"]);
    assert!(matches!(world.resolve(&open, RequestStatus::Approved, "human"), Err(Error::Refused(_))));
    world.resolve(&open, RequestStatus::Rejected, "human").unwrap();
}

#[test]
fn every_move_of_a_change_request_is_legal_or_a_typed_error() {
    use RequestStatus::{Applied, Approved, Pending, Rejected};
    for from in RequestStatus::ALL {
        for to in RequestStatus::ALL {
            let world = World::new();
            world.own("f", "a").unwrap();
            let request = world.ask("f", "b");
            for step in match from {
                Pending => &[][..],
                Approved => &[Approved][..],
                Rejected => &[Rejected][..],
                Applied => &[Approved, Applied][..],
            } {
                world.resolve(&request, *step, "human").unwrap();
            }
            let legal = [(Pending, Approved), (Pending, Rejected), (Approved, Applied)].contains(&(*from, *to));
            let before = world.db.read(|tx| tx.change_request(&request)).unwrap();
            let answer = world.resolve(&request, *to, "human");
            let after = world.db.read(|tx| tx.change_request(&request)).unwrap();
            if legal {
                answer.unwrap();
                assert_eq!(after.status, *to);
                assert_eq!(after.resolved_by.as_deref(), Some("human"));
            } else {
                assert!(matches!(answer, Err(Error::IllegalMove { .. })), "{from} to {to}: {answer:?}");
                assert_eq!(after, before);
            }
        }
    }
}

#[test]
fn only_those_whose_step_it_is_take_it() {
    for (to, may, may_not) in [
        (RequestStatus::Approved, ["human", "pm"], ["a", "b", "c", "monitor"]),
        (RequestStatus::Rejected, ["human", "pm"], ["a", "b", "c", "monitor"]),
        (RequestStatus::Applied, ["human", "b"], ["a", "c", "pm", "monitor"]),
    ] {
        for by in may.iter().chain(&may_not) {
            let world = World::new();
            world.own("f", "a").unwrap();
            let request = world.ask("f", "b");
            if to == RequestStatus::Applied {
                world.resolve(&request, RequestStatus::Approved, "pm").unwrap();
            }
            let answer = world.resolve(&request, to, by);
            assert_eq!(answer.is_ok(), may.contains(by), "{to} by {by}: {answer:?}");
            assert!(answer.is_ok() || matches!(answer, Err(Error::Refused(_))));
        }
    }
    let world = World::new();
    world.own("f", "a").unwrap();
    assert!(matches!(world.db.write(|tx| tx.request_change("f", &id("a"), RequestType::Modify, "")), Err(Error::Refused(_))));
    assert!(matches!(
        world.db.write(|tx| tx.request_change("free", &id("a"), RequestType::Modify, "")),
        Err(Error::NotFound { .. })
    ));
}

#[test]
fn rows_of_foreign_hands_are_borne_and_the_nearest_owner_counts() {
    let world = World::new();
    world
        .db
        .execute_foreign(
            "INSERT INTO resources (path, owner_loop, resource_type) VALUES ('dir/', 'a', 'file'), ('dir/b.rs', 'b', 'type'),
               ('git:integration', 'a', 'file'), ('/abs', 'a', 'endpoint'), ('./odd', 'a', 'file'), ('..', 'a', 'file');",
        )
        .unwrap();
    assert_eq!(world.refused("b", &["dir/b.rs", "git:integration"]), Vec::<String>::new());
    assert_eq!(world.refused("b", &["dir/c.rs"]), ["dir/ of a"]);
    assert_eq!(world.refused("a", &["dir/b.rs"]), ["dir/b.rs of b"]);
    assert_eq!(world.refused("a", &["dir/"]), ["dir/b.rs of b"]);
    // Leave of the one is none of the other.
    world
        .db
        .write(|tx| {
            tx.resolve_change(
                &tx.request_change("dir/", &id("c"), RequestType::Modify, "")?,
                RequestStatus::Approved,
                &ActorId::human(),
                None,
            )
        })
        .unwrap();
    assert_eq!(world.refused("c", &["dir/c.rs"]), Vec::<String>::new());
    assert_eq!(world.refused("c", &["dir/b.rs"]), ["dir/b.rs of b"]);
    // An owner that is not registered owns all the same, until the human says otherwise.
    world
        .db
        .execute_foreign(&test_support::without_foreign_keys(
            "INSERT INTO resources VALUES ('lost', 'nobody', 'file', NULL, datetime('now'))",
        ))
        .unwrap();
    assert_eq!(world.refused("b", &["lost"]), ["lost of nobody"]);
    world.db.write(|tx| tx.disown("lost", &ActorId::human())).unwrap();
    assert_eq!(world.refused("b", &["lost"]), Vec::<String>::new());
}

#[test]
fn a_loop_that_owns_or_asks_is_not_removed_unawares() {
    let world = World::new();
    for name in ["a", "b"] {
        world.db.write(|tx| tx.set_loop_status(&id(name), LoopStatus::Stopped)).unwrap();
    }
    world.own("f", "a").unwrap();
    let request = world.ask("f", "b");
    let removed = |name: &str| world.db.write(|tx| tx.remove_loop(&id(name))).map_err(|error| error.to_string());
    assert!(removed("a").unwrap_err().contains("still owns 1 resources"));
    assert!(removed("b").unwrap_err().contains("1 change requests"));
    world.resolve(&request, RequestStatus::Rejected, "human").unwrap();
    world.db.write(|tx| tx.disown("f", &ActorId::human())).unwrap();
    removed("a").unwrap();
    removed("b").unwrap();
    assert_eq!(world.db.check().unwrap(), []);
}

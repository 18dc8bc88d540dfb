use super::*;

const TIMES: Times = Times {
    retry_backoff: Duration::from_secs(3),
    retry_max_duration: Duration::from_secs(300),
    patience: Duration::from_secs(2),
};
const RETRY: Action = Action::Fetch(Duration::from_secs(3));
const RECHECK_LATER: Action = Action::Fetch(RECHECK);

const NOTHING: AtHand = AtHand { sealed: false, received: false, elapsed: Duration::ZERO };
const SEALED: AtHand = AtHand { sealed: true, received: true, elapsed: Duration::ZERO };

fn first_restart() -> Action {
    Action::Fetch(RESTART_FIRST)
}

fn begun() -> Plan {
    let mut plan = Plan::new(TIMES);
    assert_eq!(
        plan.on(&Event::Begin, NOTHING),
        [Action::Fetch(Duration::ZERO), Action::Arm(Duration::from_secs(2))]
    );
    plan
}

/// A plan whose live Envoy serves.
fn serving() -> Plan {
    let mut plan = begun();
    assert_eq!(
        plan.on(&Event::Document { changed: true }, NOTHING),
        [Action::Start(Id(1), Source::Live), RECHECK_LATER]
    );
    assert_eq!(plan.on(&Event::Serving(Id(1)), SEALED), [Action::StopFetching]);
    plan
}

#[test]
fn without_trouble_one_live_envoy_runs() {
    let mut plan = serving();
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), []);
}

#[test]
fn a_serving_live_envoy_is_left_alone() {
    let mut plan = serving();
    for event in
        [Event::Unreachable, Event::Refused, Event::Document { changed: true }, Event::PatienceOver]
    {
        assert_eq!(plan.on(&event, SEALED), [], "{event:?}");
    }
}

#[test]
fn the_first_start_waits_for_the_control_plane_but_not_for_ever() {
    let mut plan = begun();
    assert_eq!(plan.on(&Event::Unreachable, NOTHING), [RETRY]);
    assert_eq!(plan.on(&Event::PatienceOver, NOTHING), []);
    let late = AtHand { elapsed: Duration::from_secs(300), ..NOTHING };
    assert_eq!(plan.on(&Event::Unreachable, late), [Action::GiveUp]);
}

#[test]
fn a_refusal_at_the_first_start_ends_it() {
    assert_eq!(begun().on(&Event::Refused, SEALED), [Action::GiveIn]);
}

#[test]
fn without_a_control_plane_the_sealed_configuration_starts_at_once() {
    let mut plan = begun();
    assert_eq!(plan.on(&Event::Unreachable, SEALED), [Action::Start(Id(1), Source::Sealed), RETRY]);
    // However long it lasts.
    let late = AtHand { elapsed: Duration::from_secs(3000), ..SEALED };
    assert_eq!(plan.on(&Event::Unreachable, late), [RETRY]);
    // A refusal does not take it away either.
    assert_eq!(plan.on(&Event::Refused, late), [Action::Fetch(REFUSED_PAUSE)]);
}

#[test]
fn a_silent_control_plane_gets_two_seconds() {
    let mut plan = begun();
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), [Action::Start(Id(1), Source::Sealed)]);
}

#[test]
fn a_control_plane_that_gives_no_configuration_gets_two_seconds() {
    let mut plan = begun();
    plan.on(&Event::Document { changed: true }, SEALED);
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), [Action::Start(Id(2), Source::Sealed)]);
    assert_eq!(plan.on(&Event::Serving(Id(2)), SEALED), []);
    // The same bootstrap again changes nothing, another one replaces the live Envoy that waits.
    assert_eq!(plan.on(&Event::Document { changed: false }, SEALED), [RECHECK_LATER]);
    assert_eq!(
        plan.on(&Event::Document { changed: true }, SEALED),
        [Action::Stop(Id(1)), Action::Start(Id(3), Source::Live), RECHECK_LATER]
    );
    assert_eq!(plan.on(&Event::Ended(Id(1)), SEALED), []);
    assert_eq!(
        plan.on(&Event::Serving(Id(3)), SEALED),
        [Action::StopFetching, Action::Retire(Id(2))]
    );
    assert_eq!(plan.on(&Event::Ended(Id(2)), SEALED), []);
}

#[test]
fn the_live_envoy_starts_beside_the_sealed_one_when_the_control_plane_is_back() {
    let mut plan = begun();
    plan.on(&Event::Unreachable, SEALED);
    plan.on(&Event::Serving(Id(1)), SEALED);
    assert_eq!(
        plan.on(&Event::Document { changed: true }, SEALED),
        [Action::Start(Id(2), Source::Live), RECHECK_LATER]
    );
    assert_eq!(
        plan.on(&Event::Serving(Id(2)), SEALED),
        [Action::StopFetching, Action::Retire(Id(1))]
    );
}

#[test]
fn a_killed_envoy_comes_back_with_or_without_control_plane() {
    let mut plan = serving();
    let patience = Action::Arm(TIMES.patience);
    assert_eq!(plan.on(&Event::Ended(Id(1)), SEALED), [first_restart(), patience]);
    assert_eq!(plan.on(&Event::Unreachable, SEALED), [Action::Start(Id(2), Source::Sealed), RETRY]);
    assert_eq!(plan.on(&Event::Serving(Id(2)), SEALED), []);
    // Now the sealed one is killed.
    assert_eq!(plan.on(&Event::Ended(Id(2)), SEALED), [Action::Arm(RESTART_FIRST)]);
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), [Action::Start(Id(3), Source::Sealed)]);
    // With the control plane there, the live one comes back directly.
    let mut plan = serving();
    plan.on(&Event::Ended(Id(1)), SEALED);
    assert_eq!(
        plan.on(&Event::Document { changed: false }, SEALED),
        [Action::Start(Id(2), Source::Live), RECHECK_LATER]
    );
}

#[test]
fn with_nothing_sealed_the_received_bootstrap_waits_for_the_control_plane() {
    let mut plan = begun();
    let received = AtHand { received: true, ..NOTHING };
    assert_eq!(
        plan.on(&Event::Unreachable, received),
        [Action::Start(Id(1), Source::Received), RETRY]
    );
    assert_eq!(plan.on(&Event::Unreachable, received), [RETRY]);
    assert_eq!(plan.on(&Event::Document { changed: false }, received), [RECHECK_LATER]);
    assert_eq!(plan.on(&Event::Serving(Id(1)), received), [Action::StopFetching]);
}

#[test]
fn a_live_envoy_that_does_not_start_makes_way_for_the_sealed_one() {
    let mut plan = begun();
    plan.on(&Event::Document { changed: true }, SEALED);
    assert_eq!(
        plan.on(&Event::Ended(Id(1)), SEALED),
        [first_restart(), Action::Start(Id(2), Source::Sealed)]
    );
    plan.on(&Event::Serving(Id(2)), SEALED);
    let mut pauses = Vec::new();
    for id in [3, 4, 5, 6, 7, 8] {
        plan.on(&Event::Document { changed: false }, SEALED);
        pauses.extend(plan.on(&Event::Ended(Id(id)), SEALED));
    }
    let expected =
        [400, 800, 1600, 3200, 5000, 5000].map(|ms| Action::Fetch(Duration::from_millis(ms)));
    assert_eq!(pauses, expected);
}

#[test]
fn a_sealed_configuration_that_does_not_start_makes_way_for_the_previous() {
    let mut plan = begun();
    plan.on(&Event::Unreachable, SEALED);
    assert_eq!(plan.on(&Event::Ended(Id(1)), SEALED), [Action::Arm(RESTART_FIRST)]);
    assert_eq!(
        plan.on(&Event::PatienceOver, SEALED),
        [Action::Start(Id(2), Source::SealedPrevious)]
    );
    assert_eq!(plan.on(&Event::Ended(Id(2)), SEALED), [Action::Arm(RESTART_FIRST * 2)]);
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), [Action::Start(Id(3), Source::Sealed)]);
}

/// Whatever happens in whatever order: at most one live and one sealed Envoy, a serving live one is
/// stopped by nobody, and there is always something to wait for.
#[test]
fn any_order_of_events_keeps_the_rules() {
    let mut state = 42_u64;
    let mut random = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for _ in 0..500 {
        let mut plan = Plan::new(TIMES);
        let mut running: Vec<(Id, Source, bool)> = Vec::new();
        let mut fetch_planned = false;
        let mut armed = false;
        let mut next = Event::Begin;
        for _ in 0..60 {
            let at_hand = AtHand {
                sealed: random(2) == 0,
                received: random(2) == 0,
                elapsed: Duration::ZERO,
            };
            let answered =
                matches!(next, Event::Document { .. } | Event::Unreachable | Event::Refused);
            fetch_planned &= !answered;
            armed &= next != Event::PatienceOver;
            let actions = plan.on(&next, at_hand);
            if actions.contains(&Action::GiveIn) {
                break;
            }
            for action in actions {
                match action {
                    Action::Start(id, source) => running.push((id, source, false)),
                    Action::Stop(id) | Action::Retire(id) => {
                        let stopped = running.iter().find(|envoy| envoy.0 == id).copied().unwrap();
                        assert!(
                            !(stopped.1.is_live() && stopped.2),
                            "a serving live Envoy was stopped"
                        );
                        running.retain(|envoy| envoy.0 != id);
                    }
                    Action::Fetch(_) => fetch_planned = true,
                    Action::StopFetching => fetch_planned = false,
                    Action::Arm(_) => armed = true,
                    Action::GiveUp | Action::GiveIn => unreachable!(),
                }
            }
            let live = running.iter().filter(|envoy| envoy.1.is_live());
            assert!(
                live.count() <= 1 && running.iter().filter(|envoy| !envoy.1.is_live()).count() <= 1
            );
            let live_serves = running.iter().any(|envoy| envoy.1.is_live() && envoy.2);
            assert!(live_serves || fetch_planned, "nobody would ask the control plane any more");

            next = match random(6) {
                0 if armed => Event::PatienceOver,
                1 if fetch_planned => Event::Document { changed: random(2) == 0 },
                2 if fetch_planned => Event::Refused,
                3 | 4 if !running.is_empty() => {
                    let at = usize::try_from(random(running.len() as u64)).unwrap();
                    if random(2) == 0 {
                        running[at].2 = true;
                        Event::Serving(running[at].0)
                    } else {
                        Event::Ended(running.remove(at).0)
                    }
                }
                _ if fetch_planned => Event::Unreachable,
                _ => Event::PatienceOver,
            };
        }
    }
}

#[test]
fn a_killed_envoy_does_not_speak_against_its_configuration() {
    let mut plan = begun();
    plan.on(&Event::Unreachable, SEALED);
    assert_eq!(plan.on(&Event::Killed(Id(1)), SEALED), [Action::Arm(RESTART_FIRST)]);
    assert_eq!(plan.on(&Event::PatienceOver, SEALED), [Action::Start(Id(2), Source::Sealed)]);
}

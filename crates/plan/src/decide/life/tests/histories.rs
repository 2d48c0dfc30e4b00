//! Random histories: whatever the node, the launcher, people and the API do, a pod gets at most one order, nothing is
//! said to a pod that was not compared, no end is put off, everybody is answered, and every life ends.

use super::super::{switches::MOST_SWITCHES, *};
use super::said;
use ferrovirt_qemu::protocol::{self, Ending, State};
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

/// Something from outside, when no action waits for its answer.
#[derive(Clone, Debug)]
enum Outside {
    Later(u64),
    UntilWake,
    Says(u8),
    Refuses,
    NotReady,
    Nonsense,
    Closes,
    Asks(bool),
    Deletes(i64),
    Differs(bool),
    Evicts,
    Goes,
    Dies,
}

fn outside() -> impl Strategy<Value = Outside> {
    prop_oneof![
        3 => (1u64..60_000).prop_map(Outside::Later),
        5 => Just(Outside::UntilWake),
        8 => (0u8..6).prop_map(Outside::Says),
        2 => Just(Outside::Refuses),
        3 => Just(Outside::NotReady),
        1 => Just(Outside::Nonsense),
        2 => Just(Outside::Closes),
        3 => any::<bool>().prop_map(Outside::Asks),
        1 => (0i64..60).prop_map(Outside::Deletes),
        1 => any::<bool>().prop_map(Outside::Differs),
        1 => Just(Outside::Evicts),
        1 => Just(Outside::Goes),
        1 => Just(Outside::Dies),
    ]
}

/// The node, the launcher and the API as the actions find them; how each action ends is chance.
struct World {
    now: Duration,
    chances: VecDeque<u8>,
    held: bool,
    held_at: Duration,
    /// It is served elsewhere: nothing is said to it here.
    ordinary: bool,
    linked: bool,
    compared: bool,
    deletion: Option<(i64, Duration)>,
    gone: bool,
    killed: bool,
    /// Orders that the launcher has, and that it has begun with one.
    orders: u32,
    begun: bool,
    unanswered: BTreeSet<u64>,
    ends: u32,
    holds: u32,
    left: bool,
}

impl World {
    fn chance(&mut self) -> u8 {
        self.chances.pop_front().unwrap_or_default()
    }

    /// Performs an action as the shell would, checks that it may be performed now, and answers it.
    fn perform(&mut self, action: &Action) -> Result<Option<Event>, TestCaseError> {
        let chance = self.chance();
        let often = chance % 4 != 1;
        Ok(match action {
            Action::ReadRecord => Some(Event::Record(match chance % 8 {
                1 => Record::Started,
                2 => Record::Ended,
                3 => Record::Unreadable,
                _ => Record::None,
            })),
            Action::FindContainer => Some(Event::Container(match chance % 4 {
                1 => Container::Ended,
                2 => Container::Unknown,
                _ => Container::Runs,
            })),
            Action::Admit if often => Some(Event::Admitted),
            Action::Admit => Some(Event::NotAdmitted { reason: "Full".to_owned(), message: String::new() }),
            Action::Start => {
                prop_assert!(!self.gone && self.deletion.is_none(), "a pod that leaves is started");
                Some(match chance % 6 {
                    1 => Event::ShortOfDisk,
                    2 | 3 => Event::NotStarted {
                        reason: "No",
                        message: String::new(),
                        then: if chance % 6 == 2 { Then::Again } else { Then::Reject },
                    },
                    _ => Event::Started,
                })
            }
            Action::Hold if often => {
                prop_assert!(!self.held);
                (self.held, self.held_at, self.holds) = (true, self.now, self.holds + 1);
                self.ordinary = chance % 8 >= 6;
                if self.ordinary {
                    return Ok(Some(Event::Runs { fresh: chance.is_multiple_of(2) }));
                }
                Some(Event::Held(Hold {
                    fresh: chance.is_multiple_of(2),
                    descriptors: chance.is_multiple_of(2),
                    ran: false,
                    grace_seconds: 30,
                }))
            }
            Action::Hold => Some(Event::NotHeld { short: chance % 8 == 1 }),
            Action::Check => {
                prop_assert!(self.held && !self.ordinary);
                let check = match chance % 5 {
                    1 => Check::Differs("field".to_owned()),
                    2 => Check::Unknown("late".to_owned()),
                    _ => Check::Same { deleting: self.deletion.is_some() },
                };
                self.compared = matches!(check, Check::Same { .. });
                Some(Event::Checked(check))
            }
            Action::Connect => {
                prop_assert!(self.held && !self.linked && self.compared, "not compared");
                self.linked = often;
                Some(Event::Connected(often))
            }
            Action::AdmitPort => {
                prop_assert!(self.held);
                Some(Event::PortAdmitted(often))
            }
            Action::Disconnect => {
                self.linked = false;
                None
            }
            Action::Order => {
                prop_assert!(self.linked && self.compared, "an order for a pod that was not compared");
                self.linked = often;
                self.orders += u32::from(often);
                prop_assert!(self.orders <= 1, "a second order");
                Some(Event::Ordered(often))
            }
            Action::OpenNetwork => {
                prop_assert!(self.linked && self.compared && self.deletion.is_none());
                Some(Event::Opened(often))
            }
            Action::Shutdown { .. } => {
                prop_assert!(self.linked && self.deletion.is_some());
                (!often).then_some(Event::NotAsked)
            }
            Action::Switch { ticket, .. } => {
                prop_assert!(self.linked && self.unanswered.contains(ticket));
                (!often).then_some(Event::NotSwitched { ticket: *ticket })
            }
            Action::Answer { ticket, .. } => {
                prop_assert!(self.unanswered.remove(ticket), "answered twice");
                None
            }
            Action::Terminate => {
                prop_assert!(self.ordinary && self.held && self.deletion.is_some());
                None
            }
            Action::Kill => {
                self.killed = true;
                None
            }
            Action::End { .. } => {
                (self.held, self.linked, self.ends) = (false, false, self.ends + 1);
                None
            }
            Action::Leave => {
                prop_assert!(!self.held && !self.left && (self.gone || self.deletion.is_some()));
                self.left = true;
                None
            }
            Action::DeletePod => {
                prop_assert!(self.left);
                Some(Event::Deleted(often))
            }
            Action::Runs { .. } | Action::RecordRan => {
                prop_assert!(self.held);
                None
            }
            Action::Served(served) => {
                prop_assert_eq!(*served, self.compared);
                None
            }
            _ => None,
        })
    }

    /// What comes from outside as an event, if it can come now.
    fn event(&mut self, life: &Life, outside: &Outside, ticket: u64) -> Option<Event> {
        Some(match outside {
            Outside::Later(ms) => {
                self.now += Duration::from_millis(*ms);
                Event::Tick
            }
            Outside::UntilWake => {
                self.now = self.now.max(life.wake()?);
                Event::Tick
            }
            Outside::Says(0) if self.linked && self.orders == 0 => said(State::Waiting),
            Outside::Says(state) if self.linked => {
                self.begun = true;
                said(match state {
                    0 | 1 => State::Starting,
                    2 => State::Running,
                    3 => State::Paused,
                    4 => State::ShuttingDown,
                    _ => State::Ended { ending: Ending::Failed, message: String::new() },
                })
            }
            Outside::NotReady if self.linked => {
                // It gives the order back. One that has begun with it gets no other, whatever it says.
                if !self.begun {
                    self.orders = 0;
                }
                Event::Said(protocol::Event::NotReady { message: String::new() })
            }
            Outside::Refuses if self.linked => {
                Event::Said(protocol::Event::Refused { message: String::new(), console: None })
            }
            Outside::Nonsense if self.linked => {
                self.linked = false;
                Event::Nonsense("?".to_owned())
            }
            Outside::Closes if self.linked => {
                self.linked = false;
                Event::Closed
            }
            Outside::Asks(pause) => {
                self.unanswered.insert(ticket);
                Event::Switch { ticket, pause: *pause }
            }
            Outside::Deletes(grace) => {
                let (known, since) = self.deletion.unwrap_or((i64::MAX, self.now));
                let earlier = since.saturating_add(Duration::from_secs(known.unsigned_abs().min(1 << 40)));
                let end = self.now + Duration::from_secs(grace.unsigned_abs());
                // The last one to come is what the API says; the earliest end is what counts.
                self.deletion = Some(if end < earlier { (*grace, self.now) } else { (known, since) });
                let change = Change::Same;
                Event::Pod { phase: PodPhase::Running, deletion: Some(*grace), change }
            }
            Outside::Differs(differs) if self.held => {
                self.compared &= !differs;
                let change = if *differs { Change::Differs("field".to_owned()) } else { Change::Same };
                let deletion = self.deletion.map(|(grace, _)| grace);
                Event::Pod { phase: PodPhase::Running, deletion, change }
            }
            Outside::Evicts => Event::Evict,
            Outside::Goes => {
                self.gone = true;
                Event::Gone
            }
            Outside::Dies if self.held => Event::Died { code: Some(1) },
            _ => return None,
        })
    }

    /// One event and all that follows from it without another one.
    fn happen(&mut self, mut life: Life, event: Event) -> Result<Life, TestCaseError> {
        let mut events = VecDeque::from([event]);
        let mut rounds = 0;
        while let Some(event) = events.pop_front() {
            rounds += 1;
            prop_assert!(rounds < 50, "it does not come to rest");
            let (next, actions) = step(life, event, self.now);
            life = next;
            for action in &actions {
                events.extend(self.perform(action)?);
            }
        }
        self.check(&life)?;
        Ok(life)
    }

    fn check(&self, life: &Life) -> Result<(), TestCaseError> {
        prop_assert!(self.unanswered.len() <= MOST_SWITCHES, "requests pile up");
        prop_assert!(self.ends <= self.holds + 1);
        prop_assert!(!(self.gone && self.held) || self.killed, "a guest without a pod lives on");
        if self.held {
            prop_assert!(
                self.ordinary || self.linked || life.wake().is_some(),
                "nothing would connect to the launcher again"
            );
            if let Some((grace, since)) = self.deletion {
                let end = since.max(self.held_at) + Duration::from_secs(grace.unsigned_abs());
                let bounded = life.kill_at().is_some_and(|at| at <= end.max(self.now));
                prop_assert!(self.killed || bounded, "the end is put off");
            }
        } else {
            prop_assert!(self.unanswered.is_empty(), "somebody waits for a guest that is not there");
        }
        Ok(())
    }
}

fn run(outside: &[Outside], chances: Vec<u8>) -> Result<(), TestCaseError> {
    let mut world = World {
        now: Duration::ZERO,
        chances: chances.into(),
        held: false,
        held_at: Duration::ZERO,
        ordinary: false,
        linked: false,
        compared: false,
        deletion: None,
        gone: false,
        killed: false,
        orders: 0,
        begun: false,
        unanswered: BTreeSet::new(),
        ends: 0,
        holds: 0,
        left: false,
    };
    let mut life = world.happen(Life::new(PodPhase::Pending, None), Event::Bound)?;
    for (ticket, happening) in (0..).zip(outside) {
        if life.is_over() {
            break;
        }
        if let Some(event) = world.event(&life, happening, ticket) {
            life = world.happen(life, event)?;
        }
    }
    // From here on everything goes well: the pod goes, and the container obeys the kill.
    world.chances.clear();
    if !life.is_over() {
        world.gone = true;
        life = world.happen(life, Event::Gone)?;
    }
    if world.held {
        life = world.happen(life, Event::Died { code: Some(137) })?;
    }
    for _ in 0..10 {
        if let (false, Some(wake)) = (life.is_over(), life.wake()) {
            world.now = world.now.max(wake);
            life = world.happen(life, Event::Tick)?;
            prop_assert!(life.wake().is_none_or(|next| next > world.now), "time runs in a circle");
        }
        if world.held {
            life = world.happen(life, Event::Died { code: Some(137) })?;
        }
    }
    prop_assert!(life.is_over(), "it never ends: {life:?}");
    prop_assert_eq!(world.holds.max(world.ends), world.ends, "an end that was not reported");
    Ok(())
}

proptest! {
    #[test]
    fn a_life_keeps_its_rules_and_ends(
        outside in prop::collection::vec(outside(), 1..60),
        chances in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        run(&outside, chances)?;
    }
}

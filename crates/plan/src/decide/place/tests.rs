//! Places by tables, and by random histories.

use super::*;
use ferrovirt_qemu::protocol::Ending;
use proptest::prelude::*;
use std::collections::{BTreeSet, VecDeque};

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn says(link: u64, state: State) -> Event {
    Event::Said(link, protocol::Event::State { state, qemu_pid: None })
}

fn same(network: Network) -> Event {
    Event::Checked(Check::Same { network, ran: false })
}

fn trouble(reason: &'static str, message: &str) -> Action {
    Action::Trouble { reason, message: message.to_owned() }
}

pub(super) fn misbehaves(what: &str) -> Action {
    Action::Misbehaves { what: what.to_owned(), wrong: Wrong::Log { suppressed: 0 } }
}

const START: Action = Action::Check(Step::Start);
const SERVE: Action = Action::Check(Step::Serve);

/// Plays events at times in milliseconds and compares the actions of each.
pub(super) fn play(place: Place, rows: impl IntoIterator<Item = (u64, Event, Vec<Action>)>) -> Place {
    rows.into_iter().fold(place, |place, (at, event, expected)| {
        let shown = format!("{event:?} at {at}");
        let (place, actions) = step(place, event, ms(at));
        assert_eq!(actions, expected, "{shown}");
        place
    })
}

/// A place whose launcher has its order since 200.
fn ordered() -> Place {
    play(
        Place::default(),
        [
            (0, Event::Linked(1), vec![]),
            (0, says(1, State::Waiting), vec![START]),
            (10, same(Network::Ready), vec![Action::Prepare(1)]),
            (20, Event::Made, vec![START]),
            (200, same(Network::Ready), vec![Action::Order(1)]),
        ],
    )
}

pub(super) fn running() -> Place {
    let first =
        vec![Action::Runs { paused: false }, Action::Tell(Notice::Created), Action::Tell(Notice::Started)];
    play(ordered(), [(300, says(1, State::Starting), vec![]), (400, says(1, State::Running), first)])
}

fn ended() -> State {
    State::Ended { ending: Ending::Shutdown, message: "words".to_owned() }
}

fn over() -> Action {
    Action::Over { ending: Ending::Shutdown, message: "words".to_owned() }
}

#[test]
fn a_machine_gets_its_network_and_its_order_runs_and_ends() {
    let place = play(
        running(),
        [
            (500, says(1, State::ShuttingDown), vec![Action::Tell(Notice::ShuttingDown)]),
            (600, says(1, ended()), vec![over()]),
            (600, Event::Ended { link: 1, left: true }, vec![]),
        ],
    );
    assert_eq!(place.wake(), None);
}

#[test]
fn a_machine_without_an_interface_needs_no_address() {
    play(
        Place::default(),
        [
            (0, Event::Linked(1), vec![]),
            (0, says(1, State::Waiting), vec![START]),
            (0, same(Network::None), vec![Action::Order(1)]),
        ],
    );
}

#[test]
fn the_address_is_waited_for_and_looked_for_when_the_pod_changes() {
    let waits = || vec![Action::Waits("the kubelet has not reported the pod's address".to_owned())];
    let place = play(
        Place::default(),
        [
            (0, Event::Linked(1), vec![]),
            (0, says(1, State::Waiting), vec![START]),
            (10, same(Network::NoAddress), waits()),
            // Not more often than ten times a second, no matter who changes the pod.
            (20, Event::Pod(None), vec![]),
            (99, Event::Tick, vec![]),
            (100, Event::Tick, vec![START]),
            (110, same(Network::NoAddress), waits()),
        ],
    );
    assert_eq!(place.wake(), Some(ms(300)));
    let place = play(
        place,
        [(220, Event::Pod(None), vec![START]), (230, same(Network::Ready), vec![Action::Prepare(1)])],
    );
    assert_eq!(place.wake(), None);
}

#[test]
fn a_network_that_is_refused_is_asked_for_again_later() {
    let refused = |message: &str| protocol::Event::Refused { message: message.to_owned(), console: None };
    play(
        Place::default(),
        [
            (0, Event::Linked(1), vec![]),
            (0, says(1, State::Waiting), vec![START]),
            (0, same(Network::OnlyIpv6), vec![trouble(NO_NETWORK, ONLY_IPV6)]),
            (1999, Event::Pod(None), vec![]),
            (2000, Event::Tick, vec![START]),
            (2000, same(Network::Ready), vec![Action::Prepare(1)]),
            (2010, Event::Said(1, refused("tun")), vec![]),
            (
                2020,
                Event::NotMade("late".to_owned()),
                vec![trouble(NO_NETWORK, "late; the launcher says: tun")],
            ),
            (6020, Event::Tick, vec![START]),
            (6020, same(Network::Ready), vec![Action::Prepare(1)]),
            (6030, Event::Made, vec![START]),
            (6030, same(Network::Ready), vec![Action::Order(1)]),
            (6040, says(1, State::Starting), vec![Action::Well]),
        ],
    );
}

#[test]
fn a_launcher_whose_disks_are_not_ready_gets_its_order_again() {
    let not_ready = |link| Event::Said(link, protocol::Event::NotReady { message: "no disk".to_owned() });
    play(
        ordered(),
        [
            (300, not_ready(1), vec![trouble(NOT_READY, "no disk")]),
            (2300, Event::Tick, vec![START]),
            (2300, same(Network::Ready), vec![Action::Order(1)]),
            (2400, not_ready(1), vec![trouble(NOT_READY, "no disk")]),
            (6400, Event::Tick, vec![START]),
            (6400, same(Network::Ready), vec![Action::Order(1)]),
            (6500, says(1, State::Starting), vec![Action::Well]),
        ],
    );
}

#[test]
fn a_part_that_starts_again_takes_a_running_machine_over_and_orders_nothing() {
    let ran = |network| Event::Checked(Check::Same { network, ran: true });
    play(
        Place::default(),
        [
            (0, Event::Linked(7), vec![]),
            (0, says(7, State::Running), vec![SERVE]),
            (0, Event::Made, vec![]),
            (10, ran(Network::Ready), vec![Action::Runs { paused: false }]),
            (20, Event::Lost, vec![]),
            (30, Event::Linked(8), vec![]),
            (30, says(8, State::Running), vec![]),
            (100, Event::Tick, vec![SERVE]),
            (110, ran(Network::Ready), vec![]),
            (120, says(8, ended()), vec![over()]),
        ],
    );
    // One that says that it has no order after its machine ran gets none.
    let wrong = misbehaves("it says that it has no order after it had one");
    play(
        Place::default(),
        [
            (0, Event::Linked(7), vec![]),
            (0, Event::Made, vec![]),
            (0, says(7, State::Waiting), vec![START]),
            (10, ran(Network::Ready), vec![wrong, Action::End(7)]),
        ],
    );
}

#[test]
fn what_was_said_last_to_another_part_is_not_waited_behind() {
    for last in [
        protocol::Event::NotReady { message: "no secret".to_owned() },
        protocol::Event::Refused { message: "already paused".to_owned(), console: None },
    ] {
        play(
            Place::default(),
            [
                (0, Event::Linked(1), vec![]),
                (0, Event::Said(1, last), vec![Action::End(1)]),
                (50, Event::Ended { link: 1, left: false }, vec![]),
                (100, Event::Linked(2), vec![]),
                (100, says(2, State::Waiting), vec![START]),
            ],
        );
    }
}

#[test]
fn an_order_that_did_not_arrive_is_sent_again_and_one_that_was_begun_is_not() {
    let again = [
        (300, Event::Ended { link: 1, left: false }, vec![]),
        (310, Event::Linked(2), vec![]),
        (310, says(2, State::Waiting), vec![START]),
    ];
    play(ordered(), again.clone().into_iter().chain([(320, same(Network::Ready), vec![Action::Order(2)])]));
    let wrong = misbehaves("it says that it has no order after it had one");
    play(
        running(),
        [
            (500, Event::Ended { link: 1, left: false }, vec![]),
            (510, Event::Linked(2), vec![]),
            (510, says(2, State::Waiting), vec![START]),
            (520, same(Network::Ready), vec![wrong, Action::End(2)]),
        ],
    );
}

#[test]
fn a_pod_that_changes_is_parted_with_until_it_is_what_it_was() {
    let differs = || Event::Checked(Check::Differs("field".to_owned()));
    play(
        running(),
        [
            (500, Event::Pod(None), vec![]),
            (
                600,
                Event::Pod(Some("field".to_owned())),
                vec![trouble(NOT_AS_RENDERED, "field"), Action::End(1)],
            ),
            // Nobody listens to what still comes.
            (600, says(1, ended()), vec![]),
            (610, Event::Ended { link: 1, left: false }, vec![]),
            (620, Event::Linked(2), vec![]),
            (620, says(2, State::Running), vec![SERVE]),
            (630, differs(), vec![trouble(NOT_AS_RENDERED, "field"), Action::End(2)]),
            (640, Event::Ended { link: 2, left: false }, vec![]),
            (650, Event::Linked(3), vec![]),
            (650, says(3, State::Running), vec![]),
            (720, Event::Tick, vec![SERVE]),
            (730, same(Network::Ready), vec![Action::Well]),
        ],
    );
}

#[test]
fn nothing_is_done_for_a_pod_that_is_not_as_rendered_before_its_order() {
    let differs = || Event::Checked(Check::Differs("field".to_owned()));
    let reported = |link| vec![trouble(NOT_AS_RENDERED, "field"), Action::End(link)];
    let linked =
        || play(Place::default(), [(0, Event::Linked(1), vec![]), (0, says(1, State::Waiting), vec![START])]);
    play(linked(), [(0, differs(), reported(1))]);
    let unfit = Event::Checked(Check::Unfit("MachineEnded", "over".to_owned()));
    play(linked(), [(0, unfit, vec![trouble("MachineEnded", "over"), Action::End(1)])]);
    let made =
        play(linked(), [(0, same(Network::Ready), vec![Action::Prepare(1)]), (10, Event::Made, vec![START])]);
    play(made, [(20, differs(), reported(1))]);
    let asked = play(linked(), [(0, same(Network::Ready), vec![Action::Prepare(1)])]);
    play(asked, [(10, Event::Pod(Some("field".to_owned())), reported(1)), (20, Event::Made, vec![])]);
}

#[test]
fn a_launcher_that_talks_nonsense_is_not_listened_to_for_a_while() {
    let mut place = running();
    let mut closed = None;
    for number in 0..100 {
        let (next, actions) = step(place, Event::Nonsense(1, "x".to_owned()), ms(500));
        place = next;
        if actions.contains(&Action::End(1)) {
            assert!(actions.contains(&Action::Tell(Notice::Misbehaves)));
            closed = Some(number);
            break;
        }
    }
    assert_eq!(closed, Some(16));
    play(
        place,
        [
            (500, Event::Ended { link: 1, left: false }, vec![]),
            (600, Event::Linked(2), vec![]),
            (600, says(2, State::Running), vec![]),
            (1499, Event::Tick, vec![]),
            (1500, Event::Tick, vec![SERVE]),
        ],
    );
}

/// Something from outside, when no action waits for its answer.
#[derive(Clone, Debug)]
enum Outside {
    Later(u64),
    UntilWake,
    Links,
    Ends(bool),
    Loses,
    Says(u8),
    NotReady,
    Refuses,
    Nonsense,
    Made(bool),
    Changes(bool),
    Asks(Ask),
}

fn outside() -> impl Strategy<Value = Outside> {
    prop_oneof![
        3 => (1u64..10_000).prop_map(Outside::Later),
        5 => Just(Outside::UntilWake),
        4 => Just(Outside::Links),
        1 => any::<bool>().prop_map(Outside::Ends),
        1 => Just(Outside::Loses),
        8 => (0u8..6).prop_map(Outside::Says),
        2 => Just(Outside::NotReady),
        2 => Just(Outside::Refuses),
        2 => any::<bool>().prop_map(|pause| Outside::Asks(Ask::Switch { pause })),
        1 => (1u64..6).prop_map(|link| Outside::Asks(Ask::Console {
            link,
            socket: "console-1".to_owned(),
            console: protocol::Console::Serial,
        })),
        1 => Just(Outside::Nonsense),
        5 => any::<bool>().prop_map(Outside::Made),
        2 => any::<bool>().prop_map(Outside::Changes),
    ]
}

/// What the actions may rely on.
#[derive(Default)]
struct World {
    now: Duration,
    link: Option<u64>,
    last: u64,
    /// The connection for which the pod was just compared, and nothing happened since.
    compared: Option<u64>,
    asked: bool,
    made: bool,
    /// The launcher was listened to and had begun.
    begun: bool,
    /// The connection for which the pod was compared last, and which was not ended.
    served: Option<u64>,
    /// Requests that have no answer yet.
    asked_for: BTreeSet<u64>,
    tickets: u64,
    checks: Vec<Duration>,
    chances: VecDeque<u8>,
}

impl World {
    fn answer(&mut self) -> Check {
        let network = [Network::Ready, Network::NoAddress, Network::None, Network::OnlyIpv6];
        match self.chances.pop_front().unwrap_or_default() % 12 {
            0 => Check::Differs("field".to_owned()),
            1 => Check::Unknown("late".to_owned()),
            2 => Check::Unfit("No", "unfit".to_owned()),
            chance => Check::Same {
                network: network.get(usize::from(chance % 5)).copied().unwrap_or(Network::Ready),
                ran: chance == 11,
            },
        }
    }

    /// Checks that an action may be performed now, and answers it.
    fn perform(&mut self, action: &Action) -> Result<Option<Event>, TestCaseError> {
        Ok(match action {
            Action::Check(_) => {
                prop_assert!(self.link.is_some(), "nobody is connected");
                self.checks.push(self.now);
                let check = self.answer();
                self.compared = self.link.filter(|_| matches!(check, Check::Same { .. }));
                self.served = self.compared;
                Some(Event::Checked(check))
            }
            Action::Prepare(link) => {
                prop_assert_eq!(self.compared, Some(*link), "a pod is prepared that was not compared");
                prop_assert!(!self.made, "a second network");
                self.asked = true;
                None
            }
            Action::Order(link) => {
                prop_assert_eq!(self.compared, Some(*link), "a pod is ordered that was not compared");
                prop_assert!(!self.begun, "a second order after the first was begun");
                let chance = self.chances.pop_front().unwrap_or_default();
                (chance % 8 == 1).then(|| Event::NotOrdered("no".to_owned()))
            }
            Action::End(link) => {
                prop_assert_eq!(self.link, Some(*link));
                self.served = None;
                None
            }
            Action::Request { link, .. } => {
                prop_assert_eq!(self.served, Some(*link), "it is not served");
                None
            }
            Action::Answer { ticket, .. } => {
                prop_assert!(self.asked_for.remove(ticket), "a second answer");
                None
            }
            Action::Runs { .. } | Action::Over { .. } => {
                self.begun = true;
                None
            }
            _ => None,
        })
    }

    fn event(&mut self, outside: &Outside, place: &Place) -> Option<Event> {
        let link = self.link;
        Some(match outside {
            Outside::Later(by) => {
                self.now += ms(*by);
                Event::Tick
            }
            Outside::UntilWake => {
                self.now = self.now.max(place.wake()?);
                Event::Tick
            }
            Outside::Links => {
                self.last += 1;
                (self.link, self.served) = (Some(self.last), None);
                Event::Linked(self.last)
            }
            Outside::Ends(left) => {
                self.served = None;
                Event::Ended { link: self.link.take()?, left: *left }
            }
            Outside::Loses => {
                (self.link, self.served) = (None, None);
                Event::Lost
            }
            Outside::Says(number) => says(
                link?,
                match number {
                    0 | 1 => State::Waiting,
                    2 => State::Starting,
                    3 => State::Running,
                    4 => State::Paused,
                    _ => ended(),
                },
            ),
            Outside::NotReady => Event::Said(link?, protocol::Event::NotReady { message: String::new() }),
            Outside::Refuses => {
                Event::Said(link?, protocol::Event::Refused { message: String::new(), console: None })
            }
            Outside::Nonsense => Event::Nonsense(link?, String::new()),
            Outside::Made(true) if self.asked => {
                self.made = true;
                Event::Made
            }
            Outside::Made(_) => Event::NotMade("no".to_owned()),
            Outside::Asks(ask) => {
                self.tickets += 1;
                self.asked_for.insert(self.tickets);
                Event::Ask { ticket: self.tickets, ask: ask.clone() }
            }
            Outside::Changes(differs) => Event::Pod(differs.then(|| "field".to_owned())),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_happens_no_pod_is_served_that_was_not_compared_and_one_order_is_begun(
        history in prop::collection::vec(outside(), 1..120),
        chances in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut world = World { chances: chances.into(), ..World::default() };
        let mut place = Place::default();
        for outside in history {
            let Some(event) = world.event(&outside, &place) else { continue };
            world.compared = None;
            let mut events = VecDeque::from([event]);
            while let Some(event) = events.pop_front() {
                let (next, actions) = step(place, event, world.now);
                place = next;
                for action in actions {
                    events.extend(world.perform(&action)?);
                }
            }
            // A launcher that has said something is dealt with, or somebody's answer is waited for.
            let waits = matches!(place.stage, Stage::Networking | Stage::Ordered | Stage::Serving | Stage::Parted);
            prop_assert!(place.link.is_none() || place.word.is_none() || waits || place.wake().is_some());
            prop_assert!(place.stage != Stage::Checking);
            prop_assert!(place.serves().is_none_or(|link| world.served == Some(link)));
        }
        // Who asked for something is answered at most once.
        let (_, actions) = step(place, Event::Lost, world.now);
        for action in &actions {
            world.perform(action)?;
        }
        // Ten looks a second at most, no matter who changes the pod, and however often it connects.
        for pair in world.checks.windows(12) {
            prop_assert!(pair[11] - pair[0] >= ms(100), "{:?}", pair);
        }
    }
}

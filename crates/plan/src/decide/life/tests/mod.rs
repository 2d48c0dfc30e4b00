//! The life of a pod by tables, and by random histories.

mod histories;

use super::{switches::MOST_SWITCHES, *};
use ferrovirt_qemu::protocol::{self, Ending, State};

pub(super) fn said(state: State) -> Event {
    Event::Said(protocol::Event::State { state, qemu_pid: None })
}

fn refused(message: &str) -> Event {
    Event::Said(protocol::Event::Refused { message: message.to_owned(), console: None })
}

fn ended(ending: Ending) -> State {
    State::Ended { ending, message: "words".to_owned() }
}

fn pod(deletion: Option<i64>) -> Event {
    Event::Pod { phase: PodPhase::Pending, deletion, change: Change::Same }
}

const SAME: Event = Event::Checked(Check::Same { deleting: false });
const HOLD: Hold = Hold { fresh: true, descriptors: true, ran: false, grace_seconds: 30 };

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Plays events at times in milliseconds and compares the actions of each.
fn play(life: Life, rows: impl IntoIterator<Item = (u64, Event, Vec<Action>)>) -> Life {
    rows.into_iter().fold(life, |life, (at, event, expected)| {
        let shown = format!("{event:?} at {at}");
        let (life, actions) = step(life, event, ms(at));
        assert_eq!(actions, expected, "{shown}");
        life
    })
}

fn pending() -> Life {
    Life::new(PodPhase::Pending, None)
}

/// A pod without a record that was started at 0.
fn started() -> Life {
    play(
        pending(),
        [
            (0, Event::Bound, vec![Action::ReadRecord]),
            (0, Event::Record(Record::None), vec![Action::Sweep, Action::Admit]),
            (0, Event::Admitted, vec![Action::Start]),
            (0, Event::Started, vec![Action::Hold]),
        ],
    )
}

/// A pod that was started, connected to and given its order at 0.
fn ordered() -> Life {
    play(
        started(),
        [
            (0, Event::Held(HOLD), vec![Action::Check]),
            (0, SAME, vec![Action::Connect]),
            (0, Event::Connected(true), vec![Action::Order]),
            (0, Event::Ordered(true), vec![]),
            (0, said(State::Waiting), vec![]),
            (0, said(State::Starting), vec![]),
        ],
    )
}

fn running() -> Life {
    let first = vec![
        Action::Runs { paused: false },
        Action::RecordRan,
        Action::Tell(Notice::Created),
        Action::Tell(Notice::Started),
    ];
    play(ordered(), [(100, said(State::Running), first)])
}

#[test]
fn a_machine_starts_runs_shuts_down_and_leaves() {
    let life = play(
        running(),
        [
            (200, pod(Some(30)), vec![Action::Shutdown { grace_seconds: None }]),
            (300, pod(Some(30)), vec![]),
            (400, said(State::ShuttingDown), vec![Action::Tell(Notice::ShuttingDown)]),
            (500, said(ended(Ending::Shutdown)), vec![]),
            (
                600,
                Event::Died { code: Some(0) },
                vec![
                    Action::End {
                        code: Some(0),
                        end: Some((Ending::Shutdown, "words".to_owned())),
                        evicted: false,
                    },
                    Action::Leave,
                    Action::DeletePod,
                ],
            ),
            (700, Event::Deleted(false), vec![]),
            (2699, Event::Tick, vec![]),
            (2700, Event::Tick, vec![Action::DeletePod]),
            (2800, Event::Deleted(true), vec![]),
        ],
    );
    assert!(life.is_over());
}

#[test]
fn a_pod_that_is_served_elsewhere_is_asked_to_end_by_a_signal_and_killed_after_its_grace() {
    let begun = || play(started(), [(0, Event::Runs { fresh: true }, vec![])]);
    let died = |code| Event::Died { code: Some(code) };
    let end = |code, evicted| Action::End { code: Some(code), end: None, evicted };
    let last = [Action::Leave, Action::DeletePod];
    let life = play(
        begun(),
        [
            (
                100,
                Event::Switch { ticket: 1, pause: true },
                vec![Action::Answer { ticket: 1, answer: Answer::NotRunning }],
            ),
            // Whatever becomes of the pod is for who serves it.
            (
                100,
                Event::Pod {
                    phase: PodPhase::Running,
                    deletion: None,
                    change: Change::Differs("x".to_owned()),
                },
                vec![],
            ),
            (200, pod(Some(30)), vec![Action::Terminate]),
            (300, pod(Some(30)), vec![]),
            (400, died(0), [vec![end(0, false)], last.to_vec()].concat()),
            (500, Event::Deleted(true), vec![]),
        ],
    );
    assert!(life.is_over());
    play(
        begun(),
        [
            (0, pod(Some(30)), vec![Action::Terminate]),
            // A shorter grace counts, a longer one does not.
            (1000, pod(Some(5)), vec![Action::Terminate]),
            (1000, pod(Some(60)), vec![]),
            (5999, Event::Tick, vec![]),
            (6000, Event::Tick, vec![Action::Kill]),
            (6100, died(137), [vec![end(137, false)], last.to_vec()].concat()),
        ],
    );
    play(begun(), [(0, pod(Some(0)), vec![Action::Kill])]);
    play(begun(), [(0, Event::Gone, vec![Action::Kill])]);
    play(begun(), [(0, Event::Evict, vec![Action::Kill]), (9, died(137), vec![end(137, true)])]);
    // One that was taken over has its port admitted until it is.
    play(
        started(),
        [
            (0, Event::Runs { fresh: false }, vec![Action::AdmitPort]),
            (0, Event::PortAdmitted(false), vec![]),
            (2000, Event::Tick, vec![Action::AdmitPort]),
            (2000, Event::PortAdmitted(true), vec![]),
            (9000, Event::Tick, vec![]),
        ],
    );
}

#[test]
fn what_an_earlier_agent_left_decides_how_a_life_goes_on() {
    let begin = |phase, record, actions: Vec<Action>| {
        let life = Life::new(phase, None);
        play(life, [(0, Event::Bound, vec![Action::ReadRecord]), (0, Event::Record(record), actions)])
    };
    begin(PodPhase::Final, Record::None, vec![]);
    begin(PodPhase::Running, Record::None, vec![Action::Sweep, Action::Lost]);
    begin(PodPhase::Running, Record::Ended, vec![Action::ReportEnd]);
    let life = begin(PodPhase::Running, Record::Started, vec![Action::FindContainer]);
    let life = play(
        life,
        [
            // Whether the guest runs is not known: it is not ended for that.
            (0, Event::Container(Container::Unknown), vec![]),
            (0, pod(Some(30)), vec![]),
            (2000, Event::Tick, vec![Action::FindContainer]),
            (2000, Event::Container(Container::Runs), vec![Action::Hold]),
            (2000, Event::NotHeld { short: true }, vec![]),
            (4000, Event::Tick, vec![Action::Hold]),
        ],
    );
    let adopted = Hold { fresh: false, descriptors: false, ran: true, grace_seconds: 30 };
    play(
        life,
        [
            (4000, Event::Held(adopted), vec![Action::Check, Action::AdmitPort]),
            (4000, Event::Checked(Check::Same { deleting: true }), vec![Action::Connect]),
            (4000, Event::Connected(true), vec![Action::Shutdown { grace_seconds: None }]),
            (4000, said(State::Running), vec![Action::Runs { paused: false }]),
            // Without its port the guest reaches nobody: tried again until it is there.
            (4000, Event::PortAdmitted(false), vec![]),
            (6000, Event::Tick, vec![Action::AdmitPort]),
            (6000, Event::PortAdmitted(false), vec![]),
            (10_000, Event::Tick, vec![Action::AdmitPort]),
            (10_000, Event::PortAdmitted(true), vec![]),
            (99_000, said(State::Running), vec![]),
        ],
    );
    let end = Action::End { code: None, end: None, evicted: false };
    let life = begin(PodPhase::Running, Record::Started, vec![Action::FindContainer]);
    play(life, [(0, Event::Container(Container::Ended), vec![end])]);
}

#[test]
fn a_record_that_cannot_be_read_is_read_again_and_ends_no_guest() {
    let mut life = play(pending(), [(0, Event::Bound, vec![Action::ReadRecord])]);
    let mut now = 0;
    let mut delays = Vec::new();
    for _ in 0..9 {
        life = play(life, [(now, Event::Record(Record::Unreadable), vec![]), (now, pod(Some(0)), vec![])]);
        let wake = u64::try_from(life.wake().unwrap().as_millis()).unwrap();
        delays.push((wake - now) / 1000);
        now = wake;
        life = play(life, [(now, Event::Tick, vec![Action::ReadRecord])]);
    }
    assert_eq!(delays, [2, 4, 8, 16, 32, 64, 120, 120, 120]);
}

#[test]
fn a_pod_that_cannot_be_started_waits_ends_or_tries_again() {
    let fails = |then| Event::NotStarted { reason: "ErrImagePull", message: "no".to_owned(), then };
    let complain = || Action::Complain { reason: "ErrImagePull", message: "no".to_owned() };
    let starting = || {
        play(
            pending(),
            [
                (0, Event::Bound, vec![Action::ReadRecord]),
                (0, Event::Record(Record::None), vec![Action::Sweep, Action::Admit]),
                (0, Event::Admitted, vec![Action::Start]),
            ],
        )
    };
    let life = play(
        starting(),
        [
            (0, fails(Then::Again), vec![complain()]),
            (2000, Event::Tick, vec![Action::Start]),
            (2000, fails(Then::Again), vec![complain()]),
            (5999, Event::Tick, vec![]),
            (6000, Event::Tick, vec![Action::Start]),
            (6000, fails(Then::Wait), vec![complain()]),
        ],
    );
    assert_eq!(life.wake(), None);
    play(life, [(7000, pod(Some(30)), vec![Action::Leave, Action::DeletePod])]);
    let reject = Action::Reject {
        condition: "ErrImagePull",
        reason: "ErrImagePull".to_owned(),
        message: "no".to_owned(),
    };
    let life = play(starting(), [(0, fails(Then::Reject), vec![reject])]);
    let life = play(life, [(0, Event::Gone, vec![Action::Leave])]);
    assert!(life.is_over());
}

#[test]
fn a_pod_that_is_bound_to_a_node_without_space_waits() {
    let life = play(
        pending(),
        [
            (0, Event::Bound, vec![Action::ReadRecord]),
            (0, Event::Record(Record::None), vec![Action::Sweep, Action::Admit]),
            (0, Event::Admitted, vec![Action::Start]),
        ],
    );
    let complain = || Action::Complain { reason: "NodeHasDiskPressure", message: SHORT_OF_DISK.to_owned() };
    let life = (0..5).fold(life, |life, round| {
        let now = round * 2000;
        play(
            life,
            [(now, Event::ShortOfDisk, vec![complain()]), (now + 2000, Event::Tick, vec![Action::Start])],
        )
    });
    play(life, [(10_000, Event::Started, vec![Action::Hold])]);
}

#[test]
fn a_pod_without_room_is_rejected_and_one_that_is_deleted_is_not_started() {
    let admitting = || {
        play(
            pending(),
            [
                (0, Event::Bound, vec![Action::ReadRecord]),
                (0, Event::Record(Record::None), vec![Action::Sweep, Action::Admit]),
            ],
        )
    };
    let no = Event::NotAdmitted { reason: "OutOfcpu".to_owned(), message: "no".to_owned() };
    let reject =
        Action::Reject { condition: "PodRejected", reason: "OutOfcpu".to_owned(), message: "no".to_owned() };
    play(admitting(), [(0, no, vec![reject])]);
    play(
        admitting(),
        [(0, pod(Some(30)), vec![]), (0, Event::Admitted, vec![Action::Leave, Action::DeletePod])],
    );
}

#[test]
fn no_order_goes_to_a_pod_that_is_deleted_or_another_one() {
    let held = || play(started(), [(0, Event::Held(HOLD), vec![Action::Check])]);
    play(held(), [(0, Event::Checked(Check::Same { deleting: true }), vec![Action::Kill])]);
    let differs = || Event::Checked(Check::Differs("spec".to_owned()));
    let part =
        || vec![Action::Disconnect, Action::Served(false), Action::Trouble { message: "spec".to_owned() }];
    let life = play(held(), [(0, differs(), part())]);
    // The watch says that it is as it was: the API server is asked at once.
    play(
        life,
        [
            (1, pod(None), vec![Action::Check]),
            (1, SAME, vec![Action::Served(true), Action::Connect]),
            (1, Event::Connected(true), vec![]),
            // Asked once more, since the launcher has no order yet.
            (2, said(State::Waiting), vec![Action::Check]),
            (2, differs(), part()),
        ],
    );
    let unknown = Event::Checked(Check::Unknown("late".to_owned()));
    play(
        held(),
        [(0, unknown, vec![Action::Waits("late".to_owned())]), (20, Event::Tick, vec![Action::Check])],
    );
}

#[test]
fn a_launcher_that_waits_gets_the_order_that_an_earlier_agent_could_not_send() {
    let life = play(
        started(),
        [
            (0, Event::Held(HOLD), vec![Action::Check]),
            (0, SAME, vec![Action::Connect]),
            (0, Event::Connected(true), vec![Action::Order]),
            (0, Event::Ordered(false), vec![Action::Disconnect]),
            (20, Event::Tick, vec![Action::Check]),
            (20, SAME, vec![Action::Connect]),
            (20, Event::Connected(true), vec![]),
            (20, said(State::Waiting), vec![Action::Check]),
            (20, SAME, vec![Action::OpenNetwork]),
            (20, Event::Opened(true), vec![Action::Order]),
            (20, Event::Ordered(true), vec![]),
        ],
    );
    play(life, [(30, said(State::Waiting), vec![])]);
}

#[test]
fn requests_are_answered_by_the_state_and_bounded_in_number() {
    let ask = |ticket, pause| Event::Switch { ticket, pause };
    let switch = |ticket, pause| vec![Action::Switch { ticket, pause }];
    let answer = |ticket, answer| Action::Answer { ticket, answer };
    play(ordered(), [(0, ask(1, true), vec![answer(1, Answer::NotRunning)])]);
    play(
        running(),
        [
            (200, ask(1, true), switch(1, true)),
            (201, ask(2, false), switch(2, false)),
            (202, said(State::Paused), vec![Action::Runs { paused: true }, answer(1, Answer::Done)]),
            (
                203,
                said(State::Running),
                vec![Action::Runs { paused: false }, Action::Tell(Notice::Resumed), answer(2, Answer::Done)],
            ),
            (204, ask(3, true), switch(3, true)),
            (205, refused("no"), vec![answer(3, Answer::Refused("no".to_owned()))]),
            (206, ask(4, true), switch(4, true)),
            (206, Event::NotSwitched { ticket: 4 }, vec![answer(4, Answer::NotRunning)]),
            // Two who want the same have it at the same time.
            (207, ask(5, true), switch(5, true)),
            (207, ask(6, true), switch(6, true)),
            (
                208,
                said(State::Paused),
                vec![Action::Runs { paused: true }, answer(5, Answer::Done), answer(6, Answer::Done)],
            ),
            (209, refused("paused"), vec![]),
        ],
    );
    let most = u64::try_from(MOST_SWITCHES).unwrap();
    let life = (0..most)
        .fold(running(), |life, ticket| play(life, [(200, ask(ticket, true), switch(ticket, true))]));
    let (_, actions) = step(
        play(life, [(200, ask(most, true), vec![answer(most, Answer::Silent)])]),
        Event::Died { code: None },
        ms(300),
    );
    let answered = actions.iter().filter(|action| matches!(action, Action::Answer { .. })).count();
    assert_eq!(answered, MOST_SWITCHES, "nobody waits for a guest that has ended");
}

#[test]
fn asking_again_does_not_put_off_the_end() {
    let life = play(
        running(),
        [
            (1000, pod(Some(30)), vec![Action::Shutdown { grace_seconds: None }]),
            (2000, Event::NotAsked, vec![Action::Disconnect]),
        ],
    );
    assert_eq!(life.kill_at(), Some(ms(31_000)));
    let life = play(
        life,
        [
            (3000, Event::Tick, vec![Action::Check]),
            (3000, SAME, vec![Action::Connect]),
            (3000, Event::Connected(true), vec![Action::Shutdown { grace_seconds: None }]),
            (4000, pod(Some(60)), vec![]),
        ],
    );
    assert_eq!(life.kill_at(), Some(ms(31_000)));
    // A shorter grace counts, and the launcher ends a little earlier.
    let life = play(life, [(5000, pod(Some(5)), vec![Action::Shutdown { grace_seconds: Some(4) }])]);
    assert_eq!(life.kill_at(), Some(ms(10_000)));
    play(life, [(9999, Event::Tick, vec![]), (10_000, Event::Tick, vec![Action::Kill])]);
    play(running(), [(1000, pod(Some(0)), vec![Action::Kill])]);
    let life = play(running(), [(0, pod(Some(i64::MAX)), vec![Action::Shutdown { grace_seconds: None }])]);
    assert!(life.kill_at() > Some(Duration::from_secs(100 * 365 * 24 * 3600)));
}

#[test]
fn nonsense_closes_the_connection_and_nobody_waits_for_its_answer() {
    let life = play(
        running(),
        [(200, Event::Switch { ticket: 1, pause: true }, vec![Action::Switch { ticket: 1, pause: true }])],
    );
    let mut life = play(
        life,
        [(
            200,
            said(State::Waiting),
            vec![Action::Misbehaves {
                what: "it says that it has no order after it had one".to_owned(),
                wrong: Wrong::Log { suppressed: 0 },
            }],
        )],
    );
    for _ in 0..15 {
        let what = "it says that its guest starts again".to_owned();
        let ignored = Action::Misbehaves { what, wrong: Wrong::Ignore };
        life = play(life, [(200, said(State::Starting), vec![ignored])]);
    }
    let closed = vec![
        Action::Misbehaves {
            what: "it says that its guest starts again".to_owned(),
            wrong: Wrong::Close { pause: Duration::from_secs(1), suppressed: 15 },
        },
        Action::Disconnect,
        Action::Answer { ticket: 1, answer: Answer::NotRunning },
        Action::Tell(Notice::Misbehaves),
    ];
    let life = play(life, [(200, said(State::Starting), closed)]);
    // What was in the socket does not count any more.
    let life = play(life, [(200, said(ended(Ending::Shutdown)), vec![])]);
    assert_eq!(life.wake(), Some(ms(1200)));
    play(life, [(1199, Event::Tick, vec![]), (1200, Event::Tick, vec![Action::Check])]);
}

#[test]
fn an_evicted_pod_and_one_that_is_gone_are_killed() {
    let end = |evicted| Action::End { code: Some(137), end: None, evicted };
    play(
        running(),
        [(1, Event::Evict, vec![Action::Kill]), (2, Event::Died { code: Some(137) }, vec![end(true)])],
    );
    let life = play(
        running(),
        [
            (1, Event::Gone, vec![Action::Kill]),
            (2, Event::Died { code: Some(137) }, vec![end(false), Action::Leave]),
        ],
    );
    assert!(life.is_over());
    // Where there is no container there is nothing to give back.
    play(pending(), [(0, Event::Bound, vec![Action::ReadRecord]), (0, Event::Evict, vec![])]);
}

#[test]
fn a_launcher_that_closes_its_connection_and_lives_misbehaves() {
    let misbehaves = Action::Misbehaves {
        what: "it closes its connection and takes another one".to_owned(),
        wrong: Wrong::Log { suppressed: 0 },
    };
    let life = play(
        running(),
        [
            (200, Event::Closed, vec![Action::Disconnect]),
            (220, Event::Tick, vec![Action::Check]),
            (220, SAME, vec![Action::Connect]),
            (220, Event::Connected(true), vec![misbehaves]),
        ],
    );
    // One that cannot be connected to has ended, or is about to: that is no misconduct.
    play(
        life,
        [
            (300, Event::Closed, vec![Action::Disconnect]),
            (320, Event::Tick, vec![Action::Check]),
            (320, SAME, vec![Action::Connect]),
            (320, Event::Connected(false), vec![Action::Disconnect]),
        ],
    );
}

#[test]
fn a_launcher_whose_disks_are_not_ready_gets_its_order_again_until_it_starts_or_is_deleted() {
    let not_ready = |message: &str| Event::Said(protocol::Event::NotReady { message: message.to_owned() });
    let sent = |at| {
        [
            (at, SAME, vec![Action::Connect]),
            (at, Event::Connected(true), vec![]),
            (at, said(State::Waiting), vec![Action::Check]),
            (at, SAME, vec![Action::OpenNetwork]),
            (at, Event::Opened(true), vec![Action::Order]),
            (at, Event::Ordered(true), vec![]),
        ]
    };
    let says = || vec![Action::Disconnect, Action::NotReady { message: "no disk".to_owned() }];
    let waiting = || {
        let life = play(
            started(),
            [
                (0, Event::Held(HOLD), vec![Action::Check]),
                (0, SAME, vec![Action::Connect]),
                (0, Event::Connected(true), vec![Action::Order]),
                (0, Event::Ordered(true), vec![]),
                (0, said(State::Waiting), vec![]),
                (0, not_ready("no disk"), says()),
                (1999, Event::Tick, vec![]),
                (2000, Event::Tick, vec![Action::Check]),
            ],
        );
        let life = play(life, sent(2000));
        play(life, [(2000, not_ready("no disk"), says()), (5999, Event::Tick, vec![])])
    };
    let life = play(waiting(), [(6000, Event::Tick, vec![Action::Check])]);
    let life = play(life, sent(6000));
    // The trouble that users were informed of is over.
    let life = play(life, [(6000, said(State::Starting), vec![Action::Served(true)])]);
    let wrong = Action::Misbehaves {
        what: "it is not ready for what nobody asked for: again".to_owned(),
        wrong: Wrong::Log { suppressed: 0 },
    };
    play(life, [(6000, not_ready("again"), vec![wrong])]);
    // There is no guest that could be asked to shut down.
    play(waiting(), [(6000, pod(Some(30)), vec![Action::Check, Action::Kill])]);
}

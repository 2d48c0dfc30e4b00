use super::*;
use proptest::prelude::*;

const ONE: Option<Identity> = Some((1, 7, 100, 0));
/// Another socket with the same inode.
const TWO: Option<Identity> = Some((1, 7, 200, 0));

struct Clock(Instant);

impl Clock {
    fn after(&self, milliseconds: u64) -> Instant {
        self.0 + Duration::from_millis(milliseconds)
    }
}

fn listening(clock: &Clock) -> Registration {
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(ONE), clock.after(0));
    assert!(state.begin(clock.after(0)));
    // The kubelet connects before it answers.
    state.step(Event::Opened, clock.after(1));
    state.step(Event::Answered(true), clock.after(2));
    assert!(state.holds());
    state
}

#[test]
fn nobody_is_called_before_there_is_a_kubelet() {
    let clock = Clock(Instant::now());
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(None), clock.after(0));
    assert!(!state.begin(clock.after(1000)));
    state.step(Event::Looked(ONE), clock.after(2000));
    assert!(state.begin(clock.after(2000)));
}

#[test]
fn what_fails_is_tried_again_with_pauses_that_grow_to_a_limit() {
    let clock = Clock(Instant::now());
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(ONE), clock.after(0));
    let mut now = clock.after(0);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        assert!(state.begin(now));
        state.step(Event::Answered(false), now);
        let Phase::Due(at) = state.phase else { panic!("{state:?}") };
        assert!(!state.begin(at - Duration::from_millis(1)));
        pauses.push((at - now).as_millis());
        now = at;
    }
    assert_eq!(pauses[..8], [200, 400, 800, 1600, 3200, 6400, 12800, 25600]);
    assert_eq!(pauses[8..], [30000; 4]);
}

#[test]
fn another_kubelet_is_called_at_once_whatever_the_pause() {
    let clock = Clock(Instant::now());
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(ONE), clock.after(0));
    let mut now = clock.after(0);
    for _ in 0..10 {
        let Phase::Due(at) = state.phase else { panic!("{state:?}") };
        now = at;
        assert!(state.begin(now));
        state.step(Event::Answered(false), now);
    }
    state.step(Event::Looked(None), now);
    assert!(!state.begin(now));
    state.step(Event::Looked(TWO), now);
    assert!(state.begin(now));
}

#[test]
fn who_listens_no_more_is_registered_with_again() {
    let clock = Clock(Instant::now());
    let mut state = listening(&clock);
    state.step(Event::Closed, clock.after(10));
    assert!(!state.holds() && !state.begin(clock.after(11)));
    assert!(state.begin(clock.after(210)));
}

/// Machines that start with their node wait for its places.
#[test]
fn a_kubelet_that_does_not_listen_is_looked_for_more_often() {
    let clock = Clock(Instant::now());
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(None), clock.after(0));
    assert_eq!(state.next(clock.after(0)), clock.after(0) + SOON);
    let state = listening(&clock);
    assert_eq!(state.next(clock.after(10)), clock.after(10) + LOOK);
}

#[test]
fn a_socket_with_the_inode_of_the_one_before_is_another_kubelet() {
    let clock = Clock(Instant::now());
    let mut state = listening(&clock);
    state.step(Event::Looked(ONE), clock.after(500));
    assert!(state.holds());
    state.step(Event::Looked(TWO), clock.after(1000));
    assert!(state.begin(clock.after(1000)));
}

#[test]
fn an_old_listener_that_goes_after_a_new_one_came_ends_nothing() {
    let clock = Clock(Instant::now());
    let mut state = listening(&clock);
    state.step(Event::Looked(TWO), clock.after(1000));
    assert!(state.begin(clock.after(1000)));
    state.step(Event::Opened, clock.after(1001));
    state.step(Event::Answered(true), clock.after(1002));
    state.step(Event::Closed, clock.after(1003));
    assert!(state.holds());
    state.step(Event::Closed, clock.after(1004));
    assert!(!state.holds());
}

#[test]
fn a_kubelet_that_takes_the_call_and_does_not_listen_is_called_again() {
    let clock = Clock(Instant::now());
    let mut state = Registration::new(clock.after(0));
    state.step(Event::Looked(ONE), clock.after(0));
    assert!(state.begin(clock.after(0)));
    state.step(Event::Answered(true), clock.after(1));
    state.step(Event::Waited, clock.after(9_000));
    assert!(!state.begin(clock.after(9_000)));
    state.step(Event::Waited, clock.after(10_001));
    assert!(state.begin(clock.after(10_201)));
}

/// Two plug-ins of one name push each other out; the longer it goes on the less often.
#[test]
fn two_of_one_name_do_not_fight_without_pause() {
    let clock = Clock(Instant::now());
    let mut state = listening(&clock);
    let mut now = clock.after(2);
    let mut calls = 0;
    while now < clock.after(120_000) {
        state.step(Event::Closed, now);
        let Phase::Due(at) = state.phase else { panic!("{state:?}") };
        now = at;
        assert!(state.begin(now));
        calls += 1;
        state.step(Event::Opened, now);
        state.step(Event::Answered(true), now);
    }
    assert!(calls <= 12, "{calls}");
    // One that lasted begins with the first pause again.
    now += STABLE;
    state.step(Event::Closed, now);
    assert!(state.begin(now + FIRST));
}

fn events() -> impl Strategy<Value = Vec<(u8, u16)>> {
    prop::collection::vec((0..7_u8, 0..20_000_u16), 0..200)
}

proptest! {
    /// Whatever happens, a kubelet that is there for long enough is called or listens.
    #[test]
    fn it_never_stays_unregistered(history in events()) {
        let mut now = Instant::now();
        let mut state = Registration::new(now);
        let mut listeners = 0_u32;
        for (event, wait) in history {
            now += Duration::from_millis(wait.into());
            let event = match event {
                0 => Event::Looked(None),
                1 => Event::Looked(ONE),
                2 => Event::Looked(TWO),
                3 if state.phase == Phase::Calling => Event::Answered(true),
                4 if state.phase == Phase::Calling => Event::Answered(false),
                5 => { listeners += 1; Event::Opened }
                6 if listeners > 0 => { listeners -= 1; Event::Closed }
                _ => Event::Waited,
            };
            state.step(event, now);
            state.begin(now);
            prop_assert!(state.next(now) > now);
        }
        if state.phase == Phase::Calling {
            state.step(Event::Answered(false), now);
        }
        for _ in 0..listeners {
            state.step(Event::Closed, now);
        }
        state.step(Event::Looked(ONE), now);
        let end = now + LISTENS + LONGEST;
        let mut called = false;
        while now <= end && !called {
            state.step(Event::Waited, now);
            called = state.begin(now);
            now = state.next(now);
        }
        prop_assert!(called, "{:?}", state);
    }
}

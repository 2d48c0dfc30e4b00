use super::*;
use proptest::prelude::*;

const KEEP: Duration = Duration::from_secs(120);

fn holder(pod: &str) -> Holder {
    Holder { namespace: "vms".to_owned(), pod: pod.to_owned(), container: "compute".to_owned() }
}

fn shown(pods: &[(&str, &str)]) -> Shown {
    let mut shown = Shown::default();
    for (slot, pod) in pods {
        shown.holders.entry((*slot).to_owned()).or_default().insert(holder(pod));
    }
    shown
}

fn state<'a>(table: &'a Table, name: &str) -> Option<&'a State> {
    table.records().find(|(found, _)| *found == name).map(|(_, record)| &record.state)
}

fn held(pod: &str) -> State {
    State::Held(holder(pod))
}

fn refused(why: Refusal, before: Option<&str>) -> State {
    State::Refused { why, before: before.map(holder) }
}

/// Seconds after a beginning.
fn at(seconds: u64) -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    *START + Duration::from_secs(seconds)
}

/// A look, with everything done on the disk that it wants.
fn seen(table: &mut Table, shown: &Shown, began: Instant, now: Instant) -> Vec<Action> {
    let actions = table.seen(shown, began, now);
    for action in &actions {
        table.done(action);
    }
    actions
}

fn one() -> Table {
    let mut table = Table::new(KEEP, 100);
    table.allocate("7", "first", at(10)).unwrap();
    table
}

/// What one look shows: slots with pods.
type Look = &'static [(&'static str, &'static str)];

/// Each row: what is shown one look after another, and what becomes of the slot.
#[test]
fn a_slot_is_its_one_holders_and_nobodys_while_it_is_doubtful() {
    let none: Look = &[];
    let rows: [(&[Look], State); 8] = [
        (&[none], State::Waiting),
        (&[&[("8", "a")]], State::Waiting),
        (&[&[("7", "a")]], held("a")),
        (&[none, &[("7", "a"), ("8", "b")]], held("a")),
        (&[&[("7", "a"), ("7", "b")]], refused(Refusal::Shared, None)),
        (&[&[("7", "a"), ("7", "b")], &[("7", "b")]], held("b")),
        (&[&[("7", "a")], &[("7", "b")]], refused(Refusal::Changed, Some("a"))),
        (&[&[("7", "a")], &[("7", "b")], &[("7", "a")]], held("a")),
    ];
    for (looks, wanted) in rows {
        let mut table = one();
        for (number, look) in looks.iter().enumerate() {
            let now = at(11 + number as u64);
            seen(&mut table, &shown(look), now, now);
        }
        assert_eq!(state(&table, "first"), Some(&wanted), "{looks:?}");
    }
}

#[test]
fn a_slot_is_refused_while_two_pods_have_the_name_of_its_pod() {
    let mut table = one();
    let mut two = shown(&[("7", "a")]);
    two.twins.insert(("vms".to_owned(), "a".to_owned()));
    seen(&mut table, &two, at(11), at(11));
    assert_eq!(state(&table, "first"), Some(&refused(Refusal::Twins, None)));
    seen(&mut table, &shown(&[("7", "a")]), at(12), at(12));
    assert_eq!(state(&table, "first"), Some(&held("a")));
}

#[test]
fn a_look_that_began_before_the_slot_was_given_says_nothing_of_it() {
    let mut table = one();
    assert_eq!(seen(&mut table, &shown(&[("7", "old")]), at(9), at(11)), []);
    assert_eq!(state(&table, "first"), Some(&State::Waiting));
}

#[test]
fn only_the_latest_directory_of_a_slot_has_a_holder() {
    let mut table = one();
    seen(&mut table, &shown(&[("7", "a")]), at(11), at(11));
    table.allocate("7", "second", at(20)).unwrap();
    // Of the same name as the pod before.
    let actions = seen(&mut table, &shown(&[("7", "a")]), at(21), at(21));
    assert!(matches!(&actions[..], [Action::Write(name, record)] if name == "second" && record.number == 2));
    // What is shown under the old name does not keep the old directory.
    let actions = seen(&mut table, &shown(&[("7", "a")]), at(141), at(141));
    assert_eq!(actions, [Action::Remove("first".to_owned())]);
    assert_eq!(state(&table, "second"), Some(&held("a")));
}

#[test]
fn a_directory_goes_when_its_pod_is_missing_for_long_and_not_before() {
    let mut table = one();
    seen(&mut table, &shown(&[("7", "a")]), at(11), at(11));
    assert_eq!(seen(&mut table, &shown(&[]), at(100), at(100)), []);
    assert_eq!(seen(&mut table, &shown(&[]), at(220), at(220)), []);
    // Its container was started again, and it is there.
    assert_eq!(seen(&mut table, &shown(&[("7", "a")]), at(221), at(221)), []);
    assert_eq!(seen(&mut table, &shown(&[]), at(222), at(222)), []);
    assert_eq!(seen(&mut table, &shown(&[]), at(342), at(342)), []);
    assert_eq!(seen(&mut table, &shown(&[]), at(343), at(343)), [Action::Remove("first".to_owned())]);
    assert_eq!((table.records().count(), table.next()), (0, None));
}

#[test]
fn the_time_in_which_the_kubelet_is_away_does_not_count() {
    let mut table = one();
    seen(&mut table, &shown(&[("7", "a")]), at(11), at(11));
    seen(&mut table, &shown(&[]), at(12), at(12));
    table.failed(at(200));
    assert_eq!(seen(&mut table, &shown(&[]), at(300), at(300)), []);
    table.away();
    assert_eq!(seen(&mut table, &shown(&[]), at(500), at(500)), []);
    assert_eq!(seen(&mut table, &shown(&[]), at(621), at(621)), [Action::Remove("first".to_owned())]);
}

#[test]
fn a_slot_that_nobody_was_ever_seen_with_goes_too() {
    let mut table = one();
    seen(&mut table, &shown(&[]), at(11), at(11));
    assert_eq!(seen(&mut table, &shown(&[]), at(132), at(132)), [Action::Remove("first".to_owned())]);
}

#[test]
fn what_was_kept_is_known_again_and_compared() {
    let mut table = one();
    seen(&mut table, &shown(&[("7", "a")]), at(11), at(11));
    table.allocate("7", "second", at(12)).unwrap();
    table.allocate("8", "third", at(12)).unwrap();
    seen(&mut table, &shown(&[("7", "b"), ("8", "c")]), at(13), at(13));
    let kept: Vec<_> = table.records().map(|(name, record)| (name.to_owned(), record.clone())).collect();
    for kept in [kept.clone(), kept.into_iter().rev().collect::<Vec<_>>()] {
        let mut table = Table::new(KEEP, 100);
        table.restore(kept, at(50));
        assert!(table.begin(at(50)));
        assert_eq!(seen(&mut table, &shown(&[("7", "b"), ("8", "d")]), at(50), at(51)).len(), 1);
        assert_eq!(state(&table, "second"), Some(&held("b")));
        assert_eq!(state(&table, "third"), Some(&refused(Refusal::Changed, Some("c"))));
        assert_eq!(state(&table, "first"), Some(&held("a")));
        let record = table.allocate("9", "fourth", at(52)).unwrap();
        assert_eq!(record.number, 4);
        let gone = seen(&mut table, &shown(&[("7", "b"), ("8", "d")]), at(171), at(171));
        assert_eq!(gone, [Action::Remove("first".to_owned())]);
    }
}

#[test]
fn there_is_a_limit_of_directories() {
    let mut table = Table::new(KEEP, 2);
    table.allocate("1", "a", at(0)).unwrap();
    table.allocate("2", "b", at(0)).unwrap();
    // Either may be of a pod that is about to start.
    assert_eq!((table.spare(), table.allocate("1", "c", at(0))), (None, Err(Full)));
    table.cancel("b");
    assert_eq!(table.allocate("1", "c", at(0)), Err(Full));
    assert_eq!(seen(&mut table, &shown(&[]), at(1), at(1)), [Action::Remove("b".to_owned())]);
    assert!(table.allocate("1", "c", at(1)).is_ok());
}

/// Pods that are refused for another of their containers each take a slot for a moment.
#[test]
fn what_nobody_used_gives_way_at_the_limit() {
    let mut table = Table::new(KEEP, 4);
    table.allocate("1", "was used", at(0)).unwrap();
    seen(&mut table, &shown(&[("1", "a")]), at(1), at(1));
    for (slot, name) in [("1", "b"), ("2", "c"), ("1", "d")] {
        assert_eq!(table.spare(), None);
        table.allocate(slot, name, at(2)).unwrap();
    }
    // It is still there if it cannot be removed.
    assert_eq!(table.spare(), Some(Action::Remove("b".to_owned())));
    assert_eq!((table.spare(), table.allocate("1", "e", at(2))), (None, Err(Full)));
    assert_eq!(seen(&mut table, &shown(&[]), at(3), at(3)), [Action::Remove("b".to_owned())]);
    for number in 0..100 {
        table.allocate("1", &number.to_string(), at(4)).unwrap();
        let spare = table.spare().unwrap();
        assert_ne!(spare, Action::Remove("was used".to_owned()));
        table.done(&spare);
    }
}

#[test]
fn what_the_disk_did_not_take_is_given_again_until_it_does() {
    let mut table = one();
    let both = shown(&[("7", "a"), ("7", "b")]);
    let write = |table: &Table, actions: &[Action]| {
        let record = table.records().next().unwrap().1.clone();
        assert_eq!(actions, [Action::Write("first".to_owned(), record)]);
    };
    let held = table.seen(&shown(&[("7", "a")]), at(11), at(11));
    write(&table, &held);
    // Lost, and no one is served any more.
    let refused = table.seen(&both, at(12), at(12));
    write(&table, &refused);
    table.done(&held[0]);
    assert_eq!(table.seen(&both, at(13), at(13)), refused, "an older record was written");
    table.done(&refused[0]);
    assert_eq!(table.seen(&both, at(14), at(14)), []);

    table.seen(&shown(&[]), at(20), at(20));
    let gone = [Action::Remove("first".to_owned())];
    assert_eq!(table.seen(&shown(&[]), at(141), at(141)), gone);
    // What is shown in its slot now is another's, and the kubelet may go and come.
    table.away();
    assert_eq!(table.seen(&shown(&[("7", "a")]), at(142), at(142)), gone);
    assert!(table.next().is_some());
    table.done(&gone[0]);
    assert_eq!((table.seen(&shown(&[]), at(143), at(143)), table.next()), (vec![], None));
}

#[test]
fn records_are_read_as_they_were_written() {
    let states =
        [State::Waiting, held("a"), refused(Refusal::Twins, None), refused(Refusal::Changed, Some("a"))];
    for state in states {
        let record = Record { slot: "7".to_owned(), number: 3, state };
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record, "{text}");
    }
    assert!(serde_json::from_str::<Record>(r#"{"slot":"7","number":3,"state":"held"}"#).is_err());
}

/// A kubelet: pods with a slot each, of few names, so that names and slots are used again.
#[derive(Default)]
struct Node {
    /// Slot, name of the pod, and its directory.
    pods: Vec<(u8, String, String)>,
    /// What each directory was made for.
    given: BTreeMap<String, Holder>,
}

impl Node {
    fn shown(&self) -> Shown {
        let mut shown = Shown::default();
        for (index, (slot, pod, _)) in self.pods.iter().enumerate() {
            shown.holders.entry(slot.to_string()).or_default().insert(holder(pod));
            if self.pods.iter().skip(index + 1).any(|(_, other, _)| other == pod) {
                shown.twins.insert(("vms".to_owned(), pod.clone()));
            }
        }
        shown
    }
}

proptest! {
    #[test]
    fn no_history_gives_a_directory_to_another_pod_or_takes_it_from_a_running_one(
        history in prop::collection::vec((0..9_u8, 0..4_u8, 0..3_u8, 0..60_u64), 1..120)
    ) {
        let (mut node, mut table) = (Node::default(), Table::new(KEEP, 1000));
        let mut now = at(0);
        let mut looking: Option<(Instant, Shown)> = None;
        let mut looks: Vec<Instant> = Vec::new();
        let mut made = 0;
        for (event, slot, name, wait) in history {
            now += Duration::from_secs(wait);
            match event {
                // A pod starts in a slot that is free.
                0..3 if !node.pods.iter().any(|(used, ..)| *used == slot) => {
                    made += 1;
                    let (pod, directory) = (format!("pod{name}"), format!("directory{made}"));
                    table.allocate(&slot.to_string(), &directory, now).unwrap();
                    node.given.insert(directory.clone(), holder(&pod));
                    node.pods.push((slot, pod, directory));
                }
                3 => node.pods.retain(|(used, ..)| *used != slot),
                // A look takes a while: what it shows may be of any time in between.
                4 if table.begin(now) => {
                    looks.push(now);
                    looking = Some((now, node.shown()));
                }
                5 => if let Some((_, shown)) = &mut looking { *shown = node.shown() },
                6 => if let Some((began, shown)) = looking.take() {
                    for action in seen(&mut table, &shown, began, now) {
                        if let Action::Remove(name) = action {
                            let lives = node.pods.iter().any(|(.., directory)| *directory == name);
                            prop_assert!(!lives, "{} was removed under its pod", name);
                        }
                    }
                },
                7 => { table.failed(now); looking = None; }
                // The program is started again.
                8 => {
                    let kept: Vec<_> =
                        table.records().map(|(name, record)| (name.to_owned(), record.clone())).collect();
                    table = Table::new(KEEP, 1000);
                    table.restore(kept, now);
                    looking = None;
                }
                _ => {}
            }
            for (name, record) in table.records() {
                if let State::Held(found) = &record.state {
                    prop_assert_eq!(found, &node.given[name], "{}", name);
                }
            }
        }
        // In the end every pod that is alone with its name is known, and of the others nothing is left.
        for round in 0..20 {
            now = (now + Duration::from_secs(20)).max(table.next().unwrap_or(now));
            if table.begin(now) {
                let shown = node.shown();
                seen(&mut table, &shown, now, now);
                prop_assert!(round < 19 || table.records().count() == node.pods.len());
            }
        }
        let twins = node.shown().twins;
        for (_, pod, directory) in &node.pods {
            let twin = twins.contains(&("vms".to_owned(), pod.clone()));
            let known = state(&table, directory) == Some(&held(pod));
            prop_assert!(known || twin, "{} {:?}", directory, state(&table, directory));
        }
        prop_assert_eq!(table.next().is_none(), node.pods.is_empty());
    }

    #[test]
    fn there_are_never_more_than_a_hundred_looks_in_a_second(
        history in prop::collection::vec((0..3_u8, 0..2_000_u64), 1..400)
    ) {
        let mut table = Table::new(KEEP, 10_000);
        let mut now = at(0);
        let mut looks: Vec<Instant> = Vec::new();
        for (number, (event, wait)) in history.into_iter().enumerate() {
            now += Duration::from_micros(wait);
            if event < 2 {
                table.allocate(&(number % 110).to_string(), &number.to_string(), now).unwrap();
            } else {
                table.failed(now);
            }
            // As the program does: it looks whenever a look is due.
            for _ in 0..3 {
                if table.begin(now) {
                    looks.push(now);
                    seen(&mut table, &Shown::default(), now, now);
                }
            }
        }
        for (index, first) in looks.iter().enumerate() {
            let within = looks[index..].iter().filter(|at| **at < *first + Duration::from_secs(1)).count();
            prop_assert!(within <= 100, "{}", within);
        }
    }
}

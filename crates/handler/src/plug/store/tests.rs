use super::*;
use crate::plug::table::{Holder, Refusal, State};
use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixListener,
    },
};

fn record(number: u64, state: State) -> Record {
    Record { slot: "7".to_owned(), number, state }
}

#[test]
fn directories_are_found_again_with_what_is_known_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (one, two) = (store.name().unwrap(), store.name().unwrap());
    assert!(is_ours(&one) && one != two);
    let path = store.make(&one, &record(1, State::Waiting)).unwrap();
    assert_eq!(path, directory.path().join("slots").join(&one));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o711);
    for closed in
        [directory.path().to_owned(), directory.path().join("slots"), directory.path().join("records")]
    {
        assert_eq!(fs::metadata(&closed).unwrap().mode() & 0o777, 0o700, "{}", closed.display());
    }
    store.make(&two, &record(2, State::Waiting)).unwrap();
    let holder = Holder { namespace: "a".to_owned(), pod: "b".to_owned(), container: "c".to_owned() };
    let held = record(1, State::Held(holder.clone()));
    store.write(&one, &held).unwrap();
    let refused = record(2, State::Refused { why: Refusal::Shared, before: Some(holder) });
    store.write(&two, &refused).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.load().unwrap(), BTreeMap::from([(one.clone(), held), (two.clone(), refused.clone())]));

    let _socket = UnixListener::bind(path.join("link.sock")).unwrap();
    store.remove(&one).unwrap();
    store.remove(&one).unwrap();
    assert!(!path.exists());
    assert_eq!(store.load().unwrap(), BTreeMap::from([(two, refused)]));
}

#[test]
fn of_a_directory_that_cannot_be_made_the_first_error_is_reported_and_nothing_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (slots, records) = (directory.path().join("slots"), directory.path().join("records"));
    let name = store.name().unwrap();
    // The record cannot take its place.
    fs::create_dir(records.join(&name)).unwrap();
    let error = store.make(&name, &record(1, State::Waiting)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ISDIR.raw_os_error()), "{error}");
    assert!(!records.join(&name).exists() && !slots.join(&name).exists());
    // The directory is there, and cannot be removed either.
    fs::create_dir_all(slots.join(&name).join("inside").join("deeper")).unwrap();
    let error = store.make(&name, &record(1, State::Waiting)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
    assert!(!records.join(&name).exists());
}

#[test]
fn what_is_unknown_is_removed_and_links_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("precious"), "x").unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = |letter: &str| letter.repeat(32);
    let (slots, records) = (directory.path().join("slots"), directory.path().join("records"));
    // A record without a directory, one with a link for a directory, one that is damaged, one of another name.
    store.write(&name("a"), &record(1, State::Waiting)).unwrap();
    store.write(&name("b"), &record(2, State::Waiting)).unwrap();
    symlink(outside.path(), slots.join(name("b"))).unwrap();
    store.make(&name("c"), &record(3, State::Waiting)).unwrap();
    fs::write(records.join(name("c")), "{").unwrap();
    fs::write(records.join("other"), "{}").unwrap();
    // A directory without a record, with a link and a directory in it.
    fs::create_dir_all(slots.join(name("d")).join("inside")).unwrap();
    symlink(outside.path(), slots.join(name("d")).join("link")).unwrap();
    // A record that is a link to one.
    store.make(&name("e"), &record(4, State::Waiting)).unwrap();
    let elsewhere = outside.path().join("record");
    fs::rename(records.join(name("e")), &elsewhere).unwrap();
    symlink(&elsewhere, records.join(name("e"))).unwrap();
    store.make(&name("f"), &record(5, State::Waiting)).unwrap();

    assert_eq!(store.load().unwrap(), BTreeMap::from([(name("f"), record(5, State::Waiting))]));
    for directory in [slots, records] {
        let left: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [name("f").as_str()]);
    }
    assert!(outside.path().join("precious").exists() && elsewhere.exists());
}

#[test]
fn a_directory_that_is_a_link_or_open_to_others_is_refused_or_closed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    symlink(outside.path(), directory.path().join("slots")).unwrap();
    assert!(Store::open(directory.path()).is_err());
    assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none());
    if rustix::process::geteuid().is_root() {
        fs::remove_file(directory.path().join("slots")).unwrap();
        fs::create_dir(directory.path().join("slots")).unwrap();
        std::os::unix::fs::chown(directory.path().join("slots"), Some(107), Some(107)).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }
}

#[test]
fn one_process_has_it_and_the_next_one_has_to_wait() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    store.set_host(Some(7)).unwrap();
    assert_eq!(Store::open(directory.path()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let host: Host = serde_json::from_slice(&fs::read(directory.path().join("host")).unwrap()).unwrap();
    assert_eq!(host, Host { network_namespace: 7, boot: boot().unwrap() });
    drop(store);
    let _store = Store::open(directory.path()).unwrap();
    assert!(!directory.path().join("host").exists());
}

#[test]
fn what_cannot_be_removed_stays_and_keeps_nobody_from_starting() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = store.name().unwrap();
    store.make(&name, &record(1, State::Waiting)).unwrap();
    for parent in ["slots", "records"] {
        fs::create_dir_all(directory.path().join(parent).join("a".repeat(32)).join("inside/deeper")).unwrap();
    }
    fs::create_dir(directory.path().join("slots").join("b".repeat(32))).unwrap();
    assert_eq!(store.load().unwrap(), BTreeMap::from([(name, record(1, State::Waiting))]));
    assert!(directory.path().join("slots").join("a".repeat(32)).exists());
    assert!(!directory.path().join("slots").join("b".repeat(32)).exists());
}

#[test]
fn a_directory_is_not_removed_for_an_error_that_says_nothing() {
    for passing in [Errno::MFILE, Errno::NFILE, Errno::IO, Errno::NOMEM, Errno::ACCESS] {
        let error = there::<OwnedFd>(Err(passing)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(passing.raw_os_error()));
    }
    for missing in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP] {
        assert!(there::<OwnedFd>(Err(missing)).unwrap().is_none());
    }
    // A record that cannot be opened, for another reason than that it is missing.
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = store.name().unwrap();
    let path = store.make(&name, &record(1, State::Waiting)).unwrap();
    let kept = directory.path().join("records").join(&name);
    fs::remove_file(&kept).unwrap();
    let _socket = UnixListener::bind(&kept).unwrap();
    let error = store.load().unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
    assert!(path.exists() && kept.exists());
}

#[test]
fn a_record_of_another_version_ends_the_start_with_its_directory_kept() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let name = store.name().unwrap();
    let path = store.make(&name, &record(1, State::Waiting)).unwrap();
    let kept = directory.path().join("records").join(&name);
    assert_eq!(
        fs::read_to_string(&kept).unwrap(),
        r#"{"version":1,"slot":"7","number":1,"state":"waiting"}"#
    );
    let newer = r#"{"version":2,"slot":"7","number":1,"state":{"pausing":{"since":3}}}"#;
    fs::write(&kept, newer).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(
        error.contains("it has version 2, and this program knows 1: install the virt-handler"),
        "{error}"
    );
    assert!(path.exists());
    assert_eq!(fs::read_to_string(&kept).unwrap(), newer);
}

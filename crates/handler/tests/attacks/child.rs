//! Descriptors whose closing waits.

use crate::{Namespace, udp};
use ferrovirt_handler::net::{
    child::{End, LINK, Worker},
    descriptors,
};
use ferrovirt_sys::process;
use rustix::{
    net::sockopt::{set_socket_linger, set_socket_recv_buffer_size},
    process::{Resource, Rlimit, setrlimit},
};
use std::{
    io::{ErrorKind, Write},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::Command,
    time::{Duration, Instant},
};

/// Names what the child does; without it the child's test is none.
const ROLE: &str = "HANDLER_TEST_CHILD";
/// Much longer than a child takes that does what it should.
const DEADLINE: Duration = Duration::from_secs(20);

/// Not a test of its own: what the tests below start.
#[test]
fn the_child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let link = process::inherited(LINK).unwrap();
    if role == "few" {
        // No number is left for a descriptor, whatever this process has open.
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
    }
    if role == "sleeps" {
        std::thread::sleep(Duration::from_secs(3600));
    }
    let refused = descriptors::receive(link.as_fd(), 1).is_err();
    std::process::exit(if refused { 7 } else { 0 });
}

fn start(role: &str, link: OwnedFd) -> Worker {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child::the_child", "--nocapture"]).env(ROLE, role);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    Worker::start(command, link).unwrap()
}

fn code(end: End) -> Option<i32> {
    match end {
        End::Exit(status) => status.code(),
        _ => None,
    }
}

/// A connection with bytes on the way that nobody takes, which lingers for an hour.
fn lingering() -> (TcpStream, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    set_socket_recv_buffer_size(&listener, 2048).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    set_socket_linger(&stream, Some(Duration::from_secs(3600))).unwrap();
    stream.set_nonblocking(true).unwrap();
    loop {
        match stream.write(&[0; 65536]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Closing waits on a socket that blocks.
    stream.set_nonblocking(false).unwrap();
    (stream, listener, peer)
}

#[test]
fn a_socket_that_lingers_holds_up_nobody() {
    let ns = Namespace::new();
    let (theirs, ours) = ns.link();
    let (stream, _listener, peer) = ns.inside(lingering);
    let mut sent = ns.launcher(1);
    sent[0] = stream.into();
    theirs.send(b"x", &sent.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    // Those on the way are the last copies, so that the child's close would be the one that waits.
    drop(sent);
    let mut worker = start("honest", ours.into());
    let end = worker.wait(Instant::now() + DEADLINE).unwrap();
    assert_eq!(code(end), Some(7), "{end:?}");
    drop(peer);
}

#[test]
fn what_a_launcher_opens_reaches_the_child() {
    let ns = Namespace::new();
    let (theirs, ours) = ns.link();
    let sent = ns.launcher(1);
    theirs.send(b"x", &sent.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    drop(sent);
    let end = start("honest", ours.into()).wait(Instant::now() + DEADLINE).unwrap();
    assert_eq!(code(end), Some(0), "{end:?}");
}

#[test]
fn descriptors_that_are_lost_on_the_way_are_noticed() {
    let ns = Namespace::new();
    let (theirs, ours) = ns.link();
    theirs.send(b"x", &ns.launcher(1).iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
    let end = start("few", ours.into()).wait(Instant::now() + DEADLINE).unwrap();
    assert_eq!(code(end), Some(7), "{end:?}");
}

#[test]
fn a_child_that_is_not_ready_in_time_is_ended_and_the_link_with_it() {
    let ns = Namespace::new();
    let (theirs, ours) = ns.link();
    let mut worker = start("sleeps", ours.into());
    assert_eq!(worker.wait(Instant::now() + Duration::from_millis(50)).unwrap(), End::Killed);
    assert!(worker.is_gone().unwrap());
    assert!(theirs.recv(16).unwrap().is_none(), "this process has no copy of the link");
    drop(udp());
}

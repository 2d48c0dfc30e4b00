//! Messages of the node agent, and the command line of whatever order they hold: an argument that follows an option
//! never is one itself. And the image of whatever seed they hold.
#![no_main]

use ferrovirt_qemu::{
    Descriptors, command_line,
    protocol::Request,
    seed::{File, Files},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let order = match serde_json::from_slice(bytes) {
        Ok(Request::Start { order }) => order,
        Ok(Request::Piece { piece }) => return seed(piece),
        _ => return,
    };
    let count = order.nics.iter().map(|nic| nic.queues.min(256)).sum::<u32>();
    let mut numbers = 5..5 + i32::try_from(count).unwrap_or(0);
    let taps = order.nics.iter().map(|nic| {
        let queues = usize::try_from(nic.queues.min(256)).unwrap_or(0);
        (nic.name.clone(), numbers.by_ref().take(queues).collect())
    });
    let descriptors = Descriptors {
        qmp: 3,
        serial: Some(4),
        taps: taps.collect(),
        vnc: Some("/run/vnc.sock".into()),
        ..Descriptors::default()
    };
    if let Ok(line) = command_line(&order, &descriptors) {
        assert!(line.iter().all(|argument| !argument.to_string_lossy().contains('\0')));
        let flags = ["-nodefaults", "-no-user-config", "-S"];
        let mut arguments = line.iter().map(|argument| argument.to_string_lossy());
        while let Some(flag) = arguments.next() {
            assert!(flag.starts_with('-'), "{flag}");
            if !flags.contains(&flag.as_ref()) {
                assert!(arguments.next().is_some());
            }
        }
    }
});

/// Whatever a file is called and holds, its image is whole sectors and holds it.
fn seed(piece: File) {
    let mut files = Files::default();
    for part in piece.pieces() {
        let _too_much = files.add(part);
    }
    if let Ok(image) = files.image(&piece.disk) {
        assert!(image.len() % 2048 == 0 && image.len() >= 25 * 2048 + piece.content.0.len());
    }
}

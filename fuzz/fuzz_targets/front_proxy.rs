//! The configuration of a front proxy, the headers of a request that it has sent, and the path.
#![no_main]

use ferrovirt_machines::subresource::{Names, Path};
use libfuzzer_sys::fuzz_target;

/// What Kubernetes writes where nothing else is configured.
fn usual(key: &str) -> Option<&'static str> {
    Some(match key {
        "requestheader-allowed-names" => r#"["front-proxy-client"]"#,
        "requestheader-username-headers" => r#"["X-Remote-User"]"#,
        "requestheader-uid-headers" => r#"["X-Remote-Uid"]"#,
        "requestheader-group-headers" => r#"["X-Remote-Group"]"#,
        "requestheader-extra-headers-prefix" => r#"["X-Remote-Extra-"]"#,
        _ => return None,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let headers = || {
        bytes.split(|byte| *byte == b'\n').filter_map(|line| {
            let at = line.iter().position(|byte| *byte == b':')?;
            Some((std::str::from_utf8(line.get(..at)?).ok()?, line.get(at + 1..)?))
        })
    };
    if let Ok(names) = Names::read(usual) {
        let users = headers().filter(|(name, _)| *name == "x-remote-user").count();
        if let Ok(requester) = names.requester(headers()) {
            // One header has named somebody, and each value is of a header that was sent.
            assert!(users == 1 && !requester.name.is_empty());
            let values = requester.groups.len() + requester.extra.values().map(Vec::len).sum::<usize>();
            assert!(values < headers().count());
        }
    }
    if let Ok(names) = Names::read(|_| Some(&text)) {
        let _ = names.requester(headers());
    }
    if let Some(Path::Object(asked)) = Path::parse(&text) {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        assert!(asked.namespace.bytes().chain(asked.name.bytes()).all(plain));
    }
});

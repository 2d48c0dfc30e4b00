//! Streams that are carried without a look at them: client and server have agreed on another protocol (a WebSocket, for
//! consoles and screens), and what is between them moves bytes.

use http::{HeaderMap, HeaderName, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

/// What an upgrade is made of: nothing else of a request, who asks least of all, is the server's to know. Nothing where the
/// request asks for no upgrade.
#[must_use]
pub fn upgrade_headers(headers: &HeaderMap) -> Option<HeaderMap> {
    headers.contains_key(header::UPGRADE).then(|| of_upgrade(headers))
}

fn of_upgrade(headers: &HeaderMap) -> HeaderMap {
    let wanted = |name: &HeaderName| {
        *name == header::UPGRADE || *name == header::CONNECTION || name.as_str().starts_with("sec-websocket")
    };
    let kept = headers.iter().filter(|(name, _)| wanted(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Carries between a client and the server whose `answer` agrees to the upgrade, until either side ends; `held` is given
/// back then. Returns what the client is answered. Must run inside a tokio runtime.
pub fn carry(client: OnUpgrade, mut answer: Response<Incoming>, held: impl Send + 'static) -> Response<()> {
    let mut out = Response::new(());
    *out.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *out.headers_mut() = of_upgrade(answer.headers());
    let server = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let _held = held;
        let (Ok(client), Ok(server)) = tokio::join!(client, server) else { return };
        // Either side closing, or breaking off, ends the stream; there is nobody left to say it to.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_request_only_what_makes_the_upgrade_is_passed_on() {
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &'static str| {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        };
        add("authorization", "Bearer secret");
        add("x-remote-user", "admin");
        add("sec-websocket-protocol", "a");
        add("sec-websocket-protocol", "b");
        add("connection", "Upgrade");
        assert_eq!(upgrade_headers(&headers), None, "it asks for none");
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        let kept = upgrade_headers(&headers).unwrap();
        assert_eq!(kept.len(), 4);
        assert_eq!(kept.get_all("sec-websocket-protocol").iter().count(), 2);
        assert!(!kept.contains_key(header::AUTHORIZATION) && !kept.contains_key("x-remote-user"));
    }
}

//! A client of the API whose answers end: each within a time, and none larger than what a server that is well sends. The API
//! server may have been taken over, and its word must not cost the node its memory or a task its end.

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use kube::{
    Client, Config,
    client::{Body as Sent, ClientBuilder},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::{BoxError, Layer, Service};

/// An answer with one object, and an event of a watch: an API server takes objects of 3 MiB, which may be written with
/// escapes.
const OBJECT: usize = 8 << 20;
/// A list: what all objects of the embedded API may take.
const LIST: usize = 128 << 20;
/// From the request to the last byte of its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// The same of a watch; those of this program ask for 290 s.
const WATCH: Duration = Duration::from_secs(330);

/// A client with these bounds.
///
/// # Errors
/// When the configuration cannot be used.
pub fn bounded(config: Config) -> kube::Result<Client> {
    Ok(ClientBuilder::try_from(config)?.with_layer(&Bounds).build())
}

/// What an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    /// Bytes: of the whole, or of a line.
    most: usize,
    /// It is a watch: lines without a number.
    lines: bool,
    time: Duration,
}

impl Limit {
    fn of(uri: &Uri) -> Self {
        let asked = |pair: &str| matches!(pair, "watch" | "watch=1" | "watch=true");
        if uri.query().is_some_and(|query| query.split('&').any(asked)) {
            return Self { most: OBJECT, lines: true, time: WATCH };
        }
        let most = if is_list(uri.path()) { LIST } else { OBJECT };
        Self { most, lines: false, time: ANSWER }
    }
}

/// Whether a path is that of all objects of a kind: `/api/v1` or `/apis/GROUP/VERSION`, a namespace, and one name.
fn is_list(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let rest = match parts.as_slice() {
        ["api", _, rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        _ => return false,
    };
    matches!(rest, [_] | ["namespaces", _, _])
}

#[derive(Clone, Copy, Debug)]
struct Bounds;

impl<S> Layer<S> for Bounds {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded(inner)
    }
}

#[derive(Clone, Debug)]
struct Bounded<S>(S);

impl<S, B> Service<Request<Sent>> for Bounded<S>
where
    S: Service<Request<Sent>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Sent>) -> Self::Future {
        let limit = Limit::of(request.uri());
        let end = Instant::now() + limit.time;
        let answer = timeout_at(end, self.0.call(request));
        Box::pin(
            async move { Ok(answer.await.map_err(|_| late())??.map(|body| Answer::new(body, limit, end))) },
        )
    }
}

fn late() -> BoxError {
    io::Error::new(io::ErrorKind::TimedOut, "the API server's answer takes too long").into()
}

/// The body of an answer.
struct Answer<B> {
    body: B,
    limit: Limit,
    /// Bytes since the beginning, or since the last end of a line.
    bytes: usize,
    end: Pin<Box<Sleep>>,
}

impl<B> Answer<B> {
    fn new(body: B, limit: Limit, end: Instant) -> Self {
        Self { body, limit, bytes: 0, end: Box::pin(sleep_until(end)) }
    }

    /// Counts what came; false when it is too much.
    fn take(&mut self, data: &[u8]) -> bool {
        let mut pieces = data.split(|byte| self.limit.lines && *byte == b'\n');
        let first = pieces.next().map_or(0, <[u8]>::len);
        self.bytes = self.bytes.saturating_add(first);
        let mut fits = self.bytes <= self.limit.most;
        for piece in pieces {
            self.bytes = piece.len();
            fits &= self.bytes <= self.limit.most;
        }
        fits
    }
}

impl<B: Body<Data = Bytes, Error = BoxError> + Unpin> Body for Answer<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(late())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !self.take(data)
        {
            let most = self.limit.most;
            let error = io::Error::other(format!("the API server's answer is larger than {most} bytes"));
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use k8s_openapi::api::core::v1::Pod;
    use kube::{Api, api::WatchParams};
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    /// A server that answers every request with this, again and again, for as long as somebody listens.
    fn hostile(head: &'static str, body: &'static [u8], times: usize) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let serve = move |mut stream: TcpStream| {
            let _request = stream.read(&mut [0; 65536])?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")?;
            stream.write_all(head.as_bytes())?;
            (0..times).try_for_each(|_| stream.write_all(body))?;
            // No end.
            stream.read(&mut [0]).map(drop)
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve(stream));
            }
        });
        bounded(Config::new(uri)).unwrap()
    }

    const SPACE: &[u8] = &[b' '; 1 << 20];

    fn pods(client: Client) -> Api<Pod> {
        Api::namespaced(client, "n")
    }

    fn says(error: &kube::Error, what: &str) -> bool {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).any(|text| text.contains(what))
    }

    fn too_large(error: &kube::Error) -> bool {
        says(error, "larger than")
    }

    #[tokio::test]
    async fn an_answer_without_end_is_an_error_and_does_not_fill_the_memory() {
        let client = hostile("{", SPACE, usize::MAX);
        let error = pods(client.clone()).get("p").await.unwrap_err();
        assert!(too_large(&error), "{error:?}");
        let error = pods(client.clone()).list(&Default::default()).await.unwrap_err();
        assert!(too_large(&error), "{error:?}");
        let events = pods(client).watch(&WatchParams::default(), "0").await.unwrap();
        let error = events.try_collect::<Vec<_>>().await.unwrap_err();
        assert!(too_large(&error), "{error:?}");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_go_on_ends_in_time() {
        let client = hostile("{", SPACE, 1);
        // The clock goes on by itself when all tasks wait; the bytes are there by then.
        let get = tokio::spawn(async move { pods(client).get("p").await });
        while !get.is_finished() {
            tokio::task::yield_now().await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(1)).await;
            tokio::time::resume();
        }
        let error = get.await.unwrap().unwrap_err();
        assert!(says(&error, "takes too long"), "{error:?}");
    }

    #[test]
    fn what_a_path_asks_for() {
        for (uri, most, lines) in [
            ("/api/v1/pods?&fieldSelector=spec.nodeName%3Dn", LIST, false),
            ("/api/v1/namespaces/a/pods", LIST, false),
            ("/apis/kubevirt.io/v1/namespaces/a/virtualmachineinstances", LIST, false),
            ("/api/v1/namespaces/a", OBJECT, false),
            ("/api/v1/namespaces/a/pods/p", OBJECT, false),
            ("/api/v1/namespaces/a/pods/p/status", OBJECT, false),
            ("/api/v1/nodes/n", OBJECT, false),
            ("/version", OBJECT, false),
            ("/api/v1/pods?&watch=true&timeoutSeconds=290", OBJECT, true),
        ] {
            let limit = Limit::of(&uri.parse().unwrap());
            assert_eq!((limit.most, limit.lines), (most, lines), "{uri}");
        }
    }

    #[tokio::test]
    async fn a_watch_may_have_any_number_of_events() {
        let limit = Limit { most: 10, lines: true, time: WATCH };
        let mut answer = Answer::new((), limit, Instant::now() + WATCH);
        assert!((0..1000).all(|_| answer.take(b"0123456789\n")));
        assert!(answer.take(b"01234") && answer.take(b"56789\n01") && answer.take(b"23456789"));
        assert!(!answer.take(b"0"));
        let mut answer = Answer::new((), limit, Instant::now() + WATCH);
        assert!(!answer.take(b"1\n01234567890\n1"));
    }
}

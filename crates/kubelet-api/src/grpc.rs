//! gRPC over Unix sockets: HTTP/2 by hyper, messages by tonic. Everything that comes in has a limit.

use futures::{Stream, future::BoxFuture};
use http::uri::PathAndQuery;
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    future::Future,
    io,
    path::Path,
    task::{Context, Poll},
};
use tokio::{net::UnixStream, task::JoinHandle};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    client::{Grpc as ClientCall, GrpcService},
    server::{Grpc as ServerCall, ServerStreamingService, UnaryService},
};
use tonic_prost::ProstCodec;

/// What is answered to a request.
pub type Answer = http::Response<Body>;

/// Requests of one connection that are worked on at a time.
const STREAMS: u32 = 16;
/// Bytes of all headers of a request.
const HEADERS: u32 = 16 << 10;

/// Serves one connection until its other side ends it.
///
/// # Errors
/// What is wrong with its bytes.
pub async fn serve<H, F>(stream: UnixStream, handle: H) -> Result<(), hyper::Error>
where
    H: Fn(http::Request<Incoming>) -> F,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(|request| {
        let answer = handle(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
    builder.max_concurrent_streams(STREAMS).max_header_list_size(HEADERS);
    builder.serve_connection(TokioIo::new(stream), service).await
}

/// A function that is a service of tonic's.
struct Function<F>(F);

impl<Q, A, F, R> UnaryService<Q> for Function<F>
where
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Status>> + Send + 'static,
{
    type Response = A;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async { answer.await.map(Response::new) })
    }
}

/// A stream that is sent to the one who asks.
struct Streams<S>(Option<S>);

impl<Q, A, S> ServerStreamingService<Q> for Streams<S>
where
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    type Response = A;
    type ResponseStream = S;
    type Future = BoxFuture<'static, Result<Response<S>, Status>>;

    fn call(&mut self, _: Request<Q>) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async { stream.map(Response::new).ok_or_else(|| Status::internal("asked twice")) })
    }
}

/// Answers a call of one message, of no more bytes than `limit`, with one message.
pub async fn unary<Q, A, F, R>(request: http::Request<Incoming>, limit: usize, answer: F) -> Answer
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Send + 'static,
    F: FnMut(Q) -> R,
    R: Future<Output = Result<A, Status>> + Send + 'static,
{
    let call = ServerCall::new(ProstCodec::<A, Q>::new());
    call.max_decoding_message_size(limit).unary(Function(answer), request).await.map(Body::new)
}

/// Answers a call of one message, of no more bytes than `limit`, with a stream.
pub async fn streaming<Q, A, S>(request: http::Request<Incoming>, limit: usize, stream: S) -> Answer
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Send + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let mut call = ServerCall::new(ProstCodec::<A, Q>::new()).max_decoding_message_size(limit);
    let service = Streams(Some(stream));
    call.server_streaming::<_, _>(service, request).await.map(Body::new)
}

/// Answers a call that is not served.
pub fn unimplemented() -> Answer {
    Status::unimplemented("this call is not served").into_http()
}

/// A connection on which calls are made; it ends with the value.
#[derive(Debug)]
pub struct Channel {
    sender: client::conn::http2::SendRequest<Body>,
    connection: JoinHandle<()>,
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<http::Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.sender.send_request(request))
    }
}

impl Channel {
    /// Connects to the Unix socket at `path`.
    ///
    /// # Errors
    /// What connect(2) says, or what is wrong with the other side's first bytes.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(path).await?).await
    }

    /// Over a connection that is there.
    ///
    /// # Errors
    /// What is wrong with the other side's first bytes.
    pub async fn over(stream: UnixStream) -> io::Result<Self> {
        let mut builder = client::conn::http2::Builder::new(TokioExecutor::new());
        let made = builder.max_header_list_size(HEADERS).handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(io::Error::other)?;
        // What ends the connection is seen by who waits for an answer.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, connection })
    }

    /// Calls `path` with one message; the answer has no more bytes than `limit`.
    ///
    /// # Errors
    /// The other side's, or one of the connection.
    pub async fn unary<Q, A>(self, path: &'static str, request: Q, limit: usize) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut call = self.ready(limit).await?;
        let path = PathAndQuery::from_static(path);
        let answer = call.unary(Request::new(request), path, ProstCodec::<Q, A>::new()).await?;
        Ok(answer.into_inner())
    }

    /// Calls `path` with one message, and is answered with a stream, which ends with the connection that is given back.
    ///
    /// # Errors
    /// The other side's, or one of the connection.
    pub async fn streaming<Q, A>(
        self,
        path: &'static str,
        request: Q,
        limit: usize,
    ) -> Result<(ClientCall<Self>, Streaming<A>), Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut call = self.ready(limit).await?;
        let path = PathAndQuery::from_static(path);
        let answer = call.server_streaming(Request::new(request), path, ProstCodec::<Q, A>::new()).await?;
        Ok((call, answer.into_inner()))
    }

    async fn ready(self, limit: usize) -> Result<ClientCall<Self>, Status> {
        // A Unix socket has no host; this name is what gRPC's other implementations send.
        let origin = http::Uri::from_static("http://localhost");
        let mut call = ClientCall::with_origin(self, origin).max_decoding_message_size(limit);
        let ready = call.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(call)
    }
}

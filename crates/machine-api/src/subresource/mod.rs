//! The aggregated API `subresources.kubevirt.io`: the cluster's API server forwards requests for it, and says who asks.
//!
//! ```text
//!   API server ──HTTPS, its certificate──► front_proxy ──► authorize ──► ferrovirt_machines: may it be done now?
//!                                          who asks        may they         ├── run: patches of machine and instance
//!                                                                           └── handler: that of the instance's node
//! ```

mod authorize;
mod documents;
mod front_proxy;
mod handler;
mod run;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrovirt_https::{Bodies, Place, Reply, Share, Shown, reply, text};
use ferrovirt_kubernetes::json;
use ferrovirt_machines::INSTANCES;
use ferrovirt_machines::subresource::{
    Asked, Call, Owner, Path, Refused, Requester, expanded, is_read_as_text,
};
use http::{HeaderValue, Method, Request, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use kube::Client;
use serde_json::Value;

pub(crate) use front_proxy::FrontProxy;
use front_proxy::Unknown;
pub(crate) use handler::Handlers;

/// The longest time that an answer takes.
const MOST: Duration = Duration::from_secs(25);
/// Bytes of the longest body, and how long it may take to come.
const MAX_BODY: usize = 64 << 10;
const BODY: Duration = Duration::from_secs(2);
/// Bodies that are on their way at the same time, of one user and of all: who is slow holds nothing else.
const BODIES_EACH: usize = 16;
const BODIES_ALL: usize = 126;
/// KiB for them, so that none of them waits for another's room.
const BODIES: u32 = 8 << 10;
/// Requests at the same time, of one user and of all: each asks the cluster several things.
const EACH: usize = 16;
const ALL: usize = 64;
/// Beside them those that a handler has to answer, which may take its time.
const ASKING_EACH: usize = 8;
const ASKING_ALL: usize = 64;
/// Consoles and screens at the same time.
const STREAMS_EACH: usize = 32;
const STREAMS_ALL: usize = 256;
/// Of these, such that are being opened: each has a connection of the API server's, which needs others for its webhooks.
const OPENING_EACH: usize = 4;
const OPENING_ALL: usize = 12;

/// What a request needs.
pub(crate) struct Subresources {
    client: Client,
    front_proxy: Arc<FrontProxy>,
    bodies: Bodies,
    arriving: Share<Owner>,
    requests: Share<Owner>,
    asking: Share<Owner>,
    streams: Share<Owner>,
    opening: Share<Owner>,
    handlers: Handlers,
}

impl Subresources {
    pub(crate) fn new(client: Client, front_proxy: Arc<FrontProxy>, handlers: Handlers) -> Self {
        Self {
            client,
            front_proxy,
            bodies: Bodies::new("a request for a subresource", MAX_BODY, BODIES).within(BODY),
            arriving: Share::new(BODIES_EACH, BODIES_ALL),
            requests: Share::new(EACH, ALL),
            asking: Share::new(ASKING_EACH, ASKING_ALL),
            streams: Share::new(STREAMS_EACH, STREAMS_ALL),
            opening: Share::new(OPENING_EACH, OPENING_ALL),
            handlers,
        }
    }

    /// Whether a path is of this API.
    pub(crate) fn serves(path: &str) -> bool {
        matches!(path, "/apis" | "/version" | "/openapi/v2" | "/openapi/v3") || path.starts_with("/apis/")
    }

    /// Whether it was tried to find out who the front proxy is: until then nobody is answered.
    pub(crate) fn is_ready(&self) -> bool {
        self.front_proxy.is_tried()
    }

    /// Answers one request.
    pub(crate) async fn respond(&self, request: Request<Incoming>) -> Reply {
        self.answer(request).await.unwrap_or_else(|refused| refusal(&refused))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Refused> {
        let shown = request.extensions().get::<Shown>().cloned().unwrap_or_default();
        let requester = self.front_proxy.requester(&shown, request.headers());
        let requester = requester.map_err(|unknown| match unknown {
            Unknown::Client(why) => Refused::new(401, format!("Unauthorized: {why}")),
            Unknown::Proxy(why) => Refused::new(503, format!("nobody can be known: {why}")),
        })?;
        let path = request.uri().path().to_owned();
        if let Some((form, document)) = documents::at(&path, request.headers()) {
            return document_for(&requester, request.method(), &path, form, &document);
        }
        let asked = match Path::parse(&path) {
            Some(Path::Object(asked)) => asked,
            Some(Path::Other(word)) => return unanswered("", word),
            _ => return Err(Refused::no_such_path()),
        };
        let call = Call::find(request.method().as_str(), asked.resource, asked.subresource);
        let Some(call) = call else { return unanswered(asked.resource, asked.subresource) };
        // Before it takes a place of those that are worked on.
        let request = match call {
            Call::Start | Call::Stop | Call::Restart | Call::ExpandGiven | Call::Pause | Call::Unpause => {
                Request::new(self.read(request, &requester).await?)
            }
            Call::Expand | Call::Console | Call::Vnc => request.map(|_| Bytes::new()),
        };
        let share = match call {
            Call::Start | Call::Stop | Call::Restart | Call::Expand | Call::ExpandGiven => &self.requests,
            Call::Pause | Call::Unpause | Call::Console | Call::Vnc => &self.asking,
        };
        let _place = place(share, &requester, "requests")?;
        let done = async {
            authorize::authorize(&self.client, &requester, &asked, call).await?;
            self.perform(request, &asked, call, &requester).await
        };
        let late = || {
            Refused::new(504, "the cluster's API server has not answered the machine API in time: try again")
        };
        tokio::time::timeout(MOST, done).await.unwrap_or_else(|_| Err(late()))
    }

    async fn perform(
        &self,
        request: Request<Bytes>,
        asked: &Asked<'_>,
        call: Call,
        requester: &Requester,
    ) -> Result<Reply, Refused> {
        match call {
            Call::Start | Call::Stop | Call::Restart => {
                let body = object(request.body())?;
                run::run(&self.client, asked, call, &body).await?;
                Ok(reply(StatusCode::ACCEPTED, documents::JSON, ""))
            }
            // There are no instance types yet, so that it is the machine itself.
            Call::Expand => {
                let vm = run::object(&self.client, asked, call.resource()).await?;
                let vm = vm.ok_or_else(|| Refused::missing(call.resource(), asked.name))?;
                Ok(reply(StatusCode::OK, documents::JSON, vm.to_string()))
            }
            Call::ExpandGiven => {
                let vm = expanded(asked.namespace, object(request.body())?)?;
                Ok(reply(StatusCode::OK, documents::JSON, vm.to_string()))
            }
            Call::Pause | Call::Unpause => {
                let body = object(request.body())?;
                let vmi = self.instance(asked).await?;
                if !call.switch(&vmi, body)? {
                    return Ok(reply(StatusCode::OK, documents::JSON, ""));
                }
                self.handlers.ask(node(&vmi), &call.at_handler(asked.namespace, asked.name)).await
            }
            Call::Console | Call::Vnc => {
                let _opening = place(&self.opening, requester, "streams that are being opened")?;
                let stream = place(&self.streams, requester, "streams")?;
                let vmi = self.instance(asked).await?;
                call.stream(&vmi)?;
                let path = call.at_handler(asked.namespace, asked.name);
                self.handlers.stream(node(&vmi), &path, request, stream).await
            }
        }
    }

    async fn instance(&self, asked: &Asked<'_>) -> Result<Value, Refused> {
        let vmi = run::object(&self.client, asked, INSTANCES).await?;
        vmi.ok_or_else(|| Refused::missing(INSTANCES, asked.name))
    }

    /// The body, which may be empty.
    async fn read(&self, request: Request<Incoming>, requester: &Requester) -> Result<Bytes, Refused> {
        if request.body().is_end_stream() {
            return Ok(Bytes::new());
        }
        let _arriving = place(&self.arriving, requester, "bodies")?;
        let read = self.bodies.read(request).await;
        read.map(|(bytes, _room)| bytes).map_err(|(code, why)| Refused::new(code.as_u16(), why))
    }
}

/// What is said to a request that no call answers.
fn unanswered(resource: &str, subresource: &str) -> Result<Reply, Refused> {
    let refused = Refused::unanswered(resource, subresource);
    match StatusCode::from_u16(refused.code) {
        Ok(code) if is_read_as_text(subresource) => Ok(text(code, refused.message)),
        _ => Err(refused),
    }
}

/// What a body says, which may be empty.
fn object(body: &Bytes) -> Result<Value, Refused> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    let value = serde_json::from_slice::<Value>(body);
    let value = value.map_err(|why| Refused::bad_request(format!("the body is not JSON: {why}")))?;
    if value.is_object() { Ok(value) } else { Err(Refused::bad_request("the body is not a JSON object")) }
}

/// Documents are for everybody who is known to the cluster.
fn document_for(
    requester: &Requester,
    method: &Method,
    path: &str,
    form: &'static str,
    document: &Value,
) -> Result<Reply, Refused> {
    if method != Method::GET {
        return Err(Refused::new(405, format!("{path} is read by GET")));
    }
    if requester.is_anonymous() {
        let message = format!("forbidden: User {:?} cannot get path {path:?}", requester.name);
        return Err(Refused::new(403, message));
    }
    Ok(reply(StatusCode::OK, form, document.to_string()))
}

/// A place for one more request or stream of somebody.
fn place(share: &Share<Owner>, requester: &Requester, what: &str) -> Result<Place<Owner>, Refused> {
    share
        .take(&requester.share())
        .ok_or_else(|| Refused::new(429, format!("too many {what} at the same time: try again")))
}

/// The node that an instance runs on.
fn node(vmi: &Value) -> &str {
    json::text(vmi, "/status/nodeName")
}

fn refusal(refused: &Refused) -> Reply {
    let code = StatusCode::from_u16(refused.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = reply(code, documents::JSON, refused.status().to_string());
    if code == StatusCode::TOO_MANY_REQUESTS {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

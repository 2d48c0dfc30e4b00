//! Lists, written piece by piece as their client takes them: what is on its way is one piece, however long the list is.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use super::output::{ListMeta, Output};
use crate::answer::{self, Answer};
use crate::app::App;
use crate::flow::Place;
use crate::request::Requester;
use crate::status::ApiError;

/// A piece is sent when it has this many bytes; it is larger only by its last object.
const PIECE: usize = 64 << 10;

struct Pages {
    app: Arc<App>,
    requester: Requester,
    output: Output,
    /// What the objects count as; they may be the last who hold them.
    _kept: Place,
    objects: std::vec::IntoIter<Arc<Value>>,
    end: &'static [u8],
    first: bool,
}

/// The answer with `objects`. A short list is an answer of known length.
pub(super) async fn answer(
    app: Arc<App>,
    (requester, kept): (Requester, Place),
    output: Output,
    meta: &ListMeta,
    objects: Vec<Arc<Value>>,
) -> Result<Answer, ApiError> {
    let content_type = output.form.content_type();
    let (mut head, end) = output.list_frame(meta);
    let mut pages =
        Pages { app, requester, output, _kept: kept, objects: objects.into_iter(), end, first: true };
    head.extend(pages.next().await.unwrap_or_default());
    if pages.objects.as_slice().is_empty() {
        head.extend(pages.end);
        return Ok(answer::bytes(200, content_type, head));
    }
    let start = stream::once(std::future::ready(head));
    let rest = stream::unfold(pages, |mut pages| async move { Some((pages.next().await?, pages)) });
    let pieces = futures::StreamExt::chain(start, rest);
    let frames =
        futures::StreamExt::map(pieces, |piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    Ok(answer)
}

impl Pages {
    /// The next piece; nothing after the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        while piece.len() < PIECE {
            let Some(object) = self.objects.next() else {
                piece.extend(std::mem::take(&mut self.end));
                return Some(piece).filter(|piece| !piece.is_empty());
            };
            if !std::mem::take(&mut self.first) {
                piece.push(b',');
            }
            let output = self.output.clone();
            let write = move |object: &Value| output.item(object);
            piece.extend(self.app.flow.written(&self.requester, object, write).await);
        }
        Some(piece)
    }
}

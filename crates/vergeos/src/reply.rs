//! Replies of reading operations, read into what the caller wants. The operations are those of `ops`; only the reading differs.

use std::marker::PhantomData;

use boxrig_wire::{
    BoxFuture, Decoding, Endpoint, JsonReply, Meta, NoBody, NoParams, ReplyCodec, ReplyShape,
    Result, WireBody,
};
use bytes::Bytes;
use http::Response;

use crate::VergeOs;
use crate::ops::{GetQuery, ListQuery, TableGet, TableList};
use crate::record::{RowList, RowType};

/// Rows of one type.
pub(crate) struct Typed<R>(pub(crate) Vec<R>);

impl<R: RowType> ReplyCodec for Typed<R> {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let bytes = cx.bytes(cx.success(response).await?.into_body()).await?;
            if bytes.trim_ascii().is_empty() {
                return Ok(Self(Vec::new()));
            }
            cx.json::<RowList<R>>(&bytes).map(|rows| Self(rows.0))
        })
    }
    fn encode(self) -> std::result::Result<Response<WireBody>, String> {
        JsonReply::ok(
            self.0
                .iter()
                .map(|r| r.record().to_map())
                .collect::<Vec<_>>(),
        )
        .encode()
    }
}

/// A document as its bytes, to be read later.
pub(crate) struct Document(pub(crate) Bytes);

impl ReplyCodec for Document {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            let bytes = cx.bytes(cx.success(response).await?.into_body()).await?;
            Ok(Self(bytes))
        })
    }
    fn encode(self) -> std::result::Result<Response<WireBody>, String> {
        Ok(Response::new(WireBody::full(self.0)))
    }
}

/// `list`, read as `T`.
pub(crate) struct ListAs<T>(PhantomData<fn() -> T>);

impl<T: ReplyCodec + 'static> Endpoint for ListAs<T> {
    type Protocol = VergeOs;
    type Path = (String,);
    type Query = ListQuery;
    type Headers = NoParams;
    type Body = NoBody;
    type Reply = T;
    const META: &'static Meta = TableList::META;
}

/// `get`, read as `T`.
pub(crate) struct GetAs<T>(PhantomData<fn() -> T>);

impl<T: ReplyCodec + 'static> Endpoint for GetAs<T> {
    type Protocol = VergeOs;
    type Path = (String, String);
    type Query = GetQuery;
    type Headers = NoParams;
    type Body = NoBody;
    type Reply = T;
    const META: &'static Meta = TableGet::META;
}

//! Replies of reading operations, read into what the caller wants. The operations are those of `ops`; only the reading differs.

use std::marker::PhantomData;

use boxrig_wire::{
    BoxFuture, Decoding, Endpoint, Error, HasRead, JsonReply, MakeReader, Meta, NoBody, NoParams,
    ReplyCodec, ReplyReader, ReplyShape, Result, WireBody,
};
use bytes::Bytes;
use http::Response;

use crate::VergeOs;
use crate::ops::{GetQuery, ListQuery, TableGet, TableList};
use crate::reader::{Read, Reader, RowList, Unread};
use crate::record::RowType;

/// Rows of one type.
pub(crate) struct Typed<R>(pub(crate) Vec<R>);

impl<R: RowType> ReplyCodec for Typed<R> {
    const SHAPE: ReplyShape = ReplyShape::Whole;
    fn reader() -> Option<MakeReader> {
        Some(|cx| Box::new(TypedReader::<R>::new(cx)))
    }
    fn decode(response: Response<WireBody>, cx: Decoding) -> BoxFuture<'static, Result<Self>> {
        Box::pin(async move {
            if let Some(reader) = HasRead::take::<TypedReader<R>>(response.extensions()) {
                return reader.finish().map(Self);
            }
            let bytes = cx.bytes(cx.success(response).await?.into_body()).await?;
            let mut reader = TypedReader::<R>::new(cx);
            reader.read(&bytes)?;
            reader.finish().map(Self)
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

struct TypedReader<R> {
    reader: Reader<R>,
    cx: Decoding,
}

impl<R: RowType> TypedReader<R> {
    fn new(cx: Decoding) -> Self {
        Self {
            reader: Reader::new(),
            cx,
        }
    }

    fn finish(self) -> Result<Vec<R>> {
        let cx = self.cx;
        match self.reader.finish().map_err(|e| unread(cx, &e))? {
            Read::Rows(rows) => Ok(rows),
            Read::Document(text) if text.trim_ascii().is_empty() => Ok(Vec::new()),
            Read::Document(text) => cx.json::<RowList<R>>(&text).map(|rows| rows.0),
        }
    }
}

impl<R: RowType> ReplyReader for TypedReader<R> {
    fn read(&mut self, piece: &[u8]) -> Result<()> {
        let cx = self.cx;
        self.reader.feed(piece).map_err(|e| unread(cx, &e))
    }
}

fn unread(cx: Decoding, e: &Unread) -> Error {
    cx.protocol(format_args!(
        "the reply is not the expected JSON: {}",
        e.why
    ))
    .with_body(&e.text)
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

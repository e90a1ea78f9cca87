//! Pages as one stream.

use std::collections::VecDeque;

use futures_core::Stream;
use futures_util::stream;

use crate::Result;

/// Turns "fetch the page at this mark" into one stream of items. `fetch` gets `None` for the first
/// page and gives the items with the mark of the next page, or `None` after the last. Dropping the
/// stream ends the reading; nothing is fetched before it is asked for.
///
/// ```
/// # use futures_util::StreamExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pages = boxrig_wire::pages(|mark: Option<u32>| async move {
///     let at = mark.unwrap_or(0);
///     Ok((vec![at, at + 1], (at < 4).then_some(at + 2)))
/// });
/// let all: Vec<u32> = pages.map(|r| r.unwrap()).collect().await;
/// assert_eq!(all, [0, 1, 2, 3, 4, 5]);
/// # }
/// ```
pub fn pages<T, M, F, Fut>(fetch: F) -> impl Stream<Item = Result<T>>
where
    F: FnMut(Option<M>) -> Fut,
    Fut: Future<Output = Result<(Vec<T>, Option<M>)>>,
{
    enum At<M> {
        Start,
        Mark(M),
        End,
    }
    stream::unfold(
        (fetch, At::Start, VecDeque::new()),
        |(mut fetch, mut at, mut items)| async move {
            loop {
                if let Some(item) = items.pop_front() {
                    return Some((Ok(item), (fetch, at, items)));
                }
                let mark = match at {
                    At::Start => None,
                    At::Mark(m) => Some(m),
                    At::End => return None,
                };
                match fetch(mark).await {
                    Ok((page, next)) => {
                        items.extend(page);
                        at = next.map_or(At::End, At::Mark);
                    }
                    Err(e) => return Some((Err(e), (fetch, At::End, items))),
                }
            }
        },
    )
}

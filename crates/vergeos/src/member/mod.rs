//! Members: what the managers of the vendor's SDK do, carried out from a table.
//!
//! The table (`data/members.jsonl`, generated) says for each member which requests it makes and where each value in them comes
//! from: an argument, a column of the row it belongs to, an earlier reply. One interpreter carries all of them out, so what holds
//! for one holds for all: one segment for a name, no write sent twice, ambiguity is an error, a row of another parent is
//! refused. The generated managers give the members their types; the command line reads the same table.

mod args;
mod call;
mod catalogue;
mod look;
mod outcome;
mod ran;
mod request;
mod run;
mod send;
mod shown;
mod special;
mod value;

pub use args::{Keys, List, Time};
pub(crate) use call::calls;
pub use call::{Call, Iter, Node};
pub use catalogue::{Member, Param, members, names};
pub use outcome::Outcome;
pub use ran::Ran;
pub use run::{Invocation, invoke};
pub use special::{node_at, rows_on_the_way};

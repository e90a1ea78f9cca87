//! The systems of tenants.
use crate::vergeos::row::Row;
use crate::vergeos::state::Cx;
use crate::vergeos::tx::Tx;
use boxrig_wire::ApiError;
use std::sync::Arc;

pub(super) async fn follow_power(_: &Cx, _: &str, _: bool) {}
pub(super) fn forget(_: &mut Tx<'_>, _: &str) {}
pub(super) async fn give_file(_: &Cx, _: &Row, _: &Arc<Row>) -> Result<(), ApiError> {
    Ok(())
}

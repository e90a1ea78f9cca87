//! What is tried with any bytes: by the fuzz targets for as long as one likes, by `crates/server/tests/fuzz.rs` for a
//! fixed number of mutations.

use boxrig_vergeos::filter::Filter;
use boxrig_vergeos::projection::Projection;
use boxrig_vergeos::sort::SortKey;

use crate::ere::Ere;

/// A filter that is read is written so that it is read the same.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(filter) = Filter::parse(text) {
        let written = filter.encode().expect("what was read can be written");
        let again = Filter::parse(&written).expect("what was written can be read");
        assert_eq!(again, filter, "{text:?} was written {written:?}");
    }
    let _ = SortKey::parse(text);
}

/// The same of a projection.
pub fn projection(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(projection) = Projection::parse(text) {
        let written = projection.to_string();
        let again = Projection::parse(&written).expect("what was written can be read");
        assert_eq!(again, projection, "{text:?} was written {written:?}");
    }
}

/// An expression, up to a line, of what comes after it: neither a panic nor a long wait.
pub fn ere(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (pattern, text) = text.split_once('\n').unwrap_or((text, "some text"));
    let _ = Ere::new(pattern).is_match(text);
}

//! A name addresses exactly one segment of a path, or is refused before anything is sent.

#![allow(clippy::unwrap_used)]

use boxrig_incus::CATALOG;
use proptest::prelude::*;

/// Names with everything that paths, queries and proxies give a meaning to, and anything else.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[/.?#%&=+;:@\\\\ ~\u{0}-\u{1f}a-c\u{7f}é\u{202e}]{0,12}",
        any::<String>(),
        prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("c1?recursion=1&x=".to_owned()),
            Just("../images".to_owned()),
            Just("%2e%2e%2f".to_owned()),
            Just("a/../../b".to_owned()),
            Just("x HTTP/1.1\r\nHost: evil".to_owned()),
        ],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]
    #[test]
    fn one_segment_or_refused(names in proptest::collection::vec(hostile(), 4), pick in any::<prop::sample::Index>()) {
        let with_names: Vec<_> = CATALOG.iter().filter(|m| !m.path.names().is_empty()).collect();
        let meta = with_names[pick.index(with_names.len())];
        let count = meta.path.names().len();
        let names = &names[..count];
        let refused = names.iter().any(|n| n.is_empty() || n == "." || n == "..");
        match meta.path.render(names) {
            Ok(path) => {
                prop_assert!(!refused, "{meta}: {names:?}");
                prop_assert!(path.bytes().all(|b| b.is_ascii_graphic()), "{path}");
                prop_assert!(!path.contains(['?', '#', '\\']), "{path}");
                let slashes = meta.path.as_str().matches('/').count();
                prop_assert_eq!(path.matches('/').count(), slashes, "{}", path);
                let back = meta.path.matches(&path);
                prop_assert_eq!(back.as_deref(), Some(names));
                // No other operation with this method would take it for its own.
                let mut others = CATALOG.iter().filter(|m| m.method == meta.method && m.path != meta.path);
                let more_specific = others.any(|m| m.path.matches(&path).is_some()
                    && m.path.specificity() > meta.path.specificity());
                let literal = names.iter().any(|n| n.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'));
                prop_assert!(!more_specific || literal, "{meta}: {names:?}");
            }
            Err(_) => prop_assert!(refused, "{meta}: {names:?}"),
        }
    }
}

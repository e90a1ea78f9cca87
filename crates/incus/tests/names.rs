//! A name addresses exactly one segment of a path, or is refused before anything is sent.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use boxrig_incus::CATALOG;
use boxrig_wire::Meta;
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

/// The operations whose paths hold names.
static WITH_NAMES: LazyLock<Vec<&Meta>> = LazyLock::new(|| {
    let with_names = CATALOG.iter().filter(|m| !m.path.names().is_empty());
    with_names.copied().collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]
    #[test]
    fn one_segment_or_refused(names in proptest::collection::vec(hostile(), 4), pick in any::<prop::sample::Index>()) {
        let meta = WITH_NAMES[pick.index(WITH_NAMES.len())];
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
            }
            Err(_) => prop_assert!(refused, "{meta}: {names:?}"),
        }
    }
}

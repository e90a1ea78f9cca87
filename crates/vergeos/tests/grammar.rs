//! Filters, projections and orders: what is written is read as it was, and hostile text changes nothing.

use boxrig_vergeos::filter::{Filter, Join, Literal, Op, Term};
use boxrig_vergeos::projection::{Expr, Item, Projection};
use boxrig_vergeos::sort::SortKey;
use proptest::prelude::*;

fn field() -> impl Strategy<Value = String> {
    "[a-z_]{1,6}(#[a-z_]{1,5}){0,2}|\\$key".prop_filter("words of the language", |s| {
        boxrig_vergeos::filter::is_field(s)
    })
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        ".*".prop_map(Literal::Text),
        any::<i64>().prop_map(Literal::Int),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(Literal::Float),
        any::<bool>().prop_map(Literal::Bool),
        Just(Literal::Null),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    proptest::sample::select(Op::ALL.to_vec())
}

fn filter() -> impl Strategy<Value = Filter> {
    let compare = (field(), op(), literal())
        .prop_map(|(field, op, value)| Term::Compare { field, op, value })
        .boxed();
    let leaf = compare.clone().prop_map(|first| Filter {
        first,
        rest: vec![],
    });
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let term = prop_oneof![
            compare.clone(),
            inner.prop_map(|f| Term::Group(Box::new(f)))
        ];
        let term = term.boxed();
        let join = prop_oneof![Just(Join::And), Just(Join::Or)];
        (term.clone(), proptest::collection::vec((join, term), 0..4))
            .prop_map(|(first, rest)| Filter { first, rest })
    })
}

fn projection() -> impl Strategy<Value = Projection> {
    let name = "[a-z_]{1,6}|\\$key|\\$display";
    let leaf = name.prop_map(Expr::Column).boxed();
    let expr = leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            ("[a-z_]{1,6}", inner.clone()).prop_map(|(reference, then)| Expr::Follow {
                reference,
                then: Box::new(then)
            }),
            ("[a-z_]{1,6}", inner.clone()).prop_map(|(func, of)| Expr::Call {
                func,
                of: Box::new(of)
            }),
            ("[a-z_]{1,6}", proptest::collection::vec(inner, 1..3)).prop_map(|(rows, exprs)| {
                Expr::Select {
                    rows,
                    fields: Projection {
                        items: exprs
                            .into_iter()
                            .map(|expr| Item { expr, alias: None })
                            .collect(),
                    },
                }
            }),
        ]
    });
    let item = (
        expr,
        proptest::option::of((op(), literal())),
        proptest::option::of("[a-z_]{1,6}"),
    )
        .prop_map(|(expr, compare, alias)| Item {
            expr: match compare {
                Some((op, right)) => Expr::Compare {
                    left: Box::new(expr),
                    op,
                    right,
                },
                None => expr,
            },
            alias,
        });
    proptest::collection::vec(item, 0..5).prop_map(|items| Projection { items })
}

proptest! {
    #[test]
    fn what_is_written_is_read(f in filter()) {
        let text = f.encode().unwrap();
        prop_assert_eq!(Filter::parse(&text).unwrap(), f, "{}", text);
    }

    #[test]
    fn what_is_written_is_read_of_projections(p in projection()) {
        let text = p.to_string();
        prop_assert_eq!(Projection::parse(&text).unwrap(), p, "{}", text);
    }

    #[test]
    fn no_text_breaks_out_of_its_quotes(field in field(), text in ".*") {
        let f = Filter::eq(field.clone(), text.as_str());
        let back = Filter::parse(&f.encode().unwrap()).unwrap();
        prop_assert_eq!(back.comparisons(), [(field.as_str(), Op::Eq, &Literal::Text(text.clone()))]);
    }

    #[test]
    fn the_parsers_survive_anything(text in ".{0,80}", near in "[a-z$#()\\[\\]{}'\\\\ ,.0-9-]{0,60}") {
        for t in [&text, &near] {
            let _ = Filter::parse(t);
            let _ = Projection::parse(t);
            let _ = SortKey::parse(t);
        }
    }
}

#[test]
fn joins_are_parenthesised() {
    let (a, b, c) = (Filter::eq("a", 1), Filter::eq("b", 2), Filter::eq("c", 3));
    for (filter, text) in [
        (
            a.clone().and(b.clone()).and(c.clone()),
            "a eq 1 and b eq 2 and c eq 3",
        ),
        (
            a.clone().and(b.clone()).or(c.clone()),
            "(a eq 1 and b eq 2) or c eq 3",
        ),
        (
            a.clone().and(b.clone().or(c.clone())),
            "a eq 1 and (b eq 2 or c eq 3)",
        ),
        (
            Filter::any("a", [1, 2]).and(b.clone()),
            "(a eq 1 or a eq 2) and b eq 2",
        ),
        (
            Filter::raw("a eq 1 or b eq 2").and(c.clone()),
            "(a eq 1 or b eq 2) and c eq 3",
        ),
    ] {
        assert_eq!(filter.encode().unwrap(), text);
    }
}

#[test]
fn wildcards_become_what_the_platform_knows() {
    for (pattern, text) in [
        ("web", "name eq 'web'"),
        ("web*", "name bw 'web'"),
        ("*web", "name ew 'web'"),
        ("*web*", "name cs 'web'"),
        ("*", "name bw ''"),
        ("**", "name bw ''"),
        ("a*b", "name rx '^a.*b$'"),
        ("a?", "name rx '^a.$'"),
        // The regular expression's backslash is escaped once more as text, and so is the brace.
        ("a.{1}?", "name rx '^a\\\\.\\\\\\{1\\\\}.$'"),
    ] {
        assert_eq!(
            Filter::like("name", pattern).encode().unwrap(),
            text,
            "{pattern}"
        );
    }
}

#[test]
fn the_platform_refuses_these() {
    for text in [
        "",
        "name",
        "name eq",
        "name like 'web'",
        "name in (1)",
        "startswith(name,'w')",
        "name eq 'web",
        "name eq 'a{b'",
        "name eq 'a\\",
        "name eq 'a' and",
        "(name eq 'a'",
        "name eq 'a' name eq 'b'",
        "name eq 'it''s'",
    ] {
        assert!(Filter::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_balanced_brace_is_dropped_without_a_word() {
    let f = Filter::parse("name eq 'br{x}ace'").unwrap();
    assert_eq!(f, Filter::eq("name", "brace"));
    assert_eq!(
        Filter::parse("name eq 'a{b{c}d}e}'").unwrap(),
        Filter::eq("name", "ae}")
    );
    assert_eq!(
        Filter::parse(r"name eq 'a\{b}'").unwrap(),
        Filter::eq("name", "a{b}")
    );
}

#[test]
fn a_column_that_is_none_is_not_sent() {
    for field in ["", "a b", "a' eq 'b", "a) or (b", "and", "a##b"] {
        assert!(Filter::eq(field, 1).encode().is_err(), "{field}");
    }
    assert!(Filter::eq("a", f64::NAN).encode().is_err());
}

#[test]
fn an_order_is_read_with_its_signs() {
    let keys = SortKey::parse("-timestamp,+orderid, name").unwrap();
    assert_eq!(
        keys,
        [
            SortKey::down("timestamp"),
            SortKey::up("orderid"),
            SortKey::up("name")
        ]
    );
    assert!(SortKey::parse("a b").is_err());
}

#[test]
fn deep_nesting_is_refused_not_overflown() {
    let deep = format!("{}a eq 1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(Filter::parse(&deep).is_err());
    assert!(Projection::parse(&"a#".repeat(100_000)).is_err());
    assert!(Projection::parse(&"a[".repeat(100_000)).is_err());
}

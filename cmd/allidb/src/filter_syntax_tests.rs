use super::*;

/// A compact form with every bracket, to compare structure at a glance.
fn show(filter: &Filter) -> String {
    match filter.kind.as_ref().expect("the parser sets every kind") {
        Kind::And(list) => format!("and({})", list.filters.iter().map(show).collect::<Vec<_>>().join(" ")),
        Kind::Or(list) => format!("or({})", list.filters.iter().map(show).collect::<Vec<_>>().join(" ")),
        Kind::Not(inner) => format!("not({})", show(inner)),
        Kind::Compare(compare) => {
            let value = compare.value.as_ref().map(value_json::to_json).unwrap_or_default();
            format!("{}:{}:{value}", compare.field, compare.operator().as_str_name())
        }
        Kind::In(membership) => {
            let values: Vec<_> =
                membership.values.iter().map(|v| value_json::to_json(v).to_string()).collect();
            format!("{}:in[{}]", membership.field, values.join(","))
        }
        Kind::Words(words) => format!("{}:{}:{}", words.field, words.r#match().as_str_name(), words.text),
        Kind::Exists(field) => format!("exists({field})"),
        Kind::IsNull(field) => format!("is_null({field})"),
    }
}

fn parsed(text: &str) -> String {
    show(&parse(text).unwrap_or_else(|error| panic!("{text}: {error}")))
}

#[test]
fn the_example_of_the_help_text() {
    assert_eq!(
        parsed(r#"type = "noun" and lexname in ("noun.animal","noun.plant") and not importance < 0.5"#),
        r#"and(type:EQUAL:"noun" lexname:in["noun.animal","noun.plant"] not(importance:LESS:0.5))"#
    );
}

#[test]
fn and_binds_tighter_than_or() {
    assert_eq!(parsed("a=1 or b=2 and c=3"), "or(a:EQUAL:1 and(b:EQUAL:2 c:EQUAL:3))");
    assert_eq!(parsed("(a=1 or b=2) and c=3"), "and(or(a:EQUAL:1 b:EQUAL:2) c:EQUAL:3)");
    assert_eq!(parsed("NOT a=1 AND b=2"), "and(not(a:EQUAL:1) b:EQUAL:2)");
}

#[test]
fn every_operator_and_value() {
    assert_eq!(parsed("a != -5"), "a:NOT_EQUAL:-5");
    assert_eq!(parsed("a <= 1.5e-3"), "a:LESS_OR_EQUAL:0.0015");
    assert_eq!(parsed("a >= 2 and b > 2.0"), "and(a:GREATER_OR_EQUAL:2 b:GREATER:2.0)");
    assert_eq!(parsed("a = true or a = FALSE"), "or(a:EQUAL:true a:EQUAL:false)");
    assert_eq!(parsed(r#"a starts_with 'x"y'"#), r#"a:STARTS_WITH:"x\"y""#);
    assert_eq!(parsed(r#"starts_with(a, "x")"#), r#"a:STARTS_WITH:"x""#);
    assert_eq!(parsed(r#"a contains "x""#), r#"a:CONTAINS:"x""#);
    assert_eq!(parsed(r#"a matches "big dog""#), "a:TEXT_MATCH_ALL:big dog");
    assert_eq!(parsed(r#"a matches any "x y""#), "a:TEXT_MATCH_ANY:x y");
    assert_eq!(parsed(r#"a Matches PHRASE "x y""#), "a:TEXT_MATCH_PHRASE:x y");
    assert_eq!(parsed("exists(a.b) and is_null(c)"), "and(exists(a.b) is_null(c))");
    assert_eq!(parsed("a not in (1, 2)"), "not(a:in[1,2])");
    assert_eq!(
        parsed(r#"updated_at > timestamp("2024-05-01T00:00:00Z")"#),
        r#"updated_at:GREATER:{"$timestamp":"2024-05-01T00:00:00Z"}"#
    );
    assert_eq!(parsed("`two words` = 1 and `in` = 2"), "and(two words:EQUAL:1 in:EQUAL:2)");
    assert_eq!(parsed("exists = 1"), "exists:EQUAL:1");
}

#[test]
fn errors_say_where() {
    for (text, column, part) in [
        ("", 1, "field"),
        ("a", 2, "comparison"),
        ("a =", 4, "value"),
        ("a == 1", 3, "single"),
        ("a = noun", 5, "quotes"),
        ("a = null", 5, "is_null"),
        ("a = 1 b = 2", 7, "`and`"),
        ("(a = 1", 7, "`)`"),
        ("a in ()", 7, "value"),
        ("a = \"open", 5, "never closed"),
        ("and = 1", 1, "backticks"),
        ("é = 1 % 2", 7, "no meaning"),
        ("a = 99999999999999999999", 5, "int64"),
        ("a = timestamp(\"soon\")", 15, "RFC 3339"),
        ("a not like 1", 7, "`in`"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}a = 1{}", "(".repeat(depth), ")".repeat(depth));
    assert!(parse(&nested(MAX_DEPTH - 1)).is_ok());
    assert!(parse(&nested(MAX_DEPTH)).is_err());
    assert!(parse(&format!("{} a = 1", "not ".repeat(100_000))).is_err());
}

#[test]
fn garbage_is_refused_without_panic() {
    let alphabet = ["(", ")", "a", "=", "\"", "`", "in", "not", "1", ",", "\\", "é", "exists", " ", "-"];
    let mut state = 7_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(alphabet[(state >> 33) as usize % alphabet.len()]);
        }
        if let Err(error) = parse(&text) {
            assert!(error.column <= text.chars().count() + 1, "{text}: {error}");
        }
    }
}

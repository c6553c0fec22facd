//! The filter syntax of `--filter`, read by recursive descent.
//!
//! ```text
//! filter    = and { "or" and }
//! and       = unary { "and" unary }
//! unary     = "not" unary | "(" filter ")" | predicate
//! predicate = "exists" "(" field ")" | "is_null" "(" field ")" | "starts_with" "(" field "," string ")"
//!           | field ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
//!           | field ( "starts_with" | "contains" ) string
//!           | field "matches" [ "any" | "all" | "phrase" ] string
//!           | field [ "not" ] "in" "(" value { "," value } ")"
//! value     = string | number | "true" | "false" | "timestamp" "(" string ")"
//! ```
//!
//! Keywords may be in any case. A field that contains other characters, or is named like a keyword,
//! stands in backticks.

use allidb_api::v1::{
    Comparison, Filter, FilterList, Membership, TextMatch, Value, WordsCondition, comparison::Operator,
    filter::Kind, value,
};

use crate::{
    failure::Failure,
    filter_lexer::{SyntaxError, Token, tokens},
    value_json,
};

/// How deep parentheses and `not` may nest.
const MAX_DEPTH: usize = 32;

type Parsed<T> = Result<T, SyntaxError>;

/// Reads a filter for the command line: an error shows the text with a caret under the fault.
pub(crate) fn parse_argument(text: &str) -> anyhow::Result<Filter> {
    parse(text).map_err(|error| {
        let caret = " ".repeat(error.column.saturating_sub(1));
        Failure::usage(format!("the filter cannot be read at {error}\n  {text}\n  {caret}^"))
    })
}

/// Reads a filter.
pub(crate) fn parse(text: &str) -> Parsed<Filter> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let filter = parser.any_of()?;
    match parser.peek() {
        Token::End => Ok(filter),
        other => {
            let message = format!("expected `and`, `or` or the end, found {other}");
            parser.fail(message)
        }
    }
}

struct Parser {
    /// Ends with [`Token::End`], which is never stepped over.
    tokens: Vec<(Token, usize)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let column = self.tokens.get(self.at).map_or(1, |(_, column)| *column);
        Err(SyntaxError { column, message: message.into() })
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        if token != Token::End {
            self.at += 1;
        }
        token
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.is_keyword(keyword);
        if found {
            self.at += 1;
        }
        found
    }

    /// Whether a keyword followed by `(` comes next; without the parenthesis it is a field's name.
    fn take_call(&mut self, keyword: &str) -> bool {
        let opens = matches!(self.tokens.get(self.at + 1), Some((Token::Sign("("), _)));
        let found = opens && self.is_keyword(keyword);
        if found {
            self.at += 2;
        }
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect_sign(&mut self, sign: &'static str) -> Parsed<()> {
        if self.take_sign(sign) {
            Ok(())
        } else {
            self.fail(format!("expected `{sign}`, found {}", self.peek()))
        }
    }

    fn any_of(&mut self) -> Parsed<Filter> {
        let mut filters = vec![self.all_of()?];
        while self.take_keyword("or") {
            filters.push(self.all_of()?);
        }
        Ok(joined(filters, Kind::Or))
    }

    fn all_of(&mut self) -> Parsed<Filter> {
        let mut filters = vec![self.unary()?];
        while self.take_keyword("and") {
            filters.push(self.unary()?);
        }
        Ok(joined(filters, Kind::And))
    }

    fn unary(&mut self) -> Parsed<Filter> {
        if self.depth == MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH}"));
        }
        self.depth += 1;
        let filter = if self.take_keyword("not") {
            self.unary().map(negated)
        } else if self.take_sign("(") {
            self.any_of().and_then(|inner| self.expect_sign(")").map(|()| inner))
        } else {
            self.predicate()
        };
        self.depth -= 1;
        filter
    }

    fn predicate(&mut self) -> Parsed<Filter> {
        if self.take_call("exists") {
            let field = self.field()?;
            self.expect_sign(")")?;
            return Ok(filter(Kind::Exists(field)));
        }
        if self.take_call("is_null") {
            let field = self.field()?;
            self.expect_sign(")")?;
            return Ok(filter(Kind::IsNull(field)));
        }
        if self.take_call("starts_with") {
            let field = self.field()?;
            self.expect_sign(",")?;
            let prefix = self.text()?;
            self.expect_sign(")")?;
            return Ok(starts_with(field, prefix));
        }
        let field = self.field()?;
        if self.take_keyword("starts_with") {
            return Ok(starts_with(field, self.text()?));
        }
        if self.take_keyword("contains") {
            let part = Value { kind: Some(value::Kind::StringValue(self.text()?)) };
            return Ok(comparison(field, Operator::Contains, part));
        }
        if self.take_keyword("matches") {
            return self.words(field);
        }
        if self.take_keyword("not") {
            return if self.take_keyword("in") {
                self.membership(field).map(negated)
            } else {
                self.fail(format!("expected `in`, found {}", self.peek()))
            };
        }
        if self.take_keyword("in") {
            return self.membership(field);
        }
        let operator = self.operator()?;
        let value = self.value()?;
        Ok(comparison(field, operator, value))
    }

    /// Words that a field has: all of them unless it says otherwise.
    fn words(&mut self, field: String) -> Parsed<Filter> {
        let ways = [("any", TextMatch::Any), ("all", TextMatch::All), ("phrase", TextMatch::Phrase)];
        let way = ways.into_iter().find(|(keyword, _)| self.take_keyword(keyword));
        let r#match = way.map_or(TextMatch::All, |(_, way)| way).into();
        Ok(filter(Kind::Words(WordsCondition { field, text: self.text()?, r#match })))
    }

    fn operator(&mut self) -> Parsed<Operator> {
        let operator = match self.peek() {
            Token::Sign("=") => Operator::Equal,
            Token::Sign("!=") => Operator::NotEqual,
            Token::Sign("<") => Operator::Less,
            Token::Sign("<=") => Operator::LessOrEqual,
            Token::Sign(">") => Operator::Greater,
            Token::Sign(">=") => Operator::GreaterOrEqual,
            other => {
                let message = format!(
                    "expected a comparison, `in`, `starts_with`, `contains` or `matches`, found {other}"
                );
                return self.fail(message);
            }
        };
        self.at += 1;
        Ok(operator)
    }

    fn membership(&mut self, field: String) -> Parsed<Filter> {
        self.expect_sign("(")?;
        let mut values = vec![self.value()?];
        while self.take_sign(",") {
            values.push(self.value()?);
        }
        self.expect_sign(")")?;
        Ok(filter(Kind::In(Membership { field, values })))
    }

    fn field(&mut self) -> Parsed<String> {
        const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "true", "false"];
        match self.peek() {
            Token::Word(word) if KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword)) => {
                let message =
                    format!("expected a field, found `{word}` (a field of that name stands in backticks)");
                self.fail(message)
            }
            Token::Word(field) | Token::Quoted(field) if !field.is_empty() => {
                let field = field.clone();
                self.at += 1;
                Ok(field)
            }
            other => {
                let message = format!("expected a field, found {other}");
                self.fail(message)
            }
        }
    }

    fn text(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Text(text) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            other => {
                let message = format!("expected a string in quotes, found {other}");
                self.fail(message)
            }
        }
    }

    fn value(&mut self) -> Parsed<Value> {
        if self.take_call("timestamp") {
            let at = self.at;
            let text = self.text()?;
            let time = value_json::timestamp(&text).or_else(|error| {
                self.at = at;
                self.fail(error.to_string())
            })?;
            self.expect_sign(")")?;
            return Ok(Value { kind: Some(value::Kind::TimestampValue(time)) });
        }
        let kind = match self.peek() {
            Token::Text(text) => value::Kind::StringValue(text.clone()),
            Token::Number(text) => match number(text) {
                Some(kind) => kind,
                None => {
                    return self.fail(format!("`{text}` is not a number that an int64 or a double holds"));
                }
            },
            Token::Word(word) if word.eq_ignore_ascii_case("true") => value::Kind::BoolValue(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => value::Kind::BoolValue(false),
            Token::Word(word) if word.eq_ignore_ascii_case("null") => {
                return self.fail("nothing compares with null; is_null(FIELD) asks for it");
            }
            Token::Word(word) => {
                return self.fail(format!("expected a value, found `{word}`; strings stand in quotes"));
            }
            other => {
                let message = format!("expected a value, found {other}");
                return self.fail(message);
            }
        };
        self.next();
        Ok(Value { kind: Some(kind) })
    }
}

fn number(text: &str) -> Option<value::Kind> {
    if let Ok(whole) = text.parse() {
        return Some(value::Kind::IntValue(whole));
    }
    // A whole number that is too large would silently lose digits as a double.
    let is_double = text.contains(['.', 'e', 'E']);
    let double = text.parse::<f64>().ok().filter(|double| is_double && double.is_finite());
    double.map(value::Kind::DoubleValue)
}

fn filter(kind: Kind) -> Filter {
    Filter { kind: Some(kind) }
}

fn negated(inner: Filter) -> Filter {
    filter(Kind::Not(Box::new(inner)))
}

/// One filter stays as it is; several become a list.
fn joined(mut filters: Vec<Filter>, kind: fn(FilterList) -> Kind) -> Filter {
    match filters.pop() {
        Some(only) if filters.is_empty() => only,
        last => {
            filters.extend(last);
            filter(kind(FilterList { filters }))
        }
    }
}

fn comparison(field: String, operator: Operator, value: Value) -> Filter {
    filter(Kind::Compare(Comparison { field, operator: operator as i32, value: Some(value) }))
}

fn starts_with(field: String, prefix: String) -> Filter {
    comparison(field, Operator::StartsWith, Value { kind: Some(value::Kind::StringValue(prefix)) })
}

#[cfg(test)]
#[path = "filter_syntax_tests.rs"]
mod tests;

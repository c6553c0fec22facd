//! The words of the filter syntax, each with the column where it begins.

use std::fmt;

/// One word or sign.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A keyword or a field; which of the two is decided by the place where it stands.
    Word(String),
    /// A field in backticks: never a keyword.
    Quoted(String),
    /// A string in double or single quotes.
    Text(String),
    /// A number as written.
    Number(String),
    /// A sign: one of `( ) , = != < <= > >=`.
    Sign(&'static str),
    /// The end of the text.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(text) | Self::Number(text) => write!(f, "`{text}`"),
            Self::Quoted(text) => write!(f, "field `{text}`"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Sign(sign) => write!(f, "`{sign}`"),
            Self::End => f.write_str("the end"),
        }
    }
}

/// What is wrong, and at which column (in characters, from 1).
#[derive(Debug, PartialEq)]
pub(crate) struct SyntaxError {
    /// Where.
    pub(crate) column: usize,
    /// What was found and what was expected.
    pub(crate) message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column {}: {}", self.column, self.message)
    }
}

impl std::error::Error for SyntaxError {}

/// Two-character signs stand first, so that `<=` is not read as `<`.
const SIGNS: [&str; 9] = ["!=", "<=", ">=", "=", "<", ">", "(", ")", ","];

/// Splits `text`; the last token is [`Token::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, SyntaxError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&first) = chars.get(at) {
        if first.is_whitespace() {
            at += 1;
            continue;
        }
        let column = at + 1;
        let rest = chars.get(at..).unwrap_or_default();
        let (token, length) = match first {
            '"' | '\'' => quoted(rest, column).map(|(text, length)| (Token::Text(text), length))?,
            '`' => quoted(rest, column).map(|(text, length)| (Token::Quoted(text), length))?,
            _ if begins_number(rest) => number(rest),
            _ if is_word(first) => word(rest),
            _ => sign(rest, column)?,
        };
        tokens.push((token, column));
        at += length;
    }
    tokens.push((Token::End, chars.len() + 1));
    Ok(tokens)
}

fn begins_number(rest: &[char]) -> bool {
    match rest {
        ['-' | '+', next, ..] => next.is_ascii_digit(),
        [first, ..] => first.is_ascii_digit(),
        [] => false,
    }
}

fn is_word(char: char) -> bool {
    char.is_alphanumeric() || matches!(char, '_' | '.' | '-' | '$')
}

fn number(rest: &[char]) -> (Token, usize) {
    let mut text = String::new();
    for &char in rest {
        let after_exponent = text.ends_with(['e', 'E']);
        let belongs = char.is_ascii_alphanumeric()
            || char == '.'
            || (matches!(char, '+' | '-') && (text.is_empty() || after_exponent));
        if !belongs {
            break;
        }
        text.push(char);
    }
    let length = text.len();
    (Token::Number(text), length)
}

fn word(rest: &[char]) -> (Token, usize) {
    let text: String = rest.iter().take_while(|&&char| is_word(char)).collect();
    let length = text.chars().count();
    (Token::Word(text), length)
}

fn sign(rest: &[char], column: usize) -> Result<(Token, usize), SyntaxError> {
    let found = SIGNS.into_iter().find(|sign| sign.chars().enumerate().all(|(i, c)| rest.get(i) == Some(&c)));
    match found {
        // `==` is what many type; the message is better than "expected a value".
        Some("=") if rest.get(1) == Some(&'=') => {
            Err(SyntaxError { column, message: "a single `=` compares".to_owned() })
        }
        Some(sign) => Ok((Token::Sign(sign), sign.len())),
        None => {
            let char = rest.first().copied().unwrap_or_default();
            Err(SyntaxError { column, message: format!("`{char}` has no meaning here") })
        }
    }
}

/// A text in quotes; a backslash takes the next character as it is, `\n` and `\t` apart.
fn quoted(rest: &[char], column: usize) -> Result<(String, usize), SyntaxError> {
    let mut chars = rest.iter().enumerate();
    let quote = chars.next().map(|(_, &char)| char);
    let mut text = String::new();
    while let Some((position, &char)) = chars.next() {
        if Some(char) == quote {
            return Ok((text, position + 1));
        }
        match char {
            '\\' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, &escaped)) => text.push(escaped),
                None => break,
            },
            _ => text.push(char),
        }
    }
    Err(SyntaxError { column, message: "the quote that begins here is never closed".to_owned() })
}

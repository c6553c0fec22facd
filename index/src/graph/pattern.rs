//! Which relations may follow each other on a walk: patterns such as `hypernym{1,5}/part_holonym?`, as automata.
//!
//! ```text
//! pattern     = sequence *( "|" sequence )
//! sequence    = step *( "/" step )
//! step        = ( edge / "(" pattern ")" ) [ "?" / "*" / "+" / "{" n "}" / "{" n "," [ m ] "}" ]
//! edge        = [ "^" ] ( name / "." )
//! ```
//! `^` follows edges from their targets to their sources, `.` stands for any relation. A name with other characters than
//! letters, digits, `_`, `-`, `:` and `.` is put in double quotes, with `\` before quotes and backslashes within.
//!
//! An automaton has a state for each edge of the pattern, and one to begin with (Glushkov, "The abstract theory of automata",
//! 1961): there are no empty steps.

use crate::{
    error::{Error, Result},
    graph::adjacency::Side,
    model::validate_relation,
};

/// Edges that a pattern comes to when its repetitions are written out.
const MAX_EDGES: usize = 64;
/// Parentheses within each other.
const MAX_DEPTH: usize = 16;
/// Bytes of a pattern.
const MAX_BYTES: usize = 32 << 10;

/// Which edges may be followed in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Automaton {
    /// The first is where walks begin.
    pub(crate) states: Vec<State>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// Whether a walk may end here.
    pub(crate) accepts: bool,
    pub(crate) steps: Vec<Transition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) side: Side,
    /// Empty: all.
    pub(crate) relations: Vec<String>,
    pub(crate) to: u8,
}

/// A part of a pattern over edges that are known by their places.
#[derive(Clone, Debug, Default)]
struct Part {
    first: Vec<u8>,
    last: Vec<u8>,
    may_be_empty: bool,
}

struct Parser<'a> {
    place: &'a str,
    text: &'a str,
    at: usize,
    depth: usize,
    /// The edges, and which may follow each.
    edges: Vec<(Side, Vec<String>)>,
    follow: Vec<Vec<u8>>,
}

impl Automaton {
    /// Any walk along these relations; empty: all.
    pub(crate) fn any(sides: &[Side], relations: &[String]) -> Self {
        let step = |side: &Side| Transition { side: *side, relations: relations.to_vec(), to: 0 };
        Self { states: vec![State { accepts: true, steps: sides.iter().map(step).collect() }] }
    }

    /// Walks as a pattern says; `place` is the field's name.
    ///
    /// # Errors
    /// If it cannot be read, with where and why.
    pub(crate) fn parse(place: &str, text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            let why = format!("is {} bytes long; at most {MAX_BYTES} are allowed", text.len());
            return Err(Error::invalid(place, why));
        }
        let mut parser = Parser { place, text, at: 0, depth: 0, edges: Vec::new(), follow: Vec::new() };
        let whole = parser.pattern()?;
        if parser.peek().is_some() {
            return Err(parser.error("expected `/`, `|` or the end"));
        }
        let Parser { edges, follow, .. } = parser;
        let steps = |followers: &[u8]| {
            let step = |to: &u8| {
                let (side, relations) = edges[usize::from(*to)].clone();
                Transition { side, relations, to: to + 1 }
            };
            followers.iter().map(step).collect()
        };
        let mut states = vec![State { accepts: whole.may_be_empty, steps: steps(&whole.first) }];
        for (at, followers) in follow.iter().enumerate() {
            states.push(State { accepts: whole.last.contains(&(at as u8)), steps: steps(followers) });
        }
        Ok(Self { states })
    }
}

impl<'a> Parser<'a> {
    fn error(&self, why: impl std::fmt::Display) -> Error {
        let at = self.text[..self.at].chars().count() + 1;
        Error::invalid(self.place, format!("cannot be read at character {at}: {why}"))
    }

    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        self.at += if is_there { wanted.len_utf8() } else { 0 };
        is_there
    }

    fn pattern(&mut self) -> Result<Part> {
        let mut whole = self.sequence()?;
        while self.take('|') {
            let other = self.sequence()?;
            whole.first.extend(other.first);
            whole.last.extend(other.last);
            whole.may_be_empty |= other.may_be_empty;
        }
        Ok(whole)
    }

    fn sequence(&mut self) -> Result<Part> {
        let mut whole = self.step()?;
        while self.take('/') {
            let next = self.step()?;
            whole = self.join(whole, next);
        }
        Ok(whole)
    }

    /// One part after the other.
    fn join(&mut self, mut a: Part, b: Part) -> Part {
        for last in &a.last {
            self.add_followers(*last, &b.first);
        }
        if a.may_be_empty {
            a.first.extend(&b.first);
        }
        let mut last = b.last;
        if b.may_be_empty {
            last.extend(a.last);
        }
        Part { first: a.first, last, may_be_empty: a.may_be_empty && b.may_be_empty }
    }

    fn add_followers(&mut self, edge: u8, followers: &[u8]) {
        let known = &mut self.follow[usize::from(edge)];
        for follower in followers {
            if !known.contains(follower) {
                known.push(*follower);
            }
        }
    }

    fn step(&mut self) -> Result<Part> {
        let start = self.at;
        let once = self.atom()?;
        let (least, most) = match self.peek() {
            Some('?') => (0, Some(1)),
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('{') => return self.repeated(start, once),
            _ => return Ok(once),
        };
        self.at += 1;
        Ok(self.loops(once, least, most))
    }

    /// A part that may be left out, or come again.
    fn loops(&mut self, mut part: Part, least: usize, most: Option<usize>) -> Part {
        if most.is_none() {
            for last in part.last.clone() {
                self.add_followers(last, &part.first);
            }
        }
        part.may_be_empty |= least == 0;
        part
    }

    /// `{n}`, `{n,}` and `{n,m}`, behind a part that begins at `start`: it is read again for each time but the first that it may come. So
    /// no part is read more often than it has copies, which the bound on edges bounds.
    fn repeated(&mut self, start: usize, once: Part) -> Result<Part> {
        let opening = self.at;
        self.at += 1;
        let least = self.number()?;
        let most = match self.take(',') {
            false => Some(least),
            true if self.peek() == Some('}') => None,
            true => Some(self.number()?),
        };
        if !self.take('}') {
            return Err(self.error("expected `}`"));
        }
        let end = self.at;
        if most.is_some_and(|most| most < least || most == 0) {
            self.at = opening;
            return Err(self.error("the most is 0, or less than the least"));
        }
        let times = most.unwrap_or(least.max(1));
        let mut whole = Part { may_be_empty: true, ..Part::default() };
        let mut once = Some(once);
        for time in 0..times {
            let mut part = match once.take() {
                Some(once) => once,
                None => {
                    self.at = start;
                    self.atom()?
                }
            };
            if most.is_none() && time + 1 == times {
                part = self.loops(part, 1, None);
            }
            part.may_be_empty |= time >= least;
            whole = self.join(whole, part);
        }
        self.at = end;
        Ok(whole)
    }

    fn number(&mut self) -> Result<usize> {
        self.peek();
        let rest = &self.text[self.at..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = rest[..digits].parse().ok().filter(|number| *number <= MAX_EDGES);
        let number = number.ok_or_else(|| self.error(format!("expected a number up to {MAX_EDGES}")))?;
        self.at += digits;
        Ok(number)
    }

    fn atom(&mut self) -> Result<Part> {
        if self.take('(') {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.error(format!("parentheses are nested deeper than {MAX_DEPTH}")));
            }
            let inner = self.pattern()?;
            self.depth -= 1;
            return if self.take(')') { Ok(inner) } else { Err(self.error("expected `)`")) };
        }
        let side = if self.take('^') { Side::In } else { Side::Out };
        let relations = self.relation()?;
        if self.edges.len() == MAX_EDGES {
            let why = format!("it comes to more than {MAX_EDGES} edges");
            return Err(self.error(why));
        }
        let place = self.edges.len() as u8;
        self.edges.push((side, relations));
        self.follow.push(Vec::new());
        Ok(Part { first: vec![place], last: vec![place], may_be_empty: false })
    }

    /// A relation's name; empty: any.
    fn relation(&mut self) -> Result<Vec<String>> {
        if self.take('"') {
            let mut name = String::new();
            let mut is_escaped = false;
            let rest = &self.text[self.at..];
            for (at, c) in rest.char_indices() {
                match c {
                    '\\' if !is_escaped => is_escaped = true,
                    '"' if !is_escaped => {
                        validate_relation(self.place, &name)?;
                        self.at += at + 1;
                        return Ok(vec![name]);
                    }
                    _ => {
                        name.push(c);
                        is_escaped = false;
                    }
                }
            }
            return Err(self.error("a quote is not closed"));
        }
        self.peek();
        let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
        let rest = &self.text[self.at..];
        let name = &rest[..rest.len() - rest.trim_start_matches(is_plain).len()];
        match name {
            "" => Err(self.error("expected a relation")),
            "." => {
                self.at += 1;
                Ok(Vec::new())
            }
            name => {
                validate_relation(self.place, name)?;
                self.at += name.len();
                Ok(vec![name.to_owned()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a walk along these edges (upper case: backwards) may end after the last.
    fn accepts(pattern: &str, walk: &str) -> bool {
        let automaton = Automaton::parse("pattern", pattern).expect("a pattern");
        let mut states = vec![0_u8];
        for edge in walk.chars() {
            let side = if edge.is_uppercase() { Side::In } else { Side::Out };
            let name = edge.to_lowercase().to_string();
            let mut next: Vec<u8> = Vec::new();
            for state in states {
                let steps = automaton.states[usize::from(state)].steps.iter();
                let followed = steps.filter(|step| {
                    step.side == side && (step.relations.is_empty() || step.relations.contains(&name))
                });
                next.extend(followed.map(|step| step.to));
            }
            states = next;
        }
        states.iter().any(|state| automaton.states[usize::from(*state)].accepts)
    }

    #[test]
    fn walks_are_told_from_others() {
        for (pattern, yes, no) in [
            ("a", vec!["a"], vec!["", "b", "A", "aa"]),
            ("^a", vec!["A"], vec!["a"]),
            (". / b", vec!["ab", "bb", "xb"], vec!["b", "Ab", "a"]),
            ("a{1,3}/b?", vec!["a", "aaa", "aaab", "ab"], vec!["", "b", "aaaa", "abb"]),
            ("(a|^b)+", vec!["a", "B", "aBBa"], vec!["", "b", "ab"]),
            ("a*", vec!["", "aaaa"], vec!["b"]),
            ("a{2,}/b", vec!["aab", "aaaaab"], vec!["ab", "aa"]),
            ("(a/b){2}", vec!["abab"], vec!["ab", "ababab"]),
            ("(a?/b?){0,2}", vec!["", "a", "ba", "abab"], vec!["aaa", "bbb"]),
            ("\"a\"/(b/(a|b){2})?", vec!["a", "abab"], vec!["ab", "aba"]),
        ] {
            yes.iter().for_each(|walk| assert!(accepts(pattern, walk), "{pattern} {walk:?}"));
            no.iter().for_each(|walk| assert!(!accepts(pattern, walk), "{pattern} {walk:?}"));
        }
    }

    #[test]
    fn wrong_patterns_are_refused_with_the_place() {
        for (pattern, at) in [
            ("", 1),
            ("a/", 3),
            ("a b", 3),
            ("a{3,1}", 2),
            ("a{0}", 2),
            ("(a", 3),
            ("a)", 2),
            ("\"a", 2),
            ("a{1,99}", 5),
            ("(a{9}){9}", 3),
        ] {
            let error = Automaton::parse("expand.pattern", pattern).expect_err(pattern).to_string();
            assert!(error.starts_with("expand.pattern"), "{error}");
            assert!(error.contains(&format!("at character {at}:")), "{pattern}: {error}");
        }
        let long = format!("{}a", " ".repeat(MAX_BYTES));
        let error = Automaton::parse("p", &long).expect_err("too long").to_string();
        assert_eq!(error, "p is 32769 bytes long; at most 32768 are allowed");
        let deep = format!("{}a{}", "(".repeat(99), ")".repeat(99));
        assert!(Automaton::parse("p", &deep).is_err());
    }

    #[test]
    fn repetitions_within_each_other_are_read_once_for_each_copy() {
        let begun = std::time::Instant::now();
        let blanks = " ".repeat(MAX_BYTES / 2);
        for (times, accepted) in [("{1}", true), ("{0,1}", true), ("{1,1}", true), ("{2}", false)] {
            let nested = format!("{}{blanks}a{}", "(".repeat(15), format!("){times}").repeat(15));
            assert_eq!(Automaton::parse("p", &nested).is_ok(), accepted, "{times}");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[ab(){}|/?*+^.,0-9\" ]{0,40}|\\PC{0,20}") {
            drop(Automaton::parse("p", &text));
        }
    }
}

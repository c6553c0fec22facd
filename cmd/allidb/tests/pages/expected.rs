//! What a command said, beside what the page shows of it.

/// What varies from run to run; alone on a line: any number of lines.
const ANYTHING: &str = "…";

/// Whether they are the same, but for what varies and for how wide tables are.
pub(crate) fn is_shown(shown: &str, said: &str) -> bool {
    let [shown, said] = [shown, said].map(|text| text.trim_end().lines().map(narrow).collect::<Vec<_>>());
    lines(&shown, &said)
}

/// Blanks and rules of any length are one.
fn narrow(line: &str) -> String {
    let mut narrow = String::new();
    for c in line.trim_end().chars() {
        if !(matches!(c, ' ' | '─') && narrow.ends_with(c)) {
            narrow.push(c);
        }
    }
    narrow
}

fn lines(shown: &[String], said: &[String]) -> bool {
    match shown.split_first() {
        None => said.is_empty(),
        Some((first, rest)) if first == ANYTHING => {
            (0..=said.len()).any(|skipped| lines(rest, &said[skipped..]))
        }
        Some((first, rest)) => {
            said.split_first().is_some_and(|(line, after)| is_line(first, line) && lines(rest, after))
        }
    }
}

fn is_line(shown: &str, said: &str) -> bool {
    let mut parts = shown.split(ANYTHING);
    let Some(mut left) = parts.next().and_then(|first| said.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return left.is_empty() };
    for part in between {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::is_shown;

    #[test]
    fn what_varies_is_left_out_and_nothing_else() {
        for (shown, said) in [
            ("a\nb", "a\nb\n"),
            ("a\n…\nb", "a\nb"),
            ("a\n…\nb", "a\nx\ny\nb\n"),
            ("took … ms, … of 3", "took 1.5 ms, 2 of 3"),
            ("id   type\n──────", "id type\n───"),
            ("…", ""),
        ] {
            assert!(is_shown(shown, said), "{shown:?} {said:?}");
        }
        for (shown, said) in [
            ("a\nb", "a"),
            ("a", "a\nb"),
            ("a\n…\nb", "a\nx"),
            ("took … ms", "took 1.5 s"),
            ("a … a", "a a"),
            ("took 1", "took 12"),
            ("", "a"),
        ] {
            assert!(!is_shown(shown, said), "{shown:?} {said:?}");
        }
    }
}

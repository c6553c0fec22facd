//! The text format of Prometheus, as far as daemons write it: figures with names, labels and values.

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: String,
    labels: Vec<(String, String)>,
    pub(crate) value: f64,
}

impl Figure {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// All figures of a daemon at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<Figure>);

impl Figures {
    /// Reads what `/metrics` answers.
    ///
    /// # Errors
    /// The first line that is none of the format.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let figures: Option<Vec<Figure>> = lines.clone().map(parse_line).collect();
        match figures {
            Some(figures) => Ok(Self(figures)),
            None => {
                let wrong = lines.into_iter().find(|line| parse_line(line).is_none()).unwrap_or_default();
                Err(format!("{wrong:?} is no figure"))
            }
        }
    }

    /// Those of a name, one for each combination of labels.
    pub(crate) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Figure> {
        self.0.iter().filter(move |figure| figure.name == name)
    }

    /// The sum of those of a name, whatever their labels; `None` if there are none.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        self.of(name).map(|figure| figure.value).reduce(|sum, value| sum + value)
    }
}

/// `name{label="value",…} value`, maybe with a time behind it.
fn parse_line(line: &str) -> Option<Figure> {
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then(|| Figure { name: name.to_owned(), labels, value })
}

/// What stands between the braces, and what comes behind them.
fn parse_labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquote(quoted)?;
        labels.push((name.trim().to_owned(), value));
        rest = behind;
    }
}

/// What stands up to the closing quotation mark, and what comes behind that.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP calls_total Calls
# TYPE calls_total counter
calls_total{method=\"Get\",code=\"OK\"} 3
calls_total{method=\"a \\\"b\\\\c\\n{},=\",code=\"OK\"} 4.5 1700000000000

up 1
seconds_bucket{le=\"+Inf\"} 7
largest +Inf
";

    #[test]
    fn figures_are_read() {
        let figures = Figures::parse(TEXT).expect("the format");
        assert_eq!(figures.sum("calls_total"), Some(7.5));
        assert_eq!(figures.sum("up"), Some(1.0));
        assert_eq!(figures.sum("down"), None);
        let methods: Vec<_> = figures.of("calls_total").map(|figure| figure.label("method")).collect();
        assert_eq!(methods, [Some("Get"), Some("a \"b\\c\n{},=")]);
        assert_eq!(figures.of("seconds_bucket").next().and_then(|figure| figure.label("le")), Some("+Inf"));
        assert_eq!(figures.of("up").next().and_then(|figure| figure.label("le")), None);
        assert_eq!(figures.sum("largest"), Some(f64::INFINITY));
    }

    #[test]
    fn what_is_no_figure_is_refused() {
        for wrong in ["<html>", "name", "name{a=\"b} 1", "name{a=b} 1", "name{} one", "{a=\"b\"} 1"] {
            assert!(Figures::parse(wrong).is_err_and(|why| why.contains("is no figure")), "{wrong:?}");
        }
    }
}

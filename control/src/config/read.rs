//! Reads TOML tables key by key. Mistakes are collected and reading goes on, so that one run shows them all; a key that nobody
//! asked for is one of them.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Reason};

/// A file's text, and what was found wrong with it so far.
pub(super) struct Source<'a> {
    file: &'a Path,
    text: &'a str,
    /// Where the lines end.
    newlines: Vec<usize>,
    problems: RefCell<Vec<ConfigError>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        let newlines = text.match_indices('\n').map(|(offset, _)| offset).collect();
        Self { file, text, newlines, problems: RefCell::default() }
    }

    /// Parses the text. `None` when it isn't TOML: then the tables would be guesses.
    pub(super) fn parse(&self) -> Option<Spanned<DeTable<'a>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.report(
                error.span().map_or(0, |span| span.start),
                String::new(),
                Reason::Syntax(one_line(error.message())),
            );
        }
        errors.is_empty().then_some(table)
    }

    /// The line of a byte offset, counted from 1.
    fn line(&self, offset: usize) -> usize {
        1 + self.newlines.partition_point(|newline| *newline < offset)
    }

    fn report(&self, offset: usize, key: String, reason: Reason) {
        let (file, line) = (self.file.to_path_buf(), Some(self.line(offset)));
        self.problems.borrow_mut().push(ConfigError { file, line, key, reason });
    }

    /// Adds mistakes that were found in another file.
    pub(super) fn adopt(&self, problems: Vec<ConfigError>) {
        self.problems.borrow_mut().extend(problems);
    }

    /// Everything that was found, in the order of the lines.
    pub(super) fn into_problems(self) -> Vec<ConfigError> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        problems
    }
}

/// Everything, if nothing is missing. Unlike collecting into an `Option`, it reads on behind a mistake.
pub(super) fn every<T>(items: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    items.collect::<Vec<_>>().into_iter().collect()
}

/// The parser's messages may have several lines.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A table being read.
pub(super) struct Section<'s, 'a> {
    source: &'s Source<'a>,
    path: String,
    table: &'s DeTable<'a>,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
    /// Keys of other programs whose absence here was explained.
    refused: RefCell<Vec<&'static str>>,
}

impl<'s, 'a> Section<'s, 'a> {
    pub(super) fn root(source: &'s Source<'a>, table: &'s Spanned<DeTable<'a>>) -> Self {
        let (path, table, span) = (String::new(), table.get_ref(), table.span());
        Self { source, path, table, span, asked: RefCell::default(), refused: RefCell::default() }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A key that may be left out.
    pub(super) fn optional(&self, key: &'static str) -> Option<Field<'s, 'a>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        let value = self.table.get(key)?;
        Some(Field { source: self.source, path: self.path_of(key), value })
    }

    /// A key that has to be there.
    pub(super) fn required(&self, key: &'static str) -> Option<Field<'s, 'a>> {
        let field = self.optional(key);
        if field.is_none() {
            self.report(key, Reason::Missing);
        }
        field
    }

    /// The tables `[[key]]`, at most `max`.
    pub(super) fn tables(&self, key: &'static str, max: usize) -> Vec<Section<'s, 'a>> {
        self.optional(key).map_or_else(Vec::new, |field| field.list(max).iter().filter_map(Field::table).collect())
    }

    /// Reports a mistake about `key`: where its value is, or where the table begins.
    pub(super) fn report(&self, key: &str, reason: Reason) {
        let span = self.table.get(key).map_or(self.span.clone(), Spanned::span);
        self.source.report(span.start, self.path_of(key), reason);
    }

    /// Refuses keys that a reader of another program's configuration might try, each with the reason.
    pub(super) fn refuse(&self, foreign: &[(&'static str, &'static str)]) {
        for (key, why) in foreign.iter().filter(|(key, _)| self.table.contains_key(*key)) {
            self.report(key, Reason::NotHere(why));
            self.refused.borrow_mut().push(key);
        }
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let (asked, refused) = (self.asked.into_inner(), self.refused.into_inner());
        let told = |key: &str| asked.contains(&key) || refused.contains(&key);
        for key in self.table.keys().filter(|key| !told(key.get_ref().as_ref())) {
            let path = match self.path.as_str() {
                "" => key.get_ref().to_string(),
                path => format!("{path}.{}", key.get_ref()),
            };
            self.source.report(key.span().start, path, Reason::UnknownKey { known: asked.join(", ") });
        }
    }
}

/// A value being read.
#[derive(Clone)]
pub(super) struct Field<'s, 'a> {
    source: &'s Source<'a>,
    path: String,
    value: &'s Spanned<DeValue<'a>>,
}

impl<'s, 'a> Field<'s, 'a> {
    /// Reports a mistake about this value.
    pub(super) fn report(&self, reason: Reason) {
        self.source.report(self.value.span().start, self.path.clone(), reason);
    }

    /// The line it is on.
    pub(super) fn line(&self) -> usize {
        self.source.line(self.value.span().start)
    }

    fn wrong_type(&self, expected: &'static str) {
        self.report(Reason::WrongType { expected, found: self.value.get_ref().type_str() });
    }

    /// A string.
    pub(super) fn text(&self) -> Option<&'s str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => {
                self.wrong_type("string");
                None
            }
        }
    }

    /// A string that `parse` understands.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&str) -> Result<T, Reason>) -> Option<T> {
        let text = self.text()?;
        parse(text).map_err(|reason| self.report(reason)).ok()
    }

    /// One of the words in `choices`.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        self.parse(|text| {
            choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| Reason::NotAChoice {
                value: text.to_owned(),
                allowed: choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", "),
            })
        })
    }

    /// A whole number in `range`.
    pub(super) fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            self.wrong_type("integer");
            return None;
        };
        let number =
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.report(Reason::OutOfRange { value: integer.to_string(), range });
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => {
                self.wrong_type("boolean");
                None
            }
        }
    }

    /// An array of at most `max` values; longer ones are reported and cut.
    pub(super) fn list(&self, max: usize) -> Vec<Field<'s, 'a>> {
        let DeValue::Array(array) = self.value.get_ref() else {
            self.wrong_type("array");
            return Vec::new();
        };
        if array.len() > max {
            self.report(Reason::TooMany { count: array.len(), max });
        }
        array.iter().take(max).map(|value| Field { source: self.source, path: self.path.clone(), value }).collect()
    }

    /// An array of at least one value.
    pub(super) fn filled_list(&self, max: usize) -> Vec<Field<'s, 'a>> {
        let list = self.list(max);
        if matches!(self.value.get_ref(), DeValue::Array(array) if array.is_empty()) {
            self.report(Reason::Empty);
        }
        list
    }

    /// Is it an array, of tables perhaps?
    pub(super) fn is_list(&self) -> bool {
        matches!(self.value.get_ref(), DeValue::Array(_))
    }

    /// A table.
    pub(super) fn table(&self) -> Option<Section<'s, 'a>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            self.wrong_type("table");
            return None;
        };
        let (source, path, span) = (self.source, self.path.clone(), self.value.span());
        Some(Section { source, path, table, span, asked: RefCell::default(), refused: RefCell::default() })
    }
}

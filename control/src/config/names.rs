//! Names that tables refer to each other by, and values that may appear once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::error::Reason;
use super::read::{Field, Section};
use super::value;

/// The names of one kind of table, in the order of the file.
pub(super) struct Names {
    kind: &'static str,
    known: HashMap<String, usize>,
    taken: Once,
}

impl Names {
    pub(super) fn new(kind: &'static str) -> Self {
        Self { kind, known: HashMap::new(), taken: Once::default() }
    }

    /// Reads the name of the table at `index`. Other tables may refer to it even if more of it is wrong.
    pub(super) fn declare(&mut self, index: usize, section: &Section) -> Option<String> {
        let field = section.required("name")?;
        let name = field.parse(value::name)?;
        self.taken.claim(&field, &name);
        self.known.entry(name.clone()).or_insert(index);
        Some(name)
    }

    /// The index of the table that `field` names.
    pub(super) fn resolve(&self, field: &Field) -> Option<usize> {
        field.parse(|name| {
            self.known.get(name).copied().ok_or_else(|| Reason::NoSuch { kind: self.kind, name: name.to_owned() })
        })
    }
}

/// Values that may appear once.
#[derive(Default)]
pub(super) struct Once {
    lines: HashMap<String, usize>,
}

impl Once {
    /// Reports `value` at `field` when it was claimed before.
    pub(super) fn claim(&mut self, field: &Field, value: &impl ToString) {
        match self.lines.entry(value.to_string()) {
            Entry::Occupied(first) => {
                field.report(Reason::Duplicate { value: first.key().clone(), first_line: *first.get() });
            }
            Entry::Vacant(free) => {
                free.insert(field.line());
            }
        }
    }
}

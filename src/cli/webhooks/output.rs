//! What is printed.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use crate::webhook::{
    shown,
    store::{Delivery, view},
};

/// Lines.
pub(super) type Printed = Vec<String>;

pub(super) fn print(lines: Printed) -> ExitCode {
    let mut text = lines.join("\n");
    text.push('\n');
    // a reader that left early wants no more
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// A line for each delivery, in columns; text of receivers is escaped.
pub(super) fn table(deliveries: &[Delivery]) -> Printed {
    if deliveries.is_empty() {
        return vec!["none".to_owned()];
    }
    let head = ["EVENT", "AT", "RECEIVER", "CALL'S UUID", "NO", "TYPE", "STATE", "TRY", "STATUS", "ERROR"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(deliveries.iter().map(|one| {
        [
            one.event.to_string(),
            view::time(one.at),
            one.endpoint.clone(),
            one.uuid.to_string(),
            one.seq.to_string(),
            one.kind.clone(),
            one.state.to_string(),
            one.attempt.to_string(),
            one.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            one.error.as_deref().map_or_else(|| "-".to_owned(), shown::line),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
